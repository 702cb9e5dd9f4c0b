"""--report: one page that needs nothing else, with names escaped and the right photos in the right order."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import CatDogClassifier as program
from conftest import tint

EVIL = "<img src=x onerror=alert(1)>&'\"; .png"


class Page(HTMLParser):
    """A page: its tags with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, text):
        self.text += text

    def all(self, tag, **wanted):
        return [given for name, given in self.tags if name == tag and all(given.get(key) == value for key, value in wanted.items())]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "holiday").mkdir()
    rng = np.random.default_rng(0)
    for name, label in (("a.png", "cat"), (EVIL.replace("/", ""), "dog"), ("c.png", "dog")):
        tint(label, rng).save(tmp_path / "holiday" / name)
    (tmp_path / "holiday" / "broken.jpg").write_bytes(b"no photo")
    return tmp_path / "holiday"


def check_alone(text):
    """Nothing is fetched, nothing runs, every picture has a text."""
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert all(given["src"].startswith("data:") and given["alt"] for given in page.all("img"))
    assert all(given["aria-label"] for given in page.all("div", role="img"))
    assert re.findall(r"url\((?!data:)", text) == []
    assert not [key for _, given in page.tags for key in given if key.startswith("on")]
    assert page.all("meta", name="viewport")
    return page


def test_a_folder_is_a_gallery_by_verdict(folder, weights, run, tmp_path):
    path = tmp_path / "report.html"
    code, out, err = run("-d", folder, "--weights", weights, "--report", path)
    assert code == 1  # one is broken
    assert f"report: {path}" in err
    text = path.read_text()
    page = check_alone(text)
    assert f"Answered by {weights}." in page.text
    captions = [given["aria-label"] for given in page.all("div", role="img")]
    assert sorted(caption.split(" % ")[1] for caption in captions) == sorted(["a.png", EVIL, "c.png"])
    assert re.search(r"cat: 1\b.*a\.png.*dog: 2\b.*Unreadable: 1\b.*broken\.jpg", page.text, re.DOTALL)
    sure = [float(caption.split(" ")[0]) for caption in captions[1:]]
    assert sure == sorted(sure)
    # The place on its sheet is where the photo is.
    sheets = [np.asarray(Image.open(io.BytesIO(base64.b64decode(code)))) for code in re.findall(r"base64,([^)]+)\)", text)]
    for given, caption in zip(page.all("div", role="img"), captions, strict=True):
        x, y = (int(number) for number in re.findall(r"-(\d+)px", given["style"]))
        sheet = sheets[int(re.search(r"s(\d+)", given["class"])[1])]
        photo = program.read_photo(folder / caption.split(" % ")[1], program.THUMBNAIL).astype(int)
        assert np.abs(sheet[y : y + program.THUMBNAIL, x : x + program.THUMBNAIL].mean(axis=(0, 1)) - photo.mean(axis=(0, 1))).max() < 4


def test_many_photos_take_several_sheets():
    sheets, photo = [], np.zeros((program.THUMBNAIL, program.THUMBNAIL, 3), np.uint8)
    cases = [(photo + number % 200, str(number)) for number in range(program.SHEET**2 + 3)]
    text = program.html_gallery(cases, sheets)
    assert len(sheets) == 2
    assert text.count("class=\"thumb s0\"") == program.SHEET**2
    assert text.count("class=\"thumb s1\"") == 3


def test_scores_come_with_the_worst_mistakes(trained, run, tmp_path):
    data = tmp_path / "data" / "test"
    rng = np.random.default_rng(5)
    for name, label in (("cat/1.png", "cat"), ("cat/2.png", "cat"), ("cat/wrong.png", "dog"), ("dog/1.png", "dog"), ("dog/2.png", "dog")):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        tint(label, rng).save(data / name)
    path = tmp_path / "scores.html"
    code, out, err = run("--evaluate", "--dataset", tmp_path / "data", "--weights", trained.settings.weights, "--report", path)
    assert code == 0
    page = check_alone(path.read_text())
    assert "80.0 %  (4 of 5" in page.text
    assert f"Answered by {trained.settings.weights}." in page.text
    assert "The most confident mistakes: 1 of 1" in page.text
    captions = [given["alt"] for given in page.all("img")][1:]
    assert re.fullmatch(r"dog [\d.]+ %, is cat: test/cat/wrong.png", captions[0])
    assert len(captions) == 1 + 5
    table = re.search(r"<table>.*</table>", path.read_text(), re.DOTALL)[0]
    assert re.findall(r"<td>([^<]*)</td>", table) == ["2", "1", "66.6 %", "0", "2", "100.0 %", "100.0 %", "66.6 %", ""]


def test_a_report_replaces_an_earlier_one_and_nothing_else(folder, weights, run, tmp_path):
    path = tmp_path / "report.html"
    line = ["-d", folder, "--weights", weights, "--report", path]
    run(*line)
    path.write_text(path.read_text()[:200])
    run(*line)
    assert len(path.read_text()) > 2000
    path.write_text("<!doctype html><title>mine</title>")
    code, _, err = run(*line)
    assert (code, path.read_text()) == (1, "<!doctype html><title>mine</title>")
    code, out, late = run("-d", folder, "--weights", weights, "--report", "r" * 250 + ".html")
    assert (code, out) == (1, "")  # before anything is classified
    assert "File name too long. Name another --report" in late
    assert "no such folder" in run("-d", folder, "--weights", weights, "--report", tmp_path / "no" / "r.html")[2]
    inside = ["-d", folder, "--weights", weights, "--report", folder / "r.html"]
    assert run(*inside)[1] == run(*inside)[1]  # the page is none of the photos
    assert "report.html is there already, and no report" in err
    assert run("--report", path)[0] == 2
    assert "does not end in .html" in run("-d", folder, "--weights", weights, "--report", "holiday.jpg")[2]
