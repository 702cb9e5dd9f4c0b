"""Get photos from the network for prepare.py: resumed where it was cut, checked, read in place.

What is downloaded stays in the cache folder, as an archive that is never unpacked.
"""

import collections
import errno
import gzip
import hashlib
import http.client
import io
import os
import shutil
import tarfile
import time
import zipfile
from pathlib import Path, PureWindowsPath
from urllib.request import Request, url2pathname, urlopen

import CatDogClassifier as program
from CatDogClassifier import CatDogError, Image, UsageError, np
from dataset import labels

DIGITS = "keras.datasets.mnist"
MICROSOFT = "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F"
PHOTOS_URL = f"{MICROSOFT}/kagglecatsanddogs_5340.zip"
DIGITS_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
OTHERS = "caltech-101"  # Fei-Fei et al. 2004, CC BY 4.0
OTHERS_URL = "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip"
PETS = {"dalmatian", "wild_cat", "cougar_body", "cougar_face", "leopards", "garfield", "snoopy"}
MAX_OTHERS = 1_000_000_000  # bytes of its photos, unpacked in memory
SHA256 = {  # by which others know them
    PHOTOS_URL: "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
    DIGITS_URL: "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
}
ATTEMPTS, PROGRESS = 5, 1_000_000  # a download ends with so many cuts in a row before so many bytes
AGAIN = "Run the same command again"
BY_HAND = "By hand: get it with a browser, then add --url file:///FOLDER/FILE to the same command"


def check_room(needs):
    """Raise CatDogError unless {folder: bytes} can be written, whether there already or not."""
    needed = collections.Counter()  # of each disk: it may be one for all
    for folder, size in needs.items():
        folder = Path(folder).absolute()
        there = next(path for path in (folder, *folder.parents) if path.exists())
        writable = there.is_dir() and os.access(there, os.W_OK)
        free = shutil.disk_usage(there).free if writable else -1
        needed[disk := there.stat().st_dev] += size
        if free < needed[disk]:
            problem = f"{folder} needs room for {needed[disk] / 1e6:.1f} MB, but {there} "
            problem += f"has {free / 1e6:.1f} MB" if writable else "takes no new files"
            raise CatDogError(problem, "Name another folder, for the cache with XDG_CACHE_HOME")


def size_of(path):
    """The size of a file in bytes, 0 where there is none."""
    return os.path.getsize(path) if os.path.exists(path) else 0


def append(answer, part, start, total, console):
    """Write an HTTP answer into a file from `start` on. Raises OSError, HTTPException."""
    done, started = start, time.monotonic()
    with open(part, "r+b" if start else "wb") as file:
        file.seek(start)
        while chunk := answer.read1(1 << 18):
            file.write(chunk)
            done += len(chunk)
            console.bar("downloading", done, total, started, f"{done / 1e6:.1f} MB", start)


def receive(url, part, dataset, console):
    """Ask once for the rest of a download; True if the file is whole now, False if it was cut.

    Raises CatDogError, also where the server sends nothing, or something else.
    """
    before = size_of(part)
    headers = {"User-Agent": program.PROGRAM} | ({"Range": f"bytes={before}-"} if before else {})
    try:
        with urlopen(Request(url, headers=headers), timeout=30) as answer:
            sent = answer.headers.get("Content-Range", "none") if answer.status == 206 else ""
            if sent and not sent.startswith(f"bytes {before}-"):
                raise ValueError("the server sent another part than it was asked for")
            start = before if sent else 0  # or else it sends the whole file again
            total = int(sent.rpartition("/")[2] or answer.headers.get("Content-Length") or 0)
            check_room({part.parent: total - start, dataset: 1.1 * total})
            append(answer, part, start, total, console)
        return size_of(part) >= total
    except (OSError, http.client.HTTPException, ValueError) as error:
        if getattr(error, "code", 0) == 416:  # all is here, or more: then that is another file
            whole = error.headers.get("Content-Range") == f"bytes */{before}"
            if not whole:
                part.unlink(missing_ok=True)
            return whole
        if getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CatDogError(f"cannot write {part}: {program.reason(error)}", AGAIN) from None
        if size_of(part) > before:
            return False
        why = program.reason(error).strip("<>")  # <urlopen error ...>
        raise CatDogError(f"cannot download {url}: {why}", AGAIN if before else BY_HAND) from None


def download(url, archive, dataset, console):
    """Download a file in as many parts as it takes. Raises CatDogError."""
    part = archive.with_name(archive.name + ".part")
    size, cuts, vain = size_of(part), 0, 0  # vain: those in a row that brought little
    while not receive(url, part, dataset, console):
        before, size = size, size_of(part)
        cuts, vain = cuts + 1, vain + 1 if size - before < PROGRESS else 0
        if vain == ATTEMPTS:
            problem = f"{url}: {ATTEMPTS} connections in a row broke before {PROGRESS / 1e6:g} MB"
            raise CatDogError(f"{problem}; there are {size / 1e6:.1f} MB in all now", AGAIN)
    os.replace(part, archive)
    if cuts:
        console.say(f"The connection was cut {cuts} time{'s' * (cuts > 1)}.")


def fetch(url, dataset, console):
    """The path of an archive, downloaded once. Raises UsageError, CatDogError."""
    if url.startswith("file:///") and "%00" not in url:
        return Path(url2pathname(url.removeprefix("file://")))
    if not url.startswith(("https://", "http://")):
        raise UsageError(f"--url {url} must begin with https://, http:// or file:///")
    cache = program.cache_folder()
    archive = cache / f"{program.digest(url)[:32]}.zip"
    if not archive.exists():
        check_room({cache: 0, dataset: 0})
        cache.mkdir(parents=True, exist_ok=True)
        console.say(f"Downloading {url}; stopped, it resumes where it was.")
        download(url, archive, dataset, console)
    console.say(f"The archive stays in {cache}, where you may remove it.")
    return archive


def discard(archive):
    """Remove an archive that is of no use, but only from our cache; what to do next."""
    if archive.parent != program.cache_folder():
        return "Get it anew"
    archive.unlink(missing_ok=True)
    return AGAIN


def verify(archive, url, sha256, console):
    """Raise CatDogError unless an archive has this SHA-256; without one, warn if it is unknown."""
    with program.open_regular(archive) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 and found != sha256.lower():
        discard(archive)
        raise CatDogError(f"{url} is not what --sha256 says, but {found}", "Nothing was unpacked")
    if not sha256 and found != SHA256.get(url, found):
        console.warn(f"Not the archive that is known: it has {found} (--sha256 insists on one).")


def archive_rows(url, members):
    """The photos among the members of a zip archive as [(name, class)], see `infer_labels`.

    Raises CatDogError where a path would leave its folder: who does that is not to be trusted.
    """
    endings, photos = Image.registered_extensions(), {}  # what ends otherwise is a licence, or so
    for member in members:
        path = PureWindowsPath(member.filename)  # knows both slashes, and drives
        if any(part == ".." or PureWindowsPath(part).anchor for part in path.parts):
            problem = f"{url} holds a path that leaves its folder: {member.filename}"
            raise CatDogError(problem, "Nothing was unpacked")
        hidden = any(map(program.is_system_file, path.parts))
        if path.suffix.lower() in endings and not (member.is_dir() or hidden):
            photos[member.filename] = path.parts
    # PetImages/ around all photos is no class, and neither are folders within Cat/ and Dog/.
    around = len(os.path.commonprefix([path[:-1] for path in photos.values()]))
    files = [(name, photos[name][around:]) for name in program.natural_order(photos)]
    files = [(name, path[0] if path[1:] else "", path[-1]) for name, path in files]
    return labels.infer_labels(files)


def read_photos_archive(archive, url):
    """A zip archive of photos: [(name, class)], and a function that opens one. CatDogError."""

    def opening(name, limit):
        if zipped.getinfo(name).file_size > limit:
            raise OSError(errno.EFBIG, f"more than {limit / 1e6:.0f} MB", name)
        try:
            return io.BytesIO(zipped.read(name))
        except Exception as error:  # zipfile, zlib, bz2 and lzma each raise their own
            raise CatDogError(f"{url} is damaged at {name}: {error}", discard(archive)) from None

    try:
        zipped = zipfile.ZipFile(archive)
    except Exception as error:  # BadZipFile, OSError, ValueError, struct.error, ...
        raise CatDogError(f"{url} is no readable zip archive: {error}", discard(archive)) from None
    return archive_rows(url, zipped.infolist()), opening


def read_others_archive(archive, url):
    """The photos of Caltech-101 but for what is like cats and dogs: [names], what opens one.

    They lie in a folder per kind, in a tar archive that is compressed within the zip archive.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:  # in which macOS has left its ._ files as well
            (inner,) = [n for n in zipped.namelist() if n.endswith("/101_ObjectCategories.tar.gz")]
            with gzip.open(zipped.open(inner)) as file:
                content = file.read(MAX_OTHERS)
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as packed:
            found = {item.name: item for item in packed if item.name.endswith(".jpg")}
        names = program.natural_order(
            name for name in found if Path(name).parent.name.lower() not in PETS
        )
        if not names:
            raise ValueError("it holds no photos")
    except Exception as error:  # zipfile, tarfile and gzip raise all kinds
        raise CatDogError(f"{url} is not Caltech-101: {error}", discard(archive)) from None

    def opening(name, limit):
        start, size = found[name].offset_data, found[name].size
        if size > limit:
            raise OSError(errno.EFBIG, f"more than {limit / 1e6:.0f} MB", name)
        return io.BytesIO(content[start : start + size])

    return names, opening


def read_digits_archive(archive, url):
    """`read_photos_archive` for digits; those meant for testing are last in their class."""
    try:
        with np.load(archive) as arrays:
            parts = [[arrays[f"{kind}_train"], arrays[f"{kind}_test"]] for kind in "xy"]
        pixels, digits = map(np.concatenate, parts)  # (70000, 28, 28) uint8, (70000,)
        rows = [(f"{i:05}.png", str(int(digit))) for i, digit in enumerate(digits)]
    except Exception as error:  # NumPy and zipfile raise all kinds
        raise CatDogError(f"{url} holds no digits: {error}", discard(archive)) from None

    def opening(name, limit):
        file = io.BytesIO()
        Image.fromarray(pixels[int(Path(name).stem)]).save(file, format="png")
        return io.BytesIO(file.getvalue())

    return rows, opening
