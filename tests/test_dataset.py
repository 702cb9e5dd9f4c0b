"""dataset/: the shipped drawings can be drawn again, are small, and are learned in about a minute."""

import json
import random
import subprocess
import sys

import numpy as np
from PIL import Image

import CatDogClassifier as program
import draw_dataset
from conftest import REPO

DATASET = REPO / "dataset"


def test_the_drawings_are_those_of_the_script():
    found = {path.relative_to(DATASET).as_posix() for path in DATASET.rglob("*.jpg")}
    assert found == {path for path, _ in draw_dataset.plan()}


def test_the_script_draws_them_again():
    """Every tenth one, but for what JPEG loses and versions of Pillow differ by; another drawing is 40 away."""
    for path, label in list(draw_dataset.plan())[::10]:
        again = draw_dataset.draw(label, random.Random(path.removesuffix(".jpg")))
        shipped = Image.open(DATASET / path)
        assert again.size == shipped.size, path
        assert np.abs(np.asarray(again, int) - np.asarray(shipped, int)).mean() < 10, path


def test_the_sample_is_small_balanced_and_varied():
    assert sum(path.stat().st_size for path in DATASET.rglob("*") if path.is_file()) <= 3_000_000
    for split in program.SPLITS:
        classes = program.list_split(DATASET, split)
        assert len(classes["cat"]) == len(classes["dog"]) >= 50
    sizes = {Image.open(path).size for path in DATASET.rglob("*.jpg")}
    assert len(sizes) > 100


def test_no_drawing_is_in_two_splits():
    pixels = [program.read_photo(path, 32).tobytes() for path in program.list_photos(DATASET) if path.endswith(".jpg")]
    assert len(pixels) - len(set(pixels)) <= 1  # test/1.jpg may be one of the others


def test_the_tutorials_own_photo_is_there_and_not_scored():
    assert isinstance(program.read_photo(DATASET / "test" / "1.jpg", 150), np.ndarray)
    scored = [path for paths in program.list_split(DATASET, "test").values() for path in paths]
    assert not any(path.endswith("test/1.jpg") for path in scored)


def test_drawings_are_known_as_such_and_photographs_are_not(tmp_path):
    assert all(program.is_drawing(path) for path in program.list_photos(DATASET) if path.endswith(".jpg"))
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.jpg", comment=b"a holiday")
    assert not program.is_drawing(tmp_path / "photo.jpg")


def test_the_main_job_scores_95_percent_and_is_open_about_the_drawings(tmp_path):
    def call(*arguments):
        line = [sys.executable, REPO / "CatDogClassifier.py", "--dataset", DATASET, *arguments]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)

    done = call("--seed", "0", "--json", "--epochs", "15")  # half of what it has without that flag do
    assert done.returncode == 0
    assert json.loads(done.stdout)["test"]["accuracy"] >= 0.95
    assert "drawings" in done.stderr
    assert "--prepare" in done.stderr
    assert "--download" in done.stderr
    assert json.loads(done.stdout)["drawings"] is True
    one = call("-f", DATASET / "test" / "1.jpg")
    assert one.returncode == 0
    assert one.stdout.split()[0] in ("cat", "dog")
    assert "knows nothing of photographs" in one.stderr
