"""With numpy, Pillow and ai-edge-litert alone, no TensorFlow, photos are classified."""

import csv
import json
import os

import pytest

from conftest import PROGRAM, REPO, python

pytest.importorskip("ai_edge_litert", reason="pip install ai-edge-litert")
PHOTOS = REPO / "dataset" / "test"
ABSENT = """import sys
for name in ("tensorflow", "keras", "matplotlib", "h5py"):
    sys.modules[name] = None
"""


@pytest.fixture
def bare(tmp_path):
    """bare("-f", "x.jpg") -> (exit code, stdout, stderr) where TensorFlow is not installed."""
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "sitecustomize.py").write_text(ABSENT)

    def call(*arguments):
        env = {"PYTHONPATH": str(tmp_path / "absent"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        done = python(PROGRAM, *arguments, text=True, cwd=tmp_path, env=env)
        return done.returncode, done.stdout, done.stderr

    return call


def test_photos_and_folders_are_classified_listed_sorted_and_shown(bare, tmp_path):
    photos = [PHOTOS / "cat" / "000.jpg", PHOTOS / "dog" / "002.jpg"]
    code, out, err = bare("-f", *photos)
    assert (code, len(out.splitlines()), "CatDogClassifier_pretrained.h5" in err) == (0, 2, True)
    code, out, err = bare("-d", PHOTOS, "--json", "--sort-into", "sorted", "--report", "page.html")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, len(rows), {row["error"] for row in rows}) == (0, 101, {None})
    assert sum(len(files) for _, _, files in os.walk(tmp_path / "sorted")) == 101
    assert (tmp_path / "page.html").read_text().count("<figure>") == 101
    code, out, err = bare("-d", PHOTOS, "--csv", "--unsure", 0.01)
    listed = [row["path"] for row in csv.DictReader(out.splitlines())]
    assert listed == [row["path"] for row in rows]


@pytest.mark.parametrize(
    "line",
    [["--dataset", str(REPO / "dataset")], ["--explain", str(PHOTOS / "cat" / "000.jpg")]]
    + [["-d", str(PHOTOS), "--precision", "float32"], ["--export", "x.onnx"]]
    + [["-f", "x.jpg", "--weights", str(PROGRAM)]],  # a net of one's own, it may be
)
def test_what_needs_more_says_so_in_one_line(bare, line):
    code, out, err = bare(*line, "-q")
    assert (code, out, err.count("\n")) == (1, "", 1)
    missing = ("h5py", "h5py") if "--weights" in line else ("tensorflow", "-r requirements.txt")
    assert "{} is not installed. Run: pip install {}".format(*missing) in err
