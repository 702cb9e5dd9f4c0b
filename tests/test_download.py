"""Room 6: an archive from the network becomes a dataset, whatever the network and the archive do on the way."""

import hashlib
import http.server
import io
import json
import os
import socket
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest

import CatDogClassifier as program
from conftest import REPO, tint

PHOTOS = 10  # of each class


def archive(members):
    """A zip archive of {name: content} in bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return buffer.getvalue()


def members_like_microsofts():
    """Names and oddities as in the real archive: a class folder each, Thumbs.db, a licence, one empty file."""
    rng, members = np.random.default_rng(0), {"MSR-LA - 3467.docx": b"licence", "kagglecatsanddogs/readme[1].txt": b"read me"}
    for label in ("Cat", "Dog"):
        members[f"PetImages/{label}/Thumbs.db"] = b"thumbs"
        for number in range(PHOTOS):
            file = io.BytesIO()
            tint(label.lower(), rng, 64).save(file, "PNG")
            members[f"PetImages/{label}/{number}.jpg"] = file.getvalue()
    members["PetImages/Cat/6.jpg"] = b""
    return members


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.content`; each answer is cut off after the next number of bytes in `server.cuts`."""

    def do_GET(self):
        server, content, start = self.server, self.server.content, 0
        server.asked.append(self.headers.get("Range"))
        if server.code != 200:
            return self.send_error(server.code)
        if server.ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                return self.end_headers()
        end = min(len(content), start + server.most) if start else len(content)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", server.piece or f"bytes {start}-{end - 1}/{len(content)}")
        if server.length >= 0:
            self.send_header("Content-Length", str(server.length or end - start))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(content)
        self.wfile.write(content[start : min(end, start + cut)])
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.code, server.cuts, server.ranges, server.length, server.asked = b"", 200, [], True, 0, []
        server.piece, server.most = "", 10**9
        server.url = f"http://127.0.0.1:{server.server_port}/archive.zip"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for each test: the ports of servers come again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "catdogclassifier"


@pytest.fixture
def good(server):
    server.content = archive(members_like_microsofts())
    return server


def listing(folder):
    return sorted(os.path.relpath(os.path.join(root, name), folder) for root, _, names in os.walk(folder) for name in names)


def expected(counts):
    """All photos but the empty one, in numeric order."""
    cats = [number for number in range(PHOTOS) if number != 6]
    files = []
    for label, numbers in (("cat", cats), ("dog", list(range(PHOTOS)))):
        for split, count in zip(program.SPLITS, counts, strict=True):
            files += [f"{split}/{label}/{number}.jpg" for number in numbers[:count]]
            numbers = numbers[count:]
    return sorted(files)


def test_an_archive_becomes_a_clean_dataset(good, tmp_path, run, cache):
    code, out, err = run("--download", "--download-url", good.url, "--dataset", tmp_path / "new", "--split", "5,2,2")
    assert (code, out) == (0, f"{tmp_path / 'new'}: 10 train, 4 validation, 4 test photos; 1 skipped\n")
    assert listing(tmp_path / "new") == expected((5, 2, 2))
    assert "skipped PetImages/Cat/6.jpg: not a photo that can be read" in err
    assert "Not the archive that is known" in err  # its SHA-256 is not the one of Microsoft's
    assert sorted(os.listdir(tmp_path)) == ["cache", "new"]  # what was unpacked on the way is gone
    assert [path.suffix for path in cache.iterdir()] == [".zip"]


def test_by_default_eight_of_ten_train_and_all_are_used(good, tmp_path, run):
    code, out, _ = run("--download", "--download-url", good.url, "--dataset", tmp_path / "new", "--json")
    result = json.loads(out)
    assert code == 0 and list(result["skipped"]) == ["PetImages/Cat/6.jpg"]
    assert [result[split] for split in program.SPLITS] == [15, 2, 2]  # of nine cats that can be read, and ten dogs


def test_a_second_run_fetches_nothing(good, tmp_path, run):
    line = ("--download", "--download-url", good.url, "--split", "5,2,2", "--dataset")
    run(*line, tmp_path / "one")
    run(*line, tmp_path / "two")
    assert len(good.asked) == 1
    assert run(*line, tmp_path / "two")[1].endswith("; all were there already\n")
    assert listing(tmp_path / "one") == listing(tmp_path / "two") == expected((5, 2, 2))


def test_the_cache_can_be_cleared_of_it(good, tmp_path, run, cache):
    run("--download", "--download-url", good.url, "--dataset", tmp_path / "new")
    run("--clear-cache")
    assert os.listdir(cache) == []


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_taken_up_where_it_broke_off(good, tmp_path, run, ranges):
    good.ranges, good.cuts = ranges, [5000, 6000]
    code, *_ = run("--download", "--download-url", good.url, "--dataset", tmp_path / "new", "--split", "5,2,2")
    assert code == 0 and listing(tmp_path / "new") == expected((5, 2, 2))
    assert good.asked == [None, "bytes=5000-", f"bytes={11000 if ranges else 6000}-"]


def test_a_connection_that_is_cut_for_good_ends_in_one_line_and_the_same_command_goes_on(good, tmp_path, run):
    good.cuts = [5000] + [0] * 9
    line = ("-q", "--download", "--download-url", good.url, "--dataset", tmp_path / "new", "--split", "5,2,2")
    code, out, err = run(*line)
    assert (code, out, err.count("\n")) == (1, "", 1) and "Run the same command again" in err
    assert not (tmp_path / "new").exists()
    good.cuts, good.asked = [], []
    assert run(*line)[0] == 0
    assert good.asked == ["bytes=5000-"]
    assert listing(tmp_path / "new") == expected((5, 2, 2))


def test_a_download_that_was_whole_but_not_yet_named_so_is_taken(good, tmp_path, run, cache):
    cache.mkdir(parents=True)
    (cache / (program.cache_name(good.url, ".zip") + ".part")).write_bytes(good.content)
    assert run("--download", "--download-url", good.url, "--dataset", tmp_path / "new")[0] == 0


@pytest.mark.parametrize(("code", "reason"), [(404, "404 Not Found"), (403, "403 Forbidden"), (503, "503 Service Unavailable")])
def test_what_the_server_refuses_is_said_with_the_way_to_do_it_by_hand(server, tmp_path, run, code, reason):
    server.code = code
    result = run("--download", "--download-url", server.url, "--dataset", tmp_path / "new")
    assert result == (1, "", f"CatDogClassifier: cannot download {server.url}: {reason}. {program.BY_HAND}\n")


def test_without_a_network_one_line_says_what_to_do_by_hand(tmp_path, run, monkeypatch):
    def refuse(*_, **__):
        raise OSError(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    code, out, err = run("--download", "--dataset", tmp_path / "new")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "Temporary failure in name resolution" in err and "By hand: get the archive with a browser" in err


@pytest.mark.parametrize("content", [b"<html>log in to this network</html>", b"", b"PK\x03\x04" + bytes(100)])
def test_wrong_bytes_are_said_and_not_kept(server, tmp_path, run, cache, content):
    server.content = content
    code, out, err = run("-q", "--download", "--download-url", server.url, "--dataset", tmp_path / "new")
    assert (code, out) == (1, "") and "no zip archive that can be read" in err
    assert os.listdir(cache) == [] and sorted(os.listdir(tmp_path)) == ["cache"]


def test_a_damaged_archive_is_said_and_not_kept(good, tmp_path, run, cache):
    middle = len(good.content) // 2
    good.content = good.content[:middle] + bytes(64) + good.content[middle + 64 :]
    code, _, err = run("-q", "--download", "--download-url", good.url, "--dataset", tmp_path / "new")
    assert code == 1 and "is damaged at PetImages/" in err
    assert os.listdir(cache) == [] and not (tmp_path / "new").exists()


def test_the_sha256_asked_for_is_insisted_on(good, tmp_path, run, cache):
    line = ("-q", "--download", "--download-url", good.url, "--dataset", tmp_path / "new", "--download-sha256")
    code, _, err = run(*line, "0" * 64)
    right = hashlib.sha256(good.content).hexdigest()
    assert code == 1 and f"it has {right}" in err and "Nothing was unpacked" in err
    assert os.listdir(cache) == [] and not (tmp_path / "new").exists()
    code, _, err = run(*line, right.upper())
    assert code == 0 and "another archive" not in err


def test_a_file_url_is_read_where_it_lies(good, tmp_path, run, cache):
    path = tmp_path / "my archive.zip"
    path.write_bytes(good.content)
    line = ("--download", "--download-url", path.as_uri(), "--dataset", tmp_path / "new", "--split", "5,2,2")
    assert run(*line, "--download-sha256", "1" * 64)[0] == 1
    assert path.read_bytes() == good.content  # it is the user's
    assert run(*line, "--download-sha256", hashlib.sha256(good.content).hexdigest())[0] == 0
    assert listing(tmp_path / "new") == expected((5, 2, 2)) and not cache.exists()


@pytest.mark.parametrize("url", ["archive.zip", "ftp://example.org/x.zip", "javascript:alert(1)", "http://[::1/x.zip", "file://x.zip"])
def test_other_urls_are_a_usage_error(tmp_path, run, url):
    code, _, err = run("--download", "--download-url", url, "--dataset", tmp_path / "new")
    assert code == 2 and "must begin with https://" in err


def test_a_file_url_that_leads_nowhere_is_said(tmp_path, run):
    code, _, err = run("--download", "--download-url", (tmp_path / "none.zip").as_uri(), "--dataset", tmp_path / "new")
    assert code == 1 and "none.zip: No such file or directory" in err


@pytest.mark.parametrize("name", [
    "../evil.jpg", "PetImages/../../../evil.jpg", "/tmp/evil.jpg", "PetImages/Cat/..", "..\\..\\evil.jpg", "C:\\evil\\1.jpg",
    "PetImages/Cat/../../../Dog/1.jpg",
])
def test_an_archive_with_a_path_that_leaves_its_folder_is_refused_whole(server, tmp_path, run, name):
    server.content = archive({**members_like_microsofts(), name: b"evil"})
    before = {*os.listdir(tmp_path), *os.listdir(tmp_path.parent)}
    code, out, err = run("-q", "--download", "--download-url", server.url, "--dataset", tmp_path / "new")
    assert (code, out) == (1, "") and "a path that leaves its folder" in err.splitlines()[-1]
    assert {*os.listdir(tmp_path), *os.listdir(tmp_path.parent)} - before == {"cache"}


def test_folders_in_a_class_are_no_classes(server, tmp_path, run):
    rng, members = np.random.default_rng(1), {}
    for number in range(PHOTOS):
        for label in ("Cat", "Dog"):
            file = io.BytesIO()
            tint(label.lower(), rng, 64).save(file, "PNG")
            members[f"PetImages/{label}/{('indoors', 'outdoors')[number % 2]}/IMG_{number}.jpg"] = file.getvalue()
    server.content = archive(members)
    assert run("-q", "--download", "--download-url", server.url, "--dataset", tmp_path / "new", "--split", "5,2,2")[0] == 0
    assert os.listdir(tmp_path / "new/train") == ["cat", "dog"] or os.listdir(tmp_path / "new/train") == ["dog", "cat"]
    assert sum(name.startswith("train/") for name in listing(tmp_path / "new")) == 10


def test_members_that_are_no_photo_for_their_size_are_skipped(good, tmp_path, run, monkeypatch):
    monkeypatch.setattr(program, "MAX_BYTES", 100_000)
    good.content = archive({**members_like_microsofts(), "PetImages/Dog/99.jpg": bytes(1_000_000)})
    code, out, _ = run("--download", "--download-url", good.url, "--dataset", tmp_path / "new", "--json")
    assert code == 0 and "more than 0 MB" in json.loads(out)["skipped"]["PetImages/Dog/99.jpg"]


def test_links_in_an_archive_are_never_made(server, tmp_path, run):
    link = zipfile.ZipInfo("PetImages/Cat/99.jpg")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    buffer = io.BytesIO(archive(members_like_microsofts()))
    with zipfile.ZipFile(buffer, "a") as zipped:
        zipped.writestr(link, "/etc/passwd")
    server.content = buffer.getvalue()
    code, out, _ = run("--download", "--download-url", server.url, "--dataset", tmp_path / "new", "--json")
    assert code == 0 and list(json.loads(out)["skipped"]) == ["PetImages/Cat/6.jpg", "PetImages/Cat/99.jpg"]


def test_photos_named_by_class_in_kaggles_layout_unpack_as_well(server, tmp_path, run):
    photos = {name: content for name, content in members_like_microsofts().items() if name.endswith(".jpg") and content}
    server.content = archive({f"train/{name.split('/')[1].lower()}.{name.split('/')[2]}": content
                              for name, content in photos.items()})
    assert run("--download", "--download-url", server.url, "--dataset", tmp_path / "new", "--split", "5,2,2")[0] == 0
    assert len(listing(tmp_path / "new")) == 18


def test_room_on_the_disk_is_asked_for_before_anything_is_fetched(good, tmp_path, run, monkeypatch, cache):
    monkeypatch.setattr(program.shutil, "disk_usage", lambda path: program.shutil._ntuple_diskusage(9, 9, 2 * len(good.content)))
    code, _, err = run("-q", "--download", "--download-url", good.url, "--dataset", tmp_path / "new")
    assert code == 1 and "are free" in err and err.count("\n") == 1
    assert not any(path.stat().st_size for path in cache.iterdir())


@pytest.mark.parametrize("name", ["a file/new", "cache"])
def test_a_place_that_cannot_be_written_is_said_before_anything_is_fetched(good, tmp_path, run, monkeypatch, name):
    (tmp_path / "a file").touch()
    if name == "cache":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    code, _, err = run("-q", "--download", "--download-url", good.url, "--dataset", tmp_path / name)
    assert code == 1 and "takes no new files. Name another --dataset, or for the cache another XDG_CACHE_HOME" in err
    assert good.asked == []


def test_a_folder_that_holds_something_is_refused_before_anything_is_fetched(good, tmp_path, run):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine.txt").write_text("mine")
    assert "already holds other files" in run("--download", "--download-url", good.url, "--dataset", tmp_path / "new")[2]
    assert good.asked == []


def test_a_server_that_does_not_say_how_long_it_is_will_do(good, tmp_path, run):
    good.length = -1
    assert run("--download", "--download-url", good.url, "--dataset", tmp_path / "new", "--split", "5,2,2")[0] == 0
    assert listing(tmp_path / "new") == expected((5, 2, 2))


@pytest.mark.parametrize("piece", ["bytes 0-9/99", "bytes 4000-9/99", "nonsense"])
def test_another_part_than_asked_for_is_not_taken(good, tmp_path, run, cache, piece):
    good.cuts = [5000]
    good.piece = piece
    code, _, err = run("-q", "--download", "--download-url", good.url, "--dataset", tmp_path / "new")
    assert code == 1 and err.count("\n") == 1
    assert not list(cache.glob("*.zip"))


def test_a_server_that_sends_piece_after_piece_will_do(good, tmp_path, run):
    good.cuts, good.most = [5000], 4000
    assert run("--download", "--download-url", good.url, "--dataset", tmp_path / "new", "--split", "5,2,2")[0] == 0
    assert listing(tmp_path / "new") == expected((5, 2, 2))


def test_the_archive_is_kept_once_wherever_the_program_is_started(good, tmp_path, run, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert run("--download", "--download-url", good.url, "--dataset", "new", "--split", "5,2,2")[0] == 0
    assert len(good.asked) == 1


@pytest.mark.parametrize("sha256", ["", "xyz", "0" * 63, " " + "0" * 64])
def test_a_checksum_that_is_none_is_a_usage_error_before_anything_is_fetched(good, tmp_path, run, sha256):
    line = ("--download", "--download-url", good.url, "--dataset", tmp_path / "new", "--download-sha256", sha256)
    assert run(*line)[0] == 2 and good.asked == []


def test_without_tensorflow_and_without_a_picture_library(good, tmp_path):
    """A download, a preparation and a check start at once: they import neither TensorFlow nor matplotlib."""
    code = (f"import sys, CatDogClassifier as p; sys.argv = ['x']\n"
            f"assert p.main(['-q', '--download', '--download-url', {good.url!r}, '--dataset', 'new', '--split', '5,2,2']) == 0\n"
            f"assert p.main(['-q', '--check', 'new']) == 0\n"
            f"assert not {{'tensorflow', 'keras', 'matplotlib'}} & set(sys.modules)")
    environment = {**os.environ, "PYTHONPATH": str(REPO), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("flags", [("--download-url", "https://example.org/x.zip"), ("--download-sha256", "0" * 64)])
def test_flags_of_a_download_go_with_one(tmp_path, run, flags):
    assert run("--prepare", tmp_path, "--dataset", tmp_path / "new", *flags)[0] == 2
