"""The scripts behind the published figures: the test photos are kept apart, folds and tables."""

import contextlib
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest

import CatDogClassifier as program
from CatDogClassifier import CatDogClassifier
from conftest import REPO, tint

HAPPY = ["--model", "happy", "--epochs", "1", "--precision", "float32"]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(REPO / "tests" / "measure")


def draw(folder, numbers):
    """Photos named as Kaggle names them."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        for label in ("cat", "dog"):
            tint(label, np.random.default_rng(number)).save(folder / f"{label}.{number}.jpg")


@pytest.fixture
def box(tmp_path, monkeypatch):
    """train_box.py in this process, for 12 photos to train on, none to test."""
    import train_box

    def call(*arguments):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            code = program.main(list(map(str, arguments)))
        if code:
            raise SystemExit(code)
        return out.getvalue()

    splits = {"train": range(12), "validation": range(12, 18), "test": range(18, 24)}
    monkeypatch.setattr(train_box, "SPLITS", splits)
    monkeypatch.setattr(train_box, "TEST_LOG", tmp_path / "log")
    monkeypatch.setattr(train_box, "call", call)
    numbers = {"train": range(4), "validation": range(4, 6), "test": range(6, 8)}
    monkeypatch.setattr(train_box, "PORTRAITS", numbers)
    draw(tmp_path / "photos", range(18))
    draw(tmp_path / "portraits", range(8))
    (tmp_path / "neither").mkdir()
    for kind in range(6):  # the fifth validates, the last one tests
        for number in range(3):
            tint("neither", np.random.default_rng(number)).save(
                tmp_path / "neither" / f"kind{kind}.{number}.jpg"
            )
    folders = [str(tmp_path / name) for name in ("photos", "portraits", "neither", "none")]
    line = [*folders, "--work", str(tmp_path / "work"), *HAPPY]
    return lambda *more: train_box.main([*line, *more])


def test_the_shipped_net_is_trained_without_a_look_at_the_test_photos(box, tmp_path, capsys):
    pytest.importorskip("ai_edge_litert", reason="pip install ai-edge-litert")
    box()  # there are none
    weights = tmp_path / "work" / "seed0.h5"
    about = program.read_metadata(tmp_path / "work" / "seed0_box.h5", program.Settings())
    card = about.pop("card")
    assert about == program.read_metadata(weights, program.Settings())
    assert (card["validation"], "test" in card) == ("7000-7499", False)
    before = weights.read_bytes()
    box()
    assert weights.read_bytes() == before  # what is finished is not trained again
    with pytest.raises(SystemExit, match="--model happy .*Name another --work"):
        box("--epochs", "2")
    with pytest.raises(SystemExit, match="cat.18.jpg is missing"):
        box("--score")
    assert not (tmp_path / "log").exists()


def test_kinds_that_are_held_out_are_not_learned_but_asked_about(box, tmp_path, capsys):
    pytest.importorskip("ai_edge_litert", reason="pip install ai-edge-litert")
    with pytest.raises(SystemExit, match="kind5: no kinds that train"):  # it tests
        box("--hold", "kind5")
    box("--hold", "kind1", "--every", "2")
    learned = {path.name for path in (tmp_path / "work/photos/train/neither").iterdir()}
    names = ["kind0.0", "kind0.2", "kind2.1", "kind3.0", "kind3.2"]  # of kind0, kind2, kind3
    expected = [f"neither-{name}.jpg" for name in names]
    assert learned == {*expected, *(f"squashed-{name}" for name in expected)}
    assert "held out: kind1: right" in capsys.readouterr().out


def test_what_imagenets_head_says_changes_the_odds_of_neither_alone(tmp_path):
    import train_box

    before = CatDogClassifier(model="finetune", base="efficientnet-lite0", base_weights="none")
    before.classes = ("cat", "dog", "neither")
    before.createModel()
    last = before.model.get_layer("last_norm")  # random nets make nothing of photos
    last.set_weights([np.ones(1280), np.arange(1280) / 500, np.zeros(1280), np.ones(1280)])
    before.net.info["run"] = "x"
    rng, weights = np.random.default_rng(0), tmp_path / "x.h5"
    weights.write_bytes(program.save_h5(before.net))
    kernel, bias = np.float32(rng.normal(size=(1280, 1000))), np.float32(rng.normal(size=1000))
    np.savez(tmp_path / "head.npz", kernel=kernel, bias=bias)
    train_box.call_witness(SimpleNamespace(head=tmp_path / "head.npz"), weights)
    after = CatDogClassifier(weights=str(weights))
    after.load_weights()
    assert (after.info["architecture"], after.info["run"] == "x") == ("witness", False)
    photos = rng.random((3, 224, 224, 3)).astype(np.float32)
    features = program.base_of(before.model).predict_on_batch(photos)  # (3, 1280)
    assert features.std() > 0.5
    logits, pets = features @ kernel + bias, [*range(151, 269), *range(281, 286)]
    rest = [number for number in range(1000) if number not in pets]
    for name, classes in (("pets", pets), ("others", rest)):
        rounded = np.float32(np.float16(kernel[:, classes]))
        assert np.array_equal(after.model.get_layer(name).get_weights()[0], rounded)
    said = logits[:, rest].max(axis=1) - logits[:, pets].max(axis=1)
    old, new = (np.log(net.model.predict_on_batch(photos)) for net in (before, after))
    change = (new - old) - (new - old)[:, :1]  # (3, 3): of the odds against the first class
    assert change[:, 1] == pytest.approx(0, abs=0.01)
    expected = 0.5 * (said - np.log(877 / 123))  # of its classes 123 are cats and dogs
    assert change[:, 2] == pytest.approx(expected, abs=0.05)  # 16-bit numbers


def test_a_reading_of_the_test_photos_is_logged_before_it_begins(box, tmp_path, capsys):
    pytest.importorskip("ai_edge_litert", reason="pip install ai-edge-litert")
    draw(tmp_path / "photos", range(18, 24))
    good = {path: path.read_bytes() for path in (tmp_path / "photos").glob("*.2?.jpg")}
    for path in good:
        path.write_bytes(b"broken")
    with pytest.raises(SystemExit):
        box("--score")
    run = program.read_metadata(tmp_path / "work" / "seed0.h5", program.Settings())["run"]
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.endswith(f"run {run}: begun")
    for path, content in good.items():
        path.write_bytes(content)
    box("--score")
    *_, line = (tmp_path / "log").read_text().splitlines()
    card = program.read_metadata(tmp_path / "work" / "seed0_box.h5", program.Settings())["card"]
    assert line.endswith(f"run {run}: {json.dumps(card['test'])}")
    assert {name: total for name, (_, total) in card["test"].items()} == {
        "photos": 12,
        "portraits": 4,
        "neither": 3,
    }
    learned = [path.name for path in (tmp_path / "work/photos/train/neither").iterdir()]
    assert len(learned) == 2 * 12 and "squashed-neither-kind3.2.jpg" in learned
    assert "expected calibration error" in capsys.readouterr().out


def test_what_trains_the_shipped_net_keeps_its_test_photos_and_the_originals_apart(capsys):
    import calibration
    import train_box

    train, validation, test = (set(numbers) for numbers in train_box.SPLITS.values())
    assert (len(train), len(validation), len(test)) == (6900, 500, 500)
    assert not train & validation and not test & (train | validation)
    assert not (train | validation | test) & {*range(4001, 4101), *range(8000, 9000)}
    with pytest.raises(SystemExit):
        calibration.main(["photos", "net.h5", "--to", "7500"])
    assert "train_box.py --score alone reads the photos from 7500 on" in capsys.readouterr().err


def test_folds_hold_every_photo_once_and_every_class_evenly():
    from cross_validate import deal

    labels = np.array([0] * 10 + [1] * 7, np.float32)[:, None]
    assert deal(labels, 3).tolist() == [0, 1, 2] * 3 + [0] + [0, 1, 2] * 2 + [0]
    shuffled = deal(labels, 3, np.random.default_rng(0))
    assert shuffled.tolist() != deal(labels, 3).tolist()
    assert [np.bincount(part).tolist() for part in np.split(shuffled, [10])] == [
        [4, 3, 3],
        [3, 2, 2],
    ]
    with pytest.raises(SystemExit, match="--folds 8 is more than the 7 photos of a class"):
        deal(labels, 8)


@pytest.mark.slow
def test_cross_validation_gives_an_accuracy_for_each_fold_and_saves_nothing(
    dataset, tmp_path, monkeypatch, capsys
):
    import cross_validate

    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    cross_validate.main([str(dataset), "--folds", "3", "--repeats", "2", *HAPPY, "-q"])
    first, second = capsys.readouterr().out.splitlines()
    found = [float(each) for each in first.removeprefix("accuracies, %: ").split()]
    assert len(found) == 6  # of 12 photos each
    assert all(12 * each / 100 == pytest.approx(round(12 * each / 100), abs=0.01) for each in found)
    numbers = [float(word.rstrip(",")) for word in second.split() if word[0].isdigit()]
    assert numbers == pytest.approx([np.mean(found), np.std(found, ddof=1), 1], abs=0.011)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_the_ladder_prints_a_table_and_trains_nothing_twice(dataset, tmp_path, monkeypatch, capsys):
    import ladder
    import real_photos

    line = ["--model", "happy", "happy", "--dataset", str(dataset), "--seeds", "0"]
    line += ["--work", str(tmp_path / "work"), *HAPPY[2:]]
    ladder.main(line)
    table = capsys.readouterr().out
    *_, titles, row = table.splitlines()
    assert titles.split()[:4] == ["net", "parameters", "epochs", "seconds"]
    assert row.split()[:3] == ["happy", "37,633", "1.0"]
    assert row.endswith("(deviation 0.00, runs 1)")
    monkeypatch.setattr(real_photos, "call", None)
    ladder.main(line)
    assert capsys.readouterr().out == table
