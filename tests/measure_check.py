"""Measure the dataset doctor, --check, on real photos with planted faults; prints the figures that the README quotes.

    python tests/measure_check.py PHOTOS [--weights FILE] [--first 5000] [--large 25000] [--work DIR]

PHOTOS holds cat.0.jpg, dog.0.jpg, ... (Kaggle's layout). Into 2,000 of them, 1,000 of each class from --first on, go 50
faults of each kind: exact copies, copies at half the size in JPEG quality 40, broken files; all in other splits than the
photo they were made from. With --weights, which should not have learned from them, the labels of 50 photos are swapped
as well, in ten draws. Time and memory are taken on as many photos as --large says, and on half of them; where there are
fewer, upside-down ones fill up.
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

from measure_sure import TEST

PROGRAM = Path(__file__).resolve().parent.parent / "CatDogClassifier.py"
PLANTED, DRAWS = 50, 10
NEXT = {"train": "validation", "validation": "test", "test": "train"}


def check(folder, *flags):
    """The findings of --check as {kind: [finding]}, its exit code, seconds, and peak memory in MB."""
    started = time.monotonic()
    line = [sys.executable, PROGRAM, "--check", folder, "--json", *flags]
    with subprocess.Popen(list(map(str, line)), stdout=subprocess.PIPE, text=True, cwd=folder.parent) as process:
        *rows, _ = map(json.loads, process.stdout.read().splitlines())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    kinds = {}
    for row in rows:
        kinds.setdefault(row["finding"], []).append(row)
    return kinds, process.returncode, time.monotonic() - started, usage.ru_maxrss / 1024


def split_of(number, first):
    """Of ten photos eight train, one validates, one tests."""
    return {8: "validation", 9: "test"}.get((number - first) % 10, "train")


def untouched(photos, first, folder):
    """A dataset of 2,000 photos; returns {(class, number): path}."""
    shutil.rmtree(folder, ignore_errors=True)
    paths = {}
    for number in range(first, first + 1000):
        for label in ("cat", "dog"):
            path = folder / split_of(number, first) / label / f"{label}.{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photos / f"{label}.{number}.jpg", path)
            paths[label, number] = path
    return paths


def plant(paths, rng):
    """Put the faults in; returns {kind: [(path of the fault, path of the photo it was made from)]}."""
    chosen = rng.sample(sorted(paths), 3 * PLANTED)
    planted = {"exact": [], "recompressed": [], "broken": []}
    for place, key in enumerate(chosen):
        kind, source = list(planted)[place % 3], paths[key]
        target = source.parents[2] / NEXT[source.parts[-3]] / key[0] / f"planted.{place}.jpg"
        if kind == "exact":
            shutil.copyfile(source, target)
        elif kind == "recompressed":
            image = Image.open(source)
            image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS).save(target, quality=40)
        else:  # cut off, as after a broken download, or something else altogether
            target.write_bytes(source.read_bytes()[: rng.randrange(20, 2000)] if place % 2 else rng.randbytes(5000))
        planted[kind].append((str(target), str(source)))
    return planted


def report_planted(paths, folder, rng):
    clean, code, *_ = check(folder)
    pairs = [finding for kind in ("leak", "contradiction", "copies") for finding in clean.get(kind, [])]
    print(f"untouched 2,000 photos: {len(pairs)} groups reported as copies, exit code {code}")
    for finding in pairs:
        print(f"  look at: {finding['detail']} {' '.join(map(os.path.basename, finding['paths']))}")
    planted = plant(paths, rng)
    found, code, *_ = check(folder)
    groups = [set(finding["paths"]) for finding in found["leak"]]
    for kind in ("exact", "recompressed"):
        hits = sum(any({fault, source} <= group for group in groups) for fault, source in planted[kind])
        print(f"{kind}: {hits} of {PLANTED} found")
    broken = {path for finding in found["unreadable"] for path in finding["paths"]}
    print(f"broken: {len(broken & {fault for fault, _ in planted['broken']})} of {PLANTED} found, {len(broken)} reported")
    others = [group for group in groups if not any({*pair} & group for pair in planted["exact"] + planted["recompressed"])]
    print(f"other leaks reported: {len(others)}; exit code {code}")


def swap_labels(paths, rng):
    """Put some photos into the folder of the other class; returns their new paths."""
    swapped = set()
    for label, number in rng.sample(sorted(paths), PLANTED):
        source = paths[label, number]
        target = source.parents[1] / {"cat": "dog", "dog": "cat"}[label] / source.name
        source.rename(target)
        swapped.add(str(target))
    return swapped


def report_labels(photos, first, folder, weights):
    hits = {50: [], 100: [], 200: []}
    for draw in range(DRAWS):
        swapped = swap_labels(untouched(photos, first, folder), random.Random(draw))
        found, *_ = check(folder, "--weights", weights)
        listed = [finding["paths"][0] for finding in found["label"]]
        for count, numbers in hits.items():
            numbers.append(len(set(listed[:count]) & swapped))
    print(f"accuracy of the net on these 2,000 photos and their mirror images: {1 - len(set(listed) ^ swapped) / 2000:.4f}")
    for count, numbers in hits.items():
        print(f"swapped labels among the first {count} listed: mean {statistics.mean(numbers):.1f} of {PLANTED}, {numbers}")


def report_speed(photos, count, work):
    names = sorted(os.listdir(photos))
    for part in (count // 2, count):
        folder = work / f"large{part}"
        folder.mkdir(parents=True, exist_ok=True)
        for place in range(part):
            source, target = photos / names[place % len(names)], folder / f"{place}.jpg"
            if place < len(names):
                shutil.copyfile(source, target)
            else:
                ImageOps.flip(Image.open(source)).save(target, quality=90)
        check(folder)  # so that the files are in memory
        _, _, seconds, peak = min((check(folder) for _ in range(3)), key=lambda result: result[2])
        print(f"{part} photos: {seconds:.1f} s (the best of three), peak memory {peak:.0f} MB", flush=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--first", type=int, default=5000)
    parser.add_argument("--large", type=int, default=25_000)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "catdog-check"))
    chosen = parser.parse_args(arguments)
    if chosen.weights and chosen.first + 1000 > TEST:
        parser.error(f"--first: nets answer for the photos from {TEST} on in train_box.py --score alone, which logs it")
    rng, folder = random.Random(0), chosen.work / "planted"
    report_planted(untouched(chosen.photos, chosen.first, folder), folder, rng)
    if chosen.weights:
        report_labels(chosen.photos, chosen.first, folder, chosen.weights.resolve())
    report_speed(chosen.photos, chosen.large, chosen.work)


if __name__ == "__main__":
    main()
