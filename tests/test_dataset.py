"""dataset/: drawings that can be drawn again, small, and learned in about a minute."""

import json
import random
import shutil

import numpy as np
import pytest
from PIL import Image

import CatDogClassifier as program
from conftest import PROGRAM, REPO, python
from measure import draw_dataset

DATASET = REPO / "dataset"
DRAWINGS = list(DATASET.rglob("*.jpg"))


def test_the_drawings_are_those_of_the_script():
    found = {path.relative_to(DATASET).as_posix() for path in DRAWINGS}
    assert found == {path for path, _ in draw_dataset.plan()}


def test_the_script_draws_them_again():
    """Every 25th, but for what JPEG loses and Pillows differ by; another drawing is 40 away."""
    for path, label in list(draw_dataset.plan())[::25]:
        again = draw_dataset.draw(label, random.Random(path.removesuffix(".jpg")))
        shipped = Image.open(DATASET / path)
        assert again.size == shipped.size, path
        assert np.abs(np.asarray(again, int) - np.asarray(shipped, int)).mean() < 10, path


def test_the_sample_is_small_balanced_and_varied():
    assert sum(path.stat().st_size for path in DATASET.rglob("*") if path.is_file()) <= 3_000_000
    for split in ("train", "validation", "test"):
        classes = program.list_split(DATASET, split)
        assert list(classes) == ["cat", "dog"] and 50 <= len(classes["cat"]) == len(classes["dog"])
    assert len({Image.open(path).size for path in DRAWINGS}) > 100


def test_no_drawing_is_in_two_splits():
    pixels = [program.read_photo(path, 32).tobytes() for path in DRAWINGS]
    assert len(pixels) - len(set(pixels)) <= 1  # test/1.jpg may be one of the others


def test_the_tutorials_own_photo_is_there_and_not_scored():
    assert program.read_photo(DATASET / "test" / "1.jpg", 150).shape == (150, 150, 3)
    scored = [path for paths in program.list_split(DATASET, "test").values() for path in paths]
    assert not any(path.endswith("test/1.jpg") for path in scored)


def test_drawings_are_known_as_such_and_photographs_are_not(tmp_path, run, trained):
    """Twenty of the drawings; the words that a training on them prints, and an answer after it."""
    for path, _ in draw_dataset.plan()[::25]:
        (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DATASET / path, tmp_path / "data" / path)
    flags = ["--model", "happy", "--epochs", "2", "--seed", "0", "--precision", "float32", "--json"]
    line = ("--weights", tmp_path / "net.h5")
    _, out, err = run("--dataset", tmp_path / "data", *line, *flags)
    assert json.loads(out)["stop_reason"] == "all epochs"
    assert "These are drawings: who learns from them knows nothing of photographs (README" in err
    code, _, err = run("-f", DATASET / "test" / "1.jpg", *line)
    assert code == 0 and "was trained on drawings and knows nothing of photographs" in err
    assert trained.info["is_synthetic"] is False


@pytest.mark.slow
def test_the_main_job_scores_95_percent(tmp_path):
    line = (PROGRAM, "--dataset", DATASET, "--seed", 0, "--json", "--epochs", 15)  # half of all
    done = python(*line, cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["test"]["accuracy"] >= 0.95
    one = python(PROGRAM, "-f", DATASET / "test" / "1.jpg", cwd=tmp_path, text=True)
    assert (one.returncode, one.stdout.split()[0]) == (0, "dog")
