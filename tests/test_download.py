"""prepare.py --download: an archive becomes a dataset, whatever the network and the archive do."""

import errno
import hashlib
import http.server
import itertools
import json
import os
import shutil
import socket
import threading
import zipfile
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import CatDogClassifier as program
from conftest import call, encoded, guarded, refusal, tint, tree
from test_prepare import archive, counts, tool

SPLIT = ("--split", "5,2,2")


def photos(pattern):
    """{name: content} of ten photos of each class."""
    members, rng = {}, np.random.default_rng(0)
    for label, number in itertools.product(("Cat", "Dog"), range(10)):
        content = encoded(tint(label.lower(), rng, 64), "PNG")
        members[pattern.format(label=label, number=number)] = content
    return members


def like_microsofts():
    """Names and oddities of the real one: Thumbs.db, a licence, an empty file."""
    odd = {"MSR-LA - 3467.docx": b"licence", "PetImages/Cat/Thumbs.db": b"thumbs"}
    return {**odd, **photos("PetImages/{label}/{number}.jpg"), "PetImages/Cat/6.jpg": b""}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `content`, `most` bytes at once; connections are cut after the next of `cuts`."""

    def do_GET(self):
        server, content, start = self.server, self.server.content, 0
        server.asked.append(self.headers.get("Range"))
        if server.code != 200:
            return self.send_error(server.code)
        if server.ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        end = min(len(content), start + server.most)
        self.send_response(200 if not start else 206 if start < end else 416)
        sent = f"{start}-{end - 1}" if start < end else "*"
        self.send_header("Content-Range", server.piece or f"bytes {sent}/{len(content)}")
        length = max(0, (end if start else len(content)) - start)
        if server.length:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else server.most
        return self.wfile.write(content[start : min(end, start + cut)])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.code, server.cuts, server.ranges = b"", 200, [], True
        server.piece, server.most, server.length, server.asked = "", 10**9, True, []
        server.url = f"http://127.0.0.1:{server.server_port}/archive.zip"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def good(server):
    server.content = archive(like_microsofts())
    return server


@pytest.fixture
def download(server, new, cache, capsys):
    """prepare.py --download NEW --url URL ... -> (exit code, stdout, stderr)."""

    def fetch(*arguments, url=server.url, to=new):
        line = ("--download", to, *(("--url", url) if url else ()), *arguments)
        return call(capsys, guarded(tool), *line)

    return fetch


def expected():
    """All photos but the empty one, in numeric order."""
    cats = {"train/cat": [0, 1, 2, 3, 4], "validation/cat": [5, 7], "test/cat": [8, 9]}
    dogs = {"train/dog": [0, 1, 2, 3, 4], "validation/dog": [5, 6], "test/dog": [7, 8]}
    return {f"{folder}/{n}.jpg" for folder, numbers in (cats | dogs).items() for n in numbers}


def test_an_archive_becomes_a_clean_dataset_and_is_fetched_once(good, new, download, cache):
    code, out, err = download(*SPLIT)
    assert (code, out) == (0, f"{new}: 10 train, 4 validation, 4 test photos; 1 skipped\n")
    assert set(tree(new)) == expected() and sorted(os.listdir(new.parent)) == ["cache", "new"]
    assert "skipped PetImages/Cat/6.jpg: not a photo that can be read" in err
    assert download(*SPLIT)[1].endswith("; all were there already\n")
    result = json.loads(download("--json", to=new.with_name("other"))[1])
    assert counts(result) == [15, 2, 2]  # of nine cats that can be read, and ten dogs
    assert list(result["skipped"]) == ["PetImages/Cat/6.jpg"] and len(good.asked) == 1


def test_a_server_that_does_not_say_how_much_it_sends_will_do(good, new, download):
    good.length = False
    assert download(*SPLIT)[0] == 0 and set(tree(new)) == expected()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_resumed_and_said_once(good, new, download, ranges):
    good.ranges, good.cuts = ranges, [5000, 6000, 7000]
    code, _, err = download(*SPLIT)
    assert code == 0 and set(tree(new)) == expected()
    starts = (5000, 11000, 18000) if ranges else (5000, 6000, 7000)
    assert good.asked == [None, *(f"bytes={start}-" for start in starts)]
    assert err.count("was cut") == 1 and "The connection was cut 3 times." in err


@pytest.mark.parametrize("cut", [0, 1, 5000])
def test_a_server_that_cuts_all_the_time_is_given_up_and_resumed_later(good, new, download, cut):
    good.cuts = [cut] * 1000
    err = refusal(download("-q", *SPLIT))
    assert f"{tool.download.ATTEMPTS} connections in a row broke before 1 MB" in err
    assert "Run the same command again" in err
    assert len(good.asked) == tool.download.ATTEMPTS and not new.exists()
    good.cuts, good.asked = [], []
    assert download("-q", *SPLIT)[0] == 0 and set(tree(new)) == expected()
    assert good.asked == [f"bytes={tool.download.ATTEMPTS * cut}-" if cut else None]


def test_a_server_that_sends_large_pieces_is_asked_for_as_many_as_it_takes(good, new, download):
    filling = np.random.default_rng(0).bytes(7 * tool.download.PROGRESS)
    good.content, good.most = archive({"a": filling, **like_microsofts()}), tool.download.PROGRESS
    assert download(*SPLIT)[0] == 0 and set(tree(new)) == expected()
    assert len(good.asked) == 8 > tool.download.ATTEMPTS


@pytest.mark.parametrize(("more", "asked"), [(b"", 1), (b"of an older, longer file", 2)])
def test_a_whole_part_is_taken_and_a_longer_one_is_not(good, new, download, cache, more, asked):
    good.cuts = [0] * tool.download.ATTEMPTS
    download()
    next(cache.iterdir()).write_bytes(good.content + more)
    good.asked = []
    assert download(*SPLIT)[0] == 0 and set(tree(new)) == expected() and len(good.asked) == asked


@pytest.mark.parametrize("piece", ["bytes 0-9/99", "bytes 4000-9/99", "bytes 5000-9/*", "nonsense"])
def test_another_part_than_asked_for_is_not_taken(good, download, cache, piece):
    good.cuts, good.piece = [5000], piece
    assert refusal(download("-q")) and not list(cache.glob("*.zip"))


@pytest.mark.parametrize("code", [404, 503, None])
def test_without_an_answer_one_line_says_how_to_do_it_by_hand(server, download, monkeypatch, code):
    refused = mock.Mock(side_effect=OSError(-3, "Temporary failure in name resolution"))
    server.code = code
    monkeypatch.setattr(socket, "getaddrinfo", socket.getaddrinfo if code else refused)
    err = refusal(download("-q", url=server.url if code else None))
    assert "cannot download http" in err
    assert (f"HTTP Error {code}: " if code else "Temporary failure in name resolution") in err
    assert "By hand: get it with a browser, then add --url file:///" in err


def test_a_full_disk_is_one_line(good, download, monkeypatch):
    file = mock.MagicMock()
    file.__enter__.return_value.write.side_effect = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(tool.download, "open", lambda *_: file, raising=False)
    assert "No space left on device" in refusal(download("-q"))


@pytest.mark.parametrize("content", [b"<html>log in</html>", b"", b"PK\x03\x04" + bytes(100), None])
def test_a_damaged_archive_is_said_and_not_kept(good, new, download, cache, content):
    damaged = good.content[:50_000] + bytes(64) + good.content[50_064:]
    good.content = damaged if content is None else content
    err = refusal(download("-q"))
    assert "Run the same command again" in err
    assert ("is damaged at Pet" if content is None else "no readable zip archive") in err
    assert os.listdir(cache) == [] and not new.exists()


def test_a_sha256_is_insisted_on_and_a_new_one_said(good, new, download, cache, monkeypatch):
    right = hashlib.sha256(good.content).hexdigest()
    for sha256 in ("", "xyz", "0" * 63, " " + "0" * 64):
        assert download("--sha256", sha256)[0] == 2 and good.asked == []
    assert f"but {right}. Nothing was unpacked" in refusal(download("-q", "--sha256", "0" * 64))
    assert os.listdir(cache) == [] and not new.exists()
    assert download("-q", "--sha256", right.upper())[0] == 0
    monkeypatch.setitem(tool.download.SHA256, good.url, "0" * 64)
    code, _, err = download("-q")
    assert code == 0 and f"Not the archive that is known: it has {right}" in err


def test_a_file_url_is_read_where_it_lies(good, new, tmp_path, download, cache):
    path = tmp_path / "my archive.zip"
    path.write_bytes(good.content)
    assert download("--sha256", "1" * 64, url=path.as_uri())[0] == 1
    assert path.read_bytes() == good.content  # it is the user's
    assert download(*SPLIT, url=path.as_uri())[0] == 0
    assert set(tree(new)) == expected() and not cache.exists()
    path.unlink()
    assert "archive.zip: No such file or directory" in download(url=path.as_uri())[2]


@pytest.mark.parametrize("url", ["x.zip", "ftp://example.org/x.zip", "file://x.zip", "file:///%00"])
def test_other_urls_are_a_usage_error(download, url):
    assert "must begin with https://" in download(url=url)[2]


LEAVING = ["../evil.jpg", "Cat/../../1.jpg", "/tmp/evil.jpg", "PetImages/Cat/..", "..\\evil.jpg"]
LEAVING += ["C:\\evil\\1.jpg", "PetImages/C:/1.jpg", "\\\\server\\share\\1.jpg"]


@pytest.mark.parametrize("name", LEAVING)
def test_an_archive_with_a_path_that_leaves_it_is_refused_whole(server, new, download, name):
    server.content = archive({**like_microsofts(), name: b"evil"})
    assert "a path that leaves its folder" in refusal(download("-q")) and not new.exists()


@pytest.mark.parametrize("pattern", ["PetImages/{label}/in/{number}.jpg", "a/{label}.{number}.jpg"])
def test_classes_are_folders_whatever_is_in_them_or_names(server, new, download, pattern):
    server.content = archive(photos(pattern))
    assert download(*SPLIT)[0] == 0 and len(tree(new / "train/cat")) == 5 and len(tree(new)) == 18


def test_members_too_large_for_a_photo_and_links_are_skipped(good, download, monkeypatch):
    monkeypatch.setattr(program, "MAX_BYTES", 100_000)
    link = zipfile.ZipInfo("PetImages/Cat/99.jpg")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    large = {"PetImages/Dog/99.jpg": bytes(1_000_000)}
    good.content = archive({**like_microsofts(), link: b"/etc/passwd", **large})
    skipped = json.loads(download("--json")[1])["skipped"]
    assert list(skipped) == ["PetImages/Cat/6.jpg", link.filename, *large]
    assert "more than 0 MB" in skipped["PetImages/Dog/99.jpg"]


@pytest.mark.parametrize("name", ["a file/new", "cache", "mine", "new"])
def test_where_there_is_no_place_nothing_is_fetched(good, tmp_path, download, monkeypatch, name):
    (tmp_path / "a file").touch()
    (tmp_path / "mine" / "train.txt").mkdir(parents=True)
    usage = shutil._ntuple_diskusage(9, 9, 2 * len(good.content))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    if name == "cache":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    words = {"mine": "already holds other files. Name a", "new": "needs room for"}
    err = refusal(download("-q", to=tmp_path / name))
    assert words.get(name, "takes no new files. Name another folder") in err
    assert len(good.asked) == (name == "new") and not list(tmp_path.rglob("*.part"))


def test_the_digits_of_keras_become_a_dataset(new, tmp_path, capsys):
    labels = np.repeat(np.arange(3), 20)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8)
    path, arrays = tmp_path / "mnist.npz", {"x_train": pixels[::2], "x_test": pixels[1::2]}
    np.savez(path, y_train=labels[::2], y_test=labels[1::2], **arrays)
    line = (guarded(tool), tool.download.DIGITS, new, "--split", "6,4,10", "--url", path.as_uri())
    assert call(capsys, *line)[:2] == (0, f"{new}: 18 train, 12 validation, 30 test photos\n")
    found = [np.asarray(Image.open(each)).tobytes() for each in sorted((new / "test/2").iterdir())]
    assert found == [each.tobytes() for each in pixels[1::2][labels[1::2] == 2]]  # made for testing
    path.write_bytes(archive(like_microsofts()))
    assert "holds no digits" in refusal(call(capsys, *line))
