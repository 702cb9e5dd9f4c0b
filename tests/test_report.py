"""--report: a page of links to the photos; names are escaped, the right photos in order."""

import json
import os
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from CatDogClassifier import percent
from conftest import paint, refusal

EVIL = "<img src=x onerror=alert(1)>&'\";%41?#b.png"
TAGS = {"html", "meta", "title", "style", "h1", "h2", "pre", "div", "figure", "figcaption", "a"}
ATTRIBUTES = {"lang", "charset", "name", "content", "href", "src", "alt", "loading"}


class Page(HTMLParser):
    """A page from which nothing runs or is fetched: its text, and its photos with captions."""

    def __init__(self, path):
        super().__init__()
        self.text, self.links, self.captions, source = "", [], [], path.read_text()
        self.feed(source)
        assert source.startswith("<!doctype html>") and not re.findall(r"url\(|@import", source)
        self.paths = [(path.parent / unquote(link)).resolve() for link in self.links]
        assert all(photo.is_file() for photo in self.paths)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        assert tag in TAGS | {"img"} and set(given) <= ATTRIBUTES
        if tag == "a":
            self.links.append(given["href"])
        if tag == "img":
            assert given["src"] == self.links[-1]
            self.captions.append(given["alt"])

    def handle_data(self, text):
        self.text += text


@pytest.fixture
def folder(tmp_path):
    """A holiday: one cat, two dogs, and something broken."""
    for name, blue in (("a.png", -50), ("b 猫.png", 120), (EVIL, 50)):
        paint(tmp_path / "holiday" / name, blue)
    (tmp_path / "holiday" / "broken.jpg").write_bytes(b"no photo")
    return tmp_path / "holiday"


def test_a_folder_is_a_gallery_by_verdict_the_least_confident_first(folder, colours, run, tmp_path):
    (tmp_path / "pages").mkdir()
    path = tmp_path / "pages" / "report.html"
    code, _, err = run("-d", folder, "--weights", colours, "--report", path)
    assert code == 1  # one is broken
    page = Page(path)
    names = ["a.png", EVIL, "b 猫.png"]
    assert page.paths == [folder / name for name in names]
    shown = zip(("82.7 %", "82.7 %", "97.7 %"), names, strict=True)
    assert page.captions == [f"{sure} holiday/{name}" for sure, name in shown]  # the last folder
    words = [f"{folder}: 4 files", f"{folder / 'broken.jpg'}: not a photo that can be read"]
    words += ["cat: 1", page.captions[0], "dog: 2", *page.captions[1:]]
    places = [page.text.rindex(text) for text in words]
    assert places == sorted(places)


def test_scores_come_with_the_most_confident_mistakes(colours, run, tmp_path):
    photos = {"cat/right.png": -100, "cat/faint.png": 4, "cat/wrong.png": 100, "dog/a.png": 9}
    for name, blue in {**photos, "dog/b.png": 90}.items():
        photos[name] = paint(tmp_path / "test" / name, blue)
    path, data = tmp_path / "scores.html", ("--dataset", tmp_path, "--weights", colours)
    code, out, _ = run("--evaluate", *data, "--report", path)
    page = Page(path)
    assert code == 0 and "60.0 %  (3 of 5; 95 % interval 23.1 to 88.2 %)" in out
    assert out.strip() in page.text
    assert "mistakes, the most confident first: 2" in page.text
    wrong = ["cat/wrong.png", "cat/faint.png"]
    assert page.paths == [tmp_path / "test" / name for name in wrong]
    assert page.captions == [f"{percent(photos[name])} dog, is cat" for name in wrong]
    assert [line.split() for line in out.splitlines()][-4:] == [
        ["answered", "cat", "dog", "recall"],
        ["is", "cat", "1", "2", "33.3", "%"],
        ["is", "dog", "0", "2", "100.0", "%"],
        ["precision", "100.0", "%", "50.0", "%"],
    ]
    scores = json.loads(run("--evaluate", *data, "--json")[1])
    assert (scores["dataset"], scores["split"]) == (str(tmp_path), "test")
    assert (scores["correct"], scores["confusion"]) == (3, [[1, 2], [0, 2]])


def test_a_report_replaces_an_earlier_one_and_nothing_else(folder, colours, run):
    path = folder / "report.html"
    for name in (".report2.html.01234567.tmp", ".reports.tmp", ".report.html.01234567.tmp"):
        (folder / name).write_bytes(b"half")
    line = ["-d", folder, "--weights", colours, "--report", path]
    first, whole = run(*line), path.read_text()
    path.write_text(whole[: whole.index("<title>")])
    assert run(*line) == first  # the page is none of the photos
    assert "4 files: 1 cat, 2 dog, 1 unreadable" in first[2] and path.read_text() == whole
    left = [name for name in os.listdir(folder) if name.endswith(".tmp")]  # of other programs
    assert sorted(left) == [".report2.html.01234567.tmp", ".reports.tmp"]
    path.write_text("<!doctype html><title>mine</title>")
    err = refusal(run(*line))  # before anything is classified
    assert "report.html is there already, not written by this program" in err
    assert "Name another --report" in err
    assert path.read_text() == "<!doctype html><title>mine</title>"
