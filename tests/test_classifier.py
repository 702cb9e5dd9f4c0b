"""The class: it learns what can be learned and nothing else, keeps the best, answers in rows."""

import copy
import csv
import errno
import io
import itertools
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from test_cli import NO_PHOTO

import CatDogClassifier as program
from CatDogClassifier import CatDogClassifier, CatDogError, Prediction, UsageError, keras
from conftest import link_real, make_dataset, python, quick, tint


def small(folder, **settings):
    """A classifier that is compiled and trained sooner than any other: three dense layers."""
    chosen = {"model": "signs", "learning_rate": 0.003, "recipe": "tutorial", **settings}
    return quick(folder, **chosen)


def load(path, **settings):
    """A classifier with the weights of a file."""
    classifier = CatDogClassifier(weights=str(path), quiet=True, **settings)
    classifier.load_weights()
    return classifier


def dogs(rows):
    """P(dog) of each row."""
    return [row.probabilities["dog"] for row in rows]


def pixels(paths, size):
    """Photos as a net gets them: float32 (N, size, size, 3), 0..1."""
    return np.stack([program.read_photo(path, size) for path in paths]) / np.float32(255)


def equal(weights, others):
    """Whether two lists of arrays hold the same numbers."""
    return all(np.array_equal(one, other) for one, other in zip(weights, others, strict=True))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """The weights of such a net that has learned to tell tinted photos apart."""
    folder = tmp_path_factory.mktemp("learned")
    data = make_dataset(folder / "data", {"train": 12, "validation": 6, "test": 6})
    small(folder, epochs=8).train(data)
    return folder / "net.h5"


# What it learns. ----------------------------------------------------------------------------------


def test_it_learns_what_can_be_learned(trained):
    summary = trained.info["summary"]
    assert (summary["validation"]["accuracy"], summary["test"]["accuracy"]) == (1.0, 1.0)
    scores = trained.evaluate()
    assert (scores["correct"], scores["confusion"]) == (16, [[8, 0], [0, 8]])
    assert trained.evaluate(split="train")["total"] == 48


def test_it_does_not_learn_what_cannot_be_learned(tmp_path):
    """Half of each colour in each class: the labels have nothing to do with the photos."""
    counts, halves = {"train": 16, "validation": 16, "test": 16}, ("cat", "dog")
    data = make_dataset(tmp_path / "data", counts, relabel=lambda label, number: halves[number % 2])
    classifier = small(tmp_path)
    classifier.train(data)
    assert 0.25 <= classifier.info["summary"]["test"]["accuracy"] <= 0.75


def test_train_returns_the_keras_history_and_saves_it_as_a_table(trained, weights):
    history = trained.history
    assert isinstance(history, keras.callbacks.History)
    assert set(history.history) == {"loss", "acc", "val_loss", "val_acc"}
    with open(program.beside(weights, "_history.csv")) as file:
        rows = list(csv.DictReader(file))
    assert [int(row.pop("epoch")) for row in rows] == [1, 2, 3, 4]
    assert {n: [float(row[n]) for row in rows] for n in rows[0]} == history.history


def test_the_pictures_are_saved_as_the_methods_draw_them(trained, weights):
    figures = {"_accuracy.png": trained.showAcc(), "_loss.png": trained.showLoss()}
    figures["_reliability.png"] = program.draw_reliability(**trained.info["summary"]["calibration"])
    for ending, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        with Image.open(program.beside(weights, ending)) as saved, Image.open(buffer) as drawn:
            assert np.array_equal(np.asarray(saved), np.asarray(drawn))
    files = {"net" + ending for ending in (".h5", "_history.csv", *figures)}
    assert files == set(trained.info["summary"]["files"])
    assert files | {"data"} == {path.name for path in Path(weights).parent.iterdir()}


def test_load_data_gives_batches_as_the_tutorial_describes_them(dataset, tmp_path):
    train, validation = quick(tmp_path).load_data(dataset)
    photos, labels = map(np.asarray, next(iter(train)))
    assert (photos.shape, labels.shape) == ((8, 150, 150, 3), (8, 1))
    assert 0 <= photos.min() <= photos.max() <= 1
    reds = photos[..., 0].mean(axis=(1, 2)) > photos[..., 2].mean(axis=(1, 2))
    assert np.array_equal(labels[:, 0] == 0, reds)  # 0 is cat, the reddish ones
    assert sum(len(labels) for _, labels in validation) == 12
    train, validation = quick(tmp_path, model="residual", augment=True).load_data(dataset)
    assert next(iter(train))[0].shape == (8, 112, 112, 3)  # crops look larger than whole photos
    assert next(iter(validation))[0].shape == (8, 160, 160, 3)


@pytest.mark.parametrize(("augment", "unchanged"), [(False, 24), (True, 0)])
def test_training_photos_are_augmented_unless_told_otherwise(dataset, tmp_path, augment, unchanged):
    still = pixels(program.list_photos(dataset / "train"), 64)
    train, _ = small(tmp_path, augment=augment).load_data(dataset)
    shown = np.concatenate([np.asarray(photos) for photos, _ in train])
    same = [np.isclose(photo, still, atol=1e-6).all((1, 2, 3)).any() for photo in shown]
    assert sum(same) == unchanged


@pytest.mark.slow
def test_the_tutorials_protocol_learns_something_from_real_photos(real, tmp_path):
    """300 real photos of each class, a few epochs: clearly better than chance on others."""
    data = link_real(real, tmp_path / "data", {"train": 300, "validation": 100, "test": 250})
    classifier = quick(tmp_path, epochs=12, seed=0)
    classifier.train(data)
    assert classifier.info["summary"]["test"]["interval"][0] > 0.5


# Which epoch is kept, which one is the last, and going on. ----------------------------------------


def play(monkeypatch, losses, accuracies=None, interrupt_in=None):
    """Let keras.Model.fit play given validation losses; in an epoch, counted from 1, Ctrl-C comes.

    The weights of epoch N are told by the last bias, which is N; the accuracy is 1 - loss.
    """
    accuracies = accuracies or [1 - loss for loss in losses]

    def fit(model, *_, callbacks, initial_epoch, epochs, **more):
        told = keras.callbacks.CallbackList(callbacks, model=model)
        told.on_train_begin()
        model.stop_training = False
        for epoch in range(initial_epoch, epochs):
            told.on_epoch_begin(epoch)
            if epoch + 1 == interrupt_in:
                signal.raise_signal(signal.SIGINT)
            model.layers[-1].bias.assign([epoch + 1.0])
            told.on_train_batch_end(0, {"loss": 0.5, "acc": 0.5})
            logs = {"val_loss": losses[epoch], "val_acc": accuracies[epoch]}
            told.on_epoch_end(epoch, {"loss": 0.5, "acc": 0.5, **logs})
            if model.stop_training:
                break

    monkeypatch.setattr(keras.Model, "fit", fit)


def kept(model):
    """The epoch of `play` that the weights of a model are of."""
    return int(model.get_weights()[-1][0])


@pytest.mark.parametrize(
    "case",  # settings, losses, accuracies; epochs, the best one, why it ended
    [
        ({}, [0.9, 0.4, 0.6, 0.7, 0.8, 0.9], None, 6, 2, "all epochs"),
        ({}, [0.4, 0.4], None, 2, 1, "all epochs"),
        ({"patience": 3}, [0.9, 0.4, 0.6, 0.7, 0.8, 0.1], None, 5, 2, "stopped early"),
        ({"patience": 0}, [0.1] + [0.9] * 19, None, 20, 1, "all epochs"),
        ({"recipe": "best"}, [0.9, 0.4, 0.5, 0.6], [0.6, 0.8, 0.9, 0.9], 4, 2, "all epochs"),
        ({}, [0.9, 0.4, 0.6, 0.1], None, 3, 2, "interrupted"),
    ],
)
def test_the_best_epoch_is_kept_after_patience_or_ctrl_c(dataset, tmp_path, monkeypatch, case):
    settings, losses, accuracies, epochs, best, reason = case
    stopped = reason == "interrupted"
    play(monkeypatch, losses, accuracies, interrupt_in=epochs + 1 if stopped else None)
    classifier = small(tmp_path, epochs=len(losses), **{"patience": 0, **settings})
    classifier.train(dataset)
    summary = classifier.info["summary"]
    found = summary["epochs"], summary["best_epoch"], summary["stop_reason"]
    assert found == (epochs, best, reason)
    assert (tmp_path / "net.checkpoint").exists() is stopped  # what is needed to resume
    assert kept(classifier.model) == kept(load(tmp_path / "net.h5").model) == best
    assert load(tmp_path / "net.h5").info == json.loads(json.dumps(classifier.info))
    assert classifier.history.history["val_loss"] == losses[:epochs]


def test_an_early_ctrl_c_is_no_failed_training(dataset, tmp_path, monkeypatch, run, learned):
    play(monkeypatch, [0.9], interrupt_in=1)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path).train(dataset)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    path = shutil.copy(learned, tmp_path / "net.h5")
    code, out, err = run("--dataset", dataset, "--weights", path, "--model", "signs")
    assert (code, out, err.splitlines()[-1]) == (130, "", "CatDogClassifier: interrupted")
    assert path.read_bytes() == learned.read_bytes()


def test_a_loss_that_is_never_a_number_saves_nothing(dataset, tmp_path, monkeypatch, weights):
    play(monkeypatch, [float("nan")] * 4)
    shutil.copy(weights, tmp_path / "net.h5")
    classifier = small(tmp_path)
    with pytest.raises(CatDogError, match="from the start. Try a smaller --learning-rate"):
        classifier.train(dataset)
    assert classifier.model is None  # the next training starts over
    assert (tmp_path / "net.h5").read_bytes() == Path(weights).read_bytes()


def test_training_again_begins_with_the_weights_that_are_there(dataset, tmp_path):
    classifier = small(tmp_path, epochs=2)
    first = copy.deepcopy(classifier.train(dataset).history)
    again = classifier.train(dataset)
    assert (len(again.history["loss"]), again.epoch) == (2, [0, 1])
    assert again.history["loss"][0] < first["loss"][0]  # not from scratch
    classifier.createModel()
    assert classifier.history is None
    assert classifier.train(dataset).history["loss"][0] > again.history["loss"][0]


def test_an_interrupted_training_called_again_resumes(dataset, tmp_path, monkeypatch):
    classifier = small(tmp_path, epochs=4)
    play(monkeypatch, [0.9, 0.8, 0.1], interrupt_in=3)
    classifier.train(dataset)
    assert classifier.info["summary"]["epochs"] == 2
    play(monkeypatch, [0.1, 0.1, 0.7, 0.6])
    assert classifier.train(dataset).history["val_loss"] == [0.9, 0.8, 0.7, 0.6]


def test_to_answer_is_not_to_train_that_net_further(dataset, tmp_path, learned, monkeypatch):
    shutil.copy(learned, tmp_path / "net.h5")
    for lite in (True, False):
        if not lite:
            monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
        classifier = small(tmp_path, epochs=1, learning_rate=1e-12, seed=1)
        classifier.predict(dataset / "test")
        loss = classifier.train(dataset).history["val_loss"][0]
        assert loss > load(learned).info["summary"]["validation"]["loss"] + 0.1  # it began anew


def test_after_an_answer_of_the_shipped_net_ones_own_is_trained(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classifier = CatDogClassifier(epochs=1, quiet=True, dataset=str(dataset), augment=False)
    row, *_ = classifier.predict(dataset / "test")
    assert classifier.explain(row.path)[0].label == row.label in ("cat", "dog", "neither")
    with pytest.raises(CatDogError):
        classifier.train(tmp_path / "nowhere")
    classifier.train()
    assert classifier.info["architecture"] == "default"
    assert classifier.predict(dataset / "test")[0].label in ("cat", "dog")


def test_training_is_compiled_once(dataset, tmp_path, monkeypatch):
    traced = []
    for name in ("train_step", "test_step"):
        step = getattr(keras.Model, name)

        def traces(net, data, name=name, step=step):
            traced.append(name)
            return step(net, data)

        monkeypatch.setattr(keras.Model, name, traces)
    small(tmp_path, recipe="best", optimizer="muon").train(dataset)
    assert traced == ["train_step", "test_step"]


def test_a_learners_own_model_predict_is_what_the_program_answers(dataset, tmp_path):
    photos = list(program.list_photos(dataset))
    classifier = quick(tmp_path, model="happy", epochs=1)

    def agree():
        own = classifier.model.predict(pixels(photos, 64), verbose=0)[:, 0]
        assert dogs(classifier.predict(photos)) == pytest.approx(own.tolist(), abs=1e-5)
        assert np.ptp(own) > 0.01

    train, _ = classifier.load_data(dataset)
    model = classifier.createModel()
    model.fit(train, epochs=1, verbose=0)  # the tutorial's way
    assert classifier.model is model
    agree()
    classifier.train(dataset)
    classifier.info["temperature"] = 1.0  # which a model alone does not know
    agree()


def test_a_net_that_was_loaded_and_changed_answers_and_goes_on(dataset, tmp_path, learned):
    photos = list(program.list_photos(dataset / "test"))
    classifier = small(tmp_path, epochs=1, learning_rate=1e-12)
    classifier.load_weights(learned)
    before = [weight * 0.5 for weight in classifier.model.get_weights()]
    classifier.model.set_weights(before)
    own = classifier.model.predict(pixels(photos, 64), verbose=0).astype(np.float64)
    logits = np.log(own / (1 - own))[:, 0] / classifier.info["temperature"]
    assert dogs(classifier.predict(photos)) == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-6)
    classifier.train(dataset)
    for one, other in zip(classifier.model.get_weights(), before, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


# Answers. -----------------------------------------------------------------------------------------


def test_predict_takes_a_photo_a_list_or_a_folder(trained, tmp_path):
    rng = np.random.default_rng(8)
    paths = [tmp_path / f"{label}.png" for label in ("cat", "dog")]
    for path in paths:
        tint(path.stem, rng).save(path)
    (row,) = trained.predict(paths[0])
    assert (row.path, row.label, row.verdict, row.error) == (str(paths[0]), "cat", "cat", None)
    assert row.confidence == row.probabilities["cat"] == max(row.probabilities.values())
    assert sum(row.probabilities.values()) == pytest.approx(1)
    assert [row.label for row in trained.predict(paths)] == ["cat", "dog"]
    assert trained.predict(tmp_path) == trained.predict(map(str, paths))
    endless = trained.predict_each(itertools.repeat(paths[1]))  # rows come before the input ends
    assert [row.label for row in itertools.islice(endless, 70)] == ["dog"] * 70


def test_a_bad_photo_is_a_row_among_the_others_in_order(trained, tmp_path):
    rng, wanted = np.random.default_rng(8), [("cat", "dog")[number % 3 > 0] for number in range(70)]
    for number, label in enumerate(wanted):  # more than a batch
        tint(label, rng).save(tmp_path / f"{number}.png")
    wanted[5] = None
    (tmp_path / "5.png").write_bytes(b"broken")
    rows = trained.predict(tmp_path)
    assert [os.path.basename(row.path) for row in rows] == [f"{number}.png" for number in range(70)]
    assert rows[5] == Prediction(str(tmp_path / "5.png"), error=NO_PHOTO)
    assert [row.label for row in rows] == wanted


def test_training_and_prediction_see_the_same_pixels(dataset, weights, tmp_path):
    _, validation = quick(tmp_path).load_data(dataset)
    shown = np.concatenate([np.asarray(photos) for photos, _ in validation])
    classifier, seen = load(weights), []
    classifier.predictor.forward = lambda photos: seen.extend(photos) or np.zeros((len(photos), 1))
    classifier.predict(dataset / "validation")
    assert np.array_equal(np.stack(seen) / np.float32(255), shown)


def test_class_names_travel_with_the_weights_and_without_test_photos_is_no_score(tmp_path):
    names = {"cat": "Rose", "dog": "iris"}
    data = make_dataset(tmp_path / "data", {"train": 4, "validation": 4}, 0, lambda n, _: names[n])
    classifier = small(tmp_path, epochs=1)
    classifier.train(data)
    assert "test" not in classifier.info["summary"]
    photo = next(program.list_photos(data))
    (row,) = CatDogClassifier(weights=str(tmp_path / "net.h5"), quiet=True).predict(photo)
    assert list(row.probabilities) == ["iris", "rose"]


REFUSED = [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": -1}, {"learning_rate": float("nan")}]
REFUSED += [{"patience": -1}, {"seed": -1}, {"optimizer": "magic"}, {"precision": "int4"}]
REFUSED += [{"smoothing": 2}, {"smoothing": -0.1}]
REFUSED += [{"recipe": "magic", "model": "features"}]  # which takes the tutorial's either way


@pytest.mark.parametrize("setting", REFUSED)
def test_settings_out_of_range_are_refused_by_name(setting):
    with pytest.raises(UsageError, match="--" + next(iter(setting)).replace("_", "-")):
        CatDogClassifier(**setting)


@pytest.mark.parametrize("method", ["showAcc", "showLoss"])
def test_curves_before_training_are_an_error(method, tmp_path):
    classifier = quick(tmp_path, model="happy")
    for _ in range(2):
        with pytest.raises(CatDogError, match=r"Call train\(\) first"):
            getattr(classifier, method)()
        classifier.createModel()


# LiteRT, which answers sooner where it is installed, and never otherwise. -------------------------


@pytest.fixture
def litert(cache):
    """LiteRT, which is an extra; tests that want it are skipped without it."""
    return pytest.importorskip("ai_edge_litert.interpreter", reason="pip install ai-edge-litert")


@pytest.fixture
def untrained(tmp_path):
    """A weights file of a net that answers near 0.5, differently for each photo."""
    classifier = quick(tmp_path, model="happy")
    model = classifier.createModel()
    model.set_weights([weight * 0.5 for weight in model.get_weights()])
    classifier.save_weights()
    return classifier.settings.weights


def test_litert_answers_as_keras_does_without_tensorflow(litert, dataset, untrained):
    photos = list(program.list_photos(dataset))
    fast, expected = CatDogClassifier(weights=untrained), load(untrained).predict(photos)
    rows = fast.predict(photos)
    assert fast.model is None  # Keras was not needed
    assert [row.label for row in rows] == [row.label for row in expected]
    assert dogs(rows) == pytest.approx(dogs(expected), abs=1e-5)
    assert np.ptp(dogs(rows)) > 0.01
    assert dogs(fast.predict(photos[0])) == pytest.approx(dogs(expected)[:1], abs=1e-5)
    code = f"""import sys, CatDogClassifier as p
code = p.main(["-f", {photos[0]!r}, "--weights", {untrained!r}, "--json"])
print(code, {{"tensorflow", "keras", "matplotlib"}} & set(sys.modules))"""
    done = python("-c", code, text=True)
    assert (done.stdout.splitlines()[1:], done.stderr) == (["0 set()"], "")


def shares(path, folder):
    """P(dog) of the photos of a folder, by a fresh classifier."""
    return dogs(CatDogClassifier(weights=str(path), quiet=True).predict(folder))


def test_what_8_bits_spoil_is_answered_in_32(litert, dataset, tmp_path, monkeypatch, capsys):
    whole = program.to_litert

    def spoilt(net, photos=()):
        """In 8 bits a net that always says dog."""
        other = program.build_model(net.info["architecture"], net.info["base"], 2)
        other.layers[-1].bias.assign([99.0])
        return whole(net._replace(model=other) if len(photos) else net, photos)

    classifier = small(tmp_path, epochs=2, quiet=False, precision="auto")
    for make, said in ((whole, False), (spoilt, True)):
        monkeypatch.setattr(program, "to_litert", make)
        classifier.train(dataset)
        assert ("it answers in 32" in capsys.readouterr().err) is said


def test_litert_follows_the_weights_file(litert, cache, dataset, untrained):
    before, content = shares(untrained, dataset / "test"), Path(untrained).read_bytes()
    other, info = program.build_model("happy", "vgg16", 2), load(untrained).info
    Path(untrained).write_bytes(program.save_h5(program.Net(other, info)))
    assert shares(untrained, dataset / "test") != pytest.approx(before, abs=1e-3)
    Path(untrained).write_bytes(content)
    assert shares(untrained, dataset / "test") == pytest.approx(before, abs=1e-6)
    for number in range(30):
        (cache / f"{number}.tflite").touch()
    Path(untrained).write_bytes(program.save_h5(program.Net(other, {**info, "x": 1})))
    shares(untrained, dataset / "test")
    assert len(list(cache.glob("*.tflite"))) == 20  # the cache does not grow for ever


def test_a_damaged_conversion_never_answers_but_is_remade(litert, cache, dataset, untrained):
    before = shares(untrained, dataset / "test")
    (file,) = cache.glob("*.tflite")
    whole = file.read_bytes()
    flipped = whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]
    for damaged in (b"", flipped):
        file.write_bytes(damaged)
        assert shares(untrained, dataset / "test") == pytest.approx(before, abs=1e-6)
        file = max(cache.glob("*.tflite"), key=lambda path: path.stat().st_mtime_ns)
        assert file.read_bytes() != damaged


FAILING = {"unwilling": "ai_edge_litert.interpreter.Interpreter", "full disk": "os.fsync"}
FAILING["broken"] = "tensorflow.lite.TFLiteConverter.from_keras_model"


@pytest.mark.parametrize("how", ["not installed", "no cache", *FAILING])
def test_without_litert_all_works_as_before(how, cache, dataset, untrained, monkeypatch):
    expected = dogs(load(untrained).predict(dataset / "test"))
    if how == "not installed":
        monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    elif how == "no cache":
        cache.parent.write_bytes(b"a file where the folder should be")
    else:
        pytest.importorskip("ai_edge_litert", reason="pip install ai-edge-litert")
        fail = mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
        monkeypatch.setattr(FAILING[how], fail)
    assert shares(untrained, dataset / "test") == pytest.approx(expected, abs=1e-5)
