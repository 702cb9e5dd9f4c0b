"""Files: written whole or not at all, never over what is not ours; a cache to be trusted."""

import contextlib
import os
from pathlib import Path

import pytest
from PIL import Image

import CatDogClassifier as program
from conftest import quick

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
    with files_up_to(50_000), pytest.raises(program.CatDogError, match="net.h5: File too large"):
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
