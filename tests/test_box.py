"""The weights that come with the program: they answer until somebody has trained, and are never overwritten."""

import json
import shutil
from pathlib import Path

import pytest

import CatDogClassifier as program
from CatDogClassifier import CatDogClassifier
from conftest import quick, tint


@pytest.fixture
def box(weights, tmp_path, monkeypatch):
    """Weights in the box: those of the small trained net; the present folder is empty but for a photo."""
    path = tmp_path / "program" / "CatDogClassifier_pretrained.h5"
    path.parent.mkdir()
    shutil.copy(weights, path)
    monkeypatch.setattr(program, "BOX", path)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    tint("dog", program.np.random.default_rng(0)).save("photo.png")
    return path


def test_before_any_training_the_box_answers_and_says_so(box, run):
    code, out, err = run("-f", "photo.png")
    assert (code, out.split()[0]) == (0, "dog")
    assert err == "Answered by the net that came with the program, CatDogClassifier_pretrained.h5.\n"
    assert run("-f", "photo.png", "-q")[2] == ""
    assert json.loads(run("-f", "photo.png", "--json")[1])["label"] == "dog"
    assert CatDogClassifier().predict("photo.png")[0].label == "dog"


def test_ones_own_weights_come_first(box, run):
    shutil.copy(box, "CatDogClassifier_model.h5")
    box.write_bytes(b"not to be read")
    code, out, err = run("-f", "photo.png")
    assert (code, out.split()[0], err) == (0, "dog", "Answered by CatDogClassifier_model.h5.\n")
    Path("CatDogClassifier_model.h5").write_bytes(b"damaged")  # they are what was meant all the same
    code, out, err = run("-f", "photo.png")
    assert (code, out) == (1, "")
    assert "CatDogClassifier_model.h5 is not a weights file" in err


def test_a_net_trained_on_drawings_names_the_one_for_photographs(box, run):
    own = CatDogClassifier(weights=str(box), quiet=True)
    own.load_weights()
    own.settings, own.drawings = program.Settings(weights="CatDogClassifier_model.h5"), True
    own.save_weights()
    _, _, err = run("-f", "photo.png")
    assert err == ("Answered by CatDogClassifier_model.h5, which was trained on drawings and knows nothing of photographs. "
                   "For photographs: --weights ../program/CatDogClassifier_pretrained.h5\n")


def test_who_names_weights_or_a_net_does_not_get_the_box(box, run):
    for flags in (["--weights", "none.h5"], ["--model", "baseline"], ["--base", "mobilenet"]):
        code, out, err = run("-f", "photo.png", *flags)
        assert (code, out) == (1, "")
        assert "there are no weights at" in err
    assert run("-f", "photo.png", "--weights", box)[2] == ""  # who names it knows it


def test_training_never_overwrites_the_box(box, run, dataset):
    before = box.read_bytes()
    for name in (box, "../program/CatDogClassifier_pretrained.h5"):
        code, out, err = run("--dataset", dataset, "--weights", name, "--epochs", 1)
        assert (code, out) == (1, "")
        assert "is the net that comes with the program. Name another --weights" in err
    quick(Path.cwd(), epochs=1).train(dataset)
    assert box.read_bytes() == before
    assert sorted(path.name for path in box.parent.iterdir()) == [box.name]
