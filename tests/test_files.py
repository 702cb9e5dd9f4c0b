"""Files: written whole or not at all, never over what is not ours; a cache to be trusted."""

import contextlib
import errno
import os
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

import CatDogClassifier as program
from conftest import make_dataset, quick

SIZE = 12
posix = pytest.mark.skipif(os.name == "nt", reason="not on Windows")


@contextlib.contextmanager
def files_up_to(size):
    """Inside, a file that grows beyond so many bytes is as one on a full disk."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def small(folder, **settings):
    """A classifier with a small new net."""
    classifier = quick(folder, model="happy", **settings)
    classifier.createModel()
    return classifier


@posix
def test_of_weights_that_do_not_fit_on_the_disk_nothing_is_left_but_the_old_ones(tmp_path):
    small(tmp_path).save_weights()
    before, other = (tmp_path / "net.h5").read_bytes(), small(tmp_path, seed=2)
    with files_up_to(50_000), pytest.raises(program.WriteError, match="net.h5: File too large"):
        other.save_weights()
    assert os.listdir(tmp_path) == ["net.h5"]
    assert (tmp_path / "net.h5").read_bytes() == before


def test_pictures_replace_our_own_or_empty_files_and_never_those_of_others(
    tmp_path, monkeypatch, run
):
    monkeypatch.chdir(tmp_path)
    small(tmp_path).save_weights()
    Image.new("RGB", (9, 9), "red").save("a.png")
    names = [f"a_{kind}.png" for kind in ("heatmap", "activations", "augmented")]
    theirs, ours, _ = pictures = [*map(Path, names)]
    theirs.write_bytes(Path("a.png").read_bytes())
    ours.touch()
    code, _, err = run("--explain", "a.png", "--weights", "net.h5")
    assert (code, err.count("\n")) == (1, 1)
    assert f"{theirs} is there already, not written by this program" in err
    assert theirs.read_bytes() == Path("a.png").read_bytes()
    theirs.unlink()
    runs = []
    for _ in range(2):
        assert run("--explain", "a.png", "--weights", "net.h5")[0] == 0
        runs.append([path.read_bytes() for path in pictures])
        ours.write_bytes(runs[0][1][:-1])  # of an earlier run, but for the last byte
    assert runs[0] == runs[1]
    assert sorted(os.listdir()) == sorted(["a.png", "net.h5", *names])


def test_what_other_programs_are_just_writing_is_left_alone(dataset, tmp_path, run, weights):
    for name in (".report2.html.01234567.tmp", ".reports.tmp", ".report.html.01234567.tmp"):
        (tmp_path / name).write_bytes(b"half")
    report = tmp_path / "report.html"
    run("-d", dataset / "test", "--weights", weights, "--report", report)
    left = sorted(path.name for path in tmp_path.glob(".*"))
    assert left == [".report2.html.01234567.tmp", ".reports.tmp"]


# --- The cache: photos are decoded once -----------------------------------------------------------


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A dataset of three photos of each class, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return make_dataset(tmp_path / "data", {"train": 3})


@pytest.fixture
def opened(monkeypatch):
    """What Pillow opens."""
    calls, open_ = [], Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **more: (calls.append(a), open_(*a, **more))[1])
    return calls


def load(data, size=SIZE, split="train"):
    listed = program.list_split(data, split)
    return program.load_photos(listed, size, program.Console(quiet=True))


def one_by_one(data, but=""):
    paths = [path for path in program.list_photos(data) if os.path.basename(path) != but]
    return np.stack([program.read_photo(path, SIZE) for path in paths])


def known(data):
    files = [path for path in data.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_photo_is_decoded_once_and_then_taken_from_mapped_memory(data, opened):
    before = known(data)
    photos, labels = load(data)
    again = load(data)
    assert len(opened) == 6
    assert np.array_equal(photos, one_by_one(data))
    assert np.array_equal(again[0], photos)
    assert labels[:, 0].tolist() == again[1][:, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert isinstance(photos, np.memmap)
    assert not photos.flags.writeable
    assert known(data) == before


def change(path):
    """Other pixels, a file of the same length, its time of change put back."""
    before = path.stat()
    Image.new("RGB", (5, 5), "green").save(path)
    path.write_bytes(path.read_bytes().ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


EVENTS = {"changed": 6, "added": 7, "removed": 5, "replaced by a link": 6, "another Pillow": 6}


@posix
@pytest.mark.parametrize("event", EVENTS)
def test_photos_that_changed_are_decoded_anew(tmp_path, data, opened, monkeypatch, event):
    load(data)
    opened.clear()
    photo = data / "train" / "cat" / "cat.1.png"
    if event == "changed":
        change(photo)
    elif event == "added":
        (photo.parent / "cat.9.png").write_bytes(photo.read_bytes())
    elif event == "another Pillow":
        monkeypatch.setattr(PIL, "__version__", "0.1")
    else:
        photo.rename(tmp_path / "away.png")
    if event == "replaced by a link":
        photo.symlink_to(data / "train" / "dog" / "dog.0.png")
    photos, _ = load(data)
    assert len(opened) == len(photos) == EVENTS[event]
    assert np.array_equal(photos, one_by_one(data))
    assert len(list(tmp_path.glob("cache/*/*"))) == 1  # what is of no use any more has gone


def test_each_size_and_each_split_has_a_cache_of_its_own(data, opened):
    make_dataset(data, {"test": 2})
    for _ in range(2):
        assert load(data, 8)[0].shape == (6, 8, 8, 3)
        assert load(data, 9)[0].shape == (6, 9, 9, 3)
        load(data, 8, "test")
    assert len(opened) == 6 + 6 + 4


DAMAGE = {"cut short": lambda whole: whole[:-500], "too long": lambda whole: whole + b"x"}
DAMAGE |= {"empty": lambda whole: b"", "a wrong byte": lambda whole: whole[:-1] + b"\0"}
SILENT = pytest.mark.xfail(strict=True, reason="no checksum is kept")
DAMAGES = [pytest.param(n, marks=SILENT if n == "a wrong byte" else ()) for n in DAMAGE]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_again(tmp_path, data, damage):
    photos = np.array(load(data)[0])
    (file,) = tmp_path.glob("cache/*/*")
    whole = file.read_bytes()
    file.write_bytes(DAMAGE[damage](whole))
    assert np.array_equal(load(data)[0], photos)
    assert file.read_bytes() == whole


def test_a_photo_that_is_left_out_is_named_each_time(data, capsys):
    broken = data / "train" / "dog" / "dog.0.png"
    broken.write_bytes(b"broken")
    for _ in range(2):
        photos, labels = load(data)
        said = capsys.readouterr().err
        assert said.startswith(f"left out {broken}: not a photo")
        assert said.count("\n") == 1
        assert labels[:, 0].tolist() == [0, 0, 0, 1, 1]
        assert np.array_equal(photos, one_by_one(data, "dog.0.png"))


def test_a_photo_that_could_not_be_read_for_a_passing_reason_is_tried_again(
    data, monkeypatch, capsys
):
    def fail(*arguments, **more):
        monkeypatch.setattr(Image, "open", open_)
        raise OSError(errno.EIO, "Input/output error")

    open_ = Image.open
    monkeypatch.setattr(Image, "open", fail)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # or a second one may fail at the same time
    assert len(load(data)[0]) == 5
    assert "cat.0.png: cannot be read: Input/output error" in capsys.readouterr().err
    assert len(load(data)[0]) == 6


@posix
@pytest.mark.parametrize("why", ["a file in the way", "a full disk", "no home"])
def test_without_room_for_a_cache_the_photos_are_held_in_memory_and_nothing_is_left_behind(
    tmp_path, data, monkeypatch, capsys, why
):
    (data / "train" / "cat" / "cat.1.png").write_bytes(b"broken")
    if why == "a file in the way":
        (tmp_path / "cache").touch()
    elif why == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where it finds none
    monkeypatch.chdir(tmp_path)
    with files_up_to(100 if why == "a full disk" else 10**9):
        photos, labels = load(data)
    said = capsys.readouterr().err
    assert said.count("held in memory: cannot write in") == said.count("left out") == 1
    assert np.array_equal(photos, one_by_one(data, "cat.1.png"))
    assert labels[:, 0].tolist() == [0, 0, 1, 1, 1]
    left = {path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".png"}
    assert left == ({"cache"} if why == "a file in the way" else set())


@pytest.mark.parametrize("base", ["", "relative"])  # which is to be ignored, says the standard
def test_the_cache_lies_in_the_users_cache_folder(tmp_path, data, monkeypatch, base):
    for name, value in (("XDG_CACHE_HOME", base), ("HOME", tmp_path), ("USERPROFILE", tmp_path)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(tmp_path)
    load(data)
    assert len(list(tmp_path.glob(".cache/catdogclassifier/*"))) == 1
    assert sorted(os.listdir()) == [".cache", "data"]
