# /// script
# requires-python = ">=3.11"
# dependencies = ["tensorflow>=2.20", "keras>=3.13", "numpy>=1.26.4", "matplotlib>=3.8",
#     "pillow>=11.3"]
# ///
"""CatDogClassifier: tell cats from dogs with a small convolutional net, in one file to read.

The net that comes with it tells 98.80 % of 1,000 cats and dogs apart that it did not learn from,
and calls 99.20 % of 1,000 photos of other kinds of things neither (tests/measure/train_box.py).

    python CatDogClassifier.py                  train on dataset/, save CatDogClassifier_model.h5
    python CatDogClassifier.py -f photo.jpg     classify one photo
    python CatDogClassifier.py -d holiday       classify a folder
    python CatDogClassifier.py --dataset pets   train on what dataset/prepare.py made

Exit codes: 0 all went well, 1 a failure or some unreadable photos, 2 a mistake in the command, 130
after Ctrl-C or SIGTERM. To read this file: rooms 1 to 9 are the book, in order; the rest is its
appendix. grep '^# [0-9]' lists them.
"""

import argparse
import collections
import contextlib
import csv
import datetime
import errno
import filecmp
import functools
import glob
import hashlib
import html
import importlib
import io
import itertools
import json
import math
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path

__version__ = "2.1"
PROGRAM = f"CatDogClassifier {__version__}"
PRETRAINED = Path(__file__).resolve().with_name("CatDogClassifier_pretrained.h5")


# ==================================================================================================
# 1. Settings: every default lives here once; its text is what -h prints

OPTIMIZERS = ("rmsprop", "adam", "adamw", "muon", "sgd")


def option(default, text, low=None, high=math.inf, **more):
    """A field of Settings that is a flag as well; more: `choices`, or `flags` instead of --name."""
    return field(default=default, metadata={"help": text, "low": low, "high": high, **more})


@dataclass(frozen=True)
class Settings:
    """What can be chosen, with its defaults; a value out of range is a UsageError."""

    dataset: str = option("dataset", "folder with train/, validation/, test/")
    weights: str = option("CatDogClassifier_model.h5", "weights to write or to read")
    model: str = option("default", "architecture of the net, see below")
    base: str = option("vgg16", "pretrained net in those that have one, box: the shipped one")
    base_weights: str = option("imagenet", "its weights: imagenet, box, none, or a file")
    recipe: str = option("best", "measured best, or as in tutorials", choices=("best", "tutorial"))
    epochs: int = option(30, "passes over the photos; best: 30 to 100, more of few photos", 1)
    steps: int = option(0, "training steps in an epoch; 0: one pass over the photos", 0)
    batch_size: int = option(32, "photos per training step", 1)
    optimizer: str = option("muon", "how the weights are updated", choices=OPTIMIZERS)
    learning_rate: float = option(0.001, "size of the updates", 1e-300, 1e300)
    smoothing: float = option(0.0, "label smoothing, against too much confidence", 0, 1)
    patience: int = option(0, "stop after so many epochs without a better one; 0: never", 0)
    augment: bool = option(True, "train on the photos as they are", flags=["--no-augment"])
    precision: str = option("auto", "auto: 8 bits where as good", choices=("auto", "float32"))
    unsure: float = option(None, "abstain so that at most this share is wrong", 0, 1)
    seed: int = option(None, "make a run repeatable (default: a new one)", 0, 2**32 - 1)
    resume: bool = option(True, "start over, whatever checkpoint there is", flags=["--no-resume"])
    quiet: bool = option(False, "print results and errors only", flags=["-q", "--quiet"])
    asked: dict = field(default_factory=dict)  # what somebody chose of these; the last field

    def __post_init__(self):
        for each in fields(self)[:-1]:
            value, rules = getattr(self, each.name), each.metadata
            low, high, flag = rules["low"], rules["high"], f"--{each.name.replace('_', '-')}"
            if value == "":
                raise UsageError(f"{flag} needs a name")
            if value not in rules.get("choices", [value]):
                raise UsageError(f"{flag} must be one of {', '.join(rules['choices'])}")
            if None not in (low, value) and not low <= value <= high:
                most = "or more" if high == math.inf else f"to {high}"
                raise UsageError(f"{flag} must be {low} {most}")


# ==================================================================================================
# 2. Errors and console: a problem and its fix in one line; progress


def escape_control(text):
    """The text on one line, control characters and undecodable bytes of a name as escapes."""
    control = "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
    return re.sub(control, lambda found: found[0].encode("unicode_escape").decode(), str(text))


class CatDogError(Exception):
    """Anything a user can cause or mend, in one line; all that reads or writes files raises it."""

    exit_code = 1

    def __init__(self, problem, fix=""):
        super().__init__(escape_control(f"{str(problem).rstrip('.')}. {fix}" if fix else problem))


class UsageError(CatDogError):
    """The request itself makes no sense."""

    exit_code = 2


class PhotoError(CatDogError):
    """One photo cannot be read; a folder goes on without it."""


@contextlib.contextmanager
def handling_signals(handler):
    """Inside, SIGINT and SIGTERM go to this handler; only the main thread has signals."""
    main = threading.current_thread() is threading.main_thread()
    before = {n: signal.signal(n, handler) for n in (signal.SIGINT, signal.SIGTERM) if main}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier or signal.SIG_DFL)


def reason(error):
    """An OSError in a few words: "No such file or directory"; of others the first line."""
    said = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
    return said[:200] or type(error).__name__


def percent(share):
    """A share in 0..1 as "97.3 %", rounded down: 100.0 % means all."""
    return f"{math.floor(share * 1000 + 1e-4) / 10:.1f} %"  # float32 may be a little too small


class Console:
    """All that is said besides results, on stderr; a progress bar where that is a terminal."""

    def __init__(self, quiet=False):
        self.quiet, self.width, self.drawn = quiet, 0, 0.0

    def say(self, text):
        """A line that --quiet leaves out."""
        if not self.quiet:
            self.warn(text)

    def warn(self, text):
        """A line that is printed in any case."""
        self.clear()
        print(escape_control(text) + "\n", end="", file=sys.stderr, flush=True)  # in one write

    def bar(self, label, done, total, started, tail="", start=0):
        """Draw `label [###---] 42 %  0:01:07 left  tail`; `start` were done when it `started`."""
        now, total = time.monotonic(), max(done, total, 1)
        recent = self.width and now - self.drawn < 0.1 and done < total
        if recent or self.quiet or not sys.stderr.isatty():
            return
        left = datetime.timedelta(seconds=(now - started) * (total - done) // max(done - start, 1))
        left = f"{left} left" if now - started > 1 else ""
        bar = f"[{'#' * (20 * done // total):-<20}] {100 * done // total:3} %"
        text = f"{label} {bar}  {left}  {tail}"[: shutil.get_terminal_size().columns - 3]
        print(f"\r{text:<{self.width}}", end="", file=sys.stderr, flush=True)
        self.width, self.drawn = len(text), now

    def watch(self, label, items, total):
        """The items, and a bar of how many are done; of an unknown total, 0, none."""
        started = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            self.bar(label, done, total, started) if total else None
        self.clear()

    def clear(self):
        """Take the bar away, and the ^C that Ctrl-C may have left behind it."""
        if self.width:
            print(f"\r{'':{self.width + 2}}\r", end="", file=sys.stderr, flush=True)
        self.width = 0


class Lazy:
    """A library that is imported when it is first used: -h and a typo need none."""

    fix = "pip install -r requirements.txt (only to classify: numpy pillow ai-edge-litert)"

    def __init__(self, name, fix=fix):
        self.name, self.fix = name, fix

    def __getattr__(self, attribute):
        try:
            return getattr(importlib.import_module(self.name), attribute)
        except ModuleNotFoundError as error:
            raise CatDogError(f"{error.name} is not installed", f"Run: {self.fix}") from None

    def need(self):
        """Import it now, or say what is missing: sooner than in the middle of the work."""
        return self.__name__


np, Image, ImageOps = Lazy("numpy"), Lazy("PIL.Image"), Lazy("PIL.ImageOps")
urls, zipfile, h5py = Lazy("urllib.parse"), Lazy("zipfile"), Lazy("h5py", "pip install h5py")
tf, keras, layers, ops = map(Lazy, ("tensorflow", "keras", "keras.layers", "keras.ops"))
matplotlib, matplotlib_figure = Lazy("matplotlib"), Lazy("matplotlib.figure")
litert = Lazy("ai_edge_litert.interpreter", "pip install ai-edge-litert")  # extras
onnx = Lazy("onnx", "pip install onnx tf2onnx onnxruntime")
tf2onnx, onnxruntime = Lazy("tf2onnx", onnx.fix), Lazy("onnxruntime", onnx.fix)


# ==================================================================================================
# 3. Nets: one builder per architecture, one table; (N, S, S, 3) in 0..1 -> probabilities


def output_layer(classes, name):
    """The last layer: P(second class) of two, or P(each) of more."""
    # A sigmoid squashes one number (the logit) to 0..1, a softmax several to a sum of 1.
    units, activation = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    return layers.Dense(units, activation=activation, name=name)


def convnet(size, classes, base=None, filters=(), units=(512,), dropout=0.0, **more):
    """A net of the tutorials: convolutions, then dense layers."""
    # With Keras' initializer the signal fades through five rectified layers and learning starts
    # late, so He et al. (2015, arXiv:1502.01852) derived "he_normal".
    kind = {"activation": "relu", "kernel_initializer": more.get("initializer", "glorot_uniform")}
    net = [keras.Input((size, size, 3))]  # (N, 150, 150, 3) in 0..1
    if more.get("grey"):  # by the luma of ITU-R BT.601: the mean of three weighed colours
        net += [layers.Rescaling([0.897, 1.761, 0.342]), layers.Reshape((-1, 1))]
        net += [layers.AveragePooling1D(3), layers.Reshape((size, size, 1), name="grey")]
    for i, count in enumerate(filters):
        # Each 3x3 filter looks for one small pattern everywhere; its map says where it was found.
        net.append(layers.Conv2D(count, 3, name=f"conv2d_{i}", **kind))  # (N, 148, 148, 32) first
        if i + 1 < len(filters) or more.get("last_pool", True):
            net.append(layers.MaxPooling2D(2, name=f"max_pooling2d_{i}"))  # (N, 74, 74, 32) first
    # Five filters make 1,061,313 parameters; four 3,453,121, for their last maps are larger.
    net.append(layers.Flatten(name="flatten"))  # (N, 2 * 2 * 256) of five, (N, 7 * 7 * 128) of four
    if dropout:  # leaves features out at random, so that no unit can rely on a single one
        net.append(layers.Dropout(dropout, name="dropout"))
    net += [layers.Dense(n, name=f"dense_{i}", **kind) for i, n in enumerate(units)]  # (N, 512)
    net.append(output_layer(classes, f"dense_{len(units)}"))  # (N, 1) or (N, classes)
    return keras.Sequential(net)  # one layer after the other


def happy_faces(size, classes, base=None):
    """One 7x7 convolution with batch normalization: 37,633 parameters for size 64."""
    net = [keras.Input((size, size, 3)), layers.ZeroPadding2D(3, name="zero_padding")]
    net += [layers.Conv2D(32, 7, name="conv0")]  # (N, 64, 64, 32)
    net += [layers.BatchNormalization(name="bn0"), layers.Activation("relu", name="relu")]
    net += [layers.MaxPooling2D(2, name="max_pool"), layers.Flatten(name="flatten")]  # (N, 32768)
    return keras.Sequential([*net, output_layer(classes, "fc")])


def convolution(maps, name, count=None, kernel=3, stride=1, rectified=True, most=None):
    """A normalized convolution; without a count of each map alone (depthwise)."""
    kind = {"strides": stride, "padding": "same", "use_bias": False, "name": f"{name}_conv"}
    full = functools.partial(layers.Conv2D, count, kernel_initializer="he_normal")
    maps = (full if count else layers.DepthwiseConv2D)(kernel, **kind)(maps)  # (N, H / stride, ...)
    # Each map gets mean 0 and deviation 1, then a scale and a shift, which take the place of a bias
    # (Ioffe and Szegedy 2015, arXiv:1502.03167).
    maps = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(maps)  # 0.99 lags
    return layers.ReLU(most, name=f"{name}_relu")(maps) if rectified else maps


def residual(size, classes, base=None, stages=((64, 1), (128, 2), (224, 2))):
    """A net of our own, made for a CPU: 2,864,289 parameters, most work where maps are small."""

    def block(maps, count, name):
        """A residual block: two convolutions learn what to add, two small layers to weigh it."""
        # He et al. 2016 (arXiv:1512.03385); squeeze, excitation: Hu et al. 2018 (arXiv:1709.01507).
        change = convolution(maps, f"{name}_1", count)  # (N, H, W, count)
        change = convolution(change, f"{name}_2", count, rectified=False)
        means = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_averages")(change)
        few = layers.Dense(count // 8, "relu", name=f"{name}_seen")(means)  # (N, 1, 1, count / 8)
        gates = layers.Dense(count, "sigmoid", name=f"{name}_gates")  # 0..1
        change = layers.Multiply(name=f"{name}_weighed")([change, gates(few)])
        return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([maps, change]))

    photos = keras.Input((None, None, 3))  # (N, 160, 160, 3), to train (N, 112, 112, 3)
    maps = convolution(photos, "stem", 32, stride=2)  # (N, 80, 80, 32)
    for stage, (count, blocks) in enumerate(stages, start=1):  # at 1/4 of the size, 1/8, 1/16
        maps = layers.MaxPooling2D(2, name=f"stage{stage}_pool")(maps)
        maps = convolution(maps, f"stage{stage}", count)  # (N, 40, 40, 64), then half and wider
        for number in range(1, blocks + 1):
            maps = block(maps, count, f"stage{stage}_block{number}")
    averages = layers.GlobalAveragePooling2D(name="averages")(maps)  # (N, 224)
    return keras.Model(photos, output_layer(classes, "answer")(averages))


def efficientnet_lite0(pixels):
    """EfficientNet-Lite0 without its head, made for CPUs: pixels 0..255 -> (N, 1280); 3,413,024."""
    six = functools.partial(convolution, most=6.0)
    maps = layers.Rescaling(1 / 128, -127 / 128, name="normalized")(pixels)  # about -1..1
    maps = six(maps, "stem", 32, stride=2)  # (N, 112, 112, 32)
    # Each block widens its maps, looks at every one alone, and narrows them again (Tan and Le 2019,
    # arXiv:1905.11946; Lite: no squeeze and excitation, ReLU6 everywhere). How the blocks of a
    # stage widen, their maps, repeats, stride of the first, kernel:
    stages = (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3)
    stages += (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)
    for stage, (wider, count, repeats, stride, kernel) in enumerate(stages, start=1):
        for number in range(repeats):
            name, given = f"block{stage}_{number}", maps
            maps = six(maps, f"{name}_wide", wider * maps.shape[-1], 1) if wider > 1 else maps
            maps = six(maps, f"{name}_deep", kernel=kernel, stride=1 if number else stride)
            maps = convolution(maps, f"{name}_thin", count, 1, rectified=False)
            maps = layers.Add(name=f"{name}_add")([given, maps]) if number else maps
    maps = six(maps, "last", 1280, 1)  # (N, 7, 7, 1280)
    return layers.GlobalAveragePooling2D(name="averages")(maps)  # (N, 1280)


# A pretrained net: its module and function in keras.applications, or our function; the side of its
# photos in pixels; whether to take averages of its last maps ("avg") or these; the layer that its
# last block begins with, where the maps get smallest; what else its function wants.
Base = collections.namedtuple("Base", "module name size pooling block options", defaults=[{}])
BASES = {
    "vgg16": Base("vgg16", "VGG16", 150, None, "block5_conv1"),
    "mobilenet-0.75": Base("mobilenet", "MobileNet", 224, "avg", "conv_dw_12", {"alpha": 0.75}),
    "mobilenet-0.25": Base("mobilenet", "MobileNet", 224, "avg", "conv_dw_12", {"alpha": 0.25}),
    "efficientnet-lite0": Base(None, efficientnet_lite0, 224, "avg", "block6_0_wide_conv"),
}


def application(base, **options):
    """A base of keras.applications; by default with ImageNet's weights, which it downloads."""
    if BASES[base].module is None:
        raise ValueError("nobody offers it for download")
    make = getattr(getattr(keras.applications, BASES[base].module), BASES[base].name)
    return make(pooling=BASES[base].pooling, **BASES[base].options, **options)


def backbone(base, size, **options):
    """A base without weights: its input, (N, size, size, 3) in 0..1, and its output."""
    photos = keras.Input((size, size, 3))
    pixels = layers.Rescaling(255.0, name="pixels")(photos)  # 0..255
    if BASES[base].module is None:
        return photos, BASES[base].name(pixels)
    pixels = getattr(keras.applications, BASES[base].module).preprocess_input(pixels)
    return photos, application(base, weights=None, input_tensor=pixels, **options).output


def transfer_model(size, classes, base, dropout=0.0, witnesses=()):
    """A new head on a base that others trained: 16,812,353 parameters with VGG16."""
    photos, features = backbone(base, size, include_top=False)
    features = layers.Flatten(name="flatten")(features)  # (N, 4 * 4 * 512) of VGG16 for 150 pixels
    hidden = layers.Dense(256, activation="relu", name="dense_0")(features)  # (N, 256)
    hidden = layers.Dropout(dropout, name="dropout")(hidden) if dropout else hidden  # (N, 256)
    for name, count in witnesses:  # ImageNet's classes in groups: of each the likeliest has a say
        logits = layers.Dense(count, name=name)(features)  # (N, 123), then (N, 877)
        hidden = layers.Concatenate()([hidden, ops.max(logits, axis=1, keepdims=True)])  # (N, 258)
    return keras.Model(photos, output_layer(classes, "dense_1")(hidden))


def imagenet(size, classes, base):
    """A base with its own head, the 1,000 classes of ImageNet: (N, 224, 224, 3) -> (N, 1000)."""
    photos, logits = backbone(base, size, classifier_activation=None)  # (N, 1000)
    return keras.Model(photos, layers.Softmax(name="answer")(logits))


# A net of the ladder: `build(size, classes, base)` makes it; how training differs from the recipe,
# `settings` in both, `tutorial` and `best` in one; `size`: side of its photos (on a base, the base
# decides); `transfer`: a base is "frozen", or its "features" are computed once, or its "last block"
# is trained, after the head; `crop`: side of augmented photos, if less, as crops show things larger
# (Touvron et al. 2019, arXiv:1906.06423); `margins`, shares, and `sides`, pixels: see `Predictor`.
COLUMNS = "build about settings tutorial best size classes transfer crop margins sides"
DEFAULTS = [{}, {}, {}, 150, ("cat", "dog"), None, None, (0.1,), (None, None)]
Architecture = collections.namedtuple("Architecture", COLUMNS, defaults=DEFAULTS)
net_of = functools.partial  # a builder, some of its arguments chosen
FIVE = net_of(convnet, filters=(32, 64, 128, 128, 256), dropout=0.5, initializer="he_normal")
FOUR, HANDS = net_of(convnet, filters=(32, 64, 128, 128)), net_of(convnet, units=(25, 12))
DIGITS = net_of(convnet, filters=(32, 64, 64), units=(64,), grey=True, last_pool=False)
DROPOUT, HEAD = net_of(FOUR, dropout=0.5), net_of(transfer_model, dropout=0.5)
TOP, WITNESS = transfer_model, net_of(HEAD, witnesses=(("pets", 123), ("others", 877)))
PLAIN, STEPS, LONG = {"augment": False}, {"steps": 100}, {"epochs": 100}
SLOW, SLOWER, SLOWEST = ({"learning_rate": rate} for rate in (1e-4, 2e-5, 1e-5))
B20, B50, B64 = ({"batch_size": count} for count in (20, 50, 64))
ONCE, LAST = {"transfer": "features"}, {"transfer": "last block"}
LARGER = {"best": {"learning_rate": 0.002}, "size": 160, "crop": 112, "margins": (0,)}
LOOKS = LAST | {"margins": (0.1, 0.15), "sides": (160, 288)}
NUMBERS = tuple(map(str, range(1000)))  # classes whose names no weights file tells
GREY, SIX = {"size": 28, "classes": NUMBERS[:10]}, {"size": 64, "classes": NUMBERS[:6]}
ADAM, OLD_WAY = {"optimizer": "adam"}, STEPS | SLOWEST | LONG
NEW_WAY = ADAM | SLOW | {"epochs": 5, "smoothing": 0.1}
ARCHITECTURES = {
    "default": Architecture(FIVE, "five convolutions, dropout, augmentation: small, quick"),
    "baseline": Architecture(FOUR, "four convolutions, without augmentation", PLAIN | SLOW | B20),
    "dropout": Architecture(DROPOUT, "the same with dropout and augmentation", LONG, STEPS | SLOW),
    "residual": Architecture(residual, "our own: the best from scratch", B64, **LARGER),
    "features": Architecture(HEAD, "a base describes photos once", PLAIN | SLOWER | B20, **ONCE),
    "frozen": Architecture(TOP, "a base before the head: slow", STEPS | SLOWER, transfer="frozen"),
    "finetune_plain": Architecture(TOP, "its end learns too", PLAIN | SLOWEST | B20 | LONG, **LAST),
    "finetune": Architecture(HEAD, "all of it learns, slowly", {}, OLD_WAY, NEW_WAY, **LAST),
    "witness": Architecture(WITNESS, "as the net that is shipped", {}, OLD_WAY, NEW_WAY, **LOOKS),
    "imagenet": Architecture(imagenet, "a base as it is, 1,000 classes", size=224, classes=NUMBERS),
    "happy": Architecture(happy_faces, "happy faces", PLAIN | B50 | {"epochs": 40}, ADAM, size=64),
    "mnist": Architecture(DIGITS, "28 x 28 grey digits", PLAIN | B64 | {"epochs": 5}, **GREY),
    "signs": Architecture(HANDS, "0 to 5 fingers", PLAIN | {"epochs": 300}, ADAM | SLOW, **SIX),
}


def image_size(architecture, base):
    """The side of the photos that a net is made for, in pixels."""
    kind = ARCHITECTURES[architecture]
    return BASES[base].size if kind.transfer else kind.size


def base_of(model):
    """The part of a net on a base that comes before its head: photos -> features."""
    return keras.Model(model.input, model.get_layer("flatten").input)  # (N, 4, 4, 512) of VGG16


def build_model(architecture, base, classes):
    """A new net, its weights random."""
    kind, thawed = ARCHITECTURES[architecture], False
    model = kind.build(image_size(architecture, base), classes, base)
    # Of a base only the last block trains, or nothing, until `Trainer.compile` thaws all, and never
    # its batch normalization: a few photos would spoil what that knows of a million.
    for layer in base_of(model).layers if kind.transfer else ():
        thawed |= kind.transfer == "last block" and layer.name == BASES[base].block
        layer.trainable = thawed and not isinstance(layer, layers.BatchNormalization)
    return model


# ==================================================================================================
# 4. Photos: list, label, read; files are written whole or not at all

SPLITS = ("train", "validation", "test")
SPLIT_ALIASES = {"val": "validation", "valid": "validation"}
CLASS_ALIASES = {"cats": "cat", "dogs": "dog"}
PHOTO_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
NO_PHOTO = f"not a photo that can be read ({', '.join(PHOTO_FORMATS)}, AVIF, HEIC; no RAW)"
MAX_PIXELS = 100_000_000  # to decode; larger JPEGs, up to Pillow's limit, at part of their size
MANY_PIXELS = 20_000_000  # of photos with more only one is decoded at a time
MAX_BYTES = 500_000_000  # of a photo's file: more than the largest BMP of that size
MAX_CLASSES = 100  # of a net
LARGE_PHOTOS = ThreadPoolExecutor(1)  # one at a time, in one thread: each may take a gigabyte
# What a file looks like that this program may replace, for it has written that.
OURS = rb'\x89HDF.*"program": "CatDogClassifier|\x89PNG.*Software\x00CatDogClassifier'
OURS += rb'|<!doctype html>.*content="CatDogClassifier"|epoch,loss,acc,val_loss,val_acc\r\n'
OURS += rb'|(....TFL3|PK\x03\x04).*CatDogClassifier\.(json|npy)|\x08.*CatDogClassifier.*"input"'


def open_regular(path, limit=math.inf):
    """Open a file to read. Raises OSError for a folder, pipe or device, or above `limit` bytes."""
    if os.path.isdir(path):  # Windows cannot open a folder to look at it
        os.scandir(path).close()  # a folder that may not be looked into says so
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", path)
    size = os.path.getsize(path)  # before it is opened: that alone acts on pipes
    if not os.path.isfile(path):
        raise OSError(errno.EINVAL, "not a regular file", path)
    if size > limit:
        raise OSError(errno.EFBIG, f"more than {limit / 1e6:.0f} MB", path)
    return open(path, "rb")


@contextlib.contextmanager
def replacing(path):
    """A file to write that takes the place of another in one step, at the end: old or new."""
    target = Path(os.path.realpath(path))  # a link stays a link
    part = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    for old in target.parent.glob(f".{glob.escape(target.name)}.????????.tmp"):
        old.unlink(missing_ok=True)  # a killed run has left it half-written
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):
            shutil.copymode(target, part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def write_file(path, content, flag="--weights"):
    """Write bytes, whole or not at all, over nothing but what is ours; None: see if that can be."""
    target, fix = Path(os.path.realpath(path)), f"Name another {flag}"
    try:
        if os.path.exists(path):
            with open_regular(path, 2_000_000_000) as file:
                there = file.read()
            if there and not re.match(OURS, there, re.DOTALL):
                raise CatDogError(f"{path} is there already, not written by this program", fix)
            if PRETRAINED.exists() and target.samefile(PRETRAINED):
                raise CatDogError(f"{path} is the net that comes with the program", fix)
        if content is not None:
            with replacing(path) as file:
                file.write(content)
        else:  # now rather than after an hour of work; the longest name that will lie there
            trial = target.with_name(f".{target.name}_reliability.png.01234567.tmp")
            trial.touch()
            trial.unlink()
    except OSError as error:
        fix = "Make room" if error.errno == errno.ENOSPC else fix
        raise CatDogError(f"cannot write {path}: {reason(error)}", fix) from None


def digest(*parts):
    """The SHA-256 of texts, bytes and arrays, in hexadecimal."""
    found = hashlib.sha256()
    for part in parts:
        found.update(os.fsencode(part) if isinstance(part, str) else np.ascontiguousarray(part))
    return found.hexdigest()


def cache_folder():
    """The one folder for what can be made again at any time; no place at all without a home."""
    bases = os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")
    return Path(next(filter(os.path.isabs, bases), os.devnull), "catdogclassifier")


def natural_order(names):
    """Names sorted so that cat.2.jpg comes before cat.10.jpg: more digits, larger number."""
    # The digits as text, with how many there are before them: short, for a million names.
    digits = functools.partial(re.sub, r"\d+", lambda d: f"0{chr(len(n := d[0].lstrip('0')))}{n}")
    return sorted(sorted(names), key=lambda name: digits(name.lower()))


def is_system_file(name):
    """True for what file managers leave among photos: .DS_Store, ._x.jpg, Thumbs.db."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "__pycache__")


def list_photos(folder):
    """Yield the paths of a folder's files, sorted, then of its subfolders' unless linked."""
    waiting = [os.fspath(folder)]  # a stack: folders may lie deeper than Python's
    while waiting:
        here = waiting.pop()
        try:
            names, folders = [], set()  # bare names: there may be a million
            with os.scandir(here) as entries:
                for entry in entries:
                    names.append(entry.name)
                    folders |= {entry.name} if entry.is_dir(follow_symlinks=False) else set()
        except OSError:
            yield here  # reading it tells why it cannot be listed
            continue
        names = natural_order(name for name in names if not is_system_file(name))
        yield from (os.path.join(here, name) for name in names if name not in folders)
        waiting += [os.path.join(here, name) for name in names[::-1] if name in folders]


def subfolders(folders, aliases):
    """The folders in these, by their names, whatever their case and alias: {name: [paths]}."""
    found = collections.defaultdict(list)
    for entry in sorted(entry for folder in folders for entry in Path(folder).iterdir()):
        if entry.is_dir() and not is_system_file(entry.name):
            found[aliases.get(entry.name.lower(), entry.name.lower())].append(entry)
    return dict(sorted(found.items()))


def are_classes(names):
    """Whether these can be the classes of a net: folders, to sort photos into, on any system."""
    folders = [re.fullmatch(r"(?!\.\.?$)[^/\\\0\ud800-\udfff]+", name) for name in names]
    return 2 <= len(names) <= MAX_CLASSES and all(folders)


def list_split(dataset, split, expected=None, some=False):
    """The photos of one split: {class: [paths]}, sorted; a folder is a class, two at least."""
    layout = f"Expected {dataset}/{{train,validation,test}}/{{cat,dog}}/*.jpg"
    layout += "; python dataset/prepare.py SOURCE NEW makes it"
    if not os.path.isdir(dataset):
        raise CatDogError(f"there is no dataset folder {dataset}", layout)
    if split not in (found := subfolders([dataset], SPLIT_ALIASES)):
        raise CatDogError(f"{dataset} has no folder {split}", layout)
    found, where = subfolders(found[split], CLASS_ALIASES), f"{dataset}/{split}"
    classes = {name: [*itertools.chain(*map(list_photos, found[name]))] for name in found}
    classes = {name: photos for name, photos in classes.items() if photos}
    if not are_classes(classes):
        held = f"{len(classes)} ({', '.join([*classes][:5])})"
        problem = f"{where} must hold two classes, or up to {MAX_CLASSES}, but holds {held}"
        raise CatDogError(problem, layout)
    # Of expected classes all have to be there or, with `some`, no others: the rest are empty.
    if expected and (set(classes) - set(expected) or not (some or set(expected) <= set(classes))):
        problem = f"{where} holds {', '.join(classes)} instead of {', '.join([*expected][:9])}"
        raise CatDogError(problem, f"Name other --weights, or another --dataset. {layout}")
    return {name: classes.get(name, []) for name in expected or classes}


@functools.cache
def phone_formats():
    """What telephones make as well: AVIF where Pillow has it, HEIC by the package pillow-heif."""
    with contextlib.suppress(Exception):  # it is not there, or does not fit
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return [name for name in ("AVIF", "HEIF") if name in Image.OPEN]


@contextlib.contextmanager
def open_image(path, opening=open_regular):
    """A photo's file as (Pillow image, file), not decoded yet; what fails is a PhotoError."""
    try:
        with opening(path, MAX_BYTES) as file:
            head = file.read(12)
            file.seek(0)
            formats = phone_formats() if head[4:8] == b"ftyp" else PHOTO_FORMATS
            with Image.open(file, formats=formats) as image:
                yield image, file
    except Image.DecompressionBombError:
        raise PhotoError(f"too large: more than {2 * Image.MAX_IMAGE_PIXELS} pixels") from None
    except Image.UnidentifiedImageError:
        heic = re.match(b"....ftyp(hei|hev|mif|msf)", head, re.DOTALL) and "HEIF" not in formats
        raise PhotoError("HEIC needs: pip install pillow-heif" if heic else NO_PHOTO) from None
    except CatDogError:
        raise
    except Exception as error:  # noqa: BLE001 (Pillow's readers raise all kinds on damaged data)
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        raise PhotoError(f"cannot be read: {kind}{reason(error)}") from None


def resize_square(image, size):
    """An opened image as uint8 (size, size, 3) RGB, upright; closed, to free its memory."""
    image.load()  # what is damaged says so here, and only here
    turned = image
    with contextlib.suppress(Exception):  # a broken EXIF block never loses a photo
        ImageOps.exif_transpose(image, in_place=True)  # copies only what is turned
    if turned.mode.startswith("I"):  # 16 bits: scaled to 8 instead of clipped
        turned = Image.fromarray((np.asarray(turned).clip(0, 65535) // 256).astype(np.uint8))
    elif turned.has_transparency_data:
        turned = turned.convert("RGBA")
        turned = Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned)
    turned = turned if turned.mode == "RGB" else turned.convert("RGB")
    square = turned.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0)
    image.close()
    return np.asarray(square)


def decode(image, file, size, exact=False):
    """An opened image as uint8 (size, size, 3), or PhotoError; not `exact`: JPEGs at 1/2 to 1/8."""
    pixels, progressive = math.prod(image.size), image.info.get("progressive")
    if not exact or pixels > MANY_PIXELS:  # of so many a part is exact enough
        image.draft("RGB", (size * 5 // 6,) * 2)  # the least that is decoded of a larger one
    if math.prod(image.size) > MAX_PIXELS:
        raise PhotoError(f"too large: {image.width} x {image.height} pixels")
    if progressive:  # stored in several passes over the picture, each as slow as a whole one
        file.seek(0)  # to load it Pillow seeks what it needs
        if file.read().count(b"\xff\xda") > 100:  # scans; usual are ten
            raise PhotoError("too many scans: it would take forever")
    if (pixels if progressive else math.prod(image.size)) > MANY_PIXELS:
        return LARGE_PHOTOS.submit(resize_square, image, size).result()
    return resize_square(image, size)


def read_photo(path, size):
    """A photo as every part of the program sees it: uint8 (size, size, 3) RGB, 0..255.

    Decided by decoding, whatever the name says: the first frame of an animation, upright by its
    EXIF orientation, transparency over white, squashed to a square with an antialiased bilinear
    filter. Raises PhotoError with the reason.
    """
    with open_image(path) as (image, file):
        return decode(image, file, size)


def read_photos(paths, size, read=read_photo):
    """Yield (path, photo or PhotoError) of any iterable in order, read ahead in threads."""

    def attempt(path):
        try:
            return path, read(path, size)
        except PhotoError as error:
            return path, error

    pool, waiting = ThreadPoolExecutor(os.cpu_count()), collections.deque()
    try:
        for path in paths:
            waiting.append(pool.submit(attempt, path))
            if len(waiting) >= 128:  # so many are read while earlier ones are classified
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # who leaves early need not wait for the rest


# ==================================================================================================
# 5. Batches: photos decoded once; augmentation, for training only, in one resampling

MAX_LOST = 0.1  # of the photos of a split may be unreadable; a training with more does not start
# The tutorials' ImageDataGenerator; its shear_range is in degrees.
ROTATION, SHIFT, SHEAR, ZOOM = math.radians(40), 0.2, math.radians(0.2), 0.2
TILT, CONTRAST, CAST, LIGHT = math.radians(10), 0.2, 0.1, 0.1  # of the recipe "best"
SHARPNESS = (0.7, 0.2, 0.1)  # shares of photos shown with all detail, half of it a side, a fourth


def load_photos(classes, size, console):
    """Photos of {class: [paths]}: uint8 (N, size, size, 3), float32 (N, 1) places of classes."""
    rows = [(path, place) for place, name in enumerate(classes) for path in classes[name]]
    reads, labels, lost = read_photos((path for path, _ in rows), size), [], {}
    reads = zip(console.watch("reading", reads, len(rows)), rows, strict=True)
    try:
        with tempfile.TemporaryFile() as file:  # mapped, so they need not fit into memory
            for (path, photo), (_, place) in reads:
                if isinstance(photo, PhotoError):
                    lost[path] = str(photo)  # left out and named below, but no more than MAX_LOST
                else:
                    file.write(photo)
                    labels.append([place])
            file.flush()
            if len(lost) > max(1, MAX_LOST * len(rows)):
                path, why = next(iter(lost.items()))
                problem = f"{len(lost)} of {len(rows)} photos cannot be read, the first: "
                fix = f"At most {MAX_LOST:.0%} may be: repair or remove them; -d names them all"
                raise CatDogError(f"{problem}{path}: {why}", fix)
            photos = np.memmap(file, np.uint8, "r", shape=(len(labels), size, size, 3))
    except OSError as error:
        problem = f"cannot keep decoded photos in {tempfile.gettempdir()}: {reason(error)}"
        raise CatDogError(problem, "Set TMPDIR to a folder with more room") from None
    for path, why in lost.items():
        console.warn(f"left out {path}: {why}")
    labels = np.array(labels, np.float32)  # (N, 1)
    if len(np.unique(labels)) < len(list(filter(None, classes.values()))):
        raise CatDogError(f"no photo of a class can be read ({', '.join(classes)})")
    return photos, labels


def to_float(photos):
    """uint8 photos, 0..255, as nets want them: float32 (N, S, S, 3), 0..1."""
    pixels = np.array(photos, np.float32)
    return np.divide(pixels, 255, out=pixels)  # in place: another array would cost more than this


def affine_rows(turn, right, down, shear, zoom_x, zoom_y, mirror, size):
    """One affine map per photo, (N, 6) rows (xx, xy, x0, yx, yy, y0): output (x, y) -> input.

    rotation @ shift @ shear @ zoom about the middle, then the mirror, as in Keras'
    ImageDataGenerator (radians, pixels), but in one resampling: faster, and less blurred.
    """
    side, middle = np.where(mirror, -1.0, 1.0), (size - 1) / 2
    xx, xy = np.cos(turn) * zoom_x * side, -np.sin(turn + shear) * zoom_y
    yx, yy = np.sin(turn) * zoom_x * side, np.cos(turn + shear) * zoom_y
    x0 = np.cos(turn) * right - np.sin(turn) * down + middle * (1 - xx - xy)
    y0 = np.sin(turn) * right + np.cos(turn) * down + middle * (1 - yx - yy)
    return np.stack([xx, xy, x0, yx, yy, y0], axis=-1).astype(np.float32)  # (N, 6)


def draw_affines(rng, count, size):
    """Random changes in the tutorials' ranges: (count, 6) float32, see `affine_rows`."""
    limits = (ROTATION, SHIFT, SHIFT, SHEAR)
    turn, right, down, shear = (rng.uniform(-limit, limit, count) for limit in limits)
    zooms, mirror = rng.uniform(1 - ZOOM, 1 + ZOOM, (2, count)), rng.random(count) < 0.5
    return affine_rows(turn, right * size, down * size, shear, *zooms, mirror, size)


def draw_crops(rng, count, size):
    """Random crops within the photo, turned a little, in other light, less sharp: (count, 11)."""
    # 35 to 100 % of the area, sides stretched against each other by up to e^0.25, half mirrored.
    side, stretch = np.sqrt(rng.uniform(0.35, 1, count)), np.exp(rng.uniform(-0.125, 0.125, count))
    zooms = np.minimum([side * stretch, side / stretch], 1)  # (2, count)
    right, down = rng.uniform(-0.5, 0.5, (2, count)) * (1 - zooms) * size  # pixels: none outside
    turn, mirror = rng.uniform(-TILT, TILT, count), rng.random(count) < 0.5
    places = affine_rows(turn, right, down, 0.0, *zooms, mirror, size)  # (count, 6)
    # Factors of the colours and something to add, see `warp`; how often sides are halved, `blur`.
    gains = rng.uniform(1 - CONTRAST, 1 + CONTRAST, (count, 1))  # (count, 1): of all colours
    gains = gains * rng.uniform(1 - CAST, 1 + CAST, (count, 3))  # (count, 3): of each colour
    lift = rng.uniform(-LIGHT, LIGHT, (count, 1)) + 0.5 * (1 - gains.mean(axis=1, keepdims=True))
    halvings = rng.choice(len(SHARPNESS), (count, 1), p=SHARPNESS)
    return np.concatenate([places, gains, lift, halvings], axis=1).astype(np.float32)


def blur(photo, halvings):
    """A uint8 photo (S, S, 3) as if it had been small: its sides halved so often, then enlarged."""
    image = Image.fromarray(photo)
    small = image.reduce(2 ** int(halvings))  # of none it is a copy
    return np.asarray(small.resize(image.size, Image.Resampling.BILINEAR))


def warp(photos, affines, side=None):
    """Apply one affine map to each photo, bilinear: (N, S, S, 3) uint8 in, float32 0..1 out.

    The result has `side` pixels a side, by default S; the edges are repeated. Rows of more than
    six change the colours as well: c -> clip(gain * c + lift).
    """
    size, side = photos.shape[1], side or photos.shape[1]
    step = size / side  # pixels of the photo between two of the result
    first = (step - 1) / 2  # where its first one lies: half a step from the edge, less half a pixel
    scale = np.float32([[step, 0, first], [0, step, first], [0, 0, 1]])
    maps = tf.pad(affines[:, :6] @ np.kron(np.eye(2, dtype=np.float32), scale), ((0, 0), (0, 2)))
    how = {"transforms": maps, "output_shape": (side, side), "interpolation": "BILINEAR"}
    how |= {"images": tf.cast(photos, tf.float32) / 255, "fill_mode": "NEAREST", "fill_value": 0.0}
    pixels = tf.raw_ops.ImageProjectiveTransformV3(**how)  # (N, side, side, 3) in 0..1
    if affines.shape[1] == 6:
        return pixels
    gains, lift = affines[:, None, None, 6:9], affines[:, None, None, 9:10]
    return tf.clip_by_value(pixels * gains + lift, 0, 1)


def draw_changes(rng, photos, augment):
    """Photos, uint8 (B, S, S, 3), and what is to change about them: (B, 6) or (B, 11)."""
    affines = augment(rng, len(photos), photos.shape[1])
    if augment is draw_crops:
        photos = np.stack([blur(*each) for each in zip(photos, affines[:, 10], strict=True)])
    return photos, affines


def make_batches(photos, labels, batch_size, classes=2, rng=None, augment=None, steps=0, side=None):
    """A tf.data.Dataset of (float32 (B, S, S, 3) in 0..1, labels); the last batch may be smaller.

    Labels are (B, 1), 0 or 1, or one-hot (B, classes); where classes are unequal a third part, the
    weights (B, 1), has all count the same. Features, not uint8, pass as they are. A numpy Generator
    shuffles anew in each pass and augments. `steps` of an epoch, 0: one pass; `side` if not S.
    """
    wanted, count = steps * batch_size or len(photos), len(photos)
    counts = np.bincount(labels[:, 0].astype(int), minlength=classes)  # (K,)
    weights = (count / (classes * counts)).astype(np.float32)  # (K,): N / Kn for a class of n
    equal, hot = np.ptp(counts) == 0, np.eye(classes, dtype=np.float32)  # (K, K)

    def draw():
        passes = range(0, wanted, count)
        order = [np.arange(count) if rng is None else rng.permutation(count) for _ in passes]
        for rows in np.split(np.concatenate(order)[:wanted], range(batch_size, wanted, batch_size)):
            batch, places = np.asarray(photos[rows]), labels[rows].astype(int)  # (B, 1)
            if augment:
                batch = warp(*draw_changes(rng, batch, augment), side)
            elif photos.dtype == np.uint8:
                batch = to_float(batch)
            answers = hot[places[:, 0]] if classes > 2 else labels[rows]
            yield (batch, answers) if equal else (batch, answers, weights[places])

    shape = (side, side, 3) if augment and side else photos.shape[1:]
    shapes = [shape, [classes if classes > 2 else 1], [1]][: 2 if equal else 3]
    signature = tuple(tf.TensorSpec((None, *each)) for each in shapes)  # float32
    batches = tf.data.Dataset.from_generator(draw, output_signature=signature)
    length = tf.data.experimental.assert_cardinality(math.ceil(wanted / batch_size))
    options = tf.data.Options()
    options.autotune.enabled = False  # its thread can hold up the end of an epoch for seconds
    return batches.apply(length).prefetch(2).with_options(options)


# ==================================================================================================
# 6. Device: where the net runs


@contextlib.contextmanager
def muted_stderr():
    """Keep native code from writing: TensorFlow's start-up lines ignore every log setting."""
    if sys.stderr is None:  # it has no console
        return (yield)
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def start_tensorflow(settings):
    """Import TensorFlow, quietly, and seed everything; returns a name of the device."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # others may want a part of it
    with muted_stderr():
        tf.get_logger().setLevel("ERROR")
        if settings.seed is not None:
            keras.utils.set_random_seed(settings.seed)
            tf.config.experimental.enable_op_determinism()
        if not (gpus := tf.config.list_physical_devices("GPU")):
            return f"CPU ({os.cpu_count()} cores)"
        details = tf.config.experimental.get_device_details(gpus[0])  # the first is used
    return f"GPU ({details.get('device_name', 'unnamed')})"


# ==================================================================================================
# 7. Training: recipe, optimizer, epochs, the best of them, checkpoint and resume

# The recipes: where Settings differ, and what draws the changes of photos.
RECIPES = {"best": {}, "tutorial": {"optimizer": "rmsprop", "patience": 10}}
AUGMENT = {"best": draw_crops, "tutorial": draw_affines}
RESUME_KEYS = ("model", "recipe", "steps", "batch_size", "optimizer", "learning_rate", "augment")
RESUME_KEYS += ("smoothing", "seed")
SHOWN, MOST_EPOCHS = 800_000, 100  # photos that "best" shows in all, in so many epochs at most
# A dataset: {split: (photos, labels)} of `load_photos`, test may be missing; a digest of it all.
Data = collections.namedtuple("Data", "classes splits is_synthetic digest")


def resolve_settings(given):
    """The Settings of what is given; the rest as the architecture has it, or the recipe."""
    if given.get("base") == "box":  # the net that comes with the program, unless a file is named
        given = {"base_weights": "box", **given, "base": "efficientnet-lite0"}
    asked = Settings(**given)
    for flag, known in (("model", [*ARCHITECTURES]), ("base", [*BASES, "box"])):
        if (name := getattr(asked, flag)) not in known:
            raise UsageError(f"--{flag} {name} is none of {', '.join(known)}")
    if asked.model == "imagenet" and not BASES[asked.base].module:
        raise UsageError(f"{asked.base} has no classes of its own", "Name another --base")
    kind = ARCHITECTURES[asked.model]
    recipe = "tutorial" if kind.transfer and not kind.best else asked.recipe
    chosen = RECIPES[recipe] | kind.settings | getattr(kind, recipe) | given
    return Settings(**{**chosen, "recipe": recipe, "asked": given})


def default_epochs(settings, count, is_synthetic):
    """Settings with the epochs that so many photos want, where nobody said: fewer, more often."""
    kind = ARCHITECTURES[settings.model]
    if "epochs" in {*settings.asked, *kind.settings, *getattr(kind, settings.recipe)}:
        return settings
    # Augmented, photos stay new; drawings are learned sooner.
    more = settings.recipe == "best" and settings.augment and not is_synthetic
    wanted = math.ceil(SHOWN / (settings.steps * settings.batch_size or count)) if more else 0
    return replace(settings, epochs=min(max(wanted, Settings.epochs), MOST_EPOCHS))


def muon():
    """Keras' optimizer Muon, for kernels of convolutions (kellerjordan.github.io/posts/muon, 2024).

    What a kernel is moved by is made orthogonal first, so that it learns in all directions and not
    in the strongest alone; all else gets AdamW.
    """

    class Muon(keras.optimizers.Muon):
        """Kernels of convolutions have four axes: height, width, channels in and out."""

        def _should_use_adamw(self, variable):
            return len(variable.shape) != 4

        def zeropower_via_newtonschulz5(self, x, steps):
            matrix = ops.reshape(x, (-1, x.shape[-1]))  # (9 C, C')
            change = super().zeropower_via_newtonschulz5(matrix, steps)
            # As long as AdamW's, whose learning rates it takes (Liu et al. 2025, arXiv:2502.16982).
            return ops.reshape(change, x.shape) * 0.2 * max(matrix.shape) ** 0.5

    return Muon(rms_rate=None)  # its own scaling is for two axes


def compile_model(model, settings, steps=0):
    """A model made ready for `fit`; with the rates of the recipe if its steps are known."""
    optimizer = muon() if settings.optimizer == "muon" else keras.optimizers.get(settings.optimizer)
    rate = settings.learning_rate
    if settings.recipe == "best" and steps:  # it rises for a tenth, then falls to 0
        phases = {"warmup_target": rate, "warmup_steps": 0.1 * steps, "decay_steps": 0.9 * steps}
        rate = keras.optimizers.schedules.CosineDecay(0.0, **phases)  # along half a cosine
    optimizer.learning_rate = rate
    if settings.optimizer in ("muon", "adamw"):  # kernels shrink by this times the rate in a step
        optimizer.weight_decay = optimizer.adam_weight_decay = 0.5
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    two = model.output_shape[-1] == 1  # classes: one sigmoid
    loss = keras.losses.BinaryCrossentropy if two else keras.losses.CategoricalCrossentropy
    # Label smoothing (Szegedy et al. 2016, arXiv:1512.00567): 0.1 asks, of three classes, for 0.93
    # instead of 1, so that a net is less sure of kinds it never saw; `calibrate` mends the rest.
    loss = loss(label_smoothing=settings.smoothing)
    # Not by its name: its variables would come to be in the first step, and compile it twice.
    metric = keras.metrics.BinaryAccuracy if two else keras.metrics.CategoricalAccuracy
    # XLA makes these nets slower on a CPU and takes its time to compile them.
    model.compile(optimizer, loss, metrics=[metric("acc")], jit_compile=False)
    return model


def read_data(folder, size, expected, console):
    """The Data of a dataset folder. Raises CatDogError."""
    lists, splits = {"train": list_split(folder, "train", expected)}, {}
    lists["validation"] = list_split(folder, "validation", lists["train"])
    try:
        lists["test"] = list_split(folder, "test", lists["train"])
    except CatDogError as error:
        console.say(f"There will be no test score: {error}")
    for split, classes in lists.items():
        splits[split] = photos, labels = load_photos(classes, size, console)
        counts = zip(np.bincount(labels[:, 0].astype(int)), classes, strict=True)
        console.say(f"{split:<12} " + ", ".join(f"{count} {name}" for count, name in counts))
    drawn, (example, *_) = False, next(iter(lists["train"].values()))
    with contextlib.suppress(PhotoError), open_image(example) as (image, _):
        drawn = image.info.get("comment") == b"drawing by CatDogClassifier"  # as in dataset/
    return Data(tuple(lists["train"]), splits, drawn, digest(*itertools.chain(*splits.values())))


@dataclass
class TrainingState:
    """How far a training has come; a checkpoint adds variables, best weights, random generator."""

    history: dict = field(default_factory=dict)  # {"loss": [...], "acc", "val_loss", "val_acc"}
    best_loss: float = math.inf  # the lowest validation loss
    best_epoch: int = 0  # the epoch that is kept, counted from 1
    seconds: list = field(default_factory=list)  # of each epoch
    run: str = field(default_factory=lambda: os.urandom(8).hex())  # its name, in the weights too
    epochs: int = 0  # that the net has seen


def unpack_npz(path):
    """(about, arrays) of a `Trainer.checkpoint`, (None, []) unless it is there and whole."""
    with contextlib.suppress(Exception), open_regular(path) as file, np.load(file) as stored:
        about, *arrays = stored.values()  # what is damaged raises all kinds
        return json.loads(about.tobytes()), arrays
    return None, []


class Trainer:
    """One run of `model.fit`: feeds it, shows it, keeps the best epoch, knows when to stop.

    `model` is the whole net, `fitted` what is trained of it: all, or the head on a base that is
    computed before. `stop_reason` says why it ended, `stopped` whether by Ctrl-C or SIGTERM; `key`:
    what a checkpoint must have in common with a training to resume it.
    """

    def __init__(self, model, settings, console, key=None):
        self.model, self.fitted, self.settings, self.console = model, model, settings, console
        self.state, self.rng = TrainingState(), np.random.default_rng(settings.seed)
        self.kind, self.best_weights = ARCHITECTURES[settings.model], None
        self.stop_reason, self.stopped, self.key = None, False, key

    def feed(self, photos, labels, shuffled=False):
        """The batches that this net is fed with; to train on shuffled, and maybe augmented."""
        settings, augment, rng = self.settings, None, self.rng if shuffled else None
        if self.kind.transfer == "features":  # nothing in the base trains: its output is constant
            base, starts = base_of(self.model), range(0, len(photos), 32)
            starts = self.console.watch("describing", starts, len(starts))
            found = [base.predict_on_batch(to_float(photos[i : i + 32])) for i in starts]
            photos = np.concatenate(found)  # (N, 4, 4, 512) float32 of VGG16
        elif rng and settings.augment:
            augment = AUGMENT[settings.recipe]
        classes = max(2, self.model.output_shape[-1])  # a sigmoid answers for two
        more = {"steps": settings.steps if rng else 0, "side": augment and self.kind.crop}
        return make_batches(photos, labels, settings.batch_size, classes, rng, augment, **more)

    def compile(self, steps):
        """Make `fitted` ready for so many steps an epoch."""
        if self.kind.transfer == "features":
            self.fitted = keras.Model(self.model.get_layer("flatten").input, self.model.output)
        elif self.kind.transfer and self.settings.recipe == "best":  # all of the base learns
            for layer in self.model.layers:
                layer.trainable = not isinstance(layer, layers.BatchNormalization)
        compile_model(self.fitted, self.settings, steps * self.settings.epochs)
        self.fitted.optimizer.build(self.fitted.trainable_variables)  # or it compiles twice
        # What changes in a training: weights, dropout's seeds, the optimizer's memory.
        self.variables = [*self.model.variables, *self.fitted.optimizer.variables]

    def checkpoint(self):
        """All that it takes to resume, in bytes."""
        about = json.dumps([self.key, asdict(self.state), self.rng.bit_generator.state])
        about = np.frombuffer(about.encode(), np.uint8)  # savez puts what has a name first
        arrays = map(np.asarray, [*self.variables, *self.best_weights])
        np.savez(file := io.BytesIO(), *arrays, CatDogClassifier=about)
        return file.getvalue()  # the CRCs of its zip catch a flipped bit

    def resume(self, state, rng, arrays):
        """Go on from what `unpack_npz` gives of a checkpoint."""
        self.state = TrainingState(**state)
        self.rng.bit_generator.state = rng  # or photos would come in another order
        for variable, array in zip(self.variables, arrays, strict=False):
            variable.assign(array)
        self.best_weights = arrays[len(self.variables) :]  # they come last

    def fit(self, train, validation, save):
        """Train until it is over, `save(better)` after each epoch; take the best weights."""
        self.first, self.save, self.steps, self.done = self.state.epochs, save, len(train), 0
        self.started = self.epoch_started = time.monotonic()
        self.stop_reason = self.is_over()  # nothing may be left to do
        hooks = {"on_train_batch_end": self.end_batch, "on_epoch_end": self.end_epoch}
        hooks = keras.callbacks.LambdaCallback(on_test_batch_end=self.check_stop, **hooks)
        more = {"initial_epoch": self.first, "epochs": self.settings.epochs, "callbacks": [hooks]}
        more |= {"validation_data": validation, "shuffle": False, "verbose": 0}
        with handling_signals(self.on_signal):
            if not self.stop_reason:
                self.fitted.fit(train, **more)
        self.stop_reason = "interrupted" if self.stopped else self.stop_reason
        self.console.clear()
        if not self.state.best_epoch and self.stopped:
            self.console.warn("Stopped before the first epoch was over: nothing was saved.")
            raise KeyboardInterrupt
        if not self.state.best_epoch:
            raise CatDogError("loss is no number from the start", "Try a smaller --learning-rate")
        self.fitted.set_weights(self.best_weights)  # the net has them too: same layers

    def on_signal(self, number, frame):
        """The first signal lets the step be finished, the second one leaves at once."""
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True

    def is_over(self):
        """Why there is no further epoch; None while there is."""
        state, patience = self.state, self.settings.patience
        if state.epochs >= self.settings.epochs:
            return "all epochs"
        return "stopped early" if patience and state.epochs - state.best_epoch >= patience else None

    def check_stop(self, batch, logs):
        """Stop after this step when somebody wants to, or the loss is no number any more."""
        if not math.isfinite(logs["loss"]):
            self.stop_reason = "diverged"
        if self.stopped or self.stop_reason:  # Keras honours both after each step
            self.fitted.stop_training = self.fitted.stop_evaluating = True

    def end_batch(self, batch, logs):
        """Draw the bar of the whole training."""
        self.check_stop(batch, logs)
        self.done += 1  # steps
        last, epoch = self.settings.epochs, self.state.epochs + 1
        tail = f"loss {logs['loss']:.3f}  acc {logs['acc']:.3f}"
        total = (last - self.first) * self.steps
        self.console.bar(f"epoch {epoch}/{last}", self.done, total, self.started, tail)

    def end_epoch(self, epoch, logs):
        """Keep the epoch if it is the best so far, save where the training stands, print scores."""
        if self.stopped or self.stop_reason:
            return  # it was left in the middle
        weights, state, now = self.fitted.get_weights(), self.state, time.monotonic()  # copies
        if not all(np.isfinite(n).all() for n in (logs["val_loss"], *weights)):
            self.stop_reason = "diverged"  # a rectified layer can hide weights that are no numbers
            self.fitted.stop_training = True
            return
        state.seconds.append(now - self.epoch_started)
        self.epoch_started, state.epochs = now, epoch + 1
        for name in ("loss", "acc", "val_loss", "val_acc"):
            state.history.setdefault(name, []).append(float(logs[name]))
        better = logs["val_loss"] < state.best_loss
        if better:
            state.best_loss, state.best_epoch = float(logs["val_loss"]), state.epochs
            self.best_weights = weights  # kept in memory until a better one
        try:
            self.save(better)
        except CatDogError as error:  # a full disk may be emptied before the next epoch
            self.console.warn(f"{error}. Training goes on, and tries again later")
        scores = "  ".join(f"{name} {values[-1]:.3f}" for name, values in state.history.items())
        pace = f"epoch {state.epochs:2}/{self.settings.epochs} {state.seconds[-1]:5.1f} s"
        self.console.say(f"{pace}  {scores}{'  best' if better else ''}")
        self.stop_reason = self.is_over()
        self.fitted.stop_training = self.stop_reason is not None  # honoured by Keras


def train_head(model, photos, labels, settings, console):
    """The short first phase of fine-tuning: the head of a net, on what its base makes of photos."""
    # A new head answers by chance: what it learns first would spoil a base that learned with it.
    settings = replace(settings, model="features", epochs=12, learning_rate=0.001, steps=0)
    head = Trainer(model, settings, console)
    batches = head.feed(photos, labels, shuffled=True)
    head.compile(len(batches))
    head.fitted.fit(batches, epochs=settings.epochs, shuffle=False, verbose=0)


def announce(trainer, data, device):
    """Say what starts, where, and how to stop it."""
    say, settings, state = trainer.console.say, trainer.settings, trainer.state
    if data.is_synthetic:
        say("These are drawings: who learns from them knows nothing of photographs (README.md).")
    net = settings.model + (f" on {settings.base}" if trainer.kind.transfer else "")
    say(f"Net: {net}. Recipe: {settings.recipe}, at most {settings.epochs} epochs on the {device}.")
    if state.epochs:
        say(f"Resuming after epoch {state.epochs} of a checkpoint (--no-resume starts over).")
    say("Ctrl-C stops and keeps the best so far.")


# ==================================================================================================
# 8. Scores: accuracy and its interval, confusion, calibration, risk and coverage


def wilson(correct, total, z=1.959964):
    """The 95 % confidence interval of a share, (low, high), 0..1 (E. B. Wilson, JASA 22, 1927)."""
    share, weight = correct / total, z * z / total
    half = z * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    ends = (np.array([share - half, share + half]) + weight / 2) / (1 + weight)
    return tuple(ends.clip(0, 1).tolist())


def classification_scores(probabilities, labels):
    """How well probabilities (N, K) agree with labels (N, 1), places of classes: a dict.

    correct, total, accuracy in 0..1 and its 95 % interval; loss: the mean cross-entropy, natural
    logarithm, of probabilities no smaller than 1e-7.
    """
    truth = labels[:, 0].astype(int)
    right = probabilities.argmax(axis=1) == truth  # (N,)
    correct, total = int(right.sum()), len(labels)
    loss = float(-np.log(probabilities[np.arange(total), truth].clip(1e-7, 1 - 1e-7)).mean())
    scores = {"correct": correct, "total": total, "accuracy": correct / total}
    return scores | {"interval": wilson(correct, total), "loss": loss}


def precision_recall(probabilities, labels):
    """The confusion table and, in 0..1, precision and recall of each class.

    `confusion` (K, K): rows the labels (N, 1), columns the answers. Precision is the share right of
    those answered so, recall of those that are so; None of none.
    """
    table = np.zeros((probabilities.shape[1],) * 2, int)
    np.add.at(table, (labels[:, 0].astype(int), probabilities.argmax(axis=1)), 1)
    found = {"confusion": table.tolist()}
    for axis, kind in enumerate(("precision", "recall")):
        pairs = zip(table.diagonal().tolist(), table.sum(axis=axis).tolist(), strict=True)
        found[kind] = [right / count if count else None for right, count in pairs]
    return found


def apply_temperature(probabilities, temperature):
    """Probabilities (N, K) whose logits are divided by a temperature: above 1 less confident."""
    # Nets are right less often than their confidence says; one number, fitted on photos that they
    # have not learned from, mends most of that (Guo et al. 2017, arXiv:1706.04599).
    logits = np.log(probabilities.clip(1e-7, 1)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return probabilities if temperature == 1 else powers / powers.sum(axis=1, keepdims=True)


def fit_temperature(probabilities, labels, low=0.05, high=20.0):
    """The temperature with the least cross-entropy for labels (N, 1), between two limits."""
    count, kinds = probabilities.shape
    # As in Platt 1999: that N photos were all right does not prove that the next one is.
    targets = np.full((count, kinds), 1 / (count + 2) / (kinds - 1))  # (N, K): the other classes
    targets[np.arange(count), labels[:, 0].astype(int)] = 1 - 1 / (count + 2)
    tried = np.geomspace(low, high, 600)  # each 1 % above the one before
    found = (np.log(apply_temperature(probabilities, t).clip(1e-12)) for t in tried)
    return float(tried[np.argmin([-(targets * logs).sum() for logs in found])])


def calibration_bins(probabilities, labels, bins=15):
    """How far confidence agrees with accuracy: {"ece": their mean distance, "bins": [...]}.

    The expected calibration error (Naeini et al. 2015), each photo counting the same; bins of equal
    width: [mean confidence, accuracy, photos] of those not empty.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels[:, 0]
    places, found = np.minimum((confidence * bins).astype(int), bins - 1), []
    for place in np.unique(places):
        here = places == place
        found.append([float(confidence[here].mean()), float(right[here].mean()), int(here.sum())])
    distance = sum(abs(mean - accuracy) * count for mean, accuracy, count in found)
    return {"ece": distance / len(confidence), "bins": found}


def risk_coverage(probabilities, labels, most=256):
    """What more confidence would do: [[confidence, wrong, answered]], the highest first."""
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    confidence = probabilities.max(axis=1)[order]
    wrong = np.cumsum((probabilities.argmax(axis=1) != labels[:, 0])[order])
    ends = np.flatnonzero(np.diff(confidence, append=-1) < 0)  # the last of the equally confident
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, most).astype(int))]
    return [[float(confidence[end]), int(wrong[end]), int(end) + 1] for end in ends]


def confidence_threshold(curve, risk):
    """The confidence from which at most a share `risk` was wrong; shares wrong, abstained: 0..1."""
    safe = [row for row in curve if row[1] <= risk * row[2]]  # rows of `risk_coverage`
    if not safe:
        return 1.1, 0.0, 1.0  # no confidence is enough
    confidence, wrong, answered = max(safe, key=lambda row: row[2])
    return confidence, wrong / answered, 1 - answered / curve[-1][2]


# ==================================================================================================
# 9. Prediction: photos in, probabilities out, by Keras or LiteRT

TTA_CONFIDENCE, GLANCE_CONFIDENCE = 0.95, 0.999  # enough for no closer look; for a glance alone
NEITHER = "neither"  # a class of photos that show nothing of the other ones


def smaller(photos, side):
    """Photos (B, S, S, 3) at a glance: the nearest pixels, as good as means here, and quicker."""
    places = (2 * np.arange(side) + 1) * photos.shape[1] // (2 * side)
    return photos.take(places, axis=1).take(places, axis=2)  # (B, side, side, 3)


def closer(photos, margin, side):
    """The middle of photos in the mirror, without a margin of so much of a side."""
    size = photos.shape[1]
    first, last = round(size * margin), round(size * (1 - margin))  # pixels
    cuts = (Image.fromarray(photo[first:last, first:last][:, ::-1]) for photo in photos)
    return np.stack([cut.resize((side or size,) * 2, Image.Resampling.BILINEAR) for cut in cuts])


class Predictor:
    """What answers for a net: uint8 photos (N, S, S, 3) -> probabilities, float64 (N, K).

    `forward` gives the net's own outputs, float32 (N, 1) or (N, K), `info` is its metadata. Raises
    CatDogError for what is no number. Test-time augmentation (TTA): where in doubt, it looks again.
    """

    def __init__(self, forward, info):
        self.forward, self.info, recipe = forward, info, info["recipe"]
        kind, any_size = ARCHITECTURES[info["architecture"]], getattr(forward, "any_size", False)
        margins = kind.margins if recipe.get("recipe") == "best" and recipe.get("augment") else ()
        first, last = kind.sides if any_size and info["base"] != "vgg16" else (None, None)
        # How it looks, below which confidence, what that counts then. (VGG16 takes only one size.)
        self.looks = [(functools.partial(smaller, side=first), 1, 1)] if first and margins else []
        self.looks += [(np.asarray, GLANCE_CONFIDENCE, 1)]
        views = (functools.partial(closer, margin=margin, side=last) for margin in margins)
        self.looks += [(view, TTA_CONFIDENCE, 1 / n) for n, view in enumerate(views, start=2)]
        # A net that knows neither learned from all classes alike; nine of ten photos of a folder
        # are of it. Odds change as shares do (Saerens et al. 2002, Neural Computation 14, eq. 4).
        times = 9 * (len(info["classes"]) - 1)  # 0.9 to one of the others, which have 0.1 together
        self.odds = [times if name == NEITHER else 1 for name in info["classes"]]  # (K,)

    def __call__(self, photos, batch_size=64):
        found = np.zeros((len(photos), len(self.odds)))  # nothing is sure yet
        for start in range(0, len(photos), batch_size):  # so that memory stays small
            batch, answers = (each[start : start + batch_size] for each in (photos, found))
            for view, least, share in self.looks:
                doubtful = answers.max(axis=1) < least  # (B,)
                if doubtful.any():
                    look = self.look(view(batch[doubtful])).clip(1e-9)
                    mean = answers[doubtful].clip(1e-9) ** (1 - share) * look**share  # of logits
                    answers[doubtful] = mean / mean.sum(axis=1, keepdims=True)
        found *= self.odds  # (N, K): those of a folder
        return found / found.sum(axis=1, keepdims=True)

    def look(self, photos):
        """The answers for photos (B, S, S, 3) at one look: float64 (B, K)."""
        found = self.forward(photos).astype(np.float64)  # (B, K), or (B, 1): P(second class) of two
        if not np.isfinite(found).all():
            raise CatDogError("the net gives answers that are no numbers", "Train anew")
        found = np.hstack([1 - found, found]) if found.shape[1] == 1 else found
        return apply_temperature(found, self.info["temperature"])


def keras_forward(model):
    """A function from uint8 photos (N, S, S, 3) to what a Keras model makes of them."""
    return lambda photos: model.predict_on_batch(to_float(photos))


def litert_forward(content):
    """The same from a LiteRT file in bytes, without TensorFlow; in 8 bits photos go as they are."""

    def start():
        """An interpreter that leaves the other cores to others."""
        with muted_stderr():  # it announces its delegate
            interpreter = litert.Interpreter(model_content=content, num_threads=1)
            interpreter.allocate_tensors()
        return interpreter

    def answer(interpreter, photos):
        found = []
        interpreter.resize_tensor_input(given["index"], photos[:1].shape)  # 0.4 ms if it changes
        interpreter.allocate_tensors()
        for photo in photos:
            interpreter.set_tensor(given["index"], photo[None])
            interpreter.invoke()
            found += [*interpreter.get_tensor(wanted["index"])]
        return found

    def forward(photos):
        """Outputs for uint8 photos (N, S, S, 3), each core a part of them."""
        parts = np.array_split(photos if quantized else to_float(photos), min(len(photos), cores))
        while len(interpreters) < len(parts):
            interpreters.append(start())
        found = np.array([*itertools.chain(*pool.map(answer, interpreters, parts))])  # (N, K)
        if not quantized:
            return found
        logits = found if found.shape[1] > 1 else np.pad(found, ((0, 0), (1, 0)))  # 0 and its
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    cores, interpreters = os.cpu_count(), [start()]
    pool = ThreadPoolExecutor(cores)
    (given,), (wanted,) = interpreters[0].get_input_details(), interpreters[0].get_output_details()
    forward.any_size = quantized = given["dtype"] is np.uint8  # its outputs are logits
    return forward


def calibrate(forward, info, splits):
    """Fit a net's confidence on validation photos, score it there and on test's: into `info`."""
    first, summary = Predictor(forward, {**info, "recipe": {}, "temperature": 1.0}), info["summary"]
    raw = {split: first(photos) for split, (photos, _) in splits.items() if split != "train"}
    truth = {split: splits[split][1] for split in raw}  # (N, 1) each
    labels, classes = truth["validation"], info["classes"]
    others = labels[:, 0] == (classes.index(NEITHER) if NEITHER in classes else -1)  # (N,)
    times = round(9 * (~others).sum() / max(others.sum(), 1))  # makes nine of ten, as in a folder
    rows = np.repeat(np.arange(len(labels)), np.where(others, max(times, 1), 1))
    # What the net itself says of all but neither: of that there is no end of kinds, often harder.
    info["temperature"] = fit_temperature(raw["validation"][~others] / first.odds, labels[~others])
    found = {split: Predictor(forward, info)(splits[split][0]) for split in raw}  # (N, K) each
    info["risk_coverage"] = risk_coverage(found["validation"][rows], labels[rows])
    summary |= {split: classification_scores(found[split], truth[split]) for split in found}
    *_, split = found
    before, after = (calibration_bins(each[split], truth[split]) for each in (raw, found))
    summary["calibration"] = {"split": split, "before": before, "after": after}


# ==================================================================================================
# 10. The weights file: a net and its metadata, saved and loaded together

MAX_ITEMS, MAX_DEPTH, MAX_TEXT, MAX_TEXTS = 10_000, 9, 65_536, 512  # texts: bytes, in a list
# The shipped net as LiteRT answers by it; nothing else is run but what was derived on this machine.
SHIPPED_LITERT = PRETRAINED.with_suffix(".tflite")
SHIPPED_INFO = 10_411_098, 11_044, "939439036d21d625"  # bytes of its file, of its head, a digest
LITERT_DIGEST = "bc0b8ac56e1f609f5906cc2fa7b71f2f35ff074439a03c44ce0edb1edddad53c"
Net = collections.namedtuple("Net", "model info")  # a Keras model and its metadata, see `new_info`


def new_info(settings, classes, **known):
    """The metadata of a net, as JSON can hold it: that of a new one, but for what is known."""
    info = {"program": PROGRAM, "architecture": settings.model, "classes": list(classes)}
    info |= {"base": settings.base if ARCHITECTURES[settings.model].transfer else None}
    # `recipe`: what trained it; `temperature`, `risk_coverage`: how to answer; the scores.
    info |= {"recipe": {}, "temperature": 1.0, "risk_coverage": [], "summary": {}}
    # `is_synthetic`: it knows drawings only; `run`: its training, "" of others, None for a new net.
    return {**info, "is_synthetic": False, "run": None, **known}


def trained_info(trainer, data):
    """The metadata of a net in training, or after it: `summary` is the run in numbers and words."""
    settings, state, seconds = trainer.settings, trainer.state, trainer.state.seconds
    summary = {"architecture": settings.model, "epochs": state.epochs}
    summary |= {"seconds": round(sum(seconds), 1), "seconds_per_epoch": float(np.median(seconds))}
    summary |= {"best_epoch": state.best_epoch, "stop_reason": trainer.stop_reason or "interrupted"}
    recipe = {name: getattr(settings, name) for name in (*RESUME_KEYS, "epochs")}
    known = {"run": state.run, "recipe": recipe, "is_synthetic": data.is_synthetic}
    known["size"] = image_size(settings.model, settings.base)
    return new_info(settings, data.classes, summary=summary, **known)


def save_h5(net, kind="float32"):
    """A Net as an HDF5 file in bytes, in the layout that load_weights of Keras 2 and 3 reads."""
    buffer, about = io.BytesIO(), json.dumps(net.info)
    arrays = [array.astype(kind) for array in net.model.get_weights()]
    with h5py.File(buffer, "w") as file:
        file.attrs["catdogclassifier"] = np.bytes_(about.encode())  # the metadata as JSON
        file.attrs["digest"] = np.bytes_(digest(about, *arrays))  # HDF5 itself has none
        file.attrs["layer_names"] = np.array([layer.name for layer in net.model.layers], "S")
        for layer in net.model.layers:
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            file.create_group(layer.name).attrs["weight_names"] = np.array(names, "S")
            for name in names:
                file[layer.name].create_dataset(name, data=arrays.pop(0))
    return buffer.getvalue()


def read_texts(item, name):
    """The texts of an attribute, as bytes; [] without it. Raises ValueError for another kind."""
    if name not in item.attrs or not math.prod(item.attrs.get_id(name).shape):
        return []
    about = item.attrs.get_id(name)  # to look at it takes no memory yet
    kind = about.get_type()
    is_text = isinstance(kind, h5py.h5t.TypeStringID) and math.prod(about.shape) <= MAX_TEXTS
    ours = name in ("catdogclassifier", "digest")  # not of any length, as those of Keras may be
    if not is_text or kind.get_size() > MAX_TEXT or (ours and kind.is_variable_str()):
        raise ValueError(f"its attribute {name} is too large, or of another kind")
    return [v if isinstance(v, bytes) else v.encode() for v in np.ravel(item.attrs[name]).tolist()]


def oddity(file, count, name, link):
    """Why an object of an HDF5 file, by its name, is not safe to read; None if it is."""
    # Links and external or virtual storage would open other files; a compressed chunk, or an array
    # that is declared but not stored, may take any amount of memory.
    if name.count("/") > MAX_DEPTH or next(count) > MAX_ITEMS or type(link) is not h5py.HardLink:
        return f"{name[:80]} is a link, or one too many"
    if not isinstance(item := file[name], h5py.Dataset):
        return None
    odd = item.is_virtual or item.external or item.chunks
    odd = odd or item.id.get_storage_size() != item.size * item.id.get_type().get_size()
    return f"{name[:80]} is stored elsewhere, or in pieces" if odd else None


@contextlib.contextmanager
def open_h5(path, limit=1_000_000_000):
    """A weights file to read. Raises CatDogError for whatever turns out to be wrong with it."""
    try:
        with open_regular(path, limit) as opened, h5py.File(opened, "r") as file:
            yield file
    except CatDogError:
        raise
    except Exception as error:  # noqa: BLE001 (h5py raises all kinds on damaged files)
        problem = f"{path} is not a weights file that can be read ({reason(error)})"
        raise CatDogError(problem, "Train anew, or name another --weights") from None


def shipped_info(path):
    """The metadata of the net that comes with the program, if a weights file has them; or None."""
    size, end, known = SHIPPED_INFO  # read without h5py, whose import takes as long as an answer
    with contextlib.suppress(OSError), open_regular(path, size) as file:
        head = file.read(end)  # up to the end of the metadata, to the letter
        same = file.seek(0, os.SEEK_END) == size and digest(head)[:16] == known
        return json.loads(head[head.find(b"{") :]) if same else None


def read_metadata(path, settings):
    """What a weights file says of its net; nothing: one of these settings. Raises CatDogError."""
    if not os.path.exists(path):
        flags = f"--dataset {shlex.quote(settings.dataset)} --weights {shlex.quote(str(path))}"
        fix = f"Train first: python CatDogClassifier.py {flags}, or name others"
        raise CatDogError(f"there are no weights at {path}", fix)
    if known := shipped_info(path):
        return known
    with open_h5(path) as file:
        text = (read_texts(file, "catdogclassifier") or [b"{}"])[0]
        info = new_info(settings, ARCHITECTURES[settings.model].classes, run="") | json.loads(text)
        kind, classes, curve = info["architecture"], info["classes"], info["risk_coverage"]
        listed = kind in list(ARCHITECTURES)  # in a list: it may be anything
        bases = [*BASES] if listed and ARCHITECTURES[kind].transfer else [None]
        if not listed or info["base"] not in bases:
            raise ValueError("it is of a net that this program does not know")
        if info.get("size", size := image_size(kind, info["base"])) != size:
            raise ValueError(f"its net sees {info['size']} pixels a side, here it would be {size}")
        kinds = {"classes": list, "summary": dict, "recipe": dict, "risk_coverage": list}
        sound = [isinstance(info[name], kind) for name, kind in kinds.items()]
        sound += [info["recipe"].get("recipe", "best") in list(RECIPES), are_classes(classes)]
        sound += [classes == sorted(set(classes)), 0.01 <= info["temperature"] <= 100]
        sound += [0 <= c <= 1 and 0 <= wrong <= n and 0 < n < 1e12 for c, wrong, n in curve]
        if not all(sound):
            raise ValueError("what it says about itself is damaged")
        return info


def load_h5(path, model):
    """Read a weights file into a model. Raises CatDogError.

    Files of Keras 2 fit too, weights-only and whole-model. Layers are matched by order, shapes are
    checked before memory is taken, nothing but numbers is read: no file can run anything.
    """
    shapes = [tuple(weight.shape) for weight in model.weights]
    limit = 16 * sum(map(math.prod, shapes)) + 2_000_000  # bytes: with the memory of an optimizer
    with open_h5(path, limit) as file:
        if problem := file.visititems_links(functools.partial(oddity, file, itertools.count(1))):
            raise ValueError(problem)
        root = file.get("model_weights", file)
        owners = read_texts(root, "layer_names")
        names = ((own, name) for own in owners for name in read_texts(root[own], "weight_names"))
        stored = [root[own][name] for own, name in itertools.islice(names, len(shapes) + 1)]
        kinds = h5py.h5t.IEEE_F32LE, h5py.h5t.IEEE_F16LE
        floats = all(any(map(array.id.get_type().equal, kinds)) for array in stored)
        if not floats or [array.shape for array in stored] != shapes:
            raise CatDogError(f"{path} holds the weights of another net", "Name another --weights")
        about, arrays = read_texts(file, "catdogclassifier"), [array[()] for array in stored]
        sealed = about and read_texts(file, "digest") == [digest(*about, *arrays).encode()]
        ours = about or "digest" in file.attrs  # then the digest has to agree as well
        if (ours and not sealed) or not all(np.isfinite(array).all() for array in arrays):
            raise ValueError("it has been damaged or changed, or its numbers are not finite")
    model.set_weights(arrays)


def matching_settings(settings, info, path):
    """Settings for the net of this metadata. Raises CatDogError if another was asked for."""
    found = {"model": info["architecture"], "base": info["base"] or settings.base}
    if any(settings.asked.get(name, there) != there for name, there in found.items()):
        fix = "Leave out --model and --base, or name another --weights"
        raise CatDogError(f"{path} holds a {found['model']} net, base {info['base']}", fix)
    return replace(resolve_settings(settings.asked | found), asked=settings.asked)


def load_net(path, settings):
    """The Net of a weights file: ours say what they are of, others are of these settings."""
    info = read_metadata(path, settings)
    settings = matching_settings(settings, info, path)
    start_tensorflow(settings)
    model = build_model(settings.model, settings.base, len(info["classes"]))
    load_h5(path, model)
    return Net(compile_model(model, settings), info)


def new_model(settings, classes, pretrained=True):
    """A new net, its base downloaded ("imagenet"), random, from a file or the shipped net."""
    model, base = build_model(settings.model, settings.base, classes), settings.base
    transfer, source = ARCHITECTURES[settings.model].transfer, settings.base_weights
    if not (transfer or settings.model == "imagenet") or source == "none" or not pretrained:
        return model
    inner = base_of(model) if transfer else model
    more = {"include_top": not transfer, "input_shape": inner.input_shape[1:]}
    try:
        if source == "imagenet":
            with contextlib.redirect_stdout(sys.stderr if sys.stderr.isatty() else io.StringIO()):
                inner.set_weights(application(base, **more).get_weights())
        elif source == "box":  # what answers there before its head
            inner.set_weights(base_of(load_net(PRETRAINED, Settings()).model).get_weights())
        else:
            open_regular(source).close()  # an OSError says what is wrong with the file itself
            inner.set_weights([np.full_like(array, np.nan) for array in inner.get_weights()])
            with warnings.catch_warnings(action="ignore"):  # Keras warns of what it skips
                inner.load_weights(source)
            if not all(np.isfinite(array).all() for array in inner.get_weights()):
                raise ValueError("some of its layers have none there")
    except Exception as error:  # noqa: BLE001 (Keras raises plain ones, with long explanations)
        problem = f"there are no weights of {base} in {source}: {reason(error)}"
        fix = "Name a file with --base-weights, or say --base-weights none for random ones"
        raise CatDogError(problem, fix) from None
    return model


def imagenet_net(settings):
    """A base as others trained it; its classes have names, which Keras downloads once."""
    start_tensorflow(settings)
    model, named = new_model(settings, 1000), keras.applications.imagenet_utils.decode_predictions
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # Keras prints what it downloads
            names = [found[0][1].replace("_", " ") for found in named(np.eye(1000), top=1)]
    except Exception as error:  # noqa: BLE001 (Keras raises plain ones)
        problem = f"there are no names of ImageNet's classes: {reason(error)}"
        raise CatDogError(problem, "Put that file into ~/.keras/models, or go online") from None
    names = [f"{n} {i}" if names.count(n) > 1 else n for i, n in enumerate(names)]  # two come twice
    return Net(compile_model(model, settings), new_info(settings, names, run=""))


def to_litert(net, photos=()):
    """A Net as LiteRT in bytes; its logits in 8 bits for what photos (N, S, S, 3) are like."""
    size, last = image_size(net.info["architecture"], net.info["base"]), net.model.layers[-1]
    photo = keras.Input(batch_shape=(1, size, size, 3))
    model = keras.Model(photo, net.model(photo))
    if len(photos):  # its logits: of probabilities 256 steps are too few near 0 and 1
        logits = layers.Dense(last.units)
        model = keras.Model(photo, logits(keras.Model(net.model.inputs, last.input)(photo)))
        logits.set_weights(last.get_weights())
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if len(photos):  # 256 steps between the extremes that the numbers of each layer reach
        few = photos[:: math.ceil(len(photos) / 500)]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([to_float(photo[None])] for photo in few)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
    with muted_stderr(), contextlib.redirect_stdout(io.StringIO()):
        return converter.convert()


def smallest_litert(net, say, photos, labels):
    """`to_litert` in 8 bits, or in 32 if in 8 it is less often right on these photos."""
    small = to_litert(net, photos)
    forwards = keras_forward(net.model), litert_forward(small)
    exact, found = (Predictor(each, net.info)(photos).argmax(axis=1) for each in forwards)  # (N,)
    lost = np.mean(exact == labels[:, 0]) - np.mean(found == labels[:, 0])
    if np.mean(exact != found) <= 0.003 and lost <= 0.001:  # shares of the photos
        return small
    say("In 8 bits it would not answer as well: it answers in 32.")
    return to_litert(net)


def litert_predictor(path, settings, derive=None):
    """The Predictor of a weights file on LiteRT, by `derive()` if given; None without LiteRT."""
    try:
        info, cache = read_metadata(path, settings), cache_folder()
        settings = matching_settings(settings, info, path)
        if settings.precision == "auto" and info == shipped_info(path) and SHIPPED_LITERT.exists():
            found = SHIPPED_LITERT.read_bytes()
            if digest(found) == LITERT_DIGEST:  # nobody changed it
                return Predictor(litert_forward(found), info)
        with open_regular(path) as file:
            known = digest(PROGRAM, settings.model, settings.base, settings.precision, file.read())
        for cached in cache.glob(f"{known}-*.tflite"):  # its name ends with its digest
            if not derive and cached.stem.endswith(digest(found := cached.read_bytes())):
                return Predictor(litert_forward(found), info)
        exact = not derive or settings.precision == "float32"
        content = to_litert(load_net(path, settings)) if exact else derive()
        cache.mkdir(parents=True, exist_ok=True)
        with replacing(cache / f"{known}-{digest(content)}.tflite") as file:
            file.write(content)
        for old in sorted(cache.glob("*.tflite"), key=os.path.getmtime)[:-20]:
            old.unlink()
        return Predictor(litert_forward(content), info)
    except Exception as error:  # noqa: BLE001 (whatever LiteRT fails with, there is Keras)
        if isinstance(error, CatDogError) and litert.fix not in str(error):
            raise
        return None


def export_net(net, path):
    """Write a net for other programs, as .tflite, .onnx or .keras, with its metadata inside.

    What was written has to answer as the net does; CatDogError if not, or what it takes is missing.
    """
    kind, about = Path(path).suffix, {"input": "float32 (N, S, S, 3), RGB from 0 to 1", **net.info}
    model = keras.Model(net.model.inputs, net.model.outputs)  # without the optimizer
    size = image_size(net.info["architecture"], net.info["base"])
    photos = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    pixels, wanted = to_float(photos), keras_forward(model)(photos)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        part = os.path.join(folder, f"net{kind}")
        if kind == ".onnx":
            onnx.need(), tf2onnx.need(), onnxruntime.need()
            model.export(part, "onnx", verbose=False)
            graph = onnx.load(part)
            onnx.helper.set_model_props(graph, {"CatDogClassifier": json.dumps(about)})
            onnx.save(graph, part)
            session = onnxruntime.InferenceSession(part)
            (found,) = session.run(None, {session.get_inputs()[0].name: pixels})
        elif kind == ".keras":
            model.save(part)
            found = keras.models.load_model(part).predict_on_batch(pixels)
        else:
            Path(part).write_bytes(content := to_litert(net))
            found = litert_forward(content)(photos)
        if kind != ".onnx":  # the other two may have a zip archive at their end
            with zipfile.ZipFile(part, "a") as file:
                file.writestr("CatDogClassifier.json", json.dumps(about))
        if np.abs(found - wanted).max() > 1e-4:
            raise CatDogError(f"as {kind} this net answers otherwise", "Name another kind of file")
        write_file(path, Path(part).read_bytes(), "--export")


# ==================================================================================================
# 11. Looking inside: what a net attends to, what its layers answer to


def last_maps(model):
    """The last layer of a net whose output is maps, (N, h, w, C), pooling left out."""
    for layer in reversed(model.layers[1:]):
        shape, poolings = layer.output.shape, (layers.MaxPooling2D, layers.AveragePooling2D)
        if len(shape) == 4 and shape[1] != 1 and not isinstance(layer, poolings):
            return layer
    raise UsageError("this net has no convolutions to look into", "Name another --model")


def grad_cam(model, photo, place):
    """Where in a photo, uint8 (S, S, 3), a net sees the class of this place: float32 (h, w), 0..1.

    Each of the last maps counts as much as the logit of the class rises with it on average; what
    speaks against it is left out (Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2).
    """
    last, middle = model.layers[-1], last_maps(model).output
    pixels = to_float(photo[None])  # (1, S, S, 3)
    maps = keras.Model(model.inputs[0], middle)(pixels, training=False)  # (1, h, w, C)
    with tf.GradientTape() as tape:  # not of the probability, which is flat where a net is certain
        tape.watch(maps)
        logits = tf.cast(keras.Model(middle, last.input)(maps, training=False), tf.float32)
        if isinstance(last, layers.Dense):  # its input are features, not logits yet
            logits = logits @ last.kernel + last.bias  # (1, 1) or (1, K)
        logit = logits[0, place] if logits.shape[1] > 1 else logits[0, 0] * (1 if place else -1)
    weights = tf.reduce_mean(tape.gradient(logit, maps), axis=(1, 2))[0]  # (C,)
    heat = np.maximum(np.tensordot(np.float32(maps[0]), np.float32(weights), 1), 0)  # (h, w)
    return heat / max(heat.max(), np.finfo(np.float32).tiny)


def layer_activations(model, photo):
    """What each convolution and pooling makes of a photo, uint8 (S, S, 3): [(name, (h, w, C))]."""
    kinds = (layers.Conv2D, layers.DepthwiseConv2D, layers.MaxPooling2D, layers.AveragePooling2D)
    shown = [layer for layer in model.layers if isinstance(layer, kinds)]
    inner = keras.Model(model.inputs[0], [layer.output for layer in shown])
    found = inner(to_float(photo[None]), training=False)
    return [(layer.name, np.float32(maps[0])) for layer, maps in zip(shown, found, strict=True)]


# ==================================================================================================
# 12. Pictures: curves, reliability, maps in a grid, the gallery page

BLUE, ORANGE, GREY_LINE = "#0072B2", "#D55E00", "#666666"  # for the colour-blind: Okabe, Ito 2008


def pack_figure(figure):
    """A Figure as PNG in bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": PROGRAM})
    return buffer.getvalue()


def new_figure(size, rows=1, **more):
    """An empty Figure of so many inches, and its axes, one below the other: (rows,)."""
    matplotlib.set_loglevel("error")  # it reports its cache of fonts
    warnings.filterwarnings("ignore", "Glyph")  # names may be in any script, its font is not
    figure = matplotlib_figure.Figure(figsize=size, dpi=120, layout="constrained")
    figure._repr_png_ = lambda: pack_figure(figure)  # what a notebook shows, even without pyplot
    return figure, figure.subplots(rows, squeeze=False, **more)[:, 0]


def draw_curves(trained, name, title):
    """The Figure of "acc" or "loss" over the epochs of a Keras History."""
    if not trained:
        raise CatDogError("there are no curves to draw yet", "Call train() first")
    history, best = trained.history, 1 + int(np.argmin(trained.history["val_loss"]))
    epochs, validation = range(1, len(history[name]) + 1), history[f"val_{name}"]
    # The tutorial's exponential moving average, in which the first point counts in full.
    smooth = list(itertools.accumulate(validation, lambda mean, point: 0.8 * mean + 0.2 * point))
    figure, (axes,) = new_figure((8, 5))
    axes.plot(epochs, history[name], "o", color=BLUE, markersize=5, label="training")
    axes.plot(epochs, validation, color=ORANGE, linewidth=1, alpha=0.6, label="validation")
    axes.plot(epochs, smooth, color=ORANGE, linewidth=2.5, label="validation, smoothed")
    axes.axvline(best, label=f"best epoch: {best}", color=GREY_LINE, ls="--", lw=1)
    axes.set(xlabel="epoch", ylabel=title.lower(), title=f"{title} by epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_reliability(before, after, split):
    """The Figure of two results of `calibration_bins`, before and after calibration."""
    figure, (axes,) = new_figure((6, 6))
    axes.axline((1, 1), slope=1, ls="--", color=GREY_LINE, linewidth=1, label="as it should be")
    kinds = ("as the net says", BLUE, "o", before), ("calibrated", ORANGE, "s", after)
    for name, colour, marker, found in kinds:
        confidence, accuracy, counts = zip(*found["bins"], strict=True)
        sizes = [10 + 190 * count / sum(counts) for count in counts]
        label = f"{name}: expected calibration error {percent(found['ece'])} (larger: more photos)"
        axes.plot(confidence, accuracy, color=colour, linewidth=1, alpha=0.6)
        axes.scatter(confidence, accuracy, sizes, colour, marker=marker, label=label, clip_on=False)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"How far confidence can be relied on ({split} photos)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center")
    return figure


def tile(pictures, columns=16, gap=1):
    """Pictures, uint8 (N, h, w) or (N, h, w, 3), in rows of so many, left to right, on white."""
    columns, colours = min(columns, len(pictures)), [(0, 0)] * (pictures.ndim - 3)
    edges = [(0, -len(pictures) % columns), (0, gap), (0, gap), *colours]  # the last row is filled
    white = np.pad(pictures, edges, constant_values=255)
    rows = [np.concatenate(row, axis=1) for row in np.split(white, len(white) // columns)]
    return np.concatenate(rows)[:-gap, :-gap]


def overlay_heatmap(photo, heat, strength=0.4):
    """A photo, uint8 (H, W, 3), and beside it the same under a heatmap (h, w), 0 blue to 1 red."""
    grown = Image.fromarray(heat).resize(photo.shape[1::-1], Image.Resampling.BICUBIC)
    colours = matplotlib.colormaps["turbo"](np.clip(grown, 0, 1))[..., :3] * 255  # (H, W, 3)
    warm = np.rint((1 - strength) * photo + strength * colours).astype(np.uint8)
    return tile(np.stack([photo, warm]), columns=2, gap=8)


def draw_pictures(parts, width=10):
    """The Figure of pictures, uint8 (h, w) or (h, w, 3), under their titles: [(title, picture)]."""
    heights = [width * min(picture.shape[0] / picture.shape[1], 2) + 0.4 for _, picture in parts]
    figure, all_axes = new_figure((width, sum(heights)), len(parts), height_ratios=heights)
    for axes, (title, picture) in zip(all_axes, parts, strict=True):
        axes.set_axis_off()
        axes.set_title(escape_control(title), fontsize=9, loc="left", parse_math=False)
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    return figure


def draw_activations(model, photo, most=64):
    """The Figure of what each layer makes of a photo; of nets with thousands of maps the first."""
    found, parts = layer_activations(model, photo), []
    most = most if sum(maps.shape[2] for _, maps in found) > 2000 else None
    for layer, maps in found:
        spread = maps.std(axis=(0, 1))  # (C,); as in the tutorial: mean 128, deviation 64 each
        grey = (maps - maps.mean(axis=(0, 1))) / np.where(spread, spread, 1) * 64 + 128  # (h, w, C)
        shape, zeros = " x ".join(map(str, maps.shape)), percent((maps == 0).mean())
        grid = tile(np.moveaxis(grey.clip(0, 255).astype(np.uint8)[..., :most], 2, 0))
        parts.append((f"{layer}: {shape}, {zeros} zeros", grid))
    return draw_pictures(parts)


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="generator" content="CatDogClassifier">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }}
body {{ max-width: 70rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere }}
div {{ display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)) }}
pre {{ overflow-x: auto }} figure {{ margin: 0; font-size: .8rem }}
img {{ width: 100%; aspect-ratio: 1; object-fit: contain }}
</style>
<h1>{title}</h1>
{body}
"""
FIGURE = """<figure><a href="{link}"><img loading="lazy" src="{link}" alt="{words}"></a>
<figcaption>{words}</figcaption></figure>"""


def write_gallery(path, title, text, sections):
    """Write a web page with links to photos: (heading, [(path, caption), ...])."""
    folder = os.path.dirname(os.path.abspath(path))
    body = [f"<pre>{html.escape(text)}</pre>"] if text else []
    for heading, photos in sections:
        body.append(f"<h2>{html.escape(escape_control(heading))}: {len(photos)}</h2>\n<div>")
        for photo, caption in photos:
            link = urls.quote(os.fsencode(os.path.relpath(photo, folder).replace(os.sep, "/")))
            body.append(FIGURE.format(link=link, words=html.escape(escape_control(caption))))
        body.append("</div>")
    page = PAGE.format(title=html.escape(escape_control(title)), body="\n".join(body))
    write_file(path, page.encode("utf-8", "backslashreplace"), "--report")


# ==================================================================================================
# 13. The classifier: the class that ties the rooms together


def beside(weights, ending):
    """A file named after the weights: of "a/x.h5" and "_loss.png" it is a/x_loss.png."""
    path = Path(weights)
    # Of another ending than .h5 the whole name: run_0.01 and run_0.001 are two.
    return path.with_name((path.stem if path.suffix == ".h5" else path.name) + ending)


@dataclass(frozen=True)
class Prediction:
    """The answer for one photo: the likeliest label and its probability, or why there is none."""

    path: str
    label: str | None = None
    confidence: float | None = None
    verdict: str | None = None  # the label, or "unsure" where the net abstains
    probabilities: dict | None = None
    error: str | None = None


def begin_training(classifier, data):
    """The Trainer of a checkpoint, of the classifier's net if it has one, or of a new net."""
    settings, console, net = classifier.settings, classifier.console, classifier.net
    key = {"program": PROGRAM, "keras": keras.__version__, "photos": data.digest}
    key |= {name: getattr(settings, name) for name in (*RESUME_KEYS, "base", "base_weights")}
    path = beside(settings.weights, ".checkpoint")
    about, arrays = unpack_npz(path) if settings.resume else (None, [])
    trained = net and net.info["run"]  # made by another training, it is to go on from that
    resumes = about and about[0] == key and trained in (None, about[1]["run"])
    if settings.resume and os.path.lexists(path) and not resumes:
        console.say(f"{path} is no checkpoint of this training, which replaces it.")
    model = new_model(settings, len(data.classes), not (net or resumes))  # those have all weights
    trainer = Trainer(model, settings, console, key)
    if net:
        model.set_weights(net.model.get_weights())
    if trainer.kind.transfer == "last block" and trained is None and not resumes:
        train_head(model, *data.splits["train"], settings, console)
    trainer.compile(settings.steps or math.ceil(len(data.splits["train"][1]) / settings.batch_size))
    trainer.resume(*about[1:], arrays) if resumes else None
    return trainer


def save_pictures(classifier):
    """Write history and curves beside the weights; what fails must not cost those. The names."""
    weights, history = classifier.settings.weights, classifier.history.history
    rows = [("epoch", *history), *zip(itertools.count(1), *history.values(), strict=False)]
    table = "".join(",".join(map(str, row)) + "\r\n" for row in rows).encode()
    made = {"_history.csv": None, "_accuracy.png": classifier.showAcc}
    made["_loss.png"] = classifier.showLoss
    if known := classifier.info["summary"].get("calibration"):
        made["_reliability.png"] = functools.partial(draw_reliability, **known)
    saved = [Path(weights).name]
    for ending, make in made.items():
        path = beside(weights, ending)
        try:
            write_file(path, pack_figure(make()) if make else table)
            saved.append(path.name)
        except Exception as error:  # noqa: BLE001 (whatever a plotting library fails with)
            classifier.console.warn(f"{path} is missing: {error}")
    return saved


class CatDogClassifier:
    """A cat/dog classifier: train it on a folder, look at its curves, let it classify photos.

    Takes the fields of `Settings` as keywords: CatDogClassifier(epochs=10, weights="pets.h5").
    `classes` are the names of its answers; `net` the Net that was made, trained or loaded, or None;
    `history` the Keras History of its training; `predictor` what answers: uint8 photos
    (N, size, size, 3) -> probabilities (N, K). All methods raise CatDogError, in one line.
    """

    def __init__(self, **given):
        self.settings = resolve_settings(given)
        self.console = Console(self.settings.quiet)
        self.classes = ARCHITECTURES[self.settings.model].classes
        self.net = self.history = self.predictor = None

    @property
    def model(self):
        """The Keras model; None before there is one."""
        return self.net and self.net.model

    @property
    def info(self):
        """What is known of the net that answers, see `new_info`; {} before there is one."""
        return self.predictor.info if self.predictor else {}

    @property
    def size(self):
        """The side of the photos as the net gets them, in pixels."""
        return image_size(self.settings.model, self.settings.base)

    @property
    def source(self):
        """The weights file to read: where nothing was named, the one that came with the program."""
        named = self.settings.asked.keys() & {"weights", "model", "base"}
        shipped = not named and not os.path.lexists(self.settings.weights) and PRETRAINED.exists()
        return str(PRETRAINED) if shipped else self.settings.weights

    def load_data(self, directory=None):
        """The training and the validation photos of a dataset, each as `make_batches` has them."""
        data = self._read(directory)
        start_tensorflow(self.settings)
        model = self.model or new_model(self.settings, len(data.classes))
        trainer, splits = Trainer(model, self.settings, self.console), data.splits
        return trainer.feed(*splits["train"], True), trainer.feed(*splits["validation"])

    def createModel(self):
        """A new net, compiled, untrained but for a pretrained base."""
        start_tensorflow(self.settings)
        model = new_model(self.settings, len(self.classes))
        self._use(Net(compile_model(model, self.settings), new_info(self.settings, self.classes)))
        return model

    def train(self, directory=None):
        """Train on a dataset and save the best epoch; returns the Keras History.

        Its loss, acc, val_loss and val_acc, the curves and a checkpoint lie beside the weights; the
        next training of the same kind on the same photos resumes from that. It begins with the
        weights of `net`, where there is one: called again, it goes on. Ctrl-C and SIGTERM end it
        early and keep the best so far; KeyboardInterrupt when there is nothing to keep yet.
        """
        if self.settings.model == "imagenet":
            raise UsageError("imagenet is a net that is trained already", "Say -f, -d or --explain")
        checkpoint = beside(self.settings.weights, ".checkpoint")
        for path in (self.settings.weights, checkpoint):  # now rather than after an hour of work
            write_file(path, None)
        data, device = self._read(directory), start_tensorflow(self.settings)
        trainer = begin_training(self, data)
        train = trainer.feed(*data.splits["train"], shuffled=True)
        validation = trainer.feed(*data.splits["validation"])
        announce(trainer, data, device)
        trainer.fit(train, validation, functools.partial(self._save, trainer, data))
        info = trained_info(trainer, data)
        info["summary"] |= {"device": device, "parameters": trainer.model.count_params()}
        if not trainer.stopped:
            calibrate(keras_forward(trainer.model), info, data.splits)
        self._use(Net(compile_model(trainer.model, self.settings), info))
        self.history = keras.callbacks.History()
        self.history.history = trainer.state.history
        self.history.epoch = list(range(trainer.state.epochs))
        self.info["summary"]["files"] = save_pictures(self)
        self.save_weights()
        if find_spec("ai_edge_litert") and not trainer.stopped:  # for answers without TensorFlow
            more = self.net, self.console.say, *data.splits["validation"]
            litert_predictor(self.settings.weights, self.settings, lambda: smallest_litert(*more))
        if not trainer.stopped and unpack_npz(checkpoint)[0]:
            checkpoint.unlink()
        return self.history

    def _read(self, directory):
        if self.predictor and not self.net:  # to answer is not to train that net further
            self.settings, self.predictor = resolve_settings(self.settings.asked), None
        expected = self.classes if self.net and self.net.info["run"] is not None else None
        data = read_data(directory or self.settings.dataset, self.size, expected, self.console)
        count = len(data.splits["train"][1])
        self.settings = default_epochs(self.settings, count, data.is_synthetic)
        if self.net and self.net.info["classes"] != list(data.classes):
            self.net = self.predictor = None  # made for other classes, and not trained
        self.classes = data.classes
        return data

    def _save(self, trainer, data, better):
        if better:
            self.net = Net(trainer.model, trained_info(trainer, data))
            self.save_weights()
        write_file(beside(self.settings.weights, ".checkpoint"), trainer.checkpoint())

    def load_weights(self, path=None):
        """Take the weights of a file, by default of `source`: ours, or those of Keras 2."""
        settings, own = self.settings, self.settings.model == "imagenet"  # needs no file of ours
        self._use(imagenet_net(settings) if own else load_net(path or self.source, settings))

    def _use(self, net, predictor=None):
        predictor = predictor or Predictor(keras_forward(net.model), net.info)
        self.settings = matching_settings(self.settings, predictor.info, self.source)
        self.classes, self.predictor = tuple(predictor.info["classes"]), predictor
        self.net, self.history = net, None

    def save_weights(self):
        """Write the net to the weights file."""
        if self.net is None:
            raise CatDogError("there is no net to save yet", "Call train() or load_weights() first")
        write_file(self.settings.weights, save_h5(self.net))

    def showAcc(self):
        """The Figure of the accuracy over the epochs, after a training."""
        return draw_curves(self.history, "acc", "Accuracy")

    def showLoss(self):
        """The Figure of the loss over the epochs, after a training."""
        return draw_curves(self.history, "loss", "Loss")

    def ready(self):
        """The predictor; the first time, where nothing was made or loaded, that of `source`."""
        if self.predictor is None:
            lite = self.settings.model != "imagenet" and find_spec("ai_edge_litert")
            found = litert_predictor(self.source, self.settings) if lite else None
            self._use(None, found) if found else self.load_weights()  # LiteRT starts at once
            self.net = None
        return self.predictor

    def threshold(self):
        """From which confidence on it answers, by `unsure`: see `confidence_threshold`."""
        if self.settings.unsure is None:
            return 0.0, 0.0, 0.0
        curve = self.ready().info["risk_coverage"]
        if not curve:
            raise CatDogError("this net has no risk-coverage curve", "Leave out --unsure")
        return confidence_threshold(curve, self.settings.unsure)

    def predict(self, photos):
        """Classify a photo, a folder, or a list of photos: a list of Predictions, one per photo."""
        if isinstance(photos, (str, os.PathLike)):
            photos = list_photos(photos) if os.path.isdir(photos) else [photos]
        return list(self.predict_each(photos))

    def predict_each(self, paths, batch_size=64, read=read_photo):
        """Like `predict` for any iterable of paths, each Prediction as soon as it is known."""
        predictor, least = self.ready(), self.threshold()[0]
        reads = read_photos(map(os.fspath, paths), self.size, read)
        while chunk := list(itertools.islice(reads, batch_size)):
            photos = [photo for _, photo in chunk if not isinstance(photo, PhotoError)]
            answers = iter(predictor(np.stack(photos)).tolist() if photos else ())
            for path, photo in chunk:
                if isinstance(photo, PhotoError):
                    yield Prediction(path, error=str(photo))
                    continue
                found = dict(zip(self.classes, next(answers), strict=True))
                label = max(found, key=found.get)
                verdict = label if found[label] >= least else "unsure"
                yield Prediction(path, label, found[label], verdict, found)

    def evaluate(self, directory=None, split="test"):
        """The scores, see room 8, on a split of a dataset, and the classes: a dict."""
        predictor = self.ready()
        listed = list_split(directory or self.settings.dataset, split, self.classes, some=True)
        photos, labels = load_photos(listed, self.size, self.console)
        found, classes = predictor(photos), {"classes": list(self.classes)}
        return classification_scores(found, labels) | precision_recall(found, labels) | classes

    def explain(self, path):
        """What the net sees in a photo: Prediction, Figures {"heatmap": ...}. Raises PhotoError."""
        if (own := self.net) is None:
            self.load_weights()
        model, self.net = self.model, own  # to explain is not to train that net further
        photo, whole = read_photo(path, self.size), read_photo(path, 490)
        (answer,) = self.predict([path])
        heat = overlay_heatmap(whole, grad_cam(model, photo, self.classes.index(answer.label)))
        said = f"{os.path.basename(path)[-40:]}: {answer.label} {percent(answer.confidence)}"
        recipe = self.info["recipe"].get("recipe", "best")
        rng = np.random.default_rng(self.settings.seed or 0)
        changes = draw_changes(rng, np.repeat(photo[None], 16, axis=0), AUGMENT[recipe])
        versions = np.asarray(warp(*changes, ARCHITECTURES[self.settings.model].crop))  # (16, ...)
        versions = np.rint(versions * 255).astype(np.uint8)
        figures = {"heatmap": draw_pictures([(f"{said}, seen most where it is red", heat)])}
        figures["activations"] = draw_activations(model, photo)  # what its layers make of it
        title = f"as augmentation by the recipe {recipe} shows it, anew each time"
        return answer, figures | {"augmented": draw_pictures([(title, tile(versions, 4))])}


# ==================================================================================================
# 14. Command line: one short function per action


class Parser(argparse.ArgumentParser):
    """Shows what it did not understand without letting it act on the terminal."""

    def error(self, message):
        super().error(escape_control(message))


def emit(arguments, record, text):
    """Print a result: for programs as a line of JSON, for people as text."""
    print(json.dumps(record) if arguments.json else text, flush=True)


def score_line(scores):
    """A score for people: "81.2 %  (812 of 1000; 95 % interval 78.6 to 83.5 %)"."""
    low, high = (f"{100 * bound:.1f}" for bound in scores["interval"])
    count = f"{scores['correct']} of {scores['total']}"
    return f"{percent(scores['accuracy'])}  ({count}; 95 % interval {low} to {high} %)"


def summary_lines(summary, folder):
    """Yield the outcome of a training, whose files lie in a folder, for people."""
    why, seconds = summary["stop_reason"], summary["seconds_per_epoch"]
    yield f"best epoch   {summary['best_epoch']} of {summary['epochs']}, {why}"
    yield from (f"{name:<12} {score_line(summary[name])}" for name in SPLITS if name in summary)
    if found := summary.get("calibration"):
        before, after = (percent(found[when]["ece"]) for when in ("before", "after"))
        yield f"calibration  error {after} ({before} before it), on the {found['split']} photos"
    total = datetime.timedelta(seconds=round(summary["seconds"]))
    yield f"time         {total} for its epochs, {seconds:.1f} s each, on the {summary['device']}"
    files = (escape_control(os.path.join(folder, name)) for name in summary["files"])
    yield "saved        " + "\n             ".join(files)
    if why == "interrupted":
        yield "Unfinished: the same command resumes after the last whole epoch."
    if why == "diverged":
        yield "Loss or weights were no numbers any more. Try a smaller --learning-rate."


def train(classifier, arguments):
    """No action: train, print the summary."""
    classifier.train()
    summary, folder = classifier.info["summary"], os.path.dirname(classifier.settings.weights)
    emit(arguments, summary, "\n".join(summary_lines(summary, folder)))
    failed = summary["stop_reason"] == "diverged" or len(summary["files"]) < 5
    return 130 if summary["stop_reason"] == "interrupted" else int(failed)


def tell(classifier):
    """Say which net answered, unless that is plain, and what to think of it."""
    say, source, drawn = classifier.console.say, classifier.source, classifier.info["is_synthetic"]
    least, wrong, left = classifier.threshold()
    if source == str(PRETRAINED):
        source = f"the net for photographs that came with the program, {PRETRAINED.name}"
    if drawn or not classifier.settings.asked.keys() & {"weights", "model"}:
        warning = ", which was trained on drawings and knows nothing of photographs"
        hint = f" For photographs: --weights {shlex.quote(str(PRETRAINED))}"
        hint = hint if drawn and PRETRAINED.exists() else ""
        say(f"Answered by {source}{warning if drawn else ''}.{hint}")
    if least > 1:
        say("It abstains from all: no confidence was enough for so few errors in validation.")
    elif classifier.settings.unsure is not None:
        rest = f"{100 * wrong:.2f} % were wrong, and it abstained from {percent(left)}"
        say(f"Below {percent(least)} it is unsure: of its other answers in validation {rest}.")


def photo_paths(sources):
    """Yield the paths of photos: those of files, of folders, and of - the ones on stdin."""
    for source in sources:
        if os.path.isdir(source):
            yield from list_photos(source)
        elif source != "-":
            yield source
        elif sys.stdin:
            lines = (line.rstrip(b"\r\n") for line in sys.stdin.buffer)
            yield from map(os.fsdecode, filter(None, lines))  # whatever bytes the file system has


def check_sorting(sources, target, verdicts):
    """Raise where no copies can be put, or they would change a folder that is sorted."""
    for place in (Path(target), *(Path(target, name) for name in verdicts)):
        if place.exists() and not place.is_dir():
            raise UsageError(f"{place} is no folder", "Name another --sort-into")
        for source in filter(os.path.isdir, sources):
            if place.resolve().is_relative_to(Path(source).resolve()):  # it may be a link
                raise UsageError(f"{place} lies inside {source}", "Name another --sort-into")


def print_csv(*cells):
    """Print a row of CSV, its texts harmless."""
    cells = (escape_control(cell) if isinstance(cell, str) else cell for cell in cells)
    csv.writer(sys.stdout, lineterminator="\n").writerow(cells)
    sys.stdout.flush()


def answer_line(row, more=""):
    """A Prediction for people: verdict, confidence, path, and what else it may be."""
    doubt = f"  ({row.label}?)" if row.verdict != row.label else ""
    others = sorted(row.probabilities.items(), key=lambda pair: -pair[1])[1:3]
    then = ", ".join(f"{name} {percent(probability)}" for name, probability in others)
    more = f"  (then {then}){more}" if len(row.probabilities) > 2 else more
    return escape_control(f"{row.verdict:<8} {percent(row.confidence):>7}  {row.path}{doubt}{more}")


def print_row(row, arguments, console, classes, target):
    """Print a Prediction, and where its photo was copied to."""
    console.clear() if sys.stdout.isatty() else None
    if arguments.csv:
        found = (row.probabilities or dict.fromkeys(classes)).values()
        print_csv(row.path, row.label, row.confidence, row.verdict, *found, row.error)
    elif row.error and not arguments.json:
        console.warn(f"{row.path}: {row.error}")
    else:
        text = "" if row.error else answer_line(row, f"  -> {target}" if target else "")
        emit(arguments, asdict(row) | ({"copy": target} if arguments.sort_into else {}), text)


def copy_photo(row, folder):
    """Copy a photo into FOLDER/VERDICT, never over another file: row, path there, whether new."""
    photo, where = Path(row.path), Path(folder, row.verdict)
    part = where / f".{os.urandom(6).hex()}.tmp"  # short: the photo's name may be the longest
    try:
        where.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo, part)
        with contextlib.suppress(OSError):
            shutil.copystat(photo, part)  # the day that it was taken, for one
        for number in itertools.count(1):  # a.jpg, a-2.jpg, ...
            target = where / (f"{photo.stem}-{number}{photo.suffix}" if number > 1 else photo.name)
            with contextlib.suppress(OSError):  # it is taken, or a memory stick knows no links
                os.link(part, target)
                return row, str(target), True
            if not os.path.lexists(target):
                os.replace(part, target)
                return row, str(target), True
            if target.is_file() and filecmp.cmp(part, target, shallow=False):
                return row, str(target), False  # an equal one is left, even of a run going on
    except OSError as error:
        if photo.exists():
            fix = "Make room, or name another --sort-into"
            raise CatDogError(f"cannot copy into {folder}: {reason(error)}", fix) from None
        return Prediction(row.path, error="cannot be copied: it is gone"), None, False
    finally:
        part.unlink(missing_ok=True) if where.is_dir() else None


def by_verdict(rows):
    """Text and sections of the page of photos: by verdict, the least confident first."""
    groups, answered = collections.defaultdict(list), [row for row in rows if not row.error]
    for row in sorted(answered, key=lambda row: row.confidence):
        doubt = f" ({row.label}?)" if row.verdict != row.label else ""
        caption = f"{percent(row.confidence)}{doubt} {Path(*Path(row.path).parts[-2:])}"
        groups[row.verdict].append((row.path, caption))
    text = "\n".join(escape_control(f"{row.path}: {row.error}") for row in rows if row.error)
    return text, sorted(groups.items())


def classify(classifier, arguments):
    """-f, -d: print a line per photo as soon as it is known, copy it, make a page of them."""
    console, sources, folder = classifier.console, arguments.photos, arguments.sort_into
    counted = photo_paths(sources) if sys.stderr.isatty() and "-" not in sources else ()
    total, report = sum(1 for _ in counted), os.path.abspath(arguments.report or os.devnull)
    classifier.ready()  # loading is no part of the time that is left
    answers, copies, rows = collections.Counter(), collections.Counter(), []
    classes = classifier.classes
    if folder:
        check_sorting(sources, folder, (*classes, "unsure"))
    if arguments.csv:
        print_csv("path", "label", "confidence", "verdict", *classes, "error")
    paths = (path for path in photo_paths(sources) if os.path.abspath(path) != report)
    for row in console.watch("classifying", classifier.predict_each(paths), total):
        wanted = folder and not row.error
        row, target, new = copy_photo(row, folder) if wanted else (row, None, False)
        print_row(row, arguments, console, classes, target)
        answers[row.verdict] += 1  # of an unreadable one None
        copies[new] += bool(target)
        rows += [row] if arguments.report else []
    if not answers:
        raise CatDogError(f"there are no photos in {', '.join(sources)}")
    tell(classifier) if answers.total() > answers[None] else None
    if answers.total() > 1:  # of many classes only those that are there
        named = dict.fromkeys([*(classes if len(classes) <= 10 else ()), *answers, None])
        parts = ", ".join(f"{answers[k]} {k or 'unreadable'}" for k in named)
        console.say(f"{answers.total()} files: {parts}")
    if folder:
        console.say(f"{folder}: {copies[True]} copied, {copies[False]} there already")
    if arguments.report:
        where = sources[0] if len(sources) == 1 else f"{len(sources)} places"
        write_gallery(arguments.report, f"{where}: {len(rows)} files", *by_verdict(rows))
    return int(answers[None] > 0)


def score_lines(scores):
    """Yield the scores of --evaluate for people, and who was taken for whom."""
    names = [escape_control(name)[:12] for name in scores["classes"]]
    kinds = scores["precision"], scores["recall"]
    precision, recall = (["-" if x is None else percent(x) for x in kind] for kind in kinds)
    yield f"accuracy     {score_line(scores)}"
    yield f"loss         {scores['loss']:.4f}\n"
    yield f"{'answered':<14}" + "".join(f"{name:>13}" for name in [*names, "recall"])
    for name, row, share in zip(names, scores["confusion"], recall, strict=True):
        yield f"{'is ' + name:<14.14}" + "".join(f"{cell:>13}" for cell in [*row, share])
    yield f"{'precision':<14}" + "".join(f"{share:>13}" for share in precision)


def evaluate(classifier, arguments):
    """--evaluate: the scores on DATASET/test; on a page the mistakes, the most confident first."""
    scores, dataset, wrong = classifier.evaluate(), classifier.settings.dataset, []
    tell(classifier)
    lines = "\n".join(score_lines(scores))
    emit(arguments, {"dataset": dataset, "split": "test", **scores}, lines)
    if arguments.report:
        for name, paths in list_split(dataset, "test").items():
            rows = (row for row in classifier.predict_each(paths) if row.label not in (None, name))
            wrong += [(row.confidence, row.path, f"{row.label}, is {name}") for row in rows]
        wrong = [(path, f"{percent(sure)} {said}") for sure, path, said in sorted(wrong)[::-1]]
        sections = [("mistakes, the most confident first", wrong)]
        write_gallery(arguments.report, f"{dataset}: test photos", lines, sections)
    return 0


def explain(classifier, arguments):
    """--explain: pictures of what the net sees in photos, in the present folder."""
    classifier.load_weights()
    code, taken = 0, set()
    for path in arguments.explain:
        first = os.fsencode(Path(path).stem)[:200].decode(errors="ignore")
        stems = itertools.chain([first], (f"{first}-{n}" for n in itertools.count(2)))
        taken.add(stem := next(stem for stem in stems if stem not in taken))
        try:
            row, figures = classifier.explain(path)
            files = [f"{stem}_{kind}.png" for kind in figures]
            for file, figure in zip(files, figures.values(), strict=True):
                write_file(file, pack_figure(figure), "folder to be in")
            text = "\nsaved    ".join([answer_line(row), *map(escape_control, files)])
            emit(arguments, asdict(row) | {"files": files}, text)
        except PhotoError as error:
            classifier.console.warn(f"{path}: {error}")
            code = 1
    tell(classifier)
    return code


def export(classifier, arguments):
    """--export: write the net as a file for other programs."""
    if Path(arguments.export).suffix not in (".tflite", ".onnx", ".keras"):
        raise UsageError("--export needs a name that ends in .tflite, .onnx or .keras")
    write_file(arguments.export, None, "--export")
    classifier.load_weights()
    export_net(classifier.net, arguments.export)
    emit(arguments, {"exported": arguments.export}, f"exported {escape_control(arguments.export)}")
    return 0


FLAGS = {classify: "-f, -d", explain: "--explain", evaluate: "--evaluate"}
GOES_WITH = {"sort_into": [classify], "csv": [classify], "unsure": [classify, explain]}
GOES_WITH["report"] = [classify, evaluate]  # what means something to some actions only


def build_parser():
    """The command line; the defaults are those of Settings."""
    nets = "\n".join(f"  {name:<15} {kind.about}" for name, kind in ARCHITECTURES.items())
    bases = ", ".join([*BASES, "box (of the net that comes with it)"])
    epilog = f"nets (--model):\n{nets}\n\nbases (--base):\n  {bases}"
    usage = "python CatDogClassifier.py [action] [options]"
    layout = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    layout |= {"usage": usage, "description": __doc__, "epilog": epilog, "add_help": False}
    parser = Parser(**layout)
    paths = {"metavar": "PATH", "action": "extend", "nargs": "+", "default": []}
    add = parser.add_argument_group("actions (without one: train)").add_argument
    add("paths", nargs="*", metavar="PATH", help="the same as -f and -d; -: the paths on stdin")
    add("-f", "--file", dest="photos", **paths, help="classify photos")
    add("-d", "--directory", dest="photos", **paths, help="classify folders")
    add("--explain", **paths, help="draw what the net sees in photos")
    add("--evaluate", action="store_true", help="score the weights on DATASET/test")
    add("--export", metavar="FILE", help="write the net as .tflite, .onnx or .keras")
    add("-h", "--help", action="help", help="print this help")
    add("--version", action="version", version=PROGRAM, help="print the version")
    group = parser.add_argument_group("options (defaults of the default net)")
    for setting in fields(Settings)[:-1]:  # one that is on by default becomes --no-...
        about, default, kind = setting.metadata, setting.default, setting.type
        flags = about.get("flags", ["--" + setting.name.replace("_", "-")])
        more = {"dest": setting.name, "default": argparse.SUPPRESS, "help": about["help"]}
        if kind is bool:
            more["action"] = "store_false" if default else "store_true"
        else:
            more |= {"type": kind, "choices": about.get("choices")}
            more["metavar"] = None if more["choices"] else {int: "N", float: "X", str: "NAME"}[kind]
            more["help"] += "" if default is None else f" (default: {default})"
        group.add_argument(*flags, **more)
    add = group.add_argument
    add("--sort-into", metavar="DIR", help="copy each photo into DIR/cat, ..., DIR/unsure")
    add("--report", metavar="FILE.html", help="make a web page of the answers, or the mistakes")
    add = group.add_mutually_exclusive_group().add_argument
    add("--json", action="store_true", help="print JSON")
    add("--csv", action="store_true", help="print CSV")
    return parser


def run(arguments):
    """Do what the command line asks for; returns the exit code."""
    given = vars(arguments)
    arguments.photos = [*arguments.paths, *arguments.photos]
    asked = {classify: arguments.photos, explain: arguments.explain}
    asked |= {evaluate: arguments.evaluate, export: arguments.export is not None}
    action, *others = [action for action, wanted in asked.items() if wanted] or [train]
    if others:
        raise UsageError("these are two actions", "Say one after the other")
    for name, actions in GOES_WITH.items():
        flag, value = f"--{name.replace('_', '-')}", given.get(name)
        if value is not None and value is not False and action not in actions:
            raise UsageError(f"{flag} goes with {', '.join(FLAGS[each] for each in actions)}")
        if value == "" or (name == "report" and value and not value.lower().endswith(".html")):
            raise UsageError(f"{flag} needs a name" + (" that ends in .html" if value else ""))
    if arguments.report:
        write_file(arguments.report, None, "--report")
    settings = {each.name: given[each.name] for each in fields(Settings) if each.name in given}
    return action(CatDogClassifier(**settings), arguments)


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


def run_guarded(action):
    """Do something and turn every foreseen failure into one line on stderr; the exit code."""
    prepare_streams()
    warnings.filterwarnings("ignore", module="PIL")  # about oddities of photos that it reads
    signals = []

    def leave(number, frame):
        signals.append(number)
        raise KeyboardInterrupt

    try:
        with handling_signals(leave):
            code = action()
            sys.stdout.flush()
            return code
    except (Exception, KeyboardInterrupt) as error:
        if signals or isinstance(error, KeyboardInterrupt):  # native code makes any error of it
            print("\nCatDogClassifier: interrupted", file=sys.stderr)
            return 130
        if isinstance(error, CatDogError):
            print(f"CatDogClassifier: {error}", file=sys.stderr)
            return error.exit_code
        if not isinstance(error, OSError):
            raise
        with contextlib.suppress(OSError, ValueError):  # what is left to print would fail once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # or else the reader of our results has gone
            where = escape_control(error.filename or "output")
            print(f"CatDogClassifier: {where}: {reason(error)}", file=sys.stderr)
        return 1


def main(argv=None):
    """The program; returns the exit code."""
    return run_guarded(lambda: run(build_parser().parse_intermixed_args(argv)))


if __name__ == "__main__":
    raise SystemExit(main())
