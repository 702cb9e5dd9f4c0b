"""Measure a training on real photos, in the tutorials' protocol.

    python tests/measure/real_photos.py PHOTOS ORIGINALS [--seeds 0 1 2] [--work DIR] [flags]

PHOTOS holds cat.0.jpg, dog.0.jpg, ... (Kaggle's layout): 0-999 of each class train, 1000-1499
validate, 1500-1999 test. ORIGINALS holds photos named so that are none of these: a folder as users
have it, for -d. Other flags are the program's. Stopped, the same command goes on; what DIR holds,
trained with the same flags, is not trained again.
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

REPO = Path(__file__).resolve().parents[2]


def call(*arguments, script="CatDogClassifier.py"):
    """Run the program, or another script: what it prints. Where it fails this one ends too."""
    line = [sys.executable, REPO / script, *arguments]
    done = subprocess.run(list(map(str, line)), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 3):  # 3: a net that guesses is a result as well
        sys.exit(done.returncode)  # it has said why
    return done.stdout


def spread(values, digits=2):
    """Mean and standard deviation of some values, as text."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    mean = statistics.mean(values)
    return f"{mean:.{digits}f} (deviation {deviation:.{digits}f}, runs {len(values)})"


def weights_of(work, name, flags):
    """The file of a training: named after its flags too."""
    return work / f"{name}{''.join(flags).replace(os.sep, '-')}.h5"


def train(weights, *flags):
    """The summary of a training into a weights file, which is done once."""
    outcome = weights.with_suffix(".json")
    if not outcome.exists():
        outcome.write_text(call("--weights", weights, "--json", *flags))
    return json.loads(outcome.read_text())


def last_and_best(weights):
    """How often the last and the best epoch were right on the validation photos, looking once."""
    with open(weights.with_name(f"{weights.stem}_history.csv")) as file:
        curve = [100 * float(row["val_acc"]) for row in csv.DictReader(file)]
    return f"last epoch {curve[-1]:.2f} %, best one {max(curve):.2f} %"


def classify(folder, weights):
    """-d on photos named after their class: the share right, photos a second from start to end."""
    started = time.monotonic()
    rows = call("-q", "-d", folder, "--weights", weights, "--json").splitlines()
    seconds, rows = time.monotonic() - started, map(json.loads, rows)
    right = [Path(row["path"]).name.startswith(row["label"]) for row in rows]
    return sum(right) / len(right), len(right) / seconds


def tell(seed, summary, weights):
    """Print what has become of one training."""
    accuracy, interval = summary["test"]["accuracy"], summary["test"]["interval"]
    low, high = (f"{100 * bound:.1f}" for bound in interval)
    print(
        f"seed {seed}: test {100 * accuracy:.1f} % (95 % interval {low} to {high}), best epoch "
        f"{summary['best_epoch']} of {summary['epochs']}, {summary['seconds_per_epoch']} s an "
        f"epoch; validation: {last_and_best(weights)}",
        flush=True,
    )


def main():
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("photos")
    parser.add_argument("originals")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    work = Path(tempfile.gettempdir(), "catdog-measure")
    parser.add_argument("--work", type=Path, default=work)
    chosen, flags = parser.parse_known_args()
    print(f"{os.cpu_count()} cores; " + ", ".join(call("--version").splitlines()[:4]))
    chosen.work.mkdir(parents=True, exist_ok=True)
    pets, split = chosen.work / "pets", ("--split", "1000,500,500", "-q")
    call(chosen.photos, pets, *split, script="dataset/prepare.py")
    nets = {seed: weights_of(chosen.work, f"seed{seed}", flags) for seed in chosen.seeds}
    summaries = []
    for seed, weights in nets.items():
        summaries.append(train(weights, "--dataset", pets, "--seed", seed, *flags))
        tell(seed, summaries[-1], weights)
    print("test accuracy, %:", spread([100 * each["test"]["accuracy"] for each in summaries]))
    print("seconds an epoch:", spread([each["seconds_per_epoch"] for each in summaries]))
    found = [classify(chosen.originals, weights) for weights in nets.values()]
    shares, rates = zip(*found, strict=True)
    print("originals, %:", spread([100 * share for share in shares]))
    print("photos a second, start of the program included:", spread(rates))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the training stops as well
    main()
