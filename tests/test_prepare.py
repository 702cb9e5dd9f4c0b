"""dataset/prepare.py: photos get into the layout of a dataset; nothing of the user's is touched."""

import errno
import functools
import io
import json
import os
import re
import shutil
import signal
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import CatDogClassifier as program
from conftest import REPO, call, encoded, guarded, posix, python, refusal, tint, tree
from dataset import prepare as tool

NUMBERS, SHARES = ("--split", "3,2,1"), ("--split", "0.7,0.2,0.1")


@pytest.fixture
def prepare(capsys):
    """prepare(SOURCE, NEW, ...) -> (exit code, stdout, stderr)."""
    return functools.partial(call, capsys, guarded(tool))


@pytest.fixture
def row(prepare):
    """row(SOURCE, NEW, ...) -> the JSON row of a run, as a dict."""
    return lambda *arguments: json.loads(prepare(*arguments, "--json")[1])


def picture(name):
    """A photo of its own for each name, as PNG bytes."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return encoded(Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)), "PNG")


def touch(folder, *names):
    for path in (Path(folder, name) for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(path.relative_to(folder).as_posix()))
    return Path(folder)


def resave(folder, source, target):
    """The pixels of a photo as another file."""
    Image.open(folder / source).save(folder / target, "BMP")


def names(folder, split, label):
    return program.natural_order(os.listdir(Path(folder, split, label)))


def counts(result):
    return [result[part] for part in program.SPLITS]


@pytest.fixture
def flat(tmp_path):
    return touch(tmp_path / "flat", *(f"{c}.{i}.jpg" for c in ("cat", "dog") for i in range(12)))


def test_flat_photos_are_copied_in_numeric_order_and_the_source_is_left(flat, new, prepare):
    before = tree(flat)
    code, out, err = prepare(flat, new, *NUMBERS)
    assert (code, out) == (0, f"{new}: 6 train, 4 validation, 2 test photos\n")
    assert err == f"Train on them with: python CatDogClassifier.py --dataset {new}\n"
    assert names(new, "train", "dog") == ["dog.0.jpg", "dog.1.jpg", "dog.2.jpg"]
    assert names(new, "validation", "cat") == ["cat.3.jpg", "cat.4.jpg"]
    assert names(new, "test", "cat") == ["cat.5.jpg"]
    assert (new / "test/cat/cat.5.jpg").read_bytes() == picture("cat.5.jpg")
    assert tree(flat) == before


@pytest.mark.parametrize(("cat", "dog"), [("Cat", "Dog"), ("CATS", "dogs"), ("cat", "Dogs")])
def test_a_folder_per_class_in_any_case_will_do(tmp_path, new, prepare, cat, dog):
    photos = (f"{label}/{number}.jpg" for label in (cat, dog) for number in range(11))
    prepare(touch(tmp_path / "pets", *photos, f"{cat}/Thumbs.db"), new, *NUMBERS)
    assert names(new, "train", "cat") == ["0.jpg", "1.jpg", "2.jpg"]
    assert names(new, "test", "dog") == ["5.jpg"]


def test_files_in_no_class_are_named(flat, new, prepare):
    touch(flat, "Cat.12.JPG", "dog.jpg", "sub/x.jpg")
    code, out, err = prepare(flat, new, "-q")
    assert (code, err) == (0, "skipped dog.jpg: in no class\nskipped sub/x.jpg: in no class\n")
    assert out == f"{new}: 19 train, 2 validation, 4 test photos; 2 skipped\n"
    assert "Cat.12.JPG" in names(new, "test", "cat")


def test_a_second_run_says_that_all_was_there_and_another_split_is_refused(flat, new, prepare, row):
    prepare(flat, new, *NUMBERS)
    before, parts = tree(new), {"train": 6, "validation": 4, "test": 2}
    assert prepare(flat, *NUMBERS, new)[1].endswith("2 test photos; all were there already\n")
    assert row(flat, new, *NUMBERS) == {"dataset": str(new), **parts, "copied": 0, "skipped": {}}
    assert "Name a new folder" in refusal(prepare(flat, new, "--split", "2,3,1"))
    assert tree(new) == before


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_completed_by_the_same_one(flat, new, prepare, monkeypatch, number):
    def interrupted(part, path, replace=os.replace):
        replace(part, path)
        if path.name == "cat.2.jpg":
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        assert prepare(flat, new, *NUMBERS)[:2] == (130, "")
    assert 0 < len(tree(new)) < 12
    (new / "train/dog").mkdir(exist_ok=True)
    (new / "train/dog/.part").symlink_to(flat / "cat.0.jpg")
    assert prepare(flat, new, *NUMBERS)[0] == 0
    assert len(tree(new)) == 12 and (flat / "cat.0.jpg").read_bytes() == picture("cat.0.jpg")
    assert all(content == picture(os.path.basename(path)) for path, content in tree(new).items())


def test_a_full_disk_is_one_line_and_what_was_copied_stays(flat, new, prepare, row, monkeypatch):
    def write_bytes(path, content, write=Path.write_bytes):
        write(path, content[:50])
        if len(tree(new)) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        assert "No space left on device" in refusal(prepare(flat, new, "-q", *NUMBERS))
    assert len(tree(new)) == 5 and row(flat, new, *NUMBERS)["copied"] == 7


def test_a_disk_without_room_is_said_before_anything_is_copied(flat, new, prepare, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 100))
    assert "needs room for 0.0 MB, but" in refusal(prepare(flat, new)) and not new.exists()


@pytest.mark.parametrize("other", ["train/cat/mine.jpg", "notes.txt", "train/cat/cat.0.jpg"])
def test_a_folder_that_holds_anything_else_is_refused_and_left(flat, new, prepare, other):
    touch(new, other)  # even a file of a planned name, when its content is another
    before = tree(new)
    assert "already holds" in refusal(prepare(flat, new, *NUMBERS)) and tree(new) == before


@posix
@pytest.mark.parametrize("link", ["", "train", "train/cat"])
def test_the_dataset_may_not_lie_in_the_source_not_even_by_a_link(flat, new, prepare, link):
    if link:
        (new / link).parent.mkdir(parents=True)
        (new / link).symlink_to(flat, target_is_directory=True)
    before = tree(flat)
    err = refusal(prepare(flat, new if link else flat / "deeper"))
    assert "never changed. Name a new folder" in err and tree(flat) == before


def test_too_few_photos_are_named_with_the_numbers(flat, new, prepare):
    assert "needs more photos of cat" in prepare(flat, new, "--split", "0.92,0.04,0.04")[2]
    err = refusal(prepare(flat, new, "--split", "10,2,1"))
    assert "--split needs more photos of cat than 12, such as" in err
    resave(flat, "cat.0.jpg", "cat.11.jpg")
    err = prepare(flat, new, "--split", "10,1,1")[2]
    assert "; 1 were skipped, for one cat.11.jpg: the same photo" in err
    touch(flat, "IMG_2041.jpg")  # whose name makes it a class of its own
    err = prepare(flat, new)[2]
    assert f"needs more photos of img than 1, such as {flat / 'IMG_2041.jpg'}. Add" in err


TWICE = ["Cat/1.jpg", "cats/1.jpg", "cats/2.jpg", "Dog/1.jpg", "Dog/2.jpg", "Dog/3.jpg"]
KAGGLE = ["train/cat.0.jpg", "train/dog.0.jpg", "test1/1.jpg"]
SOURCES = [(["photo.jpg"], "must hold two classes"), (["Cat/1.jpg"], "must hold two classes")]
SOURCES += [(["Cat/1.jpg", "Dog/x/.hidden"], "but holds 1 ("), (TWICE, "would both become")]
SOURCES += [(KAGGLE, "which is no class. Name SOURCE/train")]


@pytest.mark.parametrize(("files", "words"), SOURCES)
def test_a_folder_that_is_no_source_is_refused(tmp_path, new, prepare, files, words):
    err = refusal(prepare(touch(tmp_path / "source", *files), new, "--split", "2,1,0"))
    assert words in err and not new.exists()


NONSENSE = ["", "1,2", "1,2,3,4", "a,b,c", "-1,2,3", "0,1,1", "1,0,1", "0.8,0.3,0.1", "nan,0.1,0.1"]


@pytest.mark.parametrize("split", [*NONSENSE, "inf,1,1", "0.5,1,1", "inf,0.1,0.1"])
def test_a_split_that_makes_no_sense_is_a_usage_error(flat, new, prepare, split):
    code, _, err = prepare(flat, new, f"--split={split}")
    assert code == 2 and f"--split {split} makes no sense. Say --split" in err


def test_a_copy_goes_into_one_folder_only_and_the_next_takes_its_place(flat, new, row):
    pixels = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(flat / "cat.0.jpg", "JPEG")  # a net reads it at half its size
    resave(flat, "cat.0.jpg", "cat.4.jpg")  # other bytes, the same pixels
    resave(flat, "cat.1.jpg", "cat.2.jpg")  # in the same folder: that does no harm
    resave(flat, "cat.1.jpg", "dog.0.jpg")  # of both classes: one of the labels is wrong
    skipped = row(flat, new, *NUMBERS)["skipped"]
    assert names(new, "train", "cat") == ["cat.0.jpg", "cat.1.jpg", "cat.2.jpg"]
    assert names(new, "validation", "cat") == ["cat.3.jpg", "cat.5.jpg"]
    assert names(new, "test", "cat") == ["cat.6.jpg"]
    assert names(new, "train", "dog") == ["dog.1.jpg", "dog.2.jpg", "dog.3.jpg"]
    owners = {"cat.4.jpg": "cat.0.jpg", "dog.0.jpg": "cat.1.jpg"}
    assert skipped == {a: f"the same photo as {Path('train/cat', b)}" for a, b in owners.items()}


def test_shares_use_every_photo_once_and_the_test_part_bears_a_loss(flat, new, tmp_path, row):
    assert counts(row(flat, new, *SHARES)) == [16, 4, 4]
    assert sorted(os.path.basename(path) for path in tree(new)) == sorted(os.listdir(flat))
    resave(flat, "cat.0.jpg", "cat.11.jpg")
    assert counts(row(flat, tmp_path / "other", *SHARES)) == [16, 4, 3]


def test_shares_are_those_of_the_photos_that_can_be_read(flat, new, row):
    (flat / "cat.0.jpg").write_bytes(b"")
    (flat / "cat.11.jpg").write_bytes(b"")
    assert counts(result := row(flat, new)) == [8 + 9, 1 + 1, 1 + 2]
    assert list(result["skipped"]) == ["cat.0.jpg", "cat.11.jpg"]


@posix
def test_what_is_no_photo_is_skipped_and_named_and_the_next_takes_its_place(flat, new, row):
    for name in ("cat.0.jpg", "cat.1.jpg", "dog.2.jpg"):
        (flat / name).unlink()
    (flat / "cat.0.jpg").touch()
    (flat / "cat.1.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(flat / "dog.2.jpg")
    assert [*row(flat, new, *NUMBERS)["skipped"]] == ["cat.0.jpg", "cat.1.jpg", "dog.2.jpg"]
    assert names(new, "train", "cat") == ["cat.2.jpg", "cat.3.jpg", "cat.4.jpg"]
    assert names(new, "train", "dog") == ["dog.0.jpg", "dog.1.jpg", "dog.3.jpg"]


WRONG = [
    ([], 2, "Name a new folder: python dataset/prepare.py SOURCE NEW, or --download NEW"),
    (["flat"], 2, "Name a new folder"),
    (["--download"], 2, "Name a new folder"),
    (["--download", "flat", "new"], 2, "Name a new folder"),
    (["flat", "new", "--url", "https://example.org/x.zip"], 2, "go with --download"),
    (["flat", "new", "--sha256", "0" * 64], 2, "go with --download"),
    (["flat", "new", "--bogus"], 2, "unrecognized arguments: --bogus"),
    (["", "new"], 2, "Name a new folder"),
    (["flat", ""], 2, "Name a new folder"),
    (["no\x1b[2J", "new"], 1, r"there is no folder no\x1b[2J"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG)
def test_what_cannot_be_done_is_said(flat, prepare, monkeypatch, tmp_path, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    found, out, err = prepare(*arguments)
    assert (found, out) == (code, "") and words in err and "\x1b" not in err
    assert os.listdir() == ["flat"]


def test_it_starts_anywhere_and_without_tensorflow_or_a_picture_library(flat, tmp_path):
    line = "-X", "importtime", REPO / "dataset/prepare.py", flat, "new", "-q"
    other = touch(tmp_path / "other", "dataset/__init__.py")  # the package of that name on PyPI
    done = python(*line, cwd=tmp_path, env={"PYTHONPATH": str(other)}, text=True)
    assert (done.returncode, done.stdout) == (0, "new: 18 train, 2 validation, 4 test photos\n")
    assert all(said.startswith("import time:") for said in done.stderr.splitlines())
    assert not re.search("tensorflow|keras|matplotlib", done.stderr)


# --- Neither: anything else, as a class of its own ------------------------------------------------


def test_neither_is_a_class_of_whole_kinds_whatever_its_subfolders(flat, new, tmp_path, row):
    others = touch(tmp_path / "others", *(f"{k}/{n}.png" for k in "abc" for n in range(5)))
    found = row(flat, new, *NUMBERS, "--neither", others)
    assert (found["train"], found["validation"], found["test"]) == (6 + 7, 4 + 5, 2 + 3)
    kept = {split: sorted(os.listdir(new / split / "neither")) for split in program.SPLITS}
    assert kept["train"] == [*(f"a-{n}.png" for n in range(5)), "b-0.png", "b-1.png"]
    assert kept["test"] == [f"c-{n}.png" for n in (2, 3, 4)]  # the last kind is one to test with
    assert (new / "train/neither/a-0.png").read_bytes() == (others / "a/0.png").read_bytes()
    assert [*program.list_split(new, "train")] == ["cat", "dog", "neither"]
    assert row(flat, new, *NUMBERS, "--neither", others)["copied"] == 0


NEITHER = {"none": "there is no folder", "empty": "holds no photos", "others": "is never changed"}


@pytest.mark.parametrize(("name", "words"), NEITHER.items())
def test_a_neither_that_cannot_be_is_one_line(flat, tmp_path, prepare, name, words):
    touch(tmp_path / "others", "1.png")
    (tmp_path / "empty").mkdir()
    line = flat, tmp_path / "others" / "new", *NUMBERS, "--neither", tmp_path / name
    assert words in refusal(prepare(*line))


# --- Caltech-101, for --neither -------------------------------------------------------------------


def archive(members):
    """A zip archive of {name: content} in bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return buffer.getvalue()


def like_caltechs(kinds):
    """A zip archive in bytes with a tar archive of two photos of each kind, and a macOS ._ file."""
    buffer, rng = io.BytesIO(), np.random.default_rng(0)
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for kind in kinds:
            for number in (1, 2):
                content = encoded(tint("cat", rng, 64), "JPEG")
                member = tarfile.TarInfo(f"101_ObjectCategories/{kind}/image_000{number}.jpg")
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
    return archive({f"{n}101_ObjectCategories.tar.gz": buffer.getvalue() for n in ("c/", "m/._")})


@pytest.fixture
def others(tmp_path, monkeypatch):
    """Where the archive of Caltech-101 is taken from."""
    path = tmp_path / "others.zip"
    monkeypatch.setattr(tool.download, "OTHERS_URL", path.as_uri())
    return path


def test_other_things_come_from_caltech_101_without_its_cats_and_dogs(others, flat, new, row):
    kinds = [f"k{number}" for number in range(10)]
    others.write_bytes(like_caltechs([*kinds, "Leopards", "wild_cat", "snoopy"]))
    row(flat, new, "--neither", "caltech-101")
    kept = [path.name for split in program.SPLITS for path in new.glob(f"{split}/neither/*")]
    assert sorted(kept) == [f"{kind}-image_000{n}.jpg" for kind in kinds for n in (1, 2)]
    assert {path.name[:2] for path in new.glob("test/neither/*")} == {"k9"}  # a kind to test with


@pytest.mark.parametrize("content", [b"no zip", archive({"x.jpg": b""}), like_caltechs(["snoopy"])])
def test_what_is_not_caltech_101_is_one_line(others, flat, new, prepare, content):
    others.write_bytes(content)
    err = refusal(prepare(flat, new, "--neither", "caltech-101", "-q"))
    assert "is not Caltech-101" in err and not new.exists()
