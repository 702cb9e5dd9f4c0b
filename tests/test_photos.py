"""Photos: listed, labelled, and each one read right or refused with a reason, whatever it is."""

import csv
import errno
import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

import CatDogClassifier as program
from CatDogClassifier import PhotoError, list_photos, list_split, read_photo, read_photos
from conftest import encoded, linux, make_dataset, posix, python, refusal, tint
from dataset import labels

HALVES = np.zeros((8, 8), np.uint8)
HALVES[:, 4:] = 255  # black left, white right
WIDE = 65535 // 255  # from 8 to 16 bits
Turn = Image.Transpose
QUIET = program.Console(quiet=True)


def saved(tmp_path, image, name="photo.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def listed(folder):
    return [os.path.relpath(path, folder).replace(os.sep, "/") for path in list_photos(folder)]


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# --- Listing and labels ---------------------------------------------------------------------------


def test_files_are_listed_recursively_in_numeric_order_without_system_files(tmp_path):
    long = [f"a{10**power + 1}b{10**power}.jpg" for power in range(0, 60, 3)]
    touch(tmp_path, "cat.10.jpg", "cat.2.jpg", "Cat.1.jpg", "sub/b.jpg", "cat.jpg", "noending")
    touch(tmp_path, ".DS_Store", "._cat.1.jpg", "Thumbs.db", "sub/.x/c.jpg", "sub/desktop.ini")
    touch(tmp_path, *long[::-1], "cat.02.jpg", "cat.002.jpg")  # of names that sort alike as well
    names = ["cat.002.jpg", "cat.02.jpg", "cat.2.jpg", "cat.10.jpg", "cat.jpg", "noending"]
    assert listed(tmp_path) == [*long, "Cat.1.jpg", *names, "sub/b.jpg"]


def test_a_folder_is_listed_no_sooner_than_its_photos_are_wanted(tmp_path):
    touch(tmp_path, "1/a.jpg", "2/b.jpg")
    photos = list_photos(tmp_path)
    assert next(photos) == str(tmp_path / "1" / "a.jpg")
    touch(tmp_path, "2/late.jpg")
    assert list(photos) == [str(tmp_path / "2" / "b.jpg"), str(tmp_path / "2" / "late.jpg")]


@posix
def test_a_cycle_of_links_ends_and_is_left_out_of_a_training(tmp_path, capsys):
    data = make_dataset(tmp_path, {"train": 2})
    (data / "train" / "cat" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert listed(data / "train" / "cat") == ["cat.0.png", "cat.1.png", "loop"]
    photos, _ = program.load_photos(list_split(data, "train"), 8, QUIET)
    assert len(photos) == 4
    assert "loop: cannot be read: a folder, not a file" in capsys.readouterr().err


@posix
def test_folders_may_lie_deeper_than_python_calls_functions(tmp_path):
    photo = os.path.join(tmp_path, *["a"] * 1500, "x.jpg")
    subprocess.run(["mkdir", "-p", os.path.dirname(photo)], check=True)
    Path(photo).touch()
    found = list(list_photos(tmp_path))
    subprocess.run(["rm", "-r", tmp_path / "a"], check=True)  # pytest gives up at this depth
    assert found == [photo]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch, capsys):
    data, scandir = make_dataset(tmp_path, {"train": 10}), os.scandir
    touch(data, "train/cat/closed/x.jpg")

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # the superuser may look into any folder
    closed = str(data / "train" / "cat" / "closed")
    assert closed in list_photos(data)
    with pytest.raises(PhotoError, match="cannot be read: Permission denied"):
        read_photo(closed, 8)
    photos, _ = program.load_photos(list_split(data, "train"), 8, QUIET)
    assert len(photos) == 20
    assert "closed: cannot be read: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["Cats/1.jpg", "DOG/a/2.jpg", "dogs/10.jpg", "Dogs/9.jpg"], {"cat": 1, "dog": 3}),
        (["cat.0.jpg", "Dog_7.png", "dog-8.webp", "stray.jpg"], {"cat": 1, "dog": 2}),
        (["cat.0.jpg", "dog.0.jpg", "emu/cat.1.jpg"], {"cat": 1, "dog": 1}),  # names decide
        (["IMG_1.jpg", "IMG_2.jpg", "emu/1.jpg", "yak/dog.2.jpg"], {"emu": 1, "yak": 1}),
    ],
)
def test_the_label_is_the_outermost_folder_or_what_numbered_names_say(tmp_path, names, classes):
    touch(tmp_path, *names)
    found = labels.by_class(labels.list_labelled(tmp_path))
    assert {name: len(paths) for name, paths in found.items()} == classes


def test_a_folder_of_a_split_is_a_class_whatever_its_case_or_plural(tmp_path):
    names = "Cats/1.jpg", "DOG/a/2.jpg", "dogs/10.jpg", "Dogs/9.jpg", "stray.jpg", "x/.git"
    touch(tmp_path / "VALID", *names)
    found = list_split(tmp_path, "validation").items()
    found = [(name, [os.path.basename(path) for path in paths]) for name, paths in found]
    assert found == [("cat", ["1.jpg"]), ("dog", ["2.jpg", "9.jpg", "10.jpg"])]


# --- Reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_png_mode_gives_the_same_black_and_white(tmp_path, mode):
    grey = Image.fromarray(HALVES)
    deep = Image.fromarray(HALVES.astype(np.uint16) * WIDE)
    photo = read_photo(saved(tmp_path, deep if mode == "I;16" else grey.convert(mode)), 8)
    assert photo.dtype == np.uint8
    assert np.array_equal(photo, np.repeat(HALVES[..., None], 3, axis=2))


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    photo = read_photo(saved(tmp_path, Image.fromarray(ramp)), 8)
    assert np.array_equal(photo[..., 0], ramp // 256)


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "RGBA"])
def test_transparency_lies_over_white(tmp_path, mode):
    image = Image.new("RGB", (8, 8), "black").convert(mode)
    image.paste((255, 0, 0) if mode == "RGB" else 99, (0, 0, 4, 8))
    if mode == "RGBA":
        image.putalpha(Image.fromarray(255 - HALVES))
    clear = {"RGB": {"transparency": (0, 0, 0)}, "RGBA": {}}.get(mode, {"transparency": 0})
    photo = read_photo(saved(tmp_path, image, **clear), 8)
    assert (photo[:, 4:] == 255).all()
    assert (photo[:, :4] == np.asarray(image.convert("RGB"))[:, :4]).all()


UNDO = (None, None, Turn.FLIP_LEFT_RIGHT, Turn.ROTATE_180, Turn.FLIP_TOP_BOTTOM, Turn.TRANSPOSE)
UNDO += (Turn.ROTATE_90, Turn.TRANSVERSE, Turn.ROTATE_270)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path, orientation):
    upright = Image.fromarray(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3))
    turn = UNDO[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    path = saved(tmp_path, stored, exif=oriented(orientation))
    assert np.array_equal(read_photo(path, 8), np.asarray(upright))


BROKEN = [b"garbage", b"MM\0*\0\0\0\x08\xff\xff", b"II*\0\xff\xff\xff\xff"]
OPTIONS = {"CMYK": {}, "progressive": {"progressive": True}}
OPTIONS |= {f"EXIF {i}": {"exif": b"Exif\0\0" + b} for i, b in enumerate(BROKEN)}


@pytest.mark.parametrize("case", [*OPTIONS, "PNG", "BMP", "GIF", "WEBP"])
def test_a_photo_keeps_its_colour_whatever_its_name_its_mode_or_a_broken_exif_block(tmp_path, case):
    path, mode = tmp_path / "photo.jpg", "CMYK" if case == "CMYK" else "RGB"
    image = Image.new("RGB", (16, 16), (200, 40, 90)).convert(mode)
    image.save(path, "JPEG" if case in OPTIONS else case, quality=100, **OPTIONS.get(case, {}))
    assert np.abs(read_photo(path, 8).astype(int) - (200, 40, 90)).max() <= 4


def test_an_animation_gives_its_first_frame(tmp_path):
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    path = saved(tmp_path, red, "photo.gif", save_all=True, append_images=[blue])
    assert read_photo(path, 8)[0, 0].tolist() == [255, 0, 0]


def test_squashed_to_a_square(tmp_path):
    wide = Image.fromarray(np.repeat(HALVES, 3, axis=1))
    photo = read_photo(saved(tmp_path, wide), 8)[..., 0]
    assert (photo[:, :3] == 0).all() and (photo[:, 5:] == 255).all()


def test_a_large_jpeg_decoded_small_looks_like_the_same_decoded_in_full(tmp_path):
    coarse = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((1600, 1200), Image.Resampling.BICUBIC)
    small = read_photo(saved(tmp_path, image, "photo.jpg", quality=95), 150).astype(int)
    full = np.asarray(image.resize((150, 150), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(small - full).mean() < 1.5


def test_reading_ahead_keeps_the_order_and_no_more_photos_than_promised(tmp_path):
    asked = []

    def paths():
        for number in range(300):
            path = tmp_path / f"{number}.png"
            if number != 100:
                Image.new("L", (8, 8), number % 256).save(path)
            asked.append(path)
            yield path

    for taken, (path, photo) in enumerate(read_photos(paths(), 8)):
        assert path == asked[taken] and len(asked) <= taken + 128
        right = isinstance(photo, PhotoError) if taken == 100 else photo[0, 0, 0] == taken % 256
        assert right, taken
    assert taken == 299


def test_real_photos_are_all_read(real):
    results = [photo for _, photo in read_photos(list_photos(real / "originals"), 150)]
    assert len(results) == 200
    assert {getattr(photo, "shape", photo) for photo in results} == {(150, 150, 3)}


# --- Hostile photos -------------------------------------------------------------------------------

SIZE = 24
FORMATS = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp", "WEBP": ".webp"}
MODES = {"JPEG": ["L", "RGB", "CMYK"], "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]}
MODES |= {"GIF": ["1", "L", "P", "RGB"], "BMP": ["1", "L", "P", "RGB", "RGBA"]}
MODES["WEBP"] = ["RGB", "RGBA", "L"]
PNG = b"\x89PNG\r\n\x1a\n"


def scene(rng, kind, mode="RGB", orientation=1, **options):
    """The file of a little picture with an outline and detail."""
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    image = coarse.resize((48, 40), Image.Resampling.BICUBIC)
    fill = tuple(rng.integers(0, 256, 3).tolist())
    ImageDraw.Draw(image).ellipse([8, 6, 30, 30], fill=fill, outline="black")
    deep = np.asarray(image.convert("L")).astype(np.uint16) * WIDE
    image = Image.fromarray(deep) if mode == "I;16" else image.convert(mode)
    options |= {} if kind in ("GIF", "BMP") else {"exif": oriented(orientation)}
    return encoded(image, kind, **options)


def mutate(rng, content):
    """The content, damaged in one of seven ways."""
    start, stop = sorted(rng.integers(0, len(content), 2).tolist())
    before, noisy = content[:start], bytearray(content)
    for place in rng.integers(0, len(content), rng.integers(1, 20)):
        noisy[place] = rng.integers(256)
    number = rng.choice([2**32 - 1, 0, 2**31 - 1, 1]).item().to_bytes(4, "big")
    ways = [
        bytes(noisy),
        before + bytes([content[start] ^ 1 << rng.integers(8)]) + content[start + 1 :],
        before,
        before + content[stop:],
        before + content[start : min(stop, start + 500)] + content[start:],
        before + number + content[start + 4 :],
        before + rng.bytes(stop - start) + content[stop:],
    ]
    return ways[rng.integers(7)]


def chunk(kind, content):
    """One chunk of a PNG file."""
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4)


def with_checksums(png):
    """A damaged PNG with the right checksum in every chunk: so more of it is decoded."""
    parts, place = [png[:8]], 8
    while place + 12 <= len(png):
        length = int.from_bytes(png[place : place + 4], "big")
        body = png[place + 4 : place + 8 + length]
        parts += [png[place : place + 4], body, zlib.crc32(body).to_bytes(4, "big")]
        place += 12 + length
    return b"".join(parts)


def outcome(path):
    """The photo, or the reason as one line; nothing else may come out."""
    try:
        result = read_photo(path, SIZE)
        assert (result.shape, result.dtype) == ((SIZE, SIZE, 3), np.uint8)
    except PhotoError as refusal:
        result = str(refusal)
        assert result and "\n" not in result
    return result


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_mutants_of_each_format_are_read_or_refused(tmp_path, kind, count=4000):
    rng, path, refused = np.random.default_rng(list(kind.encode())), tmp_path / "mutant", 0
    modes, turns = itertools.cycle(MODES[kind]), itertools.cycle(range(1, 9))
    for i in range(count):
        if i % 20 == 0:
            whole = scene(rng, kind, next(modes), next(turns))
        mutant = mutate(rng, whole)
        path.write_bytes(with_checksums(mutant) if kind == "PNG" and i % 4 else mutant)
        refused += isinstance(outcome(path), str)
    assert count / 50 < refused < count * 49 / 50  # neither all harmless nor all hopeless


def png_bomb(width, height):
    """A PNG of a few bytes that says it has so many pixels."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return PNG + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def jpeg_of_scans(count):
    """A progressive JPEG that goes over its picture again and again."""
    whole = scene(np.random.default_rng(3), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


NOTHING = (b"", b"\0", b"\xff\xd8", b"\xff\xd8\xff\xe0", PNG, b"GIF89a", b"BM", b"%PDF-1.4", b"MZ")
NOTHING += (b"RIFF\0\0\0\0WEBP", b"PK\x03\x04", b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run", b"<svg/>")
NOTHING += (b"P6 9999999 9999999 255\n", b"II*\0\x08\0\0\0", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
NOTHING += (b"<html>404</html>", b"just some text", PNG + bytes(40), b"GIF89a" + b"\xff" * 9)


def half_a_photo(kind):
    """The first half of a file, which must not be answered with the rest in grey."""
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(pixels), kind)
    return whole[: len(whole) // 2]


def hostile_files(rng):
    """Yield (ending, content) of all kinds of trouble."""
    for kind, ending in FORMATS.items():
        for mode, orientation in itertools.product(MODES[kind], range(10)):
            yield ending, scene(rng, kind, mode, orientation)
        whole = scene(rng, kind)
        yield from ((wrong, whole) for wrong in (".jpg", ".txt", ".heic", "", ".jpg.exe"))
        yield from ((ending, whole[: len(whole) * cut // 50]) for cut in range(1, 49))
        mutants = (mutate(rng, whole) for _ in range(50))
        yield from ((ending, with_checksums(m) if kind == "PNG" else m) for m in mutants)
        yield from ((ending, rng.bytes(int(rng.integers(1, 5000)))) for _ in range(20))
        yield from ((ending, content) for content in (whole + rng.bytes(3000), b"\0" + whole))
    for kind in ("GIF", "WEBP", "PNG"):
        frames = [Image.new("RGB", (48, 40), colour) for colour in ("blue", "green")]
        yield FORMATS[kind], scene(rng, kind, save_all=True, append_images=frames * 50)
    for side in (10_001, 20_000, 60_000, 2**31 - 1):
        yield from ((".png", png_bomb(side, height)) for height in (side, 1))
        dot, sides = encoded(Image.new("L", (1, 1)), "BMP"), side.to_bytes(4, "little") * 2
        yield ".bmp", dot.replace((1).to_bytes(4, "little") * 2, sides, 1)
        sides = min(side, 65535).to_bytes(2, "little") * 2
        yield ".gif", b"GIF89a" + sides + b"\xf0\0\0" + bytes(6) + b","
    whole = encoded(Image.new("L", (8, 8)), "PNG")
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(10_000_000)))  # 10 MB of text
    yield from ((".png", whole[:33] + text * count + whole[33:]) for count in (1, 20))
    for content in NOTHING:
        yield from ((ending, content) for ending in (".jpg", ".png", ".heic", ".webp"))


def test_among_hundreds_of_hostile_files_the_good_photos_come_out_exact(tmp_path):
    rng, good, count = np.random.default_rng(1068), {}, 0
    for count, (ending, content) in enumerate(hostile_files(rng), 1):
        (tmp_path / f"{count}{ending}").write_bytes(content)
        if count % 20 == 0:  # an untouched photo of exactly the wanted size
            pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            good[str(saved(tmp_path, Image.fromarray(pixels), f"{count}-good.png"))] = pixels
    results = {path: outcome(path) for path in list_photos(tmp_path)}
    assert len(results) == count + len(good) > 900
    assert all(np.array_equal(results[path], pixels) for path, pixels in good.items())
    refused = {path for path, result in results.items() if isinstance(result, str)}
    assert 300 < len(refused) < len(results) - 300
    in_threads = dict(read_photos(results, SIZE))  # as the program reads them
    assert refused == {path for path, got in in_threads.items() if isinstance(got, PhotoError)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (NOTHING[15], "HEIC needs: pip install pillow-heif|not a photo"),
        *((half_a_photo(kind), "cannot be read: .*truncated") for kind in ("PNG", "JPEG", "GIF")),
        *((c, "^not a") for c in (encoded(Image.new("RGB", (9, 9)), "TIFF"), b"This is heiress")),
        (png_bomb(60_000, 60_000), "too large: more than [0-9]+ pixels"),
        (png_bomb(11_000, 11_000), "too large: 11000 x 11000 pixels"),
        (jpeg_of_scans(1000), "too many scans: it would take forever"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(tmp_path, content, words):
    (tmp_path / "photo.heic").write_bytes(content)
    with pytest.raises(PhotoError, match=words):
        read_photo(tmp_path / "photo.heic", SIZE)


@posix
def test_folders_missing_files_pipes_and_files_too_large_are_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "huge.webp").write_bytes(scene(np.random.default_rng(3), "WEBP"))
    os.truncate(tmp_path / "huge.webp", 600_000_000)  # takes no room
    said = {name: outcome(tmp_path / name) for name in ("", "none", "pipe.jpg", "huge.webp")}
    assert said == {
        "": "cannot be read: a folder, not a file",
        "none": "cannot be read: No such file or directory",
        "pipe.jpg": "cannot be read: not a regular file",
        "huge.webp": "cannot be read: more than 500 MB",
    }


@linux
def test_large_photos_take_the_memory_of_one_even_many_at_once(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (4500, 4500)), compress_level=1)
    code = f"""import os; os.cpu_count = lambda: 4
import CatDogClassifier as p
def peak():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
most = [peak()]
for count in (1, 4):
    for _, photo in p.read_photos([{str(path)!r}] * count, 24):
        assert photo.shape == (24, 24, 3)
    most.append(peak())
print(most[1] - most[0], most[2] - most[0])"""
    one, four = map(int, python("-c", code, text=True).stdout.split())
    assert one > 60_000  # kB, what the pixels alone take
    assert four < 1.3 * one


def test_of_an_archive_like_microsofts_only_undecodable_photos_are_lost_and_named(tmp_path, capsys):
    rng, data = np.random.default_rng(666), make_dataset(tmp_path, {"train": 20})
    for folder in (data / "train" / "cat", data / "train" / "dog"):
        (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(500))
        tint(folder.name, rng).save(folder / "bitmap.jpg", "BMP")
        jpeg = encoded(tint(folder.name, rng), "JPEG")
        jpeg = jpeg[:2] + jpeg[4 + int.from_bytes(jpeg[4:6], "big") :]  # without the JFIF header
        (folder / "1.jpg").write_bytes(jpeg + rng.bytes(2226))
    (data / "train" / "cat" / "666.jpg").write_bytes(rng.bytes(900))
    classes = list_split(data, "train")
    gone, empty = Path(classes["cat"][5]), Path(classes["dog"][7])
    gone.unlink()  # between listing and reading
    empty.write_bytes(b"")
    photos, labels = program.load_photos(classes, SIZE, QUIET)
    assert (len(photos), labels.sum()) == (42, 21)
    junk, first, second = capsys.readouterr().err.splitlines()
    assert "666.jpg: not a photo" in junk
    assert f"left out {gone}: cannot be read: No such file" in first
    assert f"left out {empty}: not a photo" in second


def test_a_tenth_of_the_photos_may_be_lost_with_more_no_training_starts(tmp_path, run, capsys):
    data = make_dataset(tmp_path / "data", {"train": 20, "validation": 2})
    *four, fifth = sorted((data / "train").rglob("*.png"))[:5]
    for path in four:
        path.write_bytes(b"nothing")
    assert len(program.load_photos(list_split(data, "train"), SIZE, QUIET)[0]) == 36
    fifth.write_bytes(b"nothing")
    capsys.readouterr()
    err = refusal(run("--dataset", data, "--weights", tmp_path / "net.h5", "--quiet"))
    assert "5 of 40 photos cannot be read, the first: " in err and "At most 10% may be" in err
    assert not (tmp_path / "net.h5").exists()


def test_a_class_without_a_single_readable_photo_is_an_error(tmp_path):
    data = make_dataset(tmp_path, {"train": 20})
    for number, path in enumerate((data / "train" / "dog").iterdir()):
        path.unlink() if number > 1 else path.write_bytes(b"broken")
    with pytest.raises(program.CatDogError, match="no photo of a class can be read .cat, dog"):
        program.load_photos(list_split(data, "train"), SIZE, QUIET)


@pytest.fixture
def everything(tmp_path):
    """A folder with one of everything; returns it and the labels of the good photos."""
    rng, folder = np.random.default_rng(7), tmp_path / "everything"
    touch(folder, "empty.jpg", ".DS_Store", "Thumbs.db", "sub/.hidden/x.jpg")
    names = ["a.jpg", "no ending", "b.heic", "猫\u3000犬.png", "-rf.jpg", "sub/c.webp", "$(x).gif"]
    names += ["two\nlines.jpg", "\x1b[31mred\x1b[0m.jpg", "\r\x1b[2Kcat 100.0 %.jpg"]
    names += [os.fsdecode(b"\xff\xfe.jpg"), "\u202egpj.exe"]
    good = {str(folder / name): ("cat", "dog")[i % 2] for i, name in enumerate(names)}
    for path, label in good.items():
        tint(label, rng).save(path, "PNG")
    (folder / "IMG_1.HEIC").write_bytes(NOTHING[15])
    (folder / "bomb.png").write_bytes(png_bomb(60_000, 60_000))
    os.mkfifo(folder / "pipe.jpg")
    os.mknod(folder / "socket.jpg", stat.S_IFSOCK | 0o600)
    (folder / "broken link.jpg").symlink_to("nowhere.jpg")
    (folder / "round.jpg").symlink_to("round.jpg")
    (folder / "sub" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "good link.jpg").symlink_to("a.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    good[str(folder / "good link.jpg")] = good[str(folder / "a.jpg")]
    return folder, good


BAD = 9  # IMG_1.HEIC, bomb, empty, pipe, broken link, round, up, zero, socket


def known(folder):
    """All there is to know of what lies in a folder, but for when it was last read."""
    found = [os.lstat(path) for path in sorted(folder.rglob("*"))]
    return [(now.st_ino, now.st_mode, now.st_size, now.st_ctime_ns) for now in found]


@linux
@pytest.mark.parametrize("style", ["--json", "--csv", "--quiet"])
def test_a_folder_of_everything_is_answered_and_counted_right(everything, colours, run, style):
    folder, good = everything
    before = known(folder)
    code, out, err = run("-d", folder, "--weights", colours, style)
    shown = (out + err).replace("\n", "")  # nothing in it acts on a terminal
    assert not any(c < " " or c in "\x7f\u202e\udcff" for c in shown)
    lines = out.splitlines()
    assert code == 1
    if style == "--quiet":
        assert (len(lines), len(err.splitlines())) == (len(good), BAD)
    else:
        rows = map(json.loads, lines) if style == "--json" else csv.DictReader(lines)
        labels = {row["path"]: row["label"] for row in rows if not row["error"]}
        assert sorted(labels.values()) == sorted(good.values())
        assert style == "--csv" or labels == good  # names are escaped there
        cats = list(good.values()).count("cat")
        summary = f"{len(good) + BAD} files: {cats} cat, {len(good) - cats} dog, {BAD} unreadable"
        assert summary in err.splitlines()[-1]
    assert known(folder) == before


@pytest.mark.skipif(shutil.which("strace") is None, reason="only strace sees what is opened")
def test_pipes_devices_and_sockets_are_not_even_opened(everything, tmp_path):
    code = "import CatDogClassifier as p, sys; list(p.read_photos(p.list_photos(sys.argv[1]), 9))"
    trace = tmp_path / "trace"
    before = ["strace", "-f", "-qq", "-e", "trace=open,openat", "-o", trace]
    done = python("-c", code, everything[0], before=before)
    opened = trace.read_text(errors="replace") if trace.exists() else ""
    if "a.jpg" not in opened:
        pytest.skip(f"strace does not work here: {done.stderr.decode()[-200:]}")
    assert not any(name in opened for name in ("pipe.jpg", "socket.jpg", "/dev/zero", "zero.jpg"))


# HEIC and AVIF, as telephones make them. ----------------------------------------------------------


def phone_photo(kind, path, size=(64, 48)):
    """A photo, left half red and right half blue, as HEIC or AVIF; a sideways one says so."""
    image = Image.new("RGB", size, (200, 30, 30))
    image.paste((30, 30, 200), (size[0] // 2, 0, *size))
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    if kind == "HEIF":
        pytest.importorskip("pillow_heif", reason="pip install pillow-heif").register_heif_opener()
    image.save(path, kind, quality=90, exif=oriented(6))  # to be turned by 90 degrees
    return path


@pytest.mark.parametrize(("kind", "turned"), [("HEIF", False), ("AVIF", True)])
def test_heic_and_avif_are_read_upright_whatever_their_names_say(kind, turned, tmp_path):
    """HEIC has a turn of its own, which its library applies: what EXIF says of it has no say."""
    pixels = read_photo(phone_photo(kind, tmp_path / "photo.jpg"), SIZE).astype(int)
    pixels = pixels if turned else pixels.transpose(1, 0, 2)
    top, bottom = pixels[: SIZE // 3].mean(axis=(0, 1)), pixels[-SIZE // 3 :].mean(axis=(0, 1))
    assert (top[0] > 150, top[2] < 80, bottom[0] < 80, bottom[2] > 150) == (True,) * 4


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_a_damaged_or_huge_heic_or_avif_is_refused_in_one_line(kind, tmp_path, monkeypatch):
    whole = phone_photo(kind, tmp_path / "whole").read_bytes()
    for length in (13, len(whole) // 4, len(whole) // 2, len(whole) - 9):
        (tmp_path / "part").write_bytes(whole[:length])
        assert isinstance(outcome(tmp_path / "part"), str)
    monkeypatch.setattr(program, "MAX_PIXELS", 1000)
    with pytest.raises(PhotoError, match="too large: "):
        read_photo(tmp_path / "whole", SIZE)


def test_without_pillow_heif_heic_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "IMG_1.HEIC").write_bytes(NOTHING[15])
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(Image, "OPEN", {k: v for k, v in Image.OPEN.items() if k != "HEIF"})
    program.phone_formats.cache_clear()
    with pytest.raises(PhotoError, match="HEIC needs: pip install pillow-heif"):
        read_photo(tmp_path / "IMG_1.HEIC", SIZE)
    program.phone_formats.cache_clear()
