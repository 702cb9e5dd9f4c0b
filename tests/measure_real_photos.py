"""Measure the default training on real photos, in the tutorials' protocol; prints the figures that the README quotes.

    python tests/measure_real_photos.py PHOTOS ORIGINALS [--seeds 0 1 2] [--work DIR] [flags of the program]

PHOTOS holds cat.0.jpg, dog.0.jpg, ... (Kaggle's layout): 0-999 of each train, 1000-1499 validate, 1500-1999 test.
ORIGINALS holds photos named the same way that are in none of these: a folder as users have it, for -d. Stopped, the
same command goes on; what was trained with the same flags and is in DIR is not trained again.
"""

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = Path(__file__).resolve().parent.parent / "CatDogClassifier.py"


def call(*arguments):
    """Run the program; its stdout."""
    line = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout


def spread(values):
    """Mean and standard deviation of some values as text."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} (standard deviation {deviation:.2f}, {len(values)} runs)"


def weights_of(work, seed, flags):
    """The file of a training, named after its flags."""
    return work / f"seed{seed}{''.join(flags).replace(os.sep, '-')}.h5"


def last_and_best(weights):
    """In how many percent the last epoch of a training and the best one were right on the validation photos, looking once."""
    with open(weights.with_name(f"{weights.stem}_history.csv")) as file:
        curve = [100 * float(row["val_acc"]) for row in csv.DictReader(file)]
    return f"last epoch {curve[-1]:.2f}, best one {max(curve):.2f}"


def train(work, seed, flags):
    """One training, unless it is finished: its summary."""
    weights = weights_of(work, seed, flags)
    outcome = weights.with_suffix(".json")
    if not outcome.exists():
        outcome.write_text(call("--dataset", work / "pets", "--weights", weights, "--seed", seed, "--json", *flags))
    summary = json.loads(outcome.read_text())
    test, low_high = summary["test"], [round(100 * bound, 1) for bound in summary["test"]["interval"]]
    print(f"seed {seed}: test {100 * test['accuracy']:.1f} % {low_high}, best epoch {summary['best_epoch']} of "
          f"{summary['epochs']}, {summary['seconds_per_epoch']} s an epoch, {summary['precision']}; validation, "
          f"{last_and_best(weights)}", flush=True)
    return summary


def classify(weights, originals):
    """-d on the originals: (share right, photos per second of the whole command)."""
    started = time.monotonic()
    rows = [json.loads(line) for line in call("-q", "-d", originals, "--weights", weights, "--json").splitlines()]
    right = sum(Path(row["path"]).name.startswith(row["label"]) for row in rows)
    return right / len(rows), len(rows) / (time.monotonic() - started)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("originals")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "catdog-measure"))
    chosen, flags = parser.parse_known_args()
    print(f"{os.cpu_count()} cores; " + ", ".join(call("--version").splitlines()[:4]))
    if not (chosen.work / "pets").exists():
        call("-q", "--prepare", chosen.photos, "--split", "1000,500,500", "--dataset", chosen.work / "pets")
    summaries = [train(chosen.work, seed, flags) for seed in chosen.seeds]
    print("test accuracy:", spread([100 * summary["test"]["accuracy"] for summary in summaries]), "%")
    print("seconds an epoch:", spread([summary["seconds_per_epoch"] for summary in summaries]))
    nets = [weights_of(chosen.work, seed, flags) for seed in chosen.seeds]
    shares, rates = zip(*(classify(weights, chosen.originals) for weights in nets), strict=True)
    print("originals right:", spread([100 * share for share in shares]), "%")
    print("photos a second, start of the program included:", spread(rates))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the training stops as well
    main()
