"""Make a dataset: copy photos into NEW/{train,validation,test}/{class}, none into two of them.

    python dataset/prepare.py SOURCE NEW       your photos: cat.0.jpg, dog.17.jpg, ... in a folder,
                                               or one folder per class, Cat/ and Dog/
    python dataset/prepare.py --download NEW   25,000 cats and dogs, 786 MB, for research
    python dataset/prepare.py keras.datasets.mnist NEW   70,000 digits, 11 MB

SOURCE is never changed, nothing is moved. Files that cannot be read are skipped and named, and so
are photos whose very pixels are in another folder of NEW. The same command completes a broken run.
"""

import argparse
import collections
import errno
import hashlib
import http.client
import io
import json
import math
import os
import re
import shlex
import shutil
import sys
import time
import zipfile
from pathlib import Path, PureWindowsPath
from urllib.request import Request, url2pathname, urlopen

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import CatDogClassifier as program  # noqa: E402 (it lies one folder up)
from CatDogClassifier import SPLITS, CatDogError, PhotoError, UsageError  # noqa: E402
from dataset import labels  # noqa: E402

SIDE = 150  # photos are compared at so many pixels a side, decoded exactly
NO_CLASSES = {*SPLITS, *program.SPLIT_ALIASES, "test1"}  # test1: Kaggle's photos without labels
DIGITS = "keras.datasets.mnist"
MICROSOFT = "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F"
PHOTOS_URL = f"{MICROSOFT}/kagglecatsanddogs_5340.zip"
DIGITS_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
SHA256 = {  # by which others know them
    PHOTOS_URL: "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
    DIGITS_URL: "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
}
ATTEMPTS, PROGRESS = 5, 1_000_000  # a download ends with so many cuts in a row before so many bytes

NEW_FOLDER = "Name a new folder"
AGAIN = "Run the same command again"
BY_HAND = "By hand: get it with a browser, then add --url file:///FOLDER/FILE to the same command"


# ==================================================================================================
# 1. Plan and copy: into a new folder, whole files only
# ==================================================================================================


def parse_split(text):
    """Photos per class, "1000,500,500", or shares, "0.8,0.1,0.1", as numbers. Raises UsageError."""
    try:
        train, validation, test = split = tuple(map(float if "." in text else int, text.split(",")))
        valid = train > 0 and validation > 0 and test >= 0
        valid = valid and (isinstance(train, int) or sum(split) < 1 + 1e-9)
    except ValueError:  # no numbers, or not three
        valid = False
    if not valid:
        fix = "Say --split 1000,500,500 (photos per class) or 0.8,0.1,0.1 (shares of all)"
        raise UsageError(f"--split {text} makes no sense", fix)
    return split


def split_ends(split, count):
    """How many photos of `count` lie before the ends of train, of validation and of test."""
    factor = count if isinstance(split[0], float) else 1
    return [math.floor(sum(split[:stop]) * factor + 1e-9) for stop in (1, 2, 3)]


def check_enough(name, photos, split, ends, usable, skipped):
    """Raise CatDogError unless so many photos fill a split, of shares all parts but the last."""
    needed = ends[0] + 1 if isinstance(split[0], float) else ends[-1]
    if 0 < ends[0] < ends[1] and usable >= needed:
        return
    problem = f"--split needs more photos of {name} than {len(photos)}, such as {photos[0]}"
    if skipped:
        path, why = next(iter(skipped.items()))
        problem += f"; {len(skipped)} were skipped, for one {os.path.basename(path)}: {why}"
    raise CatDogError(problem, "Add some, move that class away, or name another --split")


def plan_class(name, photos, digests, split, owners):
    """What becomes of the photos of a class: ({path in NEW: path}, {path skipped: why}).

    They fill train, then validation, then test. `digests` yields (path, digest or PhotoError);
    `owners`, {digest: path in NEW}, gets those of this class. Raises CatDogError.
    """
    plan, skipped = {}, {}
    if isinstance(split[0], float):  # shares are those of what can be read
        digests = list(digests)
        skipped = {path: str(found) for path, found in digests if isinstance(found, PhotoError)}
    ends = split_ends(split, len(photos) - len(skipped))
    for path, found in digests:
        if len(plan) == ends[-1]:
            break
        part = SPLITS[sum(len(plan) >= end for end in ends)]
        target = Path(part, name, os.path.basename(path))
        if isinstance(found, PhotoError):
            skipped[path] = str(found)
        elif owners.setdefault(found, target).parent != target.parent:
            skipped[path] = f"the same photo as {owners[found]}"
        elif target in plan:
            raise CatDogError(f"{plan[target]} and {path} would both become {target}", "Rename one")
        else:
            plan[target] = path
    check_enough(name, photos, split, ends, len(plan), skipped)
    return plan, skipped


def plan_dataset(classes, opening, split, console):
    """What becomes of {class: [paths]}, see `plan_class`. Raises CatDogError."""

    def pixels_digest(path, size):
        with program.open_image(path, opening) as (image, file):
            return program.digest(program.decode(image, file, size, exact=True))

    for name, photos in classes.items():  # all of them before the first photo is read
        check_enough(name, photos, split, split_ends(split, len(photos)), len(photos), {})
    plan, skipped, owners = {}, {}, {}
    for name, photos in classes.items():
        digests = program.read_photos(photos, SIDE, pixels_digest)
        total = split_ends(split, len(photos))[-1]
        digests = console.watch(f"reading {program.escape_control(name)}", digests, total)
        placed, left_out = plan_class(name, photos, digests, split, owners)
        plan, skipped = plan | placed, skipped | left_out
    console.clear()
    return plan, skipped


def check_new(dataset):
    """Raise CatDogError unless a folder is new, or may be what a broken run has left."""
    names = os.listdir(dataset) if os.path.lexists(dataset) else []
    if any(name not in SPLITS and not program.is_system_file(name) for name in names):
        raise CatDogError(f"{dataset} already holds other files", NEW_FOLDER)


def check_source(source, classes, dataset):
    """Raise CatDogError unless {class: [paths]} can become a dataset, and not in their folder."""
    for name in NO_CLASSES & set(classes):
        raise CatDogError(f"{source} holds {name}, which is no class", "Name SOURCE/train instead")
    labels.check_classes(source, classes, "It takes cat.0.jpg, dog.0.jpg, ... or Cat/ and Dog/")
    for folder in (Path(dataset, part, name) for part in SPLITS for name in classes):  # or links
        if Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(source)):
            raise CatDogError(f"{folder} lies in {source}, which is never changed", NEW_FOLDER)


def files_to_copy(plan, opening, dataset):
    """What of a plan is not in the dataset yet. Raises CatDogError if anything else is."""
    walk = os.walk(dataset, followlinks=True)
    found = {Path(folder, name).relative_to(dataset) for folder, _, names in walk for name in names}
    for path in sorted(found - set(plan)):
        if not program.is_system_file(path.name):
            raise CatDogError(f"{dataset} already holds other files: {path}", NEW_FOLDER)
    for target in found & set(plan):
        path = Path(dataset, target)
        with opening(plan[target], program.MAX_BYTES) as photo, program.open_regular(path) as copy:
            if photo.read() != copy.read():
                raise CatDogError(f"{dataset} already holds another {target}", NEW_FOLDER)
    return {target: photo for target, photo in plan.items() if target not in found}


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


def copy_whole(opening, photo, path):
    """Copy a photo; its file appears under its name when it is whole. Raises CatDogError."""
    part = path.with_name(".part")  # a short name fits wherever that of the photo does
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # a killed run has left it; or it is a link
        with opening(photo, program.MAX_BYTES) as file:
            part.write_bytes(file.read())
        os.replace(part, path)
    except OSError as error:
        raise CatDogError(f"cannot copy to {path}: {program.reason(error)}", AGAIN) from None
    finally:
        part.unlink(missing_ok=True)


def fill_dataset(source, rows, opening, dataset, split, console):
    """Copy photos, [(path, class or None)], from a folder or a URL into a dataset.

    `opening(path, limit)` opens one. Returns the count of photos in each split, of those that were
    not there yet ("copied"), and {path: why} of the "skipped". Raises CatDogError.
    """
    classes = labels.by_class(rows)
    check_source(source, classes, dataset)
    plan, skipped = plan_dataset(classes, opening, split, console)
    missing = files_to_copy(plan, opening, dataset)
    check_room({dataset: sum(map(size_of, missing.values()))})  # of archives `fetch` sees to that
    for target, photo in console.watch("copying", missing.items(), len(missing)):
        copy_whole(opening, photo, Path(dataset, target))
    counts = {part: sum(target.parts[0] == part for target in plan) for part in SPLITS}
    skipped |= {path: "in no class" for path, name in rows if not name}
    if os.path.isdir(source):
        skipped = {os.path.relpath(path, source): why for path, why in skipped.items()}
    return {**counts, "copied": len(missing), "skipped": skipped}


# ==================================================================================================
# 2. Download: resumed where it was cut, checked, kept in the cache folder, read in place
# ==================================================================================================


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

    Raises CatDogError where the server sends nothing, or something else; CatDogError.
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
    archive = cache / f"{program.digest(os.fsencode(url))[:32]}.zip"
    if not archive.exists():
        check_room({cache: 0, dataset: 0})
        cache.mkdir(parents=True, exist_ok=True)
        console.say(f"Downloading {program.escape_control(url)}; stopped, it resumes where it was.")
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
    """Raise CatDogError unless an archive has this SHA-256; without one, warn if it is new."""
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


def read_digits_archive(archive, url):
    """The same of an archive of digits; those meant for testing are last in their class."""
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


# ==================================================================================================
# 3. Command line
# ==================================================================================================


def build_parser():
    """The command line; its description is the docstring of this file."""
    usage = "python dataset/prepare.py [SOURCE | --download] NEW [options]"
    parser = program.Parser(usage=usage, description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("folders", nargs="*", metavar="SOURCE NEW", help="your photos, and the folder to make")
    add("--download", action="store_true", help="make NEW of photos from the network")
    split = "photos of each class, or shares, to train, validate and test (default: %(default)s)"
    add("--split", type=parse_split, default="0.8,0.1,0.1", metavar="T,V,T", help=split)
    add("--url", help="take the download from there, https://... or file:///...")
    add("--sha256", metavar="HEX", help="what the download must be, or else nothing is unpacked")
    add("--json", action="store_true", help="print the result as JSON")
    add("-q", "--quiet", action="store_true", help="print results, skipped photos and errors only")
    return parser


def make_dataset(source, dataset, arguments, console):
    """Make a dataset of a folder, of the digits, or, of None, of a download: see `fill_dataset`."""
    check_new(dataset)  # before anything is read or downloaded
    url, sha256, split = arguments.url, arguments.sha256, arguments.split
    is_digits = source == DIGITS and not os.path.exists(DIGITS)
    if source is not None and not is_digits:
        if (url, sha256) != (None, None):
            raise UsageError("--url and --sha256 go with --download")
        if not os.path.isdir(source):
            raise CatDogError(f"there is no folder {source}", "SOURCE is the one with your photos")
        rows = labels.list_labelled(source)
        return fill_dataset(source, rows, program.open_regular, dataset, split, console)
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise UsageError("--sha256 must be 64 digits of 0-9 and a-f")
    url = url or (DIGITS_URL if is_digits else PHOTOS_URL)
    archive = fetch(url, dataset, console)
    verify(archive, url, sha256, console)
    rows, opening = (read_digits_archive if is_digits else read_photos_archive)(archive, url)
    return fill_dataset(url, rows, opening, dataset, split, console)


def main(argv=None):
    """Make a dataset and print the result; the exit code."""
    arguments = build_parser().parse_intermixed_args(argv)
    console, escape = program.Console(arguments.quiet), program.escape_control
    if len(arguments.folders) != 2 - arguments.download:
        fix = f"{NEW_FOLDER}: python dataset/prepare.py SOURCE NEW, or --download NEW"
        raise UsageError("it is not clear where the photos are and where they shall go", fix)
    *source, dataset = arguments.folders
    result = make_dataset(source[0] if source else None, dataset, arguments, console)
    if arguments.json:
        print(json.dumps({"dataset": dataset, **result}))
        return 0
    for path, why in result["skipped"].items():
        console.warn(escape(f"skipped {path}: {why}"))
    counts = ", ".join(f"{result[part]} {part}" for part in SPLITS)
    skipped = f"; {len(result['skipped'])} skipped" if result["skipped"] else ""
    present = "" if result["copied"] else "; all were there already"
    print(f"{escape(dataset)}: {counts} photos{skipped}{present}")
    dataset = shlex.quote(escape(dataset))
    console.say(f"Train on them with: python CatDogClassifier.py --dataset {dataset}")
    return 0


if __name__ == "__main__":
    raise SystemExit(program.run_guarded(main))
