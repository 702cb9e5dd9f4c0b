"""Rooms 4 and 13: whatever lies in a folder, every file ends as an answer or as one line, and nothing good is lost."""

import collections
import csv
import io
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

import CatDogClassifier as program
from conftest import REPO, make_dataset, python, tint

SIZE = 24
FORMATS = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp", "WEBP": ".webp"}
MODES = {"JPEG": ("L", "RGB", "CMYK"), "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "GIF": ("1", "L", "P", "RGB"),
         "BMP": ("1", "L", "P", "RGB", "RGBA"), "WEBP": ("RGB", "RGBA", "L")}


def encoded(image, kind, **options):
    """An image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(rng, width=48, height=40):
    """A little picture with an outline and detail."""
    image = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    ImageDraw.Draw(image).ellipse([8, 6, 30, 30], fill=tuple(rng.integers(0, 256, 3).tolist()), outline="black")
    return image


def mutate(rng, content):
    """The content, damaged in one of seven ways."""
    content, length = bytearray(content), len(content)
    start, stop = sorted(rng.integers(0, length, 2).tolist())
    way = rng.integers(7)
    if way == 0:
        for place in rng.integers(0, length, rng.integers(1, 20)):
            content[place] = rng.integers(256)
    elif way == 1:
        content[rng.integers(length)] ^= 1 << rng.integers(8)
    elif way == 2:
        del content[start:]
    elif way == 3:
        del content[start:stop]
    elif way == 4:
        content[start:start] = content[start : min(stop, start + 500)]
    elif way == 5:
        content[start : start + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\x01"])
    else:
        content[start:stop] = rng.integers(0, 256, stop - start, dtype=np.uint8).tobytes()
    return bytes(content)


def outcome(path):
    """The photo, or the reason as one line; nothing else may come out, and not late."""
    started = time.monotonic()
    try:
        result = program.read_photo(path, SIZE)
        assert result.shape == (SIZE, SIZE, 3)
        assert result.dtype == np.uint8
    except program.PhotoError as refusal:
        result = str(refusal)
        assert result
        assert "\n" not in result
    assert time.monotonic() - started < 10, path
    return result


@pytest.mark.parametrize("kind", FORMATS)
def test_4000_mutants_of_each_format_are_read_or_refused(tmp_path, kind):
    rng, path, seen = np.random.default_rng(list(kind.encode())), tmp_path / "mutant", {"read": 0, "refused": 0}
    for i in range(4000):
        if i % 50 == 0:
            mode = MODES[kind][i // 50 % len(MODES[kind])]
            image = scene(rng).convert("L" if mode == "I;16" else mode)
            image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image
            whole = encoded(image, kind, **({"exif": oriented(1 + i // 50 % 8)} if kind != "GIF" and kind != "BMP" else {}))
        mutant = mutate(rng, whole)
        path.write_bytes(with_checksums(mutant) if kind == "PNG" and i % 4 else mutant)
        seen["refused" if isinstance(outcome(path), str) else "read"] += 1
    assert min(seen.values()) > 60, seen  # the mutants are neither all harmless nor all hopeless


def with_checksums(png):
    """A damaged PNG with the right checksum in every chunk, as an attacker would make it: so more of it is decoded."""
    parts, place = [png[:8]], 8
    while place + 12 <= len(png):
        length = int.from_bytes(png[place : place + 4], "big")
        kind, content = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        parts.append(png[place : place + 4] + kind + content + zlib.crc32(kind + content).to_bytes(4, "big"))
        place += 12 + length
    return b"".join(parts)


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def chunk(kind, content):
    """One chunk of a PNG file."""
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def png_bomb(width, height, colour=2):
    """A PNG of a few bytes that says it has so many pixels."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, colour, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def text_bomb(count):
    """A PNG with compressed texts of 10 MB each."""
    whole = encoded(Image.new("L", (8, 8)), "PNG")
    return whole[:33] + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(10_000_000))) * count + whole[33:]


def hostile_files(rng):
    """Yield (name, content) of more than 1,068 files of all kinds of trouble; seeded."""
    number = itertools.count()
    for kind, ending in FORMATS.items():
        for mode in MODES[kind]:
            image = scene(rng).convert("L" if mode == "I;16" else mode)
            for orientation in range(10) if kind not in ("GIF", "BMP") else (1,):
                yield f"{next(number)}-{mode.replace(';', '')}{ending}", encoded(
                    image, kind, **({} if kind in ("GIF", "BMP") else {"exif": oriented(orientation)}))
        whole = encoded(scene(rng), kind)
        for wrong in (".jpg", ".png", ".txt", ".heic", "", ".jpg.exe"):
            yield f"{next(number)}-{kind}{wrong}", whole
        for cut in range(1, 49):
            yield f"{next(number)}-cut{ending}", whole[: len(whole) * cut // 50]
        for _ in range(100):
            yield f"{next(number)}-mutant{ending}", mutate(rng, whole)
        yield f"{next(number)}-trailing{ending}", whole + rng.bytes(3000)
        yield f"{next(number)}-leading{ending}", b"\0" + whole
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    for kind in ("GIF", "WEBP", "PNG"):
        yield f"{next(number)}-moving{FORMATS[kind]}", encoded(frames[0], kind, save_all=True, append_images=frames[1:] * 50)
    for side in (10_001, 20_000, 60_000, 2**31 - 1):
        yield f"{next(number)}-bomb.png", png_bomb(side, side)
        yield f"{next(number)}-strip.png", png_bomb(side, 1)
        yield f"{next(number)}-bomb.bmp", encoded(Image.new("L", (1, 1)), "BMP").replace(
            (1).to_bytes(4, "little") * 2, side.to_bytes(4, "little") * 2, 1)
        yield f"{next(number)}-bomb.gif", b"GIF89a" + min(side, 65535).to_bytes(2, "little") * 2 + b"\xf0\0\0" + bytes(6) + b","
    for count in (1, 20):
        yield f"{next(number)}-text.png", text_bomb(count)
    for exif in (b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0MM\0*\xff\xff\xff\xff", rng.bytes(500)):
        yield f"{next(number)}-exif.jpg", encoded(scene(rng), "JPEG", exif=exif)
    for content in (b"", b"\0", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBP",
                    b"%PDF-1.4", b"<svg/>", b"MZ", b"PK\x03\x04", b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run", b"P6 9999999 9999999 255\n",
                    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"II*\0\x08\0\0\0", b"<html>404</html>"):
        for ending in (".jpg", ".png", ".heic", ".webp"):
            yield f"{next(number)}-nothing{ending}", content
    for i in range(100):
        yield f"{next(number)}-noise{list(FORMATS.values())[i % 5]}", rng.bytes(int(rng.integers(1, 5000)))


def test_more_than_1068_hostile_files_are_read_or_refused_and_the_good_ones_among_them_are_exact(tmp_path):
    rng, good = np.random.default_rng(1068), {}
    names = []
    for name, content in hostile_files(rng):
        (tmp_path / name).write_bytes(content)
        names.append(name)
        if len(names) % 20 == 0:  # an untouched photo of exactly the wanted size: its pixels must come out
            pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            path = tmp_path / f"{len(names)}-good.png"
            Image.fromarray(pixels).save(path)
            good[str(path)] = pixels
    assert len(names) >= 1068
    results = {path: outcome(path) for path in program.list_photos(tmp_path)}
    assert len(results) == len(names) + len(good)
    assert all(np.array_equal(results[path], pixels) for path, pixels in good.items())
    refused = sum(isinstance(result, str) for result in results.values())
    assert 300 < refused < len(results) - 300
    again = dict(program.read_photos(results, SIZE))  # in threads, as the program does it: the same
    assert {path: isinstance(result, str) for path, result in results.items()} == {
        path: isinstance(result, program.PhotoError) for path, result in again.items()}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux counts it")
def test_photos_of_the_largest_size_allowed_take_the_memory_of_one_even_many_at_once(tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGBA", (11_000, 9_000)).save(path, compress_level=1)
    code = f"""import warnings, CatDogClassifier as p
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
warnings.simplefilter("ignore")
p.os.cpu_count = lambda: 4
most = [peak()]
for count in (1, 4):
    assert all(photo.shape == (24, 24, 3) for _, photo in p.read_photos([{str(path)!r}] * count, 24))
    most.append(peak())
print(most[1] - most[0], most[2] - most[0])"""
    one, four = map(int, python("-c", code, text=True).stdout.split())
    assert 0 < four < 1.2 * one


def progressive_bomb(count):
    """A progressive JPEG that goes over its picture again and again."""
    whole = encoded(scene(np.random.default_rng(3)), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


def test_a_jpeg_of_endless_scans_is_refused_and_a_usual_progressive_one_is_read(tmp_path):
    for count, refused in ((1, False), (1000, True)):
        (tmp_path / "x.jpg").write_bytes(progressive_bomb(count))
        assert (outcome(tmp_path / "x.jpg") == "too many scans: it would take forever") if refused else isinstance(
            outcome(tmp_path / "x.jpg"), np.ndarray)


def test_a_file_too_large_for_a_photo_is_refused_unread(tmp_path):
    whole = encoded(scene(np.random.default_rng(3)), "WEBP")
    (tmp_path / "x.webp").write_bytes(whole)
    os.truncate(tmp_path / "x.webp", 600_000_000)  # takes no room
    assert outcome(tmp_path / "x.webp") == "cannot be read: more than 500 MB"


def test_a_bomb_as_the_first_photo_of_a_training_is_left_out_like_any_other(tmp_path, capsys):
    data = make_dataset(tmp_path / "data", {"train": 10, "validation": 2})
    (data / "train" / "cat" / "aaa.png").write_bytes(png_bomb(60_000, 60_000))
    classifier = program.CatDogClassifier(weights=str(tmp_path / "net.h5"))
    classifier.load_data(data)
    assert "aaa.png: too large" in capsys.readouterr().err


@pytest.fixture
def archive(tmp_path):
    """A small copy of Microsoft's archive with all its oddities: PetImages/{Cat,Dog}/N.jpg."""
    rng, folder = np.random.default_rng(666), tmp_path / "PetImages"
    for label in ("Cat", "Dog"):
        (folder / label).mkdir(parents=True)
        for number in range(60):
            tint(label.lower(), rng).save(folder / label / f"{number}.jpg")
        (folder / label / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(500))
        whole = encoded(tint(label.lower(), rng), "JPEG")
        for number in range(60, 66):  # no JFIF header: APP0 cut out
            length = int.from_bytes(whole[4:6], "big")
            assert whole[6:10] == b"JFIF"
            (folder / label / f"{number}.jpg").write_bytes(whole[:2] + whole[4 + length :])
        for number in range(66, 72):
            (folder / label / f"{number}.jpg").write_bytes(whole + rng.bytes(2226))
        tint(label.lower(), rng).save(folder / label / "72.jpg", "BMP")
    (folder / "Cat" / "666.jpg").write_bytes(b"")
    (folder / "Dog" / "11702.jpg").write_bytes(rng.bytes(900))
    return folder


def test_of_an_archive_like_microsofts_exactly_the_two_undecodable_photos_are_lost_and_named(archive, tmp_path, capsys):
    data = tmp_path / "pets"
    result = program.prepare_dataset(archive, data, (0.5, 0.5, 0.0), program.Console(quiet=True))
    assert [os.path.basename(path) for path in result["skipped"]] == ["666.jpg", "11702.jpg"]
    kept, expected = 0, 2 * 73
    for split in ("train", "validation"):
        photos, _ = program.load_photos(program.list_split(data, split), SIZE, program.Console())
        kept += len(photos)
    assert "left out" not in capsys.readouterr().err
    assert kept == expected
    ignored = collections.Counter()
    answers = dict(program.read_photos(program.list_photos(archive, ignored=ignored), SIZE))
    unread = {os.path.basename(path) for path, photo in answers.items() if isinstance(photo, program.PhotoError)}
    assert (len(answers), unread, ignored["files"]) == (expected + 2, {"666.jpg", "11702.jpg"}, 2)


@pytest.fixture
def everything(tmp_path):
    """A folder with one of everything; returns it and the names of the good photos."""
    rng, folder, good = np.random.default_rng(7), tmp_path / "everything", {}
    (folder / "sub" / ".hidden").mkdir(parents=True)
    names = ["a.jpg", "no ending", "b.heic", "猫\u3000犬.png", "-rf.jpg", "sub/c.webp", "$(touch x).gif"]
    if sys.platform == "linux":
        names += ["two\nlines.jpg", "\x1b[31mred\x1b[0m.jpg", "\r\x1b[2Kcat 100.0 %.jpg", os.fsdecode(b"\xff\xfe.jpg"), "\u202egpj.exe"]
    for name in names:
        label = ("cat", "dog")[len(good) % 2]
        tint(label, rng).save(folder / name, "PNG")
        good[str(folder / name)] = label
    (folder / "empty.jpg").touch()
    (folder / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (folder / "text.txt").write_text("no photo")
    (folder / "bomb.png").write_bytes(png_bomb(60_000, 60_000))
    (folder / "cut.jpg").write_bytes(encoded(tint("cat", rng, 64), "JPEG")[:900])
    for name in (".DS_Store", "._a.jpg", "Thumbs.db", "sub/desktop.ini", "sub/.hidden/x.jpg"):
        (folder / name).write_bytes(b"x")
    if os.name != "nt":
        os.mkfifo(folder / "pipe.jpg")
        (folder / "broken link.jpg").symlink_to("nowhere.jpg")
        (folder / "round.jpg").symlink_to("round.jpg")
        (folder / "sub" / "up").symlink_to(folder, target_is_directory=True)
        (folder / "good link.jpg").symlink_to("a.jpg")
        (folder / "zero.jpg").symlink_to("/dev/zero")
        good[str(folder / "good link.jpg")] = good[str(folder / "a.jpg")]
        with socket.socket(socket.AF_UNIX) as server:
            before = os.getcwd()
            os.chdir(folder)  # the path of a socket must be short
            server.bind("socket.jpg")
            os.chdir(before)
    return folder, good


def entries(folder):
    """How many files, links, pipes ... there are: everything but real folders."""
    return sum(len(files) + sum(os.path.islink(os.path.join(where, name)) for name in folders) for where, folders, files in os.walk(folder))


@pytest.mark.parametrize("style", ["--json", "--csv", None])
def test_a_folder_with_one_of_everything_is_answered_and_the_summary_adds_up(everything, weights, style):
    folder, good = everything
    before = {path: os.lstat(path) for path in folder.rglob("*")}
    done = subprocess.run([sys.executable, REPO / "CatDogClassifier.py", "-d", folder, "--weights", weights, *filter(None, [style])],
                          capture_output=True, timeout=60)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 1
    assert "Traceback" not in err
    summary = err.splitlines()[-1]
    counts = [int(part.split()[0]) for part in summary.split(": ", 1)[1].replace(".heic 1, ", "").split(", ") if part[0].isdigit()]
    assert summary.startswith(f"{entries(folder)} files: ")
    assert sum(counts) == entries(folder), summary
    assert "5 hidden or system files ignored" in summary
    assert ".heic 1" in summary
    if style == "--json":
        rows = [json.loads(line) for line in out.splitlines()]
        assert {row["path"]: row["label"] for row in rows if row["error"] is None} == good
        assert all(row["error"] and "\n" not in row["error"] for row in rows if row["label"] is None)
    elif style == "--csv":
        rows = list(csv.DictReader(io.StringIO(out)))
        assert sorted(row["label"] for row in rows if not row["error"]) == sorted(good.values())
        assert {row["path"] for row in rows if not row["error"]} == set(map(program.printable, good))
    else:
        assert len(out.splitlines()) == len(good)
    if style != "--json":
        lines = (out + err).splitlines()
        assert not any(c < " " or c == "\x7f" or c == "\u202e" for line in lines for c in line)
        assert len(out.splitlines()) == len(good) if style is None else len(rows) + 1 == len(out.splitlines())
    after = {path: os.lstat(path) for path in folder.rglob("*")}
    assert {p: (s.st_size, s.st_mtime_ns, s.st_mode, s.st_ino) for p, s in before.items()} == {
        p: (s.st_size, s.st_mtime_ns, s.st_mode, s.st_ino) for p, s in after.items()}


@pytest.mark.skipif(shutil.which("strace") is None, reason="what is opened is seen by strace only")
def test_pipes_devices_and_sockets_are_not_even_opened(everything, tmp_path):
    folder, _ = everything
    code = f"import CatDogClassifier as p; print(sum(1 for _ in p.read_photos(p.list_photos({str(folder)!r}), 24)))"
    trace = tmp_path / "trace"
    done = subprocess.run(["strace", "-f", "-qq", "-e", "trace=open,openat", "-o", trace, sys.executable, "-c", code],
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(REPO)})
    if not trace.exists() or b"a.jpg" not in trace.read_bytes():
        pytest.skip(f"strace does not work here: {done.stderr.decode()[-200:]}")
    opened = trace.read_text(errors="replace")
    assert not any(name in opened for name in ("pipe.jpg", "socket.jpg", "/dev/zero", "zero.jpg"))


def test_files_that_vanish_or_change_while_they_are_read_are_left_out_and_counted(tmp_path, capsys, monkeypatch):
    data = make_dataset(tmp_path / "data", {"train": 20})
    read, gone = program.read_photo, {"cat.3.png": os.remove, "dog.7.png": lambda path: open(path, "wb").close()}

    def meanwhile(path, size):
        for name, act in gone.items():
            if os.path.basename(path) == name:
                act(path)
        return read(path, size)

    monkeypatch.setattr(program, "read_photo", meanwhile)
    photos, labels = program.load_photos(program.list_split(data, "train"), SIZE, program.Console())
    said = capsys.readouterr().err
    assert (len(photos), labels.sum()) == (38, 19)
    assert said.count("left out") == 2
    assert "cat.3.png: cannot be read: No such file" in said


def spoil(dataset, share, ending=".heic"):
    """Turn a share of the training photos of a dataset into something else."""
    photos = sorted((dataset / "train").rglob("*.png"))
    for path in photos[: round(share * len(photos))]:
        path.write_bytes(b"nothing")
        path.rename(path.with_suffix(ending))


def test_a_training_that_would_lose_too_many_photos_does_not_start_and_says_in_one_line_why(tmp_path, run):
    data = make_dataset(tmp_path / "data", {"train": 20, "validation": 2})
    spoil(data, 0.125)
    code, out, err = run("--dataset", data, "--weights", tmp_path / "net.h5")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "5 of 40 photos cannot be read (.heic 5), the first: " in err
    assert "At most 10% may be lost" in err
    assert not (tmp_path / "net.h5").exists()


def test_a_tenth_of_the_photos_may_be_lost_and_d_never_gives_up(tmp_path, run, weights, capsys):
    data = make_dataset(tmp_path / "data", {"train": 20, "validation": 2})
    spoil(data, 0.1)
    photos, _ = program.load_photos(program.list_split(data, "train"), SIZE, program.Console())
    assert len(photos) == 36
    spoil(data, 0.9)
    capsys.readouterr()
    code, out, err = run("-d", data / "train", "--weights", weights)
    assert (code, len(out.splitlines())) == (1, 4)
    assert err.splitlines()[-1].startswith("40 files: ")
    assert "36 unreadable (.heic 36)" in err
