"""Measure dataset/check.py on real photos with planted faults: found, missed, blamed; time, memory.

    python tests/measure/check.py PHOTOS [--weights FILE] [--large 25000]

PHOTOS holds cat.0.jpg, dog.0.jpg, ... (Kaggle's layout). Into 2,000 of them, 5,000 to 5,999 of each
class, go 50 faults of each kind: exact copies, copies at half the size in JPEG quality 40, broken
files; all in other splits than the photo they were made from. With --weights, which should not have
learned from them, the labels of 50 photos are swapped as well, in ten draws. Time and memory are
taken on as many photos as --large says, and on half of them, filled up with upside-down ones.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageOps

CHECK = Path(__file__).resolve().parents[2] / "dataset" / "check.py"
FIRST, PLANTED, DRAWS = 5000, 50, 10
NEXT = {"train": "validation", "validation": "test", "test": "train"}


def check(folder, *flags):
    """{kind: [issue]} of dataset/check.py, its exit code, seconds, and peak memory in MB."""
    started = time.monotonic()
    line = [sys.executable, CHECK, folder, "--json", *flags]
    options = {"stdout": subprocess.PIPE, "text": True, "cwd": folder.parent}
    with subprocess.Popen(list(map(str, line)), **options) as process:
        *rows, _ = map(json.loads, process.stdout.read().splitlines())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    kinds = {}
    for row in rows:
        kinds.setdefault(row["issue"], []).append(row)
    return kinds, process.returncode, time.monotonic() - started, usage.ru_maxrss / 1024


def untouched(photos, folder):
    """A dataset of 2,000 photos, 8 of 10 to train; returns {(class, number): path}."""
    shutil.rmtree(folder, ignore_errors=True)
    paths = {}
    for number in range(FIRST, FIRST + 1000):
        split = {8: "validation", 9: "test"}.get((number - FIRST) % 10, "train")
        for label in ("cat", "dog"):
            path = folder / split / label / f"{label}.{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photos / path.name, path)
            paths[label, number] = path
    return paths


def recompress(source, target):
    """The same photo at half the size in JPEG quality 40."""
    image = Image.open(source)
    half = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    half.save(target, quality=40)


def plant(paths, rng):
    """Put the faults in; returns {kind: [(path of the fault, path it was made from)]}."""
    planted = {"exact": [], "recompressed": [], "broken": []}
    for place, key in enumerate(rng.sample(sorted(paths), 3 * PLANTED)):
        kind, source = list(planted)[place % 3], paths[key]
        split = NEXT[source.parts[-3]]
        target = source.parents[2] / split / key[0] / f"planted.{place}.jpg"
        if kind == "exact":
            shutil.copyfile(source, target)
        elif kind == "recompressed":
            recompress(source, target)
        else:  # cut off, as after a broken download, or something else altogether
            half = source.read_bytes()[: rng.randrange(20, 2000)]
            target.write_bytes(half if place % 2 else rng.randbytes(5000))
        planted[kind].append((str(target), str(source)))
    return planted


def report_planted(photos, folder):
    """Print what is found in the untouched photos, and of the planted faults."""
    paths = untouched(photos, folder)
    clean, code, *_ = check(folder)
    pairs = [i for kind in ("leak", "contradiction", "copies") for i in clean.get(kind, [])]
    print(f"untouched 2,000 photos: {len(pairs)} groups reported as copies, exit code {code}")
    for issue in pairs:
        print(f"  look at: {issue['detail']} {' '.join(map(os.path.basename, issue['paths']))}")
    planted = plant(paths, random.Random(0))
    found, code, *_ = check(folder)
    groups = [set(issue["paths"]) for issue in found["leak"]]
    copies = planted["exact"] + planted["recompressed"]
    for kind in ("exact", "recompressed"):
        hits = sum(any({*pair} <= group for group in groups) for pair in planted[kind])
        print(f"{kind}: {hits} of {PLANTED} found")
    broken = {path for issue in found["unreadable"] for path in issue["paths"]}
    hits = len(broken & {fault for fault, _ in planted["broken"]})
    print(f"broken: {hits} of {PLANTED} found, {len(broken)} reported")
    others = [group for group in groups if not any({*pair} & group for pair in copies)]
    print(f"other leaks reported: {len(others)}; exit code {code}", flush=True)


def swap_labels(paths, rng):
    """Put some photos into the folder of the other class; returns their new paths."""
    swapped = set()
    for label, number in rng.sample(sorted(paths), PLANTED):
        source = paths[label, number]
        target = source.parents[1] / {"cat": "dog", "dog": "cat"}[label] / source.name
        source.rename(target)
        swapped.add(str(target))
    return swapped


def report_labels(photos, folder, weights):
    """Print how many of the swapped labels are at the top of the list of doubtful ones."""
    hits = {50: [], 100: [], 200: []}
    for draw in range(DRAWS):
        swapped = swap_labels(untouched(photos, folder), random.Random(draw))
        found, *_ = check(folder, "--weights", weights)
        listed = [issue["paths"][0] for issue in found["label"]]
        for count, numbers in hits.items():
            numbers.append(len(set(listed[:count]) & swapped))
    accuracy = 1 - len(set(listed) ^ swapped) / 2000
    print(f"accuracy of the net on these photos and their mirror images: {accuracy:.4f}")
    for count, numbers in hits.items():
        mean = statistics.mean(numbers)
        print(f"swapped labels among the first {count}: mean {mean:.1f} of {PLANTED}, {numbers}")


def report_speed(photos, count, work):
    """Print the time and the peak memory of a check of so many photos, and of half of them."""
    names = sorted(os.listdir(photos))
    for part in (count // 2, count):
        folder = work / f"large{part}"
        folder.mkdir()
        for place in range(part):
            source, target = photos / names[place % len(names)], folder / f"{place}.jpg"
            if place < len(names):
                shutil.copyfile(source, target)
            else:
                ImageOps.flip(Image.open(source)).save(target, quality=90)
        check(folder)  # so that the files are in memory
        *_, seconds, peak = min((check(folder) for _ in range(3)), key=lambda result: result[2])
        print(f"{part} photos: {seconds:.1f} s (best of three), peak memory {peak:.0f} MB")


def main(argv=None):
    """Print all figures."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--large", type=int, default=25_000)
    chosen = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="catdog-check-") as work:
        folder = Path(work, "planted")
        report_planted(chosen.photos, folder)
        if chosen.weights:
            report_labels(chosen.photos, folder, chosen.weights.resolve())
        report_speed(chosen.photos, chosen.large, Path(work))


if __name__ == "__main__":
    main()
