"""Room 11: weights are written whole or not at all, any Keras can read them, and no file can do harm."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from CatDogClassifier import CatDogClassifier, WeightsError, WriteError, write_whole
from conftest import forward

PHOTOS = np.random.default_rng(9).integers(0, 256, (3, 150, 150, 3), dtype=np.uint8)


def answers(classifier):
    return forward(classifier.predictor, PHOTOS)[:, 1]


def loaded(path):
    classifier = CatDogClassifier(weights=str(path), quiet=True)
    classifier.load_weights()
    return classifier


def plain_net(keras):
    """The tutorial's code, in whichever Keras is given: names and flags are that library's own."""
    layers = keras.layers
    net = keras.Sequential()
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


def their_answers(net):
    return net.predict(PHOTOS.astype(np.float32) / 255, verbose=0)[:, 0]


def test_saved_and_loaded_weights_answer_alike(trained, weights):
    assert np.array_equal(answers(loaded(weights)), answers(trained))


def test_the_file_tells_what_is_needed_to_use_it(trained, weights):
    with h5py.File(weights) as file:
        facts = json.loads(file.attrs["catdogclassifier"])
    assert facts["classes"] == ["cat", "dog"]
    assert facts["image_size"] == 150
    assert facts["rung"] == "default"
    assert facts["summary"]["test"]["total"] == 16
    assert set(facts["versions"]) == {"keras", "tensorflow", "numpy"}
    assert loaded(weights).facts == facts


def test_keras_3_reads_the_file_with_load_weights(trained, weights):
    import keras

    net = plain_net(keras)
    net.load_weights(weights)
    assert their_answers(net) == pytest.approx(answers(trained), abs=1e-5)


def test_keras_2_reads_the_file_with_load_weights(trained, weights):
    tf_keras = pytest.importorskip("tf_keras", reason="the Keras 2 check needs tf_keras")
    net = plain_net(tf_keras)
    net.load_weights(weights)
    assert their_answers(net) == pytest.approx(answers(trained), abs=1e-5)


@pytest.mark.parametrize("save", ["save_weights", "save"])
def test_files_of_the_tutorials_own_keras_2_code_load(tmp_path, save):
    tf_keras = pytest.importorskip("tf_keras", reason="the Keras 2 check needs tf_keras")
    plain_net(tf_keras)  # so that the next one's layers are numbered on: names must not matter
    net = plain_net(tf_keras)
    path = str(tmp_path / "CatDogClassifier_model.h5")
    getattr(net, save)(path)
    classifier = loaded(path)
    assert answers(classifier) == pytest.approx(their_answers(net), abs=1e-5)
    assert classifier.classes == ("cat", "dog")


def test_whole_model_files_of_keras_3_load_as_weights(tmp_path):
    import keras

    net = plain_net(keras)
    net.save(tmp_path / "model.h5")
    assert answers(loaded(tmp_path / "model.h5")) == pytest.approx(their_answers(net), abs=1e-5)


def test_a_model_is_never_deserialised(tmp_path, weights):
    """A file whose model description is poison is read for its numbers only."""
    path = tmp_path / "poison.h5"
    path.write_bytes(Path(weights).read_bytes())
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Lambda", "config": {"function": "poison"}})
    assert np.array_equal(answers(loaded(path)), answers(loaded(weights)))


def damaged(tmp_path, weights, name):
    """A copy of the weights, damaged in one of the ways that DAMAGE names."""
    path = tmp_path / "damaged.h5"
    path.write_bytes(Path(weights).read_bytes())
    with h5py.File(path, "a") as file:
        DAMAGE[name](file)
    return path


def other_shape(file):
    del file["dense_1/dense_1/bias:0"]
    file.create_dataset("dense_1/dense_1/bias:0", data=np.zeros(2, np.float32))


def other_type(file):
    del file["dense_1/dense_1/bias:0"]
    file.create_dataset("dense_1/dense_1/bias:0", data=np.zeros(1, np.int64))


def group_for_array(file):
    del file["dense_1/dense_1/bias:0"]
    file.create_group("dense_1/dense_1/bias:0")


DAMAGE = {
    "an array of another shape": other_shape,
    "an array of another type": other_type,
    "a group in the place of an array": group_for_array,
    "a layer less": lambda file: file.attrs.__setitem__("layer_names", file.attrs["layer_names"][:-1]),
    "a missing array": lambda file: file.__delitem__("conv2d_0/conv2d_0/kernel:0"),
    "a missing layer": lambda file: file.__delitem__("dense_0"),
    "no names of layers": lambda file: file.attrs.__delitem__("layer_names"),
    "facts that are no JSON": lambda file: file.attrs.__setitem__("catdogclassifier", "{"),
    "facts of another kind": lambda file: file.attrs.__setitem__("catdogclassifier", "[1]"),
    "a number that is none": lambda file: file["dense_1/dense_1/bias:0"].__setitem__(0, np.nan),
    "classes in another order": lambda file: file.attrs.__setitem__("catdogclassifier", '{"classes": ["dog", "cat"]}'),
    "one class twice": lambda file: file.attrs.__setitem__("catdogclassifier", '{"classes": ["cat", "cat"]}'),
    "a net of a later version": lambda file: file.attrs.__setitem__("catdogclassifier", '{"rung": "other"}'),
    "classes of another kind": lambda file: file.attrs.__setitem__("catdogclassifier", '{"classes": [1, 2]}'),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, weights, name):
    with pytest.raises(WeightsError) as refusal:
        loaded(damaged(tmp_path, weights, name))
    assert str(tmp_path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_what_is_no_weights_file_is_refused(tmp_path, content):
    path = tmp_path / "model.h5"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="model.h5"):
        loaded(path)


def test_a_truncated_file_is_refused(tmp_path, weights):
    path = tmp_path / "half.h5"
    path.write_bytes(Path(weights).read_bytes()[:1_000_000])
    with pytest.raises(WeightsError, match="half.h5"):
        loaded(path)


def test_the_weights_of_another_net_are_refused(tmp_path):
    import keras

    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    net.save(tmp_path / "other.h5")
    with pytest.raises(WeightsError, match="another net"):
        loaded(tmp_path / "other.h5")


def test_a_weights_file_in_the_newer_keras_format_is_refused_clearly(tmp_path):
    import keras

    plain_net(keras).save_weights(tmp_path / "x.weights.h5")
    with pytest.raises(WeightsError, match="x.weights.h5"):
        loaded(tmp_path / "x.weights.h5")


def test_a_file_that_does_not_load_leaves_the_net_as_it_was(trained, tmp_path):
    before, history = answers(trained), trained.history
    (tmp_path / "broken.h5").write_bytes(b"broken")
    with pytest.raises(WeightsError):
        trained.load_weights(tmp_path / "broken.h5")
    assert np.array_equal(answers(trained), before)
    assert trained.history is history


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.h5").write_bytes(b"old")
    (tmp_path / "link.h5").symlink_to("real.h5")
    write_whole(tmp_path / "link.h5", b"new")
    assert (tmp_path / "link.h5").is_symlink()
    assert (tmp_path / "real.h5").read_bytes() == b"new"


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    path = tmp_path / "model.h5"
    write_whole(path, b"old")

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(WriteError, match=r"model\.h5: No space left on device"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.h5"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.h5"
    write_whole(path, b"old")

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.h5"]
