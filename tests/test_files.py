"""Room 3: files are written whole or not at all; a cache is believed only when it is whole and up to date."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from CatDogClassifier import WriteError, cache_folder, cache_name, clear_cache, read_cache, replacing, write_cache

NAMES = ["0" * 32 + "-150.photos", "a1" * 16 + ".litert", "." + "b2" * 16 + "-8.photos.0123abcd.tmp"]
CONTENT = np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache folder of its own for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "catdogclassifier"


def write(state="now", name="x.photos"):
    write_cache(name, state, [CONTENT[:300], CONTENT[300:].tobytes()], {"left out": [1, "ü"]})
    return cache_folder() / name


def test_what_was_written_is_read_back_from_mapped_memory():
    write()
    content, facts = read_cache("x.photos", "now")
    assert isinstance(content, np.memmap)
    assert not content.flags.writeable
    assert np.array_equal(content, CONTENT)
    assert facts == {"left out": [1, "ü"]}


def test_facts_may_be_found_while_the_content_is_made():
    facts = []

    def chunks():
        yield b"abc"
        facts.append("found late")

    write_cache("x", "now", chunks(), facts)
    assert read_cache("x", "now")[1] == ["found late"]


def test_a_cache_of_another_state_or_a_missing_one_is_not_read():
    write("now")
    assert read_cache("x.photos", "later") is None
    assert read_cache("x.photos", None) is None
    assert read_cache("other", "now") is None


def test_a_cache_that_was_cut_short_is_not_read():
    path = write()
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert read_cache("x.photos", "now") is None, length


def test_a_cache_with_a_single_wrong_byte_is_not_read():
    path = write()
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        assert read_cache("x.photos", "now") is None, place


def test_a_cache_whose_making_fails_leaves_the_old_one_and_nothing_else():
    write("old")

    def chunks():
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cache("x.photos", "new", chunks(), {})
    assert np.array_equal(read_cache("x.photos", "old")[0], CONTENT)
    assert os.listdir(cache_folder()) == ["x.photos"]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with replacing(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


def test_one_place_has_one_cache_and_other_places_have_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cache_name("pets", ".photos") == cache_name(tmp_path / "pets", ".photos")
    assert cache_name("pets", ".photos") != cache_name("cars", ".photos")
    assert cache_name(os.fsdecode(b"p\xe9ts"), ".photos").isascii()


def test_the_cache_lies_in_the_users_cache_folder(monkeypatch, folder):
    assert cache_folder() == folder
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the XDG Base Directory Specification
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("USERPROFILE", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/catdogclassifier")


def test_without_a_home_there_is_no_cache_and_no_file_in_a_strange_place(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does when it finds no home
    with pytest.raises(OSError):  # which its callers take as: do without
        write()
    assert read_cache("x.photos", "now") is None
    assert clear_cache() == 0
    assert os.listdir(tmp_path) == []


def test_the_cache_can_be_emptied_and_that_says_how_much_it_was():
    assert clear_cache() == 0  # there is none yet
    size = sum(write(name=name).stat().st_size for name in NAMES)
    assert clear_cache() == size
    assert os.listdir(cache_folder()) == []


def test_names_of_caches_are_those_that_are_emptied(monkeypatch, folder):
    for kind in ("-150.photos", ".litert"):
        write(name=cache_name("pets", kind))
    seen = []
    monkeypatch.setattr(os, "replace", lambda source, target: seen.append(Path(source).name))
    monkeypatch.setattr(Path, "unlink", lambda self: None)
    write(name=cache_name("cars", ".litert"))  # as a process that is killed leaves it
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent))
    assert len(seen) == 1
    assert clear_cache() > 0
    assert os.listdir(cache_folder()) == []


def test_nothing_else_is_removed_with_the_cache():
    write(name=NAMES[0])
    (cache_folder() / "holiday.jpg").write_bytes(b"mine")
    (cache_folder() / "folder").mkdir()
    clear_cache()
    assert sorted(os.listdir(cache_folder())) == ["folder", "holiday.jpg"]


def test_a_cache_that_cannot_be_emptied_says_so():
    (cache_folder() / NAMES[0]).mkdir(parents=True)
    with pytest.raises(WriteError, match="cannot empty"):
        clear_cache()


@pytest.mark.parametrize("closing", [b"null", b"5", b"[]", b'["now"]', b"\xff\xfe"])
def test_nonsense_with_a_right_checksum_is_not_believed(closing):
    cache_folder().mkdir(parents=True)
    content = b"content" + closing
    (cache_folder() / "x").write_bytes(content + struct.pack("<QI", len(closing), zlib.crc32(content)))
    assert read_cache("x", "now") is None
