"""Room 5: photos get into the layout of a dataset; nothing of the user's is touched."""

import io
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import CatDogClassifier as program
from CatDogClassifier import DatasetError, UsageError, parse_split, prepare_dataset

SPLIT = (3, 2, 1)


def picture(name):
    """A photo of its own for each name, as PNG bytes."""
    file, rng = io.BytesIO(), np.random.default_rng(zlib.crc32(name.encode()))
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def touch(folder, *names):
    for name in names:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(name))
    return Path(folder)


def tree(folder):
    """{relative path: content} of all files of a folder."""
    return {os.path.relpath(path, folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def names(folder, split, label):
    return program.natural_order(os.listdir(Path(folder, split, label)))


@pytest.fixture
def flat(tmp_path):
    return touch(tmp_path / "flat", *(f"{label}.{i}.jpg" for label in ("cat", "dog") for i in range(12)))


def outcome(source, dataset, split=SPLIT):
    return prepare_dataset(source, dataset, split, program.Console(quiet=True))


def prepare(source, dataset, split=SPLIT):
    result = outcome(source, dataset, split)
    return {part: result[part] for part in program.SPLITS}


def test_flat_photos_are_split_in_numeric_order(flat, tmp_path):
    counts = prepare(flat, tmp_path / "new")
    assert counts == {"train": 6, "validation": 4, "test": 2}
    assert names(tmp_path / "new", "train", "dog") == ["dog.0.jpg", "dog.1.jpg", "dog.2.jpg"]
    assert names(tmp_path / "new", "validation", "cat") == ["cat.3.jpg", "cat.4.jpg"]
    assert names(tmp_path / "new", "test", "cat") == ["cat.5.jpg"]
    assert (tmp_path / "new/test/cat/cat.5.jpg").read_bytes() == picture("cat.5.jpg")


@pytest.mark.parametrize(("cat", "dog"), [("Cat", "Dog"), ("CATS", "dogs"), ("cat", "Dogs")])
def test_a_folder_per_class_in_any_case(tmp_path, cat, dog):
    source = touch(tmp_path / "pets", *(f"{label}/{i}.jpg" for label in (cat, dog) for i in range(11)), f"{cat}/Thumbs.db")
    prepare(source, tmp_path / "new")
    assert names(tmp_path / "new", "train", "cat") == ["0.jpg", "1.jpg", "2.jpg"]
    assert names(tmp_path / "new", "test", "dog") == ["5.jpg"]


def test_labels_of_flat_photos_in_any_case(tmp_path):
    source = touch(tmp_path / "flat", *(f"{label}.{i}.JPG" for label in ("Cat", "DOG") for i in range(6)), "readme.txt", "1.jpg")
    assert prepare(source, tmp_path / "new") == {"train": 6, "validation": 4, "test": 2}


def test_shares_use_every_photo_once(flat, tmp_path):
    assert prepare(flat, tmp_path / "new", (0.5, 0.25, 0.25)) == {"train": 12, "validation": 6, "test": 6}
    copies = [name for part in program.SPLITS for label in ("cat", "dog") for name in names(tmp_path / "new", part, label)]
    assert sorted(copies) == sorted(os.listdir(flat))


def test_the_source_is_never_changed(flat, tmp_path):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in flat.iterdir()}
    prepare(flat, tmp_path / "new")
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in flat.iterdir()} == before


def test_an_interrupted_copy_is_completed_and_a_complete_one_left_alone(flat, tmp_path):
    prepare(flat, tmp_path / "whole")
    prepare(flat, tmp_path / "new")
    (tmp_path / "new/train/cat/cat.1.jpg").unlink()
    (tmp_path / "new/train/cat/cat.1.jpg.part").write_bytes(picture("cat.1.jpg")[:50])
    prepare(flat, tmp_path / "new")
    prepare(flat, tmp_path / "new")
    assert tree(tmp_path / "new") == tree(tmp_path / "whole")


@pytest.mark.parametrize("other", ["train/cat/mine.jpg", "notes.txt", "train/cat/cat.0.jpg"])
def test_a_folder_that_holds_anything_else_is_refused_and_left_as_it_was(flat, tmp_path, other):
    touch(tmp_path / "new", other)  # even a file of a planned name, when its content is another
    before = tree(tmp_path / "new")
    with pytest.raises(DatasetError, match="--dataset NEW"):
        prepare(flat, tmp_path / "new")
    assert tree(tmp_path / "new") == before


def test_another_split_of_the_same_photos_is_refused(flat, tmp_path):
    prepare(flat, tmp_path / "new")
    with pytest.raises(DatasetError, match="--dataset NEW"):
        prepare(flat, tmp_path / "new", (2, 3, 1))


def test_the_dataset_may_not_lie_in_the_source(flat):
    with pytest.raises(DatasetError, match="never changed"):
        prepare(flat, flat / "new")
    assert len(os.listdir(flat)) == 24


def test_too_few_photos_are_named_with_the_numbers(flat, tmp_path):
    with pytest.raises(DatasetError, match="needs 13 photos of cat, but there are 12"):
        prepare(flat, tmp_path / "new", (10, 2, 1))
    assert not (tmp_path / "new").exists()


def test_two_photos_that_would_become_one_are_refused(tmp_path):
    source = touch(tmp_path / "s", "Cat/1.jpg", "cats/1.jpg", "cats/2.jpg", "Dog/1.jpg", "Dog/2.jpg", "Dog/3.jpg")
    with pytest.raises(DatasetError, match="would both become"):
        prepare(source, tmp_path / "new", (2, 1, 0))


@pytest.mark.parametrize("files", [["photo.jpg"], ["cat.1.jpg"], ["Cat/1.jpg"], ["Cat/1.jpg", "Dog/x/.hidden"]])
def test_a_source_without_two_classes_is_refused(tmp_path, files):
    with pytest.raises(DatasetError, match="two classes|is empty"):
        prepare(touch(tmp_path / "s", *files), tmp_path / "new")


def test_the_parent_of_the_photos_is_refused_with_a_hint(tmp_path):
    source = touch(tmp_path / "kaggle", "train/cat.0.jpg", "train/dog.0.jpg", "test1/1.jpg")
    with pytest.raises(DatasetError, match="SOURCE/train"):
        prepare(source, tmp_path / "new")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_in_the_dataset_does_not_lead_into_the_source(flat, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "train").symlink_to(flat, target_is_directory=True)
    before = tree(flat)
    with pytest.raises(DatasetError, match="never changed"):
        prepare(flat, tmp_path / "new")
    assert tree(flat) == before


def test_too_few_photos_to_train_and_validate_are_refused(flat, tmp_path):
    with pytest.raises(DatasetError, match="leaves no cat of 12, such as .*, to train on"):
        prepare(flat, tmp_path / "new", (0.92, 0.04, 0.04))


def test_a_photo_whose_name_makes_it_a_class_of_its_own_is_named(flat, tmp_path):
    touch(flat, "IMG_2041.jpg")
    with pytest.raises(DatasetError, match="leaves no img of 1, such as .*IMG_2041.jpg, to train on .* move it away"):
        prepare(flat, tmp_path / "new", (0.5, 0.25, 0.25))


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3,4", "a,b,c", "-1,2,3", "0,1,1", "1,0,1", "0.8,0.3,0.1", "nan,0.1,0.1", "inf,1,1", "0.5,1,1"])
def test_a_split_that_makes_no_sense_is_a_usage_error(text):
    with pytest.raises(UsageError, match="--split"):
        parse_split(text)


def test_the_tutorials_protocol_on_the_real_photos(real, tmp_path):
    counts = prepare(real / "photos", tmp_path / "new", parse_split("1000,500,500"))
    assert counts == {"train": 2000, "validation": 1000, "test": 1000}
    bounds = {"train": (0, 1000), "validation": (1000, 1500), "test": (1500, 2000)}
    for split, (start, end) in bounds.items():
        for label in ("cat", "dog"):
            assert names(tmp_path / "new", split, label) == [f"{label}.{i}.jpg" for i in range(start, end)]


def copy(folder, source, target, **saving):
    """The photo of one file as another one, of the same pixels unless it is saved with a loss."""
    Path(folder, target).parent.mkdir(parents=True, exist_ok=True)
    Image.open(Path(folder, source)).save(Path(folder, target), **{"format": "BMP", **saving})


def test_a_photo_of_train_is_in_no_other_part_and_the_next_number_takes_its_place(flat, tmp_path):
    copy(flat, "cat.0.jpg", "cat.4.jpg")  # other bytes, the same pixels
    copy(flat, "dog.1.jpg", "cat.5.jpg")  # of the other class: one of the labels is wrong, and it is in train already
    result = outcome(flat, tmp_path / "new")
    assert names(tmp_path / "new", "validation", "cat") == ["cat.3.jpg", "cat.6.jpg"]
    assert names(tmp_path / "new", "test", "cat") == ["cat.7.jpg"]
    assert names(tmp_path / "new", "validation", "dog") == ["dog.3.jpg", "dog.4.jpg"]
    assert result["skipped"] == {"cat.4.jpg": f"the same photo as {Path('train/cat/cat.0.jpg')}",
                                 "cat.5.jpg": f"the same photo as {Path('train/dog/dog.1.jpg')}"}


def test_too_few_photos_after_the_skipped_ones_are_named_with_the_numbers(flat, tmp_path):
    copy(flat, "cat.0.jpg", "cat.11.jpg")
    with pytest.raises(DatasetError, match="needs 1 photos of cat for test, but of 12 in all only 0 are left.*for one cat.11.jpg"):
        prepare(flat, tmp_path / "new", (10, 1, 1))
    assert not (tmp_path / "new").exists()


def test_copies_within_one_part_stay(flat, tmp_path):
    copy(flat, "cat.0.jpg", "cat.2.jpg")
    assert outcome(flat, tmp_path / "new")["skipped"] == {}
    assert names(tmp_path / "new", "train", "cat") == ["cat.0.jpg", "cat.1.jpg", "cat.2.jpg"]


def test_of_shares_the_test_part_bears_the_loss(flat, tmp_path):
    copy(flat, "cat.0.jpg", "cat.11.jpg")
    assert prepare(flat, tmp_path / "new", (0.5, 0.25, 0.25)) == {"train": 12, "validation": 6, "test": 5}


@pytest.mark.skipif(os.name == "nt", reason="no pipes and links")
def test_what_is_no_photo_is_skipped_and_named_and_the_next_number_takes_its_place(flat, tmp_path):
    (flat / "cat.0.jpg").write_bytes(b"")
    (flat / "cat.1.jpg").unlink()
    (flat / "cat.1.jpg").symlink_to("nowhere.jpg")
    (flat / "dog.2.jpg").unlink()
    os.mkfifo(flat / "dog.2.jpg")
    result = outcome(flat, tmp_path / "new")
    assert list(result["skipped"]) == ["cat.0.jpg", "cat.1.jpg", "dog.2.jpg"]
    assert names(tmp_path / "new", "train", "cat") == ["cat.2.jpg", "cat.3.jpg", "cat.4.jpg"]
    assert names(tmp_path / "new", "train", "dog") == ["dog.0.jpg", "dog.1.jpg", "dog.3.jpg"]


def test_a_second_run_says_that_all_was_there(flat, tmp_path, run):
    line = ("--prepare", flat, "--dataset", tmp_path / "new", "--split", "3,2,1")
    assert run(*line)[1] == f"{tmp_path / 'new'}: 6 train, 4 validation, 2 test photos\n"
    assert run(*line)[1] == f"{tmp_path / 'new'}: 6 train, 4 validation, 2 test photos; all were there already\n"
    code, out, _ = run(*line, "--json")
    assert json.loads(out) == {"dataset": str(tmp_path / "new"), "train": 6, "validation": 4, "test": 2, "copied": 0,
                               "skipped": {}}


def test_without_a_place_to_go_the_photos_stay_where_they_are(flat, run):
    assert run("--prepare", flat)[::2] == (2, "CatDogClassifier: it is not clear where the photos shall go. Name a new "
                                              "folder: --dataset NEW\n")


def test_a_stray_photo_is_named(flat, tmp_path):
    touch(flat, "IMG_1.jpg")
    with pytest.raises(DatasetError, match=r"needs 6 photos of img, but there are 1, such as .*IMG_1\.jpg"):
        prepare(flat, tmp_path / "new")


def test_a_disk_without_room_is_said_before_anything_is_copied(flat, tmp_path, monkeypatch):
    monkeypatch.setattr(program.shutil, "disk_usage", lambda path: program.shutil._ntuple_diskusage(9, 9, 100))
    with pytest.raises(program.WriteError, match="needs 0.0 MB, but only 0.0 MB are free.*Make room"):
        prepare(flat, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_same_pixels_in_another_format_are_the_same_photo_whatever_their_size(flat, tmp_path):
    rng = np.random.default_rng(0)
    large = Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).resize((1200, 900))
    large.save(flat / "cat.0.jpg", "JPEG")  # which the net would read at half its size, to be faster
    Image.open(flat / "cat.0.jpg").save(flat / "cat.5.jpg", "PNG")
    assert outcome(flat, tmp_path / "new")["skipped"] == {"cat.5.jpg": f"the same photo as {Path('train/cat/cat.0.jpg')}"}


def test_a_photo_of_both_classes_is_taken_once(flat, tmp_path):
    copy(flat, "cat.1.jpg", "dog.0.jpg")
    assert outcome(flat, tmp_path / "new")["skipped"] == {"dog.0.jpg": f"the same photo as {Path('train/cat/cat.1.jpg')}"}
    assert names(tmp_path / "new", "train", "dog") == ["dog.1.jpg", "dog.2.jpg", "dog.3.jpg"]


def test_shares_are_those_of_the_photos_that_can_be_read(flat, tmp_path):
    for number in range(2):
        (flat / f"cat.{number}.jpg").write_bytes(b"")
    assert prepare(flat, tmp_path / "new", (0.8, 0.1, 0.1)) == {"train": 8 + 9, "validation": 1 + 1, "test": 1 + 2}


def test_files_in_no_class_are_named(flat, tmp_path):
    touch(flat, "dog.jpg", "sub/x.jpg")
    assert outcome(flat, tmp_path / "new")["skipped"] == {"dog.jpg": "in no class", "sub/x.jpg": "in no class"}
