"""Make a dataset: copy photos into NEW/{train,validation,test}/{class}, none into two of them.

    python dataset/prepare.py SOURCE NEW       your photos: cat.0.jpg, dog.17.jpg, ... in a folder,
                                               or one folder per class, Cat/ and Dog/
    python dataset/prepare.py --download NEW   25,000 cats and dogs, 786 MB, for research
    python dataset/prepare.py keras.datasets.mnist NEW   70,000 digits, 11 MB

With --neither FOLDER all photos under a folder, of anything but the classes, become one of their
own: a net that shall say "neither" has to see what else there is. They are taken in the order of
their paths, so that later kinds of things, in later subfolders, are kept to validate and to test.
With --neither caltech-101 they are those of Caltech-101, from the network (131 MB, CC BY 4.0).
SOURCE is never changed, nothing is moved. Files that cannot be read are skipped and named, and so
are photos whose very pixels are in another folder of NEW. The same command completes a broken run.
"""

import argparse
import json
import math
import os
import re
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import CatDogClassifier as program  # noqa: E402 (it lies one folder up)
from CatDogClassifier import NEITHER, SPLITS, CatDogError, PhotoError, UsageError  # noqa: E402
from dataset import download, labels  # noqa: E402
from dataset.download import AGAIN  # noqa: E402

SIDE = 150  # photos are compared at so many pixels a side, decoded exactly
NO_CLASSES = {*SPLITS, *program.SPLIT_ALIASES, "test1"}  # test1: Kaggle's photos without labels
NEW_FOLDER = "Name a new folder"


# ==================================================================================================
# 1. Plan and copy: into a new folder, whole files only
# ==================================================================================================


def parse_split(text):
    """Photos per class, "1000,500,500", or shares, "0.8,0.1,0.1", as numbers. Raises UsageError."""
    try:
        train, validation, test = split = tuple(map(float if "." in text else int, text.split(",")))
        valid = train > 0 and validation > 0 and test >= 0
        valid = valid and (isinstance(train, int) or sum(split) < 1 + 1e-9)
    except ValueError:  # no numbers, or not three
        valid = False
    if not valid:
        fix = "Say --split 1000,500,500 (photos per class) or 0.8,0.1,0.1 (shares of all)"
        raise UsageError(f"--split {text} makes no sense", fix)
    return split


def split_ends(split, count):
    """How many photos of `count` lie before the ends of train, of validation and of test."""
    factor = count if isinstance(split[0], float) else 1
    return [math.floor(sum(split[:stop]) * factor + 1e-9) for stop in (1, 2, 3)]


def check_enough(name, photos, split, ends, usable, skipped):
    """Raise CatDogError unless so many photos fill a split, of shares all parts but the last."""
    needed = ends[0] + 1 if isinstance(split[0], float) else ends[-1]
    if 0 < ends[0] < ends[1] and usable >= needed:
        return
    problem = f"--split needs more photos of {name} than {len(photos)}, such as {photos[0]}"
    if skipped:
        path, why = next(iter(skipped.items()))
        problem += f"; {len(skipped)} were skipped, for one {os.path.basename(path)}: {why}"
    raise CatDogError(problem, "Add some, move that class away, or name another --split")


def plan_class(name, photos, digests, split, owners):
    """What becomes of the photos of a class: ({path in NEW: path}, {path skipped: why}).

    They fill train, then validation, then test. `digests` yields (path, digest or PhotoError);
    `owners`, {digest: path in NEW}, gets those of this class. Raises CatDogError.
    """
    folders = [os.path.dirname(os.path.abspath(path)) for path in photos]
    around = os.path.commonpath(folders) if name == NEITHER else None
    plan, skipped = {}, {}
    if isinstance(split[0], float):  # shares are those of what can be read
        digests = list(digests)
        skipped = {path: str(found) for path, found in digests if isinstance(found, PhotoError)}
    ends = split_ends(split, len(photos) - len(skipped))
    for path, found in digests:
        if len(plan) == ends[-1]:
            break
        part = SPLITS[sum(len(plan) >= end for end in ends)]
        own = os.path.relpath(path, around).replace(os.sep, "-") if around is not None else path
        target = Path(part, name, os.path.basename(own))
        if isinstance(found, PhotoError):
            skipped[path] = str(found)
        elif owners.setdefault(found, target).parent != target.parent:
            skipped[path] = f"the same photo as {owners[found]}"
        elif target in plan:
            raise CatDogError(f"{plan[target]} and {path} would both become {target}", "Rename one")
        else:
            plan[target] = path
    check_enough(name, photos, split, ends, len(plan), skipped)
    return plan, skipped


def plan_dataset(classes, opening, split, console):
    """What becomes of {class: [paths]}, see `plan_class`. Raises CatDogError."""

    def pixels_digest(path, size):
        with program.open_image(path, opening) as (image, file):
            return program.digest(program.decode(image, file, size, exact=True))

    splits = dict.fromkeys(classes, split)
    if NEITHER in classes:  # of which there may be another number
        splits[NEITHER] = tuple(part / max(1, sum(split)) for part in split)
    for name, photos in classes.items():  # all of them before the first photo is read
        ends = split_ends(splits[name], len(photos))
        check_enough(name, photos, splits[name], ends, len(photos), {})
    plan, skipped, owners = {}, {}, {}
    for name, photos in classes.items():
        split = splits[name]
        digests = program.read_photos(photos, SIDE, pixels_digest)
        total = split_ends(split, len(photos))[-1]
        digests = console.watch(f"reading {program.escape_control(name)}", digests, total)
        placed, left_out = plan_class(name, photos, digests, split, owners)
        plan, skipped = plan | placed, skipped | left_out
    console.clear()
    return plan, skipped


def check_new(dataset):
    """Raise CatDogError unless a folder is new, or may be what a broken run has left."""
    names = os.listdir(dataset) if os.path.lexists(dataset) else []
    if any(name not in SPLITS and not program.is_system_file(name) for name in names):
        raise CatDogError(f"{dataset} already holds other files", NEW_FOLDER)


def check_source(source, classes, dataset):
    """Raise CatDogError unless {class: [paths]} can become a dataset, and not in their folder."""
    for name in NO_CLASSES & set(classes):
        raise CatDogError(f"{source} holds {name}, which is no class", "Name SOURCE/train instead")
    labels.check_classes(source, classes, "It takes cat.0.jpg, dog.0.jpg, ... or Cat/ and Dog/")
    for folder in (Path(dataset, part, name) for part in SPLITS for name in classes):  # or links
        if Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(source)):
            raise CatDogError(f"{folder} lies in {source}, which is never changed", NEW_FOLDER)


def list_neither(folder, dataset):
    """The paths of the photos under a folder of --neither. Raises CatDogError."""
    if not os.path.isdir(folder):
        raise CatDogError(f"there is no folder {folder}", f"Name one, or {download.OTHERS}")
    if Path(os.path.realpath(dataset)).is_relative_to(os.path.realpath(folder)):
        raise CatDogError(f"{dataset} lies in {folder}, which is never changed", NEW_FOLDER)
    if photos := list(program.list_photos(folder)):
        return photos
    raise CatDogError(f"{folder} holds no photos", "Name another --neither")


def add_neither(folder, classes, opening, dataset, console):
    """Add the photos of --neither to {class: [paths]}; a function that opens any photo of these.

    Raises CatDogError.
    """
    if NEITHER in classes:
        raise CatDogError("there is a class neither already", "Leave out --neither")
    if folder == download.OTHERS and not os.path.exists(folder):
        archive = download.fetch(download.OTHERS_URL, dataset, console)
        others, first = download.read_others_archive(archive, download.OTHERS_URL)
    else:
        others, first = list_neither(folder, dataset), program.open_regular
    classes[NEITHER], known = others, set(others)
    return lambda path, limit: (first if path in known else opening)(path, limit)


def files_to_copy(plan, opening, dataset):
    """What of a plan is not in the dataset yet. Raises CatDogError if anything else is."""
    walk = os.walk(dataset, followlinks=True)
    found = {Path(folder, name).relative_to(dataset) for folder, _, names in walk for name in names}
    for path in sorted(found - set(plan)):
        if not program.is_system_file(path.name):
            raise CatDogError(f"{dataset} already holds other files: {path}", NEW_FOLDER)
    for target in found & set(plan):
        path = Path(dataset, target)
        with opening(plan[target], program.MAX_BYTES) as photo, program.open_regular(path) as copy:
            if photo.read() != copy.read():
                raise CatDogError(f"{dataset} already holds another {target}", NEW_FOLDER)
    return {target: photo for target, photo in plan.items() if target not in found}


def copy_whole(opening, photo, path):
    """Copy a photo; its file appears under its name when it is whole. Raises CatDogError."""
    part = path.with_name(".part")  # a short name fits wherever that of the photo does
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # a killed run has left it; or it is a link
        with opening(photo, program.MAX_BYTES) as file:
            part.write_bytes(file.read())
        os.replace(part, path)
    except OSError as error:
        raise CatDogError(f"cannot copy to {path}: {program.reason(error)}", AGAIN) from None
    finally:
        part.unlink(missing_ok=True)


def fill_dataset(source, rows, opening, dataset, arguments, console):
    """Copy photos, [(path, class or None)], from a folder or a URL into a dataset.

    `opening(path, limit)` opens one. Returns the count of photos in each split, of those that were
    not there yet ("copied"), and {path: why} of the "skipped". Raises CatDogError.
    """
    classes = labels.by_class(rows)
    check_source(source, classes, dataset)
    if arguments.neither is not None:
        opening = add_neither(arguments.neither, classes, opening, dataset, console)
    plan, skipped = plan_dataset(classes, opening, arguments.split, console)
    missing = files_to_copy(plan, opening, dataset)
    needed = sum(map(download.size_of, missing.values()))  # of archives `fetch` sees to that
    download.check_room({dataset: needed})
    for target, photo in console.watch("copying", missing.items(), len(missing)):
        copy_whole(opening, photo, Path(dataset, target))
    counts = {part: sum(target.parts[0] == part for target in plan) for part in SPLITS}
    skipped |= {path: "in no class" for path, name in rows if not name}
    if os.path.isdir(source):
        skipped = {os.path.relpath(path, source): why for path, why in skipped.items()}
    return {**counts, "copied": len(missing), "skipped": skipped}


# ==================================================================================================
# 2. Command line
# ==================================================================================================


def build_parser():
    """The command line; its description is the docstring of this file."""
    usage = "python dataset/prepare.py [SOURCE | --download] NEW [options]"
    parser = program.Parser(usage=usage, description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("folders", nargs="*", metavar="SOURCE NEW", help="your photos, and the folder to make")
    add("--download", action="store_true", help="make NEW of photos from the network")
    split = "photos of each class, or shares, to train, validate and test (default: %(default)s)"
    add("--split", type=parse_split, default="0.8,0.1,0.1", metavar="T,V,T", help=split)
    about = "photos of anything else, as a class of their own; caltech-101 downloads some"
    add("--neither", metavar="FOLDER", help=about)
    add("--url", help="take the download from there, https://... or file:///...")
    add("--sha256", metavar="HEX", help="what the download must be, or else nothing is unpacked")
    add("--json", action="store_true", help="print the result as JSON")
    add("-q", "--quiet", action="store_true", help="print results, skipped photos and errors only")
    return parser


def make_dataset(source, dataset, arguments, console):
    """Make a dataset of a folder, of the digits, or, of None, of a download: see `fill_dataset`."""
    check_new(dataset)  # before anything is read or downloaded
    url, sha256 = arguments.url, arguments.sha256
    is_digits = source == download.DIGITS and not os.path.exists(download.DIGITS)
    if source is not None and not is_digits:
        if (url, sha256) != (None, None):
            raise UsageError("--url and --sha256 go with --download")
        if not os.path.isdir(source):
            raise CatDogError(f"there is no folder {source}", "SOURCE is the one with your photos")
        rows = labels.list_labelled(source)
        return fill_dataset(source, rows, program.open_regular, dataset, arguments, console)
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise UsageError("--sha256 must be 64 digits of 0-9 and a-f")
    if url is None:
        url = download.DIGITS_URL if is_digits else download.PHOTOS_URL
    archive = download.fetch(url, dataset, console)
    download.verify(archive, url, sha256, console)
    read = download.read_digits_archive if is_digits else download.read_photos_archive
    return fill_dataset(url, *read(archive, url), dataset, arguments, console)


def main(argv=None):
    """Make a dataset and print the result; the exit code."""
    arguments = build_parser().parse_intermixed_args(argv)
    console = program.Console(arguments.quiet)
    if len(arguments.folders) != 2 - arguments.download or "" in arguments.folders:
        fix = f"{NEW_FOLDER}: python dataset/prepare.py SOURCE NEW, or --download NEW"
        raise UsageError("it is not clear where the photos are and where they shall go", fix)
    *source, dataset = arguments.folders
    result = make_dataset(source[0] if source else None, dataset, arguments, console)
    if arguments.json:
        print(json.dumps({"dataset": dataset, **result}))
        return 0
    for path, why in result["skipped"].items():
        console.warn(f"skipped {path}: {why}")
    counts = ", ".join(f"{result[part]} {part}" for part in SPLITS)
    skipped = f"; {len(result['skipped'])} skipped" if result["skipped"] else ""
    present = "" if result["copied"] else "; all were there already"
    print(f"{program.escape_control(dataset)}: {counts} photos{skipped}{present}")
    console.say(f"Train on them with: python CatDogClassifier.py --dataset {shlex.quote(dataset)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(program.run_guarded(main))
