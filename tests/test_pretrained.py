"""The net that comes with the program answers until somebody trains, and nothing replaces it."""

import functools
import hashlib
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import CatDogClassifier as program
from CatDogClassifier import CatDogClassifier
from conftest import PROGRAM, REPO, call, colour_net, paint, refusal

SHIPPED = REPO / "CatDogClassifier_pretrained.h5"
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())  # by Keras
LOG = REPO / "tests" / "measure" / "test_photos.log"
TESTED = {"photos": 1000, "portraits": 300, "neither": 1000}  # photos that tested it, by source


@pytest.fixture
def copy(tmp_path, monkeypatch, capsys):
    """A copy of the program that comes with such a net; the present folder holds a photo only.

    copy("-f", "x.jpg") -> (exit code, stdout, stderr); `copy.module`, `copy.net`.
    """
    (tmp_path / "program").mkdir()
    path = shutil.copy(PROGRAM, tmp_path / "program")
    spec = importlib.util.spec_from_file_location("copy_of_the_program", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    run = functools.partial(call, capsys, module.main)
    run.module, run.net = module, tmp_path / "program" / SHIPPED.name
    colour_net(run.net)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    paint(Path("photo.png"), 100)
    return run


def test_before_any_training_it_answers_and_that_is_said_unless_it_was_named(copy):
    code, out, err = copy("-f", "photo.png")
    assert (code, out.split()[0]) == (0, "dog")
    told = f"Answered by the net for photographs that came with the program, {SHIPPED.name}.\n"
    assert err == told
    code, out, err = copy("-f", "photo.png", "-q", "--json")
    assert (json.loads(out)["label"], err) == ("dog", "")
    assert copy.module.CatDogClassifier().predict("photo.png")[0].label == "dog"
    assert copy("-f", "photo.png", "--weights", copy.net)[2] == ""


def test_ones_own_weights_come_first_even_if_they_are_damaged(copy):
    colour_net("CatDogClassifier_model.h5", classes=["bear", "wolf"])
    code, out, err = copy("-f", "photo.png")
    assert (code, out.split()[0], err) == (0, "wolf", "Answered by CatDogClassifier_model.h5.\n")
    Path("CatDogClassifier_model.h5").write_bytes(b"damaged")
    err = refusal(copy("-f", "photo.png"))
    assert "CatDogClassifier_model.h5 is not a weights file" in err


def test_a_net_trained_on_drawings_names_the_one_for_photographs(copy):
    colour_net("CatDogClassifier_model.h5", is_synthetic=True)
    about = "which was trained on drawings and knows nothing of photographs. For photographs:"
    said = f"Answered by CatDogClassifier_model.h5, {about} --weights {copy.net}\n"
    for flags in ([], ["--weights", "CatDogClassifier_model.h5"]):
        assert copy("-f", "photo.png", *flags)[2] == said


@pytest.mark.parametrize("flags", ["--weights x.h5", "--model happy", "--base vgg16"])
def test_who_names_weights_or_a_net_does_not_get_it(copy, flags):
    assert "there are no weights at" in refusal(copy("-f", "photo.png", *flags.split()))


def test_nothing_overwrites_it(copy, dataset):
    before, train = copy.net.read_bytes(), ("--model", "signs", "--epochs", "1", "--weights")
    Path("same.h5").hardlink_to(copy.net)  # as another case of the name is where names have none
    Path("link.h5").symlink_to(copy.net)
    for name in (copy.net, f"../program/{SHIPPED.name}", "same.h5", "link.h5"):
        code, out, err = copy("--dataset", dataset, *train, name)
        assert (code, out, "Name another --weights" in err) == (1, "", True)
        assert "is the net that comes with the program. " in err
    classifier = copy.module.CatDogClassifier(weights=str(copy.net), quiet=True)
    classifier.load_weights()
    with pytest.raises(copy.module.CatDogError, match="is the net that comes with the program"):
        classifier.save_weights()
    assert copy("--dataset", dataset, *train, "new.h5", "-q")[0] == 0
    assert copy.net.read_bytes() == before
    assert {path.name for path in copy.net.parent.glob("*.*")} == {PROGRAM.name, SHIPPED.name}


def test_a_damaged_one_is_said_by_name_and_a_missing_one_is_not_recommended(copy):
    copy.net.write_bytes(b"damaged")
    err = refusal(copy("-f", "photo.png"))
    assert f"{SHIPPED.name} is not a weights file that can be read" in err
    copy.net.unlink()
    err = refusal(copy("-f", "photo.png"))
    assert "Train first: python CatDogClassifier.py" in err
    assert f"--weights ../program/{SHIPPED.name}" not in err


# The one that is shipped. -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    """A classifier with the net that is shipped, by Keras in 32 bits."""
    classifier = CatDogClassifier(weights=str(SHIPPED), quiet=True)
    classifier.load_weights()
    return classifier


def test_it_is_small_and_says_what_it_is(shipped):
    info = shipped.info
    assert SHIPPED.stat().st_size <= 16e6
    assert (info["architecture"], info["base"]) == ("witness", "efficientnet-lite0")
    assert (shipped.size, shipped.classes) == (224, ("cat", "dog", "neither"))
    assert f"run {info['run']}: {json.dumps(info['card']['test'])}" in LOG.read_text()
    assert info["is_synthetic"] is False
    assert info["temperature"] == pytest.approx(0.6344, abs=1e-4)
    assert info["summary"]["validation"]["total"] == 2124
    assert {name: total for name, (_, total) in info["card"]["test"].items()} == TESTED


def test_the_documents_quote_its_test_scores(shipped):
    card = (REPO / ".readme" / "model-card.md").read_text()
    for right, total in shipped.info["card"]["test"].values():
        assert f"{100 * right / total:.2f} % ({right} of {total}" in card
    right, total = shipped.info["card"]["test"]["neither"]
    for text in ((REPO / "README.md").read_text(), program.__doc__):
        assert f"{100 * right / total:.2f} %" in text


def test_it_is_a_base_for_nets_of_ones_own_unless_weights_are_named(shipped, tmp_path):
    own = CatDogClassifier(model="features", base="box", weights=str(tmp_path / "x.h5"))
    own.createModel()
    count = len(program.base_of(own.model).weights)
    pairs = zip(own.model.get_weights(), shipped.model.get_weights(), strict=False)
    assert [np.array_equal(*pair) for pair in pairs][:count] == [True] * count
    assert (own.settings.base, own.classes) == ("efficientnet-lite0", ("cat", "dog"))
    other = CatDogClassifier(model="features", base="box", base_weights="none").settings
    assert (own.settings.base_weights, other.base_weights) == ("box", "none")
    assert other.base == "efficientnet-lite0"


def test_its_form_without_tensorflow_is_the_one_that_the_program_knows_and_answers_alike(real):
    pytest.importorskip("ai_edge_litert", reason="pip install ai-edge-litert")
    content = SHIPPED.with_suffix(".tflite").read_bytes()
    assert hashlib.sha256(content).hexdigest() == program.LITERT_DIGEST
    photos = [real / "originals" / name for name in GOLDEN["originals"]]
    rows = CatDogClassifier(weights=str(SHIPPED)).predict(photos)
    exact = [np.argmax(shares) for shares in GOLDEN["originals"].values()]
    exact[-1] = 1  # dog.4098: in 8 bits it looks closer, and is right
    assert [("cat", "dog", "neither").index(row.label) for row in rows] == exact


def test_one_that_only_claims_to_be_it_is_refused(tmp_path, run):
    with h5py.File(shutil.copy(SHIPPED, tmp_path / "net.h5"), "a") as file:
        about = json.loads(file.attrs["catdogclassifier"]) | {"temperature": 2.0}
        file.attrs["catdogclassifier"] = np.bytes_(json.dumps(about).encode())
    assert "changed" in refusal(run("-f", "x.jpg", "--weights", tmp_path / "net.h5"))
    (tmp_path / "half.h5").write_bytes(SHIPPED.read_bytes()[:5_000_000])
    assert "truncated" in refusal(run("-f", "x.jpg", "--weights", tmp_path / "half.h5"))


@pytest.mark.parametrize(("folder", "count"), [("dataset/test", 24), ("originals", 40)])
def test_it_answers_for_drawings_and_photographs_as_it_always_did(shipped, request, folder, count):
    golden = GOLDEN[folder]
    home = REPO if folder.startswith("dataset") else request.getfixturevalue("real")
    rows = shipped.predict([home / folder / name for name in golden])
    found = [list(row.probabilities.values()) for row in rows]
    assert len(rows) == count
    assert np.abs(np.array(found) - np.array(list(golden.values()))).max() < 1e-4
