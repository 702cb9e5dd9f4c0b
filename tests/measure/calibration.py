"""Measure what a net knows of its own doubts: calibration and abstention.

    python tests/measure/calibration.py PHOTOS WEIGHTS [--from 1500] [--to 4999] [--unsure 0.02]

PHOTOS holds cat.0.jpg, dog.0.jpg, ... (Kaggle's layout), of which the net must have seen none of
these numbers. Shares have their 95 % interval (Wilson), the calibration error that of a bootstrap.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import CatDogClassifier as program  # noqa: E402

TEST = 7500  # the first number of the photos that test the net that comes with the program


def share(count, total):
    """A share of a number of photos, with its interval."""
    low, high = program.wilson(count, total) if total else (0, 1)
    interval = f"95 % interval {100 * low:.2f} to {100 * high:.2f}"
    return f"{100 * count / max(total, 1):.2f} % ({count} of {total}; {interval})"


def calibration_error(probabilities, labels, draws=1000):
    """The expected calibration error in 15 bins, and its bootstrap interval, in percent."""
    rng, count = np.random.default_rng(0), len(labels)
    picks = [np.arange(count), *(rng.integers(0, count, count) for _ in range(draws))]
    bins = (program.calibration_bins(probabilities[rows], labels[rows]) for rows in picks)
    error, *others = (100 * found["ece"] for found in bins)
    low, high = np.quantile(others, [0.025, 0.975])
    return f"{error:.2f} % (bootstrap {low:.2f} to {high:.2f})"


def measure(photos, weights, numbers, unsure=0.02):
    """Print all figures of a net, on the photos with these numbers of both classes."""
    classifier = program.CatDogClassifier(weights=str(weights), unsure=unsure, quiet=True)
    names = [(label, number) for number in numbers for label in ("cat", "dog")]
    rows = classifier.predict([photos / f"{label}.{number}.jpg" for label, number in names])
    for row in rows:
        if row.error:
            sys.exit(f"{row.path}: {row.error}")
    probabilities = np.array([list(row.probabilities.values()) for row in rows])  # (N, 2)
    labels = np.array([[classifier.classes.index(label)] for label, _ in names])  # (N, 1)
    right = probabilities.argmax(axis=1) == labels[:, 0]
    given = np.array([row.verdict != "unsure" for row in rows])
    wrong = share(int((given & ~right).sum()), int(given.sum()))
    print(f"right: {share(int(right.sum()), len(rows))}")
    print(f"expected calibration error, 15 bins: {calibration_error(probabilities, labels)}")
    print(f"--unsure {unsure}: wrong of the answers given {wrong}")
    print(f"--unsure {unsure}: abstained from {share(int((~given).sum()), len(rows))}", flush=True)


def main(arguments=None):
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("photos", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--from", type=int, default=1500, dest="first")
    parser.add_argument("--to", type=int, default=4999, dest="last")
    parser.add_argument("--unsure", type=float, default=0.02)
    chosen = parser.parse_args(arguments)
    if chosen.last >= TEST:
        parser.error(f"train_box.py --score alone reads the photos from {TEST} on, and logs it")
    numbers = range(chosen.first, chosen.last + 1)
    measure(chosen.photos, chosen.weights, numbers, chosen.unsure)


if __name__ == "__main__":
    main()
