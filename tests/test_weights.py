"""The weights file: whole or not at all, readable by any Keras, and no file can do harm."""

import errno
import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path
from unittest import mock

import h5py
import keras
import numpy as np
import pytest
from test_classifier import dogs, load

import CatDogClassifier as program
from CatDogClassifier import CatDogClassifier, CatDogError
from conftest import quick, refusal, tree

PHOTOS = np.random.default_rng(9).integers(0, 256, (3, 150, 150, 3), dtype=np.uint8)
keras_2 = pytest.mark.parametrize("library", ["keras", "tf_keras"])  # tf_keras is Keras 2


def answers(model):
    """What a model itself makes of the photos: P(dog)."""
    return model.predict(PHOTOS.astype(np.float32) / 255, verbose=0)[:, 0]


def tutorial_net(library):
    """The tutorial's code, in whichever Keras: names and flags are that library's own."""
    keras = pytest.importorskip(library, reason="the Keras 2 check needs tf_keras")
    layers, net = keras.layers, keras.Sequential()
    net.add(layers.Conv2D(32, (3, 3), activation="relu", input_shape=(150, 150, 3)))
    net.add(layers.MaxPooling2D((2, 2)))
    for filters in (64, 128, 128, 256):
        net.add(layers.Conv2D(filters, (3, 3), activation="relu"))
        net.add(layers.MaxPooling2D((2, 2)))
    net.add(layers.Flatten())
    net.add(layers.Dropout(0.5))
    net.add(layers.Dense(512, activation="relu"))
    net.add(layers.Dense(1, activation="sigmoid"))
    net.compile(optimizer="rmsprop", loss="binary_crossentropy", metrics=["acc"])
    return net


# What it holds, and who reads it. -----------------------------------------------------------------


def test_the_file_tells_what_is_needed_to_use_it(trained, weights):
    with h5py.File(weights) as file:
        text, digest = file.attrs["catdogclassifier"], file.attrs["digest"]
        groups = [(layer, file[layer]) for layer in file.attrs["layer_names"]]
        names = [(layer, name) for layer, group in groups for name in group.attrs["weight_names"]]
        arrays = [file[layer][name][()] for layer, name in names]
    info = json.loads(text)
    known = {"architecture": "default", "base": None, "classes": ["cat", "dog"]}
    known |= {"is_synthetic": False, "program": program.PROGRAM}
    assert {name: info[name] for name in known} == known
    assert (info["summary"]["test"]["total"], info["recipe"]["optimizer"]) == (16, "adam")
    assert load(weights).info == info == json.loads(json.dumps(trained.info))
    assert names[0] == (b"conv2d_0", b"conv2d_0/kernel:0")  # as in files of Keras 2
    assert all(map(np.array_equal, arrays, trained.model.get_weights()))
    sealed = b"".join([text, *(array.tobytes() for array in arrays)])
    assert hashlib.sha256(sealed).hexdigest().encode() == digest


@keras_2
def test_any_keras_reads_the_file_with_load_weights(weights, trained, library):
    net = tutorial_net(library)
    net.load_weights(weights)
    assert answers(net) == pytest.approx(answers(trained.model), abs=1e-5)
    assert np.array_equal(answers(load(weights).model), answers(trained.model))


@keras_2
@pytest.mark.parametrize("save", ["save_weights", "save"])
def test_files_of_the_tutorials_own_code_load(tmp_path, save, library):
    tutorial_net(library)  # so that the next one's layers are numbered on: names must not matter
    net, path = tutorial_net(library), str(tmp_path / "CatDogClassifier_model.h5")
    if (library, save) == ("keras", "save_weights"):  # Keras 3 has a format of its own for that
        path = str(tmp_path / "x.weights.h5")
        net.save_weights(path)
        with pytest.raises(CatDogError, match=r"x\.weights\.h5"):
            load(path)
        return
    getattr(net, save)(path)
    classifier = load(path)
    assert answers(classifier.model) == pytest.approx(answers(net), abs=1e-5)
    assert (classifier.classes, classifier.info["temperature"]) == (("cat", "dog"), 1.0)


# What is wrong with a file is one line. -----------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100), None])
def test_what_is_no_weights_file_or_half_of_one_is_refused(colours, tmp_path, content):
    path = tmp_path / "model.h5"
    path.write_bytes(Path(colours).read_bytes()[:100_000] if content is None else content)
    with pytest.raises(CatDogError, match=r"model\.h5 is not a weights file that can be read"):
        load(path)


def test_a_file_may_hold_numbers_of_16_bits_but_none_too_large_for_them(trained, tmp_path):
    path, exact = tmp_path / "small.h5", trained.model.get_weights()
    path.write_bytes(program.save_h5(trained.net, "float16"))
    found = load(path).model.get_weights()
    rounded = [array.astype(np.float16).astype(np.float32) for array in exact]
    assert all(map(np.array_equal, found, rounded)) and found[0].dtype == np.float32
    trained.model.set_weights([exact[0] + 70_000, *exact[1:]])
    with np.errstate(over="ignore"):
        path.write_bytes(program.save_h5(trained.net, "float16"))
    trained.model.set_weights(exact)
    with pytest.raises(CatDogError, match="numbers are not finite"):
        load(path)


def test_a_file_that_does_not_load_leaves_all_as_it_was(trained, tmp_path):
    path, before = tmp_path / "other.h5", dict(vars(trained))
    weights = trained.model.get_weights()
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(path)
    with pytest.raises(CatDogError, match="another net"):
        trained.load_weights(path)
    with pytest.raises(CatDogError, match="missing"):
        trained.load_weights(tmp_path / "missing.h5")
    assert vars(trained) == before
    assert all(map(np.array_equal, trained.model.get_weights(), weights))


# It is written whole or not at all. ---------------------------------------------------------------


@pytest.fixture
def saver(colours, tmp_path):
    """A classifier that can save, over an older file."""
    shutil.copy(colours, tmp_path / "net.h5")
    classifier = quick(tmp_path, model="happy")
    classifier.createModel()
    return classifier


def test_before_there_is_a_net_nothing_is_saved(tmp_path):
    with pytest.raises(CatDogError, match="there is no net to save yet"):
        quick(tmp_path).save_weights()
    assert os.listdir(tmp_path) == []


def test_a_link_stays_a_link_and_a_mode_stays_too(saver, tmp_path):
    real = (tmp_path / "net.h5").rename(tmp_path / "real.h5")
    real.chmod(0o600)
    (tmp_path / "net.h5").symlink_to("real.h5")
    before = real.read_bytes()
    saver.save_weights()
    assert (tmp_path / "net.h5").is_symlink()
    assert real.read_bytes() != before
    assert real.stat().st_mode & 0o777 == 0o600
    assert all(map(np.array_equal, load(real).model.get_weights(), saver.model.get_weights()))


FAILURES = {"interrupted": (KeyboardInterrupt, KeyboardInterrupt, None)}
FAILURES["full"] = OSError(errno.ENOSPC, "No space left"), CatDogError, r"net\.h5: No space left"


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("how", FAILURES)
def test_a_failed_write_leaves_the_old_file_alone(saver, tmp_path, monkeypatch, failing, how):
    error, wanted, words = FAILURES[how]
    monkeypatch.setattr(os, failing, mock.Mock(side_effect=error))
    before = tree(tmp_path)
    with pytest.raises(wanted, match=words):
        saver.save_weights()
    assert list(before) == ["net.h5"] and tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["a text", "HDF5"])
def test_a_file_that_this_program_did_not_write_is_never_replaced(saver, tmp_path, kind):
    path = tmp_path / "net.h5"
    path.write_bytes(b"# My notes")
    if kind == "HDF5":
        with h5py.File(path, "w") as file:
            file["x"] = np.arange(10)
    before = path.read_bytes()
    with pytest.raises(CatDogError, match=r"net\.h5 is there already, not written by this program"):
        saver.save_weights()
    assert path.read_bytes() == before


# --export. ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [".tflite", ".keras", ".onnx"])
def test_an_export_answers_as_the_net_and_says_its_classes(kind, run, colours, dataset, tmp_path):
    extras = {".tflite": ["ai_edge_litert"], ".onnx": ["onnx", "tf2onnx", "onnxruntime"]}
    for name in extras.get(kind, ()):
        pytest.importorskip(name, reason=f"pip install {name.replace('_', '-')}")
    target = tmp_path / f"net{kind}"
    assert run("--weights", colours, "--export", target, "-q") == (0, f"exported {target}\n", "")
    assert run("--weights", colours, "--export", target, "-q")[0] == 0  # it is ours to replace
    rows = CatDogClassifier(weights=colours).predict(dataset / "test")
    photos = np.stack([program.read_photo(row.path, 64) for row in rows])
    pixels = photos.astype(np.float32) / 255
    if kind == ".onnx":
        import onnx
        import onnxruntime

        about = {each.key: each.value for each in onnx.load(target).metadata_props}
        about, session = about["CatDogClassifier"], onnxruntime.InferenceSession(target)
        (found,) = session.run(None, {session.get_inputs()[0].name: pixels})
    else:
        about = zipfile.ZipFile(target).read("CatDogClassifier.json")
        if kind == ".keras":
            found = keras.models.load_model(target).predict(pixels, verbose=0)
        else:
            found = program.litert_forward(target.read_bytes())(photos)
    assert json.loads(about)["classes"] == ["cat", "dog"]
    assert found[:, 0] == pytest.approx(dogs(rows), abs=1e-5)


def test_an_export_takes_no_other_name_and_no_other_files_place(run, colours, tmp_path):
    assert run("--weights", colours, "--export", tmp_path / "net.bin")[0] == 2
    (tmp_path / "net.keras").write_bytes(b"mine")
    err = refusal(run("--weights", colours, "--export", tmp_path / "net.keras"))
    assert "is there already" in err
    assert (tmp_path / "net.keras").read_bytes() == b"mine"
