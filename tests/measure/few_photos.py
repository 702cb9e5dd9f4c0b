"""Measure trainings on few photos of other things than cats and dogs.

    python tests/measure/few_photos.py NEITHER KIND KIND ... [--seeds 0 1 2] [--work DIR] [flags]

NEITHER holds KIND.N.jpg. Of each kind that is named the first 40 photos train, 10 validate and the
rest test. Other flags are the program's.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from real_photos import call, spread, tell, train, weights_of

SPLIT = (40, 10)  # photos of each kind to train and to validate


def link_kinds(source, kinds, folder):
    """Make FOLDER/SPLIT/KIND/ of links to the photos of some kinds."""
    for kind in kinds:
        photos = sorted(source.glob(f"{kind}.*.jpg"), key=lambda path: int(path.name.split(".")[1]))
        ends = [0, SPLIT[0], sum(SPLIT), len(photos)]
        for split, first, last in zip(
            ("train", "validation", "test"), ends[:3], ends[1:], strict=True
        ):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
            for path in photos[first:last]:
                link = folder / split / kind / path.name
                if not link.is_symlink():
                    link.symlink_to(path.resolve())


def main(arguments=None):
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("neither", type=Path, metavar="NEITHER")
    parser.add_argument("kinds", nargs="+", metavar="KIND")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    work = Path(tempfile.gettempdir(), "catdog-few")
    parser.add_argument("--work", type=Path, default=work)
    chosen, flags = parser.parse_known_args(arguments)
    print(f"{call('--version').strip()}: {', '.join(chosen.kinds)}")
    link_kinds(chosen.neither, chosen.kinds, chosen.work / "photos")
    found, took = [], []
    for seed in chosen.seeds:
        weights = weights_of(chosen.work, f"seed{seed}", flags)
        started = time.monotonic()
        found.append(train(weights, "--dataset", chosen.work / "photos", "--seed", seed, *flags))
        took.append(time.monotonic() - started)
        tell(seed, found[-1], weights)
    print("test accuracy, %:", spread([100 * each["test"]["accuracy"] for each in found]))
    print("seconds of the epochs:", f"{statistics.median(each['seconds'] for each in found):.1f}")
    print("seconds from start to end:", f"{statistics.median(took):.1f}")


if __name__ == "__main__":
    main()
