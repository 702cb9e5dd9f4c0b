"""Room 12: the class learns what can be learned and nothing else, keeps the best, and answers in rows."""

import contextlib
import csv
import io
import os
import shutil
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import CatDogClassifier as program
from CatDogClassifier import CatDogClassifier, DatasetError, Prediction, UsageError
from conftest import forward, make_dataset, python, quick, tint


def test_importing_the_module_imports_neither_tensorflow_nor_matplotlib():
    code = "import sys, CatDogClassifier; print([m for m in sys.modules if m in ('tensorflow', 'keras', 'matplotlib', 'h5py')])"
    assert python("-c", code, text=True).stdout.strip() == "[]"


def test_it_learns_what_can_be_learned(trained):
    assert trained.summary["validation"]["accuracy"] == 1.0
    assert trained.summary["test"]["accuracy"] == 1.0
    assert trained.evaluate(split="test")["correct"] == 16


def test_it_does_not_learn_what_cannot_be_learned(tmp_path):
    """Labels that have nothing to do with the photos: half of each colour in each class."""
    data = make_dataset(tmp_path / "data", {"train": 16, "validation": 16, "test": 16},
                        relabel=lambda label, number: ("cat", "dog")[number % 2])
    classifier = quick(tmp_path, dataset=str(data), epochs=3)
    classifier.train()
    assert 0.25 <= classifier.summary["test"]["accuracy"] <= 0.75


def test_train_returns_the_keras_history(trained):
    from keras.callbacks import History

    assert isinstance(trained.history, History)
    assert set(trained.history.history) == {"loss", "acc", "val_loss", "val_acc"}
    assert len(trained.history.history["loss"]) == trained.summary["epochs"] == 4


def test_the_history_is_saved_as_csv(trained, weights):
    with open(program.beside(weights, "_history.csv")) as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [float(row["val_loss"]) for row in rows] == trained.history.history["val_loss"]


def test_both_pictures_are_saved(trained, weights):
    for ending, figure in {"_accuracy.png": trained.showAcc(), "_loss.png": trained.showLoss()}.items():
        with Image.open(program.beside(weights, ending)) as saved, Image.open(io.BytesIO(program.pack_figure(figure))) as drawn:
            assert saved.size == (960, 600)
            assert saved.tobytes() == drawn.tobytes()


def test_load_data_gives_batches_as_the_tutorial_describes_them(dataset, tmp_path):
    train, validation = quick(tmp_path).load_data(dataset)
    photos, labels = next(iter(train))
    assert photos.shape == (8, 150, 150, 3)
    assert labels.shape == (8, 1)
    assert 0 <= float(photos.numpy().min()) <= float(photos.numpy().max()) <= 1
    assert sum(len(labels) for _, labels in validation) == 12
    reds = photos.numpy()[..., 0].mean(axis=(1, 2)) > photos.numpy()[..., 2].mean(axis=(1, 2))
    assert np.array_equal(labels.numpy()[:, 0] == 0, reds)  # 0 is cat, the reddish ones


def test_training_photos_are_augmented_unless_told_otherwise(dataset, tmp_path):
    still = [program.read_photo(path, 150) / 255 for path in program.list_photos(dataset / "train")]

    def found(batches):
        photos = np.concatenate([photos.numpy() for photos, _ in batches])
        return sum(any(np.allclose(photo, other, atol=1e-6) for other in still) for photo in photos)

    assert found(quick(tmp_path, augment=False).load_data(dataset)[0]) == 24
    assert found(quick(tmp_path, augment=True).load_data(dataset)[0]) == 0


def earlier_weights():
    """The bytes of a weights file that nothing else can have written."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["layer_names"] = np.array([b"earlier"])
    return buffer.getvalue()


EARLIER = earlier_weights()


class Script:
    """Stands in for `model.fit`: plays given validation losses through the callbacks, one epoch each.

    The validation accuracy is one minus the loss, where none is given.
    """

    def __init__(self, monkeypatch, losses, interrupt_after=None, accuracies=None):
        self.losses, self.interrupt_after = losses, interrupt_after
        self.accuracies = accuracies or [1 - loss for loss in losses]
        import keras

        monkeypatch.setattr(keras.Model, "fit", lambda model, *args, **kwargs: self.fit(model, **kwargs))

    def fit(self, model, callbacks, initial_epoch, epochs, **_):
        callbacks[0].on_train_begin()
        for callback in callbacks:
            callback.set_model(model)
        model.stop_training = False
        for epoch in range(initial_epoch, epochs):
            if self.interrupt_after == epoch:
                signal.raise_signal(signal.SIGINT)
                callbacks[1].on_train_batch_end(0, {"loss": 0.5, "acc": 0.5})
            model.layers[-1].bias.assign([float(epoch)])  # weights that tell the epoch
            logs = {"loss": 1 - epoch / 100, "acc": 0.5, "val_loss": self.losses[epoch],
                    "val_acc": self.accuracies[epoch]}
            for callback in callbacks:
                callback.on_epoch_begin(epoch, logs)
            for callback in callbacks:
                callback.on_epoch_end(epoch, logs)
            if model.stop_training:
                return


def saved_epoch(path):
    """The epoch, counted from 0, whose weights a file of a Script holds."""
    classifier = CatDogClassifier(weights=str(path), quiet=True)
    classifier.load_weights()
    return int(classifier.model.get_weights()[-1][0])


def test_the_best_epoch_is_saved_not_the_last(dataset, tmp_path, monkeypatch):
    classifier = quick(tmp_path, epochs=8)
    Script(monkeypatch, [0.9, 0.4, 0.6, 0.7, 0.8, 0.9, 0.9, 0.9])
    classifier.train(dataset)
    assert saved_epoch(tmp_path / "net.h5") == 1
    assert int(classifier.model.get_weights()[-1][0]) == 1
    assert classifier.summary["best_epoch"] == 2
    assert classifier.summary["overfitted_from"] == 3


@pytest.mark.parametrize(("recipe", "last", "kept"), [
    ("best", 0.85, 4), ("best", 0.8, 4), ("best", 0.79, 2), ("tutorial", 0.85, 2)])
def test_a_rate_that_falls_to_zero_keeps_its_last_epoch_if_that_is_as_often_right(recipe, last, kept, dataset, tmp_path, monkeypatch):
    classifier = quick(tmp_path, epochs=4, recipe=recipe, patience=0)
    Script(monkeypatch, [0.9, 0.4, 0.5, 0.6], accuracies=[0.6, 0.8, 0.9, last])
    classifier.train(dataset)
    assert (classifier.summary["best_epoch"], saved_epoch(tmp_path / "net.h5")) == (kept, kept - 1)


@pytest.mark.parametrize(("recipe", "expected"), [
    # 30 steps, each in its middle: three that rise, then half a cosine; a second training does the same again.
    ("best", [0.5 / 3, 1.5 / 3, 2.5 / 3, *(0.5 + 0.5 * np.cos(np.pi * (np.arange(27) + 0.5) / 27))]), ("tutorial", [1.0] * 30)])
def test_the_learning_rate_follows_the_recipe(recipe, expected, dataset, tmp_path, monkeypatch):
    rates, end = [], program.Training.end_batch
    monkeypatch.setattr(program.Training, "end_batch", lambda self, batch, logs: (
        rates.append(float(self.model.optimizer.learning_rate)), end(self, batch, logs)))
    classifier = quick(tmp_path, epochs=10, recipe=recipe, learning_rate=0.002, patience=0)
    classifier.train(dataset)
    assert rates == pytest.approx([0.002 * share for share in expected], rel=1e-5)
    classifier.settings = program.replace(classifier.settings, epochs=3)
    classifier.train(dataset)
    assert rates[30] == pytest.approx(0.002 if recipe == "tutorial" else 0.002 * 0.5 / 0.9, rel=1e-5)


def test_training_is_compiled_once(dataset, tmp_path, monkeypatch):
    import keras

    traced, steps = [], {name: getattr(keras.Model, name) for name in ("train_step", "test_step")}
    for name, step in steps.items():
        monkeypatch.setattr(keras.Model, name, lambda net, data, name=name, step=step: traced.append(name) or step(net, data))
    quick(tmp_path, dataset=str(dataset), optimizer="muon", epochs=2).train()
    assert traced == ["train_step", "test_step"]


def test_a_constant_learning_rate_that_was_set_by_hand_is_left_alone(dataset, tmp_path):
    classifier = quick(tmp_path, epochs=1, recipe="tutorial")
    classifier.createModel().optimizer.learning_rate = 1e-5
    classifier.train(dataset)
    assert float(classifier.model.optimizer.learning_rate) == pytest.approx(1e-5)


def test_every_recipe_has_a_flag():
    assert tuple(program.HOW) == program.RECIPES
    with pytest.raises(UsageError, match="--recipe magic is none of best, tutorial"):
        CatDogClassifier(recipe="magic", model="features")  # which takes the tutorial's either way


def test_it_stops_when_patience_has_run_out(dataset, tmp_path, monkeypatch):
    Script(monkeypatch, [0.9, 0.4, 0.6, 0.7, 0.8, 0.9, 0.1])
    classifier = quick(tmp_path, epochs=7, patience=3)
    classifier.train(dataset)
    assert (classifier.summary["epochs"], classifier.summary["ending"]) == (5, "stopped early")
    assert saved_epoch(tmp_path / "net.h5") == 1


def test_without_patience_it_never_stops_early(dataset, tmp_path, monkeypatch):
    Script(monkeypatch, [0.1] + [0.9] * 19)
    classifier = quick(tmp_path, epochs=20, patience=0)
    classifier.train(dataset)
    assert (classifier.summary["epochs"], classifier.summary["ending"]) == (20, "all epochs")


def test_ctrl_c_keeps_the_best_so_far(dataset, tmp_path, monkeypatch):
    Script(monkeypatch, [0.9, 0.4, 0.6], interrupt_after=3)
    classifier = quick(tmp_path, epochs=30)
    classifier.train(dataset)
    assert classifier.summary["ending"] == "interrupted"
    assert saved_epoch(tmp_path / "net.h5") == 1


def test_the_best_is_on_disk_before_training_ends(dataset, tmp_path, monkeypatch):
    Script(monkeypatch, [0.9, 0.4, 0.6], interrupt_after=3)
    classifier = quick(tmp_path, epochs=30)
    monkeypatch.setattr(classifier, "_finish", lambda *arguments: None)  # as if the process had been killed
    classifier.train(dataset)
    assert saved_epoch(tmp_path / "net.h5") == 1


def test_an_earlier_file_is_kept_as_previous(dataset, tmp_path, monkeypatch):
    Script(monkeypatch, [0.9, 0.4, 0.6])
    (tmp_path / "net.h5").write_bytes(EARLIER)
    quick(tmp_path, epochs=3).train(dataset)
    assert (tmp_path / "net.previous.h5").read_bytes() == EARLIER
    assert saved_epoch(tmp_path / "net.h5") == 1


def test_a_loss_that_is_never_a_number_is_an_error_and_saves_nothing(dataset, tmp_path, monkeypatch):
    Script(monkeypatch, [float("nan")] * 3)
    (tmp_path / "net.h5").write_bytes(EARLIER)
    classifier = quick(tmp_path, epochs=3)
    with pytest.raises(program.TrainingError, match="--learning-rate"):
        classifier.train(dataset)
    assert classifier.model is None  # the next training starts over
    assert (tmp_path / "net.h5").read_bytes() == EARLIER


def test_training_again_goes_on_from_where_it_stands(dataset, tmp_path):
    classifier = quick(tmp_path, epochs=2)
    first = classifier.train(dataset)
    model, losses = classifier.model, list(first.history["loss"])
    again = classifier.train(dataset)
    assert classifier.model is model
    assert again is first
    assert again.history["loss"][:2] == losses
    assert len(again.history["loss"]) == 4
    assert again.history["loss"][2] < losses[0]  # not from scratch


def test_going_on_never_replaces_better_weights_by_worse(dataset, tmp_path, monkeypatch):
    classifier = quick(tmp_path, epochs=2)
    classifier.train(dataset)
    before = classifier.model.get_weights()
    Script(monkeypatch, [99.0] * 4)
    kept = classifier.kept
    classifier.train(dataset)
    assert all(np.array_equal(a, b) for a, b in zip(classifier.model.get_weights(), before, strict=True))
    assert classifier.summary["best_epoch"] == kept  # of four epochs now, the one whose weights these are
    assert classifier.history.epoch == [0, 1, 2, 3]


def test_patience_counts_the_epochs_of_a_continued_training(dataset, tmp_path, monkeypatch):
    classifier = quick(tmp_path, epochs=9, patience=3)
    Script(monkeypatch, [0.9, 0.4] + [0.5] * 3 + [99.0] * 20)
    classifier.train(dataset)
    assert classifier.summary["epochs"] == 5
    classifier.train(dataset)
    assert classifier.summary["epochs"] == 8


def test_weights_that_were_loaded_and_not_bettered_keep_the_earlier_file_as_previous(dataset, tmp_path, monkeypatch, weights):
    (tmp_path / "net.h5").write_bytes(EARLIER)
    classifier = quick(tmp_path, epochs=2)
    classifier.load_weights(weights)
    before = classifier.model.get_weights()
    Script(monkeypatch, [99.0] * 2)
    classifier.train(dataset)
    assert (tmp_path / "net.previous.h5").read_bytes() == EARLIER
    assert all(np.array_equal(a, b) for a, b in zip(classifier.model.get_weights(), before, strict=True))
    assert classifier.summary["best_epoch"] == 0


def test_a_net_that_was_fitted_by_hand_is_the_one_that_answers(dataset, tmp_path, weights):
    classifier = CatDogClassifier(weights=weights, batch_size=8, precision="float32", quiet=True)
    train, _ = classifier.load_data(dataset)
    model = classifier.createModel()
    model.fit(train, epochs=1, verbose=0, shuffle=False)
    by_hand = model.predict(program.read_photo(dataset / "test/cat/cat.0.png", 150)[None] / np.float32(255), verbose=0)[0, 0]
    assert classifier.predict(dataset / "test/cat/cat.0.png")[0].probabilities["dog"] == pytest.approx(by_hand, abs=1e-6)
    assert classifier.model is model


def test_a_new_model_starts_a_new_history(dataset, tmp_path):
    classifier = quick(tmp_path, epochs=1)
    classifier.train(dataset)
    classifier.createModel()
    assert classifier.history is None
    assert len(classifier.train(dataset).history["loss"]) == 1


def test_ctrl_c_before_anything_was_kept_is_no_failed_training(dataset, tmp_path, monkeypatch):
    Script(monkeypatch, [0.9], interrupt_after=0)
    with pytest.raises(KeyboardInterrupt):
        quick(tmp_path, epochs=3).train(dataset)
    assert not (tmp_path / "net.h5").exists()


def test_the_same_seed_gives_the_same_training(tmp_path, dataset):
    histories = [quick(tmp_path, seed=seed, epochs=2, augment=True).train(dataset).history for seed in (3, 3, 4)]
    assert histories[0] == histories[1]
    assert histories[0] != histories[2]


def test_predict_takes_a_photo_a_list_or_a_folder(trained, tmp_path):
    rng = np.random.default_rng(8)
    paths = [tmp_path / f"{label}.png" for label in ("cat", "dog")]
    for path in paths:
        tint(path.stem, rng).save(path)
    one = trained.predict(paths[0])
    assert [(row.path, row.label, row.error) for row in one] == [(str(paths[0]), "cat", None)]
    assert [row.label for row in trained.predict(paths)] == ["cat", "dog"]
    assert trained.predict(tmp_path) == trained.predict([str(path) for path in paths])
    assert one[0].confidence == max(one[0].probabilities.values())
    assert sum(one[0].probabilities.values()) == pytest.approx(1)


def test_a_bad_photo_is_a_row_among_the_others_in_order(trained, tmp_path):
    rng = np.random.default_rng(8)
    for number in range(70):  # more than a batch
        tint("dog" if number % 3 else "cat", rng).save(tmp_path / f"{number}.png")
    (tmp_path / "5.png").write_bytes(b"broken")
    rows = trained.predict(tmp_path)
    assert [os.path.basename(row.path) for row in rows] == [f"{number}.png" for number in range(70)]
    assert rows[5] == Prediction(str(tmp_path / "5.png"), error="not a photo that can be read (JPEG, PNG, GIF, BMP, WEBP)")
    assert [row.label for i, row in enumerate(rows) if i != 5] == ["dog" if i % 3 else "cat" for i in range(70) if i != 5]


@contextlib.contextmanager
def somebody_else():
    """Not root for a while: permissions do not bind root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_photo_or_folder_without_permission_is_a_row(trained, tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "closed").mkdir()
    tint("cat", np.random.default_rng(0)).save(tmp_path / "open" / "secret.png")
    for path in (tmp_path / "open" / "secret.png", tmp_path / "closed"):
        path.chmod(0)
    with somebody_else():
        rows = trained.predict([tmp_path / "open" / "secret.png", *program.list_photos(tmp_path / "closed")])
    assert [row.error for row in rows] == ["cannot be read: Permission denied"] * 2


def test_training_and_prediction_see_the_same_pixels(dataset, tmp_path, monkeypatch, trained):
    path = dataset / "validation" / "cat" / "cat.0.png"
    _, validation = quick(tmp_path).load_data(dataset)
    photos, _ = next(iter(validation))
    seen = []
    monkeypatch.setattr(program, "outputs", lambda model, photos: seen.extend(photos) or np.full((len(photos), 2), 0.5))
    trained.predict(path)
    assert np.array_equal((seen[0] / np.float32(255)), photos.numpy()[0])


def test_class_names_travel_with_the_weights(tmp_path):
    data = make_dataset(tmp_path / "data", {"train": 4, "validation": 4})
    for split in ("train", "validation"):
        (data / split / "cat").rename(data / split / "Rose")
        (data / split / "dog").rename(data / split / "iris")
    quick(tmp_path, epochs=1).train(data)
    photo = next(program.list_photos(data))
    [row] = CatDogClassifier(weights=str(tmp_path / "net.h5"), quiet=True).predict(photo)
    assert set(row.probabilities) == {"iris", "rose"}


def test_folder_names_are_accepted_in_any_case_and_number(dataset, tmp_path):
    expected = quick(tmp_path).load_data(dataset)[1]
    (dataset / "validation").rename(dataset / "VAL")
    (dataset / "VAL" / "cat").rename(dataset / "VAL" / "Cats")
    (dataset / "train" / "dog").rename(dataset / "train" / "DOGS")
    given = quick(tmp_path).load_data(dataset)[1]
    for (photos, labels), (others, truth) in zip(expected, given, strict=True):
        assert np.array_equal(photos, others)
        assert np.array_equal(labels, truth)


def spoil(dataset, how):
    if how == "no folder":
        shutil.rmtree(dataset)
    elif how == "no validation":
        shutil.rmtree(dataset / "validation")
    elif how == "one class":
        shutil.rmtree(dataset / "train" / "dog")
    elif how == "three classes":
        (dataset / "train" / "bird").mkdir()
    elif how == "empty class":
        shutil.rmtree(dataset / "train" / "dog")
        (dataset / "train" / "dog").mkdir()
    elif how == "other classes":
        (dataset / "validation" / "dog").rename(dataset / "validation" / "wolf")


@pytest.mark.parametrize("how", ["no folder", "no validation", "one class", "three classes", "empty class", "other classes"])
def test_an_incomplete_dataset_is_refused_with_the_layout_and_the_remedy(dataset, tmp_path, how):
    spoil(dataset, how)
    with pytest.raises(DatasetError, match=r"\{train,validation,test\}/\{cat,dog\}.*--prepare SOURCE --dataset NEW"):
        quick(tmp_path).load_data(dataset)


def test_training_without_test_photos_says_so_and_scores_nothing(dataset, tmp_path):
    shutil.rmtree(dataset / "test")
    classifier = quick(tmp_path, epochs=1)
    classifier.train(dataset)
    assert classifier.summary["test"] is None


@pytest.mark.parametrize("setting", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": -1}, {"learning_rate": float("nan")},
                                     {"patience": -1}, {"seed": -1}, {"optimizer": "magic"}, {"precision": "int4"}])
def test_settings_out_of_range_are_refused_by_name(setting):
    with pytest.raises(UsageError, match="--" + next(iter(setting)).replace("_", "-")):
        CatDogClassifier(**setting)


def test_curves_before_training_are_an_error():
    with pytest.raises(program.TrainingError, match="train"):
        CatDogClassifier().showAcc()


def test_the_tutorials_protocol_learns_something_from_real_photos(real, tmp_path):
    """300 real photos of each class, a few epochs: clearly better than chance on photos never seen."""
    program.prepare_dataset(real / "photos", tmp_path / "data", (300, 100, 250), program.Console(quiet=True))
    classifier = CatDogClassifier(weights=str(Path(tmp_path, "net.h5")), optimizer="adam", epochs=12, augment=False, seed=0, quiet=True)
    classifier.train(tmp_path / "data")
    assert classifier.summary["test"]["interval"][0] > 0.5


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache folder for this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "catdogclassifier"


@pytest.fixture
def litert():
    """LiteRT, which is an extra; tests that want it are skipped without it."""
    return pytest.importorskip("ai_edge_litert.interpreter", reason="pip install ai-edge-litert")


@pytest.fixture
def unsure(tmp_path, trained):
    """A weights file of a net whose answers differ from photo to photo and are near neither 0 nor 1."""
    import keras

    keras.utils.set_random_seed(3)
    model = program.build_model("default", trained.settings)
    model.set_weights([weight * 0.95 for weight in model.get_weights()])
    (tmp_path / "unsure.h5").write_bytes(program.pack_weights(model, {**trained.facts, "temperature": 1.0}))
    return str(tmp_path / "unsure.h5")


def second(rows):
    return [row.probabilities["dog"] for row in rows]


def test_litert_answers_as_keras_does(litert, own_cache, trained, unsure):
    photos = list(program.list_photos(trained.settings.dataset))
    quick_one, slow_one = (CatDogClassifier(weights=unsure, quiet=True) for _ in range(2))
    slow_one.load_weights()
    rows, expected = quick_one.predict(photos), slow_one.predict(photos)
    assert quick_one.model is None  # Keras was not needed
    assert [row.label for row in rows] == [row.label for row in expected]
    assert second(rows) == pytest.approx(second(expected), abs=1e-5)
    assert np.ptp(second(rows)) > 0.01
    assert second(quick_one.predict(photos[:1])) == pytest.approx(second(expected)[:1], abs=1e-5)  # whatever the batch


def test_litert_answers_as_keras_does_on_real_photos(litert, own_cache, unsure, real):
    photos = list(program.list_photos(real / "originals"))
    slow_one = CatDogClassifier(weights=unsure, quiet=True)
    slow_one.load_weights()
    rows, expected = CatDogClassifier(weights=unsure, quiet=True).predict(photos), slow_one.predict(photos)
    assert [row.label for row in rows] == [row.label for row in expected]
    assert second(rows) == pytest.approx(second(expected), abs=1e-3)
    assert np.ptp(second(rows)) > 0.1


def test_an_answer_from_litert_needs_no_tensorflow(litert, own_cache, trained, weights):
    photo = next(program.list_photos(trained.settings.dataset))
    code = f"""import sys, CatDogClassifier as p
code = p.main(["-f", {photo!r}, "--weights", {weights!r}])
print(code, sorted({{"tensorflow", "keras", "h5py", "matplotlib"}} & set(sys.modules)))"""
    first, then = (python("-c", code, text=True) for _ in range(2))
    assert "'tensorflow'" in first.stdout  # the weights have to be converted once
    assert then.stdout.splitlines() == [first.stdout.splitlines()[0], "0 []"]
    assert first.stderr == then.stderr == ""


def test_litert_follows_the_weights_file(litert, own_cache, trained, weights, tmp_path):
    photo, path = next(program.list_photos(trained.settings.dataset)), tmp_path / "w.h5"
    content = Path(weights).read_bytes()
    path.write_bytes(content)
    before = CatDogClassifier(weights=str(path), quiet=True).predict(photo)
    facts = {**trained.facts, "classes": ["bear", "wolf"]}
    path.write_bytes(program.pack_weights(program.build_model("default", trained.settings), facts))
    after = CatDogClassifier(weights=str(path), quiet=True).predict(photo)
    assert set(after[0].probabilities) == {"bear", "wolf"}
    assert before[0].confidence != after[0].confidence
    path.write_bytes(content)
    assert CatDogClassifier(weights=str(path), quiet=True).predict(photo) == before
    assert len(list(own_cache.iterdir())) == 1  # one file for one weights file


def test_a_damaged_conversion_is_made_again(litert, own_cache, trained, weights):
    photo = next(program.list_photos(trained.settings.dataset))
    before = CatDogClassifier(weights=weights, quiet=True).predict(photo)
    (cache,) = own_cache.iterdir()
    whole = cache.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", whole[:5000] + b"\0" * 100 + whole[5100:]):
        cache.write_bytes(damaged)
        assert CatDogClassifier(weights=weights, quiet=True).predict(photo) == before
        assert cache.read_bytes() != damaged


def test_a_net_in_memory_answers_itself_and_not_its_file(litert, own_cache, trained, unsure):
    photo = next(program.list_photos(trained.settings.dataset))
    classifier = CatDogClassifier(weights=unsure, precision="float32", quiet=True)
    before = second(classifier.predict(photo))  # by LiteRT
    classifier.load_weights()
    classifier.model.set_weights([weight * 0.9 for weight in classifier.model.get_weights()])
    assert second(classifier.predict(photo)) != pytest.approx(before, abs=1e-4)


@pytest.mark.parametrize("absent", ["not installed", "broken", "unwilling", "no cache"])
def test_without_litert_everything_works_as_before(absent, own_cache, trained, unsure, monkeypatch):
    photo = next(program.list_photos(trained.settings.dataset))
    expected = CatDogClassifier(weights=unsure, quiet=True)
    expected.load_weights()
    if absent == "not installed":
        monkeypatch.setattr(program, "find_spec", lambda name: None)
    elif absent == "broken":
        monkeypatch.setattr(program, "pack_litert", lambda model: 1 / 0)
    elif absent == "unwilling":
        monkeypatch.setattr(program, "litert_outputs", lambda content: 1 / 0)
    else:
        own_cache.parent.write_bytes(b"a file where the folder should be")
        monkeypatch.setattr(program, "pack_litert", lambda model: pytest.fail("converted in vain"))
    rows = CatDogClassifier(weights=unsure, quiet=True).predict(photo)
    assert second(rows) == pytest.approx(second(expected.predict(photo)), abs=1e-5)


def test_missing_weights_are_the_same_mistake_with_and_without_litert(tmp_path):
    with pytest.raises(program.WeightsError, match="there are no weights at"):
        CatDogClassifier(weights=str(tmp_path / "none.h5"), quiet=True).predict("x.jpg")
    (tmp_path / "bad.h5").write_bytes(b"no weights")
    with pytest.raises(program.WeightsError, match="not a weights file"):
        CatDogClassifier(weights=str(tmp_path / "bad.h5"), quiet=True).predict("x.jpg")


def test_a_loaded_net_answers_in_float32_and_trains_in_the_faster_precision(dataset, weights, tmp_path):
    path = tmp_path / "net.h5"
    path.write_bytes(Path(weights).read_bytes())
    classifier = CatDogClassifier(weights=str(path), dataset=str(dataset), epochs=1, batch_size=8, quiet=True)
    classifier.training_policy = "mixed_bfloat16"
    classifier.load_weights()
    loaded = classifier.model.get_weights()
    assert classifier.predictor is classifier.model
    assert classifier.model.layers[0].compute_dtype == "float32"
    kept = classifier._model_to_train()
    assert kept.layers[0].compute_dtype == "bfloat16"
    assert all(np.array_equal(one, other) for one, other in zip(kept.get_weights(), loaded, strict=True))
    classifier.train()
    assert classifier.summary["precision"] == "bfloat16"
    assert classifier.predictor.layers[0].compute_dtype == "float32"


def test_another_precision_than_float32_is_not_left_to_litert(litert, own_cache, unsure, trained):
    photo = next(program.list_photos(trained.settings.dataset))
    classifier = CatDogClassifier(weights=unsure, precision="bfloat16", quiet=True)
    classifier.predict(photo)
    assert classifier.model.layers[0].compute_dtype == "bfloat16"


def test_weights_that_change_while_they_are_converted_are_not_kept(litert, own_cache, trained, unsure, monkeypatch):
    photo, pack = next(program.list_photos(trained.settings.dataset)), program.pack_litert
    before = Path(unsure).read_bytes()

    def overtaken(model):
        Path(unsure).write_bytes(Path(trained.settings.weights).read_bytes())
        return pack(model)

    monkeypatch.setattr(program, "pack_litert", overtaken)
    CatDogClassifier(weights=unsure, quiet=True).predict(photo)
    assert list(own_cache.iterdir()) == []
    monkeypatch.setattr(program, "pack_litert", pack)
    Path(unsure).write_bytes(before)
    assert CatDogClassifier(weights=unsure, quiet=True).predict(photo)[0].confidence < 0.9


@pytest.mark.parametrize("installed", [True, False])
def test_after_an_answer_the_weights_that_gave_it_count_with_and_without_litert(installed, dataset, weights, tmp_path, monkeypatch):
    if installed:
        pytest.importorskip("ai_edge_litert.interpreter", reason="pip install ai-edge-litert")
    else:
        monkeypatch.setattr(program, "find_spec", lambda name: None)
    path = tmp_path / "net.h5"
    path.write_bytes(Path(weights).read_bytes())
    classifier = CatDogClassifier(weights=str(path), dataset=str(dataset), epochs=1, batch_size=8, learning_rate=1e-9, quiet=True)
    classifier.predict(next(program.list_photos(dataset)))
    other = make_dataset(tmp_path / "other", {"train": 2, "validation": 2}, relabel=lambda label, _: {"cat": "ant", "dog": "bee"}[label])
    with pytest.raises(DatasetError, match="instead of cat, dog"):
        classifier.load_data(other)
    assert classifier.classes == ("cat", "dog")
    classifier.train()  # goes on from these weights
    assert classifier.summary["test"]["accuracy"] == 1.0


def test_the_trained_weights_answer_after_each_training(dataset, tmp_path, monkeypatch):
    classifier = quick(tmp_path, dataset=str(dataset), epochs=1, patience=0)
    classifier.training_policy = "mixed_bfloat16"
    photo = next(program.list_photos(dataset))
    for _ in range(2):
        classifier.train()
        iterations = int(classifier.model.optimizer.iterations)
        classifier.model.set_weights([weight * 0.9 for weight in classifier.model.get_weights()])
        twin = program.build_model("default", classifier.settings)
        twin.set_weights(classifier.model.get_weights())
        expected = program.cooled(forward(twin, [program.read_photo(photo, 150)]), classifier.temperature)[:, 1]
        assert second(classifier.predict(photo)) == pytest.approx(expected, abs=1e-6)
    assert iterations == 6  # of both trainings: the optimizer kept its memory


def test_what_was_set_by_hand_after_loading_is_left_alone(weights):
    import keras

    classifier = CatDogClassifier(weights=weights, quiet=True)
    classifier.training_policy = "mixed_bfloat16"
    classifier.load_weights()
    classifier.model.layers[0].trainable = False
    classifier.model.compile(keras.optimizers.SGD(1e-7), loss="binary_crossentropy", metrics=["acc"])
    model = classifier._model_to_train()
    assert model is classifier.model
    assert type(model.optimizer).__name__ == "SGD"
    assert not model.layers[0].trainable
