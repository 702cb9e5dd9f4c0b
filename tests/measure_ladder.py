"""Measure the rungs of the ladder for other pictures on sets drawn on the spot; prints the figures that the README quotes.

    python tests/measure_ladder.py [--seeds 3] [--work DIR] [--only happy mnist signs] [flags of the program]

Drawn are faces that smile or do not (happy), digits, thin and bold (mnist), and hands that show none to five fingers
(signs): shifted, turned, in other colours and with noise each time; 150 of each class to train on, of the digits 800,
40 to validate and 100 to test. The rungs for cats and dogs: python CatDogClassifier.py --dataset DATASET --compare.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PROGRAM = Path(__file__).resolve().parent.parent / "CatDogClassifier.py"
SIDE = 96


def colours(rng):
    """A light and a dark colour, either of which may be the ground."""
    light, dark = rng.integers(170, 256, 3), rng.integers(0, 90, 3)
    return tuple(map(tuple, (light.tolist(), dark.tolist())[:: 1 if rng.random() < 0.7 else -1]))


def finished(image, rng, turn, shift, ground):
    """The image turned and shifted by up to so many degrees and pixels, with noise."""
    moved = image.rotate(rng.uniform(-turn, turn), Image.Resampling.BILINEAR, fillcolor=ground,
                         translate=tuple(rng.uniform(-shift, shift, 2)))
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
    width, height, lift = radius * rng.uniform(0.45, 0.6), radius * rng.uniform(0.3, 0.5), radius * 0.35
    if label == "happy":
        draw.arc([48 - width, 48 + lift - height, 48 + width, 48 + lift + height], 20, 160, fill=ink, width=4)
    else:
        draw.arc([48 - width, 48 + lift, 48 + width, 48 + lift + 2 * height], 200, 340, fill=ink, width=4)
    return finished(image, rng, 12, 5, ground)


def digit(label, rng):
    """A digit, large, in dark on light or in light on dark."""
    ground, ink = colours(rng)
    image = Image.new("RGB", (SIDE, SIDE), ground)
    font = ImageFont.load_default(int(rng.integers(60, 85)))
    ImageDraw.Draw(image).text((48, 48), label, fill=ink, font=font, anchor="mm", stroke_width=int(rng.integers(0, 4)), stroke_fill=ink)
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
    for number in {"0": [], "1": [1], "2": [1, 2], "3": [0, 1, 2], "4": [1, 2, 3, 4], "5": [0, 1, 2, 3, 4]}[label]:
        end = tuple(np.array(ends[number]) + rng.uniform(-2, 2, 2))
        draw.line([roots[number], end], fill=skin, width=8)
    return finished(image, rng, 6, 3, ground)


SETS = {"happy": (face, ["happy", "unhappy"]), "mnist": (digit, list("0123456789")), "signs": (hand, list("012345"))}


def draw_set(folder, rung, counts, seed=0):
    """A dataset for a rung: FOLDER/{train,validation,test}/{class}/N.png."""
    draw, labels = SETS[rung]
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        for label in labels:
            path = Path(folder, split, label)
            path.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                draw(label, rng).save(path / f"{number}.png")
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "catdog-ladder"))
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    chosen, flags = parser.parse_known_args()
    print(f"{os.cpu_count()} cores")
    for rung in chosen.only:
        counts = {"train": 800 if rung == "mnist" else 150, "validation": 40, "test": 100}
        data = draw_set(chosen.work / rung, rung, counts)
        line = [sys.executable, PROGRAM, "-q", "--json", "--dataset", data, "--weights", chosen.work / f"{rung}.h5",
                "--compare", rung, "--seeds", str(chosen.seeds), *flags]
        row = json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print(f"{rung}: test {100 * row['accuracy']:.2f} % (standard deviation {100 * row['deviation']:.2f}, "
              f"{row['runs']} runs), {row['epochs']:.1f} epochs, {row['seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
