"""The doctor of datasets: reports broken, double, leaking and doubtful photos, changes nothing.

With 50 faults of each kind planted into 2,000 photographs it finds all exact copies, all copies at
half the size in JPEG quality 40, all broken files, and blames no other photo
(`python tests/measure/check.py PHOTOS` plants them and counts).

    python dataset/check.py DIR                   a dataset, or any folder of photos
    python dataset/check.py DIR --weights FILE    labels that a trained net contradicts, too

"leak" is data leakage: a photo that a net learns from is in the test as well, where it is asked
what it knows by heart, so that its score comes out too good. DIR_check.png shows the suspects.
Exit code 1: a score on this dataset would not mean what it says.
"""

import argparse
import collections
import itertools
import json
import math
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import CatDogClassifier as program  # noqa: E402 (it lies one folder up)
from CatDogClassifier import Image, np  # noqa: E402
from dataset.labels import list_labelled  # noqa: E402

SIDE = 150  # photos are compared at so many pixels a side, decoded exactly
THUMB = 32  # pixels a side of the grey miniatures that near duplicates are found by
PARTS, PART = 8, 4  # a miniature is cut into 8 x 8 parts of 4 x 4 pixels
ALIKE, EVERYWHERE = 0.975, 0.6  # least correlation of duplicates: on the whole, in each part
GRAIN = 8.0  # grey levels by which recompression may change pixels
UNIFORM, TINY = 2.0, 64  # deviation of a miniature's greys, pixels a side: below them it is odd
BATCH = 64  # photos that a net is asked about at a time
RELIABLE = 0.8  # a net that agrees with a smaller share of the labels is no judge of them
LISTED, PICTURED = 20, 16  # issues of each kind in the text, in the picture


# ==================================================================================================
# 1. Photos and issues: what is there, what can be wrong with it
# ==================================================================================================

KINDS = {  # of issues, the grave ones first
    "layout": "not what a training needs",
    "lost": "too many cannot be read for a training to start: mend or remove them",
    "leak": "one photo in several of train, validation, test: scores come out too good, keep one",
    "contradiction": "one photo in several classes: keep the one whose label is right",
    "unreadable": "cannot be read: a training leaves them out",
    "label": "the net contradicts the label, the first ones most: look at them",
    "copies": "one photo more than once",
    "imbalance": "many more photos of one class: a training weighs them, more photos were better",
    "uniform": "of one colour: nothing to see",
    "tiny": f"fewer than {TINY} pixels wide or high",
    "misnamed": "of another format than the name says: read all the same",
    "mode": "not in plain RGB: read all the same",
    "stray": "in no class: no training sees them",
}
GRAVE = ("layout", "lost", "leak", "contradiction")  # scores would not mean what they say

# Something about one photo, a group of photos, or a folder: a kind of KINDS, paths, a word more.
Issue = collections.namedtuple("Issue", "kind paths detail", defaults=[""])

# A photo: where it belongs (label None: in no class); why it cannot be read, or else format, mode
# and size (width, height) of the file, the SHA-256 of its pixels at 150 x 150, and a grey miniature
# of them, uint8 (32, 32).
FIELDS = "path split label error format mode size digest thumb"
PhotoRecord = collections.namedtuple("PhotoRecord", FIELDS, defaults=["", "", "", (), "", None])


def inspect_photo(row, side):
    """The PhotoRecord of a (path, split, class), with an error where it cannot be read."""
    try:
        with program.open_image(row[0]) as (image, file):
            kind, mode, size = image.format, image.mode, image.size
            photo = program.decode(image, file, side, exact=True)  # (side, side, 3) uint8
    except program.PhotoError as error:
        return PhotoRecord(*row, str(error))
    kind = "JPEG" if kind == "MPO" else kind  # some cameras put a second JPEG behind the first
    grey = Image.fromarray(photo).convert("L").resize((THUMB, THUMB), Image.Resampling.BOX)
    return PhotoRecord(*row, "", kind, mode, size, program.digest(photo), np.asarray(grey))


def index_dataset(folder):
    """[(path, split, class)] of all files of a dataset; in a folder that is none the splits are "".

    The class is None for a file in no class, and for all where a folder without splits does not
    hold two classes. Raises CatDogError where there is no folder.
    """
    if not os.path.isdir(folder):
        raise program.CatDogError(f"there is no folder {folder}", "Name a dataset, or any folder")
    found = program.subfolders([folder], program.SPLIT_ALIASES)
    splits = [split for split in program.SPLITS if split in found]
    if "train" not in splits and len(splits) < 2:
        rows = list_labelled(folder)
        two = len({label for _, label in rows if label}) == 2  # more are the folders of a holiday
        return [(path, "", label if two else None) for path, label in rows]
    rows = []
    for split in splits:
        roots = found.pop(split)
        classes = program.subfolders(roots, program.CLASS_ALIASES)  # as a training finds them
        for name, places in classes.items():
            rows += [(path, split, name) for place in places for path in program.list_photos(place)]
        beside = (path for root in roots for path in sorted(root.iterdir()) if not path.is_dir())
        rows += [(str(p), split, None) for p in beside if not program.is_system_file(p.name)]
    others = itertools.chain(*found.values())
    return rows + [(path, "", None) for place in others for path in program.list_photos(place)]


# ==================================================================================================
# 2. Duplicates: the same pixels, or the same picture resized, recompressed, mirrored
# ==================================================================================================


def dct_sign_bits(grey):
    """The signs of 63 low cosine frequencies of float32 (N, 16, 16): int64 (N, 63), 0 or 1."""
    waves = np.cos(np.pi / 16 * np.outer(np.arange(8), np.arange(16) + 0.5))  # (8, 16)
    waves = waves.astype(np.float32)
    signs = (waves @ grey @ waves.T).reshape(-1, 64)[:, 1:] > 0  # not the mean, the brightness
    return signs.astype(np.int64)


def same_image(some, others):
    """Which pairs, uint8 (P, 32, 32) each, correlate in all parts, not just a frame: bool (P,)."""

    def parts(thumbs):
        """Each part around its own mean: float32 (P, 64, 16)."""
        cut = thumbs.reshape(-1, PARTS, PART, PARTS, PART).swapaxes(2, 3)
        cut = cut.reshape(-1, PARTS**2, PART**2)
        return cut - cut.mean(axis=2, keepdims=True, dtype=np.float32)

    grain = GRAIN**2 * PART**2  # so that even parts correlate too
    one, other = parts(some), parts(others)
    power = ((one * one).sum(axis=2) + grain) * ((other * other).sum(axis=2) + grain)  # (P, 64)
    correlations = ((one * other).sum(axis=2) + grain) / np.sqrt(power)  # (P, 64)
    return correlations.min(axis=1, initial=1.0) >= EVERYWHERE


def near_duplicate_pairs(thumbs, rounds=12, reach=4):
    """The pairs (i, j), i < j, of miniatures, uint8 (N, 32, 32), of one picture, mirrored or not.

    Not all are compared with all. The signs of the 63 lowest frequencies hardly differ within such
    a pair, so that it stands close together in a list sorted by them; in 12 lists, which differ in
    the order of these bits, each is compared with the next four (sorting by random orders of the
    bits: M. S. Charikar, STOC 2002). So the time grows as N log N.
    """
    count, thumbs, half = len(thumbs), np.concatenate([thumbs, thumbs[:, :, ::-1]]), THUMB // 2
    grey = thumbs.reshape(-1, half, 2, half, 2).mean(axis=(2, 4), dtype=np.float32)  # (2 N, 16, 16)
    signs, grey = dct_sign_bits(grey), grey.reshape(2 * count, -1)  # (2 N, 63), (2 N, 256)
    grey -= grey.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(grey, axis=1, keepdims=True)  # (2 N, 1)
    grey *= (norms > UNIFORM * half) / np.maximum(norms, 1)  # what shows nothing is like nothing
    rng, pairs = np.random.default_rng(0), set()
    for _ in range(rounds):
        order = np.argsort(signs @ (1 << rng.permutation(63)))
        for step in range(1, reach + 1):
            one, other = order[:-step], order[step:]
            close = np.einsum("ij,ij->i", grey[one], grey[other]) >= ALIKE  # quick, rules out most
            one, other = one[close], other[close]
            close = same_image(thumbs[one], thumbs[other])
            found = np.sort(np.stack([one[close], other[close]], axis=1) % count)  # (P, 2)
            pairs.update(map(tuple, found.tolist()))
    return {(one, other) for one, other in pairs if one != other}


def connected_components(count, pairs):
    """The groups of two and more of the numbers below `count` that pairs connect: sorted lists."""
    groups = [[place] for place in range(count)]  # those that are connected share one list
    for pair in pairs:
        smaller, larger = sorted((groups[place] for place in pair), key=len)
        if smaller is not larger:
            larger += smaller
            for place in smaller:
                groups[place] = larger
    distinct = {id(group): group for group in groups}.values()
    return [sorted(group) for group in distinct if len(group) > 1]


def find_duplicates(digests, thumbs):
    """Groups of photos that show the same, as sorted lists of places; see `PhotoRecord`."""
    first = {}
    pairs = [(first.setdefault(digest, place), place) for place, digest in enumerate(digests)]
    unique = list(first.values())
    near = near_duplicate_pairs(np.array([thumbs[place] for place in unique]))
    pairs += [(unique[one], unique[other]) for one, other in near]
    return connected_components(len(digests), pairs)


# ==================================================================================================
# 3. Diagnosis: from PhotoRecords to issues
# ==================================================================================================


def photo_issues(record):
    """Yield what is odd about one photo as Issues."""
    if record.error:
        yield Issue("unreadable", (record.path,), record.error)
        return
    ending, (width, height) = os.path.splitext(record.path)[1].lower(), record.size
    named = Image.registered_extensions().get(ending)
    found = {
        "misnamed": record.format if named != record.format else "",
        "mode": record.mode if record.mode != "RGB" else "",
        "tiny": f"{width} x {height}" if min(width, height) < TINY else "",
        "uniform": "nearly one colour" if record.thumb.std() <= UNIFORM else "",
    }
    yield from (Issue(kind, (record.path,), detail) for kind, detail in found.items() if detail)


def duplicate_issues(records):
    """Yield the groups of photos that are there more than once as Issues; all can be read."""
    for group in find_duplicates([r.digest for r in records], [r.thumb for r in records]):
        members = [records[place] for place in group]
        spread = {"leak": {r.split for r in members}, "contradiction": {r.label for r in members}}
        detail = "alike" if len({r.digest for r in members}) > 1 else "identical"
        for kind in [kind for kind, found in spread.items() if len(found) > 1] or ["copies"]:
            yield Issue(kind, tuple(record.path for record in members), detail)


def split_issues(folder, records):
    """Yield what is wrong with the splits and classes of a dataset as Issues."""
    splits = {}  # {split: {class: [readable, unreadable]}}
    for record in records:
        counts = splits.setdefault(record.split, {}).setdefault(record.label, [0, 0])
        counts[bool(record.error)] += 1
    for split in () if "" in splits else (n for n in program.SPLITS[:2] if n not in splits):
        yield Issue("layout", (os.path.join(folder, split),), "is missing or empty")
    sets = collections.Counter(frozenset(found) for found in splits.values() if len(found) > 1)
    expected = next(iter(sets.most_common(1)), (set(), 0))[0]  # of most splits, or else of train
    for split, classes in splits.items():
        where, (good, lost) = (os.path.join(folder, split),), zip(*classes.values(), strict=True)
        if set(classes) != expected:
            instead = ", ".join(sorted(expected)) or "two classes or more"
            yield Issue("layout", where, f"holds {', '.join(sorted(classes))} instead of {instead}")
        if not all(good):
            yield Issue("layout", where, "no photo of a class can be read")
        elif max(good) > 2 * min(good):
            counts = ", ".join(f"{name} {count}" for name, (count, _) in sorted(classes.items()))
            yield Issue("imbalance", where, counts)
        if sum(lost) > max(1, program.MAX_LOST * sum(good + lost)):
            yield Issue("lost", where, f"{sum(lost)} of {sum(good + lost)}")


def predict_records(records, net, console):
    """What a net says of photos that can be read: [(PhotoRecord, probabilities, float64 (K,))].

    It is asked about each and its mirror image: two answers are right more often than one.
    """
    reads = program.read_photos((record.path for record in records), net.size)
    reads = console.watch("asking the net", zip(records, reads, strict=True), len(records))
    pairs = ((r, photo) for r, (_, photo) in reads if not isinstance(photo, program.PhotoError))
    predicted = []
    while batch := list(itertools.islice(pairs, BATCH)):
        photos = np.stack([photo for _, photo in batch])  # (B, S, S, 3) uint8
        both = net.predictor(photos) + net.predictor(photos[:, :, ::-1])  # (B, K) float64
        predicted += zip((record for record, _ in batch), both / 2, strict=True)
    return predicted


def find_label_errors(predicted, classes):
    """The photos whose label a net contradicts as Issues, worst first; see `predict_records`."""
    doubts = []
    for record, probabilities in predicted:
        own, likeliest = probabilities[classes.index(record.label)], int(np.argmax(probabilities))
        if probabilities[likeliest] > own:
            share = program.percent(float(probabilities[likeliest]))
            detail = f"{record.label}, but {classes[likeliest]} with {share}"
            doubts.append((float(own), Issue("label", (record.path,), detail)))
    return [issue for _, issue in sorted(doubts, key=lambda doubt: doubt[0])]


def summarize(records):
    """What the readable photos are: {"counts": {split: {class: count}}, ...}.

    `pixels` are the (width, height) of the smallest photo, the median and the largest.
    """
    counts, sizes = {}, sorted((record.size for record in records), key=math.prod)
    for record in records:
        split = counts.setdefault(record.split or "all", collections.Counter())
        split[record.label or "photos"] += 1
    return {
        "counts": counts,
        "formats": collections.Counter(record.format for record in records),
        "modes": collections.Counter(record.mode for record in records),
        "pixels": [sizes[place] for place in (0, len(sizes) // 2, -1)],
    }


def check_dataset(folder, console, net=None):
    """Look for what is wrong in a dataset, or any folder of photos: (summary, {kind: [Issue]}).

    Labels are checked when there is a net: `classes`, their names; `size`, the side of its photos
    in pixels; `predictor`, uint8 (N, size, size, 3) -> probabilities, float64 (N, K). Raises
    CatDogError where there is nothing to check, or the net knows other classes.
    """
    files = index_dataset(folder)
    rows = [row for row in files if row[2]] or files
    names = sorted({label for *_, label in rows if label})
    if net and names and not set(names) <= set(net.classes):
        found = f"{folder} holds {', '.join(names)} instead of {', '.join(net.classes)}"
        raise program.CatDogError(found, "Leave out --weights")
    reads = console.watch("checking", program.read_photos(rows, SIDE, inspect_photo), len(rows))
    records = [record for _, record in reads]
    readable = [record for record in records if not record.error]
    if not readable:
        example = "".join(f", such as {bad.path}: {bad.error}" for bad in records[:1])
        raise program.CatDogError(f"{folder} holds no photos that can be read{example}")
    issues, agreement = [issue for record in records for issue in photo_issues(record)], None
    issues += duplicate_issues(readable)
    if net and names:
        predicted = predict_records(readable, net, console)
        issues += (errors := find_label_errors(predicted, net.classes))
        agreement = 1 - len(errors) / max(len(predicted), 1)
    if any(split or label for _, split, label in files):
        issues += split_issues(folder, [record for record in records if record.label])
        issues += (Issue("stray", (path,)) for path, _, label in files if not label)
    summary = {"folder": os.fspath(folder), "files": len(files), "classes": names}
    summary |= summarize(readable) | {"label_agreement": agreement}  # 0..1, None without a net
    groups = {kind: [issue for issue in issues if issue.kind == kind] for kind in KINDS}
    groups = {kind: found for kind, found in groups.items() if found}
    return summary | {"invalidates_scores": any(kind in GRAVE for kind in groups)}, groups


# ==================================================================================================
# 4. The report: picture, text, JSON; the command line
# ==================================================================================================


def draw_issues(issues, folder, columns=4):
    """A matplotlib Figure of issues: of each the first and the last photo, side by side."""
    height = math.ceil(len(issues) / columns)
    figure, _ = program.new_figure((3.8 * columns, 2.5 * height), height, ncols=columns)
    for axes in figure.axes:
        axes.set_axis_off()
    for issue, axes in zip(issues, figure.axes, strict=False):
        paths = dict.fromkeys((issue.paths[0], issue.paths[-1]))
        lines = [f"{issue.kind}: {issue.detail}", *(os.path.relpath(p, folder) for p in paths)]
        title = "\n".join(map(program.escape_control, lines))
        color = "#D55E00" if issue.kind in GRAVE else "black"
        axes.set_title(title, fontsize=7, color=color, parse_math=False)
        photos = [photo for _, photo in program.read_photos(paths, SIDE)]
        if not any(isinstance(photo, program.PhotoError) for photo in photos):  # gone by now
            axes.imshow(np.hstack(photos))  # (SIDE, 2 SIDE, 3) uint8
    return figure


def save_picture(folder, groups, console):
    """Draw the suspects, the first of each kind; the path of the picture, None where there is none.

    It lies in the present folder, or among temporary files where that would be in `folder`.
    """
    kinds = ("leak", "contradiction", "label", "copies")
    issues = [issue for kind in kinds for issue in groups.get(kind, [])[:PICTURED]]
    if not issues:
        return None
    whole = Path(folder).resolve()
    path = f"{whole.name}_check.png"
    if Path(path).resolve().is_relative_to(whole):
        path = os.path.join(tempfile.mkdtemp(prefix="catdog-"), path)
    try:
        program.write_file(path, program.pack_figure(draw_issues(issues, folder)))
    except program.CatDogError as error:
        console.warn(f"There is no picture: {error}")
        return None
    return path


def text_report(summary, groups, picture):
    """Yield the lines of a report for people: what is there, the issues by kind, the verdict."""
    yield f"{summary['folder']}: {summary['files']} file{'s' * (summary['files'] != 1)}"
    for split, classes in summary["counts"].items():
        yield f"{split:<12} " + ", ".join(f"{count} {name}" for name, count in classes.items())
    sizes = zip(("smallest", "median", "largest"), summary["pixels"], strict=True)
    yield "pixels       " + ", ".join(f"{name} {size[0]} x {size[1]}" for name, size in sizes)
    found = (summary[name].most_common() for name in ("formats", "modes"))
    found = (", ".join(f"{kind} {count}" for kind, count in each) for each in found)
    yield f"formats      {'; '.join(found)}"
    if (agreement := summary["label_agreement"]) is not None:
        doubt = ": what it contradicts means little" if agreement < RELIABLE else ""
        yield f"net          agrees with {program.percent(agreement)} of the labels{doubt}"
    for kind, issues in groups.items():
        yield from ("", f"{kind} ({len(issues)}): {KINDS[kind]}")
        for issue in issues[:LISTED]:
            yield "  " + "  ".join(filter(None, (*issue.paths, issue.detail)))
        if len(issues) > LISTED:
            yield f"  ... and {len(issues) - LISTED} more: --json names all"
    verdict = "nothing grave found"
    if not summary["classes"]:
        verdict = "photos without labels: nothing to train on, or to score"
    if grave := ", ".join(kind for kind in groups if kind in GRAVE):
        verdict = f"scores mean nothing until this is mended: {grave}"
    yield from ("", f"verdict      {verdict}")
    if picture:
        yield f"picture      {picture}, of each kind the first {PICTURED}"


def json_report(summary, groups, picture):
    """Yield what --json prints: a dict for each issue, then the summary."""
    for kind, paths, detail in itertools.chain(*groups.values()):
        grave = {"invalidates_scores": kind in GRAVE}
        yield {"issue": kind, "paths": paths, "detail": detail, **grave}
    found = {kind: len(issues) for kind, issues in groups.items()}
    yield {"issue": "summary", **summary, "found": found, "picture": picture}


def build_parser():
    """The parser of the command line."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = program.Parser(description=__doc__, formatter_class=layout)
    parser.add_argument("folder", metavar="DIR", help="a dataset, or any folder of photos")
    parser.add_argument("--weights", metavar="FILE", help="a net that may contradict the labels")
    parser.add_argument("--json", action="store_true", help="one line of JSON per issue, a summary")
    parser.add_argument("-q", "--quiet", action="store_true", help="print results and errors only")
    return parser


def main(argv=None):
    """Check a folder and print the report; exit code 1 when a score would not mean what it says."""
    arguments, net = build_parser().parse_args(argv), None
    console = program.Console(arguments.quiet)
    if arguments.weights is not None:
        net = program.CatDogClassifier(weights=arguments.weights, quiet=arguments.quiet)
        net.ready()
    summary, groups = check_dataset(arguments.folder, console, net)
    if net and summary["label_agreement"] is None:
        console.warn("There are no labels here that a net could contradict.")
    picture = save_picture(arguments.folder, groups, console)
    if arguments.json:
        lines = map(json.dumps, json_report(summary, groups, picture))
    else:
        lines = map(program.escape_control, text_report(summary, groups, picture))
    print(*lines, sep="\n")
    return int(summary["invalidates_scores"])


if __name__ == "__main__":
    raise SystemExit(program.run_guarded(main))
