"""Which class the photos of a folder are of, for the tools beside this file.

A folder within it is a class, or names like cat.0.jpg, dog.17.jpg tell classes apart.
"""

import collections
import os
import re
from pathlib import Path

from CatDogClassifier import CLASS_ALIASES, MAX_CLASSES, CatDogError, list_photos

NUMBERED = re.compile(r"([^\W\d_]+)[._-]\d+\.\w+")  # a name that begins with its class: cat.0.jpg


def infer_labels(files):
    """[(path, class)] of [(path, the outermost folder that it lies in or "", its name)].

    The class is that folder or, where names like cat.0.jpg, dog.17.jpg tell classes apart, what
    they begin with; None for a file that has none.
    """
    flat = {path: NUMBERED.fullmatch(name) for path, folder, name in files if not folder}
    flat = {path: found[1].lower() for path, found in flat.items() if found}
    nested = {path: folder.lower() for path, folder, _ in files if folder}
    names = flat if len(set(flat.values())) > 1 or not nested else nested
    names = {path: CLASS_ALIASES.get(name, name) for path, name in names.items()}
    return [(path, names.get(path)) for path, *_ in files]


def list_labelled(folder):
    """[(path, class)] of all files under a folder, see `infer_labels` and `list_photos`."""
    files = []
    for path in list_photos(folder):
        first, *rest = Path(path).relative_to(folder).parts or ("",)
        files.append((path, first if rest or os.path.isdir(path) else "", os.path.basename(path)))
    return infer_labels(files)


def check_classes(where, classes, fix):
    """Raise CatDogError unless {class: [paths]} has two classes or more, up to MAX_CLASSES."""
    if not 2 <= len(classes) <= MAX_CLASSES:
        counts = ", ".join(f"{name} {len(paths)}" for name, paths in [*classes.items()][:5])
        rarest = min(classes.values(), key=len, default=["none"])[0]
        found = f"{len(classes)} ({counts}; {rarest})"
        problem = f"{where} must hold two classes, or up to {MAX_CLASSES}, but holds {found}"
        raise CatDogError(problem, fix)


def by_class(rows):
    """The [(path, class)] of `list_labelled` as {class: [paths]}, sorted by class."""
    classes = collections.defaultdict(list)
    for path, name in rows:
        classes[name].append(path)
    return {name: classes[name] for name in sorted(filter(None, classes))}
