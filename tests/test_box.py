"""The weights that come with the program: they answer until somebody has trained, and are never overwritten."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import CatDogClassifier as program
import measure_check
import measure_sure
import train_box
from CatDogClassifier import CatDogClassifier
from conftest import quick, tint

SHIPPED = program.BOX


@pytest.fixture
def box(weights, tmp_path, monkeypatch):
    """Weights in the box: those of the small trained net; the present folder is empty but for a photo."""
    path = tmp_path / "program" / "CatDogClassifier_pretrained.h5"
    path.parent.mkdir()
    shutil.copy(weights, path)
    monkeypatch.setattr(program, "BOX", path)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    tint("dog", program.np.random.default_rng(0)).save("photo.png")
    return path


def test_before_any_training_the_box_answers_and_says_so(box, run):
    code, out, err = run("-f", "photo.png")
    assert (code, out.split()[0]) == (0, "dog")
    assert err == "Answered by the net that came with the program, CatDogClassifier_pretrained.h5.\n"
    assert run("-f", "photo.png", "-q")[2] == ""
    assert json.loads(run("-f", "photo.png", "--json")[1])["label"] == "dog"
    assert CatDogClassifier().predict("photo.png")[0].label == "dog"


def test_ones_own_weights_come_first(box, run):
    shutil.copy(box, "CatDogClassifier_model.h5")
    box.write_bytes(b"not to be read")
    code, out, err = run("-f", "photo.png")
    assert (code, out.split()[0], err) == (0, "dog", "Answered by CatDogClassifier_model.h5.\n")
    Path("CatDogClassifier_model.h5").write_bytes(b"damaged")  # they are what was meant all the same
    code, out, err = run("-f", "photo.png")
    assert (code, out) == (1, "")
    assert "CatDogClassifier_model.h5 is not a weights file" in err


def test_a_net_trained_on_drawings_names_the_one_for_photographs(box, run):
    own = CatDogClassifier(weights=str(box), quiet=True)
    own.load_weights()
    own.settings, own.drawings = program.Settings(weights="CatDogClassifier_model.h5"), True
    own.save_weights()
    _, _, err = run("-f", "photo.png")
    assert err == ("Answered by CatDogClassifier_model.h5, which was trained on drawings and knows nothing of photographs. "
                   "For photographs: --weights ../program/CatDogClassifier_pretrained.h5\n")


def test_who_names_weights_or_a_net_does_not_get_the_box(box, run):
    for flags in (["--weights", "none.h5"], ["--model", "baseline"], ["--base", "mobilenet"]):
        code, out, err = run("-f", "photo.png", *flags)
        assert (code, out) == (1, "")
        assert "there are no weights at" in err
    assert run("-f", "photo.png", "--weights", box)[2] == ""  # who names it knows it


def test_training_never_overwrites_the_box(box, run, dataset):
    before = box.read_bytes()
    Path("same.h5").hardlink_to(box)  # as another case of the name is where names have none
    Path("link.h5").symlink_to(box)
    for name in (box, "../program/CatDogClassifier_pretrained.h5", "same.h5", "link.h5"):
        code, out, err = run("--dataset", dataset, "--weights", name, "--epochs", 1)
        assert (code, out) == (1, "")
        assert "is the net that comes with the program. Name another --weights" in err
    quick(Path.cwd(), epochs=1).train(dataset)
    assert box.read_bytes() == before
    assert sorted(path.name for path in box.parent.iterdir()) == [box.name]


def test_nothing_else_overwrites_it_either(box, run, dataset):
    before = box.read_bytes()
    classifier = CatDogClassifier(weights=str(box), quiet=True)
    classifier.load_weights()
    with pytest.raises(program.WriteError, match="is the net that comes with the program"):
        classifier.save_weights()
    shutil.copy(box, "own.h5")
    Path("own.previous.h5").symlink_to(box)  # where a training keeps what it replaces
    code, _, err = run("--dataset", dataset, "--weights", "own.h5", "--epochs", 1, "--fresh")
    assert (code, "is the net that comes with the program" in err) == (1, True)
    assert box.read_bytes() == before


def test_a_damaged_or_missing_box_is_said_with_the_way_to_mend_that(box, run):
    box.write_bytes(b"damaged")
    assert "Get CatDogClassifier_pretrained.h5 anew, or name another --weights" in run("-f", "photo.png")[2]
    box.unlink()
    assert "CatDogClassifier_pretrained.h5, which comes with the program, is missing" in run("-f", "photo.png")[2]


def test_what_trains_the_box_never_shows_it_a_test_photo_nor_an_original(tmp_path):
    parts = {part: set(numbers) for part, numbers in train_box.SPLITS.items()}
    assert {part: len(numbers) for part, numbers in parts.items()} == {"train": 6900, "validation": 500, "test": 500}
    assert not parts["train"] & parts["validation"] and not parts["test"] & (parts["train"] | parts["validation"])
    assert not set(range(4001, 4101)) & set().union(*parts.values())
    photos = tmp_path / "photos"
    photos.mkdir()
    for label in ("cat", "dog"):
        for number in range(8000):
            (photos / f"{label}.{number}.jpg").touch()
    train_box.link_photos(photos, tmp_path / "linked", ["train", "validation"])
    linked = [path.relative_to(tmp_path / "linked").parts for path in (tmp_path / "linked").rglob("*.jpg")]
    assert {part for part, _, _ in linked} == {"train", "validation"}
    assert {int(name[:-4]) for part, _, name in linked if part == "train"} == parts["train"]
    assert len(linked) == 2 * (6900 + 500)
    others = photos.rename(tmp_path / "others")  # links follow the photos that are named last
    train_box.link_photos(others, tmp_path / "linked", ["validation"])
    assert (tmp_path / "linked" / "validation" / "dog" / "7000.jpg").resolve() == others / "dog.7000.jpg"
    (others / "cat.7499.jpg").unlink()
    with pytest.raises(SystemExit, match="cat.7499.jpg is missing. PHOTOS must hold cat.0.jpg to cat.7999.jpg"):
        train_box.link_photos(others, tmp_path / "linked", ["validation"])


def test_photos_in_the_folder_of_trainings_are_never_replaced_by_links(tmp_path):
    mine = tmp_path / "photos" / "train" / "cat" / "0.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    (tmp_path / "cat.0.jpg").touch()
    with pytest.raises(FileExistsError):
        train_box.link_photos(tmp_path, tmp_path / "photos", ["train"])
    assert mine.read_bytes() == b"mine"


def test_the_test_photos_are_read_by_nothing_but_what_logs_it(capsys):
    with pytest.raises(SystemExit):
        measure_sure.main(["photos", "net.h5", "--to", "7500"])
    assert "the photos from 7500 on are read by train_box.py --score alone" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        measure_check.main(["photos", "--weights", "net.h5", "--first", "6501"])
    assert "nets answer for the photos from 7500 on in train_box.py --score alone" in capsys.readouterr().err


def test_a_folder_of_trainings_takes_none_with_other_flags(tmp_path):
    photos = tmp_path / "photos"
    weights = train_box.begin(tmp_path, 0, ["--modle", "happy"], photos)
    train_box.begin(tmp_path, 0, ["--model", "happy"], photos)  # of the mistyped one nothing has come
    weights.with_suffix(".unfinished").touch()
    train_box.begin(tmp_path, 0, ["--model", "happy"], photos)
    for flags, others in ((["--epochs", "1"], photos), (["--model", "happy"], tmp_path / "others")):
        with pytest.raises(SystemExit, match=f"a training on {photos} with .* --model happy. Name another --work"):
            train_box.begin(tmp_path, 0, flags, others)


def test_a_reading_of_the_test_photos_is_logged_before_it_begins(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(train_box, "TEST_LOG", tmp_path / "log")
    monkeypatch.setattr(train_box, "call", lambda *arguments: pytest.fail((tmp_path / "log").read_text()))
    with pytest.raises(pytest.fail.Exception, match=f"run {program.facts_of(weights)['run']}: begun"):
        train_box.score(tmp_path, Path(weights))


def test_the_box_says_what_it_was_trained_on_and_answers_as_before(weights, tmp_path, capsys):
    shutil.copy(weights, tmp_path / "seed0.h5")
    (tmp_path / "seed0.json").write_text('{"flags": [], "commit": "abc"}')
    train_box.tell_of_itself(tmp_path / "seed0.h5", {"test": {"correct": 5, "total": 6}})
    facts = program.facts_of(tmp_path / "seed0_box.h5")
    card = facts.pop("card")
    assert facts == program.facts_of(weights)
    assert (card["numbers"], card["test"]) == ("below 7000 but for 4001-4100", {"correct": 5, "total": 6})
    (tmp_path / "seed0_history.csv").write_text("epoch,val_acc\n1,0.5\n2,0.75\n3,0.625\n")
    train_box.train(tmp_path, 0, tmp_path / "seed0.h5")  # it is finished, and its score stays
    assert capsys.readouterr().out.endswith("last epoch 62.50, best one 75.00\n")
    assert program.facts_of(tmp_path / "seed0_box.h5")["card"] == card
    assert card["commit"] == "abc"  # of the training, whatever the program is now
    before, after = CatDogClassifier(weights=weights, quiet=True), CatDogClassifier(weights=str(tmp_path / "seed0_box.h5"), quiet=True)
    before.load_weights()
    after.load_weights()
    assert all(map(np.array_equal, before.model.get_weights(), after.model.get_weights()))
    assert np.array_equal(before.seen, after.seen)


def test_the_shipped_net_is_small_and_its_card_is_that_of_the_readme():
    facts, readme = program.facts_of(SHIPPED), (SHIPPED.parent / "README.md").read_text()
    assert SHIPPED.stat().st_size <= 12e6
    photos = facts["summary"]["validation"]
    assert (facts["rung"], facts["classes"], facts["drawings"]) == ("residual", ["cat", "dog"], False)
    test = facts["card"]["test"]
    assert f"{photos['accuracy']:.1%}".replace("%", " %") in readme
    assert f"{test['correct'] / test['total']:.2%}".replace("%", " %") in readme
    assert facts["card"]["photos"] in readme
    classifier = CatDogClassifier(weights=str(SHIPPED), quiet=True)
    classifier.load_weights()
    assert classifier.model.count_params() < 3_000_000
    assert 0 < classifier.strange < 1 and classifier.certainty and classifier.directions is not None
