"""dataset/check.py finds what is wrong with a dataset, blames nothing else, and changes nothing."""

import functools
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from test_cli import NO_PHOTO

import CatDogClassifier as program
from conftest import REPO, call, guarded, make_dataset, python
from dataset import check as doctor
from measure import check as measure

COUNTS = {"train": 6, "validation": 3, "test": 3}
OTHER = {"cat": "dog", "dog": "cat"}


@pytest.fixture
def check(capsys, tmp_path, monkeypatch):
    """Run the tool in the test's folder: check(DIR, "--json") -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    return functools.partial(call, capsys, guarded(doctor))


def scene(seed, size=96):
    """A picture of soft blobs, as different from the next one as two photos are."""
    blobs = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(blobs).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def data(tmp_path):
    """A dataset without a fault."""
    folders = [tmp_path / "data" / split / label for split in COUNTS for label in OTHER]
    for place, folder in enumerate(folders):
        folder.mkdir(parents=True)
        for number in range(COUNTS[folder.parent.name]):
            scene(10 * place + number).save(folder / f"{number}.png")
    return tmp_path / "data"


def examine(folder, net=None):
    """The summary, and {kind: [(*paths relative to the folder, detail)]}."""
    summary, groups = doctor.check_dataset(folder, program.Console(quiet=True), net)
    for kind, issues in groups.items():
        paths = [[os.path.relpath(path, folder) for path in issue.paths] for issue in issues]
        groups[kind] = [(*paths[i], issue.detail) for i, issue in enumerate(issues)]
    return summary, groups


def test_a_dataset_without_fault_is_found_to_have_none(data):
    summary, found = examine(data)
    assert found == {} and not summary["invalidates_scores"]
    assert summary["counts"] == {split: {"cat": n, "dog": n} for split, n in COUNTS.items()}
    assert (summary["files"], summary["pixels"]) == (24, [(96, 96)] * 3)
    assert (summary["formats"], summary["modes"]) == ({"PNG": 24}, {"RGB": 24})


COPYING = [  # a way to copy, and what is said of it
    (shutil.copyfile, "identical"),
    (lambda path, copy: Image.open(path).save(copy, "BMP"), "identical"),
    (lambda path, copy: Image.open(path).resize((48, 48)).save(copy, "JPEG", quality=40), "alike"),
    (lambda path, copy: ImageOps.mirror(Image.open(path)).save(copy), "alike"),
]
COPIES = [
    ("train/cat/0.png", "test/cat/x.png", {"leak"}),
    ("train/cat/0.png", "validation/cat/x.png", {"leak"}),
    ("validation/dog/0.png", "test/dog/x.png", {"leak"}),
    ("train/cat/0.png", "train/dog/x.png", {"contradiction"}),
    ("train/cat/0.png", "test/dog/x.png", {"leak", "contradiction"}),
    ("train/cat/0.png", "train/cat/x.png", {"copies"}),
]
CASES = [(*copy, *COPYING[0]) for copy in COPIES] + [(*COPIES[4], *way) for way in COPYING[1:]]


@pytest.mark.parametrize(("source", "copy", "kinds", "make", "detail"), CASES)
def test_a_photo_that_is_there_twice_is_found(data, source, copy, kinds, make, detail):
    make(data / source, data / copy)
    summary, found = examine(data)
    assert found.keys() - {"misnamed", "tiny"} == kinds
    assert all(found[kind] == [(source, copy, detail)] for kind in kinds)
    assert summary["invalidates_scores"] == (kinds != {"copies"})


ODD_PHOTOS = [
    ("x.jpg", scene(99), "misnamed", "PNG"),
    ("x.png", scene(99).convert("L"), "mode", "L"),
    ("x.png", scene(99).resize((63, 200)), "tiny", "63 x 200"),
    ("x.png", Image.new("RGB", (90, 90), (9, 80, 9)), "uniform", "nearly one colour"),
]


@pytest.mark.parametrize(("name", "image", "kind", "detail"), ODD_PHOTOS)
def test_an_odd_photo_is_named_and_does_not_invalidate_scores(data, name, image, kind, detail):
    image.save(data / "train/cat" / name, "PNG")
    summary, found = examine(data)
    assert found == {kind: [(f"train/cat/{name}", detail)]} and not summary["invalidates_scores"]


def test_what_cannot_be_read_is_named_with_the_reason(data):
    (data / "train/cat/x.jpg").write_bytes(b"")
    scene(99, 300).save(data / "test/dog/y.jpg", quality=95)
    os.truncate(data / "test/dog/y.jpg", 3000)
    summary, found = examine(data)
    first, (path, why) = found.pop("unreadable")
    assert (first, path) == (("train/cat/x.jpg", NO_PHOTO), "test/dog/y.jpg") and "truncated" in why
    assert found == {} and not summary["invalidates_scores"]


UNUSABLE = [
    ("validation", shutil.rmtree, "validation", "is missing or empty"),
    ("test/dog", shutil.rmtree, "test", "holds cat instead of cat, dog"),
    ("test/dog", lambda p: p.rename(f"{p}e"), "test", "holds cat, doge instead of cat, dog"),
    ("test/dog/*", lambda p: os.truncate(p, 0), "test", "no photo of a class can be read"),
    ("test/dog/*", Path.unlink, "test", "holds cat instead of cat, dog"),
    ("train/*/0.png", lambda p: os.truncate(p, 0), "train", "2 of 12"),
]


@pytest.mark.parametrize(("pattern", "change", "split", "detail"), UNUSABLE)
def test_only_a_split_that_a_training_cannot_use_is_blamed(data, pattern, change, split, detail):
    for path in list(data.glob(pattern)):
        change(path)
    summary, found = examine(data)
    issues = found.get("layout" if "2 of" not in detail else "lost")
    assert issues == [(split, detail)] and summary["invalidates_scores"]


def test_unequal_classes_are_said(data):
    for number in range(7):
        scene(100 + number).save(data / f"train/cat/x{number}.png")
    assert examine(data)[1] == {"imbalance": [("train", "cat 13, dog 6")]}


def test_files_in_no_class_and_hidden_ones_are_told_apart(data):
    for name in ("test/1.png", "more/2.png", ".git/3.png", "test/cat/._4.png"):
        (data / name).parent.mkdir(exist_ok=True)
        scene(99).save(data / name)
    summary, found = examine(data)
    assert found == {"stray": [("test/1.png", ""), ("more/2.png", "")]}


UNSPLIT = [
    (["Cat.0.png", "Cat.1.png", "Dog.0.png"], {"cat": 2, "dog": 1}, "contradiction"),
    (["Cats/0.png", "Cats/1.png", "Dogs/0.png"], {"cat": 2, "dog": 1}, "contradiction"),
    (["beach/0.png", "Test/1.png", "zoo/0.png"], {"photos": 3}, "copies"),  # no split of a dataset
]


@pytest.mark.parametrize(("names", "counts", "kind"), UNSPLIT)
def test_any_folder_of_photos_can_be_checked(tmp_path, names, counts, kind):
    for place, name in enumerate(names):  # the last photo is the first one again
        (tmp_path / name).parent.mkdir(exist_ok=True)
        scene(place % 2).save(tmp_path / name)
    summary, found = examine(tmp_path)
    assert summary["counts"] == {"all": counts}
    assert found == {kind: [(names[0], names[2], "identical")]}


def test_near_duplicates_are_what_correlates_and_nothing_else():
    rng = np.random.default_rng(0)
    scenes = [np.asarray(scene(seed, 32).convert("L")) for seed in range(400)]
    others = [each + rng.normal(0, rng.uniform(0, 4), (32, 32)) for each in scenes[:200]]
    others += [each[:, ::-1] for each in scenes[200:300]]
    others += [scenes[0] // 128 + 80] * 2  # nearly of one colour: nothing to compare
    thumbs = np.clip([*scenes, *others], 0, 255).astype(np.uint8)  # (702, 32, 32)
    assert doctor.near_duplicate_pairs(thumbs) == {(seed, 400 + seed) for seed in range(300)}
    for count in (1, 2, 3):  # few are compared too
        groups = doctor.find_duplicates("abc"[:count], [thumbs[0]] * count)
        assert groups == ([[*range(count)]] if count > 1 else [])


@pytest.mark.parametrize("share", [0.6, 0.5, 0.33])
def test_photos_in_the_same_frame_are_not_taken_for_copies_of_each_other(share):
    frames, side = [Image.new("L", (32, 32), "white") for _ in range(200)], int(32 * share)
    for seed, frame in enumerate(frames):
        dark = scene(seed).resize((side, 32)).convert("L").point(lambda grey: grey // 2)
        frame.paste(dark, ((32 - side) // 2, 0))
    assert doctor.near_duplicate_pairs(np.stack(frames)) == set()


def state(folder):
    """All that is in a folder, and when it was written."""
    return {p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in folder.rglob("*")}


def test_the_check_changes_nothing_not_even_from_inside(data, check, monkeypatch):
    shutil.copy(data / "train/cat/0.png", data / "test/cat/x.png")
    before = state(data)
    monkeypatch.chdir(data / "test")
    code, out, err = check("..", "--json")
    assert (code, err, state(data)) == (1, "", before)
    picture = Path(json.loads(out.splitlines()[-1])["picture"])
    assert picture.name == "data_check.png" and Image.open(picture).format == "PNG"
    shutil.rmtree(picture.parent)


def test_the_report_for_people(data, check):
    shutil.copy(data / "train/cat/0.png", data / "test/cat/x.png")
    (data / "test/dog/y.jpg").write_bytes(b"")
    code, out, err = check(data)
    assert (code, err) == (1, "")
    assert out.splitlines() == [
        f"{data}: 26 files",
        *("train        6 cat, 6 dog", "validation   3 cat, 3 dog", "test         4 cat, 3 dog"),
        "pixels       smallest 96 x 96, median 96 x 96, largest 96 x 96",
        *("formats      PNG 25; RGB 25", ""),
        f"leak (1): {doctor.KINDS['leak']}",
        *(f"  {data}/train/cat/0.png  {data}/test/cat/x.png  identical", ""),
        f"unreadable (1): {doctor.KINDS['unreadable']}",
        *(f"  {data}/test/dog/y.jpg  {NO_PHOTO}", ""),
        "verdict      scores mean nothing until this is mended: leak",
        "picture      data_check.png, of each kind the first 16",
    ]


def test_the_report_for_programs(data, check):
    paths = [str(data / "train/cat" / name) for name in ("0.png", "x\x7f.png")]
    shutil.copy(*paths)
    code, out, _ = check(data, "--json")
    row, summary = map(json.loads, out.splitlines())
    same = {"issue": "copies", "detail": "identical", "invalidates_scores": False, "paths": paths}
    assert (code, row) == (0, same)
    some = {"issue": "summary", "found": {"copies": 1}, "invalidates_scores": False, "files": 25}
    some |= {"folder": str(data), "label_agreement": None, "picture": "data_check.png"}
    assert some.items() <= summary.items()


def test_the_command_itself_needs_no_tensorflow(data):
    done = python("-X", "importtime", REPO / "dataset" / "check.py", data)
    assert done.returncode == 0 and b"nothing grave found" in done.stdout
    assert b"numpy" in done.stderr and b"tensorflow" not in done.stderr
    assert python(REPO / "dataset" / "check.py").returncode == 2


def test_nothing_to_check_is_said_in_one_line(tmp_path, check):
    (tmp_path / "texts/none").mkdir(parents=True)
    (tmp_path / "texts/a.jpg").write_bytes(b"no photo")
    assert check("none")[2].startswith("CatDogClassifier: there is no folder none. ")
    refusal = "holds no photos that can be read"
    assert check("texts/none") == (1, "", f"CatDogClassifier: texts/none {refusal}\n")
    refusal += f", such as texts/a.jpg: {NO_PHOTO}"
    assert check("texts") == (1, "", f"CatDogClassifier: texts {refusal}\n")


class Net:
    """Tells tinted photos apart by their colours: cats are reddish, dogs bluish."""

    classes, size, asked = ("cat", "dog"), 24, []

    def predictor(self, photos):
        assert photos.dtype == np.uint8 and photos.shape[1:] == (24, 24, 3)
        self.asked.append(photos)
        red, _, blue = photos.mean(axis=(1, 2)).T
        return np.stack([0.5 + (red - blue) / 510, 0.5 + (blue - red) / 510], axis=1)


def test_wrong_labels_are_listed_worst_first_where_the_net_has_these_classes(tmp_path):
    wrong = {("cat", 3): "dog", ("dog", 2): "cat"}
    options = {"relabel": lambda *photo: wrong.get(photo, photo[0])}
    data = make_dataset(tmp_path / "data", {"train": 6, "test": 4}, **options)
    summary, found = examine(data, Net())
    names = sorted("/".join(Path(path).parts[1:]) for path, _ in found["label"])
    assert names == ["cat/dog.2.png"] * 2 + ["dog/cat.3.png"] * 2
    shares = [float(detail.split()[-2]) for _, detail in found["label"]]
    assert shares == sorted(shares, reverse=True) and min(shares) > 50
    assert summary["label_agreement"] == 0.8
    assert np.array_equal(Net.asked[1], Net.asked[0][:, :, ::-1])  # about mirror images, too
    assert "label" not in examine(data)[1]  # without a net
    for split in ("train", "test"):
        (data / split / "dog").rename(data / split / "cow")
    with pytest.raises(program.CatDogError, match="holds cat, cow instead of cat, dog. Leave out"):
        examine(data, Net())


def test_weights_judge_labels_and_say_where_they_cannot(colours, tmp_path, check):
    options = {"relabel": lambda label, number: OTHER[label] if number else label}
    data = make_dataset(tmp_path / "data", COUNTS, **options)
    out = check(data, "--weights", colours)[1]
    assert "agrees with 25.0 % of the labels: what it contradicts means little\n" in out
    assert "\nlabel (18): " in out
    (tmp_path / "holiday").mkdir()
    scene(0).save(tmp_path / "holiday/1.png")
    code, out, err = check("holiday", "--weights", colours)
    assert (code, err) == (0, "There are no labels here that a net could contradict.\n")
    assert out.endswith("verdict      photos without labels: nothing to train on, or to score\n")


def test_a_picture_of_the_user_is_never_replaced(data, check, tmp_path):
    shutil.copy(data / "train/cat/0.png", data / "test/cat/x.png")
    assert [check(data)[::2] for _ in range(2)] == [(1, "")] * 2  # its own picture it replaces
    assert Image.open(tmp_path / "data_check.png").format == "PNG"
    scene(3).save(tmp_path / "data_check.png")
    before = state(tmp_path)
    code, out, err = check(data)
    assert (code, "\npicture " in out, state(tmp_path)) == (1, False, before)
    assert err.startswith("There is no picture: data_check.png is there already")


@pytest.mark.skipif(os.name == "nt", reason="names that Windows does not take")
def test_names_in_any_bytes_and_script_are_reported_and_drawn(data, check):
    raw = [os.fsdecode(b"\xff.png")] if os.uname().sysname == "Linux" else []
    for name in ("$\\frac$.png", "猫🐱\n.png", *raw):
        shutil.copy(data / "train/cat/0.png", data / "test/cat" / name)
    assert check(data)[::2] == (1, "")
    rows = [json.loads(line) for line in check(data, "--json")[1].splitlines()]
    assert [row["issue"] for row in rows] == ["leak", "summary"] and rows[1]["picture"]


def test_the_faults_planted_into_real_photos_are_found(real, tmp_path):
    paths = measure.untouched(real / "photos", tmp_path / "planted")
    planted = measure.plant(paths, random.Random(1))
    groups = doctor.check_dataset(tmp_path / "planted", program.Console(quiet=True))[1]
    exact, resized = (set(map(frozenset, planted[kind])) for kind in ("exact", "recompressed"))
    leaks = {frozenset(issue.paths) for issue in groups["leak"]}
    assert exact <= leaks <= exact | resized and len(resized - leaks) <= 1  # 98 % of them
    assert {i.paths[0] for i in groups["unreadable"]} == {fault for fault, _ in planted["broken"]}


def test_what_is_not_installed_is_one_line():
    done = python("-S", REPO / "dataset" / "check.py", REPO / "dataset", text=True)  # no packages
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert " is not installed. Run: pip install -r requirements.txt" in done.stderr
