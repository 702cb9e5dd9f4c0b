"""Measure nets of the ladder against each other; prints a scoreboard.

    python tests/measure/ladder.py [--model NAME ...] [--dataset DIR] [--seeds 0 1 2] [--work DIR]

With a dataset of cats and dogs all nets are trained on that. Without one the nets for other
pictures are, each on a set drawn on the spot: faces that smile or do not (happy), digits (mnist),
hands that show none to five fingers (signs): shifted, turned, in other colours and with noise each
time; 150 of each class to train on, of the digits 800, 40 to validate and 100 to test. Other flags
are the program's. Stopped, the same command goes on; what DIR holds, trained with the same flags,
is not trained again.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from real_photos import REPO, spread, train, weights_of

sys.path.insert(0, str(REPO))
from CatDogClassifier import ARCHITECTURES  # noqa: E402

SIDE = 96
FINGERS = [], [1], [1, 2], [0, 1, 2], [1, 2, 3, 4], [0, 1, 2, 3, 4]  # that are up: 0 the thumb


def colours(rng):
    """A light and a dark colour, either of which may be the ground."""
    light, dark = rng.integers(170, 256, 3), rng.integers(0, 90, 3)
    return tuple(map(tuple, (light.tolist(), dark.tolist())[:: 1 if rng.random() < 0.7 else -1]))


def finished(image, rng, turn, shift, ground):
    """The image turned and shifted by up to so many degrees and pixels, with noise."""
    turn, shift = rng.uniform(-turn, turn), tuple(rng.uniform(-shift, shift, 2))
    moved = image.rotate(turn, Image.Resampling.BILINEAR, translate=shift, fillcolor=ground)
    noise = rng.normal(0, 12, (SIDE, SIDE, 3))
    return Image.fromarray((np.asarray(moved) + noise).clip(0, 255).astype(np.uint8))


def face(label, rng):
    """A face whose mouth bends up (happy) or down (unhappy)."""
    ground, ink = colours(rng)
    image = Image.new("RGB", (SIDE, SIDE), ground)
    draw, radius = ImageDraw.Draw(image), rng.uniform(28, 36)
    draw.ellipse([48 - radius, 48 - radius, 48 + radius, 48 + radius], outline=ink, width=3)
    for side in (-1, 1):
        x, y = 48 + side * radius * 0.4, 48 - radius * 0.3
        draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=ink)
    width, height = radius * rng.uniform(0.45, 0.6), radius * rng.uniform(0.3, 0.5)
    top, ends = (-height, (20, 160)) if label == "happy" else (0, (200, 340))
    top += 48 + radius * 0.35
    draw.arc([48 - width, top, 48 + width, top + 2 * height], *ends, fill=ink, width=4)
    return finished(image, rng, 12, 5, ground)


def digit(label, rng):
    """A digit, large, in dark on light or in light on dark."""
    ground, ink = colours(rng)
    image = Image.new("RGB", (SIDE, SIDE), ground)
    font = ImageFont.load_default(int(rng.integers(60, 85)))
    ink = {"fill": ink, "stroke_fill": ink, "stroke_width": int(rng.integers(0, 4))}
    ImageDraw.Draw(image).text((48, 48), label, font=font, anchor="mm", **ink)
    return finished(image, rng, 12, 6, ground)


def hand(label, rng):
    """A palm with so many fingers up, as people count with the right hand."""
    ground = tuple(rng.integers(150, 256, 3).tolist())
    skin = tuple((rng.uniform(0.35, 1) * np.array([215, 160, 125])).astype(int).tolist())
    image = Image.new("RGB", (SIDE, SIDE), ground)
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle([32, 50, 68, 88], 10, fill=skin)
    ends = [(24, 40), (38, 12), (48, 8), (58, 12), (68, 22)]  # of the thumb and the four fingers
    roots = [(36, 66), (38, 54), (47, 54), (56, 54), (64, 54)]
    for number in FINGERS[int(label)]:
        end = tuple(np.array(ends[number]) + rng.uniform(-2, 2, 2))
        draw.line([roots[number], end], fill=skin, width=8)
    return finished(image, rng, 6, 3, ground)


SETS = {"happy": (face, ["happy", "unhappy"]), "mnist": (digit, "0123456789")}
SETS["signs"] = hand, "012345"


def draw_set(folder, architecture, counts, seed=0):
    """A dataset for an architecture: FOLDER/{train,validation,test}/{class}/N.png."""
    draw, labels = SETS[architecture]
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        for label in labels:
            path = Path(folder, split, label)
            path.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                draw(label, rng).save(path / f"{number}.png")
    return folder


def train_net(name, seed, data, work, flags):
    """The summary of one training."""
    weights = weights_of(work, f"{data.name}-{name}-{seed}", flags)
    return train(weights, "-q", "--dataset", data, "--model", name, "--seed", seed, *flags)


def score_row(name, runs):
    """The line of the scoreboard for the summaries of some trainings."""
    epochs, seconds = (sum(run[what] for run in runs) / len(runs) for what in ("epochs", "seconds"))
    accuracy = spread([100 * run["test"]["accuracy"] for run in runs])
    return f"{name:<15}{runs[0]['parameters']:>12,}{epochs:>8.1f}{seconds:>9.1f}  {accuracy}"


def main(arguments=None):
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("--model", nargs="+", choices=ARCHITECTURES, default=list(SETS))
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "catdog-ladder"))
    chosen, flags = parser.parse_known_args(arguments)
    if not chosen.dataset and not set(chosen.model) <= set(SETS):
        parser.error(f"only {', '.join(SETS)} have a set to draw; name a --dataset for the others")
    chosen.work.mkdir(parents=True, exist_ok=True)
    print(f"{os.cpu_count()} cores")
    print(f"{'net':<15}{'parameters':>12}{'epochs':>8}{'seconds':>9}  test accuracy, %")
    for name in dict.fromkeys(chosen.model):
        counts = {"train": 800 if name == "mnist" else 150, "validation": 40, "test": 100}
        data = chosen.dataset or draw_set(chosen.work / name, name, counts)
        runs = [train_net(name, seed, data, chosen.work, flags) for seed in chosen.seeds]
        print(score_row(name, runs), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the training stops as well
    main()
