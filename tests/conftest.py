"""Shared by all tests: tiny photos drawn on the spot, one small trained net, real photos if any."""

import functools
import io
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CACHE = tempfile.TemporaryDirectory(prefix="catdog-tests-")  # not the user's
os.environ["XDG_CACHE_HOME"] = CACHE.name  # of the programs that tests start as well

import CatDogClassifier as program  # noqa: E402

REPO = Path(__file__).resolve().parent.parent
PROGRAM = REPO / "CatDogClassifier.py"
posix = pytest.mark.skipif(os.name == "nt", reason="not on Windows")
linux = pytest.mark.skipif(sys.platform != "linux", reason="as Linux does it")
REAL = Path(os.environ.get("CATDOG_REAL_PHOTOS", REPO.parent / "shared" / "data"))


def slow(*values):
    """Parameters of a test that only -m slow runs."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def tint(label, rng, size=24):
    """A photo that a net learns at once: cats are reddish, dogs bluish, with noise."""
    pixels = rng.integers(0, 120, (size, size, 3), dtype=np.uint8)
    pixels[..., {"cat": 0, "red": 0, "green": 1}.get(label, 2)] += 130
    return Image.fromarray(pixels)


def make_dataset(folder, counts, seed=0, relabel=None, labels=("cat", "dog")):
    """DATASET/{split}/{cat,dog}/N.png of tinted photos; `relabel(label, number)` may move one."""
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        for label in labels:
            for number in range(count):
                where = relabel(label, number) if relabel else label
                path = Path(folder, split, where, f"{label}.{number}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                tint(label, rng).save(path)
    return Path(folder)


def encoded(image, kind, **options):
    """An image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quick(folder, **settings):
    """A classifier that learns tinted photos in seconds, its weights in `folder`."""
    chosen = {"epochs": 4, "batch_size": 8, "optimizer": "adam", "augment": False, "seed": 1}
    chosen |= {"quiet": True, "precision": "float32"}
    return program.CatDogClassifier(weights=str(Path(folder, "net.h5")), **{**chosen, **settings})


@pytest.fixture
def dataset(tmp_path):
    """A dataset of tinted photos: 12 of each class to train on, 6 to validate, 6 to test."""
    return make_dataset(tmp_path / "data", {"train": 12, "validation": 6, "test": 6})


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A classifier that has learned to tell tinted photos apart; shared, so not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    data = make_dataset(folder / "data", {"train": 24, "validation": 8, "test": 8})
    classifier = quick(folder, dataset=str(data))
    classifier.train()
    return classifier


@pytest.fixture
def weights(trained):
    """The path of the weights of `trained`."""
    return trained.settings.weights


STEEP, CURVE = 8, [[0.9, 0, 90], [0.5, 5, 100]]  # 90 answers of 0.9 or more, none of them wrong


def colour_net(path, **known):
    """The weights of a net whose P(dog) is a sigmoid of STEEP * (blue - red), of means in 0..1."""
    classifier = program.CatDogClassifier(weights=str(path), model="happy", quiet=True)
    shapes = [weight.shape for weight in classifier.createModel().weights]
    kernel, bias, gamma, beta, mean, var, fc, shift = map(np.zeros, shapes)
    kernel[3, 3, 0, 0] = kernel[3, 3, 2, 1] = gamma[:2] = 1  # copies of red and blue
    var[:] = 1 - 0.001  # with what Keras adds to it
    fc[0::32], fc[1::32] = -STEEP / 1024, STEEP / 1024  # 32 x 32 places
    classifier.model.set_weights([kernel, bias, gamma, beta, mean, var, fc, shift])
    classifier.info.update(known)
    classifier.save_weights()
    return str(path)


def paint(path, blue):
    """A photo that is so much more blue than red, -128 to 127; returns its P(dog)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (128 - blue // 2, 60, 128 - blue // 2 + blue)).save(path)
    return 1 / (1 + np.exp(-STEEP * blue / 255))


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    """The weights of `colour_net`, sure from 0.9 on."""
    return colour_net(tmp_path_factory.mktemp("colours") / "net.h5", risk_coverage=CURVE)


@pytest.fixture
def new(tmp_path):
    """A path at which there is nothing yet."""
    return tmp_path / "new"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of the program for this test alone: the ports of servers come again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "catdogclassifier"


def call(capsys, main, *arguments):
    """A command line in this process: (exit code, stdout, stderr)."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    return code, *capsys.readouterr()


@pytest.fixture
def run(capsys):
    """The program's command line: run("-f", "x.jpg") -> (exit code, stdout, stderr)."""
    return functools.partial(call, capsys, program.main)


def guarded(tool):
    """What `call` takes for a script of dataset/: its command line as the script itself runs it."""
    return lambda line: program.run_guarded(lambda: tool.main(line))


def refusal(done, code=1):
    """The line on stderr of a run that printed nothing else: of (exit code, stdout, stderr)."""
    found, out, err = done
    assert (found, out, err.count("\n")) == (code, "", 1)
    return err


def tree(folder):
    """All files under a folder: {path: content}."""
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def real():
    """The folder of real photos; tests that want it are skipped without one."""
    if not (REAL / "photos").is_dir():
        pytest.skip(f"no real photos at {REAL} (set CATDOG_REAL_PHOTOS)")
    return REAL


def link_real(real, folder, counts):
    """A dataset of links to real photos, each in one split: {split: how many of each class}."""
    for label in ("cat", "dog"):
        numbers = itertools.count()
        for split, count in counts.items():
            (folder / split / label).mkdir(parents=True)
            for number in itertools.islice(numbers, count):
                photo = real / "photos" / f"{label}.{number}.jpg"
                (folder / split / label / photo.name).symlink_to(photo)
    return folder


def python(*arguments, **options):
    """A Python process that can import the program, its output captured; `before`: as of strace."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), **options.pop("env", {})}
    line = [*options.pop("before", ()), sys.executable, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, env=environment, **options)
