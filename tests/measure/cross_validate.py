"""K-fold cross-validation: how much an accuracy owes to which photos were learned from.

    python tests/measure/cross_validate.py DATASET [--folds 5] [--repeats 1] [flags of the program]

The photos to train on and to validate are dealt into folds, every class evenly. Each fold scores a
fresh net once that learned from all others for all epochs; nothing is saved. From the second repeat
on the photos are shuffled before. Accuracies are those of one epoch, the one with the lowest mean
validation loss.
"""

import argparse
import statistics
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import CatDogClassifier as program  # noqa: E402


def deal(labels, count, rng=None):
    """The fold of each photo, (N,): every class is dealt out in order or, with a rng, shuffled."""
    folds = np.empty(len(labels), int)
    for kind in np.unique(labels):
        rows = np.flatnonzero(labels[:, 0] == kind)
        if len(rows) < count:
            sys.exit(f"--folds {count} is more than the {len(rows)} photos of a class")
        folds[rows if rng is None else rng.permutation(rows)] = np.arange(len(rows)) % count
    return folds


def fold_history(settings, photos, labels, held):
    """The history of a fresh net that learns from all photos but those `held`, (N,) bool."""
    console, count = program.Console(settings.quiet), len(np.unique(labels))
    model = program.new_model(settings, count)
    trainer = program.Trainer(model, settings, console)
    if trainer.kind.transfer == "last block":
        program.train_head(model, photos[~held], labels[~held], settings, console)
    train = trainer.feed(photos[~held], labels[~held], shuffled=True)
    validation = trainer.feed(photos[held], labels[held])
    trainer.compile(len(train))
    trainer.fit(train, validation, save=lambda better: None)
    if trainer.stop_reason != "all epochs":
        sys.exit(f"A fold ended early: {trainer.stop_reason}")
    return trainer.state.history


def cross_validate(dataset, folds, repeats, **given):
    """The histories of all folds."""
    settings = program.resolve_settings(given)
    lists = [program.list_split(dataset, split) for split in ("train", "validation")]
    pooled = {name: [path for split in lists for path in split[name]] for name in lists[0]}
    size = program.image_size(settings.model, settings.base)
    photos, labels = program.load_photos(pooled, size, program.Console(settings.quiet))
    settings = program.default_epochs(settings, len(labels) * (folds - 1) // folds, False)
    settings = replace(settings, patience=0)
    program.start_tensorflow(settings)
    rng, histories = np.random.default_rng(settings.seed), []
    for repeat in range(repeats):
        dealt = deal(labels, folds, rng if repeat else None)
        for number in range(folds):
            held = dealt == number
            histories.append(fold_history(settings, photos, labels, held))
    return histories


def main(arguments=None):
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("dataset")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1)
    chosen, flags = parser.parse_known_args(arguments)
    flags, known = vars(program.build_parser().parse_args(flags)), fields(program.Settings)
    given = {each.name: flags[each.name] for each in known if each.name in flags}
    histories = cross_validate(chosen.dataset, chosen.folds, chosen.repeats, **given)
    best = int(np.mean([history["val_loss"] for history in histories], axis=0).argmin())
    found = [100 * history["val_acc"][best] for history in histories]
    deviation = statistics.stdev(found) if len(found) > 1 else 0.0
    print(f"accuracies, %: {' '.join(f'{each:.2f}' for each in found)}")
    print(f"mean {statistics.mean(found):.2f} %, deviation {deviation:.2f}, epoch {best + 1}")
    return 0


if __name__ == "__main__":
    raise SystemExit(program.run_guarded(main))
