"""The weights file: whole or not at all, readable by any Keras, and no file can do harm."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import CatDogClassifier as program
from CatDogClassifier import CatDogClassifier, CatDogError
from conftest import quick

PHOTOS = np.random.default_rng(9).integers(0, 256, (3, 150, 150, 3), dtype=np.uint8)
keras_2 = pytest.mark.parametrize("library", ["keras", "tf_keras"])  # tf_keras is Keras 2


def load(path, **settings):
    """A classifier with the weights of a file."""
    classifier = CatDogClassifier(weights=str(path), quiet=True, **settings)
    classifier.load_weights()
    return classifier


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
    found = hashlib.sha256(text)
    for array in arrays:
        found.update(array.tobytes())
    assert found.hexdigest().encode() == digest


@keras_2
def test_any_keras_reads_the_file_with_load_weights(weights, trained, library):
    net = tutorial_net(library)
    net.load_weights(weights)
    assert answers(net) == pytest.approx(answers(trained.model), abs=1e-5)
    raw = trained.model.predict(PHOTOS / np.float32(255), verbose=0)[:, 0]
    assert answers(load(weights).model).tolist() == raw.tolist()


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


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A weights file of 150 kB, of a net that nobody has trained."""
    classifier = quick(tmp_path_factory.mktemp("own"), model="happy")
    classifier.createModel()
    classifier.save_weights()
    return Path(classifier.settings.weights)


KERNEL, BIAS = "conv0/conv0/kernel:0", "fc/fc/bias:0"


def without(name):
    """A change that takes an attribute or an item away."""
    return lambda file: (file.attrs if name in file.attrs else file).__delitem__(name)


def instead(name, make, *arguments, **options):
    """A change that puts something else in the place of an array."""

    def change(file):
        del file[name]
        getattr(file, make)(name, *arguments, **options)

    return change


def said(text):
    """Another text of metadata, with the digest that belongs to it: anybody can compute that."""

    def change(file):
        found = hashlib.sha256(text.encode())
        for group in (file[layer] for layer in file.attrs["layer_names"]):
            for name in group.attrs["weight_names"]:
                found.update(group[name][()].tobytes())
        file.attrs["catdogclassifier"] = np.bytes_(text.encode())
        file.attrs["digest"] = np.bytes_(found.hexdigest().encode())

    return change


def copied(own, folder, change):
    """A copy with a change."""
    path = Path(shutil.copy(own, folder / "damaged.h5"))
    with h5py.File(path, "a") as file:
        change(file)
    return path


DAMAGED = {
    "an array of another shape": instead(BIAS, "create_dataset", data=np.zeros(2, np.float32)),
    "one that is not stored": instead(BIAS, "create_dataset", (1,), np.float32),
    "a group for an array": instead(BIAS, "create_group"),
    "a missing array": without(KERNEL),
    "a missing layer": without("fc"),
    "no names of layers": without("layer_names"),
    "a layer less": lambda file: file.attrs.create("layer_names", file.attrs["layer_names"][:-1]),
    "a text that is no JSON": said("{"),
    "a list": said("[1]"),
    "three classes": said('{"architecture": "happy", "classes": ["a", "b", "c"]}'),
    "classes in another order": said('{"architecture": "happy", "classes": ["dog", "cat"]}'),
    "one class twice": said('{"architecture": "happy", "classes": ["cat", "cat"]}'),
    "a class without a name": said('{"architecture": "happy", "classes": ["", "cat"]}'),
    "classes of another kind": said('{"architecture": "happy", "classes": [1, 2]}'),
    "a base that is a list": said('{"architecture": "frozen", "base": ["vgg16"]}'),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_file_is_refused_in_one_line(own, tmp_path, what):
    with pytest.raises(CatDogError, match=r"damaged\.h5") as refusal:
        load(copied(own, tmp_path, DAMAGED[what]))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", [b"catdogclassifier", b"digest", b"layer_names"])
def test_a_damaged_name_does_not_make_our_file_one_of_another_program(own, tmp_path, name):
    content = own.read_bytes()
    assert name in content
    (tmp_path / "damaged.h5").write_bytes(content.replace(name, b"X" + name[1:]))
    with pytest.raises(CatDogError, match=r"damaged\.h5"):
        load(tmp_path / "damaged.h5", model="happy")


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100), None])
def test_what_is_no_weights_file_or_half_of_one_is_refused(own, tmp_path, content):
    path = tmp_path / "model.h5"
    path.write_bytes(own.read_bytes()[:100_000] if content is None else content)
    with pytest.raises(CatDogError, match=r"model\.h5 is not a weights file that can be read"):
        load(path)


def test_a_file_that_does_not_load_leaves_all_as_it_was(trained, own, tmp_path):
    import keras

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
def saver(own, tmp_path):
    """A classifier that can save, over an older file."""
    shutil.copy(own, tmp_path / "net.h5")
    classifier = quick(tmp_path, model="happy", seed=2)
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


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("how", ["full", "interrupted"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    saver, tmp_path, monkeypatch, failing, how
):
    def fail(*arguments):
        full = OSError(errno.ENOSPC, "No space left on device")
        raise full if how == "full" else KeyboardInterrupt

    before = (tmp_path / "net.h5").read_bytes()
    monkeypatch.setattr(os, failing, fail)
    wanted = CatDogError if how == "full" else KeyboardInterrupt
    with pytest.raises(wanted, match=r"net\.h5: No space left" if how == "full" else None):
        saver.save_weights()
    assert (tmp_path / "net.h5").read_bytes() == before
    assert os.listdir(tmp_path) == ["net.h5"]


def other_hdf5(path):
    """Somebody's data."""
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(10)
    return path.read_bytes()


@pytest.mark.parametrize("content", [b"# My notes", b"\x89PNG\r\n\x1a\n", b"cat", None])
def test_a_file_that_this_program_did_not_write_is_never_replaced(
    saver, dataset, tmp_path, run, content
):
    path = tmp_path / "net.h5"
    content = other_hdf5(path) if content is None else content
    path.write_bytes(content)
    with pytest.raises(CatDogError, match=r"net\.h5 is there already, not written by this program"):
        saver.save_weights()
    code, _, err = run("--dataset", dataset, "--weights", path, "--epochs", 1)
    assert (code, err.count("\n")) == (1, 1)  # before the training
    assert path.read_bytes() == content
