"""Scores on the test photos, comparisons and cross-validation: the figures are right, what is finished stays finished."""

import csv
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import CatDogClassifier as program
from CatDogClassifier import CatDogClassifier, UsageError, confusion, folds_of, judged, rates, score, scoreboard
from conftest import REPO, both, make_dataset, quick

# Three classes, ten photos: counted by hand.
TRUTH = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2], np.float32)[:, None]
ANSWERS = [0, 0, 0, 1, 2, 1, 1, 0, 0, 0]
SHARES = np.full((10, 3), 0.2) + 0.4 * np.eye(3)[ANSWERS]


def test_a_confusion_table_has_the_truth_in_rows():
    assert confusion(SHARES, TRUTH).tolist() == [[3, 1, 1], [1, 2, 0], [2, 0, 0]]


def test_precision_recall_and_balanced_accuracy_are_those_of_the_textbook():
    found = rates(confusion(SHARES, TRUTH))
    assert found["precision"] == pytest.approx([3 / 6, 2 / 3, 0.0])
    assert found["recall"] == pytest.approx([3 / 5, 2 / 3, 0.0])
    assert found["balanced_accuracy"] == pytest.approx((3 / 5 + 2 / 3) / 3)
    assert rates(np.array([[4, 0], [2, 0]]))["precision"] == [4 / 6, None]  # nobody was answered so


def test_the_loss_is_the_mean_cross_entropy():
    found = score(SHARES, TRUTH)
    assert found["loss"] == pytest.approx(-(5 * np.log(0.6) + 5 * np.log(0.2)) / 10)
    assert (found["correct"], found["total"], found["by_class"]) == (5, 10, [[3, 5], [2, 3], [0, 2]])
    assert score(both([1.0]), np.array([[0.0]]))["loss"] == pytest.approx(-np.log(1e-7))  # as in Keras


def test_the_score_of_a_net_is_that_of_keras(trained):
    found = trained.evaluate()
    photos, labels = trained.test
    loss, accuracy = trained.predictor.evaluate(program.scaled(photos), labels, verbose=0)
    assert (found["loss"], found["accuracy"]) == pytest.approx((loss, accuracy), abs=1e-5)
    assert found["classes"] == ["cat", "dog"]
    assert found["seen"] == 0


def test_evaluate_prints_the_scores_and_who_was_taken_for_whom(run, weights, trained, tmp_path):
    data = make_dataset(tmp_path / "data", {"test": 10}, seed=9, relabel=lambda label, number: "cat" if number < 3 else label)
    code, out, err = run("--evaluate", "--weights", weights, "--dataset", data)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert out.startswith("accuracy     85.0 %  (17 of 20; 95 % interval 64.0 to 94.8 %)\n")
    assert ["is", "cat", "10", "3", "76.9", "%"] in lines
    assert ["is", "dog", "0", "7", "100.0", "%"] in lines
    assert ["precision", "100.0", "%", "70.0", "%"] in lines
    assert "balanced     88.4 %" in out
    _, out, _ = run("--evaluate", "--weights", weights, "--dataset", data, "--json")
    found = json.loads(out)
    assert found["confusion"] == [[10, 3], [0, 7]]
    assert found["recall"] == pytest.approx([10 / 13, 1])


@pytest.mark.parametrize(("least", "code"), [(0.9, 1), (0.85, 0), (0, 0)])
def test_an_asserted_accuracy_becomes_an_exit_code(least, code, run, weights, tmp_path):
    data = make_dataset(tmp_path / "data", {"test": 10}, seed=9, relabel=lambda label, number: "cat" if number < 3 else label)
    found, _, err = run("--evaluate", "--weights", weights, "--dataset", data, "--assert-accuracy", least)
    assert found == code
    assert ("85.0 % is less than --assert-accuracy 0.9" in err) == bool(code)


def drawing(seed):
    """A scene of smooth blobs, so that its low frequencies are its own."""
    small = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((240, 180), Image.Resampling.BICUBIC)


def test_photos_that_a_net_learned_from_are_known_again_when_resized_and_recompressed(tmp_path):
    def thumbs_of(images):
        return program.fingerprints([np.asarray(image.resize((150, 150))) for image in images])[1]

    def copy(image):
        image.resize((120, 90)).save(tmp_path / "copy.jpg", quality=40)
        return Image.open(tmp_path / "copy.jpg").convert("RGB")

    seen = program.marks(thumbs_of([drawing(seed) for seed in range(300)]))
    copies = thumbs_of([copy(drawing(seed)) for seed in range(0, 300, 10)])
    same = thumbs_of([drawing(seed) for seed in range(0, 300, 10)])
    assert program.known_among(same, seen) == program.known_among(same[:, :, ::-1], seen) == 30  # mirrored too
    assert program.known_among(copies, seen) >= 8  # of 30: many
    assert program.known_among(thumbs_of([drawing(seed) for seed in range(1000, 1300)]), seen) == 0
    assert program.known_among(copies[:0], seen) == program.known_among(copies, seen[:0]) == 0


def test_a_test_photo_that_was_learned_from_is_said(run, tmp_path):
    data = tmp_path / "data"
    for split, start in {"train": 0, "validation": 20, "test": 40}.items():
        for label in ("cat", "dog"):
            for seed in range(start, start + 6):
                path = data / split / label / f"{seed}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                drawing(seed + 100 * (label == "dog")).save(path)
    quick(tmp_path, dataset=str(data), epochs=1).train()
    assert "learned from" not in run("--evaluate", "--weights", tmp_path / "net.h5", "--dataset", data)[2]
    shutil.copy(data / "train/cat/3.png", data / "test/cat")
    shutil.copy(data / "validation/dog/21.png", data / "test/dog")
    _, _, err = run("--evaluate", "--weights", tmp_path / "net.h5", "--dataset", data)
    assert err == ("2 of these 14 photos are among those that this net learned from, or look alike: "
                   "if they are copies, the scores come out too good.\n")


def test_the_shipped_drawings_raise_no_false_alarm():
    def thumbs_of(split):
        paths = [path for photos in program.list_split(REPO / "dataset", split).values() for path in photos]
        return program.fingerprints([program.read_photo(path, 150) for path in paths])[1]

    assert program.known_among(thumbs_of("test"), program.marks(thumbs_of("train"))) == 0


# --folds. --------------------------------------------------------------------------------------------------------------


def test_folds_hold_every_photo_once_and_every_class_evenly():
    labels = np.array([0] * 10 + [1] * 7, np.float32)[:, None]
    for rng in (None, np.random.default_rng(0)):
        folds = folds_of(labels, 3, rng)
        assert sorted(np.concatenate(folds).tolist()) == list(range(17))
        assert [sorted([int((labels[fold] == kind).sum()) for fold in folds]) for kind in (0, 1)] == [[3, 3, 4], [2, 2, 3]]
    assert folds_of(labels, 3)[0].tolist() == [0, 3, 6, 9, 10, 13, 16]
    with pytest.raises(UsageError, match="--folds 8 is more than the 7 photos of a class"):
        folds_of(labels, 8)


def test_the_epoch_of_folds_is_the_one_that_is_best_on_average():
    histories = [{"val_loss": [0.6, 0.5, 0.2], "val_acc": [0.6, 0.7, 0.9]}, {"val_loss": [0.6, 0.3, 0.8], "val_acc": [0.6, 0.8, 0.5]}]
    found = judged(histories)
    assert (found["best_epoch"], found["accuracies"]) == (2, [0.7, 0.8])
    assert (found["mean"], found["deviation"]) == pytest.approx((0.75, 0.0707107))


def test_cross_validation_trains_fresh_nets_on_all_but_a_fold_and_saves_nothing(run, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, trained_on, first = sorted(tmp_path.rglob("*")), [], []
    real = CatDogClassifier._batches

    def watched(self, photos, labels, place, rng=None, rows=None):
        trained_on.append((len(photos), rows.tolist()))
        return real(self, photos, labels, place, rng, rows)

    monkeypatch.setattr(CatDogClassifier, "_batches", watched)
    monkeypatch.setattr(program.Training, "begin_epoch", lambda self, epoch, logs, begin=program.Training.begin_epoch: (
        first.append(self.model.get_weights()[0].sum()) if epoch == 0 else None, begin(self, epoch, logs)))
    code, out, _ = run("--folds", 3, "--repeats", 2, "--dataset", dataset, "--epochs", 2, "--model", "signs", "--seed", 1,
                       "--learning-rate", 0.003, "--json", "-q")
    found = json.loads(out)
    assert code == 0
    assert (found["folds"], found["repeats"], len(found["accuracies"])) == (3, 2, 6)
    assert len(set(first)) == 6
    assert sorted(tmp_path.rglob("*")) == before
    held = [rows for _, rows in trained_on[1::2]]
    for number in (0, 3):
        assert sorted(itertools.chain(*held[number : number + 3])) == list(range(36))  # all of train and validation, once
    assert held[:3] != held[3:]
    for (_, rest), (_, part) in zip(trained_on[::2], trained_on[1::2], strict=True):
        assert sorted(rest + part) == list(range(36))


# --compare. ------------------------------------------------------------------------------------------------------------


def compared(run, dataset, folder, *more):
    return run("--compare", "signs", "mnist", "--dataset", dataset, "--weights", folder / "pets.h5", "--epochs", 2, *more)


def test_a_comparison_trains_every_rung_and_leaves_the_users_weights_alone(run, dataset, tmp_path):
    (tmp_path / "pets.h5").write_bytes(b"mine")
    code, out, _ = compared(run, dataset, tmp_path, "--seeds", 2, "-q", "--learning-rate", 0.003)
    folder = tmp_path / "pets_compare"
    assert code == 0
    assert (tmp_path / "pets.h5").read_bytes() == b"mine"
    assert {path.name for path in tmp_path.iterdir()} == {"data", "pets.h5", "pets_compare"}
    with open(folder / "scoreboard.csv") as file:
        board = {row["rung"]: row for row in csv.DictReader(file)}
    shares = [program.facts_of(folder / f"signs-{seed}.h5")["summary"]["test"]["accuracy"] for seed in (0, 1)]
    assert float(board["signs"]["accuracy"]) == pytest.approx(np.mean(shares))
    assert float(board["signs"]["deviation"]) == pytest.approx(np.std(shares, ddof=1))
    assert board["mnist"]["parameters"] == "92737"  # one answer instead of ten
    assert out.splitlines()[1].startswith("signs               307,5")
    assert Image.open(folder / "curves.png").info["Software"] == program.PROGRAM


def test_a_comparison_goes_on_where_it_stopped(run, dataset, tmp_path, monkeypatch):
    real, trained = CatDogClassifier.train, []

    def train(self, directory=None):
        trained.append(self.rung)
        if self.rung == "mnist" and trained.count("mnist") == 1:
            raise KeyboardInterrupt
        return real(self, directory)

    monkeypatch.setattr(CatDogClassifier, "train", train)
    code, out, _ = compared(run, dataset, tmp_path)
    assert code == 130
    assert "signs" in out  # what there is
    code, first, _ = compared(run, dataset, tmp_path)
    assert (code, trained) == (0, ["signs", "mnist", "mnist"])
    code, again, _ = compared(run, dataset, tmp_path)
    assert (again, len(trained)) == (first, 3)
    compared(run, dataset, tmp_path, "--learning-rate", 0.01)
    assert trained[3:] == ["signs", "mnist"]  # another training
    shutil.copy(dataset / "train/cat/cat.0.png", dataset / "train/cat/cat.99.png")
    compared(run, dataset, tmp_path, "--learning-rate", 0.01)
    assert trained[5:] == ["signs", "mnist"]  # other photos
    shutil.copy(dataset / "train/dog/dog.0.png", dataset / "test/dog/dog.99.png")
    compared(run, dataset, tmp_path, "--learning-rate", 0.01)
    assert trained[7:] == ["signs", "mnist"]  # other photos to score
    (tmp_path / "pets_compare/signs-0_history.csv").write_text("")
    compared(run, dataset, tmp_path, "--learning-rate", 0.01)
    assert trained[9:] == ["signs"]  # its curve is lost


def test_what_cannot_be_trained_is_left_out_and_said(run, dataset, tmp_path):
    code, out, err = run("--compare", "signs", "frozen", "--dataset", dataset, "--weights", tmp_path / "pets.h5", "--epochs", 1,
                         "--base", "mobilenet-0.25", "--base-weights", tmp_path / "missing.h5", "-q")
    assert code == 1
    assert f"frozen is left out: cannot read the base weights {tmp_path / 'missing.h5'}" in err
    assert "signs" in out


def test_a_rung_that_is_named_twice_is_trained_and_counted_once(run, dataset, tmp_path):
    _, out, _ = run("--compare", "signs", "signs", "--dataset", dataset, "--weights", tmp_path / "pets.h5", "--epochs", 1, "--json")
    assert json.loads(out)["runs"] == 1


@pytest.mark.slow
def test_a_comparison_goes_on_from_the_frozen_nets_of_its_own_base_only(run, dataset, tmp_path):
    """Stage one is trained once for both rungs that go on from it, and anew when the base is another one."""
    base = tmp_path / "base.weights.h5"
    program.base_of(program.build_model("frozen", program.Settings(base="mobilenet-0.25"))).save_weights(base)
    line = ["--compare", "--dataset", dataset, "--weights", tmp_path / "pets.h5", "--base", "mobilenet-0.25", "--epochs", 1,
            "--steps", 1, "--base-weights"]
    _, _, err = run("--compare", "frozen", "finetune", *line[1:], "none")
    assert "First frozen" not in err
    assert not list((tmp_path / "pets_compare").glob("*.previous.h5"))
    _, _, err = run("--compare", "finetune", *line[1:], base)
    assert "First frozen" in err
    model = CatDogClassifier(weights=str(tmp_path / "pets_compare/finetune-0.h5"))
    model.load_weights()
    import h5py

    with h5py.File(base) as file:
        first = np.array(file["layers/conv2d/vars/0"])
    assert np.array_equal(model.model.get_layer("conv1").get_weights()[0], first)


def test_without_test_photos_there_is_nothing_to_compare(run, dataset, tmp_path):
    shutil.rmtree(dataset / "test")
    code, _, err = run("--compare", "signs", "--dataset", dataset, "--weights", tmp_path / "pets.h5")
    assert code == 1
    assert f"{dataset} has no folder test" in err
    assert not (tmp_path / "pets_compare").exists()


def test_by_default_a_comparison_takes_what_needs_no_download(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(CatDogClassifier, "_trial", lambda self, rung, seed, directory: rung)
    monkeypatch.chdir(REPO)  # where there is a dataset
    small = ["default", "baseline", "dropout", "residual", "happy", "mnist", "signs"]
    assert list(CatDogClassifier().compare()) == small
    assert list(CatDogClassifier(base_weights="x.h5").compare()) == list(program.RUNGS)
    for name, rungs in {"vgg16_weights_tf_dim_ordering_tf_kernels.h5": small,
                        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5": list(program.RUNGS)}.items():
        Path(tmp_path, "models").mkdir(exist_ok=True)
        Path(tmp_path, "models", name).touch()
        assert list(CatDogClassifier().compare()) == rungs
    assert list(CatDogClassifier(base="resnet50").compare()) == small


def test_the_scoreboard_has_means_and_their_spread():
    row = {"parameters": 5, "epochs": 3, "seconds": 1.0, "bytes": 9, "tutorial": 0.7, "interval": (0.6, 0.8)}
    board = scoreboard([{**row, "rung": "a", "accuracy": 0.7}, {**row, "rung": "b", "accuracy": 0.9},
                        {**row, "rung": "a", "accuracy": 0.8, "epochs": 4}])
    assert [(line["rung"], line["runs"], line["epochs"], line["interval"]) for line in board] == [("a", 2, 3.5, None), ("b", 1, 3, (0.6, 0.8))]
    assert (board[0]["accuracy"], board[0]["deviation"]) == pytest.approx((0.75, 0.0707107), abs=1e-6)


def test_the_picture_of_a_comparison_shows_every_training_once_in_the_legend():
    figure = program.draw_compared([("one", [0.5, 0.6], 1), ("two", [0.7], 0), ("one", [0.4, 0.9], 2)])
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[0].lines]
    assert drawn == [([1, 2], [0.5, 0.6]), ([1], [0.5]), ([1], [0.7]), ([1, 2], [0.4, 0.9]), ([2], [0.9])]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--assert-accuracy", "0.9"], "--assert-accuracy goes with --evaluate"),
     (["--evaluate", "--assert-accuracy", "90"], "--assert-accuracy must lie between 0 and 1"),
     (["--seeds", "3"], "--seeds goes with --compare"), (["--compare", "--seeds", "0"], "--seeds must lie between 1 and"),
     (["--folds", "1"], "--folds must lie between 2 and"), (["--repeats", "2"], "--repeats goes with --folds"),
     (["--compare", "alexnet"], "--compare alexnet is none of default, baseline"),
     (["--compare", "--model", "signs"], "--model does not go with --compare"),
     (["--folds", "3", "--model", "finetune"], "--folds takes a rung that begins anew, not finetune")],
)
def test_what_does_not_go_together_is_a_usage_error(arguments, words, run):
    code, _, err = run(*arguments)
    assert code == 2
    assert words in err
