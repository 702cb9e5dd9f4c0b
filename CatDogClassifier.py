# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "tensorflow>=2.20",
#     "keras>=3.12",
#     "numpy>=1.26.4",
#     "matplotlib>=3.8",
#     "pillow>=11",
# ]
# ///
"""CatDogClassifier: tell cats from dogs with a small convolutional net.

The net that comes with it, trained from scratch on 13,800 photographs, is right on 97.6 % of 1,000 that it had never
seen (`python tests/train_box.py PHOTOS --score` trains it anew, in some 70 minutes on two CPU cores, and prints this).

    python CatDogClassifier.py                  train on dataset/, save CatDogClassifier_model.h5
    python CatDogClassifier.py -f photo.jpg     classify one photo
    python CatDogClassifier.py -d holiday       classify a folder

The same from a Python prompt:

    from CatDogClassifier import CatDogClassifier
    classifier = CatDogClassifier(epochs=10)
    classifier.train("dataset")
    classifier.showAcc()
    classifier.predict("photo.jpg")

The rooms of this file, in reading order: grep '^# ===' CatDogClassifier.py
"""

import argparse
import base64
import collections
import contextlib
import csv
import errno
import functools
import hashlib
import html
import io
import itertools
import json
import logging
import math
import os
import re
import shlex
import shutil
import signal
import stat
import struct
import sys
import tempfile
import threading
import time
import timeit
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

try:
    import numpy as np
    import PIL
    from PIL import Image
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    sys.exit(f"CatDogClassifier: {missing.name} is not installed. Run: pip install -r requirements.txt")
except KeyboardInterrupt:  # these imports are most of the time before `main` can say so
    if __name__ != "__main__":
        raise
    sys.exit(130)

__version__ = "1.0"
PROGRAM = f"CatDogClassifier {__version__}"


# ======================================================================================================================
# 1. Settings: every default lives here once
# ======================================================================================================================

SPLITS = ("train", "validation", "test")
SPLIT = "0.8,0.1,0.1"  # of each class, unless --split says otherwise
SPLIT_ALIASES = {"val": "validation", "valid": "validation"}
SPLIT_FOLDERS = {*SPLITS, *SPLIT_ALIASES, "test1"}  # test1: Kaggle's photos without labels
CLASS_ALIASES = {"cats": "cat", "dogs": "dog"}
SYSTEM_FILES = {"thumbs.db", "desktop.ini"}  # as are all names that begin with a dot
PHOTO_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
MAX_PIXELS = 100_000_000  # to decode; JPEGs that are larger, up to Pillow's own limit, at a fraction of their size
MANY_PIXELS = 20_000_000  # of photos with more only one is decoded at a time
MAX_BYTES = 500_000_000  # of a photo's file: more than the largest BMP of that size
MAX_SCANS = 100  # of a progressive JPEG; usual are ten
SIDE = 150  # photos are compared at so many pixels a side
THUMB = 32  # pixels a side of the grey miniatures of photos that near copies are found by
ALIKE, EVERYWHERE = 0.975, 0.6  # how closely two of one photo correlate, on the whole and in each of 64 parts
GRAIN = 8.0  # grey levels by which recompression may change them
UNIFORM, TINY = 2.0, 64  # a photo whose miniature spreads over fewer of 256 greys, or with fewer pixels a side, is odd
MAX_LOST = 0.1  # of the photos of a split may be unreadable; a training with more does not start
ENOUGH_EPOCHS = 10  # for a net that only guesses to be said not to learn
# Of a weights file: its bytes, its arrays, groups in groups, the bytes of a text, the texts in one list.
MAX_FILE, MAX_ITEMS, MAX_DEPTH, MAX_TEXT, MAX_TEXTS = 1_000_000_000, 10_000, 9, 65_536, 512
MAX_CLASSES = 100  # so that what is said of each fits into such a text
MAX_SEEN = 100_000  # photos that a weights file remembers
# The directions that say what is familiar to a net; the share of validation photos that are not, and how many of these
# it takes to say that of a photo.
DIRECTIONS, TURNED_AWAY, ENOUGH_PHOTOS = 32, 0.005, 100
DRAWING_MARK = b"drawing by CatDogClassifier"  # the JPEG comment of the shipped drawings

# What lies beside the weights NAME.h5: NAME_history.csv, ...
HISTORY, ACCURACY, LOSS, RELIABILITY, UNFINISHED, PREVIOUS = BESIDE = (
    "_history.csv", "_accuracy.png", "_loss.png", "_reliability.png", ".unfinished", ".previous.h5")
COMPARED, BOARD, CURVES = "_compare", "scoreboard.csv", "curves.png"  # the folder of a comparison, and what is in it
CHECK = "_check.png"  # the picture of a check of DATASET: DATASET_check.png
PICTURED = 16  # cases of each kind in it
RELIABLE = 0.8  # a net that agrees with a smaller share of the labels is no judge of them

# Microsoft's archive of the 25,000 photos, and the SHA-256 by which one public project knows it.
ARCHIVE_URL = ("https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
               "kagglecatsanddogs_5340.zip")
ARCHIVE_SHA256 = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"
CHUNK = 1 << 18  # bytes of a download at a time
BOX = Path(__file__).resolve().with_name("CatDogClassifier_pretrained.h5")  # weights that came with the program
DIGITS = "keras.datasets.mnist"
CLASS_INDEX_URL = "https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json"

INSTALL = "Run: pip install -r requirements.txt"
FASTER = "It need not be; with it the first answer comes many times sooner: pip install ai-edge-litert"
REAL_PHOTOS = ("To get real ones, 786 MB: python CatDogClassifier.py --download --dataset NEW\n"
               "To bring in your own: python CatDogClassifier.py --prepare FOLDER --dataset NEW")
BY_HAND = ("By hand: get the archive with a browser, then run python CatDogClassifier.py --download --download-url "
           "file:///FOLDER/ARCHIVE.zip --dataset NEW")
AGAIN = "Run the same command again"
NEW = "Name a new folder: --dataset NEW"

# The tutorial's ImageDataGenerator; its shear_range is in degrees.
ROTATION, SHIFT, SHEAR, ZOOM = math.radians(40), 0.2, math.radians(0.2), 0.2
TILT, CONTRAST, CAST, LIGHT = math.radians(10), 0.2, 0.1, 0.1  # of the recipe "best"
SHARP = (0.7, 0.2, 0.1)  # the shares of photos of which it leaves all detail, half of it a side, a fourth

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}  # name -> Keras policy
RECIPE = ("recipe", "steps", "batch_size", "optimizer", "learning_rate", "augment", "precision", "seed")  # of an epoch
RECIPES = ("best", "tutorial")
SHOWN, MOST_EPOCHS = 800_000, 100  # photos that "best" shows a net in all, unless that takes more epochs
OPTIMIZERS = ("rmsprop", "adam", "adamw", "muon", "sgd")
SURE = 0.95  # the probability below which a second look pays
CLOSER = 0.8  # of each side of a photo: what it is at, where whole photos show things smaller than training did
WEIGHT_DECAY = 0.5  # of adamw and muon: kernels shrink by this times the learning rate in each step
READ_AHEAD = 128  # photos that are read while earlier ones are classified


def option(default, text, **parsing):
    """A field of Settings that is a command-line flag as well: its default, its help, its argparse keywords."""
    return field(default=default, metadata={"help": text, **parsing})


def flags_of(setting):
    """What a field of Settings is called on the command line: ["-q", "--quiet"]."""
    return setting.metadata.get("flags", ["--" + setting.name.replace("_", "-")])


@dataclass(frozen=True)
class Settings:
    """What can be chosen, with its defaults. Raises UsageError for a value out of range."""

    dataset: str = option("dataset", "folder with train/, validation/, test/", metavar="DIR")
    weights: str = option("CatDogClassifier_model.h5", "weights file to write or to read", metavar="FILE")
    model: str = option("default", "the net: a rung of the ladder, see below", metavar="RUNG")
    base: str = option("vgg16", "pretrained base of the rungs that have one", metavar="NAME")
    base_weights: str = option("imagenet", "its weights: imagenet (downloaded once), none, or a file", metavar="FILE")
    recipe: str = option("best", "how to train: what measured best, or as the tutorial does", choices=RECIPES)
    epochs: int = option(30, "at most so many passes over the training photos; best: 30 to 100, more if they are few",
                         type=int, metavar="N")
    steps: int = option(0, "training steps in an epoch; 0: one pass over the photos", type=int, metavar="N")
    batch_size: int = option(32, "photos per training step", type=int, metavar="N")
    optimizer: str = option("muon", "how the weights are updated", choices=OPTIMIZERS)
    learning_rate: float = option(0.001, "size of the updates", type=float, metavar="X")
    patience: int = option(0, "stop after N epochs without a better one; 0: never", type=int, metavar="N")
    augment: bool = option(True, "train on the photos as they are, neither turned nor shifted", action="store_false",
                           flags=["--no-augment"])
    precision: str = option("auto", "arithmetic (auto: training in 16 bits where that is faster, answers in float32)",
                            choices=("auto", *PRECISIONS))
    unsure: float | None = option(None, "say unsure where else more than this share of the answers would be wrong, "
                                  "0.02 for one, judged by the validation photos", type=float, metavar="X")
    seed: int | None = option(None, "make a run repeatable (default: a new one each time)", type=int, metavar="N")
    fresh: bool = option(False, "start over, whatever training was left unfinished", action="store_true")
    quiet: bool = option(False, "print results and errors only", action="store_true", flags=["-q", "--quiet"])
    verbose: bool = option(False, "let TensorFlow's messages through", action="store_true", flags=["-v", "--verbose"])

    def __post_init__(self):
        rules = [
            (self.epochs >= 1, "--epochs must be 1 or more"),
            (self.steps >= 0, "--steps must be 0 or more"),
            (self.batch_size >= 1, "--batch-size must be 1 or more"),
            (0 < self.learning_rate < math.inf, "--learning-rate must be a number above 0"),
            (self.patience >= 0, "--patience must be 0 or more"),
            (self.unsure is None or 0 <= self.unsure < 1, "--unsure must lie between 0 and 1"),
            (self.seed is None or 0 <= self.seed < 2**32, "--seed must lie between 0 and 4294967295"),
            (self.optimizer in OPTIMIZERS, f"--optimizer must be one of {', '.join(OPTIMIZERS)}"),
            (self.recipe in RECIPES, f"--recipe must be one of {', '.join(RECIPES)}"),
            (self.precision in ("auto", *PRECISIONS), f"--precision must be one of auto, {', '.join(PRECISIONS)}"),
        ]
        for holds, problem in rules:
            if not holds:
                raise UsageError(problem)


# ======================================================================================================================
# 2. Errors and messages
# ======================================================================================================================


class CatDogError(Exception):
    """Anything a user can cause or mend: what went wrong and, where there is one, the way out, in one line."""

    exit_code = 1

    def __init__(self, problem, fix=""):
        super().__init__(printable(f"{str(problem).rstrip('.')}. {fix}" if fix else problem))


class UsageError(CatDogError):
    """The request itself makes no sense."""

    exit_code = 2


class PhotoError(CatDogError):
    """One photo cannot be read; `passing` when the reason may be gone the next time."""

    passing = False


class DatasetError(CatDogError):
    """A folder of photos is missing, incomplete or in the way."""


class WeightsError(CatDogError):
    """A weights file is missing, damaged or of another net."""


class WriteError(CatDogError):
    """A result cannot be written."""


class TrainingError(CatDogError):
    """A training came to nothing."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which is treated as Ctrl-C is, but for the exit code."""


def interrupt(number, frame=None):
    """A handler of SIGINT and SIGTERM: leave from wherever the program is."""
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


@contextlib.contextmanager
def handling(signals, handler):
    """Inside, these signals are handled so; nothing changes outside the main thread, where Python has no signals."""
    ours = signals if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, handler) for number in ours}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier or signal.SIG_DFL)


# What could forge a line, act on a terminal or turn the text around, and bytes that are no text.
FORGING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text):
    """The text on one line: line breaks, control characters and undecodable bytes of a file's name as escapes."""
    return FORGING.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def reason(error):
    """An OSError in a few words: "No such file or directory", without the number and the path."""
    return error.strerror or str(error) or type(error).__name__


def clock(seconds):
    """Seconds as m:ss, or h:mm:ss."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"


def percent(share):
    """A share in 0..1 as "97.3 %", rounded down: 100.0 % means all."""
    return f"{math.floor(share * 1000 + 1e-4) / 10:.1f} %"  # a share that was float32 may be a little too small


class Console:
    """All that is said besides results, on stderr; a bar with the time left where stderr is a terminal."""

    def __init__(self, quiet=False):
        self.quiet, self.width, self.drawn, self.said = quiet, 0, 0.0, set()

    def say(self, text):
        if not self.quiet:
            self.warn(text)

    def warn(self, text):
        self.clear()
        print(text, file=sys.stderr, flush=True)

    def once(self, text):
        """Warn of what would come up again and again."""
        if text not in self.said:
            self.said.add(text)
            self.warn(text)

    def has_bar(self):
        """True where a line can be drawn over and someone wants to see it."""
        return not self.quiet and sys.stderr.isatty()

    def status(self, text):
        """Draw a line on the terminal that the next one takes the place of."""
        if not self.has_bar():
            return
        text = text[: shutil.get_terminal_size().columns - 3]
        print(f"\r{text:<{self.width}}", end="", file=sys.stderr, flush=True)
        self.width, self.drawn = len(text), time.monotonic()

    def bar(self, label, done, total, started, tail="", start=0):
        """Draw `label [###---] 42 %  1:07 left  tail`, ten times a second and when it was taken away.

        `done` of `total` are done, `start` of them were when it `started`.
        """
        now, total = time.monotonic(), max(done, total, 1)  # a total may not be known
        if self.width and now - self.drawn < 0.1 and done < total:
            return
        pace = (now - started) / max(done - start, 1)
        left = clock(pace * (total - done)) + " left" if done > start and now - started > 1 else ""
        marks = "#" * (20 * done // total)
        self.status(f"{label} [{marks:-<20}] {100 * done // total:3} %  {left}  {tail}")

    def watch(self, label, items, total):
        """Yield the items, with a bar."""
        started = time.monotonic()
        for done, item in enumerate(items):
            self.bar(label, done, total, started)
            yield item
        self.clear()

    def clear(self):
        """Take the line away, and the ^C that Ctrl-C may have left behind it."""
        if self.width:
            print(f"\r{'':{shutil.get_terminal_size().columns - 1}}\r", end="", file=sys.stderr, flush=True)
        self.width = 0


# ======================================================================================================================
# 3. Files: written whole or not at all, sealed against damage; caches
# ======================================================================================================================


def open_regular(path, limit=math.inf):
    """Open a file for reading. Raises OSError for a folder, for what could block for ever, and above `limit` bytes."""
    if os.path.isdir(path):  # Windows cannot open a folder to look at it
        os.scandir(path).close()  # a folder that may not be looked into says so
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", path)
    irregular = OSError(errno.EINVAL, "not a regular file", path)
    if not stat.S_ISREG(os.stat(path).st_mode):  # before it is opened: that alone acts on pipes and devices
        raise irregular
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # and after that: it may have been exchanged
        os.close(descriptor)
        raise irregular
    if os.fstat(descriptor).st_size > limit:
        os.close(descriptor)
        raise OSError(errno.EFBIG, f"more than {limit / 1e6:.0f} MB", path)
    return os.fdopen(descriptor, "rb")


@contextlib.contextmanager
def replacing(path):
    """A file to write that takes the place of another in one step, at the end: there is the old one or the new one."""
    target = Path(os.path.realpath(path))  # a link stays a link
    part = temporary(target)
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):
            shutil.copymode(target, part)
        os.replace(part, target)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def temporary(path):
    """A new name, for what is to take the place of a file when it is whole."""
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")


def is_box(path):
    """Whether a path leads to the weights that came with the program, by whatever name."""
    there = os.path.exists(path) and BOX.exists()
    return os.path.samefile(path, BOX) if there else os.path.realpath(path) == os.path.realpath(BOX)


def spare_box(path):
    """Raise WriteError for the weights that came with the program."""
    if is_box(path):
        raise WriteError(f"{path} is the net that comes with the program", "Name another --weights")


def write_whole(path, *chunks):
    """Write bytes to a file, whole or not at all, but never over the box. Raises WriteError."""
    spare_box(path)
    try:
        with replacing(path) as file:
            file.writelines(chunks)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {reason(error)}", "Make room, or name another place") from None


def check_writable(path, flag="--weights", endings=BESIDE):
    """Raise WriteError now rather than after an hour of work; sweep up what a killed run left half-written."""
    path, target = Path(path), Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise WriteError(f"cannot write {path}: it is no regular file", f"Name a file with {flag}")
    try:
        names = [target.name, *(beside(target, ending).name for ending in endings)]
        temporary(target.with_name(max(names, key=len))).touch()  # a folder may not take it, or not so long a name
        remove_files(target.parent, rf"\.({'|'.join(map(re.escape, names))})\.[0-9a-f]{{8}}\.tmp")
    except OSError as error:
        raise WriteError(f"cannot write in {path.parent}: {reason(error)}", f"Name another {flag}") from None


def remove_files(folder, pattern):
    """Remove the files of a folder whose whole names match; returns how many bytes that frees. Raises OSError."""
    freed = 0
    for path in Path(folder).iterdir():
        if re.fullmatch(pattern, path.name):
            freed += path.lstat().st_size
            path.unlink()
    return freed


def beside(weights, ending):
    """The path of a file named after the weights: beside("a/x.h5", "_loss.png") is a/x_loss.png."""
    path = Path(weights)  # of another ending than .h5 the whole name: run_0.01 and run_0.001 are two
    return path.with_name((path.stem if path.suffix == ".h5" else path.name) + ending)


def cache_folder():
    """The one folder for what can be made again at any time; one that cannot be written where there is no home."""
    bases = os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")  # a relative one is to be ignored
    return Path(next(filter(os.path.isabs, bases), os.devnull), "catdogclassifier")


def cache_name(path, kind):
    """The name of the cache that belongs to a file, a folder or a URL: one each, so that a new one takes its place."""
    place = path if "://" in os.fspath(path) else os.path.abspath(path)
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:32] + kind


def digest_of(path):
    """The state of a file and of this program, for a cache made from it; None when it cannot be read."""
    try:
        with open_regular(path, MAX_FILE) as file:
            return f"{__version__} {hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError:
        return None


def digest(about, arrays):
    """The SHA-256 of a text, bytes, and of arrays."""
    found = hashlib.sha256(about)
    for array in arrays:
        found.update(np.ascontiguousarray(array))
    return found.hexdigest()


def crc_of(*arrays):
    """The CRC-32 of arrays."""
    return functools.reduce(lambda crc, array: zlib.crc32(np.ascontiguousarray(array), crc), arrays, 0)


def sealed(key, chunks, facts):
    """Yield the chunks of a file that shows whether it is whole: some content, a key to compare, facts.

    After the content come key and facts as JSON, the length of that, and a checksum of it all. `facts` are looked at
    when all the chunks have been made.
    """
    checksum = 0
    for chunk in chunks:
        checksum = zlib.crc32(chunk, checksum)
        yield chunk
    closing = json.dumps([key, facts]).encode()
    yield closing + struct.pack("<QI", len(closing), zlib.crc32(closing, checksum))


def read_sealed(path):
    """(content, uint8 (bytes,) in mapped memory; key; facts) of a `sealed` file; None unless it is whole."""
    try:
        with open_regular(path) as file:
            stored = np.memmap(file, np.uint8, "r")
        content, ending = stored[:-12], stored[-12:].tobytes()
        length, checksum = struct.unpack("<QI", ending)
        if checksum != zlib.crc32(content):
            return None
        key, facts = json.loads(content[len(content) - length :].tobytes())
        return content[: len(content) - length], key, facts
    except (OSError, ValueError, TypeError, RecursionError, struct.error):
        return None


def write_cache(name, state, chunks, facts):
    """Write a cache, valid as long as what it was made from is in this state; see `sealed`. Raises OSError."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with replacing(cache_folder() / name) as file:
        file.writelines(sealed(state, chunks, facts))


def read_cache(name, state):
    """The content of a cache, uint8 (bytes,) in mapped memory, and its facts; None unless whole and of this state."""
    content, found, facts = read_sealed(cache_folder() / name) or (None, None, None)
    return (content, facts) if content is not None and found == state else None


def can_write_cache():
    """Whether a cache could be written: to be asked before something is made for it alone."""
    with contextlib.suppress(OSError):
        cache_folder().mkdir(parents=True, exist_ok=True)
    return os.access(cache_folder(), os.W_OK)


def clear_cache():
    """Remove our files from the cache folder, no others; returns how many bytes that frees. Raises WriteError."""
    try:
        ours = r"\.?[0-9a-f]{32}(-\d+\.photos|-[\w.-]+\.features|\.litert|\.zip(\.part)?)(\.[0-9a-f]{8}\.tmp)?"
        return remove_files(cache_folder(), ours) if cache_folder().exists() else 0
    except OSError as error:
        raise WriteError(f"cannot empty {cache_folder()}: {reason(error)}") from None


# ======================================================================================================================
# 4. Photos on disk: list, label, read
# ======================================================================================================================


NUMBERED = re.compile(r"([^\W\d_]+)[._-]\d+\.\w+")  # the name of a photo that begins with its class: cat.0.jpg


def natural_order(names):
    """Names sorted so that cat.2.jpg comes before cat.10.jpg: of two numbers, the one with more digits is larger."""

    def measured(digits):
        number = digits[0].lstrip("0")
        return f"0{chr(len(number))}{number}"

    return sorted(sorted(names), key=lambda name: re.sub(r"\d+", measured, name.lower()))


def is_system_file(name):
    """True for what file managers leave among photos: .DS_Store, ._x.jpg, Thumbs.db."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def list_photos(folder, in_order=True, ignored=None):
    """Yield the paths of all files under a folder, sorted; links to folders are not followed.

    What is a photo is decided by reading it, not by its name. A folder that cannot be listed is yielded itself: the
    attempt to read it tells the reason. Only system files are ignored, and counted in the Counter `ignored`.
    """
    ignored = collections.Counter() if ignored is None else ignored
    levels = [iter([(os.fspath(folder), True)])]  # a stack, for folders may lie deeper than Python's
    while levels:
        path, is_folder = next(levels[-1], (None, False))
        if path is None:
            levels.pop()
        elif is_folder:
            levels.append(list_folder(path, in_order, ignored))
        else:
            yield path


def list_folder(folder, in_order, ignored):
    """Yield (path, is it a folder) for what lies right in a folder; for one that cannot be listed (folder, False).

    Holds the bare names only: there may be a million.
    """
    folders, names = set(), []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                if is_system_file(entry.name):
                    ignored["files"] += sum(len(files) for *_, files in os.walk(entry.path)) if is_folder else 1
                    continue
                names.append(entry.name)
                if is_folder:
                    folders.add(entry.name)
    except OSError:
        yield folder, False
        return
    for name in natural_order(names) if in_order else names:
        yield os.path.join(folder, name), name in folders


def split_folders(dataset):
    """The folders of a dataset's splits, whatever their case and alias: {split: [paths]}, in the order of SPLITS."""
    found = {}
    for entry in sorted(Path(dataset).iterdir()):
        if entry.is_dir():
            found.setdefault(SPLIT_ALIASES.get(entry.name.lower(), entry.name.lower()), []).append(entry)
    return {split: found[split] for split in SPLITS if split in found}


def labelled(folder, ignored):
    """[(path, class)] of all files under a folder, see `assigned`; `ignored`: see `list_photos`."""
    files = []
    for path, _ in list_folder(os.fspath(folder), True, ignored):
        name = os.path.basename(path)
        if os.path.isdir(path):
            photos = list(list_photos(path, ignored=ignored)) or [path]  # an empty class is one all the same
            files += [(photo, name, os.path.basename(photo)) for photo in photos]
        else:
            files.append((path, "", name))
    return assigned(files)


def assigned(files):
    """[(path, class)] of [(path, the outermost folder that it lies in or "", its name)].

    The class is that folder, or else, where names like cat.0.jpg, dog.17.jpg tell classes apart, what they begin with;
    None for what has none.
    """
    numbered = {path: found[1] for path, folder, name in files if not folder and (found := NUMBERED.fullmatch(name))}
    flat = len({class_name(name) for name in numbered.values()}) > 1 or not any(folder for _, folder, _ in files)
    names = numbered if flat else {path: folder for path, folder, _ in files if folder}
    return [(path, class_name(names[path]) if path in names else None) for path, *_ in files]


def by_class(rows):
    """The [(path, class)] of `labelled` as {class: [paths]}, sorted by class."""
    classes = {}
    for path, name in rows:
        if name:
            classes.setdefault(name, []).append(path)
    return dict(sorted(classes.items()))


def class_name(name):
    """What a class is called whose folder or photos are called so: "Cats" becomes cat."""
    return CLASS_ALIASES.get(name.lower(), name.lower())


def list_split(dataset, split, known=None, ignored=None):
    """The photos of one split of a dataset, by class: {class name: [paths]}, both sorted; `ignored`: see list_photos.

    Raises DatasetError unless DATASET/SPLIT holds two class folders or more, files in each, of the names in `known`.
    """
    layout = f"Expected {dataset}/{{train,validation,test}}/{{cat,dog}}/*.jpg; --prepare SOURCE --dataset NEW makes it"
    if not os.path.isdir(dataset):
        raise DatasetError(f"there is no dataset folder {dataset}", layout)
    folders = split_folders(dataset).get(split)
    if not folders:
        raise DatasetError(f"{dataset} has no folder {split}", layout)
    ignored = collections.Counter() if ignored is None else ignored
    classes = by_class(itertools.chain.from_iterable(labelled(folder, ignored) for folder in folders))
    check_classes(f"{dataset}/{split}", classes, layout)
    if known and set(known) != set(classes):
        found = f"{dataset}/{split} holds {', '.join(classes)} instead of {', '.join(known)}"
        raise DatasetError(found, f"Name other --weights, or another --dataset. {layout}")
    return classes


def check_classes(where, classes, fix):
    """Raise DatasetError unless there are two classes or more and files in each: {class: [paths]} of `labelled`."""
    if not 2 <= len(classes) <= MAX_CLASSES:
        rarest = min(classes.values(), key=len, default=[])
        counts = ", ".join(f"{name} {len(photos)}" for name, photos in itertools.islice(classes.items(), 5))
        found = f"{len(classes)} ({counts}{f', such as {rarest[0]}' if rarest else ''})" if classes else "none"
        raise DatasetError(f"{where} must hold two classes, or up to {MAX_CLASSES}, but holds {found}", fix)
    for name, photos in classes.items():
        if os.path.isdir(photos[0]) and not any(list_photos(photos[0])):
            raise DatasetError(f"the class {name} of {where} is empty", fix)
    if len(json.dumps(list(classes))) > MAX_TEXT / 4:  # they are kept with the weights, next to other things
        raise DatasetError(f"the class names of {where} are too long to be kept with the weights", "Shorten them")


# All that Pillow's readers are known to raise on damaged data; a Python exception there is a refusal, not a bug.
UNREADABLE = (Image.DecompressionBombError, OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError,
              EOFError, MemoryError, OverflowError, NotImplementedError, AttributeError, struct.error)
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}  # of a disk that takes no more
PASSING = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT}  # of disks and networks

ORIENTATIONS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
                5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
                8: Image.Transpose.ROTATE_90}


LARGE_PHOTOS = ThreadPoolExecutor(1)  # one at a time, in one thread: each may take a gigabyte, which a thread keeps


@contextlib.contextmanager
def opened(path, opening=None):
    """A photo's file as (Pillow image, file), not decoded yet. What fails, in the block too, becomes a PhotoError."""
    try:
        with (opening or open_regular)(path, MAX_BYTES) as file, Image.open(file, formats=PHOTO_FORMATS) as image:
            yield image, file
    except Image.DecompressionBombError:
        raise PhotoError(f"too large: more than {2 * Image.MAX_IMAGE_PIXELS} pixels") from None
    except Image.UnidentifiedImageError:
        hint = "; convert it to JPEG first" if Path(path).suffix.lower() in (".heic", ".heif", ".avif") else ""
        raise PhotoError(f"not a photo that can be read ({', '.join(PHOTO_FORMATS)}){hint}") from None
    except UNREADABLE as error:
        why = reason(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        refusal = PhotoError(f"cannot be read: {why}")
        refusal.passing = isinstance(error, MemoryError) or getattr(error, "errno", None) in PASSING
        raise refusal from None


def read_photo(path, size):
    """Read a photo as every part of the program sees it: uint8 (size, size, 3) RGB, 0..255.

    Decided by decoding, whatever the name says. The first frame of an animation; turned upright by its EXIF
    orientation; transparency over white; squashed to a square with an antialiased bilinear filter.
    Raises PhotoError with the reason.
    """
    with opened(path) as (image, file):
        return small(image, file, size)


def small(image, file, size, exact=False):
    """An opened image as uint8 (size, size, 3) RGB. Raises PhotoError where that takes too much of anything.

    A large JPEG is decoded at 1/2, 1/4 or 1/8, several times faster, unless it is to be `exact` and not too large.
    """
    whole, progressive = math.prod(image.size), image.info.get("progressive")
    if not exact or whole > MANY_PIXELS:
        image.draft("RGB", (2 * size, 2 * size))
    if math.prod(image.size) > MAX_PIXELS:
        raise PhotoError(f"too large: {image.width} x {image.height} pixels")
    if progressive and scans(file) > MAX_SCANS:
        raise PhotoError("too many scans: it would take forever")
    if (whole if progressive else math.prod(image.size)) > MANY_PIXELS:
        return LARGE_PHOTOS.submit(squashed, image, size).result()
    return squashed(image, size)


def scans(file):
    """In how many passes over the picture a progressive JPEG is stored; each takes as long as a whole one."""
    place = file.tell()
    file.seek(0)
    count = file.read().count(b"\xff\xda")
    file.seek(place)
    return count


def squashed(image, size):
    """An opened image as uint8 (size, size, 3) RGB; it is closed, so that its memory is free for the next one."""
    photo = np.asarray(to_rgb(upright(image)).resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0))
    image.close()
    return photo


def turn_of(image):
    """How an image must be turned, by its EXIF orientation; a broken EXIF block never loses a photo."""
    try:
        return ORIENTATIONS.get(image.getexif().get(0x0112))
    except UNREADABLE:
        return None


def upright(image):
    """The image turned as its EXIF orientation says."""
    turn = turn_of(image)
    return image if turn is None else image.transpose(turn)


def view(path, side):
    """A photo in its own shape, its longer side so many pixels: uint8 (height, width, 3). Raises PhotoError."""
    with opened(path) as (image, _):
        lying = turn_of(image) in [ORIENTATIONS[code] for code in (5, 6, 7, 8)]
        width, height = image.size[::-1] if lying else image.size
    shape = (max(1, round(side * length / max(width, height))) for length in (width, height))
    return np.asarray(Image.fromarray(read_photo(path, side)).resize(tuple(shape), Image.Resampling.BILINEAR))


def to_rgb(image):
    """The image in RGB: 16-bit grey scaled to 8 bits instead of clipped, transparency over white."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def read_photos(paths, size, read=None):
    """Yield (path, photo or PhotoError) in order, some photos being read ahead by one thread per core.

    Takes any iterable of paths, and what to `read` of each, by default the photo; holds at most READ_AHEAD of them.
    """

    def attempt(path):
        """What becomes of one path, in whichever thread."""
        try:
            return path, (read or read_photo)(path, size)
        except PhotoError as error:
            return path, error

    pool, waiting = ThreadPoolExecutor(os.cpu_count()), collections.deque()
    try:
        for path in paths:
            waiting.append(pool.submit(attempt, path))
            if len(waiting) >= READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # who leaves early need not wait for what was read ahead


def kind_of(path):
    """The ending of a file's name, as a kind to count."""
    return printable(os.path.splitext(path)[1].lower()[:10]) or "without ending"


def tally(kinds):
    """A Counter of kinds in words, the five most frequent by name: ".heic 410, .jpg 2"."""
    named = dict(kinds.most_common(5))
    others = kinds.total() - sum(named.values())
    return ", ".join(f"{kind} {count}" for kind, count in (named | ({"others": others} if others else {})).items())


def told(ignored):
    """What to say of the Counter of ignored files: ["2 hidden or system files ignored"], [] for none."""
    count = ignored["files"]
    return [f"{count} hidden or system file{'s' * (count > 1)} ignored"] if count else []


def is_drawing(path):
    """True for one of the drawings that the project ships: they say so in their JPEG comment."""
    with contextlib.suppress(PhotoError), opened(path) as (image, _):
        return image.info.get("comment") == DRAWING_MARK
    return False


# ======================================================================================================================
# 5. Checking: what is wrong with a dataset
# ======================================================================================================================

# What can be found: kind -> what it means, whether it makes a score dishonest, how many cases people are shown.
FINDINGS = {
    "layout": ("not what a training needs", True, 20),
    "lost": ("too many photos that cannot be read for a training to start: mend or remove them", True, 20),
    "leak": ("one photo in several of train, validation, test, so that scores come out too good: keep one", True, 100),
    "contradiction": ("one photo in several classes: keep the one whose label is right", True, 100),
    "unreadable": ("cannot be read: a training leaves them out", False, 20),
    "label": ("the net contradicts the label, the first ones most: look at them", False, 100),
    "copies": ("one photo more than once", False, 20),
    "imbalance": ("many more photos of one class: a training weighs them, more photos would be better", False, 20),
    "uniform": ("of one colour: nothing to see", False, 20),
    "tiny": (f"fewer than {TINY} pixels wide or high", False, 20),
    "misnamed": ("of another format than the name says: read all the same", False, 5),
    "mode": ("not in plain RGB: read all the same", False, 5),
    "stray": ("in no class: no training sees them", False, 5),
}


@dataclass(frozen=True)
class Finding:
    """Something about one photo, a group of photos, or a folder: a kind of FINDINGS, paths, a word more."""

    kind: str
    paths: tuple
    detail: str


@dataclass(frozen=True)
class Report:
    """What the doctor saw: readable photos as {split: {class: count}}, formats and modes as {name: count}, findings.

    `pixels` are the (width, height) of the smallest photo, the median and the largest; `agreed` is the share of the
    labels, 0..1, that a net agrees with, None where none was asked.
    """

    folder: str
    files: int
    ignored: int
    counts: dict
    formats: dict
    modes: dict
    pixels: list
    agreed: float | None
    findings: list

    @property
    def dishonest(self):
        """Whether a score on this dataset would not mean what it says."""
        return any(FINDINGS[finding.kind][1] for finding in self.findings)

    def groups(self):
        """The findings by kind, the grave ones first: {kind: [Finding]}."""
        found = {kind: [finding for finding in self.findings if finding.kind == kind] for kind in FINDINGS}
        return {kind: findings for kind, findings in found.items() if findings}


@dataclass
class Look:
    """What can be seen of one photo: where it belongs; why it cannot be read, or else what it is like.

    Format, mode and size are those of the file, `digest` and `thumb` as of `fingerprint`, `shares` the probabilities of
    all classes, where a net was asked.
    """

    path: str
    split: str
    label: str | None
    error: str
    format: str = ""
    mode: str = ""
    size: tuple = ()
    digest: bytes = b""
    thumb: np.ndarray | None = None
    shares: np.ndarray | None = None


def look_at(path, size):
    """What a Look tells of a readable photo, from its format to its thumb, and the photo. Raises PhotoError."""
    with opened(path) as (image, file):
        kind, mode, whole = image.format, image.mode, image.size
        photo = small(image, file, size, exact=True)
    return ("JPEG" if kind == "MPO" else kind, mode, whole, *fingerprint(photo)), photo


def fingerprint(photo):
    """Of a photo, uint8 (size, size, 3): the digest of its pixels, and a grey miniature, uint8 (THUMB, THUMB)."""
    grey = Image.fromarray(photo).convert("L").resize((THUMB, THUMB), Image.Resampling.BOX)
    return hashlib.sha256(photo).digest(), np.asarray(grey)


def halved(thumbs):
    """Miniatures, uint8 (N, THUMB, THUMB), at half the size: float32 (N, THUMB / 2, THUMB / 2)."""
    return thumbs.reshape(-1, THUMB // 2, 2, THUMB // 2, 2).mean(axis=(2, 4), dtype=np.float32)


def signs_of(thumbs):
    """The signs of the 63 lowest frequencies of miniatures, uint8 (N, THUMB, THUMB): int64 (N, 63), 0 or 1."""
    waves = np.cos(2 * np.pi / THUMB * np.outer(np.arange(8), np.arange(THUMB // 2) + 0.5)).astype(np.float32)
    return ((waves @ halved(thumbs) @ waves.T).reshape(len(thumbs), 64)[:, 1:] > 0).astype(np.int64)


def alike(thumbs, rounds=12, reach=4):
    """The pairs of miniatures, uint8 (N, THUMB, THUMB), that show the same, mirrored or not: see `one_photo`.

    Not all are compared with all. The signs of the 63 lowest frequencies hardly differ within such a pair, so that it
    stands close together in a list sorted by them; in 12 lists, which differ in the order of these bits, each is
    compared with the next four (sorting by random orders of the bits: M. S. Charikar, STOC 2002). So the time grows
    as N log N; `python tests/measure_check.py` counts what is missed.
    """
    count, thumbs, side = len(thumbs), np.concatenate([thumbs, thumbs[:, :, ::-1]]), THUMB // 2
    grey, signs = halved(thumbs).reshape(len(thumbs), -1), signs_of(thumbs)
    grey -= grey.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(grey, axis=1, keepdims=True)
    grey *= (norms > UNIFORM * side) / np.maximum(norms, 1)  # what shows nothing is like nothing
    rng, pairs = np.random.default_rng(0), set()
    for _ in range(rounds):
        order = np.argsort(signs @ (1 << rng.permutation(63)))
        for step in range(1, reach + 1):
            one, other = order[:-step], order[step:]
            close = np.einsum("ij,ij->i", grey[one], grey[other]) >= ALIKE
            one, other = one[close], other[close]
            close = one_photo(thumbs[one], thumbs[other])
            pairs.update(zip((one[close] % count).tolist(), (other[close] % count).tolist(), strict=True))
    return {(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]}


def one_photo(some, others):
    """Which miniatures, uint8 (N, THUMB, THUMB), correlate in each of 8 x 8 parts: all of them, not a common frame."""

    def parts(thumbs):
        """The 64 parts of each, (N, 64, pixels), each around its own mean."""
        cut = thumbs.reshape(-1, 8, THUMB // 8, 8, THUMB // 8).swapaxes(2, 3)
        cut = cut.reshape(len(thumbs), 64, (THUMB // 8) ** 2)
        return cut - cut.mean(axis=2, keepdims=True, dtype=np.float32)

    one, other, grain = parts(some), parts(others), GRAIN**2 * (THUMB // 8) ** 2  # so that even parts correlate too
    power = ((one * one).sum(axis=2) + grain) * ((other * other).sum(axis=2) + grain)
    return (((one * other).sum(axis=2) + grain) / np.sqrt(power)).min(axis=1, initial=1.0) >= EVERYWHERE


def duplicates(digests, thumbs):
    """Groups of photos that show the same, as sorted lists of their places; see `fingerprint`."""
    first = {}
    pairs = [(first.setdefault(digest, place), place) for place, digest in enumerate(digests)]
    unique = list(first.values())
    pairs += [(unique[one], unique[other]) for one, other in alike(np.array([thumbs[place] for place in unique]))]
    return connected(len(digests), pairs)


def connected(count, pairs):
    """The groups of two and more of the numbers below `count` that pairs connect: sorted lists."""
    groups = [[place] for place in range(count)]  # of each number; those that are connected share one list
    for pair in pairs:
        smaller, larger = sorted((groups[place] for place in pair), key=len)
        if smaller is not larger:
            larger += smaller
            for place in smaller:
                groups[place] = larger
    return [sorted(group) for group in {id(group): group for group in groups}.values() if len(group) > 1]


def fingerprints(photos):
    """The `fingerprint` of each of some photos, uint8 (N, size, size, 3): [digests], uint8 (N, THUMB, THUMB)."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests, thumbs = zip(*pool.map(fingerprint, photos), strict=True)
    return digests, np.array(thumbs)


def marks(thumbs):
    """What photos, as miniatures uint8 (N, THUMB, THUMB), are known by later on: their signs as int64 (N,)."""
    return signs_of(thumbs) @ (1 << np.arange(63))


def known_among(thumbs, seen):
    """How many miniatures, uint8 (N, THUMB, THUMB), or mirror images of them are among the `marks` seen, int64 (M,).

    All that have the same pixels, many of those that were resized or recompressed: a sign near 0 may turn. To allow for
    that would take drawings of the same kind for one another.
    """
    return int((np.isin(marks(thumbs), seen) | np.isin(marks(thumbs[:, :, ::-1]), seen)).sum())


def copies_between(splits):
    """Of {split: `fingerprints`}: how many photos of each an earlier one has as well, {split: count}."""
    owner = np.repeat(np.arange(len(splits)), [len(digests) for digests, _ in splits.values()])
    digests, thumbs = (list(itertools.chain(*found)) for found in zip(*splits.values(), strict=True))
    groups = [owner[group] for group in duplicates(digests, thumbs)]
    copies = collections.Counter(place for owners in groups for place in owners[owners > owners.min()].tolist())
    return {name: copies[place] for place, name in enumerate(splits) if copies[place]}


def survey(folder, ignored):
    """[(path, split, class)] of all files of a dataset; in a folder that is none the splits are "".

    The class is None for a file in no class, and for all where a folder without splits does not hold two classes.
    """
    if not os.path.isdir(folder):
        raise DatasetError(f"there is no folder {folder}", "--check takes a dataset, or any folder of photos")
    splits = split_folders(folder)
    if "train" not in splits and len(splits) < 2:
        rows = [(path, "", name) for path, name in labelled(folder, ignored)]
        known = len({name for *_, name in rows if name}) == 2  # with more, they are the folders of a holiday
        return [(path, split, name if known else None) for path, split, name in rows]
    rows = [(path, split, name) for split, folders in splits.items() for root in folders
            for path, name in labelled(root, ignored)]
    known = set(itertools.chain(*splits.values()))
    others = [entry for entry in sorted(Path(folder).iterdir()) if entry.is_dir() and entry not in known]
    return rows + [(path, "", None) for entry in others for path in list_photos(entry, ignored=ignored)]


def check_dataset(folder, size, console, answer=None, classes=None):
    """The doctor: the Report on a dataset, or on any folder of photos; nothing is changed.

    Labels are checked when there is something to answer with: a function from uint8 photos (N, size, size, 3) to the
    probabilities of these classes, (N, K). Raises DatasetError where there is nothing to check.
    """
    ignored = collections.Counter()
    every = survey(folder, ignored)
    rows = [row for row in every if row[2]] or every
    names = sorted({name for *_, name in rows if name})
    if answer and names and names != list(classes):
        raise DatasetError(f"{folder} holds {', '.join(names)} instead of {', '.join(classes)}", "Leave out --weights")
    looks = look_at_all(rows, size, console, answer if names else None)
    good = [look for look in looks if not look.error]
    if not good:
        example = f", such as {looks[0].path}: {looks[0].error}" if looks else ""
        raise DatasetError(f"{folder} holds no photos that can be read{example}")
    findings = [*photo_faults(looks), *twins(good), *(doubts(good, classes) if answer and names else ())]
    if names:
        findings += part_faults(folder, looks)
        findings += (Finding("stray", (path,), "") for path, _, name in every if not name)
    return report_of(os.fspath(folder), len(every), ignored.total(), good, findings)


def report_of(folder, files, ignored, good, findings):
    """The Report from the Looks at the readable photos."""
    counts = {}
    for look in good:
        part = counts.setdefault(look.split or "all", collections.Counter())
        part[look.label or "photos"] += 1
    formats, modes = (dict(collections.Counter(getattr(look, name) for look in good).most_common())
                      for name in ("format", "mode"))
    sizes = sorted((look.size for look in good), key=math.prod)
    asked = sum(look.shares is not None for look in good)
    agreed = 1 - sum(finding.kind == "label" for finding in findings) / asked if asked else None
    return Report(folder, files, ignored, {part: dict(classes) for part, classes in counts.items()}, formats, modes,
                  [sizes[place] for place in (0, len(sizes) // 2, -1)], agreed, findings)


def look_at_all(rows, size, console, answer):
    """The Looks at photos, [(path, split, class)]; who answers is asked about 64 at a time."""
    reads, looks, waiting = read_photos((path for path, *_ in rows), size, look_at), [], []
    for row, (_, found) in console.watch("checking", zip(rows, reads, strict=True), len(rows)):
        readable = not isinstance(found, PhotoError)
        looks.append(Look(*row, "", *found[0]) if readable else Look(*row, str(found)))
        if readable and answer:
            waiting.append((looks[-1], found[1]))
        if len(waiting) == 64 or (waiting and len(looks) == len(rows)):
            judge(waiting, answer)
            waiting.clear()
    return looks


def judge(waiting, answer):
    """Ask about photos and their mirror images, for two answers are right more often than one: [(Look, photo)]."""
    photos = [photo for _, photo in waiting]
    shares = (answer(photos) + answer([photo[:, ::-1] for photo in photos])) / 2
    for (look, _), of_one in zip(waiting, shares, strict=True):
        look.shares = of_one


def part_faults(folder, looks):
    """Yield what is wrong with the splits and classes of a dataset as Findings."""
    parts = {}  # {split: {class: [readable, unreadable]}}
    for look in looks:
        parts.setdefault(look.split, {}).setdefault(look.label, [0, 0])[bool(look.error)] += 1
    for split in () if "" in parts else [part for part in SPLITS[:2] if part not in parts]:
        yield Finding("layout", (os.path.join(folder, split),), "is missing or empty")
    sets = collections.Counter(frozenset(classes) for classes in parts.values() if len(classes) > 1)
    expected = next(iter(sets.most_common(1)), (set(), 0))[0]  # those of most parts, or else of train
    for split, classes in parts.items():
        (good, lost), where = zip(*classes.values(), strict=True), (os.path.join(folder, split),)
        if set(classes) != expected:
            instead = ", ".join(sorted(expected)) or "two classes or more"
            yield Finding("layout", where, f"holds {', '.join(classes)} instead of {instead}")
        if not all(good):
            yield Finding("layout", where, "no photo of a class can be read")
        elif max(good) > 2 * min(good):
            yield Finding("imbalance", where, ", ".join(f"{name} {count}" for name, (count, _) in classes.items()))
        if sum(lost) > max(1, MAX_LOST * (sum(good) + sum(lost))):
            yield Finding("lost", where, f"{sum(lost)} of {sum(good) + sum(lost)}")


def photo_faults(looks):
    """Yield what is odd about single photos as Findings."""
    endings = Image.registered_extensions()
    for look in looks:
        if look.error:
            yield Finding("unreadable", (look.path,), look.error)
            continue
        found = {
            "misnamed": look.format if endings.get(os.path.splitext(look.path)[1].lower()) != look.format else "",
            "mode": look.mode if look.mode != "RGB" else "",
            "tiny": f"{look.size[0]} x {look.size[1]}" if min(look.size) < TINY else "",
            "uniform": "nearly one colour" if look.thumb.std() <= UNIFORM else "",
        }
        yield from (Finding(kind, (look.path,), detail) for kind, detail in found.items() if detail)


def twins(looks):
    """Yield the groups of photos that are there more than once as Findings."""
    for group in duplicates([look.digest for look in looks], [look.thumb for look in looks]):
        members = [looks[place] for place in group]
        detail = "identical" if len({look.digest for look in members}) == 1 else "alike"
        spread = {"leak": {look.split for look in members}, "contradiction": {look.label for look in members}}
        for kind in [kind for kind, places in spread.items() if len(places) > 1] or ["copies"]:
            yield Finding(kind, tuple(look.path for look in members), detail)


def doubts(looks, classes):
    """Yield the photos whose label the answers contradict as Findings, worst first."""
    own = [float(look.shares[classes.index(look.label)]) for look in looks]
    for share, look in sorted(zip(own, looks, strict=True), key=lambda pair: pair[0]):
        likeliest = int(np.argmax(look.shares))
        if look.shares[likeliest] > share:
            other = f"{classes[likeliest]} with {percent(float(look.shares[likeliest]))}"
            yield Finding("label", (look.path,), f"{look.label}, but {other}")


# ======================================================================================================================
# 6. Preparing a dataset: download, plan, copy
# ======================================================================================================================


def parse_split(text):
    """ "1000,500,500" (photos per class) or "0.8,0.1,0.1" (shares) as three numbers. Raises UsageError."""
    fix = "Say --split 1000,500,500 (photos per class) or --split 0.8,0.1,0.1 (shares)"
    try:
        split = tuple(float(part) if "." in text else int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--split {text} is not three numbers", fix) from None
    if len(split) != 3 or not all(0 <= part < math.inf for part in split) or 0 in split[:2]:
        raise UsageError(f"--split {text} must name three parts, train and validation above 0", fix)
    if isinstance(split[0], float) and max(split) > 1:
        raise UsageError(f"--split {text} mixes shares with numbers of photos", fix)
    if isinstance(split[0], float) and sum(split) > 1 + 1e-9:
        raise UsageError(f"the shares of --split {text} add up to more than 1", fix)
    return split


def plan_dataset(sources, digests, split):
    """Who goes where: {relative target path: source path}, and who goes nowhere: [(source path, reason)].

    `sources` is {class: [paths]}; `digests` holds for each class, in the same order, (path, digest of its photo or
    PhotoError): a list for shares, which are those of the photos that can be read, any iterable for numbers. Train is
    filled first, then validation, then test, each class in its order; what cannot be read is skipped, and so is a photo
    that another folder holds already; the next one takes its place. Raises DatasetError.
    """
    plan, skipped, owners, shares = {}, [], {}, isinstance(split[0], float)
    for name, photos in sources.items():
        if not shares and sum(split) > len(photos):
            found = f"photos of {name}, but there are {len(photos)}, such as {photos[0]}"
            raise DatasetError(f"--split needs {sum(split)} {found}", "Without --split it takes shares")
    counts = {name: sum(not isinstance(digest, PhotoError) for _, digest in digests[name]) if shares else len(photos)
              for name, photos in sources.items()}
    digests = {name: iter(pairs) for name, pairs in digests.items()}
    for place, part in enumerate(SPLITS):
        for name, photos in sources.items():
            wanted = wanted_of(counts[name], split, place)
            took = take(wanted, digests[name], Path(part, name), owners, skipped)
            why = "Add photos of that class, or move it away"
            if skipped:
                why = f"{len(skipped)} were skipped, for one {os.path.basename(skipped[0][0])}: {skipped[0][1]}"
            if len(took) < wanted and not shares:  # of shares the last one gets what is left
                left = f"of {len(photos)} in all only {len(took)} are left"
                raise DatasetError(f"--split needs {wanted} photos of {name} for {part}, but {left}", why)
            if not took and part != "test":
                left = f"--split leaves no {name} of {len(photos)}, such as {photos[0]}, to train on or to validate"
                raise DatasetError(left, why)
            for path, target in took:
                if target in plan:
                    raise DatasetError(f"{plan[target]} and {path} would both become {target}", "Rename one of them")
                plan[target] = path
    if shares:  # all that can be read is placed, or left on purpose
        skipped += [(path, str(digest)) for pairs in digests.values() for path, digest in pairs
                    if isinstance(digest, PhotoError)]
    return plan, skipped


def wanted_of(count, split, place):
    """How many of a class of `count` photos the part at this place gets: a number as it is, of shares each photo."""
    if not isinstance(split[0], float):
        return split[place]
    start, end = (math.floor(sum(split[:stop]) * count + 1e-9) for stop in (place, place + 1))
    return end - start


def take(wanted, digests, folder, owners, skipped):
    """The next photos for SPLIT/CLASS, [(path, target)]; notes in `owners` who has what, {digest: target}."""
    took = []
    while len(took) < wanted and (following := next(digests, None)):
        (path, digest), unreadable = following, isinstance(following[1], PhotoError)
        target = folder / os.path.basename(path)
        owner = target if unreadable else owners.setdefault(digest, target)
        if unreadable or owner.parent != folder:
            skipped.append((path, str(digest) if unreadable else f"the same photo as {owner}"))
        else:
            took.append((path, target))
    return took


def check_target(plan, source, opening, dataset):
    """Raise DatasetError unless the dataset folder is new, or a part of just this plan, and not in the source."""
    dataset = Path(dataset)
    for folder in (dataset, *{dataset / target.parent for target in plan}):  # any of which may be a link
        if folder.resolve().is_relative_to(Path(source).resolve()):
            raise DatasetError(f"{folder} lies inside {source}, which is never changed", NEW)
    for folder, _, names in os.walk(dataset):
        for name in names:
            path = Path(folder, name)
            inside = path.relative_to(dataset)
            unfinished = path.suffix == ".part" and inside.with_suffix("") in plan
            if not (unfinished or inside in plan and same(path, opening, plan[inside])):
                raise DatasetError(f"{dataset} already holds other files, {path} for one", NEW)


def same(path, opening, source):
    """Whether a file holds the bytes of a source."""
    with opening(source, MAX_BYTES) as original, open_regular(path) as copy:
        return original.read() == copy.read()


def check_room(needs):
    """Raise WriteError unless folders can be written, where they are or are going to be: {folder: bytes}."""
    disks = collections.Counter()
    for folder, needed in needs.items():
        present = next(path for path in (Path(folder).absolute(), *Path(folder).absolute().parents) if path.exists())
        if not (present.is_dir() and os.access(present, os.W_OK)):
            fix = "Name another --dataset, or for the cache another XDG_CACHE_HOME"
            raise WriteError(f"{folder} cannot be written: {present} takes no new files", fix)
        disks[os.stat(present).st_dev] += needed
        free, needed = shutil.disk_usage(present).free, disks[os.stat(present).st_dev]
        if free < needed:
            raise WriteError(f"{folder} needs {needed / 1e6:.1f} MB, but only {free / 1e6:.1f} MB are free",
                             "Make room, or name another folder with --dataset")


def check_new(dataset):
    """Raise DatasetError when a dataset folder cannot be a new one, nor a part of one: before hours of work."""
    dataset = Path(dataset)
    if os.path.lexists(dataset) and (not dataset.is_dir() or set(os.listdir(dataset)) - set(SPLITS)):
        raise DatasetError(f"{dataset} already holds other files", NEW)


def keras_digits():
    """The 70,000 digits of keras.datasets.mnist as [(name, class)], and a function that opens one, as PNG.

    Those that are meant for testing come last. Keras downloads them once, 11 MB. Raises DatasetError.
    """
    import keras

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            parts = keras.datasets.mnist.load_data()
    except Exception as error:  # noqa: BLE001 (Keras raises plain ones)
        why = str(error).strip().partition("\n")[0][:200]
        raise DatasetError(f"cannot get {DIGITS}: {why}", "It takes a network; or name a folder of digits") from None
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))

    def opening(name, limit):
        """One digit as a file in PNG."""
        buffer = io.BytesIO()
        Image.fromarray(pixels[int(Path(name).stem)]).save(buffer, format="png")
        buffer.seek(0)
        return buffer

    return [(f"{label}/{place:05}.png", str(label)) for place, label in enumerate(labels.tolist())], opening


def prepare_dataset(source, dataset, split, console):
    """Copy the photos of a folder into DATASET/{train,validation,test}/{cat,dog}; the source is never changed.

    Instead of a folder it may be `keras_digits` by name. Returns what `fill_dataset` does. Raises DatasetError,
    WriteError.
    """
    if source == DIGITS and not os.path.exists(source):
        return fill_dataset(source, *keras_digits(), dataset, split, console)
    if not os.path.isdir(source):
        raise DatasetError(f"there is no folder {source}", "--prepare takes the folder that holds your photos")
    result = fill_dataset(source, labelled(source, collections.Counter()), open_regular, dataset, split, console)
    return {**result, "skipped": {os.path.relpath(path, source): why for path, why in result["skipped"].items()}}


def fill_dataset(source, rows, opening, dataset, split, console):
    """Copy photos, [(path, class)], into a dataset; `opening(path, limit)` opens one to be read.

    Returns how many are in each split, how many of them were not there yet ("copied"), and what was skipped, {path:
    reason}, see `plan_dataset`. Each file appears under its name only when it is whole, so that an interrupted run is
    completed by the same command. Raises DatasetError, WriteError.
    """
    check_new(dataset)
    sources, digests = by_class(rows), {}
    check_sources(source, sources)
    for name, photos in sources.items():
        shares = isinstance(split[0], float)
        reads = read_photos(photos, SIDE, functools.partial(digest_of_photo, opening=opening))
        watched = console.watch(f"looking at {printable(name)}", reads, len(photos) if shares else sum(split))
        digests[name] = list(watched) if shares else watched
    plan, skipped = plan_dataset(sources, digests, split)
    console.clear()
    check_target(plan, source, opening, dataset)
    missing = {target: photo for target, photo in plan.items() if not Path(dataset, target).exists()}
    check_room({dataset: sum(size_of(Path(photo)) for photo in missing.values())})  # of an archive that is known before
    for target, photo in console.watch("copying", missing.items(), len(missing)):
        copy_whole(functools.partial(opening, photo, MAX_BYTES), Path(dataset, target))
    return {**{part: sum(target.parts[0] == part for target in plan) for part in SPLITS}, "copied": len(missing),
            "skipped": dict(skipped) | {path: "in no class" for path, name in rows if not name}}


def check_sources(source, classes):
    """Raise DatasetError unless {class: [paths]} is what a dataset can be made of."""
    for name in SPLIT_FOLDERS & set(classes):
        raise DatasetError(f"{source} holds {name}, which is no class", "Name the folder with the photos: SOURCE/train")
    check_classes(source, classes, "Needed are cat.0.jpg, dog.0.jpg, ... or one folder per class, Cat/ and Dog/")


def digest_of_photo(path, size, opening):
    """The digest of the pixels of a photo; equal photos have equal ones. Raises PhotoError."""
    with opened(path, opening) as (image, file):
        return fingerprint(small(image, file, size, exact=True))[0]


def copy_whole(reading, target, part=None):
    """Copy what `reading()` opens to a file, so that it is never seen half-written. Raises WriteError."""
    part = part or target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with reading() as original, open(part, "wb") as copy:
            shutil.copyfileobj(original, copy)
        os.replace(part, target)
    except OSError as error:
        fix = "Make room, or name another folder" if error.errno in FULL else ""
        raise WriteError(f"cannot copy to {target}: {reason(error)}", fix) from None
    finally:
        with contextlib.suppress(OSError):  # it is there only if copying has failed
            part.unlink()


def numbered(stem, suffix=""):
    """Yield names like one: a.jpg, a-2.jpg, a-3.jpg, ..."""
    yield stem + suffix
    yield from (f"{stem}-{number}{suffix}" for number in itertools.count(2))


def place_for(path, folder, taken=None):
    """Where in a folder a photo is to be copied to, and whether an equal file is there already: nothing is replaced.

    Under its own name, or else under that with a number: a.jpg, a-2.jpg, ... `taken` says of what will be there, too,
    which photo it is a copy of.
    """

    def state(target):
        """Whether a place is taken: None by something else, False not at all, True by an equal file."""
        there = Path(taken.get(target, target))
        if there.is_file() and there.stat().st_size == path.stat().st_size and same(there, open_regular, path):
            return True
        return None if os.path.lexists(target) or target in taken else False

    path, taken = Path(path), taken or {}
    states = ((target, state(target)) for target in map(Path(folder).joinpath, numbered(path.stem, path.suffix)))
    return next((target, there) for target, there in states if there is not None)


def download_dataset(url, sha256, dataset, split, console):
    """Download an archive of photos and make a dataset of it; returns what `fill_dataset` does.

    The photos are read right out of the archive: none of its paths is ever used as one. It stays in the cache, so that
    a second run need not fetch it again. Raises UsageError, DatasetError, WriteError.
    """
    import zipfile

    check_new(dataset)
    archive = fetch(url, dataset, console)
    verify(archive, url, sha256, console)
    try:
        zipped = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DatasetError(f"{url} is no zip archive that can be read: {error}", discard(archive)) from None
    with zipped:
        members = zipped.infolist()
        check_room({dataset: sum(min(member.file_size, MAX_BYTES) for member in members)})
        rows, opening = members_of(url, members), functools.partial(open_member, zipped, url, archive)
        return fill_dataset(url, rows, opening, dataset, split, console)


def open_member(zipped, url, archive, name, limit):
    """Open a photo of an archive. Raises OSError for one above `limit` bytes, DatasetError for a damaged archive."""
    import zipfile

    if zipped.getinfo(name).file_size > limit:
        raise OSError(errno.EFBIG, f"more than {limit / 1e6:.0f} MB", name)
    broken = [zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError]
    broken = tuple(broken + [zipfile.lzma.LZMAError] if zipfile.lzma else broken)
    try:
        return io.BytesIO(zipped.read(name))
    except broken as error:
        raise DatasetError(f"{url} is damaged at {name}: {error}", discard(archive)) from None


def members_of(url, members):
    """The photos among the members of an archive as [(path, class)], see `assigned`.

    Raises DatasetError when a path would leave the folder that it is unpacked into: who does that is not to be trusted.
    """
    endings, parts = Image.registered_extensions(), {}  # what ends otherwise is a licence, or the like
    for member in members:
        folders = PurePosixPath(member.filename.replace("\\", "/")).parts
        if ".." in folders or folders[:1] == ("/",) or re.match("[A-Za-z]:", member.filename):
            raise DatasetError(f"{url} holds a path that leaves its folder: {member.filename}", "Nothing was unpacked")
        hidden = any(map(is_system_file, folders))
        if not (member.is_dir() or hidden) and os.path.splitext(folders[-1])[1].lower() in endings:
            parts[member.filename] = folders
    root = len(os.path.commonprefix([folders[:-1] for folders in parts.values()]))  # of folders around all photos
    files = [(name, parts[name][root] if len(parts[name]) > root + 1 else "", parts[name][-1])
             for name in natural_order(parts)]
    return assigned(files)


def fetch(url, dataset, console):
    """The path of an archive on this machine, downloaded once. A cut connection is taken up where it broke off."""
    import urllib.request  # which takes longer to import than -h may take

    try:
        scheme, host, path, *_ = urllib.parse.urlsplit(url)
    except ValueError:
        scheme = host = path = ""
    if scheme == "file" and not host:
        return Path(urllib.request.url2pathname(path))
    if scheme not in ("http", "https"):
        raise UsageError(f"--download-url {url} must begin with https://, http:// or file:///")
    archive, before = cache_folder() / cache_name(url, ".zip"), -1
    part = archive.with_name(archive.name + ".part")
    if archive.exists():
        console.say(f"Using the archive that was kept in {cache_folder()} (--clear-cache removes it).")
    while not archive.exists():
        done = size_of(part)
        if done <= before:
            raise DatasetError(f"{url}: the connection was cut again, after {done / 1e6:.1f} MB in all", AGAIN)
        before = done
        if receive(url, part, dataset, console):
            os.replace(part, archive)
            console.say(f"The archive stays in {cache_folder()} (--clear-cache removes it).")
    return archive


def size_of(path):
    """The size of a file in bytes, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def receive(url, part, dataset, console):
    """Append the rest of a download to a file; returns whether it is whole now. Raises DatasetError, WriteError."""
    import http.client
    import urllib.request

    before = size_of(part)
    headers = {"User-Agent": "CatDogClassifier"} | ({"Range": f"bytes={before}-"} if before else {})
    check_room({part.parent: 0, dataset: 0})
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            start, total = extent(answer)
            if start not in (0, before):
                raise ValueError("the server sent another part than it was asked for")
            check_room({part.parent: total - start, dataset: 1.1 * total})
            there = f"going on at {start / 1e6:.1f} of " if start else ""
            console.say(f"Downloading {printable(url)}: {there}{total / 1e6:.1f} MB; stopped, it goes on later")
            append(part, start, total, answer, console)
        return size_of(part) >= total
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{before}":
            return True  # there is nothing more to send
        raise DatasetError(f"cannot download {url}: {error.code} {error.reason}", BY_HAND) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if getattr(error, "errno", None) in FULL:
            raise WriteError(f"cannot write {part}: {reason(error)}", "Make room, then run the same command") from None
        if size_of(part) > before:
            return False
        why = getattr(error, "reason", error)
        why = reason(why) if isinstance(why, OSError) else why
        raise DatasetError(f"cannot download {url}: {str(why)[:200]}", AGAIN if before else BY_HAND) from None


def extent(answer):
    """Where in its file an HTTP answer begins, and the size of that file in bytes, 0 if unknown. Raises ValueError."""
    if answer.status != 206:  # the server begins at the beginning
        return 0, max(0, int(answer.headers.get("Content-Length") or 0))
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
    if not found:
        raise ValueError("the server does not say which part it sends")
    return int(found[1]), int(found[2])


def append(part, start, total, answer, console):
    """Write what an HTTP answer holds into a file from a place on, with a bar. Raises OSError, HTTPException."""
    done, started = start, time.monotonic()
    with open(part, "r+b" if start else "wb") as file:
        file.seek(start)
        while chunk := answer.read1(CHUNK):
            file.write(chunk)
            done += len(chunk)
            console.bar("downloading", done, total, started, f"{done / 1e6:.1f} of {total / 1e6:.1f} MB", start)
    console.clear()


def verify(archive, url, sha256, console):
    """Raise DatasetError unless an archive has the SHA-256 asked for; without one, warn if it is not the known one."""
    try:
        with open_regular(archive) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise DatasetError(f"cannot read {archive}: {why}", BY_HAND) from None
    if sha256 and found != sha256.lower():
        discard(archive)
        raise DatasetError(f"{url} is not what --download-sha256 says: it has {found}", "Nothing was unpacked")
    if not sha256 and found != ARCHIVE_SHA256:
        tell = console.warn if url == ARCHIVE_URL else console.say
        tell(f"Not the archive that is known: its SHA-256 is {found} (--download-sha256 insists on one). Going on.")


def discard(archive):
    """Remove an archive that is of no use, but only from our cache; returns what to do next."""
    if archive.parent != cache_folder():
        return "Get it anew"
    archive.unlink(missing_ok=True)
    return AGAIN


# ======================================================================================================================
# 7. Batches: photos decoded once, augmentation for training only
# ======================================================================================================================


def load_photos(classes, size, console):
    """The photos of {class: [paths]}: uint8 (N, size, size, 3) and float32 (N, 1), the class's place as label.

    The photos lie in mapped memory, so they need not fit into the machine's. A photo that cannot be read is named and
    left out; raises DatasetError when none of a class is left, or more than one and more than MAX_LOST are lost.
    """
    paths = [path for photos in classes.values() for path in photos]
    labels = np.repeat(np.arange(len(classes), dtype=np.float32), [len(photos) for photos in classes.values()])
    photos, left_out = decoded(paths, size, console)
    lost = [place for place, *_ in left_out]
    closed = [paths[place] for place in lost if os.path.isdir(paths[place]) and not os.path.islink(paths[place])]
    if closed:
        raise DatasetError(f"{closed[0]} cannot be looked into", "Nobody knows how many photos would be lost")
    if len(lost) > max(1, MAX_LOST * len(paths)):
        kinds = collections.Counter(kind_of(paths[place]) for place in lost)
        found = f"{len(lost)} of {len(paths)} photos cannot be read ({tally(kinds)})"
        fix = f"At most {MAX_LOST:.0%} may be lost: repair or remove them; -d names them all"
        raise DatasetError(f"{found}, the first: {paths[lost[0]]}: {left_out[0][1]}", fix)
    for place, why, _ in left_out:
        console.warn(f"left out {printable(paths[place])}: {why}")
    labels = np.delete(labels, lost)
    if len(set(labels)) < len(classes):
        raise DatasetError(f"none of the photos of a class could be read ({', '.join(classes)})")
    return photos, labels[:, None]


def decoded(paths, size, console):
    """The photos that can be read, uint8 (N, size, size, 3), and of the others [place in paths, reason, may it pass].

    Decoded the first time only: a cache keeps them, until a photo changes; but not when some could not be read for a
    reason that may pass. Where the cache cannot be written they are held in memory.
    """
    name, state = cache_name(os.path.commonpath(map(os.path.abspath, paths)), f"-{size}.photos"), state_of(paths, size)
    found, left_out = read_cache(name, state), []
    if not found:
        try:
            write_cache(name, state, decode(paths, size, console, left_out), left_out)
            found = read_cache(name, state)
            if any(passing for *_, passing in left_out):
                (cache_folder() / name).unlink()  # what is mapped stays readable
        except OSError as error:
            console.once(f"the photos are held in memory: cannot write in {cache_folder()}: {reason(error)}")
    if not found:
        photos, left_out, count = np.empty((len(paths), size, size, 3), np.uint8), [], 0
        for count, photo in enumerate(decode(paths, size, console, left_out), start=1):
            photos[count - 1] = photo
        found = photos[:count], left_out
    return found[0].reshape(-1, size, size, 3), found[1]


def state_of(paths, size):
    """A digest of what decides how decoded photos look: their paths, sizes, times, and who decodes them."""
    digest = hashlib.sha256(f"{__version__}, Pillow {PIL.__version__}, {size}".encode())
    for path in paths:
        try:
            now = os.stat(path)
            digest.update(repr((os.path.abspath(path), now.st_size, now.st_mtime_ns, now.st_ctime_ns)).encode())
        except OSError as error:
            digest.update(repr((os.path.abspath(path), reason(error))).encode())
    return digest.hexdigest()


def decode(paths, size, console, left_out):
    """Yield the photos that can be read, uint8 (size, size, 3); put the others into `left_out`, see `decoded`."""
    for i, (_, photo) in enumerate(console.watch("reading", read_photos(paths, size), len(paths))):
        if isinstance(photo, PhotoError):
            left_out.append([i, str(photo), photo.passing])
        else:
            yield photo


def in_channels(photos, channels):
    """Photos, uint8 (N, size, size, 3), as a net wants them: with one channel in grey, by the luma of ITU-R BT.601."""
    if channels == 3:
        return photos
    return np.rint(np.asarray(photos) @ np.float32([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)


def scaled(photos, channels=3):
    """Some uint8 photos, 0..255, as nets want them: float32 (N, size, size, channels), 0..1."""
    pixels = np.array(photos if channels == 3 else in_channels(np.asarray(photos), channels), np.float32)
    return np.divide(pixels, 255, out=pixels)  # in place: a second array would cost more than this


def features_of(base, photos, name, console):
    """What a base makes of uint8 photos (N, size, size, 3): float32 (N, ...), in mapped memory.

    Computed once: the cache of this name keeps it, until the photos or the weights of the base change. Where it cannot
    be written they are held in memory.
    """

    def describe():
        """Yield what the base makes of 32 photos at a time."""
        starts = range(0, len(photos), 32)
        for start in console.watch("describing", starts, len(starts)):
            yield np.ascontiguousarray(base.predict_on_batch(scaled(photos[start : start + 32])), np.float32)

    source = f"{base.layers[-1].compute_dtype} {digest(b'', map(np.asarray, base.weights))}"
    state = f"{__version__} {crc_of(photos)} {source}"
    found = read_cache(name, state)
    if not found:
        try:
            write_cache(name, state, describe(), None)
            found = read_cache(name, state)
        except OSError as error:
            console.once(f"what the base sees is held in memory: cannot write in {cache_folder()}: {reason(error)}")
    features = found[0].view(np.float32) if found else np.concatenate([*describe()])
    return features.reshape(len(photos), *base.output_shape[1:])


def draw_affines(rng, count, size):
    """Random augmentations in the tutorial's ranges: (count, 6) float32, see `affine_rows`."""

    def spread(limit, middle=0.0):
        return rng.uniform(middle - limit, middle + limit, count)

    return affine_rows(
        turn=spread(ROTATION), right=spread(SHIFT) * size, down=spread(SHIFT) * size, shear=spread(SHEAR),
        zoom_x=spread(ZOOM, 1.0), zoom_y=spread(ZOOM, 1.0), mirror=rng.random(count) < 0.5, size=size,
    )


def draw_crops(rng, count, size):
    """Random crops that lie within the photo, turned a little, in other light, less sharp: (count, 11) float32.

    A part of 35 to 100 % of the area, its sides stretched against each other by up to e^0.25, turned by up to 10
    degrees, in half of the cases mirrored: see `affine_rows`; then what `warp` does to the colours: a factor for each,
    and something to add; last, how often its sides are halved first, as if it had been small or out of focus.
    """
    side, stretch = np.sqrt(rng.uniform(0.35, 1, count)), np.exp(rng.uniform(-0.125, 0.125, count))
    zoom_x, zoom_y = np.minimum(side * stretch, 1), np.minimum(side / stretch, 1)
    right, down = (rng.uniform(-0.5, 0.5, count) * (1 - zoom) * size for zoom in (zoom_x, zoom_y))
    turn, mirror = rng.uniform(-TILT, TILT, count), rng.random(count) < 0.5
    places = affine_rows(turn=turn, right=right, down=down, shear=0.0, zoom_x=zoom_x, zoom_y=zoom_y, mirror=mirror,
                         size=size)
    gains = rng.uniform(1 - CONTRAST, 1 + CONTRAST, (count, 1)) * rng.uniform(1 - CAST, 1 + CAST, (count, 3))
    lift = rng.uniform(-LIGHT, LIGHT, (count, 1)) + 0.5 * (1 - gains.mean(axis=1, keepdims=True))
    level = rng.choice(len(SHARP), (count, 1), p=SHARP)
    return np.concatenate([places, gains, lift, level], axis=1).astype(np.float32)


def affine_rows(turn, right, down, shear, zoom_x, zoom_y, mirror, size):
    """One affine map per photo, as (N, 6) float32 rows (xx, xy, x0, yx, yy, y0): output (x, y) -> input (x, y).

    rotation @ shift @ shear @ zoom about the middle of the photo, then the mirror, as in Keras' ImageDataGenerator
    (angles in radians, shifts in pixels), but in a single resampling: faster, and less blurred.
    """
    side = np.where(mirror, -1.0, 1.0)
    xx, xy = np.cos(turn) * zoom_x * side, -np.sin(turn + shear) * zoom_y
    yx, yy = np.sin(turn) * zoom_x * side, np.cos(turn + shear) * zoom_y
    middle = (size - 1) / 2
    x0 = np.cos(turn) * right - np.sin(turn) * down + middle * (1 - xx - xy)
    y0 = np.sin(turn) * right + np.cos(turn) * down + middle * (1 - yx - yy)
    return np.stack([xx, xy, x0, yx, yy, y0], axis=-1).astype(np.float32)


def warp(photos, affines, side=None):
    """Apply one affine map to each photo, bilinear, edges repeated: (N, S, S, C) uint8 in, float32 0..1 out.

    The result has `side` pixels a side, a number or a tensor, by default S. Rows of eleven change the colours as well,
    see `draw_crops`: c -> clip(factor * c + lift).

    In plain arithmetic, because XLA compiles that into one pass that is several times as fast as
    ImageProjectiveTransformV3, the operation made for it (`python tests/benchmark.py ... --only augment augment-op`).
    """
    import tensorflow as tf

    count, size, channels = tf.shape(photos)[0], photos.shape[1], photos.shape[-1]
    side = size if side is None else side
    row = (tf.cast(tf.range(side), tf.float32) + 0.5) * tf.cast(size / side, tf.float32) - 0.5  # middles of its pixels
    xx, xy, x0, yx, yy, y0 = (affines[:, i, None, None] for i in range(6))
    x = tf.clip_by_value(xx * row + xy * row[:, None] + x0, 0, size - 1)
    y = tf.clip_by_value(yx * row + yy * row[:, None] + y0, 0, size - 1)
    left, top = tf.minimum(tf.floor(x), size - 2), tf.minimum(tf.floor(y), size - 2)
    flat = tf.reshape(photos, (-1, channels))
    first = tf.cast(left, tf.int32) + size * (tf.cast(top, tf.int32) + size * tf.range(count)[:, None, None])

    def blend(offset, share):
        """Between the pixels at an offset from the first and their right neighbours."""
        one, other = (tf.cast(tf.gather(flat, first + offset + i), tf.float32) for i in (0, 1))
        return one + (other - one) * share

    across, down = (x - left)[..., None], (y - top)[..., None]
    upper, lower = blend(0, across), blend(size, across)
    pixels = (upper + (lower - upper) * down) / 255.0
    if affines.shape[1] == 6:
        return pixels
    gains, lift = affines[:, None, None, 6:9], affines[:, None, None, 9:10]
    return tf.clip_by_value(pixels * gains[..., :channels] + lift, 0, 1)


def blur(photo, halvings):
    """A uint8 photo (S, S, C) as if it had been small: its sides halved so often, then enlarged."""
    if not halvings:
        return photo
    image = Image.fromarray(np.squeeze(photo))  # grey has no axis of channels in Pillow
    small = image.reduce(2 ** int(halvings))
    return np.asarray(small.resize(image.size, Image.Resampling.BILINEAR)).reshape(photo.shape)


def draw_batches(photos, labels, rows, wanted, batch_size, rng, augment, side):
    """Yield one epoch as (photos, labels, affines, side): so many of these rows, pass by pass, shuffled with a `rng`.

    `augment` draws the affines, see `draw_affines`; None: there are none. `side()` is asked once, when it begins.
    """
    pixels = side() if side else photos.shape[1]
    passes = [rows if rng is None else rows[rng.permutation(len(rows))] for _ in range(0, wanted, len(rows))]
    order = np.concatenate(passes)[:wanted]
    for start in range(0, wanted, batch_size):
        batch = order[start : start + batch_size]
        affines = augment(rng, len(batch), photos.shape[1]) if augment else np.empty((0, 0))
        drawn = np.asarray(photos[batch])
        if affines.shape[1] > 6:
            drawn = np.stack([blur(*each) for each in zip(drawn, affines[:, 10], strict=True)])
        yield drawn, labels[batch], affines, pixels


def make_batches(photos, labels, batch_size, rng=None, augment=None, steps=0, classes=2, rows=None, side=None):
    """A tf.data.Dataset of (float32 (B, size, size, C) in 0..1, labels); the last batch may be smaller.

    Labels are float32 (B, 1), 0 or 1, for two classes, and one-hot, (B, classes), for more. What is not uint8 passes as
    it is: features. With a numpy Generator the photos are shuffled anew each pass and, by `draw_affines` or
    `draw_crops`, augmented; `steps` cuts such a pass short, or begins another one in it. `rows` says which of the
    photos take part, by default all; augmented ones get `side()` pixels a side, asked in each epoch, by default what
    they have. All that is random is drawn here, in order, from that one generator: a seeded run can be repeated.
    """
    import tensorflow as tf

    rows, scale = np.arange(len(photos)) if rows is None else rows, 255.0 if photos.dtype == np.uint8 else 1.0
    wanted = steps * batch_size or len(rows)
    draw = functools.partial(draw_batches, photos, labels, rows, wanted, batch_size, rng, augment, side)

    def finish(photos, labels, affines, pixels):
        """What a net is given: photos between 0 and 1, changed as drawn, and their labels."""
        hot = tf.one_hot(tf.cast(labels[:, 0], tf.int32), classes) if classes > 2 else labels
        if not augment:
            return tf.cast(photos, tf.float32) / scale, hot
        return compiled(photos, affines, pixels if side else None), hot

    compiled = tf.function(warp, jit_compile=True)
    width = augment(np.random.default_rng(0), 1, 2).shape[1] if augment else 0
    kinds = [((None, *photos.shape[1:]), photos.dtype), ((None, 1), tf.float32), ((None, width), tf.float32),
             ((), tf.int32)]
    batches = tf.data.Dataset.from_generator(draw, output_signature=tuple(itertools.starmap(tf.TensorSpec, kinds)))
    batches = batches.apply(tf.data.experimental.assert_cardinality(math.ceil(wanted / batch_size)))
    options = tf.data.Options()
    options.autotune.enabled = False  # its thread can hold up the end of an epoch for seconds
    options.threading.max_intra_op_parallelism = os.cpu_count()  # or else the augmentation has one core
    return batches.map(finish, num_parallel_calls=os.cpu_count()).prefetch(2).with_options(options)


def balanced(batches, labels):
    """Batches in which all classes count the same, whatever their numbers; returns them and the weights, or None.

    Where the classes of the labels (N, 1) are unequal each batch has a third part: N / Kn for a photo of a class of n,
    one of K.
    """
    counts = np.bincount(labels[:, 0].astype(int), minlength=2)
    if counts.min() == counts.max():
        return batches, None
    import tensorflow as tf

    weights = (len(labels) / (len(counts) * counts)).astype(np.float32)

    def weigh(photos, labels):
        """A batch with the weight of each photo, (B, 1)."""
        place = tf.cast(labels, tf.int32) if labels.shape[1] == 1 else tf.argmax(labels, axis=1)[:, None]
        return photos, labels, tf.gather(weights, place)

    return batches.map(weigh), weights


# ======================================================================================================================
# 8. Model zoo: one builder per net, one table, one way to start TensorFlow
# ======================================================================================================================


@contextlib.contextmanager
def hushed(quiet=True):
    """Keep native code from writing on stderr: TensorFlow's start-up lines ignore every log setting."""
    if not quiet or sys.stderr is None:
        yield
        return
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


@dataclass(frozen=True)
class Device:
    """Where the net runs: a name to print, and the Keras policy to train in there; none: what measures faster."""

    name: str
    policy: str | None = None


def start_tensorflow(settings):
    """Import TensorFlow without its chatter, let GPU memory grow as needed, seed everything; returns the Device."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if settings.verbose else "3")
    with hushed(quiet=not settings.verbose):
        try:
            import keras
            import tensorflow as tf
        except ModuleNotFoundError as error:
            raise CatDogError(f"{error.name} is not installed", INSTALL) from None

        if not settings.verbose:
            tf.get_logger().setLevel(logging.ERROR)
        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:
            with contextlib.suppress(RuntimeError):  # it is in use already, with whatever memory it has
                tf.config.experimental.set_memory_growth(gpu, True)
        if settings.seed is not None:
            keras.utils.set_random_seed(settings.seed)
            tf.config.experimental.enable_op_determinism()
        if not gpus:
            return Device(f"CPU ({os.cpu_count()} cores)")
        return describe_gpu(tf.config.experimental.get_device_details(gpus[0]))


def describe_gpu(details):
    """The Device of TensorFlow's details of a GPU: 16-bit arithmetic where it has units for it.

    float16 since compute capability 7.0 (Volta), bfloat16 since 8.0 (Ampere): NVIDIA, CUDA C++ Programming Guide.
    """
    capability = details.get("compute_capability", (0, 0))
    policy = "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16" if capability >= (7, 0) else "float32"
    return Device(f"GPU ({details.get('device_name', 'unnamed')})", policy)


@functools.cache
def faster_policy():
    """The Keras policy that this processor trains faster in: bfloat16 where it has units for that, else float32.

    Measured in tens of milliseconds, on a convolution of the net with its gradients; a gain of less than a third counts
    as noise. bfloat16 keeps the range of float32 and 8 of its 24 bits; weights and their updates stay in float32.
    """
    import tensorflow as tf

    def step(photos, kernel):
        """One convolution with its gradients."""
        with tf.GradientTape() as tape:
            tape.watch((photos, kernel))
            maps = tf.nn.conv2d(photos, kernel, 1, "VALID")
        return tape.gradient(maps, (photos, kernel))

    def seconds(dtype):
        photos, kernel = tf.ones((8, 74, 74, 32), dtype), tf.ones((3, 3, 32, 64), dtype)
        return timeit.timeit(lambda: step(photos, kernel), number=1)

    # In turns, and the best of each: a busy machine slows both down, and the first one has to set up.
    half, single = zip(*((seconds(tf.bfloat16), seconds(tf.float32)) for _ in range(8)), strict=True)
    return "mixed_bfloat16" if min(half) < 0.75 * min(single) else "float32"


def answering(classes, name):
    """The last layer: the probability of the second of two classes, or those of all; float32 in every precision."""
    from keras import layers

    kind = {"units": 1, "activation": "sigmoid"} if classes == 2 else {"units": classes, "activation": "softmax"}
    return layers.Dense(**kind, dtype="float32", name=name)


def convolutions(size, classes, base=None, filters=(), dropout=0.0, start="glorot_uniform"):
    """A net of the cat and dog tutorials: (N, size, size, 3) in 0..1 -> probabilities, see `answering`.

    So many times a 3x3 convolution and a 2x2 maximum: the maps get smaller (148 to 2 pixels in five steps from 150),
    their number grows. 1,061,313 parameters with the filters 32, 64, 128, 128, 256 and 3,453,121 with the first four,
    for 512 dense units look at larger maps. `start` says how the weights begin. He et al. (2015, arXiv:1502.01852)
    derive it for rectified layers: with Keras' default the signal fades on its way up through five of them, and the
    net guesses for its first epochs.
    """
    from keras import Input, Sequential, layers

    kind = {"activation": "relu", "kernel_initializer": start}
    maps = [(layers.Conv2D(count, 3, name=f"conv2d_{i}", **kind), layers.MaxPooling2D(2, name=f"max_pooling2d_{i}"))
            for i, count in enumerate(filters)]
    dropped = [layers.Dropout(dropout, name="dropout")] if dropout else []
    head = [layers.Flatten(name="flatten"), *dropped, layers.Dense(512, name="dense_0", **kind)]
    # All at once: added one by one, each layer would be called again with each that follows, and have many outputs.
    return Sequential([Input((size, size, 3)), *itertools.chain(*maps), *head, answering(classes, "dense_1")])


def on_base(size, classes, base, dropout=0.0):
    """A head of two dense layers on a pretrained base: (N, size, size, 3) in 0..1 -> probabilities, see `answering`.

    The layers of the base are layers of the net itself, behind what its authors did to the pixels. Its output enters
    `flatten`: maps, (4, 4, 512) of VGG16 for size 150, or their averages. 16,812,353 parameters with VGG16.
    """
    import keras
    from keras import layers

    kind = BASES[base]
    module, photos = getattr(keras.applications, kind.module), keras.Input((size, size, 3))
    pixels = module.preprocess_input(layers.Rescaling(255.0, dtype="float32", name="pixels")(photos))
    features = getattr(module, kind.name)(include_top=False, weights=None, input_tensor=pixels, pooling=kind.pooling,
                                          **kind.options).output
    hidden = layers.Dense(256, activation="relu", name="dense_0")(layers.Flatten(name="flatten")(features))
    hidden = layers.Dropout(dropout, name="dropout")(hidden) if dropout else hidden
    return keras.Model(photos, answering(classes, "dense_1")(hidden))


def happy_faces(size, classes, base=None):
    """The net of the Keras tutorial: one convolution, 7x7, with batch normalisation. 37,633 parameters for size 64."""
    from keras import Input, Sequential, layers

    return Sequential([
        Input((size, size, 3)), layers.ZeroPadding2D(3, name="zero_padding"), layers.Conv2D(32, 7, name="conv0"),
        layers.BatchNormalization(name="bn0"), layers.Activation("relu", name="relu"),
        layers.MaxPooling2D(2, name="max_pool"), layers.Flatten(name="flatten"), answering(classes, "fc"),
    ])


def digits(size, classes, base=None):
    """The net of the digits: (N, size, size, 1) in grey. 93,322 parameters for size 28 and ten classes."""
    from keras import Input, Sequential, layers

    return Sequential([
        Input((size, size, 1)), layers.Conv2D(32, 3, activation="relu", name="conv2d_0"),
        layers.MaxPooling2D(2, name="max_pooling2d_0"), layers.Conv2D(64, 3, activation="relu", name="conv2d_1"),
        layers.MaxPooling2D(2, name="max_pooling2d_1"), layers.Conv2D(64, 3, activation="relu", name="conv2d_2"),
        layers.Flatten(name="flatten"), layers.Dense(64, activation="relu", name="dense_0"),
        answering(classes, "dense_1"),
    ])


def hand_signs(size, classes, base=None):
    """Three dense layers, no convolution: 307,615 parameters for size 64 and six classes."""
    from keras import Input, Sequential, layers

    return Sequential([
        Input((size, size, 3)), layers.Flatten(name="flatten"), layers.Dense(25, activation="relu", name="dense_0"),
        layers.Dense(12, activation="relu", name="dense_1"), answering(classes, "dense_2"),
    ])


@functools.cache
def fused_normalisation():
    """Keras' layer for batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167), in training by one operation.

    Keras does it in half a dozen, each of which runs over all maps: that costs time (`python tests/benchmark.py ...
    --only residual residual-unfused`). Answers come from Keras' own.
    """
    import keras
    import tensorflow as tf

    class BatchNormalization(keras.layers.BatchNormalization):
        """Keras' layer; its numbers stay float32 whatever the maps are."""

        def __init__(self, **options):
            super().__init__(autocast=False, **options)

        def call(self, inputs, training=None, mask=None):
            """Maps (N, H, W, C) normalised: in training by their own mean and variance, which are remembered."""
            if training is not True:
                return super().call(inputs, training=training, mask=mask)
            none = tf.constant([], tf.float32)
            maps, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
                x=inputs, scale=self.gamma.value, offset=self.beta.value, mean=none, variance=none,
                epsilon=self.epsilon, is_training=True)
            for moving, seen in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + seen * (1 - self.momentum))
            return maps

    return BatchNormalization


def residual(size, classes, base=None, stages=((64, 1), (128, 2), (224, 2))):
    """A net of our own: (N, size, size, 3) in 0..1 -> probabilities, see `answering`.

    Residual blocks (He et al. 2016, arXiv:1512.03385) with batch normalisation, in which what is seen anywhere says
    how much each channel counts (squeeze and excitation: Hu et al. 2018, arXiv:1709.01507). `stages` are the channels
    and the number of blocks at a fourth of the size, an eighth, a sixteenth; averages over the last maps take the place
    of a large dense layer. Made for a CPU: the maps are halved before each convolution that widens them, for most time
    goes where the maps are large.
    """
    import keras
    from keras import layers

    normalisation = fused_normalisation()

    def convolution(maps, count, name, stride=1, rectified=True):
        """3x3, normalised: its scale and shift take the place of a bias."""
        maps = layers.Conv2D(count, 3, stride, padding="same", use_bias=False, kernel_initializer="he_normal",
                             name=f"{name}_conv")(maps)
        maps = normalisation(momentum=0.9, name=f"{name}_norm")(maps)  # 0.99 lags behind in short trainings
        return layers.ReLU(name=f"{name}_relu")(maps) if rectified else maps

    def block(maps, count, name):
        """Two convolutions that learn what is to be added to their input, and two small layers that weigh it."""
        change = convolution(convolution(maps, count, f"{name}_1"), count, f"{name}_2", rectified=False)
        seen = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_averages")(change)
        seen = layers.Dense(count // 8, "relu", name=f"{name}_seen")(seen)
        gates = layers.Dense(count, "sigmoid", name=f"{name}_gates")(seen)
        change = layers.Multiply(name=f"{name}_weighed")([change, gates])
        return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([maps, change]))

    photos = keras.Input((size, size, 3))
    maps = convolution(photos, 32, "stem", stride=2)
    for stage, (count, blocks) in enumerate(stages, start=1):
        maps = convolution(layers.MaxPooling2D(2, name=f"stage{stage}_pool")(maps), count, f"stage{stage}")
        for number in range(1, blocks + 1):
            maps = block(maps, count, f"stage{stage}_block{number}")
    return keras.Model(photos, answering(classes, "answer")(layers.GlobalAveragePooling2D(name="averages")(maps)))


@dataclass(frozen=True)
class Base:
    """A pretrained net of keras.applications without its top: where it is, and what it is used with.

    `size` is the side of the photos in pixels; `pooling` "avg" gives averages over its last maps, None the maps;
    `block` is the layer that its last block begins with, where the maps are halved for the last time; `files` is what
    Keras calls its downloaded weights.
    """

    module: str
    name: str
    size: int
    pooling: str | None
    block: str
    files: str
    options: dict = field(default_factory=dict)


MOBILE = functools.partial(Base, "mobilenet", "MobileNet", 224, "avg", "conv_dw_12")
MOBILE_2 = functools.partial(Base, "mobilenet_v2", "MobileNetV2", 224, "avg", "block_13_expand")
BASES = {
    "vgg16": Base("vgg16", "VGG16", 150, None, "block5_conv1", "vgg16_*"),
    "mobilenet": MOBILE("mobilenet_1_0_224_*", {"alpha": 1.0}),
    "mobilenet-0.75": MOBILE("mobilenet_7_5_224_*", {"alpha": 0.75}),
    "mobilenet-0.5": MOBILE("mobilenet_5_0_224_*", {"alpha": 0.5}),
    "mobilenet-0.25": MOBILE("mobilenet_2_5_224_*", {"alpha": 0.25}),
    "mobilenet_v2": MOBILE_2("mobilenet_v2_*_1.0_224_*", {"alpha": 1.0}),
    "mobilenet_v2-0.5": MOBILE_2("mobilenet_v2_*_0.5_224_*", {"alpha": 0.5}),
    "mobilenet_v2-0.35": MOBILE_2("mobilenet_v2_*_0.35_224_*", {"alpha": 0.35}),
    "resnet50": Base("resnet50", "ResNet50", 224, "avg", "conv5_block1_1_conv", "resnet50_*"),
    "efficientnet_v2_b0": Base("efficientnet_v2", "EfficientNetV2B0", 224, "avg", "block6a_expand_conv",
                               "efficientnetv2-b0_*"),
}


@dataclass(frozen=True)
class Rung:
    """One net of the ladder, and its training where that differs from the recipe: `training` in all, `tutor` in the
    tutorial's, `best` in the best one.

    `size` is the side of its photos in pixels (of rungs on a pretrained base that decides), `crops` those of the parts
    of them that the best recipe trains it on, from first to last, each for as long, `classes` how many the tutorial
    has. `base` says what is done with the base: "features", its output is computed once, for nothing in it trains;
    "frozen", the same, but it runs each time; "last block", that trains too. It goes on from the rung `after`.
    `tutorial` is the share of the test photos that was right there.
    """

    build: callable
    change: str
    training: dict = field(default_factory=dict)
    tutor: dict = field(default_factory=dict)
    best: dict = field(default_factory=dict)
    size: int = 150
    crops: tuple = ()
    channels: int = 3
    classes: int = 2
    base: str | None = None
    after: str | None = None
    tutorial: float | None = None


FOUR, FIVE, PLAIN = (32, 64, 128, 128), (32, 64, 128, 128, 256), {"augment": False}
SLOW, ADAM = {"learning_rate": 1e-4}, {"optimizer": "adam"}
RUNGS = {
    "default": Rung(functools.partial(convolutions, filters=FIVE, dropout=0.5, start="he_normal"),
                    "five convolutions, dropout, augmentation: small and quick"),
    "baseline": Rung(functools.partial(convolutions, filters=FOUR),
                     "four convolutions and nothing against over-fitting: where the climb begins",
                     {"batch_size": 20, **PLAIN}, SLOW, SLOW, tutorial=0.733),
    "dropout": Rung(functools.partial(convolutions, filters=FOUR, dropout=0.5),
                    "the same with dropout and augmentation: it learns for longer before it over-fits",
                    {"epochs": 100}, {"steps": 100, **SLOW}, tutorial=0.812),
    "residual": Rung(residual, "a net of our own: residual blocks, 160 x 160 pixels",
                     {"batch_size": 64}, best={"learning_rate": 0.002}, size=160, crops=(64, 80, 96, 112)),
    "features": Rung(functools.partial(on_base, dropout=0.5),
                     "a net trained on ImageNet describes each photo once, a small one learns from that: quick",
                     {"learning_rate": 2e-5, "batch_size": 20, **PLAIN}, base="features", tutorial=0.893),
    "frozen": Rung(on_base, "the same base in front, so that photos can be augmented: slow, it sees each of them anew",
                   {"learning_rate": 2e-5, "steps": 100}, base="frozen", tutorial=0.905),
    "finetune_plain": Rung(on_base, "frozen, then the last block of the base learns as well, without augmentation",
                           {"learning_rate": 1e-5, "batch_size": 20, "epochs": 100, **PLAIN}, base="last block",
                           after="frozen", tutorial=0.924),
    "finetune": Rung(on_base, "the same with augmentation: the row that the tutorial left empty",
                     {"learning_rate": 1e-5, "epochs": 100, "steps": 100}, base="last block", after="frozen"),
    "happy": Rung(happy_faces, "happy faces or others: one convolution with batch normalisation, 64 x 64 pixels",
                  {"epochs": 40, "batch_size": 50, **PLAIN}, ADAM, size=64),
    "mnist": Rung(digits, "ten digits: three convolutions on 28 x 28 grey pixels",
                  {"epochs": 5, "batch_size": 64, **PLAIN}, size=28, channels=1, classes=10),
    "signs": Rung(hand_signs, "hands that show 0 to 5: three dense layers on 64 x 64 pixels, no convolution",
                  {"epochs": 300, **PLAIN}, ADAM | SLOW, size=64, classes=6),
}


def default_classes(rung):
    """The classes of a net whose weights do not name them: cat and dog, or numbers from 0."""
    count = RUNGS[rung].classes
    return ("cat", "dog") if count == 2 else tuple(map(str, range(count)))


def named(flag, name, table):
    """The entry of a table that a flag names. Raises UsageError."""
    if name not in table:
        raise UsageError(f"{flag} {name} is none of {', '.join(table)}")
    return table[name]


def side_of(rung, base):
    """The side of the photos of a rung, in pixels."""
    return BASES[base].size if RUNGS[rung].base else RUNGS[rung].size


def build_model(rung, settings, policy="float32", classes=None, base=None):
    """A compiled Keras model of a rung, its layers computing in a Keras dtype policy (weights stay float32)."""
    import keras

    before, kind, base = keras.config.dtype_policy(), RUNGS[rung], base or settings.base
    keras.config.set_dtype_policy(policy)
    try:
        model = kind.build(side_of(rung, base), classes or kind.classes, base)
    finally:
        keras.config.set_dtype_policy(before)
    if kind.base:
        freeze(model, BASES[base].block if kind.base == "last block" else None)
    return compile_for(model, settings)


def compile_for(model, settings):
    """A model made ready for training: two classes have one answer, the probability of the second, more have all."""
    import keras

    optimizer = muon() if settings.optimizer == "muon" else keras.optimizers.get(settings.optimizer)
    optimizer.learning_rate = settings.learning_rate
    if isinstance(optimizer, keras.optimizers.AdamW):
        optimizer.weight_decay = WEIGHT_DECAY
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    two = model.output_shape[-1] == 1
    loss = "binary_crossentropy" if two else "categorical_crossentropy"
    # Not by its name: then its variables would come to be in the first step, see `Training.run`.
    accuracy = keras.metrics.BinaryAccuracy("acc") if two else keras.metrics.CategoricalAccuracy("acc")
    # XLA makes these nets slower on a CPU and takes its time to compile them.
    model.compile(optimizer, loss=loss, metrics=[accuracy], jit_compile=False)
    return model


def freeze(model, block):
    """Let only the head of a model on a base train, and the base from the layer named `block` on.

    Batch normalisation of the base stays as it is: a few photos would spoil what it knows of a million.
    """
    from keras import layers

    thawed = False
    for layer in model.layers[: model.layers.index(model.get_layer("flatten"))]:
        thawed = thawed or layer.name == block
        layer.trainable = thawed and not isinstance(layer, layers.BatchNormalization)


def base_of(model):
    """The part of a model on a base that comes before its head: photos -> features."""
    import keras

    return keras.Model(model.input, model.get_layer("flatten").input)


def head_of(model, settings):
    """The part of a model on a base that comes behind it, ready for training: features -> probabilities."""
    import keras

    return compile_for(keras.Model(model.get_layer("flatten").input, model.output), settings)


def muon():
    """The optimizer Muon for convolutions (Jordan et al. 2024, kellerjordan.github.io/posts/muon), AdamW for all else.

    What a kernel is moved by is made orthogonal first, so that it learns in all directions and not in the strongest
    alone. Its momentum of 0.95 is Jordan's; the factor 0.2 makes its steps as long as those of AdamW, whose learning
    rates it takes (Liu et al. 2025, arXiv:2502.16982). That of Keras leaves convolutions to AdamW.
    """
    import keras
    from keras import ops

    class Muon(keras.optimizers.AdamW):
        """Kernels of convolutions have four axes: height, width, channels in and out."""

        def update_step(self, gradient, variable, learning_rate):
            """Change one variable by its gradient, both of the same shape."""
            if len(variable.shape) != 4:
                super().update_step(gradient, variable, learning_rate)
                return
            momentum = self._momentums[self._get_variable_index(variable)]
            self.assign(momentum, 0.95 * momentum + gradient)
            matrix = ops.reshape(0.95 * momentum + gradient, (-1, variable.shape[-1]))
            change = orthogonal(matrix) * 0.2 * max(matrix.shape) ** 0.5
            self.assign_sub(variable, learning_rate * ops.reshape(change, variable.shape))

    return Muon()


def orthogonal(matrix):
    """About U V' of a matrix U S V' (rows, columns), by the five Newton-Schulz steps of Muon, their numbers Jordan's.

    Singular values become 0.7 to 1.2, those a few hundred times weaker than the strongest less. The steps are
    polynomials of M'M and done there: fewer multiplications than with M, which is far longer in a convolution.
    """
    from keras import ops

    matrix = matrix / (ops.norm(matrix) + 1e-7)
    one = ops.eye(matrix.shape[-1])
    square, product = ops.matmul(ops.transpose(matrix), matrix), one
    for _ in range(5):
        factor = 3.4445 * one - 4.775 * square + 2.0315 * ops.matmul(square, square)
        square, product = ops.matmul(ops.matmul(square, factor), factor), ops.matmul(product, factor)
    return ops.matmul(matrix, product)


def of_any_size(model, settings):
    """A model of the same layers that takes photos of any size, ready for training."""
    import keras

    alone = keras.Model(model.inputs[0], model.outputs[0])  # without the optimizer: Keras cannot copy one of our own
    photos = keras.Input((None, None, model.input_shape[-1]))
    return compile_for(keras.models.clone_model(alone, photos, clone_function=lambda layer: layer), settings)


def pretrain(model, base, source):
    """Put pretrained weights into the base of a model: from a file, "imagenet" by downloading them, or "none".

    Raises WeightsError.
    """
    inner = base_of(model)
    fill(inner, base, source, include_top=False, input_shape=inner.input_shape[1:], pooling=BASES[base].pooling)


def imagenet_net(base, source):
    """A whole net of keras.applications: (N, 224, 224, 3) in 0..1 -> logits of 1,000 classes. Raises WeightsError."""
    import keras

    kind, photos = BASES[base], keras.Input((224, 224, 3))
    module = getattr(keras.applications, kind.module)
    pixels = module.preprocess_input(keras.layers.Rescaling(255.0, dtype="float32", name="pixels")(photos))
    model = getattr(module, kind.name)(weights=None, input_tensor=pixels, classifier_activation=None, **kind.options)
    fill(model, base, source)
    return model


def imagenet_names(source):
    """What the 1,000 classes are called: of the file beside weights from a file, else of one that Keras downloads.

    Raises WeightsError.
    """
    import keras

    path = Path(source).with_name("imagenet_class_index.json")
    try:
        if source in ("imagenet", "none"):
            with prints_on_stderr():
                path = keras.utils.get_file(path.name, CLASS_INDEX_URL, cache_subdir="models")
        with open_regular(path, 1_000_000) as file:
            index = json.load(file)
        return [index[str(place)][1].replace("_", " ") for place in range(1000)]
    except Exception as error:  # noqa: BLE001 (Keras raises plain ones)
        why = reason(error) if isinstance(error, OSError) else str(error).partition("\n")[0][:200]
        raise WeightsError(f"the names of the classes cannot be had from {path}: {why}") from None


def prints_on_stderr():
    """Keras prints what it downloads on stdout, which is for results."""
    return contextlib.redirect_stdout(sys.stderr if sys.stderr and sys.stderr.isatty() else io.StringIO())


def fill(inner, base, source, **options):
    """Put pretrained weights into a net of keras.applications, which has been made with these options."""
    import keras

    kind = BASES[base]
    fix = "Name a file with --base-weights, or say --base-weights none for random ones"
    try:
        if source == "imagenet":
            with prints_on_stderr():
                donor = getattr(getattr(keras.applications, kind.module), kind.name)(**options, **kind.options)
            inner.set_weights(donor.get_weights())
        elif source != "none":
            open_regular(source, MAX_FILE).close()
            inner.set_weights([np.full_like(array, np.nan) for array in inner.get_weights()])
            with warnings.catch_warnings(action="ignore"):  # Keras warns of what it skips, and goes on
                inner.load_weights(source)
            if not all(np.isfinite(array).all() for array in inner.get_weights()):
                raise ValueError("some of its layers have none there")
    except OSError as error:
        raise WeightsError(f"cannot read the base weights {source}: {reason(error)}", fix) from None
    except Exception as error:  # noqa: BLE001 (Keras raises plain ones, with long explanations)
        why = str(error).strip().partition("\n")[0].partition("Example error")[0][:200]
        raise WeightsError(f"there are no weights of {base} to be had from {source}: {why}", fix) from None


def has_base(base, source):
    """Whether the weights of a base can be had without a download: Keras keeps what it has downloaded."""
    home = Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras"))
    kept = home.glob(f"models/{BASES[base].files}")
    return source != "imagenet" or any(re.search("no_?top", path.name) for path in kept)


def shares_of(answers):
    """The probabilities of all classes, float64 (N, K), from what a net answers: of two it names the second only."""
    answers = np.asarray(answers, np.float64)
    return np.concatenate([1 - answers, answers], axis=1) if answers.shape[1] == 1 else answers


def outputs(model, photos):
    """What a net makes of uint8 photos (N, size, size, 3): float32 (N, ...)."""
    if not len(photos):
        return np.empty((0, *model.output_shape[1:]), np.float32)
    return model.predict_on_batch(scaled(photos, model.input_shape[-1]))


def looking_twice(look, columns, part=1.0):
    """Like `look`, see `outputs`; what it is not `SURE` of is the mean with the answer for the mirror image.

    That of the middle, so large a `part` of each side. The first so many columns of an answer are probabilities. Few
    photos need that, and sure answers gain nothing by it.
    """

    def answer(photos):
        """Answers for uint8 photos (N, size, size, 3): (N, ...)."""
        found = np.array(look(photos))
        unsure = shares_of(found[:, :columns]).max(axis=1) < SURE
        if unsure.any():
            found[unsure] = (found[unsure] + look(middles(np.asarray(photos)[unsure], part)[:, :, ::-1])) / 2
        return found

    return answer


def middles(photos, part):
    """The middle of uint8 photos (N, size, size, 3), so large a `part` of each side, at the same size."""
    size = photos.shape[1]
    first, last = round(size * (1 - part) / 2), round(size * (1 + part) / 2)
    cuts = (Image.fromarray(photo[first:last, first:last]) for photo in photos)
    return photos if part == 1 else np.stack([cut.resize((size, size), Image.Resampling.BILINEAR) for cut in cuts])


def described(model):
    """A net that describes photos by what its convolutions answer on average: (N, F), each row of length 1.

    The averages of each layer have the same length, whatever their number; of a pretrained base only its last maps
    count, which know most. None for a net without convolutions.
    """
    import keras
    from keras import layers

    pretrained = any(layer.name == "pixels" for layer in model.layers)
    maps = [layer.output for layer in model.layers if isinstance(layer, layers.Conv2D)]
    maps = [model.get_layer("flatten").input] if pretrained else maps
    rows = [layers.UnitNormalization(dtype="float32")(keras.ops.mean(keras.ops.cast(each, "float32"), axis=(1, 2))
                                                      if len(each.shape) == 4 else each) for each in maps]
    if not rows:
        return None
    whole = layers.UnitNormalization(dtype="float32")(layers.Concatenate()(rows) if len(rows) > 1 else rows[0])
    return keras.Model(model.inputs[0], whole)


def familiar(descriptions):
    """The directions, (DIRECTIONS, F), that descriptions of photos, (N, F), each of length 1, have most in common."""
    return np.linalg.svd(descriptions, full_matrices=False)[2][:DIRECTIONS].astype(np.float32)


def watchful(model, directions):
    """A net whose answers have one more column: how strange each photo is to it, 0..1.

    That is how much of its description, see `described`, points in none of the `familiar` directions.
    """
    import keras

    seeing = described(model)
    known = keras.layers.Dense(len(directions), use_bias=False, dtype="float32", name="familiar")
    strange = 1 - keras.ops.norm(known(seeing.output), axis=1, keepdims=True)
    known.set_weights([directions.T])
    return keras.Model(model.inputs[0], keras.ops.concatenate([model.outputs[0], strange], axis=1))


# ======================================================================================================================
# 9. Scores
# ======================================================================================================================


def score(probabilities, labels):
    """How well probabilities (N, K) of the classes agree with labels (N, 1), places of classes.

    A dict: correct, total, accuracy in 0..1 and its 95 % interval; `by_class`: [correct, total] of each class; `loss`,
    the mean cross-entropy, natural logarithm, of probabilities no smaller than 1e-7, as in Keras.
    """
    truth, classes = labels[:, 0].astype(int), range(probabilities.shape[1])
    right = probabilities.argmax(axis=1) == truth
    correct, total = int(right.sum()), len(labels)
    losses = -np.log(probabilities[np.arange(total), truth].clip(1e-7, 1 - 1e-7))
    return {"correct": correct, "total": total, "accuracy": correct / total, "interval": wilson(correct, total),
            "by_class": [[int(right[truth == place].sum()), int((truth == place).sum())] for place in classes],
            "loss": float(losses.mean())}


def cooled(probabilities, temperature):
    """Probabilities (N, K) whose logits are divided by a temperature: above 1 less sure, below 1 surer, same answers.

    Guo et al. 2017 (arXiv:1706.04599): nets are right less often than their probabilities say; one number, fitted on
    photos that they have not learned from, mends most of that.
    """
    if temperature == 1:
        return probabilities
    logits = np.log(probabilities.clip(1e-7, 1)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fit_temperature(probabilities, labels, low=0.05, high=20.0):
    """The temperature of `cooled` with the least cross-entropy for labels (N, 1), between two limits.

    Each label counts as 1 - 1 / (N + 2) and the others share the rest, as in Platt 1999: that N photos were all right
    does not prove that the next one is.
    """
    count, kinds = probabilities.shape
    doubt = 1 / (count + 2)
    targets = np.full((count, kinds), doubt / (kinds - 1))
    targets[np.arange(count), labels[:, 0].astype(int)] = 1 - doubt

    def loss(sharpness):
        """The mean cross-entropy; convex in one over the temperature."""
        return -(targets * np.log(cooled(probabilities, 1 / sharpness).clip(1e-12))).sum(axis=1).mean()

    left, right = 1 / high, 1 / low
    for _ in range(60):  # each third of the range that cannot hold the minimum is left out
        third = (right - left) / 3
        left, right = (left, right - third) if loss(left + third) < loss(right - third) else (left + third, right)
    return 2 / (left + right)


def reliability(probabilities, labels, bins=15):
    """How far the confidence in the likeliest class agrees with the share that is right, in bins of equal width.

    A dict: `error`, the mean distance of the two, each photo counting the same (expected calibration error, Naeini et
    al. 2015), and `bins`: [mean confidence, share right, photos] of each bin that is not empty.
    """
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels[:, 0]
    places, found = np.minimum((sure * bins).astype(int), bins - 1), []
    for place in np.unique(places):
        here = places == place
        found.append([float(sure[here].mean()), float(right[here].mean()), int(here.sum())])
    return {"error": sum(abs(mean - share) * count for mean, share, count in found) / len(sure), "bins": found}


def certainty_of(probabilities, labels, most=256):
    """What asking for more confidence would do: [[confidence, wrong, answered], ...], from the most confident down.

    So many of the photos are answered with at least this confidence, and so many of those answers are wrong; the last
    row has all photos.
    """
    sure, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != labels[:, 0]
    order = np.argsort(-sure, kind="stable")
    sure, wrong = sure[order], np.cumsum(wrong[order])
    ends = np.flatnonzero(np.diff(sure, append=-1) < 0)  # the last one of those that are equally sure
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, most).astype(int))]
    return [[float(sure[end]), int(wrong[end]), int(end) + 1] for end in ends]


def threshold_of(certainty, wrong):
    """The confidence from which at most this share, 0..1, of the answers was wrong, answering as many as possible.

    Of the rows of `certainty_of`: (confidence, share wrong, share left unanswered); above 1 where nothing is safe.
    """
    safe = [row for row in certainty if row[1] <= wrong * row[2]]
    if not safe:
        return 1.1, 0.0, 1.0
    confidence, errors, answered = max(safe, key=lambda row: row[2])
    return confidence, errors / answered, 1 - answered / certainty[-1][2]


def confusion(probabilities, labels):
    """What becomes of each class: int (K, K), rows the labels (N, 1), columns the answers of probabilities (N, K)."""
    table = np.zeros((probabilities.shape[1],) * 2, int)
    np.add.at(table, (labels[:, 0].astype(int), probabilities.argmax(axis=1)), 1)
    return table


def rates(table):
    """Of a confusion table (K, K), in 0..1: precision and recall of each class, and their balanced accuracy.

    Precision is the share right of those answered so, None where there are none; recall the share right of those that
    are so; balanced accuracy the mean recall.
    """
    right, answered, there = table.diagonal(), table.sum(axis=0), table.sum(axis=1)
    precision = [int(hits) / int(count) if count else None for hits, count in zip(right, answered, strict=True)]
    recall = [int(hits) / int(count) if count else None for hits, count in zip(right, there, strict=True)]
    known = [share for share in recall if share is not None]
    return {"precision": precision, "recall": recall, "balanced_accuracy": sum(known) / len(known)}


def better_than_guessing(score):
    """Whether the answers have to do with the photos: the shares right of all classes add up to clearly more than 1.

    For answers that do not, whatever share of them is "dog", these add up to 1: nobody passes by always naming the
    largest class. Clearly: beyond a 95 % interval of the sum, by squaring and adding (R. G. Newcombe, Statistics in
    Medicine 17, 1998).
    """
    shares = [(correct / total, wilson(correct, total)[0]) for correct, total in score["by_class"]]
    return sum(share for share, _ in shares) - math.hypot(*(share - low for share, low in shares)) > 1


def wilson(correct, total, z=1.959964):
    """The 95 % confidence interval of a share, (low, high) in 0..1 (E. B. Wilson, JASA 22, 1927)."""
    share, weight = correct / total, z * z / total
    half = z * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    return tuple(min(max((share + weight / 2 + side) / (1 + weight), 0.0), 1.0) for side in (-half, half))


def score_line(score):
    """A score for people: "81.2 %  (812 of 1000; 95 % interval 78.6 to 83.5 %)"."""
    low, high = (f"{100 * bound:.1f}" for bound in score["interval"])
    share = percent(score["accuracy"])
    return f"{share}  ({score['correct']} of {score['total']}; 95 % interval {low} to {high} %)"


def seen_line(scores):
    """That a net is scored on photos that it learned from, for people."""
    return (f"{scores['seen']} of these {scores['total']} photos are among those that this net learned from, or look "
            "alike: if they are copies, the scores come out too good.")


def copies_line(copies):
    """What the counts of `copies_between` mean, for people."""
    counts = ", ".join(f"{count} of the {part} photos" for part, count in copies.items())
    return f"{counts} are in an earlier part as well, or look alike: if they are copies, the scores come out too good."


def folds_of(labels, count, rng=None):
    """Which photos are in which fold, [(N,) places, ...]: every class is dealt out evenly, in order or shuffled.

    `labels` are (N, 1). Raises UsageError when a class has fewer photos than there are folds.
    """
    fold, kinds = np.empty(len(labels), int), labels[:, 0]
    for kind in np.unique(kinds):
        places = np.flatnonzero(kinds == kind)
        if len(places) < count:
            raise UsageError(f"--folds {count} is more than the {len(places)} photos of a class")
        fold[places if rng is None else rng.permutation(places)] = np.arange(len(places)) % count
    return [np.flatnonzero(fold == number) for number in range(count)]


def judged(histories):
    """What folds or repeated runs come to: the epoch with the lowest mean validation loss, counted from 1, and there
    the accuracy of each, 0..1, their mean and their standard deviation (of a sample; 0 for a single one).

    `histories` are [{"val_loss": [...], "val_acc": [...]}, ...] of equally many epochs.
    """
    best = int(np.mean([history["val_loss"] for history in histories], axis=0).argmin())
    shares = [round(float(history["val_acc"][best]), 6) for history in histories]  # of float32
    return {"best_epoch": best + 1, "accuracies": shares, **spread(shares)}


def spread(values):
    """Mean and standard deviation of a sample: {"mean": ..., "deviation": ...}, 0 of a single value."""
    return {"mean": float(np.mean(values)), "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


def scoreboard(rows):
    """The rows of `CatDogClassifier.compare` by rung: how many runs, means, and the spread of the accuracy.

    `interval` is that of a single run, None for several.
    """
    board = []
    for rung in dict.fromkeys(row["rung"] for row in rows):
        runs = [row for row in rows if row["rung"] == rung]
        means = {name: round(float(np.mean([run[name] for run in runs])), 2) for name in ("epochs", "seconds")}
        accuracy = {name: round(value, 6) for name, value in spread([run["accuracy"] for run in runs]).items()}
        board.append({"rung": rung, "runs": len(runs), "parameters": runs[0]["parameters"], **means,
                      "accuracy": accuracy["mean"], "deviation": accuracy["deviation"],
                      "interval": runs[0]["interval"] if len(runs) == 1 else None, "bytes": runs[0]["bytes"],
                      "tutorial": runs[0]["tutorial"]})
    return board


def smooth(points, factor=0.8):
    """The exponential moving average of a list of numbers, as the tutorial draws it: the first point counts in full."""
    return list(itertools.accumulate(points, lambda average, point: average * factor + point * (1 - factor)))


def overfitted_from(history, best, span=5):
    """The epoch from which training did harm: the one after the best; None if that cannot be said. Counted from 1.

    Said when at least `span` epochs followed the best one, their training loss was lower on average, and yet the last
    `span` have a higher validation loss (in the median, for it jumps) than the `span` up to the best one.
    """
    later, losses = history["loss"][best:], history["val_loss"]
    if not best or len(later) < span or np.mean(later) >= history["loss"][best - 1]:
        return None
    return best + 1 if np.median(losses[-span:]) > np.median(losses[max(0, best - span) : best]) else None


# ======================================================================================================================
# 10. Looking inside: what a net attends to, what its layers answer to
# ======================================================================================================================


def last_maps(model):
    """The last layer of a net whose output is maps, (N, h, w, C), pooling left out. Raises UsageError without any."""
    from keras import layers

    poolings = (layers.MaxPooling2D, layers.AveragePooling2D)
    for layer in reversed(model.layers[1:]):
        shape = layer.output.shape
        if len(shape) == 4 and shape[1] > 1 and not isinstance(layer, poolings):
            return layer
    raise UsageError("this net has no convolutions to look into", "Name another --model, or other --weights")


def grad_cam(model, photo, place):
    """Where in a photo a net sees the class of this place: float32 (h, w), 0..1, of the maps of `last_maps`.

    `photo` is uint8 (size, size, 3). Each map counts as much as the logit of the class rises with it on average; what
    speaks against the class is left out (Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2). From the logit
    and not from the probability, which does not move any more where a net is certain.
    """
    import keras
    import tensorflow as tf

    last, middle = model.layers[-1], last_maps(model).output
    maps = keras.Model(model.inputs[0], middle)(scaled(photo[None], model.input_shape[-1]), training=False)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        if isinstance(last, keras.layers.Dense):
            features = keras.Model(middle, last.input)(maps, training=False)
            logits = tf.cast(features, tf.float32) @ last.kernel + last.bias
        else:  # a net for ImageNet that ends with logits
            logits = keras.Model(middle, model.outputs[0])(maps, training=False)
        logit = logits[0, place] if logits.shape[1] > 1 else logits[0, 0] * (1 if place else -1)
    weights = tf.reduce_mean(tape.gradient(logit, maps), axis=(1, 2))[0]
    found = np.maximum(np.tensordot(np.float32(maps[0]), np.float32(weights), 1), 0)
    return found / max(found.max(), np.finfo(np.float32).tiny)


def activations_of(model, photo):
    """What each convolution and pooling layer makes of a photo, uint8 (size, size, 3): [(name, float32 (h, w, C))]."""
    import keras
    from keras import layers

    kinds = (layers.Conv2D, layers.DepthwiseConv2D, layers.MaxPooling2D, layers.AveragePooling2D)
    shown = [layer for layer in model.layers if isinstance(layer, kinds)]
    if not shown:
        last_maps(model)  # which says so
    inner = keras.Model(model.inputs[0], [layer.output for layer in shown])
    found = inner(scaled(photo[None], model.input_shape[-1]), training=False)
    found = found if isinstance(found, list) else [found]  # Keras gives one output bare
    return [(layer.name, np.float32(maps[0])) for layer, maps in zip(shown, found, strict=True)]


def visible(maps):
    """Maps (h, w, C) as grey pictures, uint8, as in the tutorial: each with mean 128 and standard deviation 64."""
    spread = maps.std(axis=(0, 1))
    return ((maps - maps.mean(axis=(0, 1))) / np.where(spread, spread, 1) * 64 + 128).clip(0, 255).astype(np.uint8)


def in_grid(pictures, columns=16, gap=1):
    """Pictures, uint8 (h, w, N) or (h, w, N, 3), in rows of so many, left to right, on white."""
    height, width, count = pictures.shape[:3]
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, *pictures.shape[3:]), 255, np.uint8)
    for number in range(count):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        grid[top : top + height, left : left + width] = pictures[:, :, number]
    return grid


def filters_of(model, layer, console, side=96, steps=40):
    """What each filter of a layer looks for: photos that excite it, uint8 (side, side, C, 3), no larger than the net's.

    Gradient ascent from noise about grey on the mean answer of each filter, in steps of the gradient over its root
    mean square, as in the tutorial; then with mean 0.5 and standard deviation 0.1, as there.
    """
    import keras
    import tensorflow as tf

    side, inner = min(side, model.input_shape[1]), keras.Model(model.inputs[0], layer.output)
    shape = (side, side, model.input_shape[-1])
    small = keras.models.clone_model(inner, input_tensors=keras.Input(shape))  # any size will do, for convolutions
    small.set_weights(inner.get_weights())
    small.layers[-1].activation = keras.activations.linear  # a rectifier would hide from most of them which way is up

    @tf.function
    def ascend(pixels, places):
        """One step, each of the photos for the filter of its place."""
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            maps = tf.cast(small(pixels, training=False), tf.float32)
            excited = tf.gather(tf.reduce_mean(maps, axis=(1, 2)), places, axis=1, batch_dims=1)
        slope = tape.gradient(excited, pixels)
        return pixels + slope / 255 / (tf.sqrt(tf.reduce_mean(slope**2, axis=(1, 2, 3), keepdims=True)) + 1e-5)

    found, count = [], layer.output.shape[-1]
    for start in console.watch(layer.name, range(0, count, 16), math.ceil(count / 16)):
        places = tf.range(start, min(start + 16, count))
        pixels = tf.random.stateless_uniform((len(places), *shape), seed=(0, start), maxval=20 / 255) + 0.5
        for _ in range(steps):
            pixels = ascend(pixels, places)
        found.append(pixels.numpy())
    photos = np.concatenate(found)
    deviation = photos.std(axis=(1, 2, 3), keepdims=True) + 1e-5
    photos = ((photos - photos.mean(axis=(1, 2, 3), keepdims=True)) / deviation * 0.1 + 0.5).clip(0, 1)
    return (np.broadcast_to(photos, (*photos.shape[:3], 3)) * 255).astype(np.uint8).transpose(1, 2, 0, 3)


# ======================================================================================================================
# 11. Training: epochs, the best of them, when to stop, how to go on
# ======================================================================================================================


@dataclass
class Progress:
    """How far a training has come: with `arrays_of` its net, all that the next epoch depends on."""

    policy: str  # the Keras policy that it computes in
    history: dict  # of all epochs: {"loss": [...], "val_loss": [...], ...}
    start: int = 0  # epochs of earlier trainings of the same net
    best: float = math.inf  # the lowest validation loss
    kept: int = 0  # its epoch, counted from 1
    seconds: list = field(default_factory=list)  # of each epoch of this training
    random: dict = field(default_factory=dict)  # the state of the numpy generator that shuffles and augments
    run: str = field(default_factory=lambda: os.urandom(8).hex())  # the name of this training, in its weights file too

    def __post_init__(self):
        """Raise TypeError or ValueError for what no training has saved."""
        for part in fields(self):
            if not isinstance(getattr(self, part.name), part.type):
                raise TypeError(part.name)
        if self.policy not in PRECISIONS.values() or len(set(map(len, self.history.values()))) > 1:
            raise ValueError("policy or history")

    @property
    def epochs(self):
        """How many epochs the net has seen."""
        return len(self.history.get("loss", []))

    def share(self, epochs, more=0.0):
        """How far a training of so many epochs is, 0..1; `more` is the share of the present one that is done."""
        return (self.epochs - self.start + more) / epochs


def arrays_of(model):
    """What changes in a net while it is trained: weights, random state of dropout, memory of the optimizer."""
    return [*model.variables, *model.optimizer.variables]


@dataclass(frozen=True)
class Recipe:
    """How a net is trained: where the defaults of Settings differ, and what they do not say.

    The learning rate rises for a share `warmup` of all steps; `decay`: then it falls to zero, along half a cosine.
    `augment` draws the changes of the photos; `twice`: a net that learned from these looks at doubtful ones as
    `looking_twice` does.
    """

    training: dict = field(default_factory=dict)
    warmup: float = 0.0
    decay: bool = False
    augment: callable = draw_affines
    twice: bool = False

    def rate(self, share):
        """The share of the full learning rate, 0..1, when a share of all steps, 0..1, is done."""
        if share < self.warmup:
            return share / self.warmup
        return 0.5 + 0.5 * math.cos(math.pi * (share - self.warmup) / (1 - self.warmup)) if self.decay else 1.0


HOW = {
    "best": Recipe(warmup=0.1, decay=True, augment=draw_crops, twice=True),
    "tutorial": Recipe({"optimizer": "rmsprop", "patience": 10}),
}


class LeaveFit(Exception):
    """Raised by a callback to end `model.fit` in the middle of an epoch."""


class Training:
    """One run of `model.fit`: shows its progress, remembers the best epoch, knows when to stop.

    `progress` moves on with each epoch; `keep(training)` is called when an epoch is the best so far, `save(training)`
    after each. Afterwards the model has the best weights and `ending` says how the run ended; `signal` is the first of
    Ctrl-C and SIGTERM that came.
    """

    def __init__(self, model, progress, settings, console, best_weights, keep, save):
        self.model, self.progress, self.settings, self.console = model, progress, settings, console
        self.weights, self.keep, self.save = best_weights or model.get_weights(), keep, save
        self.last, self.ending, self.signal = progress.start + settings.epochs, None, None

    def run(self, train, validation, history):
        """Train to the last epoch, to the end of patience, or to a signal; then take the weights of the best epoch.

        `history` is the Keras History, which fills `progress.history`.
        """
        from keras.callbacks import LambdaCallback

        watch = LambdaCallback(on_epoch_begin=self.begin_epoch, on_train_batch_begin=self.begin_batch,
                               on_train_batch_end=self.end_batch,
                               on_test_batch_end=self.look, on_epoch_end=self.end_epoch)
        self.steps, self.first, self.started = len(train), self.progress.epochs, time.monotonic()
        self.ending = self.over()
        try:
            with handling((signal.SIGINT, signal.SIGTERM), self.note):
                if not self.ending:
                    # Variables that came to be in the first step, a metric's or these, would have it compiled twice.
                    self.model.optimizer.build(self.model.trainable_variables)
                    self.model.fit(train, validation_data=validation, initial_epoch=self.first, epochs=self.last,
                                   verbose=0, shuffle=False, callbacks=[history, watch])
        except LeaveFit:
            self.model._eval_epoch_iterator = None  # fit would use it again, whatever it is to validate on
        if self.signal:
            self.ending = "interrupted"
            self.console.status("stopping ...")  # over the ^C that the terminal has left
        history.epoch = list(range(self.progress.epochs))  # fit forgets those of earlier runs
        self.console.clear()
        self.model.set_weights(self.weights)

    def note(self, number, frame):
        """The first signal lets the step be finished, see `look`; the second one leaves at once."""
        if self.signal:
            interrupt(number)
        self.signal = number

    def over(self):
        """Why there is no further epoch; None while there is."""
        progress, patience = self.progress, self.settings.patience
        if progress.epochs >= self.last:
            return "all epochs"
        stale = progress.epochs - max(progress.kept, progress.start)
        return "stopped early" if patience and stale >= patience else None

    def begin_epoch(self, epoch, logs):
        """Start the clock of an epoch."""
        self.epoch, self.epoch_started = epoch, time.monotonic()

    def begin_batch(self, batch, logs):
        """Set the learning rate of this step; a constant one is left as it is."""
        settings = self.settings
        if HOW[settings.recipe].decay:
            share = self.progress.share(settings.epochs, (batch + 0.5) / self.steps)
            self.model.optimizer.learning_rate = settings.learning_rate * HOW[settings.recipe].rate(share)

    def look(self, batch, logs):
        """Leave after a step when somebody wants to, or when the loss is no number any more."""
        if not math.isfinite(logs["loss"]):
            self.ending = "diverged"
        if self.signal or self.ending:
            raise LeaveFit

    def end_batch(self, batch, logs):
        """Move the bar on."""
        self.look(batch, logs)
        done, total = (self.epoch - self.first) * self.steps + batch + 1, (self.last - self.first) * self.steps
        tail = f"loss {logs['loss']:.3f}  acc {logs['acc']:.3f}"
        self.console.bar(f"epoch {self.epoch + 1}/{self.last}", done, total, self.started, tail)

    def end_epoch(self, epoch, logs):
        """Keep the epoch if it is the best so far, save where the training stands, print the scores."""
        weights = self.model.get_weights()
        if not all(np.isfinite(numbers).all() for numbers in (logs["loss"], logs["val_loss"], *weights)):
            self.ending = "diverged"  # weights count as well: a rectified layer can hide that they are no numbers
            raise LeaveFit
        progress, seconds = self.progress, time.monotonic() - self.epoch_started
        progress.seconds.append(seconds)
        better = logs["val_loss"] < progress.best or self.is_where_it_led(epoch, logs)
        if better:
            progress.best, progress.kept, self.weights = float(logs["val_loss"]), epoch + 1, weights
        for write in (self.keep, self.save) if better else (self.save,):
            try:
                write(self)
            except WriteError as error:  # a full disk may be emptied before the next epoch: no reason to give up
                self.console.warn(f"{error}. Training goes on, and tries again later")
        scores = "  ".join(f"{name} {logs[name]:.3f}" for name in ("loss", "acc", "val_loss", "val_acc"))
        self.console.say(f"epoch {epoch + 1:2}/{self.last} {seconds:5.1f} s  {scores}{'  best' if better else ''}")
        self.ending = self.over()
        self.model.stop_training = self.ending is not None

    def is_where_it_led(self, epoch, logs):
        """Whether this is the end of a learning rate that falls to zero, and as often right as the best epoch so far.

        The last epochs differ by chance only, and in how sure they are of themselves, which calibration evens out.
        """
        progress, last = self.progress, epoch + 1 == self.last
        if not (HOW[self.settings.recipe].decay and last and progress.kept > progress.start):
            return False
        return logs["val_acc"] >= progress.history["val_acc"][progress.kept - 1]

    def outcome(self):
        """The run in numbers and words, for the summary."""
        progress = self.progress
        return {"best_epoch": progress.kept, "epochs": progress.epochs, "ending": self.ending,
                "overfitted_from": overfitted_from(progress.history, progress.kept),
                "seconds": round(sum(progress.seconds), 1),
                "seconds_per_epoch": round(float(np.median(progress.seconds or [0])), 2)}


# ======================================================================================================================
# 12. Pictures and pages
# ======================================================================================================================

# Told apart by the colour-blind too (Okabe and Ito, 2008).
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
PALETTE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def pack_figure(figure):
    """A Figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": PROGRAM})
    return buffer.getvalue()


def is_ours(path):
    """Whether a file is a picture that this program has drawn, a history that it has written, or empty."""
    if str(path).endswith(HISTORY):
        with contextlib.suppress(OSError), open_regular(path) as file:
            return file.read(6) in (b"epoch,", b"")
    with contextlib.suppress(PhotoError), opened(path) as (image, _):
        return image.info.get("Software") == PROGRAM
    return False


def draw_curves(history, name, title, best):
    """A matplotlib Figure of one measure over the epochs: training as dots, validation as a line, smoothed over it.

    `history` is {"loss": [...], "val_loss": [...], ...}, `name` "acc" or "loss", `best` the best epoch, 0 for none.
    """
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it reports the making of its cache
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = range(1, len(history[name]) + 1)
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel=title.lower(), title=f"{title} by epoch")
    axes.plot(epochs, history[name], "o", color=BLUE, markersize=5, label="training")
    axes.plot(epochs, history[f"val_{name}"], color=ORANGE, linewidth=1, alpha=0.6, label="validation")
    axes.plot(epochs, smooth(history[f"val_{name}"]), color=ORANGE, linewidth=2.5, label="validation, smoothed")
    if best:
        axes.axvline(best, color=GREY, linestyle="--", linewidth=1, label=f"best epoch: {best}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure._repr_png_ = functools.partial(pack_figure, figure)  # what a notebook shows, even without pyplot
    return figure


def draw_reliability(before, after, photos):
    """A matplotlib Figure of two results of `reliability`, before and after calibration; on which photos.

    Either may be None.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel="confidence", ylabel="share that is right", ylim=(0, 1.02),
                              title=f"How far confidences can be relied on ({photos})")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="as it should be")
    for name, colour, marker, found in (("as the net says", BLUE, "o", before), ("calibrated", ORANGE, "s", after)):
        if not found:
            continue
        sure, right, counts = zip(*found["bins"], strict=True)
        axes.plot(sure, right, color=colour, linewidth=1, alpha=0.6)
        axes.scatter(sure, right, [10 + 190 * count / sum(counts) for count in counts], color=colour, marker=marker,
                     label=f"{name}: off by {percent(found['error'])} on average (larger: more photos)", clip_on=False)
    axes.set_xlim(min(0.5, *(row[0] for found in (before, after) if found for row in found["bins"])) - 0.05, 1)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center")
    return figure


def draw_compared(curves):
    """A matplotlib Figure of the validation accuracy of trainings: [(name, [share, 0..1, by epoch], best epoch), ...].

    Each name has a colour; a dot marks the epoch that was kept, 0 for none.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel="right on the validation photos",
                              title="Validation accuracy by epoch (dot: the epoch that was kept)")
    styles = {name: {"color": PALETTE[place % len(PALETTE)], "linestyle": "-" if place < len(PALETTE) else "--"}
              for place, name in enumerate(dict.fromkeys(name for name, *_ in curves))}
    for name, curve, best in curves:
        axes.plot(range(1, len(curve) + 1), curve, linewidth=1.5, label=name, **styles[name])
        if best:
            axes.plot(best, curve[best - 1], "o", color=styles[name]["color"])
    handles = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper")
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    return figure


def draw_findings(cases, columns=4):
    """A matplotlib Figure of what a check has found: each case with its photos side by side.

    `cases` are (title, is it grave, [(caption, uint8 (size, size, 3)), ...]), of one or two photos each.
    """
    from matplotlib.figure import Figure

    warnings.filterwarnings("ignore", "Glyph")  # names may be in any script, its font is not
    rows = math.ceil(len(cases) / columns)
    figure = Figure(figsize=(3.8 * columns, 2.4 * rows), dpi=100, layout="constrained")
    for part, (title, grave, photos) in zip(figure.subfigures(rows, columns, squeeze=False).flat, cases, strict=False):
        part.suptitle(title, fontsize=9, color=ORANGE if grave else "black", parse_math=False)
        for axes, (caption, photo) in zip(part.subplots(1, len(photos), squeeze=False).flat, photos, strict=True):
            axes.set_axis_off()
            axes.set_title(printable(caption), fontsize=7, parse_math=False)
            axes.imshow(photo)
    return figure


def overlaid(photo, heat, strength=0.4):
    """A photo, uint8 (H, W, 3), under the colours of a heatmap, (h, w), 0..1 from blue to red: uint8 (H, W, 3)."""
    from matplotlib import colormaps

    grown = Image.fromarray(heat.astype(np.float32)).resize(photo.shape[1::-1], Image.Resampling.BICUBIC)
    colours = colormaps["turbo"](np.asarray(grown).clip(0, 1))[..., :3] * 255
    return np.rint((1 - strength) * photo + strength * colours).astype(np.uint8)


def named_briefly(path, most=40):
    """The name of a file for a title: a long one loses its middle."""
    name = os.path.basename(path)
    return name if len(name) <= most else f"{name[: most // 2]}...{name[-most // 2 :]}"


def twofold(photo, heat):
    """A photo, uint8 (H, W, 3), and beside it the same one under the colours of a heatmap."""
    return in_grid(np.stack([photo, overlaid(photo, heat)], axis=2), columns=2, gap=8)


def page(parts, width=1000):
    """Pictures under their titles, one below the other: a PIL image on white.

    `parts` are (title, uint8 (h, w) or (h, w, 3)); each is brought to the width, enlarged pixels staying sharp, a very
    narrow one to less of it: see `TALLEST`.
    """
    from PIL import ImageDraw, ImageFont

    font, rows = ImageFont.load_default(16), []
    for title, picture in parts:
        strip = Image.new("RGB", (width, 30), "white")
        ImageDraw.Draw(strip).text((4, 6), printable(title), "black", font)
        method = Image.Resampling.NEAREST if picture.shape[1] < width else Image.Resampling.BOX
        scale = min(width / picture.shape[1], max(TALLEST * width / picture.shape[0], 1))
        shape = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
        rows += [strip, Image.fromarray(picture).convert("RGB").resize(shape, method)]
    whole = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    for row, top in zip(rows, itertools.accumulate([0, *(row.height for row in rows)]), strict=False):
        whole.paste(row, (0, top))
    return whole


def pack_picture(picture):
    """A PIL image as PNG."""
    from PIL import PngImagePlugin

    about, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    about.add_text("Software", PROGRAM)
    picture.save(buffer, format="png", pnginfo=about)
    return buffer.getvalue()


PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="generator" content="CatDogClassifier">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }}
body {{ max-width: 70rem; margin: 0 auto; padding: 1rem }}
h1, figcaption {{ overflow-wrap: anywhere }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
.wide {{ overflow-x: auto }}
th, td {{ border: 1px solid #8888; padding: .3rem .6rem; text-align: right }}
td {{ white-space: nowrap }}
img {{ max-width: 100% }}
.cases, .gallery {{ display: grid; gap: .8rem }}
.cases {{ grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)) }}
.gallery {{ grid-template-columns: repeat(auto-fill, minmax(6rem, 1fr)) }}
figure {{ margin: 0; content-visibility: auto; contain-intrinsic-size: 6rem 8rem }}
figcaption {{ font-size: .8rem }}
.thumb {{ width: {thumb}px; height: {thumb}px; display: block }}
{sheets}
</style>
<h1>{title}</h1>
{body}
</html>
"""
TALLEST = 2  # times the width of a page of pictures each of them may be high, when it is enlarged
THUMBNAIL, SHEET = 72, 20  # pixels a side of the photos in a gallery, and how many are in a row of a sheet of them


def in_url(content, kind):
    """Bytes as a URL that holds them."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def as_jpeg(photo, quality=70):
    """A photo, uint8 (H, W, 3), as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, format="jpeg", quality=quality)
    return buffer.getvalue()


def html_page(title, parts, sheets=()):
    """A web page in one file: parts are (heading or None, HTML); sheets are those of `html_gallery`."""
    rules = [f".s{number} {{ background-image: url({in_url(sheet, 'jpeg')}) }}" for number, sheet in enumerate(sheets)]
    body = [(f"<h2>{html.escape(printable(heading))}</h2>\n" if heading else "") + part for heading, part in parts]
    title, sheets = html.escape(printable(title)), "\n".join(rules)
    return PAGE.format(title=title, thumb=THUMBNAIL, sheets=sheets, body="\n".join(body))


def html_lines(lines):
    """Lines of text, each a paragraph."""
    return "".join(f"<p>{html.escape(printable(line))}</p>" for line in lines)


def html_table(head, rows):
    """A table: the names of its columns, and rows whose first cell names them."""

    def cells(texts, tag, scope=""):
        return "".join(f"<{tag}{scope}>{html.escape(printable(text))}</{tag}>" for text in texts)

    lines = [cells(head, "th", " scope=col")]
    lines += [cells(row[:1], "th", " scope=row") + cells(row[1:], "td") for row in rows]
    return f"<div class=wide><table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table></div>"


def html_confusion(scores):
    """Who was taken for whom: a table of the scores of `evaluate`."""
    recall, precision = (["-" if share is None else percent(share) for share in scores[kind]]
                         for kind in ("recall", "precision"))
    rows = [[name, *counts, share]
            for name, counts, share in zip(scores["classes"], scores["confusion"], recall, strict=True)]
    head = ["is", *(f"answered {name}" for name in scores["classes"]), "recall"]
    return html_table(head, [*rows, ["precision", *precision, ""]])


def html_cases(cases):
    """Pictures with what they show: [(uint8 (H, W, 3), caption), ...]."""
    figures = []
    for picture, caption in cases:
        text = html.escape(printable(caption))
        figures.append(f'<figure><img loading=lazy alt="{text}" src="{in_url(as_jpeg(picture), "jpeg")}">'
                       f"<figcaption>{text}</figcaption></figure>")
    return f"<div class=cases>{''.join(figures)}</div>"


def html_gallery(cases, sheets):
    """Many small photos with captions: [(uint8 (THUMBNAIL, THUMBNAIL, 3), caption), ...].

    They are put on sheets, for one large JPEG takes half of many small ones; the new sheets are appended to `sheets`.
    """
    figures, most = [], SHEET * SHEET
    for start in range(0, len(cases), most):
        photos = np.stack([photo for photo, _ in cases[start : start + most]], axis=2)
        for number, (_, caption) in enumerate(cases[start : start + most]):
            x, y, text = number % SHEET * THUMBNAIL, number // SHEET * THUMBNAIL, html.escape(printable(caption))
            figures.append(f'<figure><div class="thumb s{len(sheets)}" role=img aria-label="{text}" '
                           f'style="background-position:-{x}px -{y}px"></div><figcaption>{text}</figcaption></figure>')
        sheets.append(as_jpeg(in_grid(photos, SHEET, gap=0), 60))
    return f"<div class=gallery>{''.join(figures)}</div>"


def show_pictures(paths):
    """Show saved pictures in the viewer of the system; returns False where there is none."""
    from PIL import ImageShow

    shown = [ImageShow.show(Image.open(path)) for path in paths]
    return all(shown)


# ======================================================================================================================
# 13. Weights: a file that any Keras can read, and the same for LiteRT
# ======================================================================================================================


# What h5py is known to raise on damaged files.
DAMAGED = (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError, SystemError)


def pack_weights(model, facts, seen=(), directions=None):
    """The weights of a model as an HDF5 file in bytes, in the layout that load_weights of Keras 2 and 3 reads.

    Per layer one group with its arrays; what is known about the net as JSON in the attribute "catdogclassifier", and a
    digest of that and of all arrays, for HDF5 itself has none. `seen` are the `marks` of the photos that it learned
    from, `directions` what is `familiar` to it.
    """
    import h5py

    buffer, about = io.BytesIO(), json.dumps(facts).encode()
    more = {"seen": np.asarray(seen, np.int64)} | ({} if directions is None else {"directions": directions})
    with h5py.File(buffer, "w") as file:
        file.attrs["catdogclassifier"] = np.bytes_(about)
        file.attrs["digest"] = np.bytes_(digest(about, [*map(np.asarray, model.weights), *more.values()]))
        for name, array in more.items():
            file.create_dataset(name, data=array)
        file.attrs["backend"], file.attrs["keras_version"] = "tensorflow", facts["versions"]["keras"]
        file.attrs["layer_names"] = np.array([layer.name for layer in model.layers], "S")
        for layer in model.layers:
            names = weight_names(layer)
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = np.array(names, "S")
            for name, weight in zip(names, layer.weights, strict=True):
                group.create_dataset(name, data=np.asarray(weight))
    return buffer.getvalue()


def weight_names(layer):
    """What the arrays of a layer are called in the file, as in those of Keras 2."""
    return [f"{layer.name}/{weight.name}:0" for weight in layer.weights]


def unpack_weights(path, model):
    """Read a weights file into a model; returns the facts in it, see `read_facts`, and its EXTRAS.

    Weights-only and whole-model files of Keras 2 fit too. The file is walked before anything in it is read, layers are
    matched by order, every shape is checked before memory is taken, and nothing but numbers is read: no file can make
    the program run what it holds, or open another one. In our own files names and digest must agree as well.
    Raises WeightsError.
    """
    import h5py

    try:
        shapes = [tuple(weight.shape) for weight in model.weights]
        limit = 16 * sum(map(math.prod, shapes)) + 8 * MAX_SEEN + 1_000_000  # bytes: with the memory of an optimizer
        with open_regular(path, limit) as opened, h5py.File(opened, "r") as file:
            check_plain(file, opened)
            names, stored = stored_arrays(file.get("model_weights", file), limit=len(shapes) + 1)
            floats = all(array.id.get_type().equal(h5py.h5t.IEEE_F32LE) for array in stored)
            if not floats or [array.shape for array in stored] != shapes:
                raise WeightsError(f"{path} holds the weights of another net", cure_of(path))
            about, arrays = read_attribute(file, "catdogclassifier"), [array[()] for array in stored]
            extras = stored_extras(file)
            ours, seal = [(layer.name, name) for layer in model.layers for name in weight_names(layer)], "digest"
            content = [*arrays, *extras.values()]
            whole = names == ours and about and read_attribute(file, seal) == [digest(about[0], content).encode()]
            if not whole and (about or seal in file.attrs or names == ours):  # or else it is of another program
                raise ValueError("it has been damaged or changed")
        if not all(np.isfinite(array).all() for array in arrays):
            raise WeightsError(f"{path} holds numbers that are not finite", cure_of(path))
        facts = read_facts(about[0] if about else b"{}")
        model.set_weights(arrays)
        return facts, extras
    except DAMAGED as error:
        why = reason(error) if isinstance(error, OSError) else error
        problem = f"{path} is not a weights file that can be read ({why})"
        raise WeightsError(problem, cure_of(path)) from None


def cure_of(path):
    """What to do about weights that cannot be used."""
    anew = f"Get {BOX.name} anew" if is_box(path) else "Train anew"
    return f"{anew}, or name another --weights"


def check_replaceable(path):
    """Raise WriteError when what is in the place of new weights is no weights, or those that came with the program."""
    import h5py

    spare_box(path)
    if not os.path.exists(path) or not os.path.getsize(path):
        return
    with contextlib.suppress(*DAMAGED), open_regular(path) as opened, h5py.File(opened, "r") as file:
        if "layer_names" in file.attrs or "model_weights" in file:
            return
    raise WriteError(f"{path} holds no weights but something else", "Name another --weights, or remove it")


def check_plain(file, opened):
    """Raise ValueError unless an HDF5 file holds only arrays of its own, each in one piece, and short texts.

    Links and external or virtual storage would open other files; one compressed chunk may take any amount of memory;
    so may an attribute that names one long text again and again.
    """
    import h5py

    count = itertools.count(1)

    def odd_link(name, link):
        plain = isinstance(link, h5py.HardLink) and next(count) <= MAX_ITEMS and name.count("/") <= MAX_DEPTH
        return None if plain else f"{name[:80]} is a link, too deep, or one item too many"

    def odd_item(name, item):
        odd = isinstance(item, h5py.Dataset) and (item.is_virtual or item.external or item.chunks)
        return f"{name[:80]} is stored elsewhere, or in pieces" if odd else None

    problem = file.visititems_links(odd_link) or file.visititems(odd_item)
    if problem or longest_text(opened) > MAX_TEXT:
        raise ValueError(problem or "it holds a text that is too long")


def longest_text(opened):
    """How long the texts in an HDF5 file may be, in bytes, without reading them.

    They lie in global heaps, which begin with GCOL, version 1, and their size (HDF5 File Format Specification, III.E).
    """
    opened.seek(0)
    longest, end = 0, b""
    while block := opened.read(1_000_000):
        heaps = re.findall(rb"(?s)(?=GCOL\x01...(.{8}))", end + block)  # looking ahead: one may seem to lie in another
        longest, end = max([longest, *(int.from_bytes(size, "little") for size in heaps)]), (end + block)[-15:]
    return longest


def read_attribute(item, name):
    """The texts of an attribute, as bytes; [] without it. Raises ValueError for many, or one of another kind."""
    import h5py

    count = math.prod(item.attrs.get_id(name).shape) if name in item.attrs else 0
    if not count:
        return []
    kind = item.attrs.get_id(name).get_type()  # not its dtype: to make that of a nested type takes gigabytes
    if not isinstance(kind, h5py.h5t.TypeStringID) or count > MAX_TEXTS or kind.get_size() > MAX_TEXT:
        raise ValueError(f"its attribute {name} is too large, or of another kind")
    return [value if isinstance(value, bytes) else value.encode() for value in np.ravel(item.attrs[name]).tolist()]


def stored_arrays(root, limit):
    """The first datasets of a Keras weights group, by the order of its layers: each (layer, name), and it, unread."""
    every = ((layer, name) for layer in read_attribute(root, "layer_names")
             for name in read_attribute(root[layer], "weight_names"))
    names = list(itertools.islice(every, limit))
    return [(layer.decode(), name.decode()) for layer, name in names], [root[layer][name] for layer, name in names]


# What a weights file may hold besides weights: its type, and how long it may be in each dimension.
EXTRAS = {"seen": (np.int64, (MAX_SEEN,)), "directions": (np.float32, (DIRECTIONS, 10_000))}


def stored_extras(file):
    """Those of EXTRAS that a weights file holds: {name: array}."""
    found = {}
    for name, (kind, limits) in EXTRAS.items():
        stored = file.get(name)
        shape = getattr(stored, "shape", None) or ()
        if len(shape) == len(limits) and all(0 < length <= most for length, most in zip(shape, limits, strict=True)):
            found |= {name: stored[()]} if stored.dtype == kind else {}
    return found


def within(number, low, high, kind=(int, float)):
    """Whether this is a number, of a kind, between two limits."""
    return isinstance(number, kind) and low <= number <= high


def is_certainty(rows):
    """Whether these are rows of `certainty_of`."""
    rows = rows if isinstance(rows, list) else [None]
    return all(isinstance(row, list) and len(row) == 3 and within(row[0], 0, 1) and within(row[2], 1, 10**9, int)
               and within(row[1], 0, row[2], int) for row in rows)


def read_facts(about):
    """What a weights file says about its net, with the tutorial's answers where it says nothing. Raises ValueError."""
    facts = json.loads(about)
    facts = {"rung": "default", "base": None, "classes": ["cat", "dog"], "drawings": False, "summary": {},
             "recipe": {}, "temperature": 1.0, "certainty": [], "strange": 2.0, **facts}
    classes, rung, base = facts["classes"], facts["rung"], facts["base"]
    if not (isinstance(classes, list) and all(isinstance(name, str) and name for name in classes)):
        raise ValueError("its class names are damaged")
    limits = within(facts["temperature"], 0.01, 100) and within(facts["strange"], 0, 10)
    told = isinstance(facts["summary"], dict) and isinstance(facts["recipe"], dict)
    if not (told and limits and is_certainty(facts["certainty"])):
        raise ValueError("what it says about itself is damaged")
    known = rung in list(RUNGS) and (not RUNGS[rung].base or base in list(BASES))  # in lists: they may be anything
    if not known or not 2 <= len(classes) <= MAX_CLASSES or classes != sorted(set(classes)):
        raise ValueError("it is of a net that this program does not know")
    return facts


def facts_of(path):
    """What a weights file says about itself, unchecked; {} for one that says nothing or cannot be read."""
    import h5py

    with contextlib.suppress(*DAMAGED), open_regular(path, MAX_FILE) as opened, h5py.File(opened, "r") as file:
        check_plain(file, opened)
        return read_facts(read_attribute(file, "catdogclassifier")[0])
    return {}


def pack_state(model, best_weights):
    """Yield what it takes to go on training a model as bytes, array by array: its own, and its best weights."""
    return (np.asarray(array).tobytes() for array in (*arrays_of(model), *best_weights))


def unpack_state(content, model):
    """Put what `pack_state` made into a model; returns the best weights. Raises ValueError when it does not fit."""
    model.optimizer.build(model.trainable_variables)
    variables, best, start = arrays_of(model), [], 0
    kinds = [np.asarray(variable) for variable in [*variables, *model.weights]]
    if sum(kind.nbytes for kind in kinds) != len(content):
        raise ValueError("it is of another net")
    for i, kind in enumerate(kinds):
        array = np.frombuffer(content[start : start + kind.nbytes].tobytes(), kind.dtype).reshape(kind.shape)
        variables[i].assign(array) if i < len(variables) else best.append(array)
        start += kind.nbytes
    return best


def pack_litert(model):
    """The model as a LiteRT file, in bytes: the same arithmetic without TensorFlow."""
    import tensorflow as tf

    with hushed(), contextlib.redirect_stdout(io.StringIO()):
        return tf.lite.TFLiteConverter.from_keras_model(model).convert()


def litert_outputs(content, batch_size=4):
    """A function like `outputs` from a LiteRT file: uint8 (N, size, size, 3) -> float32 (N, ...)."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=os.cpu_count())
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()

    def answer(photos):
        """The answers for one batch of scaled photos, as the net has them."""
        interpreter.resize_tensor_input(given["index"], photos.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], photos)
        interpreter.invoke()
        return interpreter.get_tensor(wanted["index"])

    def in_batches(photos):
        """What the net makes of photos, a few at a time."""
        batches = [photos[i : i + batch_size] for i in range(0, len(photos), batch_size)]
        parts = [answer(scaled(batch, given["shape"][-1])) for batch in batches]
        return np.concatenate(parts) if parts else np.empty((0, wanted["shape"][-1]), np.float32)

    with hushed():  # it announces its delegate; and if it cannot answer, that shows here
        answer(np.zeros(given["shape"], np.float32))
    return in_batches


def pack_history(history):
    """The History of a training as CSV: one row per epoch."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["epoch", *history])
    table.writerows([epoch, *row] for epoch, row in enumerate(zip(*history.values(), strict=True), start=1))
    return text.getvalue().encode()


def read_history(path):
    """What `pack_history` wrote: {name: [float, ...]}; {} where it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError, csv.Error), open(path, newline="") as file:
        rows = list(csv.DictReader(file))
        return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}
    return {}


# ======================================================================================================================
# 14. The classifier
# ======================================================================================================================


@dataclass(frozen=True)
class Prediction:
    """The answer for one photo: the likeliest label and its probability, or the reason why there is none.

    The verdict is the label, "unsure", or for what is too strange to the net "neither"; strangeness is 0..1.
    """

    path: str
    label: str | None = None
    confidence: float | None = None
    verdict: str | None = None
    strangeness: float | None = None
    probabilities: dict | None = None
    error: str | None = None


class CatDogClassifier:
    """A cat/dog classifier: train it on a folder, look at its curves, let it classify photos.

    Takes the fields of `Settings` as keywords: CatDogClassifier(epochs=10, weights="pets.h5"); what is not given is as
    the rung of the ladder has it. `classes` are the names of its answers, `model` the Keras model, `history` the Keras
    History of its training, `kept` the epoch of it whose weights the model has, `summary` the outcome of the last
    training, `files` what it wrote, `facts` what is known of the weights in the model: None while they are untrained,
    `seen` the `marks` of the photos that they learned from. Raises UsageError.
    """

    def __init__(self, **settings):
        self._given, rung = settings, settings.get("model", Settings.model)
        self._be(rung, settings.get("base", Settings.base))
        self.console = Console(self.settings.quiet)
        self.classes, self.drawings = default_classes(rung), False
        self._answering, self._as_loaded, self._head, self._climbed, self.files = None, None, None, None, []
        self._take(None, None)

    def _be(self, rung, base):
        """Be of this rung, with this base if it has one, and train as it does where nothing else was asked for."""
        self.rung, self.base = rung, base
        kind, recipe = named("--model", rung, RUNGS), self._given.get("recipe", Settings.recipe)
        named("--recipe", recipe, HOW)
        recipe = "tutorial" if kind.base else recipe  # what is pretrained wants small steps, and no other recipe
        more = kind.best if recipe == "best" else kind.tutor
        self.settings = Settings(**{**HOW[recipe].training, **kind.training, **more, **self._given, "recipe": recipe})
        named("--base", base, BASES)

    @property
    def size(self):
        """The side of the photos as the net gets them, in pixels."""
        return side_of(self.rung, self.base)

    def _take(self, model, facts):
        """Go on with this model, about whose weights this is known."""
        self.model, self.facts, self.history, self.kept, self.summary = model, facts, None, 0, {}
        self._litert, self._run, self.seen, self.recipe = None, None, np.empty(0, np.int64), {}
        self._watcher, self._progress = None, None
        self._forget()

    def _forget(self):
        """Know nothing of how far these weights can be relied on: it is found out at the end of a training."""
        self.temperature, self.certainty, self.directions = 1.0, [], None
        self.strange = 2.0  # nothing is as strange as that

    def _build(self, policy):
        """A net of the present rung, its weights random."""
        return build_model(self.rung, self.settings, policy, len(self.classes), self.base)

    @functools.cached_property
    def device(self):
        """The Device in use; the first look at it starts TensorFlow."""
        self.console.status("starting TensorFlow ...")
        device = start_tensorflow(self.settings)
        self.console.clear()
        return device

    def load_data(self, directory=None):
        """The training and the validation photos of a dataset, as batches for `model.fit`.

        Two tf.data.Datasets of (float32 (B, 150, 150, 3) in 0..1, float32 (B, 1): 0 the first class, 1 the second), see
        `make_batches`; the training photos are shuffled and augmented anew each epoch, the validation photos never. The
        rung "features" gets what its base makes of them. Raises DatasetError, WeightsError.
        """
        directory, ignored = directory or self.settings.dataset, collections.Counter()
        self.training, self.validation = (load_photos(classes, self.size, self.console)
                                          for classes in self._list(directory, ignored).values())
        parts = [f"{len(self.training[1])} photos to train on ({self._counted(self.training[1])})",
                 f"{len(self.validation[1])} to validate ({self._counted(self.validation[1])})", *told(ignored)]
        self.console.say(f"{printable(directory)}: {', '.join(parts)}")
        self._set_epochs(len(self.training[1]))
        self._crc = crc_of(*self.training, *self.validation)
        self.device  # noqa: B018 (TensorFlow starts here, after all that can be wrong with the folder)
        self.rng = np.random.default_rng(self.settings.seed)
        return (self._batches(*self.training, Path(directory, "train"), self.rng),
                self._batches(*self.validation, Path(directory, "validation")))

    def _set_epochs(self, count):
        """Where nobody says how many, the best recipe has more epochs for fewer photos: augmented, they stay new.

        Drawings are learned sooner.
        """
        settings, kind = self.settings, RUNGS[self.rung]
        said = "epochs" in {**kind.training, **kind.best, **self._given}
        if settings.recipe == "best" and settings.augment and not said:
            wanted = 0 if self.drawings else math.ceil(SHOWN / (settings.steps * settings.batch_size or count))
            self.settings = replace(settings, epochs=min(max(wanted, Settings.epochs), MOST_EPOCHS))

    def _list(self, directory, ignored=None):
        """The photos of a dataset to train on and to validate, {split: {class: [paths]}}; its classes are ours now."""
        train = list_split(directory, "train", self.classes if self.facts else None, ignored)
        validation = list_split(directory, "validation", train, ignored)
        self.classes, self.drawings = tuple(train), any(is_drawing(photos[0]) for photos in train.values())
        return {"train": train, "validation": validation}

    def _batches(self, photos, labels, place, rng=None, rows=None):
        """Photos as the net in training is fed with them, shuffled and augmented with a numpy Generator."""
        settings, features = self.settings, RUNGS[self.rung].base == "features"
        if features:
            base = base_of(self._model_to_train())
            fed = features_of(base, photos, cache_name(place, f"-{self.base}.features"), self.console)
        else:
            fed = in_channels(photos, RUNGS[self.rung].channels)
        augment = HOW[settings.recipe].augment if rng and settings.augment and not features else None
        steps = settings.steps if rng else 0
        return make_batches(fed, labels, settings.batch_size, rng, augment, steps, len(self.classes), rows,
                            self._shown(augment))

    def _shown(self, augment):
        """What tells the side of the photos that training shows next, in pixels; None: that of those it answers.

        Parts show things larger than whole photos do, so that smaller ones do for them: that saves time, and the answer
        gains from the size at which things look as large as in training (Touvron et al. 2019, arXiv:1906.06423). Early
        epochs, which learn what is coarse, do with even smaller ones (Tan and Le 2021, arXiv:2104.00298).
        """
        return self._side if RUNGS[self.rung].crops and augment is draw_crops else None

    def _side(self):
        """The side of the parts of photos in the next epoch of the present training; without one, in the last."""
        crops, progress = RUNGS[self.rung].crops, self._progress
        share = progress.share(self.settings.epochs) if progress else 1.0
        return crops[min(int(share * len(crops)), len(crops) - 1)]

    def _counted(self, labels):
        """The number of labels (N, 1) of each class: "150 cat, 150 dog"."""
        counts = np.bincount(labels[:, 0].astype(int), minlength=len(self.classes))
        return ", ".join(f"{count} {printable(name)}" for count, name in zip(counts, self.classes, strict=True))

    def createModel(self):
        """A new net, untrained but for a pretrained base, compiled; see `convolutions`. Raises WeightsError."""
        self._take(self._build(self.training_policy), None)
        if RUNGS[self.rung].base:
            pretrain(self.model, self.base, self.settings.base_weights)
        return self.model

    @functools.cached_property
    def training_policy(self):
        """The Keras policy to train in: the one asked for, or what suits the device."""
        return PRECISIONS.get(self.settings.precision) or self.device.policy or faster_policy()

    @property
    def precision(self):
        """What the model computes in, by the name that --precision has for it."""
        return self.model.compute_dtype

    @property
    def answering_policy(self):
        """The Keras policy to answer in: float32, unless another one was asked for."""
        return PRECISIONS.get(self.settings.precision, "float32")

    def train(self, directory=None):
        """Train on a dataset and save the best epoch; returns the Keras History (loss, acc, val_loss, val_acc).

        Beside the weights appear the history as CSV, the two pictures, and while it lasts the state of the training:
        the next one, of the same kind on the same photos, goes on from there. Called again, it goes on from where it
        stands, and the History with it. Ctrl-C ends the training early and keeps the best so far, and so does SIGTERM,
        which then has its way. Raises DatasetError, WriteError, TrainingError, and KeyboardInterrupt when there is
        nothing to keep yet.
        """
        directory = directory or self.settings.dataset
        check_writable(self.settings.weights)
        check_replaceable(self.settings.weights)
        train, validation = self.load_data(directory)
        learned_from = self._look_for_copies(directory)
        if not self._climb(directory):
            return self.history
        train, weights = balanced(train, self.training[1])
        validation, _ = balanced(validation, self.validation[1])
        training = self._set_up(validation)
        self._progress = training.progress
        self.seen = np.union1d(self.seen, learned_from)[-MAX_SEEN:]
        self._announce(training, weights)
        self._forget()
        training.run(train, validation, self.history)
        self.kept = training.progress.kept
        if math.isinf(training.progress.best):
            self._nothing_to_keep(training)
        self._finish(training)
        if training.signal == signal.SIGTERM:
            interrupt(signal.SIGTERM)
        return self.history

    def _load_test(self, directory):
        """Load the test photos, if there are any."""
        try:
            self.test = load_photos(list_split(directory, "test", self.classes), self.size, self.console)
        except DatasetError as error:
            self.test = None
            self.console.say(f"There will be no test score: {error}")

    def _climb(self, directory):
        """Before a rung that goes on from another: take that one's weights, trained first; False if that was stopped.

        They are those in the weights file when it holds a net of that rung that began with the same base and has
        learned from the same photos.
        """
        before, weights = RUNGS[self.rung].after, self.settings.weights
        if not before or self._is_trained():
            return True
        recipe, unfinished = self._recipe(), None if self.settings.fresh else read_sealed(beside(weights, UNFINISHED))
        if unfinished and unfinished[1] == recipe:
            return True
        found, wanted = facts_of(weights), {**recipe, "net": f"{before} on {self.base}"}
        theirs, ending = found.get("recipe", {}), found.get("summary", {}).get("ending", "interrupted")
        fits = all(theirs.get(name) == wanted[name] for name in ("net", "photos", "classes", "--base-weights"))
        if fits and ending != "interrupted":
            self.console.say(f"It goes on from the {before} net in {printable(weights)}.")
        else:
            self.console.say(f"First {before}, which {self.rung} goes on from.")
            first = CatDogClassifier(**{**self._given, "model": before})
            first.train(directory)
            if first.summary["ending"] == "interrupted":
                self.console.say(f"This is still the {before} net: {self.rung} has not begun.")
                self.summary, self.files, self.history = first.summary, first.files, first.history
                return False
            self._climbed = first.facts["run"]  # one training in two parts: it replaces the weights of its first one
        self.load_weights()
        return True

    @property
    def _net(self):
        """What an unfinished training must be of to be gone on with."""
        return f"{self.rung} on {self.base}" if RUNGS[self.rung].base else self.rung

    def _look_for_copies(self, directory):
        """Say whether one photo is in several parts; returns the `marks` of those to train on and to validate."""
        self._load_test(directory)
        parts = {"train": self.training, "validation": self.validation} | ({"test": self.test} if self.test else {})
        parts = {part: fingerprints(photos) for part, (photos, _) in parts.items()}
        self.copies = copies_between(parts)
        if self.copies:
            command = f"python CatDogClassifier.py --check {shlex.quote(printable(directory))}"
            self.console.warn(f"{copies_line(self.copies)} Which: {command}")
        else:
            self.console.say(f"Looked for copies between {', '.join(parts)}: none found.")
        return np.concatenate([marks(parts[part][1]) for part in ("train", "validation")])

    def _set_up(self, validation):
        """The Training to run: of an unfinished one, of the net as it stands, or of a new one."""
        from keras.callbacks import History

        trained, recipe = self._is_trained(), self._recipe()
        progress, best_weights = self._go_on(recipe, trained)
        self.summary, model = {}, self._fitted()
        if progress is None:
            best = model.evaluate(validation, verbose=0)[0] if trained else math.inf
            progress = Progress(self.training_policy, self.history.history if self.history else {}, kept=self.kept,
                                best=best if math.isfinite(best) else math.inf)
            progress.start, progress.run = progress.epochs, self._climbed or progress.run
        self._run, self.history, self._climbed = progress.run, self.history or History(), None
        self.history.history = progress.history  # which Keras adds to from now on
        self.recipe = self._whole_recipe()
        save = functools.partial(self._save_state, recipe)
        return Training(model, progress, self.settings, self.console, best_weights, self._keep, save)

    def _recipe(self):
        """What a training must have in common with an unfinished one to go on with it: {what it is called: value}."""
        settings = {flags_of(each)[-1]: getattr(self.settings, each.name) for each in fields(Settings)
                    if each.name in RECIPE}
        base, source = RUNGS[self.rung].base, self.settings.base_weights
        if base:
            settings["--base-weights"] = source if source in ("imagenet", "none") else digest_of(source)
        if base == "features":  # it is not in the state of a training
            settings["base"] = digest(b"", map(np.asarray, base_of(self.model).weights))
        about = {"version": __version__, "net": self._net, "photos": self._crc, "classes": list(self.classes)}
        return {**about, **settings}

    def _whole_recipe(self):
        """What a training must have in common with a finished one to have come to the same."""
        test = crc_of(*self.test) if self.test else None
        return {**self._recipe(), "--epochs": self.settings.epochs, "--patience": self.settings.patience, "test": test}

    def _go_on(self, recipe, trained):
        """Make the net of an unfinished training the model; its Progress and best weights, or (None, None) if none."""
        path = beside(self.settings.weights, UNFINISHED)
        if self.settings.fresh or not os.path.lexists(path):
            path.unlink(missing_ok=True)
            return None, None
        content, theirs, facts = read_sealed(path) or (None, None, None)
        try:
            differs = [name for name, value in recipe.items() if theirs[name] != value]
            if trained:
                problem = "is not that of this net, which is trained already"
            elif differs:
                problem = f"is of another kind (other {', '.join(differs)})"
            else:
                progress = Progress(**facts)
                self.rng.bit_generator.state = progress.random
                if self.settings.precision == "auto":
                    self.training_policy = progress.policy
                return progress, unpack_state(content, self._fitted())
        except (TypeError, KeyError, ValueError):
            problem = "is damaged"
        self.console.say(f"The unfinished training {printable(path)} {problem}: starting over, which replaces it after "
                         "the first epoch. To keep it, press Ctrl-C now and name another --weights.")
        return None, None

    def _keep(self, training):
        self.kept = training.progress.kept
        self.save_weights()

    def _save_state(self, recipe, training):
        training.progress.random = self.rng.bit_generator.state
        arrays = pack_state(training.model, training.weights)
        write_whole(beside(self.settings.weights, UNFINISHED), *sealed(recipe, arrays, asdict(training.progress)))

    def _model_to_train(self):
        """A new net, or the present one; one that is as it was loaded is put into the policy of trainings."""
        if self.model is None and self.facts:  # LiteRT answered so far
            self.load_weights()
        if self.model is None:
            return self.createModel()
        untouched = self.model.optimizer is self._as_loaded and not int(self._as_loaded.iterations)
        if untouched and self.model.dtype_policy.name != self.training_policy:
            weights, self.model = self.model.get_weights(), self._build(self.training_policy)
            self.model.set_weights(weights)
        return self.model

    def _fitted(self):
        """The net in training: all of it, of the rung "features" the head, and for parts of photos one of any size."""
        model, part = self._model_to_train(), of_any_size if RUNGS[self.rung].crops else None
        part = head_of if RUNGS[self.rung].base == "features" else part
        if part and (self._head is None or self._head[0] is not model):
            self._head = model, part(model, self.settings)
        return self._head[1] if part else model

    def _is_trained(self):
        """True when the weights in the model are worth keeping: read from a file, or trained, here or by hand."""
        return self.facts is not None or (self.model is not None and int(self.model.optimizer.iterations) > 0)

    def _nothing_to_keep(self, training):
        self._take(None, None)
        if training.ending != "interrupted":
            raise TrainingError("loss or weights are no numbers from the start", "Try a smaller --learning-rate")
        self.console.warn("Stopped before the first epoch was over: nothing was saved.")
        interrupt(training.signal)

    def _announce(self, training, weights):
        """Say what starts, where, and how to stop it."""
        done, last = training.progress.epochs, training.last
        if self.drawings:
            self.console.say("These are drawings: a net trained on them knows nothing of photographs.\n" + REAL_PHOTOS)
        if weights is not None:
            each = zip(self.classes, weights, strict=True)
            counts = ", ".join(f"a {printable(name)} {weight:.2f} times" for name, weight in each)
            self.console.say(f"So that unequal classes weigh the same, it counts {counts}.")
        who, net = " from ".join(map(printable, self.classes)), f" Net: {self._net}." if self.rung != "default" else ""
        self.console.say(f"Training to tell {who}, by the recipe {self.settings.recipe}, on the {self.device.name} in "
                         f"{self.precision}; epochs: at most {last}.{net}")
        best = training.progress.best
        if done == training.progress.start and math.isfinite(best):
            self.console.say(f"It begins with a val_loss of {best:.3f}: only what is better is kept.")
        if done > training.progress.start:
            no_more = "; --epochs asks for no more" if done >= last else ""
            self.console.say(f"Going on after epoch {done} of an unfinished training (--fresh starts over){no_more}.")
        self.console.say("Ctrl-C stops and keeps the best so far.")

    def _judge(self):
        """Calibrate the best epoch on the validation photos; score it on them, and on test photos if there are any."""
        parts = {"validation": self.validation} | ({"test": self.test} if self.test else {})
        raw = {part: self._shares(photos) for part, (photos, _) in parts.items()}
        labels = {part: truth for part, (_, truth) in parts.items()}
        self.temperature = fit_temperature(raw["validation"], labels["validation"])
        shares = {part: cooled(found, self.temperature) for part, found in raw.items()}
        self.certainty = certainty_of(shares["validation"], labels["validation"])
        self._know_own_kind()
        for part in parts:
            self.summary[part] = score(shares[part], labels[part])
        part = "test" if self.test else "validation"  # where there are any, on photos that it was not fitted on
        self.summary["calibration"] = {
            "temperature": round(self.temperature, 4), "photos": part,
            "before": reliability(raw[part], labels[part]), "after": reliability(shares[part], labels[part])}

    def _know_own_kind(self, most=1000):
        """Find what is familiar in the training photos, and how strange validation photos may be."""
        seeing = described(self.predictor)
        if seeing is None or len(self.validation[1]) < ENOUGH_PHOTOS:
            return

        photos = self.training[0]
        some = np.sort(np.random.default_rng(0).permutation(len(photos))[:most])
        self.directions = familiar(self._outputs(seeing, photos[some]))
        strange = 1 - np.linalg.norm(self._outputs(seeing, self.validation[0]) @ self.directions.T, axis=1)
        margin = 10 * np.ptp(strange) / len(strange)  # few photos do not show how strange the strangest may be
        self.strange = float(np.quantile(strange, 1 - TURNED_AWAY) + margin)

    def _finish(self, training):
        """After training: write history and curves, score the best epoch, save it once more with what is now known."""
        progress, weights = training.progress, self.settings.weights
        self.save_weights()
        extras = {HISTORY: lambda: pack_history(progress.history), ACCURACY: lambda: pack_figure(self.showAcc()),
                  LOSS: lambda: pack_figure(self.showLoss())}
        self.files = [weights, *filter(None, itertools.starmap(self._write_beside, extras.items()))]
        self.summary = {**training.outcome(), "validation": None, "test": None, "learned": None, "calibration": None,
                        "copies": self.copies, "device": self.device.name, "precision": self.precision,
                        "drawings": self.drawings, "rung": self.rung, "parameters": self.model.count_params()}
        if training.ending != "interrupted":
            self._judge()
            self.files += filter(None, [self._write_beside(RELIABILITY, lambda: pack_figure(self.showReliability()))])
            if progress.epochs >= ENOUGH_EPOCHS:
                self.summary["learned"] = better_than_guessing(self.summary["validation"])
            if self.summary["learned"] is False:
                self.summary["overfitted_from"] = None
        self.save_weights()
        if training.ending != "interrupted":
            beside(weights, UNFINISHED).unlink(missing_ok=True)

    def _write_beside(self, ending, pack):
        """Write what `pack` makes beside the weights; returns its path, or None and a word: it must not cost them."""
        path = beside(self.settings.weights, ending)
        try:
            if os.path.lexists(path) and not is_ours(path):
                raise WriteError("a file that this program has not written is there")
            write_whole(path, pack())
        except Exception as error:  # noqa: BLE001 (whatever a plotting library fails with)
            self.console.warn(f"{printable(path)} is missing: {printable(error)}")
            return None
        return str(path)

    def save_weights(self):
        """Write the weights with what is known of them; a file of an earlier training is kept as NAME.previous.h5."""
        import keras
        import tensorflow as tf

        self._keep_previous(Path(self.settings.weights))
        versions = {library.__name__: library.__version__ for library in (keras, tf, np)}
        self.facts = {
            "program": PROGRAM, "rung": self.rung, "base": self.base if RUNGS[self.rung].base else None,
            "classes": list(self.classes), "image_size": self.size, "drawings": self.drawings, "versions": versions,
            "run": self._run, "recipe": self.recipe, "summary": self.summary, "temperature": self.temperature,
            "certainty": self.certainty, "strange": self.strange,
        }
        write_whole(self.settings.weights, pack_weights(self.model, self.facts, self.seen, self.directions))

    def _keep_previous(self, path):
        """Keep the weights of an earlier training; but those of one that was not finished must not cost others."""
        self._run = self._run or os.urandom(8).hex()
        found, previous = facts_of(path), beside(path, PREVIOUS)
        unfinished = found and found["summary"].get("ending", "interrupted") == "interrupted"
        if path.exists() and found.get("run") != self._run and not (unfinished and previous.exists()):
            write_whole(previous, path.read_bytes())
            self.console.say(f"The weights of an earlier training are kept as {printable(previous)}.")

    @property
    def source(self):
        """The weights file to read: where nothing was named and nothing trained, the one that came with the program."""
        weights = self.settings.weights
        asked = {"weights", "model", "base"} & set(self._given)
        return weights if asked or os.path.lexists(weights) or not BOX.exists() else str(BOX)

    def load_weights(self, path=None):
        """Take the weights of a file instead of training: ours, or the tutorial's of Keras 2. Raises WeightsError.

        By default those of `source`. Of ours the file says which rung they are of; others must be of the present one.
        """
        path = path or self.source
        if not os.path.exists(path):
            fix = f"Train first: python CatDogClassifier.py --weights {shlex.quote(printable(path))}. "
            fix += (f"Or take the net that came with the program: --weights {shlex.quote(os.path.relpath(BOX))}"
                    if BOX.exists() else f"{BOX.name}, which comes with the program, is missing")
            raise WeightsError(f"there are no weights at {path}", fix)
        self.device  # noqa: B018 (TensorFlow starts here)
        stranger = {"rung": self.rung, "base": self.base, "classes": default_classes(self.rung)}
        about = facts_of(path) or stranger
        self._check_rung(about, path)
        rung = self.rung if RUNGS[self.rung].after == about["rung"] else about["rung"]
        model = build_model(rung, self.settings, self.answering_policy, len(about["classes"]), about["base"])
        facts, extras = unpack_weights(path, model)
        facts |= stranger if about is stranger else {}
        if (rung, about["base"]) != (self.rung, self.base):
            self._be(rung, about["base"] or self.base)
        self._take(model, facts)
        self._as_loaded, self.directions = model.optimizer, extras.get("directions")
        self.seen = extras.get("seen", self.seen)
        self._know(facts)
        seeing = described(model) if self.directions is not None else None
        if seeing is None or self.directions.shape[1] != seeing.output_shape[1]:
            self.directions = None  # they are of another net

    def _check_rung(self, about, path):
        """Raise WeightsError when weights are of another net than the one asked for by name."""
        theirs, fix = about["rung"], "Leave out --model and --base, or name another --weights"
        if "model" in self._given and theirs not in (self.rung, RUNGS[self.rung].after):
            raise WeightsError(f"{path} holds the weights of a net of the rung {theirs}, not {self.rung}", fix)
        if "base" in self._given and RUNGS[theirs].base and about["base"] != self.base:
            raise WeightsError(f"{path} holds the weights of a net on {about['base']}, not on {self.base}", fix)

    def showAcc(self):
        """The Figure of the accuracy over the epochs. Raises TrainingError before any training."""
        return self._curves("acc", "Accuracy")

    def showLoss(self):
        """The Figure of the loss over the epochs. Raises TrainingError before any training."""
        return self._curves("loss", "Loss")

    def showReliability(self):
        """The Figure of how far confidences agree with the share that is right. Raises TrainingError without any."""
        found = self.summary.get("calibration")
        if not found:
            raise TrainingError("it is not known yet how far its confidences can be relied on", "Call train() first")
        return draw_reliability(found["before"], found["after"], f"{found['photos']} photos")

    def _curves(self, name, title):
        if not (self.history and self.history.history):
            raise TrainingError("there are no curves to draw yet", "Call train() first")
        return draw_curves(self.history.history, name, title, self.kept)

    @property
    def predictor(self):
        """The net that answers: the trained weights in `answering_policy`."""
        if self.model is None or not self._is_trained():
            self.load_weights()
        if self.model.dtype_policy.name == self.answering_policy:
            return self.model
        kind = self.rung, self.base, self.classes
        if self._answering is None or self._answering[0] != kind:
            self._answering = kind, self._build(self.answering_policy)
        self._answering[1].set_weights(self.model.get_weights())
        return self._answering[1]

    @property
    def answer(self):
        """What answers: a function from uint8 photos (N, size, size, 3) to the probabilities of the classes, (N, K).

        The net itself; but for weights in a file, LiteRT where it is installed: it starts at once.
        Raises WeightsError.
        """
        if self.model is None and self.answering_policy == "float32" and find_spec("ai_edge_litert"):
            self._litert = self._litert or self._open_litert()
        if self.model is not None or not self._litert:
            self.predictor  # noqa: B018 (it loads what is in the weights file)
        return lambda photos: self._see(photos)[0]

    def _see(self, photos):
        """The probabilities of the classes for photos, (N, K), and how strange each of them is to the net, (N,)."""
        if self.model is None and self._litert:
            look, watchful = self._litert, self.facts["watchful"]
        else:
            look, watchful = functools.partial(outputs, self.watcher), self.directions is not None
        found = self._looking(look)(photos)
        found, strange = (found[:, :-1], found[:, -1]) if watchful else (found, np.zeros(len(found)))
        return cooled(shares_of(found), self.temperature), strange

    def _looking(self, look):
        """How this net looks at photos with `look`: once, or twice.

        Where parts of photos were shown smaller, see `_shown`, whole ones are large enough already.
        """
        count, mirrored = len(self.classes), self.recipe.get("--no-augment") is True  # kept by its flag: did it augment
        twice, part = mirrored and self._taught and self._taught.twice, 1.0 if RUNGS[self.rung].crops else CLOSER
        return looking_twice(look, 1 if count == 2 else count, part) if twice else look

    @property
    def _taught(self):
        """The Recipe that these weights were trained by; None where that is not known."""
        name = self.recipe.get("--recipe")
        return HOW[name] if name in list(HOW) else None  # in a list: a file may say anything

    @property
    def watcher(self):
        """The `predictor`, watchful where it is known what is familiar to it."""
        model, directions = self.predictor, self.directions
        if directions is None:
            return model
        if self._watcher is None or self._watcher[0] is not model or self._watcher[1] is not directions:
            self._watcher = model, directions, watchful(model, directions)
        return self._watcher[2]

    def _open_litert(self):
        """The weights file on LiteRT; None where that fails. Converted once, a cache keeps it as long as they match."""
        weights = self.source
        name, state = cache_name(weights, ".litert"), self._state_of_weights()
        found = read_cache(name, state)
        if not found and state and can_write_cache():
            source = CatDogClassifier(**self._given)
            watcher, watchful = source.watcher, source.directions is not None
            found = self._convert(watcher, {**source.facts, "watchful": watchful}, name, state)
        try:
            answering, facts = litert_outputs(found[0].tobytes()), found[1]
        except Exception:  # noqa: BLE001 (whatever an optional library fails with, there is Keras)
            return None
        self._check_rung(facts, weights)
        self._be(facts["rung"], facts["base"] or self.base)
        self.facts = {"watchful": False, **facts}
        self._know(facts)
        return answering

    def _state_of_weights(self):
        """What a conversion of the weights file is made from: its content, and what is asked for; None without one."""
        content = digest_of(self.source)
        return content and f"{content} {self._given.get('model')} {self._given.get('base')}"

    def _convert(self, model, facts, name, state):
        """Write the cache of a model for LiteRT and read it; None where that fails, or the weights file has changed."""
        try:
            content = pack_litert(model)
            if self._state_of_weights() == state:
                write_cache(name, state, [content], facts)
                return read_cache(name, state)
        except Exception:  # noqa: BLE001, S110 (TensorFlow's converter raises plain ones)
            pass
        return None

    def _know(self, facts):
        """Answer with the classes of these weights, as sure as they are found to be."""
        self.classes, self.drawings = tuple(facts["classes"]), bool(facts["drawings"])
        self.temperature, self.certainty, self.strange = facts["temperature"], facts["certainty"], facts["strange"]
        self.recipe = facts["recipe"]

    def threshold(self):
        """From which confidence on it answers, by `unsure` of the Settings: see `threshold_of`. Raises WeightsError."""
        if self.settings.unsure is None:
            return 0.0, 0.0, 0.0
        self.answer  # noqa: B018 (what the weights know of themselves)
        if not self.certainty:
            raise WeightsError(f"{self.source} does not say how far it can be relied on", "Train to the end")
        return threshold_of(self.certainty, self.settings.unsure)

    def evaluate(self, directory=None, split="test"):
        """The scores on one split of a dataset, by default the one that training never sees.

        Those of `score` and `rates`, the names of the classes, `confusion` as lists, and `seen`: how many of the photos
        the net learned from. Raises DatasetError, WeightsError.
        """
        self.predictor  # noqa: B018 (its weights say which classes to expect)
        classes = list_split(directory or self.settings.dataset, split, self.classes)
        photos, labels = load_photos(classes, self.size, self.console)
        shares = self._shares(photos)
        table = confusion(shares, labels)
        return {**score(shares, labels), **rates(table), "classes": list(self.classes), "confusion": table.tolist(),
                "seen": known_among(fingerprints(photos)[1], self.seen)}

    def _shares(self, photos):
        """The probabilities of the classes for photos, float64 (N, K)."""
        look = self._looking(functools.partial(self._outputs, self.predictor))
        return cooled(shares_of(look(photos)), self.temperature)

    def _outputs(self, model, photos):
        """Like `outputs` for many photos: they are scaled a batch at a time, while the net computes."""
        batches = make_batches(in_channels(photos, RUNGS[self.rung].channels), np.zeros((len(photos), 1)), 64)
        return model.predict(batches, verbose=0)

    def explain(self, path):
        """What the net sees in a photo: its Prediction, and PIL images {"heatmap", "activations", "augmented"}.

        The heatmap is that of `grad_cam` for the likeliest class, over the photo in its own shape; the activations are
        those of `activations_of`; augmented are sixteen versions of the photo as training sees it. Raises PhotoError,
        WeightsError, and UsageError for a net without convolutions.
        """
        model, path = self.predictor, os.fspath(path)
        photo, whole = read_photo(path, self.size), view(path, 490)
        (shares,), (strange,) = (found.tolist() for found in self._see(photo[None]))
        answer = self._prediction(path, shares, strange, self.threshold()[0])
        heat = grad_cam(model, photo, self.classes.index(answer.label))
        told = f"{answer.label} {percent(answer.confidence)}"
        told += f", verdict {answer.verdict}" if answer.verdict != answer.label else ""
        title = f"{named_briefly(path)}: {told}; it sees most of that where it is red"
        plain = RUNGS[self.rung].base == "features" or not self.recipe.get("--no-augment", True)
        seen = "augmentation would change it; this net learned without" if plain else "training sees it, anew each time"
        augmented = page([(f"as {seen}", in_grid(self._augmented(photo), 4))], 620)
        heatmap = page([(title, twofold(whole, heat))])
        return answer, {"heatmap": heatmap, "activations": self._layers(photo), "augmented": augmented}

    def _layers(self, photo, most=64):
        """What each layer makes of a photo, a PIL image; of nets with thousands of maps only so many of each layer."""
        found, parts = activations_of(self.predictor, photo), []
        most = most if sum(maps.shape[2] for _, maps in found) > 2000 else None
        for layer, maps in found:
            cut = f"; the first {most}" if most and maps.shape[2] > most else ""
            shape = " x ".join(map(str, maps.shape))
            title = f"{layer}: {shape}, {percent((maps == 0).mean())} zeros{cut}"
            parts.append((title, in_grid(visible(maps)[..., :most])))
        return page(parts)

    def _augmented(self, photo, count=16):
        """So many versions of a photo as training sees it: uint8 (side, side, count, 3)."""
        import tensorflow as tf

        recipe = self._taught or HOW[self.settings.recipe]
        draws = recipe.augment(np.random.default_rng(self.settings.seed or 0), count, self.size)
        photos, compiled = np.repeat(photo[None], count, axis=0), tf.function(warp, jit_compile=True)
        side = self._shown(recipe.augment)
        changed = compiled(photos, tf.constant(draws, tf.float32), side and side())
        return np.rint(np.asarray(changed) * 255).astype(np.uint8).transpose(1, 2, 0, 3)

    @functools.cached_property
    def _imagenet(self):
        """The net for ImageNet, and the names of its classes."""
        self.device  # noqa: B018 (TensorFlow starts here)
        source = self.settings.base_weights
        return imagenet_net(self.base, source), imagenet_names(source)

    def imagenet(self, path, top=3):
        """What a net for ImageNet, `base` of the Settings, sees in a photo: [(class, probability), ...].

        And a PIL image, where it sees the first of them. Raises PhotoError, WeightsError.
        """
        (model, names), photo, whole = self._imagenet, read_photo(path, 224), view(path, 490)
        logits = outputs(model, photo[None])[0].astype(np.float64)
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        first = np.argsort(-shares, kind="stable")[:top]
        title = f"{named_briefly(path)}: {names[first[0]]} {percent(shares[first[0]])}, and where it sees that"
        picture = page([(title, twofold(whole, grad_cam(model, photo, int(first[0]))))])
        return [(names[place], float(shares[place])) for place in first], picture

    def filters(self):
        """What each filter of each convolution looks for: yields (name of the layer, PIL image), see `filters_of`.

        Raises WeightsError, and UsageError for a net without convolutions.
        """
        model = self.predictor  # with which TensorFlow starts, without its chatter: before any import of Keras
        last_maps(model)  # or it has nothing to show
        from keras import layers

        shown = [layer for layer in model.layers if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D))]
        count = sum(layer.output.shape[-1] for layer in shown)
        self.console.say(f"{count} filters in {len(shown)} layers, a picture for each layer; deep ones take longest.")
        for layer in shown:
            pictures = filters_of(model, layer, self.console)
            title = f"{layer.name}: what its {pictures.shape[2]} filters look for"
            yield layer.name, page([(title, in_grid(pictures, columns=8, gap=4))], 8 * (pictures.shape[1] + 4))

    def _beside(self, path, label, side=280):
        """A photo beside itself under the heatmap of a class: uint8 (H, W, 3); alone for a net without convolutions."""
        whole = view(path, side)
        with contextlib.suppress(UsageError):
            return twofold(whole, grad_cam(self.predictor, read_photo(path, self.size), self.classes.index(label)))
        return whole

    def reportScores(self, directory=None, split="test", most=25, about=()):
        """A web page, as text, on how well the net does on one split of a dataset, see `evaluate`, and lines about it.

        Scores, confusion, how far confidences can be relied on, and with their heatmaps the most confident mistakes and
        the least sure answers, so many of each. Raises DatasetError, WeightsError.
        """
        directory, scores = directory or self.settings.dataset, self.evaluate(directory, split)
        classes = list_split(directory, split, self.classes)
        truth = {path: name for name, paths in classes.items() for path in paths}
        rows = sorted((row for row in self.predict(list(truth)) if not row.error), key=lambda row: row.confidence)
        wrong = [row for row in rows if row.label != truth[row.path]][::-1]
        shares = np.array([list(row.probabilities.values()) for row in rows])
        found = reliability(shares, np.array([[self.classes.index(truth[row.path])] for row in rows]))
        picture = in_url(pack_figure(draw_reliability(None, found, f"{split} photos")), "png")

        def cases(rows):
            """Photos with the heatmap of their answer, and what was right."""
            told = ((row, f"{row.label} {percent(row.confidence)}, is {truth[row.path]}: "
                     f"{os.path.relpath(row.path, directory)}") for row in rows[:most])
            drawn = []
            for row, caption in told:
                with contextlib.suppress(PhotoError):  # it has vanished meanwhile
                    drawn.append((self._beside(row.path, row.label), caption))
            return html_cases(drawn)

        off = f"confidences are off by {percent(found['error'])} on average"
        told = (f"Right: {score_line(scores)}; balanced {percent(scores['balanced_accuracy'])}; "
                f"loss {scores['loss']:.4f}. Net: {self._net}; {off}.")
        about = [told, *([seen_line(scores)] if scores["seen"] else []), *about]
        drawn = f'<img src="{picture}" alt="Share that is right by confidence; {off}">'
        return html_page(f"{directory}: {split} photos", [
            (None, html_lines(about)), ("Who was taken for whom", html_confusion(scores)),
            ("How far confidences can be relied on", drawn),
            (f"The most confident mistakes: {min(most, len(wrong))} of {len(wrong)}", cases(wrong)),
            (f"The least sure answers: {min(most, len(rows))} of {len(rows)}", cases(rows))])

    def reportFolder(self, directory, rows, about=()):
        """A web page, as text: a gallery of the Predictions of a folder, by verdict, and lines about them.

        The least sure come first, of what is neither the strangest.
        """
        answered = sorted((row for row in rows if not row.error), key=lambda row: row.confidence)
        photos = dict(read_photos([row.path for row in answered], THUMBNAIL))
        sheets, parts, groups = [], [], collections.defaultdict(list)
        for row in sorted(answered, key=lambda row: -row.strangeness if row.verdict == "neither" else 0):
            if not isinstance(photos[row.path], PhotoError):
                doubt = f" ({row.label}?)" if row.verdict != row.label else ""
                told = f"{percent(row.confidence)}{doubt} {os.path.relpath(row.path, directory)}"
                groups[row.verdict].append((photos[row.path], told))
        for verdict, cases in sorted(groups.items()):
            parts.append((f"{verdict}: {len(cases)}", html_gallery(cases, sheets)))
        unread = [[os.path.relpath(row.path, directory), row.error or photos[row.path]] for row in rows
                  if row.error or isinstance(photos[row.path], PhotoError)]
        parts += [(f"Unreadable: {len(unread)}", html_table(["file", "why"], unread))] if unread else []
        counts = printable(", ".join(f"{len(cases)} {verdict}" for verdict, cases in sorted(groups.items())))
        return html_page(f"{directory}: {len(rows)} files", [(None, html_lines([counts, *about])), *parts], sheets)

    def compare(self, directory=None, rungs=(), seeds=1):
        """Train rungs of the ladder on the same photos, one after another; yields a row for each training.

        By default all that need no download. A row is a dict: rung, seed, parameters, epochs, best_epoch, seconds,
        bytes, tutorial, `curve`, the validation accuracy of each epoch, and the `score` on the test photos. Weights and
        curves lie in a folder beside the weights, which are left alone; called again, what is finished there is not
        trained again, and what is not is gone on with. A rung that cannot be trained is said and left out. Raises
        DatasetError, WriteError, KeyboardInterrupt.
        """
        list_split(directory or self.settings.dataset, "test")  # without it there is nothing to compare
        first, source = self.settings.seed or 0, self.settings.base_weights
        here = [name for name, rung in RUNGS.items() if not rung.base or has_base(self.settings.base, source)]
        for rung, seed in itertools.product(dict.fromkeys(rungs or here), range(first, first + seeds)):
            try:
                yield self._trial(rung, seed, directory)
            except (TrainingError, WeightsError) as error:
                self.console.warn(f"{rung} is left out: {error}")

    def _trial(self, rung, seed, directory):
        """One training of a comparison, or what it has left: a row."""
        path = beside(self.settings.weights, COMPARED) / f"{rung}-{seed}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        given, before = {**self._given, "seed": seed}, RUNGS[rung].after
        run = CatDogClassifier(**{**given, "model": rung, "weights": str(path)})
        self.console.say(f"\n{rung}, seed {seed}: {RUNGS[rung].change}")
        if not run._is_done(directory):
            if before and not beside(path, UNFINISHED).exists():  # what it goes on from need not be trained twice
                begin = path.with_name(f"{before}-{seed}.h5")
                if CatDogClassifier(**{**given, "model": before, "weights": str(begin)})._is_done(directory):
                    write_whole(path, begin.read_bytes())
                    run._climbed = facts_of(begin)["run"]
            run.train(directory)
            if run.summary["ending"] == "interrupted":
                raise KeyboardInterrupt
        summary = facts_of(path)["summary"]
        told = {name: summary[name] for name in ("parameters", "epochs", "best_epoch", "seconds")}
        return {"rung": rung, "seed": seed, **told, "bytes": path.stat().st_size, "tutorial": RUNGS[rung].tutorial,
                "curve": read_history(beside(path, HISTORY))["val_acc"], **summary["test"]}

    def _is_done(self, directory):
        """Whether the weights file holds just the net that a training now would end with, and its test score."""
        weights, directory = self.settings.weights, directory or self.settings.dataset
        facts, curve = facts_of(weights), read_history(beside(weights, HISTORY)).get("val_acc", [])
        summary = facts.get("summary", {})
        whole = summary.get("test") and summary["ending"] != "interrupted" and len(curve) == summary["epochs"]
        if self.settings.fresh or facts.get("rung") != self.rung or not whole:
            return False
        self.load_data(directory)
        self._load_test(directory)
        return facts.get("recipe") == self._whole_recipe()

    def crossValidate(self, directory=None, folds=5, repeats=1):
        """K-fold cross-validation on the photos to train on and to validate: each fold a fresh net, nothing is saved.

        Each fold validates once, after a training on the others for all epochs; from the second repeat on the photos
        are shuffled before they are dealt out. Returns what `judged` says of all of them. Raises UsageError,
        DatasetError, TrainingError, KeyboardInterrupt.
        """
        if RUNGS[self.rung].after:
            raise UsageError(f"--folds takes a rung that begins anew, not {self.rung}")
        directory, histories = directory or self.settings.dataset, []
        classes = [*self._list(directory).values()]
        pooled = {name: list(itertools.chain(*(split[name] for split in classes))) for name in self.classes}
        photos, labels = load_photos(pooled, self.size, self.console)
        self.console.say(f"{len(labels)} photos ({self._counted(labels)}), net: {self._net}, on the {self.device.name}")
        self._set_epochs(len(labels) * (folds - 1) // folds)
        self.rng, place = np.random.default_rng(self.settings.seed), Path(directory, "folds")
        for repeat in range(repeats):
            parts = folds_of(labels, folds, self.rng if repeat else None)
            for number, held in enumerate(parts, start=1):
                again = f", repeat {repeat + 1} of {repeats}" if repeats > 1 else ""
                self.console.say(f"Fold {number} of {folds}{again}")
                rest = np.concatenate([part for part in parts if part is not held])
                histories.append(self._fold(photos, labels, place, rest, held))
        self._take(None, None)
        return {"folds": folds, "repeats": repeats, "epochs": self.settings.epochs, **judged(histories)}

    def _fold(self, photos, labels, place, rest, held):
        """Train a fresh net on some of the photos for all epochs, validate it on others: its history."""
        from keras.callbacks import History

        self._take(None, None)
        history, settings, nothing = History(), replace(self.settings, patience=0), lambda training: None
        train, _ = balanced(self._batches(photos, labels, place, self.rng, rest), labels[rest])
        validation, _ = balanced(self._batches(photos, labels, place, rows=held), labels[held])
        progress = Progress(self.training_policy, history.history)
        training = Training(self._fitted(), progress, settings, self.console, None, nothing, nothing)
        self._progress = progress
        training.run(train, validation, history)
        if training.ending == "interrupted":
            interrupt(training.signal)
        if training.ending == "diverged":
            raise TrainingError("loss or weights of a fold are no numbers", "Try a smaller --learning-rate")
        return history.history

    def check(self, directory=None, labels=False):
        """The doctor's Report on a dataset, or on any folder of photos; nothing is changed.

        With `labels` the net says which of them it contradicts. Raises DatasetError, WeightsError.
        """
        answer = self.answer if labels else None  # which names the classes
        return check_dataset(directory or self.settings.dataset, self.size if labels else SIDE, self.console, answer,
                             self.classes)

    def showCheck(self, report, most=PICTURED):
        """The Figure of a Report: photos that are there twice, doubtful labels, some of each; None without any."""
        kinds, cases = ("leak", "contradiction", "label", "copies"), []
        for finding in itertools.chain(*(report.groups().get(kind, [])[:most] for kind in kinds)):
            paths = dict.fromkeys((finding.paths[0], finding.paths[-1]))
            photos = [(os.path.relpath(path, report.folder), photo) for path, photo in read_photos(paths, SIDE)
                      if not isinstance(photo, PhotoError)]
            if photos:
                cases.append((f"{finding.kind}: {finding.detail}", FINDINGS[finding.kind][1], photos))
        return draw_findings(cases) if cases else None

    def predict(self, photos):
        """Classify a photo, a folder, or a list of photos: a list of Predictions, one per photo.

        A photo that cannot be read is a Prediction with an error. Raises WeightsError when there is nothing to load.
        """
        if isinstance(photos, (str, os.PathLike)):
            photos = list_photos(photos) if os.path.isdir(photos) else [photos]
        return list(self.predict_each(photos))

    def predict_each(self, paths, batch_size=64):
        """Like `predict` for any iterable of paths, but yields each Prediction as soon as it is known."""
        self.answer  # noqa: B018 (it loads the weights)
        (least, *_), reads = self.threshold(), read_photos(map(os.fspath, paths), self.size)
        while chunk := list(itertools.islice(reads, batch_size)):
            answers, strange = self._see([photo for _, photo in chunk if not isinstance(photo, PhotoError)])
            if not np.isfinite(answers).all():
                raise WeightsError(f"{self.source} gives answers that are no numbers", "Train anew")
            answers = zip(answers.tolist(), strange.tolist(), strict=True)
            for path, photo in chunk:
                if isinstance(photo, PhotoError):
                    yield Prediction(path, error=str(photo))
                else:
                    yield self._prediction(path, *next(answers), least)

    def _prediction(self, path, shares, strange, least):
        """The Prediction for a photo with these probabilities of the classes, so strange; below the `least` unsure."""
        probabilities = dict(zip(self.classes, shares, strict=True))
        label = max(probabilities, key=probabilities.get)
        verdict = label if probabilities[label] >= least else "unsure"
        verdict = "neither" if strange > self.strange else verdict
        return Prediction(path, label, probabilities[label], verdict, strange, probabilities)


# ======================================================================================================================
# 15. Command line
# ======================================================================================================================

EXAMPLES = """\
examples:
  python CatDogClassifier.py                           train on dataset/
  python CatDogClassifier.py -f photo.jpg              classify a photo
  python CatDogClassifier.py -d holiday                classify a folder
  python CatDogClassifier.py -d holiday --csv > a.csv  the same, into a file
  find . -name '*.jpg' | python CatDogClassifier.py -  the paths on stdin
  python CatDogClassifier.py --download --dataset pets get 25,000 photos (786 MB)
  python CatDogClassifier.py --prepare photos --dataset pets
                                                       get your own photos in
  python CatDogClassifier.py --check pets              look for what is wrong with them
  python CatDogClassifier.py --dataset pets            train on them
  python CatDogClassifier.py --dataset pets --evaluate score the net on its test photos
  python CatDogClassifier.py --dataset pets --compare  climb the ladder: all nets, one scoreboard
"""


class Parser(argparse.ArgumentParser):
    """Shows what it did not understand without letting it act on the terminal: that may be the name of a file."""

    def error(self, message):
        super().error(printable(message))


def ladder():
    """What --model and --base choose from, for the help."""
    rungs = "\n".join(f"  {name:<15} {rung.change}" for name, rung in RUNGS.items())
    return (f"rungs of the ladder (--model), each with a training of its own where nothing else is asked for:\n{rungs}"
            f"\n\npretrained bases (--base):\n  {', '.join(BASES)}")


def build_parser():
    """The command line; the defaults are those of Settings."""
    parser = Parser(
        prog="CatDogClassifier.py", usage="python CatDogClassifier.py [action] [options]", description=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, add_help=False, epilog=ladder(),
    )
    add_actions(parser.add_argument_group("actions (without one: train)"))
    group = parser.add_argument_group("options (defaults of the rung called default)")
    for setting in fields(Settings):
        add_setting(group, setting)
    group.add_argument("--sort-into", metavar="DIR",
                       help="-d: copy each photo into DIR/cat, DIR/dog, DIR/neither, or with --unsure DIR/unsure")
    group.add_argument("--report", metavar="FILE.html", help="-d, --evaluate: make a web page of the results as well")
    group.add_argument("--dry-run", action="store_true", help="--sort-into: show what would be copied where")
    group.add_argument("--split", metavar="T,V,T", help="--prepare, --download: photos per class, or shares, to train, "
                       f"to validate and to test (default: {SPLIT})")
    group.add_argument("--download-url", metavar="URL", help="another place of the archive; file:// too")
    group.add_argument("--download-sha256", metavar="HEX", help="what the archive must be, or else nothing is unpacked")
    group.add_argument("--assert-accuracy", type=float, metavar="X",
                       help="--evaluate: exit with 1 when less than this share is right, 0.9 for one")
    group.add_argument("--seeds", type=int, metavar="N", help="--compare: train each rung so many times (default: 1)")
    group.add_argument("--repeats", type=int, metavar="N",
                       help="--folds: do it so often, the photos shuffled in between (default: 1)")
    group.add_argument("--show", action="store_true", help="show the curves in windows after training")
    formats = group.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_const", dest="style", const="json", help="print JSON Lines")
    formats.add_argument("--csv", action="store_const", dest="style", const="csv", help="print CSV")
    return parser


def add_actions(group):
    """The flags that say what to do."""
    group.add_argument("paths", nargs="*", metavar="-", help="classify photos whose paths come on stdin, one a line")
    actions = group.add_mutually_exclusive_group()
    actions.add_argument("-f", "--file", nargs="+", metavar="IMAGE", help="classify photos")
    actions.add_argument("-d", "--directory", metavar="DIR", help="classify all photos of a folder and its subfolders")
    actions.add_argument("--download", action="store_true",
                         help="make a dataset of Microsoft's 25,000 photos of cats and dogs; needs --dataset NEW")
    actions.add_argument("--prepare", metavar="SOURCE", help="copy photos into a new dataset; needs --dataset NEW")
    actions.add_argument("--check", nargs="?", const="", metavar="DIR",
                         help="report what is wrong with a dataset, or any folder of photos: broken, odd or double "
                         "photos; with --weights, wrong labels too")
    actions.add_argument("--evaluate", action="store_true", help="score the weights on DATASET/test")
    actions.add_argument("--explain", nargs="+", metavar="IMAGE",
                         help="draw what the net sees in photos: where it looks, layer by layer, and as training does")
    actions.add_argument("--imagenet", nargs="+", metavar="IMAGE",
                         help="what a net for the 1,000 classes of ImageNet, --base, sees in photos, and where")
    actions.add_argument("--filters", action="store_true", help="draw what each filter of the net looks for")
    actions.add_argument("--compare", nargs="*", metavar="RUNG",
                         help="train rungs of the ladder one after another, by default all that need no download, and "
                         "print a scoreboard; stopped, the same command goes on")
    actions.add_argument("--folds", type=int, metavar="K",
                         help="cross-validate: K trainings, each validated on another part of the photos")
    actions.add_argument("--summary", action="store_true", help="show the layers of a net, of --model RUNG for one")
    actions.add_argument("--clear-cache", action="store_true",
                         help="remove decoded photos, downloaded archives and converted weights, which are kept in "
                         + str(cache_folder()).replace("%", "%%"))
    actions.add_argument("--version", action="store_true", help="print the versions of the program and its libraries")
    actions.add_argument("-h", "--help", action="help", help="print this help")


def add_setting(group, setting):
    """Turn a field of Settings into a flag; one that is on by default into --no-..."""
    parsing = {name: value for name, value in setting.metadata.items() if name != "flags"}
    text = parsing.pop("help")
    if setting.default is not None and "action" not in parsing:
        text += f" (default: {setting.default})"
    group.add_argument(*flags_of(setting), dest=setting.name, default=argparse.SUPPRESS, help=text, **parsing)


def train(classifier, arguments):
    """No action: train, print the summary."""
    try:
        classifier.train()
    finally:  # a SIGTERM passes on, but says what was saved as well
        summary, files = classifier.summary, classifier.files
        if summary and arguments.style == "json":
            print(json.dumps({**summary, "files": files}))
        elif summary:
            print_summary(summary, files)
    if arguments.show and not show_pictures([path for path in files if path.endswith(".png")]):
        classifier.console.warn("There is no display to show the curves on.")
    if summary["ending"] == "interrupted":
        return 130
    if summary["ending"] == "diverged" or len(files) < 1 + len((HISTORY, ACCURACY, LOSS, RELIABILITY)):
        return 1
    return 3 if summary["learned"] is False else 0


def print_summary(summary, files):
    """The outcome of a training in a few lines for people."""
    over, pace = summary["overfitted_from"], summary["seconds_per_epoch"]
    over = f"; over-fitted from epoch {over}" if over else ""
    best = summary["best_epoch"] or "none better than before"
    print(f"best epoch   {best} of {summary['epochs']}, {summary['ending']}{over}")
    if summary["validation"]:
        print(f"validation   {score_line(summary['validation'])}")
        print(f"test         {score_line(summary['test']) if summary['test'] else 'no test photos'}")
        before, after = (percent(summary["calibration"][when]["error"]) for when in ("before", "after"))
        print(f"confidence   off by {after} on average ({before} before its calibration), on the "
              f"{summary['calibration']['photos']} photos")
        if summary["validation"]["total"] < ENOUGH_PHOTOS:
            print(f"neither      never said: that takes {ENOUGH_PHOTOS} validation photos")
    if summary["copies"]:
        print(f"but          {copies_line(summary['copies'])}")
    print(f"time         {clock(summary['seconds'])} in all, {pace:.1f} s an epoch")
    print(f"on           {summary['device']}, {summary['precision']}")
    print("saved        " + "\n             ".join(map(printable, files)))
    if summary["ending"] == "interrupted":
        print("Unfinished: the same command goes on after the last whole epoch.")
    if summary["ending"] == "diverged":
        print("It stopped because loss or weights were no numbers any more. Try a smaller --learning-rate.")
    if summary["drawings"]:
        print("Trained on drawings, it knows nothing of photographs.")
    if summary["learned"] is False:
        print("It has not learned to tell them apart: its answers are guesses. Try another --learning-rate.")
    elif summary["validation"] and not better_than_guessing(summary["validation"]):
        print("No better than guessing so far: it needs more epochs, or more photos.")


def classify(classifier, arguments, paths, total=None, ignored=None):
    """Print one line per photo as soon as it is known; exit code 1 when some could not be read."""
    classifier.answer  # noqa: B018 (its weights name the classes; loading it is no part of the time that is left)
    console, started = classifier.console, time.monotonic()
    counts, unread, copied, rows = collections.Counter(), collections.Counter(), {}, []
    if classifier.settings.unsure is not None:
        console.say(unsure_line(classifier))
    if arguments.sort_into:
        check_sorting(arguments.directory, Path(arguments.sort_into), (*classifier.classes, "unsure", "neither"))
    table, names = csv.writer(sys.stdout, lineterminator="\n"), [printable(name) for name in classifier.classes]
    if arguments.style == "csv":
        table.writerow(["path", "label", "confidence", "verdict", *names, "error"])
    for row in classifier.predict_each(paths):
        if sys.stdout.isatty():
            console.clear()
        try:
            target = sort_photo(row, arguments, copied) if arguments.sort_into else None
        except PhotoError as error:  # it has vanished meanwhile
            row, target = Prediction(row.path, error=str(error)), None
        write_row(row, arguments.style, table, console, len(names), target)
        counts[row.verdict] += 1
        rows += [row] if arguments.report else []
        if row.error:
            unread[kind_of(row.path)] += 1
        if total:
            console.bar("classifying", counts.total(), total, started)
    console.clear()
    conclude(classifier, arguments, counts, unread, ignored or collections.Counter())
    if arguments.report:
        about = [*remarks(classifier), *([unsure_line(classifier)] if classifier.settings.unsure is not None else [])]
        save_report(arguments.report, classifier.reportFolder(arguments.directory, rows, about), console)
    if arguments.sort_into:
        done, new = "would be copied" if arguments.dry_run else "copied", len(copied)
        there = counts.total() - unread.total() - new
        console.say(f"{printable(arguments.sort_into)}: {new} {done}, {there} there already")
    return 1 if unread else 0


def conclude(classifier, arguments, counts, unread, ignored):
    """Say on stderr which net answered, what to think of that, and what became of all the files."""
    tell_source(classifier, arguments)
    if counts.total() != 1:
        classifier.console.say(count_line(counts, classifier.classes, unread, ignored))


def tell_source(classifier, arguments):
    """Say on stderr which net answered, unless that is plain, and what to think of it."""
    lines, plain = remarks(classifier), "weights" in arguments and not classifier.drawings
    for line in lines[1:] if plain else lines:
        classifier.console.say(line)


def remarks(classifier):
    """Which weights the answers come from, and what to think of them: lines for people."""
    lines = [answered_by(classifier)]
    if classifier.facts["summary"].get("learned") is False:
        lines.append("This net has not learned to tell them apart: its answers are guesses.")
    return lines


def check_report(path):
    """Raise WriteError now rather than at the end where a web page would replace something else, or has no place.

    Raises UsageError for a name that no browser takes for a page.
    """
    if not path.lower().endswith((".html", ".htm")):
        raise UsageError(f"--report {path} does not end in .html")
    ours = not os.path.lexists(path)
    with contextlib.suppress(OSError), open_regular(path) as file:
        ours = b'content="CatDogClassifier"' in file.read(300)
    if not ours:
        raise WriteError(f"{path} is there already, and no report", "Name another --report")
    if not Path(path).absolute().parent.is_dir():
        raise WriteError(f"{path} cannot be written: there is no such folder", "Name another --report")
    check_writable(path, "--report", ())


def save_report(path, page, console):
    """Write a web page, and say so."""
    write_whole(path, page.encode("utf-8", "backslashreplace"))
    console.say(f"report: {printable(path)}")


def unsure_line(classifier):
    """What --unsure means for these weights, for people."""
    least, wrong, left = classifier.threshold()
    if least > 1:
        return "Unsure of all: no confidence was enough for so few errors among the validation photos."
    return (f"Below {percent(least)} it says unsure: of its other answers to {classifier.certainty[-1][2]} validation "
            f"photos {percent(wrong)} were wrong, and {percent(left)} of the photos were left to a person.")


def sort_photo(row, arguments, copied):
    """Copy a photo into the folder of its verdict; returns where to, None if it could not be read.

    Notes in `copied`, {target: photo}, what was not there.
    """
    if row.error:
        return None
    try:
        target, there = place_for(row.path, Path(arguments.sort_into, row.verdict), copied)
        open_regular(row.path).close()
    except OSError as error:
        raise PhotoError(f"cannot be copied: {reason(error)}") from None
    if not there and not arguments.dry_run:
        part = target.with_name(f".{os.urandom(6).hex()}.tmp")  # short: the name of the photo may be as long as can be
        copy_whole(functools.partial(open_regular, row.path), target, part)
        with contextlib.suppress(OSError):
            shutil.copystat(row.path, target)  # the day that it was taken, for one
    if not there:
        copied[target] = row.path
    return str(target)


def check_sorting(folder, target, verdicts=()):
    """Raise UsageError where no copies can be put, or they would change the folder that is sorted; WeightsError."""
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is no folder", "Name another --sort-into")
    for name in verdicts:  # they come from the weights file
        if re.search("[\0\ud800-\udfff]", name) or Path(name).name != name or name in (".", ".."):
            raise WeightsError(f"the class {name} cannot be the name of a folder", "Name other --weights")
    for place in (target, *map(target.joinpath, verdicts)):  # a folder of a verdict may be a link
        if place.resolve().is_relative_to(Path(folder).resolve()):
            raise UsageError(f"{place} lies inside {folder}, which is never changed", "Name another --sort-into")


def answered_by(classifier):
    """Which weights the answers come from, for people, and what there is for photographs when those know drawings."""
    if classifier.source == str(BOX):
        return f"Answered by the net that came with the program, {BOX.name}."
    better = f"For photographs: --weights {shlex.quote(os.path.relpath(BOX))}" if BOX.exists() else REAL_PHOTOS
    about = f", which was trained on drawings and knows nothing of photographs. {better}"
    return f"Answered by {printable(classifier.source)}{about if classifier.drawings else '.'}"


def count_line(counts, classes, unread, ignored):
    """What became of all the files: "8 files: 5 cat, 2 dog, 1 unreadable (.heic 1)", and how many were ignored."""
    others = [verdict for verdict in ("unsure", "neither") if counts[verdict] and verdict not in classes]
    parts = [f"{counts[name]} {printable(name)}" for name in (*classes, *others)]
    parts.append(f"{unread.total()} unreadable" + (f" ({tally(unread)})" if unread else ""))
    return f"{counts.total() + ignored.total()} files: {', '.join([*parts, *told(ignored)])}"


def verdict_of(row):
    """The verdict of a Prediction in two columns: how sure the net is of the label says nothing of "neither"."""
    return f"{printable(row.verdict):<8} {percent(row.confidence) if row.verdict != 'neither' else '':>7}"


def doubt_of(row):
    """What the label of a Prediction is where the verdict is another one: "  (cat 61.3 %?)"."""
    told = row.label if row.verdict != "neither" else f"{row.label} {percent(row.confidence)}"
    return f"  ({printable(told)}?)" if row.verdict != row.label else ""


def write_row(row, style, table, console, count, target=None):
    """Print a Prediction: as JSON, into a CSV table, or for people, for whom what could not be read is on stderr.

    `count` is that of the classes, `target` where the photo was copied to.
    """
    if style == "json":
        print(json.dumps(asdict(row) | ({"copy": target} if target else {})))
    elif style == "csv":
        shares = row.probabilities.values() if row.probabilities else (None,) * count
        about = printable(row.path), printable(row.label or ""), row.confidence, printable(row.verdict or "")
        table.writerow([*about, *shares, row.error])
    elif row.error:
        console.warn(f"{printable(row.path)}: {row.error}")
    else:
        ranks = sorted(row.probabilities.items(), key=lambda pair: -pair[1])[1:3] if len(row.probabilities) > 2 else ()
        others = ", ".join(f"{printable(name)} {percent(share)}" for name, share in ranks)
        print(f"{verdict_of(row)}  {printable(row.path)}{doubt_of(row)}"
              + (f"  (then {others})" if others else "") + (f"  -> {printable(target)}" if target else ""))
    sys.stdout.flush()


def classify_files(classifier, arguments):
    """-f: some photos, or with - the paths on stdin."""
    if arguments.file == ["-"]:
        return classify(classifier, arguments, stdin_paths())
    for path in filter(os.path.isdir, arguments.file):
        raise UsageError(f"{path} is a folder", f"Classify a folder with -d {printable(path)}")
    return classify(classifier, arguments, arguments.file, len(arguments.file))


def stdin_paths():
    """The paths on stdin, one a line, in whatever bytes the file system has."""
    if sys.stdin and sys.stdin.isatty():
        print("Type the paths of photos, one a line; Ctrl-D ends.", file=sys.stderr)
    for line in sys.stdin.buffer if sys.stdin else ():
        if path := line.rstrip(b"\r\n"):
            yield os.fsdecode(path)


def classify_folder(classifier, arguments):
    """-d: all photos of a folder."""
    folder = arguments.directory
    if arguments.sort_into:
        check_sorting(folder, Path(arguments.sort_into))
    if not os.path.exists(folder):
        raise DatasetError(f"there is no folder {folder}")
    if not os.path.isdir(folder):
        raise UsageError(f"{folder} is not a folder", f"Classify a photo with -f {printable(folder)}")
    ignored, report = collections.Counter(), os.path.abspath(arguments.report or os.devnull)
    paths = (path for path in list_photos(folder, ignored=ignored) if os.path.abspath(path) != report)
    first = next(paths, None)
    if first is None:
        raise DatasetError(f"{folder} holds no photos")
    total = sum(1 for _ in list_photos(folder, in_order=False)) if classifier.console.has_bar() else None
    return classify(classifier, arguments, itertools.chain([first], paths), total, ignored)


def prepare(classifier, arguments):
    """--prepare, --download: bring photos into the layout of a dataset."""
    console, dataset = classifier.console, classifier.settings.dataset
    split = parse_split(arguments.split or SPLIT)
    if "dataset" not in arguments:
        raise UsageError("it is not clear where the photos shall go", NEW)
    if arguments.prepare == DIGITS:
        classifier.device  # noqa: B018 (or else TensorFlow would start with all that it has to say)
    if arguments.download:
        url, sha256 = arguments.download_url or ARCHIVE_URL, arguments.download_sha256
        result = download_dataset(url, sha256, dataset, split, console)
    else:
        result = prepare_dataset(arguments.prepare, dataset, split, console)
    if arguments.style == "json":
        print(json.dumps({"dataset": dataset, **result}))
        return 0
    for path, why in result["skipped"].items():
        console.warn(f"skipped {printable(path)}: {why}")
    print(f"{printable(dataset)}: " + ", ".join(f"{result[part]} {part}" for part in SPLITS) + " photos"
          + (f"; {len(result['skipped'])} skipped" if result["skipped"] else "")
          + ("" if result["copied"] else "; all were there already"))
    console.say(f"Train on them with: python CatDogClassifier.py --dataset {shlex.quote(printable(dataset))}")
    return 0


def check(classifier, arguments):
    """--check: the doctor's report; exit code 1 when a score on this dataset would not mean what it says."""
    report = classifier.check(arguments.check, labels="weights" in arguments)
    if "weights" in arguments and report.agreed is None:
        classifier.console.warn("There are no labels here that a net could contradict.")
    elif report.agreed is not None and report.agreed < RELIABLE:
        share = percent(report.agreed)
        classifier.console.warn(f"This net agrees with {share} of the labels only: what it contradicts means little.")
    picture = save_check(classifier, report)
    if arguments.style == "json":
        for finding in report.findings:
            print(json.dumps({"finding": finding.kind, "paths": finding.paths, "detail": finding.detail,
                              "dishonest": FINDINGS[finding.kind][1]}))
        summary = {name: value for name, value in vars(report).items() if name != "findings"}
        found = {kind: len(findings) for kind, findings in report.groups().items()}
        print(json.dumps({"finding": "summary", **summary, "found": found, "dishonest": report.dishonest,
                          "picture": picture}))
    else:
        print_report(report, picture)
    return 1 if report.dishonest else 0


def save_check(classifier, report):
    """Draw what a check has found; returns the path of the picture, None where there is none.

    It lies in the present folder, or among temporary files when that is the one that was checked: nothing is changed.
    """
    folder, figure = Path(report.folder).resolve(), classifier.showCheck(report)
    if not figure:
        return None
    where = tempfile.mkdtemp(prefix="catdog-") if Path.cwd().is_relative_to(folder) else ""
    path = os.path.join(where, folder.name + CHECK)
    try:
        if Path(path).resolve().is_relative_to(folder) or os.path.lexists(path) and not is_ours(path):
            raise WriteError(f"{path} is not to be replaced", "Run it in another folder")
        write_whole(path, pack_figure(figure))
        return path
    except WriteError as error:
        classifier.console.warn(f"There is no picture: {error}")
        return None


def print_report(report, picture):
    """A Report for people: what is there, then the findings by kind, then the verdict."""
    ignored = told(collections.Counter(files=report.ignored))
    print(", ".join([f"{printable(report.folder)}: {report.files} file{'s' * (report.files != 1)}", *ignored]))
    for part, classes in report.counts.items():
        print(f"{part:<12} " + ", ".join(f"{count} {printable(name)}" for name, count in classes.items()))
    sizes = zip(("smallest", "median", "largest"), report.pixels, strict=True)
    print("pixels       " + ", ".join(f"{name} {width} x {height}" for name, (width, height) in sizes))
    print(f"formats      {tally(collections.Counter(report.formats))}; {tally(collections.Counter(report.modes))}")
    if report.agreed is not None:
        print(f"net          agrees with {percent(report.agreed)} of the labels")
    for kind, findings in report.groups().items():
        meaning, _, most = FINDINGS[kind]
        print(f"\n{kind} ({len(findings)}): {meaning}")
        for finding in findings[:most]:
            print("  " + "  ".join(map(printable, filter(None, (*finding.paths, finding.detail)))))
        if len(findings) > most:
            print(f"  ... and {len(findings) - most} more: --json names all")
    grave = [kind for kind in report.groups() if FINDINGS[kind][1]]
    if "photos" in report.counts.get("all", {}):
        verdict = "photos without labels: nothing to train on, or to score"
    else:
        verdict = f"scores mean nothing until this is mended: {', '.join(grave)}" if grave else "nothing grave found"
    print(f"\nverdict      {verdict}")
    if picture:
        print(f"picture      {printable(picture)}, of each kind the first {PICTURED}")


def evaluate(classifier, arguments):
    """--evaluate: the scores on DATASET/test; exit code 1 below --assert-accuracy."""
    scores, least = classifier.evaluate(), arguments.assert_accuracy
    tell_source(classifier, arguments)
    if arguments.style == "json":
        print(json.dumps({"dataset": classifier.settings.dataset, "split": "test", **scores}))
    else:
        print_scores(scores)
    if arguments.report:
        save_report(arguments.report, classifier.reportScores(about=remarks(classifier)), classifier.console)
    if scores["seen"]:
        classifier.console.warn(seen_line(scores))
    if least is not None and scores["accuracy"] < least:
        share = percent(scores["accuracy"])
        classifier.console.warn(f"CatDogClassifier: {share} is less than --assert-accuracy {least} asks for")
        return 1
    return 0


def print_scores(scores):
    """The scores of --evaluate for people, and who was taken for whom."""
    names = [printable(name)[:12] for name in scores["classes"]]
    shares = [["-" if share is None else percent(share) for share in scores[kind]] for kind in ("precision", "recall")]
    print(f"accuracy     {score_line(scores)}")
    print(f"balanced     {percent(scores['balanced_accuracy'])}, the mean of the recalls")
    print(f"loss         {scores['loss']:.4f}\n")
    print(f"{'answered':<14}" + "".join(f"{name:>13}" for name in [*names, "recall"]))
    for name, row, recall in zip(names, scores["confusion"], shares[1], strict=True):
        print(f"{'is ' + name:<14.14}" + "".join(f"{cell:>13}" for cell in [*row, recall]))
    print(f"{'precision':<14}" + "".join(f"{share:>13}" for share in shares[0]))


def draw_each(paths, classifier, draw, style):
    """Print what there is to say of each photo, and save its pictures in the present folder; 1 when one is unreadable.

    `draw` makes of a path a line of text, a dict for JSON, and PIL images by what they show: NAME_heatmap.png. Two
    photos of one name get NAME and NAME-2.
    """
    unread, taken = 0, set()
    for path in paths:
        try:
            line, row, pictures = draw(path)
            stem = os.fsencode(Path(path).stem)[:200].decode(errors="ignore")
            name = next(name for name in numbered(stem) if name not in taken)
            taken.add(name)
            files = save_pictures({f"{name}_{kind}.png": picture for kind, picture in pictures.items()})
        except (PhotoError, WriteError) as error:
            classifier.console.warn(f"{printable(path)}: {error}")
            unread += 1
            continue
        print(json.dumps({**row, "files": files}) if style == "json" else
              f"{line}  {printable(path)}\nsaved    " + "\n         ".join(map(printable, files)), flush=True)
    return 1 if unread else 0


def explain(classifier, arguments):
    """--explain: pictures of what the net sees in photos."""
    if classifier.settings.unsure is not None:
        classifier.console.say(unsure_line(classifier))

    def draw(path):
        """The answer for one photo."""
        row, pictures = classifier.explain(path)
        return f"{verdict_of(row)}{doubt_of(row)}", asdict(row), pictures

    code = draw_each(arguments.explain, classifier, draw, arguments.style)
    tell_source(classifier, arguments)
    return code


def imagenet(classifier, arguments):
    """--imagenet: what a net for ImageNet takes photos for, and where it sees that."""

    def draw(path):
        """The classes for one photo."""
        found, picture = classifier.imagenet(path)
        line = ", ".join(f"{printable(name)} {percent(share)}" for name, share in found)
        classes = [{"name": name, "probability": share} for name, share in found]  # two of them are called "crane"
        return line, {"path": path, "classes": classes}, {"imagenet": picture}

    return draw_each(arguments.imagenet, classifier, draw, arguments.style)


def filters(classifier, arguments):
    """--filters: a picture for each convolution, in the present folder."""
    for layer, picture in classifier.filters():
        (path,) = save_pictures({f"{Path(classifier.source).stem}_filters_{layer}.png": picture})
        print(json.dumps({"layer": layer, "file": path}) if arguments.style == "json" else printable(path), flush=True)
    tell_source(classifier, arguments)
    return 0


def save_pictures(pictures):
    """Write PIL images, {path: image}; the paths. Raises WriteError rather than replace a file of somebody else."""
    for path in pictures:
        if os.path.lexists(path) and not is_ours(path):
            raise WriteError(f"{path} is there already, and not ours to replace", "Run it in another folder")
    for path, picture in pictures.items():
        write_whole(path, pack_picture(picture))
    return list(pictures)


def compare(classifier, arguments):
    """--compare: train rungs of the ladder, print and save the scoreboard and the curves; 1 when one was left out."""
    for name in arguments.compare:
        named("--compare", name, RUNGS)
    if "model" in arguments:
        raise UsageError("--model does not go with --compare", "Say --compare RUNG ...")
    rows, seeds = [], arguments.seeds or 1
    try:
        for row in classifier.compare(rungs=arguments.compare, seeds=seeds):
            rows.append(row)
    except KeyboardInterrupt:
        classifier.console.warn("Not finished: the same command goes on.")
        raise
    finally:
        if rows:
            show_board(classifier, rows, arguments.style)
    return 1 if not rows or len(rows) < len(set(arguments.compare)) * seeds else 0


def show_board(classifier, rows, style):
    """Print the scoreboard of a comparison; save it as CSV, and all curves of validation accuracy in one picture."""
    folder, board = beside(classifier.settings.weights, COMPARED), scoreboard(rows)
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, board[0])
    table.writeheader()
    table.writerows(board)
    write_whole(folder / BOARD, text.getvalue().encode())
    curves = [(row["rung"], row["curve"], row["best_epoch"]) for row in rows]
    write_whole(folder / CURVES, pack_figure(draw_compared(curves)))
    if style == "json":
        for row in board:
            print(json.dumps(row))
        return
    heading = "in the tutorial" if any(row["tutorial"] for row in board) else ""
    head = f"{'rung':<15}{'parameters':>12}{'epochs':>8}{'seconds':>9}{'MB':>7}  {'right on test photos':<34} {heading}"
    print(head.rstrip())
    for row in board:
        tutorial = percent(row["tutorial"]) if row["tutorial"] else ""
        print(f"{row['rung']:<15}{row['parameters']:>12,}{row['epochs']:>8.1f}{row['seconds']:>9.1f}"
              f"{row['bytes'] / 1e6:>7.1f}  {spread_line(row):<34} {tutorial}".rstrip())
    print(f"saved in {printable(folder)}: weights, {BOARD}, {CURVES}")


def spread_line(row):
    """An accuracy with its uncertainty for people: of one run the interval, of several the standard deviation."""
    if row["interval"]:
        return f"{percent(row['accuracy'])}  ({100 * row['interval'][0]:.1f} to {100 * row['interval'][1]:.1f} %)"
    return f"{percent(row['accuracy'])}  (deviation {100 * row['deviation']:.1f}, {row['runs']} runs)"


def cross_validate(classifier, arguments):
    """--folds: what the folds come to."""
    result = classifier.crossValidate(folds=arguments.folds, repeats=arguments.repeats or 1)
    if arguments.style == "json":
        print(json.dumps(result))
        return 0
    for place, share in enumerate(result["accuracies"]):
        repeat, fold = divmod(place, result["folds"])
        name = f"fold {fold + 1}" + (f", repeat {repeat + 1}" if result["repeats"] > 1 else "")
        print(f"{name:<20}{percent(share):>8}")
    print(f"{'mean':<20}{percent(result['mean']):>8}, standard deviation {100 * result['deviation']:.1f}, at epoch "
          f"{result['best_epoch']} of {result['epochs']}, the best on average")
    return 0


def summarize(classifier, arguments):
    """--summary: the layers of a net, and where Graphviz is installed a drawing of them."""
    classifier.device  # noqa: B018 (TensorFlow starts here)
    if "weights" in arguments:
        classifier.load_weights()
    rung, model = classifier.rung, classifier.model or build_model(classifier.rung, classifier.settings)
    if arguments.style == "json":
        layers = [{"name": layer.name, "type": type(layer).__name__, "shape": list(layer.output.shape[1:]),
                   "parameters": layer.count_params()} for layer in model.layers]
        print(json.dumps({"rung": rung, "parameters": model.count_params(), "layers": layers}))
    else:
        model.summary(print_fn=print)
    if not (find_spec("pydot") and shutil.which("dot")):
        classifier.console.say("For a drawing too: pip install pydot, and Graphviz from https://graphviz.org/download")
        return 0
    import keras

    path = f"{rung}_net.png"
    if os.path.lexists(path):
        classifier.console.say(f"{path} is there already: it is left as it is.")
        return 0
    keras.utils.plot_model(model, to_file=path, show_shapes=True, show_layer_names=True, dpi=96)
    classifier.console.say(f"Drawn in {path}.")
    return 0


def empty_cache(classifier, arguments):
    """--clear-cache: remove what can be made again."""
    print(f"{cache_folder()}: {clear_cache() / 1e6:.1f} MB removed")
    return 0


def show_versions(classifier, arguments):
    """--version, without importing what it names."""
    from importlib import metadata  # slow to import, by the measure of -h

    print(f"CatDogClassifier {__version__}, Python {sys.version.split()[0]}")
    needed = dict.fromkeys(("tensorflow", "keras", "numpy", "matplotlib", "pillow", "h5py"), INSTALL)
    for name, hint in (needed | {"ai-edge-litert": FASTER}).items():
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name} is not installed. {hint}")
    return 0


ACTIONS = {"version": show_versions, "file": classify_files, "directory": classify_folder, "prepare": prepare,
           "download": prepare, "check": check, "evaluate": evaluate, "compare": compare, "folds": cross_validate,
           "explain": explain, "imagenet": imagenet, "filters": filters, "summary": summarize,
           "clear_cache": empty_cache}
# Flags that mean something to some actions only: to which, and their range.
ONLY_WITH = {"assert_accuracy": (["evaluate"], 0, 1), "seeds": (["compare"], 1, 1000), "repeats": (["folds"], 1, 1000),
             "folds": (["folds"], 2, 1000), "unsure": (["file", "directory", "explain"], 0, 1),
             "sort_into": (["directory"], None, None), "report": (["directory", "evaluate"], None, None)}
SHORT = {"file": "-f", "directory": "-d"}


def check_flag(flag, value, asked, actions, low, high):
    """Raise UsageError when a flag is given a value that is out of range, or with none of the actions it belongs to."""
    if value is None:
        return
    if asked not in [[ACTIONS[action]] for action in actions]:
        *others, last = (SHORT.get(action, f"--{action}") for action in actions)
        raise UsageError(f"{flag} goes with {', '.join(others)}{' and ' if others else ''}{last}")
    if low is not None and not low <= value <= high:
        raise UsageError(f"{flag} must lie between {low} and {high}")


def run(arguments):
    """Do what the command line asks for; returns the exit code."""
    asked = [action for name, action in ACTIONS.items() if getattr(arguments, name) not in (None, False)]
    if arguments.paths == ["-"] and not asked:
        arguments.file, asked = arguments.paths, [classify_files]
    elif arguments.paths:
        raise UsageError(f"it is not clear what to do with {arguments.paths[0]}", "Say -f for photos, -d for a folder")
    if arguments.split and asked != [prepare]:
        raise UsageError("--split goes with --prepare SOURCE or --download")
    if not arguments.download and (arguments.download_url, arguments.download_sha256) != (None, None):
        raise UsageError("--download-url and --download-sha256 go with --download")
    if arguments.download_sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", arguments.download_sha256):
        raise UsageError("--download-sha256 must be 64 digits of 0-9 and a-f")
    for name, (actions, low, high) in ONLY_WITH.items():
        check_flag("--" + name.replace("_", "-"), getattr(arguments, name, None), asked, actions, low, high)
    if "" in (arguments.report, arguments.sort_into):
        raise UsageError("--report and --sort-into need a name")
    if arguments.report:
        check_report(arguments.report)
    if arguments.dry_run and not arguments.sort_into:
        raise UsageError("--dry-run goes with --sort-into")
    if arguments.style == "csv" and asked not in ([classify_files], [classify_folder]):
        raise UsageError("--csv goes with -f and -d", "Trainings and comparisons write CSV by themselves")
    given = {setting.name for setting in fields(Settings)} & set(vars(arguments))
    classifier = CatDogClassifier(**{name: getattr(arguments, name) for name in given})
    return (asked or [train])[0](classifier, arguments)


def main(argv=None):
    """The program: parse, act, turn every foreseen failure into one line; returns the exit code."""
    prepare_streams()
    warnings.filterwarnings("ignore", module="PIL")  # about oddities of photos that it reads all the same
    signals = []

    def leave(number, frame):
        signals.append(number)
        interrupt(number)

    try:
        with handling((signal.SIGINT, signal.SIGTERM), leave):
            code = run(build_parser().parse_args(argv))
            sys.stdout.flush()
            return code
    except (Exception, KeyboardInterrupt) as error:
        if signals or isinstance(error, KeyboardInterrupt):  # in native code an interrupt may turn into any error
            return interrupted(isinstance(error, Terminated) or signal.SIGTERM in signals)
        if isinstance(error, CatDogError):
            print(f"CatDogClassifier: {error}", file=sys.stderr)
            return error.exit_code
        if isinstance(error, OSError):
            return stranded(error)
        raise


def interrupted(terminated):
    """Say that Ctrl-C, or SIGTERM, has ended the program; returns its exit code."""
    print(f"\nCatDogClassifier: {'terminated' if terminated else 'interrupted'}", file=sys.stderr)
    return 143 if terminated else 130


def stranded(error):
    """Say what could not be read or written, whatever it was; returns the exit code."""
    with contextlib.suppress(OSError, ValueError):  # what is still to be printed would fail once more at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):  # or else the reader of our results has gone, as `head` does
        print(f"CatDogClassifier: {printable(error.filename or 'output')}: {reason(error)}", file=sys.stderr)
    return 1


def prepare_streams():
    """Make stdout and stderr fit to print any name, even where they are closed."""
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # or else the next file to be opened would be what native code takes for stderr
    os.close(spare)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (to the end of the program)
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    raise SystemExit(main())
