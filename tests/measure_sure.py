"""Measure what a net knows of its own doubts: calibration, "unsure" and "neither"; prints the figures that the README quotes.

    python tests/measure_sure.py PHOTOS WEIGHTS [--from 1500] [--to 4999] [--unsure 0.02]

PHOTOS holds cat.0.jpg, dog.0.jpg, ... (Kaggle's layout), of which the net must have seen none of these numbers. What is
neither is drawn: noise, plain colours, gradients, stripes and rings, clouds, text, and scenes of simple shapes, 100 of
each; and with --originals DIR the upper left corners of those photos, a fifth of each side, which seldom show an animal.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

PROGRAM = Path(__file__).resolve().parent.parent / "CatDogClassifier.py"
sys.path.insert(0, str(PROGRAM.parent))
import CatDogClassifier as program  # noqa: E402

SIDE = 224
TEST = 7500  # the first number of the photos that test the net in the box


def cloud(rng, grains, weights):
    """Smooth random colours of several grains."""
    layers = [Image.fromarray(rng.integers(0, 256, (grain, grain, 3), dtype=np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
              for grain in grains]
    return sum(weight * np.asarray(layer, float) for layer, weight in zip(layers, weights, strict=True))


def pattern(rng):
    """Stripes, squares or rings in two colours, with some noise."""
    x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    one, other = rng.uniform(0.05, 0.8, 2)
    waves = [np.sin(one * x + other * y), np.sign(np.sin(one * x) * np.sin(one * y)),
             np.sin(one * np.hypot(x - rng.integers(SIDE), y - rng.integers(SIDE)))][rng.integers(3)]
    share = ((waves + 1) / 2)[..., None]
    return rng.integers(0, 256, 3) * share + rng.integers(0, 256, 3) * (1 - share) + rng.normal(0, 10, (SIDE, SIDE, 3))


def text(rng):
    """Lines of letters on light paper."""
    image = Image.new("RGB", (SIDE, SIDE), tuple(rng.integers(180, 256, 3).tolist()))
    draw, font, ink = ImageDraw.Draw(image), ImageFont.load_default(int(rng.integers(10, 40))), tuple(rng.integers(0, 100, 3).tolist())
    for top in range(4, SIDE, int(font.size) + 4):
        draw.text((4, top), "".join(rng.choice(list("abcdefghij klmnop qrstuvwxyz ABC 0123"), 40)), ink, font)
    return np.asarray(image)


def scene(rng):
    """Ground and sky with boxes, discs and roofs."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    horizon = int(rng.integers(80, 160))
    pixels[:horizon], pixels[horizon:] = rng.integers(120, 256, 3), rng.integers(0, 160, 3)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(3, 9)):
        colour, shape = tuple(rng.integers(0, 256, 3).tolist()), rng.integers(3)
        (x, y), (wide, high) = rng.integers(0, SIDE, 2).tolist(), rng.integers(10, 90, 2).tolist()
        if shape == 2:
            draw.polygon([(x, y), (x + wide, y), (x + wide // 2, y - high)], fill=colour)
        else:
            (draw.rectangle, draw.ellipse)[shape]([x, y, x + wide, y + high], fill=colour)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.5)))))


KINDS = {
    "noise": lambda rng: rng.integers(0, 256, (SIDE, SIDE, 3)),
    "plain": lambda rng: np.full((SIDE, SIDE, 3), rng.integers(0, 256, 3)),
    "gradients": lambda rng: cloud(rng, [2], [1]),
    "patterns": pattern,
    "clouds": lambda rng: cloud(rng, [3, 8, 24, 64], [0.5, 0.25, 0.15, 0.1]),
    "text": text,
    "scenes": scene,
}


def answers(folder, *flags):
    """What -d answers: one dict for each photo."""
    line = [sys.executable, PROGRAM, "-q", "-d", folder, "--json", *flags]
    return [json.loads(row) for row in subprocess.run(list(map(str, line)), check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()]


def error_of(sure, right):
    """The expected calibration error in 15 bins, of confidences in the likeliest class."""
    return program.reliability(np.stack([1 - sure, sure], axis=1), np.where(right, 1.0, 0.0)[:, None])["error"]


def share(count, total):
    """A share with its 95 % interval."""
    if not total:
        return "none of none"
    low, high = program.wilson(count, total)
    return f"{100 * count / total:.2f} % ({count} of {total}; 95 % interval {100 * low:.2f} to {100 * high:.2f})"


def tell_of_pets(pets, flags, unsure, rng):
    """Prints how often the answers for labelled photos are right, how far off the confidences are, and what is left out."""
    rows = answers(pets, *flags)
    right = np.array([Path(row["path"]).name.startswith(row["label"]) for row in rows])
    sure, verdicts = np.array([row["confidence"] for row in rows]), np.array([row["verdict"] for row in rows])
    draws = [error_of(sure[some], right[some]) for some in (rng.integers(0, len(rows), len(rows)) for _ in range(1000))]
    low, high = np.quantile(draws, [0.025, 0.975])
    print(f"right: {share(int(right.sum()), len(rows))}")
    print(f"expected calibration error, 15 bins: {100 * error_of(sure, right):.2f} % (bootstrap {100 * low:.2f} to {100 * high:.2f})")
    given = (verdicts != "unsure") & (verdicts != "neither")
    print(f"--unsure {unsure}: wrong of the answers given {share(int((~right[given]).sum()), int(given.sum()))}, "
          f"unsure {share(int((verdicts == 'unsure').sum()), len(rows))}")
    print(f"neither of the pets: {share(int((verdicts == 'neither').sum()), len(rows))}")


def draw_others(work, originals, rng):
    """A folder of each kind of pictures that show no pet."""
    for kind, draw in KINDS.items():
        (folder := work / kind).mkdir()
        for number in range(100):
            Image.fromarray(np.asarray(draw(rng)).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        yield folder
    if originals:
        (folder := work / "corners").mkdir()
        for path in originals.iterdir():
            with Image.open(path) as image:
                image.crop((0, 0, image.width // 5, image.height // 5)).convert("RGB").save(folder / f"{path.stem}.png")
        yield folder


def measure(photos, weights, numbers, originals=None, unsure=0.02):
    """Prints all figures for a net, on the photos with these numbers of both classes."""
    rng, flags = np.random.default_rng(0), ["--weights", weights, "--unsure", unsure]
    with tempfile.TemporaryDirectory() as work:
        pets = Path(work, "pets")
        pets.mkdir()
        for number, label in itertools.product(numbers, ("cat", "dog")):
            (pets / f"{label}.{number}.jpg").symlink_to((photos / f"{label}.{number}.jpg").resolve())
        tell_of_pets(pets, flags, unsure, rng)
        for folder in draw_others(Path(work), originals, rng):
            found = [row["verdict"] == "neither" for row in answers(folder, *flags)]
            print(f"neither of {folder.name}: {share(sum(found), len(found))}", flush=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--originals", type=Path)
    parser.add_argument("--from", type=int, default=1500, dest="first")
    parser.add_argument("--to", type=int, default=4999, dest="last")
    parser.add_argument("--unsure", type=float, default=0.02)
    chosen = parser.parse_args(arguments)
    if chosen.last >= TEST:
        parser.error(f"--to: the photos from {TEST} on are read by train_box.py --score alone, which logs it")
    measure(chosen.photos, chosen.weights, range(chosen.first, chosen.last + 1), chosen.originals, chosen.unsure)


if __name__ == "__main__":
    main()
