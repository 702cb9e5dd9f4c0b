"""Train the net that comes with the program; print the figures of its model card.

    python tests/measure/train_box.py PHOTOS [--originals DIR] [--seeds 0] [--work DIR] [--score]

PHOTOS holds cat.0.jpg, dog.0.jpg, ... (Kaggle's layout). Of each class the numbers below 7000
train, but for 4001-4100, which ORIGINALS has at their own sizes; 7000-7499 validate; 7500-7999
test. Other flags are the program's. Stopped, the same command goes on; what DIR holds is not
trained again, and DIR takes no training with other flags or photos.

Nets answer for the test photos with --score only, and test_photos.log says when that was; then
DIR/seedN.html shows the mistakes, and the figures of calibration.py follow for the first net.
DIR/seedN_box.h5, which says of itself how it was made and what it scored, can be put beside the
program as CatDogClassifier_pretrained.h5.
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

import calibration
from PIL import Image, ImageFilter, ImageOps
from real_photos import REPO, call, classify, last_and_best

from CatDogClassifier import Settings, load_net, read_metadata, save_h5, write_file

BEST = ("--model", "residual", "--epochs", "50")  # what has measured best; other flags come after
TEST_LOG = Path(__file__).with_name("test_photos.log")
SPLITS = {
    "train": [*range(4001), *range(4101, 7000)],
    "validation": range(7000, 7500),
    "test": range(calibration.TEST, 8000),
}
SAME = (lambda photo: photo), 95
# What photos from elsewhere may be like: a change of one of 200 x 200 pixels, quality as JPEG.
CHANGES = {
    "as they are": SAME,
    "100 pixels a side": (lambda photo: photo.resize((100, 100)), 90),
    "50 pixels a side": (lambda photo: photo.resize((50, 50)), 90),
    "out of focus": (lambda photo: photo.filter(ImageFilter.GaussianBlur(2)), 90),
    "JPEG of quality 10": (lambda photo: photo, 10),
    "without colour": (lambda photo: photo.convert("L"), 90),
    "half as bright": (lambda photo: photo.point(lambda value: value // 2), 90),
    "the middle, 3 by 2": (lambda photo: photo.crop((0, 33, 200, 167)), 90),
    "the middle, 2 by 3": (lambda photo: photo.crop((33, 0, 167, 200)), 90),
    "upside down": (lambda photo: photo.rotate(180), 90),
    "turned by 90 degrees": (lambda photo: photo.rotate(90), 90),
    "with bars, 9 by 16": (lambda photo: ImageOps.pad(photo, (200, 356)), 90),  # a phone's screen
}


def link_photos(photos, folder, splits):
    """Make FOLDER/SPLIT/CLASS/N.jpg of links to the photos; exits where one is missing."""
    for split, label in itertools.product(splits, ("cat", "dog")):
        (folder / split / label).mkdir(parents=True, exist_ok=True)
        for number in SPLITS[split]:
            photo, link = photos / f"{label}.{number}.jpg", folder / split / label / f"{number}.jpg"
            if not photo.exists():
                sys.exit(f"{photo} is missing. PHOTOS must hold cats and dogs from 0 to 7999")
            if link.is_symlink():
                link.unlink()  # to earlier, perhaps other photos
            link.symlink_to(photo.resolve())


@functools.cache  # the log is one of the files that change
def commit():
    """That of the program; "-dirty" where it has been changed since."""
    line = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(line, cwd=REPO, capture_output=True, text=True).stdout.strip()


def begin(work, seed, flags, photos):
    """The weights file of a training, beside it how it began; exits if that was another way."""
    weights, wanted = work / f"seed{seed}.h5", {"flags": [*BEST, *flags], "photos": str(photos)}
    if not weights.exists() and not weights.with_suffix(".checkpoint").exists():
        weights.with_suffix(".json").write_text(json.dumps({**wanted, "commit": commit()}))
    before = begun(weights)
    if not wanted.items() <= before.items():
        how = f"a training on {before['photos']} with {' '.join(before['flags'])}"
        sys.exit(f"{weights} is of {how}. Name another --work")
    return weights


def begun(weights):
    """With which flags, on which photos, by which commit a training was begun."""
    return json.loads(weights.with_suffix(".json").read_text())


def known(weights):
    """What a weights file says of itself, if there is one."""
    return read_metadata(weights, Settings()) if weights.exists() else {}


def box_of(weights):
    """The file of the same net that says more of itself."""
    return weights.with_name(f"{weights.stem}_box.h5")


def write_box(weights, **more):
    """Write `box_of` a weights file."""
    card = {"date": str(datetime.date.today()), "commit": begun(weights)["commit"]}
    card |= {"photos": "Dogs vs. Cats (Kaggle, from Microsoft Asirra)"}
    card |= {"numbers": "below 7000 but for 4001-4100", "validation": "7000-7499", **more}
    net = load_net(weights, Settings())
    write_file(box_of(weights), save_h5(net._replace(info={**net.info, "card": card})))


def train(work, seed, weights):
    """One training, unless it is finished; prints what has become of it."""
    if known(weights).get("summary", {}).get("stop_reason", "interrupted") == "interrupted":
        data = "--dataset", work / "photos", "--weights", weights, "--seed", seed
        call(*begun(weights)["flags"], *data)
    info = known(weights)
    summary, score = info["summary"], info["summary"]["validation"]["accuracy"]
    print(
        f"seed {seed}: {info['architecture']}, {summary['parameters']:,} parameters, "
        f"{summary['epochs']} epochs, {summary['seconds'] / 60:.1f} minutes; "
        f"validation {100 * score:.2f} %, looking once: {last_and_best(weights)}",
        flush=True,
    )
    if known(box_of(weights)).get("run") != info["run"]:  # or else it may tell its test score
        write_box(weights)


def score(work, weights):
    """The share right of the test photos, logged before and after; a page of the mistakes."""
    entry = f"{datetime.date.today()} commit {commit()} run {known(weights)['run']}"
    with open(TEST_LOG, "a") as log:  # a reading that fails is a reading too
        print(f"{entry}: begun", file=log, flush=True)
        page = "--report", weights.with_suffix(".html")
        data = "--dataset", work / "test", "--weights", weights
        scores = json.loads(call("--evaluate", *data, *page, "--json", "-q"))
        print(f"{entry}: {scores['correct']} of {scores['total']}", file=log)
    right = calibration.share(scores["correct"], scores["total"])
    print(f"{weights.name}: test {right}, confusion {scores['confusion']}", flush=True)
    test = {name: scores[name] for name in ("correct", "total", "confusion")}
    write_box(weights, test={"numbers": "7500-7999", **test})
    return scores["accuracy"]


def compare(name, paths, folder, change, quality, weights):
    """Print how a net does on these photos when they are changed, and saved as JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        with Image.open(path) as photo:
            upright = ImageOps.exif_transpose(photo).convert("RGB")
            change(upright).save(folder / path.name, quality=quality)
    print(f"{weights.name}: {name}: {100 * classify(folder, weights)[0]:.1f} %", flush=True)


def compare_all(work, photos, originals, weights):
    """Print how a net does on photos of other shapes, and on worse ones."""
    paths = sorted(originals.glob("*.jpg"))
    print(f"{weights.name}: originals: {100 * classify(originals, weights)[0]:.1f} %")
    squashed = [photos / path.name for path in paths]
    compare("the same squashed", squashed, work / "squashed", *SAME, weights)
    middle = (lambda photo: ImageOps.fit(photo, (min(photo.size),) * 2)), 95
    compare("their middle squares", paths, work / "square", *middle, weights)
    names = itertools.product(("cat", "dog"), SPLITS["validation"])
    paths = [photos / f"{label}.{number}.jpg" for label, number in names]
    for name, change in CHANGES.items():
        folder = work / "changed" / name.replace(" ", "_")
        compare(f"validation photos, {name}", paths, folder, *change, weights)


def main(arguments=None):
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--originals", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "catdog-box"))
    parser.add_argument("--score", action="store_true")
    chosen, flags = parser.parse_known_args(arguments)
    photos, work = chosen.photos.resolve(), chosen.work
    work.mkdir(parents=True, exist_ok=True)
    nets = {seed: begin(work, seed, flags, photos) for seed in chosen.seeds}
    link_photos(photos, work / "photos", ["train", "validation"])
    for seed, weights in nets.items():
        train(work, seed, weights)
    for weights in nets.values() if chosen.originals else ():
        compare_all(work, photos, chosen.originals, weights)
    if chosen.score:
        link_photos(photos, work / "test", ["test"])
        shares = [100 * score(work, weights) for weights in nets.values()]
        print(f"test: mean {statistics.mean(shares):.2f} % of {len(shares)} seeds", flush=True)
        calibration.measure(photos, nets[chosen.seeds[0]], SPLITS["test"])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the training stops as well
    try:
        main()
    except OSError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped: the same command goes on")
