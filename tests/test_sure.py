"""Calibrated confidences, "unsure" with a measured meaning, and photos sorted by the verdict."""

import csv
import errno
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import CatDogClassifier as program
from CatDogClassifier import CatDogClassifier, certainty_of, cooled, fit_temperature, reliability, threshold_of
from conftest import both, forward, make_dataset, quick, tint
from test_inside import by_hand
from test_ladder import net


def answers(temperature, count=20_000, classes=2, seed=0):
    """Probabilities (N, K) that are right as often as they say once they are cooled by this temperature; labels (N, 1)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, classes))
    truth = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (truth.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)[:, None].astype(np.float32)
    hot = np.exp(temperature * logits)
    return hot / hot.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_by_which_answers_were_made_is_found(temperature, classes):
    shares, labels = answers(temperature, classes=classes)
    assert fit_temperature(shares, labels) == pytest.approx(temperature, rel=0.05)
    assert reliability(cooled(shares, fit_temperature(shares, labels)), labels)["error"] < 0.015


def test_a_net_that_was_always_right_does_not_become_certain():
    shares, labels = both(np.array([0.1, 0.9] * 50)), np.array([0.0, 1.0] * 50, np.float32)[:, None]
    assert cooled(shares, fit_temperature(shares, labels)).max() == pytest.approx(1 - 1 / 102, abs=1e-4)


def test_cooling_divides_the_logits_and_keeps_the_answers():
    shares = both(np.array([0.2, 0.5, 0.999]))
    odds = np.log(shares[:, 1] / shares[:, 0]) / 3
    assert cooled(shares, 3)[:, 1] == pytest.approx(1 / (1 + np.exp(-odds)))
    assert cooled(both(np.array([0.0, 1.0])), 0.1) == pytest.approx(both(np.array([0.0, 1.0])))
    assert cooled(shares, 1) is shares


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_share_right():
    shares = both(np.array([0.95, 0.95, 0.95, 0.95, 0.3, 0.3]))  # confidences: four of 0.95, two of 0.7
    labels = np.array([1, 1, 1, 0, 0, 1], np.float32)[:, None]
    found = reliability(shares, labels, bins=10)
    assert found["bins"] == [pytest.approx([0.7, 0.5, 2]), pytest.approx([0.95, 0.75, 4])]
    assert found["error"] == pytest.approx((2 * 0.2 + 4 * 0.2) / 6)


def test_a_threshold_leaves_as_few_as_it_can_with_so_few_errors():
    confidences = [0.99, 0.98, 0.97, 0.9, 0.9, 0.8, 0.7, 0.6]
    wrong = [False, False, True, False, True, False, False, True]
    labels = np.array([[not bad] for bad in wrong], np.float32)
    rows = certainty_of(both(np.array(confidences)), labels)
    assert [row[1:] for row in rows] == [[0, 1], [0, 2], [1, 3], [2, 5], [2, 6], [2, 7], [3, 8]]  # 0.9 is there twice
    assert threshold_of(rows, 0.0) == (0.98, 0.0, pytest.approx(6 / 8))
    assert threshold_of(rows, 0.3) == (0.7, pytest.approx(2 / 7), pytest.approx(1 / 8))
    assert threshold_of(rows, 0.5)[0] == 0.6
    assert threshold_of(rows[2:], 0.1) == (1.1, 0.0, 1.0)
    many = certainty_of(both(np.linspace(0.6, 1, 1000)), np.ones((1000, 1), np.float32))
    assert (len(many), many[-1]) == (256, [pytest.approx(0.6), 0, 1000])


def test_only_what_the_net_is_unsure_of_is_looked_at_in_the_mirror_too():
    """A photo whose upper left pixel says the answer, in percent, and the upper right one that of its mirror image."""
    photos, shown = np.zeros((5, 2, 2, 3), np.uint8), []
    photos[:, 0, 0, 0], photos[:, 0, 1, 0] = (96, 4, 94, 60, 10), (2, 98, 98, 20, 70)

    def look(photos):
        shown.append(len(photos))
        return np.stack([photos[:, 0, 0, 0] / 100, photos[:, 0, 0, 0] / 1000], axis=1)

    found = program.looking_twice(look, 1)(photos)
    assert found[:, 0] == pytest.approx([0.96, 0.04, (0.94 + 0.98) / 2, (0.6 + 0.2) / 2, (0.1 + 0.7) / 2])
    assert found[:, 1] == pytest.approx(found[:, 0] / 10)  # how strange it is
    assert shown == [5, 3]
    program.looking_twice(look, 1)(photos[:2])
    assert shown == [5, 3, 2]  # all sure: once
    two = program.looking_twice(lambda photos: np.stack([1 - photos[:, 0, 0, 0] / 100, photos[:, 0, 0, 0] / 100], axis=1), 2)
    assert two(photos)[:, 1] == pytest.approx(found[:, 0])


def test_the_second_look_may_be_closer():
    """One at a photo whose middle, 4 of 5 pixels a side, is white: nothing of the black border is left."""
    photo = np.zeros((1, 10, 10, 3), np.uint8)
    photo[:, 1:9, 1:9] = 255
    photo[:, 4, 1] = 100  # at the left, so at the right of the mirror image
    shown = []
    program.looking_twice(lambda photos: shown.append(photos) or np.full((1, 1), 0.5), 1, part=0.8)(photo)
    assert np.array_equal(shown[0], photo)
    assert shown[1].shape == photo.shape
    assert shown[1].min() >= 100 and (shown[1][0, :, :7] == 255).all() and shown[1][0, 4, 9, 0] < 150


def test_a_net_that_learned_from_mirrored_photos_by_the_best_recipe_looks_twice(dataset, tmp_path):
    """In a folder as in a dataset; this one is sure of nothing: all its answers are means."""
    classifier = CatDogClassifier(model="residual", weights=str(tmp_path / "net.h5"), precision="float32", quiet=True)
    model = classifier.createModel()
    kernel = model.get_layer("answer").kernel
    kernel.assign(kernel / 10)  # or chance may make it sure
    model.optimizer.iterations.assign(1)
    paths = sorted((dataset / "test").rglob("*.png"))
    photos = np.stack([program.read_photo(path, 160) for path in paths])
    once, mirrored = (model.predict(each.astype(np.float32) / 255, verbose=0)[:, 0] for each in (photos, photos[:, :, ::-1]))
    assert np.abs(once - mirrored).max() > 1e-5
    assert 0.05 < once.min() < once.max() < 0.95
    for recipe, augmented in (("best", True), ("best", False), ("tutorial", True), (["best"], True)):
        classifier.recipe = {"--recipe": recipe, "--no-augment": augmented}
        expected = (once + mirrored) / 2 if (recipe, augmented) == ("best", True) else once
        assert [row.probabilities["dog"] for row in classifier.predict(paths)] == pytest.approx(expected, abs=1e-6)
        assert classifier._shares(photos)[:, 1] == pytest.approx(expected, abs=1e-6)


def test_a_net_that_saw_things_larger_in_training_looks_closer_the_second_time(dataset, tmp_path):
    classifier = CatDogClassifier(weights=str(tmp_path / "net.h5"), precision="float32", quiet=True)
    model = classifier.createModel()
    model.optimizer.iterations.assign(1)
    photos = np.stack([program.read_photo(path, 150) for path in sorted((dataset / "test").rglob("*.png"))])
    closer = program.middles(photos, 0.8)[:, :, ::-1]
    once, twice = (model.predict(each.astype(np.float32) / 255, verbose=0)[:, 0] for each in (photos, closer))
    assert np.abs(once - twice).max() > 1e-5
    classifier.recipe = {"--recipe": "best", "--no-augment": True}
    expected = np.where(np.maximum(once, 1 - once) < 0.95, (once + twice) / 2, once)
    assert classifier._shares(photos)[:, 1] == pytest.approx(expected, abs=1e-6)


def test_after_training_confidences_are_calibrated_and_the_weights_know(dataset, tmp_path):
    classifier = quick(tmp_path, dataset=str(dataset))
    classifier.train()
    found = classifier.summary["calibration"]
    assert found["photos"] == "test"
    classifier.temperature = 1.0
    raw = classifier._shares(classifier.validation[0])
    temperature = fit_temperature(raw, classifier.validation[1])
    assert found["temperature"] == pytest.approx(temperature, abs=1e-4)
    assert found["before"] == reliability(classifier._shares(classifier.test[0]), classifier.test[1])
    other = CatDogClassifier(weights=str(tmp_path / "net.h5"), quiet=True)
    rows = other.predict(dataset / "validation")
    assert [row.probabilities["dog"] for row in rows] == pytest.approx(cooled(raw, temperature)[:, 1].tolist(), abs=1e-6)
    assert other.certainty[-1][2] == 12
    assert (tmp_path / "net_reliability.png").exists()


@pytest.fixture
def doubtful(weights, tmp_path):
    """Weights that answer red photos with cat and blue ones with dog; sure above 0.9 only."""
    classifier = CatDogClassifier(weights=weights, quiet=True)
    classifier.load_weights()
    classifier.settings = program.replace(classifier.settings, weights=str(tmp_path / "doubtful.h5"))
    classifier.certainty, classifier.temperature, classifier.strange = [[0.9, 0, 90], [0.5, 5, 100]], 1.0, 2.0
    classifier.save_weights()
    red, blue = (np.asarray(tint(label, np.random.default_rng(0)), float) for label in ("cat", "dog"))
    mixed = [(share * red + (1 - share) * blue).astype(np.uint8) for share in np.linspace(0, 1, 41)]
    (tmp_path / "holiday").mkdir()
    for share, photo in enumerate(mixed):
        Image.fromarray(photo).save(tmp_path / "holiday" / f"{share}.png")
    unsure = min(classifier.predict(tmp_path / "holiday"), key=lambda row: row.confidence)
    os.rename(unsure.path, tmp_path / "holiday" / "both.png")
    for name, share in (("blue", 0), ("red", 40)):
        os.rename(tmp_path / "holiday" / f"{share}.png", tmp_path / "holiday" / f"{name}.png")
    for path in (tmp_path / "holiday").glob("[0-9]*.png"):
        path.unlink()
    return tmp_path / "doubtful.h5"


def test_unsure_is_a_verdict_and_the_label_stays(doubtful, run, tmp_path):
    line = ["-d", tmp_path / "holiday", "--weights", doubtful]
    rows = {Path(row["path"]).stem: row for row in map(json.loads, run(*line, "--unsure", 0.02, "--json")[1].splitlines())}
    confidences = {name: row["confidence"] for name, row in rows.items()}
    assert confidences["both"] < 0.9 < min(confidences["red"], confidences["blue"])  # or else this tests nothing
    assert {name: row["verdict"] for name, row in rows.items()} == {"red": "cat", "blue": "dog", "both": "unsure"}
    assert {row["label"] for row in rows.values()} <= {"cat", "dog"}
    code, out, err = run(*line, "--unsure", 0.02)
    assert code == 0
    assert f"unsure   {program.percent(confidences['both']):>7}  {tmp_path / 'holiday' / 'both.png'}  ({rows['both']['label']}?)" in out
    assert "Below 90.0 % it says unsure: of its other answers to 100 validation photos 0.0 % were wrong, and 10.0 %" in err
    assert "3 files: 1 cat, 1 dog, 1 unsure, 0 unreadable" in err
    table = list(csv.DictReader(io.StringIO(run(*line, "--unsure", 0.02, "--csv")[1])))
    assert [row["verdict"] for row in table] == ["dog", "unsure", "cat"]
    assert [row.split()[0] for row in run(*line)[1].splitlines()] == ["dog", rows["both"]["label"], "cat"]
    assert [row.verdict for row in CatDogClassifier(weights=str(doubtful), unsure=0.05).predict(tmp_path / "holiday")].count("unsure") == 0


def test_weights_that_do_not_know_how_sure_they_are_say_so(weights, run, tmp_path):
    classifier = CatDogClassifier(weights=weights, quiet=True)
    classifier.load_weights()
    classifier.settings = program.replace(classifier.settings, weights=str(tmp_path / "old.h5"))
    classifier.certainty = []
    classifier.save_weights()
    tint("cat", np.random.default_rng(0)).save(tmp_path / "a.png")
    code, out, err = run("-f", tmp_path / "a.png", "--weights", tmp_path / "old.h5", "--unsure", 0.1)
    assert (code, out) == (1, "")
    assert "old.h5 does not say how far it can be relied on" in err


@pytest.mark.parametrize("facts", [{"temperature": 0}, {"temperature": "1"}, {"certainty": [[0.9, 1]]}, {"certainty": {}},
                                   {"certainty": [["a", 1, 2]]}, {"temperature": float("nan")}, {"temperature": 1e-300},
                                   {"certainty": [[0.9, 0, 0]]}, {"certainty": [[0.9, 3, 2]]}, {"strange": float("inf")},
                                   {"certainty": [[0.9, 0, float("inf")]]}, {"certainty": [[0.9, 0, 10**400]]}])
def test_damaged_facts_are_refused(facts):
    with pytest.raises(ValueError, match="damaged"):
        program.read_facts(json.dumps(facts))


# Neither. --------------------------------------------------------------------------------------------------------------


def coloured(red, blue):
    """A photo that the net of `by_hand` sees so much red and blue in, 0..1."""
    return np.broadcast_to(np.uint8([red * 255, 0, blue * 255]), (4, 4, 3))


def test_strange_is_what_points_in_no_familiar_direction():
    model = by_hand()
    photos = [coloured(0.2, 0), coloured(1, 0), coloured(0, 1), coloured(0.6, 0.8)]
    seen = program.outputs(program.described(model), np.stack(photos))
    assert seen == pytest.approx(np.float32([[1, 0], [1, 0], [0, 1], [0.6, 0.8]]), abs=1e-5)
    directions = program.familiar(seen[:2])
    assert np.abs(directions[:1]) == pytest.approx(np.float32([[1, 0]]), abs=1e-6)
    found = program.outputs(program.watchful(model, directions[:1]), np.stack(photos))
    assert found[:, 1] == pytest.approx([0, 0, 1, 1 - 0.6], abs=1e-5)
    assert found[:, 0] == pytest.approx(forward(model, np.stack(photos))[:, 1], abs=1e-6)


def test_a_base_is_described_by_its_last_maps_and_a_net_without_convolutions_not_at_all():
    assert program.described(net("frozen")).output_shape == (None, 256)
    assert program.described(net("default")).output_shape == (None, 32 + 64 + 128 + 128 + 256)
    assert program.described(net("signs")) is None


@pytest.fixture(scope="module")
def watching(tmp_path_factory):
    """A classifier that knows what is familiar to it, though it has few photos to know that from."""
    folder = tmp_path_factory.mktemp("watching")
    data = make_dataset(folder / "data", {"train": 40, "validation": 8, "test": 8})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(program, "ENOUGH_PHOTOS", 16)
        classifier = quick(folder, dataset=str(data))
        classifier.train()
    return classifier


def test_few_photos_are_not_enough_to_call_anything_strange_and_that_is_said(trained, capsys, monkeypatch):
    assert (trained.strange, trained.directions) == (2.0, None)
    program.print_summary(trained.summary, [])
    assert "neither      never said: that takes 100 validation photos\n" in capsys.readouterr().out
    monkeypatch.setattr(program, "ENOUGH_PHOTOS", 16)  # just as many as there are
    program.print_summary(trained.summary, [])
    assert "neither" not in capsys.readouterr().out


def test_what_is_unlike_the_training_photos_is_neither(watching, run, tmp_path):
    weights, stripes = watching.settings.weights, np.zeros((24, 24, 3), np.uint8)
    stripes[::4, :, 1] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    tint("dog", np.random.default_rng(9)).save(tmp_path / "dog.png")
    rows = [json.loads(row) for row in run("-d", tmp_path, "--weights", weights, "--json")[1].splitlines()]
    assert [row["verdict"] for row in rows] == ["dog", "neither"]
    assert rows[1]["label"] in ("cat", "dog")
    _, out, err = run("-d", tmp_path, "--weights", weights)
    assert f"neither           {tmp_path / 'stripes.png'}  ({rows[1]['label']} {program.percent(rows[1]['confidence'])}?)" in out
    assert rows[0]["strangeness"] < rows[1]["strangeness"]
    assert "2 files: 0 cat, 1 dog, 1 neither, 0 unreadable" in err


def test_hardly_any_validation_photo_is_neither(watching):
    strange = watching._see(watching.validation[0])[1]
    assert (strange > watching.strange).sum() <= np.ceil(program.TURNED_AWAY * len(strange))
    assert watching.directions.shape == (32, 608)


def test_litert_finds_the_same_photos_strange(watching, tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert.interpreter", reason="pip install ai-edge-litert")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    photos = np.random.default_rng(0).integers(0, 256, (6, 150, 150, 3), dtype=np.uint8)
    quickly, plainly = (CatDogClassifier(weights=watching.settings.weights, quiet=True) for _ in range(2))
    quickly.answer  # noqa: B018
    plainly.load_weights()
    assert quickly.model is None
    for one, other in zip(quickly._see(photos), plainly._see(photos), strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_directions_of_another_net_are_left_out(trained, tmp_path):
    facts = {**trained.facts, "strange": 0.0}
    path = tmp_path / "odd.h5"
    path.write_bytes(program.pack_weights(trained.predictor, facts, (), np.eye(3, dtype=np.float32)))
    other = CatDogClassifier(weights=str(path), quiet=True)
    other.load_weights()
    assert other.directions is None
    assert {row.verdict for row in other.predict(trained.settings.dataset)} == {"cat", "dog"}


# --sort-into. ----------------------------------------------------------------------------------------------------------


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def test_photos_are_copied_by_verdict_and_the_source_stays_as_it_is(doubtful, run, tmp_path):
    holiday, target = tmp_path / "holiday", tmp_path / "sorted"
    (holiday / "day 2").mkdir()
    shutil.copy(holiday / "blue.png", holiday / "day 2" / "red.png")  # another photo with the name of one
    (holiday / "broken.jpg").write_bytes(b"no photo")
    os.utime(holiday / "red.png", (1_000_000_000, 1_000_000_000))
    before = tree(holiday)
    line = ["-d", holiday, "--weights", doubtful, "--unsure", 0.02, "--sort-into", target]
    code, out, err = run(*line, "--dry-run")
    assert code == 1  # one cannot be read
    assert not target.exists()
    assert f"-> {target / 'cat' / 'red.png'}" in out
    assert "4 would be copied, 0 there already" in err
    code, _, err = run(*line, "--json")
    assert sorted(tree(target)) == ["cat/red.png", "dog/blue.png", "dog/red.png", "unsure/both.png"]
    assert tree(target)["dog/red.png"] == before["day 2/red.png"]
    assert (target / "cat" / "red.png").stat().st_mtime == 1_000_000_000
    assert "4 copied, 0 there already" in err
    assert tree(holiday) == before
    _, out, err = run(*line, "--json")  # once more: nothing is copied twice
    assert "0 copied, 4 there already" in err
    assert json.loads(out.splitlines()[0])["copy"] == str(target / "dog" / "blue.png")
    assert len(tree(target)) == 4


def test_nothing_is_overwritten(doubtful, run, tmp_path):
    holiday, target = tmp_path / "holiday", tmp_path / "sorted"
    for path in ("cat/red.png", "cat/red-2.png", "dog/blue.png.part"):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(b"mine")
    (target / "dog" / "blue.png").symlink_to(tmp_path / "nowhere.png")
    run("-d", holiday, "--weights", doubtful, "--sort-into", target)
    assert tree(target)["cat/red.png"] == tree(target)["cat/red-2.png"] == tree(target)["dog/blue.png.part"] == b"mine"
    assert tree(target)["cat/red-3.png"] == (holiday / "red.png").read_bytes()
    assert tree(target)["dog/blue-2.png"] == (holiday / "blue.png").read_bytes()
    assert not (tmp_path / "nowhere.png").exists()


def test_a_class_that_leads_out_of_the_folder_is_refused(weights, run, tmp_path):
    classifier = CatDogClassifier(weights=weights, quiet=True)
    classifier.load_weights()
    classifier.settings, classifier.classes = program.replace(classifier.settings, weights=str(tmp_path / "x.h5")), ("../a", "../b")
    classifier.save_weights()
    (tmp_path / "in").mkdir()
    tint("cat", np.random.default_rng(0)).save(tmp_path / "in" / "a.png")
    code, _, err = run("-d", tmp_path / "in", "--weights", tmp_path / "x.h5", "--sort-into", tmp_path / "out" / "deep")
    assert code == 1
    assert "the class ../a cannot be the name of a folder" in err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_the_real_one_does(doubtful, run, tmp_path):
    """Of three photos of one name two are equal: one copy does for both."""
    holiday = tmp_path / "holiday"
    for folder, photo in (("a", "red"), ("b", "red"), ("c", "blue")):
        (holiday / folder).mkdir()
        shutil.copy(holiday / f"{photo}.png", holiday / folder / "same.png")
    line = ["-d", holiday, "--weights", doubtful, "--sort-into", tmp_path / "sorted", "--json"]
    dry, wet = run(*line, "--dry-run"), run(*line)
    assert dry[1] == wet[1]
    assert "5 would be copied, 1 there already" in dry[2]
    assert "5 copied, 1 there already" in wet[2]
    assert len(tree(tmp_path / "sorted")) == 5


@pytest.mark.parametrize("way", ["the source is a folder of the target", "a link in the target leads to the source"])
def test_no_copy_lands_in_the_folder_that_is_sorted(way, doubtful, run, tmp_path):
    source, target = tmp_path / "holiday", tmp_path / "sorted"
    target.mkdir()
    if way.startswith("a link"):
        (target / "cat").symlink_to(source)
    else:
        source = source.rename(target / "dog")
    (source / "deep").mkdir()
    shutil.copy(source / "red.png", source / "deep" / "other.png")
    before = tree(source)
    code, out, err = run("-d", source, "--weights", doubtful, "--sort-into", target)
    assert (code, out) == (2, "")
    assert f"lies inside {source}, which is never changed" in err
    assert tree(source) == before


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_file_is_no_folder_to_sort_into(dry, doubtful, run, tmp_path):
    (tmp_path / "sorted").write_text("mine")
    code, out, err = run("-d", tmp_path / "holiday", "--weights", doubtful, "--sort-into", tmp_path / "sorted", *dry)
    assert (code, out) == (2, "")
    assert "is no folder" in err


@pytest.mark.parametrize(("flags", "expected"), [
    (["--sort-into", "x"], "--sort-into goes with -d"), (["-d", "holiday", "--sort-into", "holiday/sorted"], "lies inside holiday"),
    (["-d", "holiday", "--sort-into", ""], "--report and --sort-into need a name"),
    (["-d", "holiday", "--dry-run"], "--dry-run goes with --sort-into"), (["--unsure", "0.1"], "--unsure goes with -f, -d"),
    (["-d", "holiday", "--unsure", "2"], "--unsure must lie between 0 and 1")])
def test_flags_that_do_not_go_together(flags, expected, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("holiday")
    code, out, err = run(*flags)
    assert (code, out) == (2, "")
    assert expected in err


def test_the_reliability_diagram_shows_the_bins(trained):
    found = trained.summary["calibration"]
    axes = trained.showReliability().axes[0]
    drawn = [line.get_xydata().tolist() for line in axes.lines[1:]]
    assert drawn == [[[sure, right] for sure, right, _ in found[when]["bins"]] for when in ("before", "after")]
    assert len({line.get_color() for line in axes.lines}) == 3
    with pytest.raises(program.TrainingError, match="not known yet"):
        CatDogClassifier().showReliability()


def test_a_photo_that_vanishes_is_a_row_and_the_rest_go_on(doubtful, run, tmp_path, monkeypatch):
    real = program.place_for

    def vanishing(path, folder, taken):
        if Path(path).name == "both.png":
            os.unlink(path)
        return real(path, folder, taken)

    monkeypatch.setattr(program, "place_for", vanishing)
    code, out, err = run("-d", tmp_path / "holiday", "--weights", doubtful, "--sort-into", tmp_path / "sorted", "--json")
    rows = [json.loads(row) for row in out.splitlines()]
    assert (code, len(rows)) == (1, 3)
    assert rows[1]["error"] == "cannot be copied: No such file or directory"
    assert sorted(tree(tmp_path / "sorted")) == ["cat/red.png", "dog/blue.png"]
    assert "1 unreadable" in err


def test_a_copy_that_fails_leaves_nothing_half_written(doubtful, run, tmp_path, monkeypatch):
    def full(original, copy):
        copy.write(original.read(10))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(program.shutil, "copyfileobj", full)
    code, _, err = run("-d", tmp_path / "holiday", "--weights", doubtful, "--sort-into", tmp_path / "sorted")
    assert code == 1
    assert "No space left on device. Make room, or name another folder" in err
    assert tree(tmp_path / "sorted") == {}


def test_a_file_in_the_place_of_a_folder_is_named(doubtful, run, tmp_path):
    (tmp_path / "sorted").mkdir()
    (tmp_path / "sorted" / "dog").write_bytes(b"mine")
    code, _, err = run("-d", tmp_path / "holiday", "--weights", doubtful, "--sort-into", tmp_path / "sorted")
    assert code == 1
    assert f"cannot copy to {tmp_path / 'sorted' / 'dog' / 'blue.png'}: File exists" in err
    assert (tmp_path / "sorted" / "dog").read_bytes() == b"mine"


def test_a_name_as_long_as_can_be_is_copied(doubtful, run, tmp_path):
    name = "x" * 250 + ".png"
    os.rename(tmp_path / "holiday" / "red.png", tmp_path / "holiday" / name)
    assert run("-d", tmp_path / "holiday", "--weights", doubtful, "--sort-into", tmp_path / "sorted")[0] == 0
    assert f"cat/{name}" in tree(tmp_path / "sorted")


@pytest.mark.parametrize("classes", [["a\0", "b"], ["..", "z"]])
def test_a_class_that_is_no_name_of_a_folder_is_refused(classes, weights, run, tmp_path, dataset):
    net = CatDogClassifier(weights=weights, quiet=True)
    net.load_weights()
    (tmp_path / "x.h5").write_bytes(program.pack_weights(net.predictor, {**net.facts, "classes": classes, "strange": 2.0}))
    code, _, err = run("-d", dataset, "--weights", tmp_path / "x.h5", "--sort-into", tmp_path / "out")
    assert code == 1
    assert "cannot be the name of a folder" in err


def test_a_training_that_is_stopped_knows_nothing_of_its_doubts(dataset, tmp_path, monkeypatch):
    """What was found out about earlier weights of the net is not true of these."""
    monkeypatch.setattr(program, "ENOUGH_PHOTOS", 1)
    classifier = quick(tmp_path, dataset=str(dataset), epochs=2)
    classifier.train()
    assert classifier.certainty and classifier.directions is not None
    monkeypatch.setattr(program.Training, "over", lambda self: "interrupted" if self.progress.epochs == 3 else None)
    classifier.train()
    facts = program.facts_of(tmp_path / "net.h5")
    assert (facts["temperature"], facts["certainty"], facts["strange"]) == (1.0, [], 2.0)
    assert "directions" not in program.unpack_weights(tmp_path / "net.h5", classifier.model)[1]


def test_curves_do_not_replace_files_of_others(dataset, tmp_path):
    quick(tmp_path, dataset=str(dataset), epochs=1).train()
    tint("cat", np.random.default_rng(0)).save(tmp_path / "net_loss.png")
    (tmp_path / "net_history.csv").write_text("day,weather\n1,rain\n")
    before = {name: (tmp_path / name).read_bytes() for name in ("net_loss.png", "net_history.csv")}
    classifier = quick(tmp_path, dataset=str(dataset), epochs=1)
    classifier.train()
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert [Path(path).name for path in classifier.files] == ["net.h5", "net_accuracy.png", "net_reliability.png"]
