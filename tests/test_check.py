"""Room 5: the doctor finds what is wrong with a dataset, blames nothing else, and changes nothing."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import CatDogClassifier as program
from conftest import make_dataset, quick

COUNTS = {"train": 6, "validation": 3, "test": 3}


def scene(seed, size=96):
    """A picture of soft blobs, as different from the next one as two photos are."""
    blobs = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(blobs).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def data(tmp_path):
    """A dataset without a fault."""
    seed = 0
    for split, count in COUNTS.items():
        for label in ("cat", "dog"):
            for number in range(count):
                path = tmp_path / "data" / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                scene(seed := seed + 1).save(path)
    return tmp_path / "data"


def check(folder):
    return program.CatDogClassifier(quiet=True).check(folder)


def found(folder):
    """What the doctor says: {kind: [(paths relative to the folder, detail)]}."""
    return {kind: [(*(os.path.relpath(path, folder) for path in finding.paths), finding.detail) for finding in findings]
            for kind, findings in check(folder).groups().items()}


def test_a_dataset_without_fault_is_found_to_have_none(data):
    report = check(data)
    assert report.findings == [] and not report.dishonest
    assert report.counts == {split: {"cat": count, "dog": count} for split, count in COUNTS.items()}
    assert (report.files, report.ignored, report.pixels) == (24, 0, [(96, 96)] * 3)
    assert (report.formats, report.modes) == ({"PNG": 24}, {"RGB": 24})


def recompressed(path, target, quality=40):
    image = Image.open(path)
    image.resize((image.width // 2, image.height // 2)).save(target, "JPEG", quality=quality)


def again(path, target):
    """The same pixels in other bytes."""
    Image.open(path).save(target, "BMP")


@pytest.mark.parametrize(("source", "copy", "kinds"), [
    ("train/cat/0.png", "test/cat/x.png", {"leak"}),
    ("train/cat/0.png", "validation/cat/x.png", {"leak"}),
    ("validation/dog/0.png", "test/dog/x.png", {"leak"}),
    ("train/cat/0.png", "train/dog/x.png", {"contradiction"}),
    ("train/cat/0.png", "test/dog/x.png", {"leak", "contradiction"}),
    ("train/cat/0.png", "train/cat/x.png", {"copies"}),
])
@pytest.mark.parametrize(("how", "detail"), [(shutil.copyfile, "identical"), (again, "identical"), (recompressed, "alike")])
def test_a_photo_that_is_there_twice_is_found_whatever_its_bytes(data, source, copy, kinds, how, detail):
    how(data / source, data / copy)
    report = {kind: faults for kind, faults in found(data).items() if kind not in ("misnamed", "tiny")}
    assert report == {kind: [(*sorted((source, copy), key=[source, copy].index), detail)] for kind in kinds}
    assert check(data).dishonest == (kinds != {"copies"})


def test_a_photo_that_is_there_many_times_is_one_finding(data):
    for number in range(20):
        recompressed(data / "train/cat/0.png", data / f"test/cat/x{number}.jpg", quality=40 + number)
    ((*paths, detail),) = found(data)["leak"]
    assert (len(paths), paths[0], detail) == (21, "train/cat/0.png", "alike")


def write(content):
    def save(path):
        path.write_bytes(content)
    return save


def saved(image, kind="PNG"):
    return lambda path: image.save(path, kind)


@pytest.mark.parametrize(("name", "make", "kind", "detail"), [
    ("x.jpg", write(b""), "unreadable", "not a photo that can be read (JPEG, PNG, GIF, BMP, WEBP)"),
    ("x.jpg", saved(scene(99)), "misnamed", "PNG"),
    ("x", saved(scene(99)), "misnamed", "PNG"),
    ("x.png", saved(scene(99).convert("L")), "mode", "L"),
    ("x.png", saved(scene(99).convert("RGBA")), "mode", "RGBA"),
    ("x.jpg", saved(scene(99).convert("CMYK"), "JPEG"), "mode", "CMYK"),
    ("x.png", saved(scene(99).resize((63, 200))), "tiny", "63 x 200"),
    ("x.png", saved(Image.new("RGB", (90, 90), (9, 80, 9))), "uniform", "nearly one colour"),
])
def test_an_odd_photo_is_named_with_what_is_odd_and_does_not_make_scores_dishonest(data, name, make, kind, detail):
    make(data / "train/cat" / name)
    assert found(data) == {kind: [(f"train/cat/{name}", detail)]}
    assert not check(data).dishonest


def test_a_folder_without_a_photo_that_can_be_read_is_refused(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"no photo")
    with pytest.raises(program.DatasetError, match="no photos that can be read, such as .*a.jpg: not a photo"):
        check(tmp_path)


def test_only_the_part_that_differs_is_blamed(data):
    for split, label in (("validation", "kitten"), ("test", "bird")):
        (data / split / "cat").rename(data / split / label)
    assert found(data)["layout"] == [("validation", "holds dog, kitten instead of cat, dog"),
                                     ("test", "holds bird, dog instead of cat, dog")]


def test_half_a_photo_is_unreadable(data):
    buffer = io.BytesIO()
    scene(99, 300).save(buffer, "JPEG", quality=95)
    (data / "train/dog/x.jpg").write_bytes(buffer.getvalue()[:3000])
    ((path, why),) = found(data)["unreadable"]
    assert path == "train/dog/x.jpg" and "truncated" in why


def test_photos_of_one_colour_are_not_taken_for_copies_of_each_other(data):
    for number in range(4):
        Image.new("RGB", (90, 90), (40 * number, 80, 9)).save(data / f"train/cat/x{number}.png")
    assert set(found(data)) == {"uniform"}


@pytest.mark.parametrize(("change", "kind", "detail"), [
    (lambda data: shutil.rmtree(data / "validation"), "layout", ("validation", "is missing or empty")),
    (lambda data: shutil.rmtree(data / "test/dog"), "layout", ("test", "holds cat instead of cat, dog")),
    (lambda data: (data / "test/dog").rename(data / "test/cow"), "layout",
     ("test", "holds cat, cow instead of cat, dog")),
    (lambda data: [path.write_bytes(b"") for path in (data / "test/dog").iterdir()], "layout",
     ("test", "no photo of a class can be read")),
    (lambda data: [(data / f"train/{name}").write_bytes(b"") for name in ("cat/0.png", "dog/1.png")], "lost",
     ("train", "2 of 12")),
])
def test_a_part_that_a_training_cannot_use_is_a_grave_finding(data, change, kind, detail):
    change(data)
    assert detail in found(data)[kind]
    assert check(data).dishonest


def test_an_empty_class_is_reported_for_a_training_refuses_it(data):
    (data / "train/bird").mkdir()
    assert ("train", "holds bird, cat, dog instead of cat, dog") in found(data)["layout"]


def test_unequal_classes_are_said(data):
    for number in range(7):
        scene(100 + number).save(data / f"train/cat/x{number}.png")
    assert found(data) == {"imbalance": [("train", "cat 13, dog 6")]}


def test_files_in_no_class_and_hidden_ones_are_told_apart(data):
    scene(99).save(data / "test/1.png")
    (data / "test/cat/Thumbs.db").write_bytes(b"")
    report = check(data)
    assert [(finding.kind, finding.paths) for finding in report.findings] == [("stray", (str(data / "test/1.png"),))]
    assert report.ignored == 1


@pytest.mark.parametrize("name", ["{label}.{number}.png", "{label}s/{number}.png"])
def test_photos_that_are_not_split_yet_can_be_checked(tmp_path, name):
    for place, label in enumerate(("Cat", "Dog")):
        for number in range(3):
            path = tmp_path / "source" / name.format(label=label, number=number)
            path.parent.mkdir(parents=True, exist_ok=True)
            scene(10 * place + number).save(path)
    again(path, path.with_name("cat.9.png" if path.parent.name == "source" else "9.png"))
    report = check(tmp_path / "source")
    assert report.counts in ({"all": {"cat": 4, "dog": 3}}, {"all": {"cat": 3, "dog": 4}})
    assert {finding.kind for finding in report.findings} <= {"misnamed", "contradiction", "copies"}
    assert len(report.groups().get("contradiction", []) + report.groups().get("copies", [])) == 1


def test_any_folder_of_photos_can_be_checked_for_copies(tmp_path):
    for number in range(4):
        (tmp_path / "holiday" / str(number)).mkdir(parents=True)
        scene(number).save(tmp_path / f"holiday/{number}/IMG_{number}.png")
    shutil.copy(tmp_path / "holiday/0/IMG_0.png", tmp_path / "holiday/3/")
    report = check(tmp_path / "holiday")
    assert report.counts == {"all": {"photos": 5}}
    assert [finding.kind for finding in report.findings] == ["copies"]


def test_what_looks_alike_is_what_correlates_and_nothing_else():
    rng = np.random.default_rng(0)
    scenes = [np.asarray(scene(seed).convert("L").resize((32, 32)), float) for seed in range(400)]
    noisy = [scenes[seed] + rng.normal(0, rng.uniform(0, 4), (32, 32)) for seed in range(200)]
    mirrored = [scenes[seed][:, ::-1] for seed in range(200, 300)]
    thumbs = np.clip([*scenes, *noisy, *mirrored], 0, 255).astype(np.uint8)
    assert program.alike(thumbs) == {(seed, 400 + seed) for seed in range(300)}


def framed(seed, share):
    """A scene in a white frame, which is most of the picture."""
    image, side = Image.new("RGB", (96, 96), "white"), int(96 * share)
    image.paste(scene(seed).resize((side, 96)), ((96 - side) // 2, 0))
    return image


@pytest.mark.parametrize("share", [0.6, 0.5, 0.33])
def test_photos_in_the_same_frame_are_not_taken_for_copies_of_each_other(share):
    thumbs = np.stack([program.fingerprint(np.asarray(framed(seed, share)))[1] for seed in range(200)])
    assert program.alike(thumbs) == set()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_photos_are_compared_too(count):
    thumbs = np.repeat(np.asarray(scene(0).convert("L").resize((32, 32)))[None], count, axis=0)
    assert len(program.connected(count, program.alike(thumbs))) == (count > 1)


def test_pairs_become_groups():
    assert program.connected(8, [(1, 5), (2, 2), (5, 7), (0, 3)]) == [[0, 3], [1, 5, 7]]


def test_copies_are_counted_where_they_do_harm():
    photos = np.stack([np.asarray(scene(seed)) for seed in range(9)])
    splits = {"train": photos[:4], "validation": photos[[4, 0, 1]], "test": photos[[5, 6, 0, 0, 4]]}

    def copies(splits):
        return program.copies_between({name: program.fingerprints(part) for name, part in splits.items()})

    assert copies(splits) == {"validation": 2, "test": 3}
    assert copies({"train": photos[[0, 0]], "validation": photos[1:3]}) == {}


def tree(folder):
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in Path(folder).rglob("*")}


def test_the_check_changes_nothing_not_even_from_inside(data, run, monkeypatch):
    shutil.copy(data / "train/cat/0.png", data / "test/cat/x.png")
    before = tree(data)
    monkeypatch.chdir(data)
    code, out, err = run("--check", ".")
    assert (code, err, tree(data)) == (1, "", before)
    picture = Path(out.splitlines()[-1].removeprefix("picture      ").removesuffix(", of each kind the first 16"))
    assert picture.name == "data_check.png" and Image.open(picture).format == "PNG"
    picture.unlink()


def test_the_report_for_people(data, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(data / "train/cat/0.png", data / "test/cat/x.png")
    (data / "test/dog/y.jpg").write_bytes(b"")
    code, out, _ = run("--check", data)
    assert code == 1
    assert out.splitlines() == [
        f"{data}: 26 files",
        "train        6 cat, 6 dog", "validation   3 cat, 3 dog", "test         4 cat, 3 dog",
        "pixels       smallest 96 x 96, median 96 x 96, largest 96 x 96",
        "formats      PNG 25; RGB 25", "",
        "leak (1): one photo in several of train, validation, test, so that scores come out too good: keep one",
        f"  {data}/train/cat/0.png  {data}/test/cat/x.png  identical", "",
        "unreadable (1): cannot be read: a training leaves them out",
        f"  {data}/test/dog/y.jpg  not a photo that can be read (JPEG, PNG, GIF, BMP, WEBP)", "",
        "verdict      scores mean nothing until this is mended: leak", "picture      data_check.png, of each kind the first 16"]


def test_the_report_for_programs(data, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    again(data / "train/cat/0.png", data / "train/cat/x.bmp")
    code, out, _ = run("--check", data, "--json")
    row, summary = map(json.loads, out.splitlines())
    assert code == 0
    assert row == {"finding": "copies", "dishonest": False, "detail": "identical",
                   "paths": [str(data / "train/cat/0.png"), str(data / "train/cat/x.bmp")]}
    assert summary["finding"] == "summary" and summary["found"] == {"copies": 1}
    assert (summary["folder"], summary["files"], summary["dishonest"]) == (str(data), 25, False)
    assert summary["picture"] == "data_check.png"


def test_without_a_folder_the_dataset_is_checked(data, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("--check", "--dataset", data)[1] == run("--check", data)[1]


@pytest.mark.parametrize("name", ["none", "empty"])
def test_nothing_to_check_is_said(tmp_path, run, name):
    (tmp_path / "empty").mkdir()
    code, out, err = run("--check", tmp_path / name)
    assert (code, out) == (1, "") and err.startswith("CatDogClassifier: ") and err.count("\n") == 1


def test_wrong_labels_are_listed_worst_first(trained, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    swapped = {("cat", 3), ("dog", 2)}
    data = make_dataset(tmp_path / "data", {"train": 8, "validation": 4, "test": 4}, seed=5,
                        relabel=lambda label, number: label if (label, number) not in swapped
                        else {"cat": "dog", "dog": "cat"}[label])
    code, out, _ = run("--check", data, "--weights", trained.settings.weights, "--json")
    rows = [json.loads(line) for line in out.splitlines() if '"label"' in line]
    assert {os.path.relpath(row["paths"][0], data) for row in rows if row["finding"] == "label"} == {
        f"{split}/{wrong}/{label}.{number}.png" for split in ("train", "validation", "test")
        for label, number, wrong in (("cat", 3, "dog"), ("dog", 2, "cat"))}
    shares = [row["detail"].split()[-2] for row in rows if row["finding"] == "label"]
    assert shares == sorted(shares, key=float, reverse=True)
    assert '"finding": "label"' not in run("--check", data, "--json")[1]  # who names no weights is not asked for any


def test_labels_of_other_classes_cannot_be_judged(trained, data, run):
    for split in COUNTS:
        (data / split / "dog").rename(data / split / "cow")
    code, _, err = run("--check", data, "--weights", trained.settings.weights)
    assert (code, err) == (1, f"CatDogClassifier: {data} holds cat, cow instead of cat, dog. Leave out --weights\n")


def test_without_labels_there_is_a_check_all_the_same(weights, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "holiday").mkdir()
    scene(0).save(tmp_path / "holiday/1.png")
    code, out, err = run("--check", "holiday", "--weights", weights)
    assert (code, err) == (0, "There are no labels here that a net could contradict.\n")
    assert out.endswith("verdict      photos without labels: nothing to train on, or to score\n")


def test_a_net_that_is_mostly_wrong_is_no_judge(trained, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = {"cat": "dog", "dog": "cat"}
    data = make_dataset(tmp_path / "data", COUNTS, relabel=lambda label, number: wrong[label] if number else label)
    code, out, err = run("--check", data, "--weights", trained.settings.weights)
    assert "This net agrees with 25.0 % of the labels only" in err
    assert "net          agrees with 25.0 % of the labels" in out


def test_a_picture_of_the_user_is_never_replaced(data, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(data / "train/cat/0.png", data / "test/cat/x.png")
    for _ in range(2):  # its own picture it replaces
        code, out, err = run("--check", data)
        assert (code, err) == (1, "") and "picture      data_check.png" in out
    scene(3).save(tmp_path / "data_check.png")
    before = (tmp_path / "data_check.png").read_bytes()
    code, out, err = run("--check", data)
    assert (code, "\npicture " in out) == (1, False) and "data_check.png is not to be replaced" in err
    assert (tmp_path / "data_check.png").read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="names that Windows does not take")
def test_names_in_any_bytes_and_script_are_reported_and_drawn(data, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("$\\frac$.png", "猫🐱\n.png", *([os.fsdecode(b"\xff.png")] if os.uname().sysname == "Linux" else [])):
        shutil.copy(data / "train/cat/0.png", data / "test/cat" / name)
    code, out, err = run("--check", data)
    assert (code, err) == (1, "") and "data_check.png" in out
    assert [json.loads(line)["finding"] for line in run("--check", data, "--json")[1].splitlines()] == ["leak", "summary"]


def test_a_folder_called_test_does_not_make_a_dataset_of_a_holiday(tmp_path):
    for place, name in enumerate(("beach", "Test", "zoo")):
        (tmp_path / name).mkdir()
        scene(place).save(tmp_path / name / "1.png")
    assert check(tmp_path).counts == {"all": {"photos": 3}}


def test_a_training_says_what_the_cheap_part_of_the_check_finds(dataset, tmp_path, capsys):
    quick(tmp_path, epochs=1, quiet=False).train(dataset)
    assert "Looked for copies between train, validation, test: none found.\n" in capsys.readouterr().err
    shutil.copy(dataset / "train/cat/cat.0.png", dataset / "test/cat/x.png")
    shutil.copy(dataset / "train/cat/cat.1.png", dataset / "validation/cat/x.png")
    classifier = quick(tmp_path, epochs=1, fresh=True, quiet=False)
    classifier.train(dataset)
    assert ("1 of the validation photos, 1 of the test photos are in an earlier part as well, or look alike: if they "
            f"are copies, the scores come out too good. Which: python CatDogClassifier.py --check {dataset}\n") in capsys.readouterr().err
    assert classifier.summary["copies"] == {"validation": 1, "test": 1}


def test_the_planted_faults_in_real_photos(real, tmp_path):
    import random

    import measure_check

    paths = measure_check.untouched(real / "photos", 5000, tmp_path / "planted")
    assert check(tmp_path / "planted").findings == []
    planted = measure_check.plant(paths, random.Random(1))
    groups = check(tmp_path / "planted").groups()
    expected = {frozenset(pair) for kind in ("exact", "recompressed") for pair in planted[kind]}
    leaks = {frozenset(finding.paths) for finding in groups["leak"]}
    assert len(expected - leaks) <= 1 and leaks <= expected  # 98 % of the recompressed ones
    assert {frozenset(pair) for pair in planted["exact"]} <= leaks
    assert {finding.paths[0] for finding in groups["unreadable"]} == {fault for fault, _ in planted["broken"]}
