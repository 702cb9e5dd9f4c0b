"""Train the net that comes with the program, and print the figures of its model card.

    python tests/train_box.py PHOTOS [--originals DIR] [--work DIR] [--seeds 0] [--score] [flags of the program]

PHOTOS holds cat.0.jpg, dog.0.jpg, ... (Kaggle's layout). Of each class the numbers below 7000 train, but for 4001-4100,
which ORIGINALS has at their own sizes; 7000-7499 validate; 7500-7999 test. Stopped, the same command goes on; what is
finished in DIR is not trained again, and DIR takes no training with other flags or photos. Nets answer for the test
photos with --score only, and TEST_LOG says when that was; then DIR/seedN.html shows the mistakes, and what
measure_sure.py prints tells how far the first of the nets knows its doubts. DIR/seedN_box.h5, which says of itself how
it was made and what it scored, can be put beside the program as CatDogClassifier_pretrained.h5.
"""

import argparse
import datetime
import functools
import itertools
import json
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageFilter, ImageOps

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))
import CatDogClassifier as program  # noqa: E402
import measure_sure  # noqa: E402
from measure_real_photos import call, last_and_best  # noqa: E402

BEST = ("--model", "residual", "--epochs", "50")  # what has measured best; flags of the command line come after it
TEST_LOG = REPO / "tests" / "test_photos.log"
CHANGES = {  # what photos from elsewhere may be like: name -> (Image, 200 pixels a side -> Image), quality of its JPEG
    "as they are": (lambda photo: photo, 95),
    "100 pixels a side": (lambda photo: photo.resize((100, 100)), 90),
    "50 pixels a side": (lambda photo: photo.resize((50, 50)), 90),
    "out of focus": (lambda photo: photo.filter(ImageFilter.GaussianBlur(2)), 90),
    "JPEG of quality 10": (lambda photo: photo, 10),
    "without colour": (lambda photo: photo.convert("L"), 90),
    "half as bright": (lambda photo: photo.point(lambda value: value // 2), 90),
    "the middle, 3 : 2": (lambda photo: photo.crop((0, 33, 200, 167)), 90),
    "the middle, 2 : 3": (lambda photo: photo.crop((33, 0, 167, 200)), 90),
    "upside down": (lambda photo: photo.rotate(180), 90),
    "turned by 90 degrees": (lambda photo: photo.rotate(90), 90),
    "with bars, 9:16": (lambda photo: ImageOps.pad(photo, (200, 356)), 90),  # as on the screen of a telephone
}
SPLITS = {"train": [*range(4001), *range(4101, 7000)], "validation": range(7000, 7500), "test": range(measure_sure.TEST, 8000)}


def link_photos(photos, folder, splits):
    """FOLDER/SPLIT/CLASS/N.jpg for these splits, as links to the photos; exits where one is missing."""
    photos = photos.resolve()
    for split, label in itertools.product(splits, ("cat", "dog")):
        (folder / split / label).mkdir(parents=True, exist_ok=True)
        for number in SPLITS[split]:
            photo, link = photos / f"{label}.{number}.jpg", folder / split / label / f"{number}.jpg"
            if not photo.exists():
                sys.exit(f"{photo} is missing. PHOTOS must hold cat.0.jpg to cat.7999.jpg, and so many dogs")
            if link.is_symlink():
                link.unlink()  # that of earlier, perhaps of other PHOTOS
            link.symlink_to(photo)


def begin(work, seed, flags, photos):
    """The weights file of a training, beside it how it is begun; exits where another is already under that name."""
    weights, begun = work / f"seed{seed}.h5", {"flags": [*BEST, *flags], "photos": str(photos.resolve())}
    if not weights.exists() and not weights.with_suffix(".unfinished").exists():
        weights.with_suffix(".json").write_text(json.dumps({**begun, "commit": commit()}))
    before = begun_with(weights)
    if not begun.items() <= before.items():
        sys.exit(f"{weights} is of a training on {before.get('photos')} with {' '.join(before['flags'])}. Name another --work")
    return weights


def train(work, seed, weights):
    """One training, unless it is finished; prints what became of it on the validation photos."""
    if program.facts_of(weights).get("summary", {}).get("ending", "interrupted") == "interrupted":
        flags = begun_with(weights)["flags"]
        call(*flags, "--dataset", work / "photos", "--weights", weights, "--seed", seed, "--json")
    summary = program.facts_of(weights)["summary"]
    print(f"seed {seed}: {summary['rung']}, {summary['parameters']:,} parameters, {summary['epochs']} epochs, "
          f"{summary['seconds'] / 60:.1f} minutes; validation {100 * summary['validation']['accuracy']:.2f} %, "
          f"{last_and_best(weights)}", flush=True)
    if program.facts_of(box_of(weights)).get("run") != program.facts_of(weights)["run"]:  # or else it may tell its test score
        tell_of_itself(weights, {})


def begun_with(weights):
    """With which flags, on which photos, and by which commit of the program, a training was begun."""
    return json.loads(weights.with_suffix(".json").read_text())


def score(work, weights):
    """The score on the test photos, entered in the log before and after, and a page of the mistakes; the share right."""
    page, told = weights.with_suffix(".html"), f"{datetime.date.today()} commit {commit()} run {program.facts_of(weights)['run']}"
    page.unlink(missing_ok=True)
    with open(TEST_LOG, "a") as log:  # a reading that fails is a reading too
        print(f"{told}: begun", file=log, flush=True)
        scores = json.loads(call("--evaluate", "--report", page, "--dataset", work / "test", "--weights", weights, "--json", "-q"))
        print(f"{told}: {scores['correct']} of {scores['total']}", file=log)
    low, high = (round(100 * bound, 2) for bound in scores["interval"])
    print(f"{weights.name}: test {100 * scores['accuracy']:.2f} % (95 % interval {low} to {high}), "
          f"confusion {scores['confusion']}; {scores['seen']} of them look like photos that it learned from", flush=True)
    tell_of_itself(weights, {"test": {"numbers": "7500-7999", **{name: scores[name] for name in ("correct", "total", "confusion")}}})
    return scores["accuracy"]


@functools.cache  # the log itself is one of the files that change
def commit():
    """That of the program; "-dirty" where it has been changed since."""
    return subprocess.run(["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=REPO, capture_output=True, text=True).stdout.strip()


def box_of(weights):
    """Where the same weights lie that say more of themselves."""
    return weights.with_name(f"{weights.stem}_box.h5")


def tell_of_itself(weights, more):
    """Write `box_of` the weights."""
    net = program.CatDogClassifier(weights=str(weights), quiet=True)
    net.load_weights()
    card = {"date": str(datetime.date.today()), "commit": begun_with(weights)["commit"],
            "photos": "Dogs vs. Cats (Kaggle, from Microsoft Asirra)", "numbers": "below 7000 but for 4001-4100",
            "validation": "7000-7499", **more}
    facts = {**program.facts_of(weights), "card": card}
    packed = program.pack_weights(net.model, facts, net.seen, net.directions)
    program.write_whole(box_of(weights), packed)


def classify(photos, weights):
    """As -d answers for the photos in a folder, their classes told by their names: the shares right, and called neither."""
    rows = [json.loads(line) for line in call("-q", "-d", photos, "--weights", weights, "--json").splitlines()]
    right = sum(Path(row["path"]).name.startswith(row["label"]) for row in rows)
    neither = sum(row["verdict"] == "neither" for row in rows)
    return f"{100 * right / len(rows):.1f} %, neither {100 * neither / len(rows):.1f} %"


def changed(paths, folder, change, quality):
    """A folder of these photos, changed, as JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        with Image.open(path) as photo:
            change(ImageOps.exif_transpose(photo).convert("RGB")).save(folder / path.name, quality=quality)
    return folder


def compare_shapes(work, originals, photos, weights):
    """Prints how a net does on the originals, on the same photos squashed to squares, and on squares out of them."""
    paths = sorted(originals.glob("*.jpg"))
    told = {"originals": originals,
            "the same squashed": changed([photos / path.name for path in paths], work / "squashed", lambda photo: photo, 95),
            "their middle squares": changed(paths, work / "square", lambda photo: ImageOps.fit(photo, (min(photo.size),) * 2), 95)}
    parts = (f"{name} {classify(folder, weights)}" for name, folder in told.items())
    print(f"{weights.name}: {'; '.join(parts)} ({len(paths)} photos)", flush=True)


def compare_changes(work, photos, weights):
    """Prints how a net does on the validation photos when they are worse than they are."""
    paths = [photos / f"{label}.{number}.jpg" for label in ("cat", "dog") for number in SPLITS["validation"]]
    for name, (change, quality) in CHANGES.items():
        folder = changed(paths, work / "changed" / name.replace(" ", "_"), change, quality)
        print(f"{weights.name}: validation photos, {name}: {classify(folder, weights)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--originals", type=Path)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "catdog-box"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--score", action="store_true")
    chosen, flags = parser.parse_known_args()
    originals = list(chosen.originals.glob("*.jpg")) if chosen.originals else []
    if chosen.originals and not (originals and all((chosen.photos / path.name).exists() for path in originals)):
        parser.error("ORIGINALS must hold some of the photos that PHOTOS holds, under the same names")
    chosen.work.mkdir(parents=True, exist_ok=True)
    nets = [begin(chosen.work, seed, flags, chosen.photos) for seed in chosen.seeds]
    link_photos(chosen.photos, chosen.work / "photos", ["train", "validation"])
    for seed, weights in zip(chosen.seeds, nets, strict=True):
        train(chosen.work, seed, weights)
    for weights in nets if chosen.originals else ():
        compare_shapes(chosen.work, chosen.originals, chosen.photos, weights)
        compare_changes(chosen.work, chosen.photos, weights)
    if chosen.score:
        link_photos(chosen.photos, chosen.work / "test", ["test"])
        shares = [100 * score(chosen.work, weights) for weights in nets]
        print(f"test: mean {statistics.mean(shares):.2f} % of {len(shares)} seeds", flush=True)
        measure_sure.measure(chosen.photos, nets[0], SPLITS["test"], chosen.originals)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the training stops as well
    try:
        main()
    except subprocess.CalledProcessError as error:  # the program has said why
        sys.exit(error.returncode)
    except OSError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped: the same command goes on")
