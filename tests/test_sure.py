"""Calibrated confidence, test-time augmentation, --unsure with a measured meaning, --sort-into."""

import collections
import csv
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from test_classifier import dogs, load, play, small
from test_cli import launch

import CatDogClassifier as program
from CatDogClassifier import CatDogClassifier, calibration_bins, fit_temperature, risk_coverage
from conftest import colour_net, paint, refusal, tree


@pytest.fixture
def holiday(tmp_path):
    """A folder of a cat, a dog, and what may be either."""
    for name, blue in {"red": -120, "blue": 120, "both": 20}.items():
        paint(tmp_path / "holiday" / f"{name}.png", blue)
    return tmp_path / "holiday"


# Confidence. --------------------------------------------------------------------------------------


def test_answers_are_those_of_the_net_cooled_by_the_temperature_of_its_file(tmp_path, colours):
    expected = [paint(tmp_path / "a" / f"{i}.png", blue) for i, blue in enumerate((-90, 4, 120))]
    assert dogs(load(colours).predict(tmp_path / "a")) == pytest.approx(expected, abs=1e-5)
    cool = colour_net(tmp_path / "cool.h5", temperature=2.0)
    cooled = 1 / (1 + np.sqrt(1 / np.array(expected) - 1))  # half the logit
    for classifier in (load(cool), CatDogClassifier(weights=cool)):
        assert dogs(classifier.predict(tmp_path / "a")) == pytest.approx(cooled.tolist(), abs=1e-5)


def mean(*shares):
    """The share whose logit is the mean of theirs."""
    odds = [share / (1 - share) for share in shares]
    return 1 / (1 + np.prod(odds) ** (-1 / len(odds)))


def looks(tta=True, classes=2, architecture="residual", any_size=False, base=None):
    """A Predictor that answers by the upper left pixel, in percent; the photos it was shown."""
    shown = []

    def forward(photos):
        shown.append(photos)
        share = photos[:, 0, 0, :1] / np.float32(100)
        return share if classes == 2 else np.concatenate([share, 1 - share, 0 * share], axis=1)

    recipe = {"recipe": "best", "augment": tta}
    info = {"recipe": recipe, "classes": ["x"] * classes, "temperature": 1.0}
    info |= {"architecture": architecture, "base": base}  # residual learned smaller: no middles
    forward.any_size = any_size
    return program.Predictor(forward, info), shown


@pytest.mark.parametrize(("classes", "place"), [(2, 1), (3, 0)])
def test_only_what_the_net_is_in_doubt_of_is_looked_at_in_the_mirror_too(classes, place):
    photos = np.zeros((5, 2, 2, 3), np.uint8)
    photos[:, 0, 0] = np.reshape([96, 4, 94, 60, 10], (5, 1))
    photos[:, 0, 1] = np.reshape([2, 98, 98, 20, 70], (5, 1))
    twice, shown = looks(classes=classes)
    expected = [0.96, 0.04, mean(0.94, 0.98), mean(0.6, 0.2), mean(0.1, 0.7)]
    assert twice(photos)[:, place] == pytest.approx(expected)
    assert np.array_equal(shown[1], photos[2:, :, ::-1])
    assert twice(photos[:2])[:, place] == pytest.approx(expected[:2])
    assert list(map(len, shown)) == [5, 3, 2]
    once, shown = looks(tta=False, classes=classes)
    assert once(photos)[:, place] == pytest.approx([0.96, 0.04, 0.94, 0.6, 0.1])
    assert list(map(len, shown)) == [5]


def test_what_the_shipped_net_is_sure_of_at_a_glance_it_does_not_see_whole():
    """At 160 pixels; what is below 99.9 % as it is, below 95 % there its middle twice as well."""
    photos = np.repeat(np.uint8([100, 99, 4, 60]), 224 * 224 * 3).reshape(4, 224, 224, 3)
    photos[2:, :, 100:] = 90  # where the middle begins in the mirror
    lite, whole = "efficientnet-lite0", [(4, 224), (1, 224), (1, 224)]
    first = lite, True, [(4, 160), (3, 224), (1, 288), (1, 288)]
    flat = "vgg16", True, whole  # its maps are flattened, so photos have one size
    for base, any_size, sizes in first, flat, (lite, False, whole):
        predictor, shown = looks(True, 3, "witness", any_size, base)
        assert predictor(photos)[:, 0] == pytest.approx([1, 0.99, 0.04, mean(0.6, 0.9, 0.9)])
        assert [each.shape[:2] for each in shown] == sizes
    assert np.array_equal(shown[0], photos)


SLOW = pytest.param("best", False, marks=pytest.mark.slow)


@pytest.mark.parametrize(("recipe", "augment"), [("best", True), ("tutorial", True), SLOW])
def test_a_training_calibrates_its_answers_by_one_look_or_two(recipe, augment, dataset, tmp_path):
    twice = recipe == "best" and augment
    small(tmp_path, recipe=recipe, augment=augment, epochs=1, learning_rate=1e-6).train(dataset)
    classifier = load(tmp_path / "net.h5")
    info = classifier.info
    found, listed = {}, {s: program.list_split(dataset, s) for s in ("validation", "test")}
    for split, classes in listed.items():
        photos, labels = program.load_photos(classes, 64, classifier.console)
        middles = [Image.fromarray(photo[6:58, 6:58]).resize((64, 64), 2) for photo in photos]
        closer = np.stack(middles)[:, :, ::-1]
        both = [photos, closer] if twice else [photos]
        dogs_seen = [classifier.model.predict(p / np.float32(255), verbose=0)[:, 0] for p in both]
        found[split] = [np.stack([1 - dog, np.float64(dog)], axis=1) for dog in dogs_seen], labels
    (first, *second), labels = found["validation"]
    assert info["temperature"] == pytest.approx(fit_temperature(first, labels), rel=0.02)
    calibration = info["summary"]["calibration"]
    assert calibration["split"] == "test"
    before = calibration_bins(found["test"][0][0], found["test"][1])
    assert calibration["before"]["ece"] == pytest.approx(before["ece"], abs=1e-5)
    looks = [program.apply_temperature(each, info["temperature"]) for each in (first, *second)]
    cooled = np.exp(np.mean(np.log(looks), axis=0))
    cooled /= cooled.sum(axis=1, keepdims=True)
    assert looks[0].max() < 0.95  # it is in doubt of all
    assert not twice or np.abs(looks[0] - looks[1]).max() > 1e-3
    answers = dogs(classifier.predict(dataset / "validation"))
    assert answers == pytest.approx(cooled[:, 1].tolist(), abs=1e-5)
    curve = risk_coverage(cooled, labels)
    assert info["risk_coverage"] == [pytest.approx(row, abs=1e-5) for row in curve]


def test_confidence_is_fitted_as_if_nine_of_ten_photos_showed_neither():
    """Of 4 photos of pets and 9 of neither these count four times; of other classes each once."""
    labels = np.array([[0], [1], [1], [0], *[[2]] * 9], np.float32)
    photos = np.zeros((13, 8, 8, 3), np.uint8)

    def answered(*classes):
        info = program.new_info(program.Settings(), classes)
        forward = lambda photos: np.full((len(photos), 3), 1 / 3, np.float32)  # noqa: E731
        program.calibrate(forward, info, {"validation": (photos, labels)})
        return info["risk_coverage"][-1][2]

    assert (answered("cat", "dog", "neither"), answered("a", "b", "c")) == (4 + 9 * 4, 13)


def test_the_temperature_is_learned_from_all_classes_but_neither():
    """Of pets 3 of 4 are right where it says 0.9; that it knows all of neither tells nothing."""
    labels = np.repeat([[0], [0], [0], [1], [2], [2]], 50, axis=0).astype(np.float32)
    photos = np.zeros((300, 8, 8, 3), np.uint8)
    photos[200:] = 255

    def forward(photos):
        pets, rest = np.array([0.9, 0.09, 0.01]), np.array([0.005, 0.005, 0.99])
        return np.where(photos[:, 0, 0, :1] == 0, pets, rest).astype(np.float32)

    info = program.new_info(program.Settings(), ["cat", "dog", "neither"])
    program.calibrate(forward, info, {"validation": (photos, labels)})
    pets = np.repeat([[0.9, 0.09, 0.01]], 200, axis=0)
    assert info["temperature"] == pytest.approx(fit_temperature(pets, labels[:200]), rel=0.02)
    assert info["temperature"] > 1.5


@pytest.mark.parametrize(
    ("third", "temperature", "odds"),
    [("neither", 1, [6, 2, 36]), ("elephant", 1, [6, 2, 2]), ("neither", 0.5, [9, 1, 18])],
)
def test_neither_is_expected_in_nine_of_ten_photos(third, temperature, odds):
    """The odds of neither, 0.2 : 0.6 of a cat after learning from each alike, grow 18 times.

    Before that the temperature mends what the net says: half of it squares the odds.
    """
    info = {"recipe": {}, "architecture": "happy", "classes": ["cat", "dog", third]}
    info["temperature"] = temperature
    predictor = program.Predictor(lambda photos: np.array([[0.6, 0.2, 0.2]]), info)
    found = predictor(np.zeros((1, 2, 2, 3), np.uint8))[0]
    assert found == pytest.approx(np.array(odds) / sum(odds))


def test_the_reliability_diagram_shows_the_bins():
    bins = {"before": [[0.7, 0.5, 2], [0.95, 0.75, 4]], "after": [[0.6, 0.5, 2], [0.8, 0.75, 4]]}
    found = {when: {"ece": 0.2, "bins": rows} for when, rows in bins.items()}
    axes = program.draw_reliability(**found, split="test").axes[0]
    drawn = [line.get_xydata().tolist() for line in axes.lines[1:]]
    assert drawn == [[row[:2] for row in rows] for rows in bins.values()]
    assert len({line.get_color() for line in axes.lines}) == 3
    assert "test photos" in axes.get_title()


# --unsure. ----------------------------------------------------------------------------------------


def test_unsure_is_a_verdict_and_the_label_stays(colours, holiday, run, tmp_path):
    line = ["-d", holiday, "--weights", colours]
    rows = list(map(json.loads, run(*line, "--unsure", 0.02, "--json")[1].splitlines()))
    assert [row["verdict"] for row in rows] == ["dog", "unsure", "cat"]
    assert [row["label"] for row in rows] == ["dog", "dog", "cat"]
    page = tmp_path / "page.html"
    code, out, err = run(*line, "--unsure", 0.02, "--report", page)
    assert code == 0
    confidence = f"{100 * rows[1]['confidence'] - 0.05:.1f} %"  # rounded down
    assert out.splitlines()[1] == f"unsure    {confidence}  {holiday / 'both.png'}  (dog?)"
    told = "of its other answers in validation 0.00 % were wrong, and it abstained from 10.0 %"
    assert f"Below 90.0 % it is unsure: {told}." in err
    assert "3 files: 1 cat, 1 dog, 1 unsure, 0 unreadable" in err
    assert re.findall("<h2>(.*)</h2>", page.read_text()) == ["cat: 1", "dog: 1", "unsure: 1"]
    assert f"{confidence} (dog?) holiday/both.png" in page.read_text()
    table = csv.DictReader(io.StringIO(run(*line, "--unsure", 0.02, "--csv")[1]))
    assert [(row["verdict"], row["label"]) for row in table][1] == ("unsure", "dog")


@pytest.mark.parametrize(("risk", "unsure"), [(None, 0), (0.05, 0), (0.049, 1), (0, 1)])
def test_the_class_abstains_as_the_command_line_does(risk, unsure, colours, holiday):
    rows = CatDogClassifier(weights=colours, unsure=risk, quiet=True).predict(holiday)
    assert [row.verdict for row in rows].count("unsure") == unsure


@pytest.mark.slow
def test_a_stopped_training_does_not_know_what_to_rely_on(dataset, tmp_path, monkeypatch, run):
    """What was found out about earlier weights of the net is not true of these."""
    classifier = small(tmp_path, epochs=1)
    classifier.train(dataset)
    assert classifier.info["risk_coverage"] and classifier.info["temperature"] != 1
    play(monkeypatch, [0.9, 1.0], interrupt_in=2)
    classifier.settings = program.replace(classifier.settings, epochs=2)
    classifier.train(dataset)
    info = program.read_metadata(tmp_path / "net.h5", classifier.settings)
    assert (info["temperature"], info["risk_coverage"]) == (1.0, [])
    photo = next(program.list_photos(dataset / "test"))
    err = refusal(run("-f", photo, "--weights", tmp_path / "net.h5", "--unsure", 0.1))
    assert "this net has no risk-coverage curve. Leave out --unsure" in err


# --sort-into. -------------------------------------------------------------------------------------


@pytest.fixture
def sort(colours, holiday, run):
    """sort(FOLDER, ...) -> (exit code, stdout, stderr) of sorting the holiday into it."""
    line = "-d", holiday, "--weights", colours, "--sort-into"
    return lambda target, *more: run(*line, target, *more)


def test_photos_are_copied_by_verdict_and_the_source_stays_as_it_is(sort, holiday, tmp_path):
    target = tmp_path / "sorted"
    for name, photo in (("day 2/red", "blue"), ("day 3/red", "blue"), ("day 4/blue", "blue")):
        path = holiday / f"{name}.png"
        path.parent.mkdir()
        shutil.copy(holiday / f"{photo}.png", path)
    (holiday / "broken.jpg").write_bytes(b"no photo")
    os.utime(holiday / "red.png", (1_000_000_000, 1_000_000_000))
    before = tree(holiday)
    code, out, err = sort(target, "--unsure", 0.02)
    assert code == 1  # one cannot be read
    expected = {"cat/red.png": "red", "dog/blue.png": "blue", "unsure/both.png": "both"}
    expected["dog/red.png"] = "blue"  # three equal photos under two names: two copies
    assert tree(target) == {to: before[f"{name}.png"] for to, name in expected.items()}
    assert (target / "cat" / "red.png").stat().st_mtime == 1_000_000_000
    assert f"{target}: 4 copied, 2 there already" in err
    assert f"{holiday / 'red.png'}  -> {target / 'cat' / 'red.png'}\n" in out
    assert tree(holiday) == before
    _, out, err = sort(target, "--unsure", 0.02, "--json")  # once more: nothing is copied twice
    assert f"{target}: 0 copied, 6 there already" in err
    copies = {row["path"]: row["copy"] for row in map(json.loads, out.splitlines())}
    assert copies[str(holiday / "day 3" / "red.png")] == str(target / "dog" / "red.png")
    assert copies[str(holiday / "broken.jpg")] is None and len(tree(target)) == 4


def test_nothing_is_overwritten(sort, holiday, tmp_path):
    target = tmp_path / "sorted"
    for path in ("cat/red.png", "cat/red-2.png", "dog/blue.png.tmp"):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(b"mine")
    (target / "dog" / "blue.png").symlink_to(tmp_path / "nowhere.png")
    long = holiday / ("x" * 250 + ".png")  # as long as can be
    os.rename(holiday / "both.png", long)
    assert sort(target)[0] == 0
    assert tree(target) == {
        **dict.fromkeys(("cat/red.png", "cat/red-2.png", "dog/blue.png.tmp"), b"mine"),
        "cat/red-3.png": (holiday / "red.png").read_bytes(),
        "dog/blue-2.png": (holiday / "blue.png").read_bytes(),
        f"dog/{long.name}": long.read_bytes(),
    }
    assert not (tmp_path / "nowhere.png").exists()


def test_two_runs_at_the_same_time_copy_every_photo_once(colours, tmp_path):
    count = 1500
    (tmp_path / "in").mkdir()
    for number in range(count):
        photo = Image.new("RGB", (2, 2), (number % 256, number // 256, 7))
        photo.save(tmp_path / "in" / f"{number}.bmp")
    CatDogClassifier(weights=colours, quiet=True).predict(tmp_path / "in" / "0.bmp")  # converted
    line = "-d", tmp_path / "in", "--weights", colours, "--sort-into", tmp_path / "out"
    both = [launch(*line, stdout=subprocess.DEVNULL) for _ in "ab"]
    said = [process.communicate()[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    copied = [[*map(int, re.search(r"(\d+) copied, (\d+) there", text).groups())] for text in said]
    assert [sum(row) for row in copied] == [count, count]
    assert sum(new for new, _ in copied) == count
    names = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert names == sorted(path.name for path in (tmp_path / "in").iterdir())


def test_whenever_another_run_is_faster_its_copy_is_enough(colours, run, tmp_path, monkeypatch):
    """That of the Nth photo comes to be before the Nth look at the file system."""
    source, target, rows = tmp_path / "in", tmp_path / "out" / "cat", io.StringIO()
    for number in range(40):
        paint(source / f"{number}.png", -80 - number)
    named = {"stat", "lstat", "open", "link", "rename", "replace", "unlink", "mkdir", "utime"}
    looks, faster = collections.Counter(), []

    def hook(frame, event, what):
        number = rows.getvalue().count("\n")  # of the photo that is being copied
        if number and event == "c_call" and what.__name__ in named:
            looks[number] += 1
            if looks[number] == number and not (target / f"{number}.png").exists():
                faster.append(shutil.copy(source / f"{number}.png", target))

    monkeypatch.setattr(sys, "stdout", rows)
    sys.setprofile(hook)
    try:
        _, _, err = run("-d", source, "--weights", colours, "--sort-into", target.parent)
    finally:
        sys.setprofile(None)
    assert len(faster) >= 5  # it takes a few looks
    assert tree(target) == tree(source)
    assert f"{40 - len(faster)} copied, {len(faster)} there already" in err


@pytest.mark.parametrize("way", ["in the target", "linked from the target", "around the target"])
def test_no_copy_lands_in_the_folder_that_is_sorted(way, colours, holiday, run, tmp_path):
    target = tmp_path / "sorted"
    target.mkdir()
    if way.startswith("linked"):
        (target / "cat").symlink_to(holiday)
    elif way.startswith("in"):
        holiday = holiday.rename(target / "dog")
    else:
        target = holiday / "sorted"
    before = tree(holiday)
    err = refusal(run("-d", holiday, "--weights", colours, "--sort-into", target), 2)
    assert f"lies inside {holiday}." in err and tree(holiday) == before


def test_a_file_in_the_place_of_a_folder_is_named_and_stays(sort, tmp_path):
    target = tmp_path / "sorted"
    target.mkdir()
    (target / "dog").write_bytes(b"mine")
    code, _, err = sort(target)
    assert (code, f"{target / 'dog'} is no folder" in err) == (2, True)
    assert f"{target / 'dog'} is no folder" in refusal(sort(target / "dog"), 2)
    assert tree(target) == {"dog": b"mine"}


def test_a_photo_that_vanishes_is_a_row_and_the_rest_go_on(sort, holiday, tmp_path, monkeypatch):
    class Watching(io.StringIO):
        def write(self, text):  # of the first row: all three are classified by now
            (holiday / "both.png").unlink(missing_ok=True)
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Watching())
    code, _, err = sort(tmp_path / "sorted", "--json")
    rows = [json.loads(row) for row in sys.stdout.getvalue().splitlines()]
    assert (code, len(rows), rows[1]["error"]) == (1, 3, "cannot be copied: it is gone")
    assert sorted(tree(tmp_path / "sorted")) == ["cat/red.png", "dog/blue.png"]
    assert "1 unreadable" in err


def test_a_copy_without_room_leaves_nothing_half_written(sort, colours, holiday, tmp_path):
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(holiday / "a.bmp")  # 1782 bytes
    load(colours).predict(holiday)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        code, _, err = sort(tmp_path / "sorted")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1 and f"cannot copy into {tmp_path / 'sorted'}: File too large. Make room" in err
    assert tree(tmp_path / "sorted") == {}


@pytest.mark.parametrize("name", ["os.link", "shutil.copystat"])
def test_photos_can_be_copied_to_a_memory_stick(name, sort, tmp_path, monkeypatch):
    """exFAT and FAT have no hard links; there and on shares of others dates may not be set."""
    refused = PermissionError(errno.EPERM, "Operation not permitted")
    monkeypatch.setattr(name, mock.Mock(side_effect=refused))
    code, _, err = sort(tmp_path / "out")
    assert code == 0, err
    assert len(tree(tmp_path / "out")) == 3
