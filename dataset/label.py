"""Label a huge folder: the answers of -d --json in parts, each written whole or not at all.

    python dataset/label.py FOLDER ANSWERS                  here, part after part
    python dataset/label.py FOLDER ANSWERS --ray auto       the same parts on a Ray cluster
    python dataset/label.py s3://bucket/prefix ANSWERS      photos in an object store
    python dataset/label.py LIST.txt ANSWERS                a file with a path or address in a line

ANSWERS gets 000000.jsonl, ... with a row for each photo, the list that each part is of, and of what
they are: with another net or folder they are refused. After any end the same command does only what
is missing. A part that fails is named, and the others go on.
"""

import argparse
import collections
import contextlib
import functools
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import CatDogClassifier as program  # noqa: E402 (it lies one folder up)
from CatDogClassifier import CatDogError, UsageError  # noqa: E402

ATTEMPTS = 3  # at a part; whoever dies more often than that has met a photo that kills it
LITERT = bool(find_spec("ai_edge_litert"))  # or it is Keras, whose last digits differ
fsspec = program.Lazy("fsspec", "pip install fsspec, and s3fs or gcsfs")  # extras
ray = program.Lazy("ray", "pip install ray")
BAD = FileNotFoundError, PermissionError, TypeError, ValueError  # of an object, not of its store
is_remote = re.compile(r"\w+://").match  # an address in an object store: s3://bucket/cat.jpg


# ==================================================================================================
# 1. Photos: in folders, in a list, in an object store


def ask_store(path, question, own=()):
    """What an object store answers; `own` errors are the object's, others a CatDogError."""
    try:
        return question(fsspec.filesystem(path.partition("://")[0]))
    except (CatDogError, *own):
        raise
    except Exception as error:  # noqa: BLE001 (each store has kinds of its own)
        raise CatDogError(f"cannot ask for {path}: {program.reason(error)}", "Try again") from None


def photo_paths(source):
    """Yield the paths of a folder, of a list in a file, or of all objects under an address."""
    if is_remote(source):
        for path in ask_store(source, lambda s: map(s.unstrip_protocol, s.find(source))):
            names = path.removeprefix(source).split("/")
            if path[-1] != "/" and not any(map(program.is_system_file, names)):  # or it is a folder
                yield path
    elif os.path.isdir(source):
        yield from program.list_photos(source)
    else:
        with program.open_regular(source) as file:
            for line in file:
                if b"\0" in line:
                    raise UsageError(f"{source} is no list of paths", "Name a folder or a list")
                path = os.fsdecode(line.rstrip(b"\r\n").removeprefix(b"\xef\xbb\xbf"))  # a BOM
                if path:
                    yield path if is_remote(path) else os.path.abspath(path)


def is_lost(path):
    """Whether a photo has gone with its folder, or with its store."""
    if is_remote(path):
        return not ask_store(path, lambda store: store.exists(path))
    folder = os.path.dirname(path)
    return not os.path.lexists(path) and not (os.path.isdir(folder) and any(os.scandir(folder)))


def open_remote(path, limit):
    """An object as a file in memory. Raises OSError above `limit` bytes, see also `ask_store`."""
    size = ask_store(path, lambda store: store.size(path), BAD)
    if size > limit:
        raise OSError(f"more than {limit / 1e6:.0f} MB")
    whole = lambda store: store.cat_file(path, start=0, end=size)  # noqa: E731 (or it asks again)
    return io.BytesIO(ask_store(path, whole, BAD) if size else b"")


def read_anywhere(path, size):
    """`read_photo` for paths and addresses, with the same limits. Raises PhotoError."""
    if not is_remote(path):
        return program.read_photo(path, size)
    with program.open_image(path, open_remote) as (image, file):
        return program.decode(image, file, size)


# ==================================================================================================
# 2. Parts: first the lists of all, then their answers, here or on a cluster


def part_name(folder, number, ending=".jsonl"):
    """A file of a part: ANSWERS/000042.jsonl."""
    return Path(folder, f"{number:06}{ending}")


def write(path, content):
    """Write bytes, whole or not at all."""
    try:
        with program.replacing(path) as file:
            file.write(content)
    except OSError as error:
        error.filename = path  # of a full disk it names none
        raise


def list_parts(folder, source, size, about, console):
    """Write the lists of all parts; how many photos they hold."""
    paths, total, is_folder = photo_paths(source), 0, os.path.isdir(source)
    while part := list(itertools.islice(paths, size)):
        if is_folder and not all(map(os.path.lexists, part)):  # one that cannot be listed is there
            raise CatDogError(f"{source} went away while it was listed", "Try again")
        write(Path(folder, "label.json"), json.dumps(about).encode())  # not before there is a photo
        listed = b"\0".join(map(os.fsencode, part))  # names may hold anything else
        write(part_name(folder, total // size, ".list"), listed)
        total += len(part)
        console.bar(f"listing {total}", 0, 1, time.monotonic())
    console.clear()
    if not total:
        raise CatDogError(f"{source} holds no photos", "Name another")
    write(Path(folder, "label.json"), json.dumps({**about, "listed": total}).encode())
    return total


def begin(folder, about):
    """Make ANSWERS, or see that what it holds is of the same net, photos and settings."""
    place, found = Path(folder, "label.json"), {**about}
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if place.exists():
            found = dict(json.loads(place.read_bytes()))
        elif not all(map(program.is_system_file, os.listdir(folder))):
            raise CatDogError(f"{folder} holds something else", "Name a new ANSWERS")
        found["listed"] = max(0, int(found.get("listed", 0)))
    except (OSError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise CatDogError(f"cannot use {folder}: {program.reason(error)}", "Name another") from None
    if others := [name for name in about if found.get(name) != about[name]]:
        known = ", ".join(f"{name}: {found.get(name)}" for name in others)
        raise CatDogError(f"{folder} holds the answers for another {known}", "Name another ANSWERS")
    return found


classifier_of = functools.cache(program.CatDogClassifier)  # a process loads it once


def label_part(part, given):
    """The answers for a list, of so many, in bytes; CatDogError where its photos went away."""
    if len(paths := [*map(os.fsdecode, part[0].split(b"\0"))]) != part[1]:
        raise CatDogError("it is damaged", "Name another ANSWERS")
    rows = [*map(asdict, classifier_of(**given).predict_each(paths, read=read_anywhere))]
    good, bad = ([row["path"] for row in rows if bool(row["error"]) is b] for b in (False, True))
    asked = good[:1] or bad[:9]  # what could be read has to be there still
    if bad and all(map(is_lost, asked)):
        raise CatDogError(f"{asked[0]} is not there on {socket.gethostname()}, nor any beside it")
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def follow_parent():
    """What a process of its own does first: leave Ctrl-C to its parent, and see to end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore", module="PIL")  # as the program itself does
    watch = lambda: (multiprocessing.parent_process().join(), os._exit(1))  # noqa: E731
    threading.Thread(target=watch, daemon=True).start()


def label_here(parts, given):
    """Yield (number, its Future) of parts, answered in a process of its own."""
    settings = 1, multiprocessing.get_context("spawn"), follow_parent
    pool = ProcessPoolExecutor(*settings)
    try:
        for number, part in parts:
            for _ in range(ATTEMPTS):
                with contextlib.suppress(BrokenExecutor):  # it has died since the last part
                    future = pool.submit(label_part, part, given)
                    if not isinstance(future.exception(), BrokenExecutor):
                        break
                pool.shutdown()
                pool = ProcessPoolExecutor(*settings)
            yield number, future
    finally:
        for process in multiprocessing.active_children():
            process.kill()  # or else it would finish its part first
        pool.shutdown()


def pack_program(given, folder):
    """Copy what a node needs: the program, the weights in both forms; the settings there."""
    home, cached = Path(folder, "catdogclassifier"), program.cache_folder().glob("*.tflite")
    home.mkdir()
    classifier_of(**given).ready()  # and so it has been converted
    files = __file__, program.__file__, program.SHIPPED_LITERT, *cached
    for path in filter(os.path.exists, files):
        shutil.copy(path, home)
    shutil.copy(given["weights"], home / "weights.h5")
    return {**given, "weights": f"{home.name}/weights.h5"}


def label_on_node(part, given, litert):
    """The task of a node, where that was copied: `label_part` on one processor, its share."""
    os.cpu_count = lambda: 1  # whatever the machine has
    os.environ["XDG_CACHE_HOME"] = os.getcwd()
    sys.path.insert(0, "catdogclassifier")
    label = __import__("label")  # what is copied, not this file
    if litert != label.LITERT:
        raise RuntimeError("ai-edge-litert has to be installed on all nodes, or on none")
    return label.label_part(part, given)


def label_on_ray(parts, given, address):
    """Yield (number, its Future) of parts, as they are ready, from a Ray cluster."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    before = signal.getsignal(signal.SIGTERM)
    with tempfile.TemporaryDirectory() as folder:
        given, files = pack_program(given, folder), {"working_dir": folder}
        try:
            if host:  # Ray itself would wait for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address, log_to_driver=False, logging_level="ERROR", runtime_env=files)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            problem = f"cannot use a Ray cluster at {address}: {program.reason(error)}"
            raise CatDogError(problem, "Start one: ray start --head") from None
    signal.signal(signal.SIGTERM, before)  # Ray has taken it
    task, waiting = ray.remote(label_on_node).options(num_cpus=1, max_retries=ATTEMPTS - 1), {}
    for number, part in itertools.chain(parts, [(None, None)]):
        if number is not None:
            waiting[task.remote(part, given, LITERT)] = number
        ahead = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))  # nodes come and go
        while len(waiting) >= (1 if number is None else ahead):
            (ready, *_), _ = ray.wait(list(waiting))
            yield waiting.pop(ready), ready.future()
    ray.shutdown()  # and nothing is said of dead workers from here on


def reason_of(error):
    """Why a part has no answers, in a line."""
    deaths = "BrokenExecutor WorkerCrashedError NodeDiedError OutOfMemoryError ObjectLostError"
    if any(kind.__name__ in deaths.split() for kind in type(error).__mro__):
        return f"one of these photos ended the process {ATTEMPTS} times"
    cause = getattr(error, "cause", None)  # what a task on a cluster raised
    return f"a node says: {program.reason(cause)}" if cause else program.reason(error)


# ==================================================================================================
# 3. Command line


def build_parser():
    """The command line."""
    layout = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = program.Parser(description=__doc__, **layout)
    add = parser.add_argument
    add("source", metavar="FOLDER", help="where the photos are")
    add("answers", metavar="ANSWERS", help="a new folder, or one to go on with")
    add("--weights", metavar="FILE", help="of the net that answers (default: as without this tool)")
    add("--unsure", metavar="X", type=float, help="abstain where more answers would be wrong")
    add("--part", metavar="N", type=int, default=10_000, help="photos in a part (default: 10000)")
    add("--ray", metavar="ADDRESS", help="of a Ray cluster; auto: the one here (needs ray)")
    add("-q", "--quiet", action="store_true", help="print results and errors only")
    return parser


def tell_all(folder, sizes, console):
    """Print the summary over all parts, {number: photos}; the exit code."""
    answers = collections.Counter()
    for number, size in sizes.items():
        found, path = collections.Counter(), part_name(folder, number)
        with contextlib.suppress(Exception), open(path) as lines:  # whatever is in there
            found = collections.Counter([json.loads(line)["verdict"] for line in lines])
        if found.total() == size:
            answers += found
        elif path.exists():  # or else it has been named
            console.warn(f"{path} is damaged. Remove it and start again")
    named = sorted(answers.items(), key=lambda pair: str(pair[0] or ""))
    parts = (f"{count} {program.escape_control(k or 'unreadable')}" for k, count in named)
    print(f"{answers.total()} files: {', '.join(parts) or 'none answered'}")
    return int(answers[None] > 0 or answers.total() < sum(sizes.values()))


def refuse(chosen):
    """Raise CatDogError or UsageError for what cannot be asked for."""
    source, folder = chosen.source, chosen.answers
    if not is_remote(source) and not os.path.exists(source):
        raise CatDogError(f"there is no {source}", "Name a folder, a list or an address")
    inside = Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(source))
    wrong = {"--part must be 1 to 1000000": not 1 <= chosen.part <= 10**6}
    wrong |= {"--ray needs an address, or auto": chosen.ray == ""}
    wrong |= {f"ANSWERS must be a folder here, not {folder}": is_remote(folder)}
    wrong |= {f"ANSWERS must not lie in {source}": inside}
    for problem in filter(wrong.get, wrong):
        raise UsageError(problem)
    ray.need() if chosen.ray else None


def main(argv=None):
    """Label the photos and print the summary; the exit code."""
    chosen = build_parser().parse_args(argv)
    refuse(chosen)
    flags = {"weights": chosen.weights, "unsure": chosen.unsure, "quiet": chosen.quiet}
    classifier = program.CatDogClassifier(**{k: v for k, v in flags.items() if v is not None})
    program.tell(classifier) if classifier.ready() else None
    folder, size, console = chosen.answers, chosen.part, classifier.console
    net, copy = Path(classifier.source).read_bytes(), os.path.abspath(Path(folder, ".weights.h5"))
    source = chosen.source if is_remote(chosen.source) else os.path.abspath(chosen.source)
    about = {"program": program.PROGRAM, "net": program.digest(net)[:16], "litert": LITERT}
    about |= {"folder": source, "part": size, "unsure": chosen.unsure}
    with open(source if os.path.isfile(source) else os.devnull, "rb") as file:
        about["list"] = hashlib.file_digest(file, "sha256").hexdigest()
    about = begin(folder, about)
    given = {"weights": copy, "unsure": chosen.unsure, "quiet": True}
    total = about["listed"] or list_parts(folder, source, size, about, console)
    write(copy, net)  # whatever becomes of that file: all parts are answered by the same net
    sizes = {first // size: min(size, total - first) for first in range(0, total, size)}
    missing = [number for number in sizes if not part_name(folder, number).exists()]
    lists = ((number, part_name(folder, number, ".list")) for number in missing)
    parts = ((n, (path.read_bytes() if path.exists() else b"", sizes[n])) for n, path in lists)
    before, started = len(sizes) - len(missing), time.monotonic()
    console.bar(f"part {before} of {len(sizes)}", before, len(sizes), started, start=before)
    results = label_on_ray(parts, given, chosen.ray) if chosen.ray else label_here(parts, given)
    with contextlib.redirect_stdout(sys.stderr):  # Ray tells there of nodes that die
        for done, (number, future) in enumerate(results, start=before + 1):
            if error := future.exception():
                console.warn(f"{part_name(folder, number, '.list')}: {reason_of(error)}")
            else:
                write(part_name(folder, number), future.result())
            console.bar(f"part {done} of {len(sizes)}", done, len(sizes), started, start=before)
    console.clear()
    return tell_all(folder, sizes, console)


if __name__ == "__main__":
    raise SystemExit(program.run_guarded(main))
