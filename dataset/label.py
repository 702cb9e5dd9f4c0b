"""Label a huge folder: the answers of -d --json in parts, each written whole or not at all.

    python dataset/label.py FOLDER ANSWERS                  here, part after part
    python dataset/label.py FOLDER ANSWERS --ray auto       the same parts on a Ray cluster
    python dataset/label.py s3://bucket/prefix ANSWERS      photos in an object store
    python dataset/label.py LIST.txt ANSWERS                a file with a path or address in a line

ANSWERS gets 000000.jsonl, ... with a row for each photo, beside them the list that each part is of,
and label.json, which says of which net and photos they are: others are refused. After any end the
same command does only what is missing. A photo that kills the process three times ends its part,
which is named; the others go on.
"""

import argparse
import collections
import contextlib
import errno
import functools
import io
import itertools
import json
import math
import multiprocessing
import os
import signal
import socket
import sys
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import CatDogClassifier as program  # noqa: E402 (it lies one folder up)
from CatDogClassifier import CatDogError, UsageError  # noqa: E402

ATTEMPTS = 3  # at a part; whoever dies more often than that has met a photo that kills it
fsspec = program.Lazy("fsspec", "pip install fsspec, and s3fs or gcsfs")  # extras
ray = program.Lazy("ray", 'pip install "ray[default]"')
pyarrow = program.Lazy("pyarrow", "pip install pyarrow")
parquet = program.Lazy("pyarrow.parquet", pyarrow.fix)


# ==================================================================================================
# 1. Photos: in folders, in a list, in an object store


def is_remote(path):
    """Whether a path is an address in an object store: s3://bucket/cat.jpg."""
    return "://" in path


def ask_store(path, question):
    """What an object store answers. Raises CatDogError where it cannot be asked at all."""
    try:
        return question(*fsspec.url_to_fs(path))
    except (FileNotFoundError, CatDogError):
        raise
    except Exception as error:  # noqa: BLE001 (each store has kinds of its own)
        raise CatDogError(f"cannot ask for {path}: {program.reason(error)}", "Try again") from None


def photo_paths(source):
    """Yield the paths of a folder, of a list in a file, or of all objects under an address."""
    if is_remote(source):
        yield from ask_store(source, lambda s, root: map(s.unstrip_protocol, s.find(root)))
    elif os.path.isdir(source):
        yield from program.list_photos(source)
    else:
        with program.open_regular(source) as file:
            if b"\0" in file.read():
                raise UsageError(f"{source} is no list of paths", "Name a folder or a list")
            file.seek(0)
            for line in filter(None, (os.fsdecode(line.rstrip(b"\r\n")) for line in file)):
                yield line if is_remote(line) else os.path.abspath(line)


def open_remote(path, limit):
    """An object as a file in memory. Raises OSError above `limit` bytes, CatDogError see above."""
    if ask_store(path, lambda store, place: store.size(place)) > limit:
        raise OSError(errno.EFBIG, f"more than {limit / 1e6:.0f} MB", path)
    return io.BytesIO(ask_store(path, lambda store, place: store.cat_file(place)))


def read_anywhere(path, size):
    """`read_photo` for paths and addresses, with the same limits. Raises PhotoError."""
    if not is_remote(path):
        return program.read_photo(path, size)
    with program.open_image(path, open_remote) as (image, file):
        return program.decode(image, file, size)


# ==================================================================================================
# 2. Parts: their lists are written before their answers


def part_name(folder, number, ending):
    """A file of a part: ANSWERS/000042.jsonl."""
    return Path(folder, f"{number:06}{ending}")


def write(path, content):
    """Write bytes, whole or not at all."""
    with program.replacing(path) as file:
        file.write(content)


def read_list(path):
    """The paths of a list; names may hold anything but the zero between them."""
    return list(map(os.fsdecode, path.read_bytes().split(b"\0")))


def list_parts(folder, source, size, about, console):
    """Write the lists of all parts, unless that was done; how many photos they hold."""
    if about["listed"]:
        return about["listed"]
    paths, total, started = photo_paths(source), 0, time.monotonic()
    for number in itertools.count():
        if not (part := list(itertools.islice(paths, size))):
            break
        path, content = part_name(folder, number, ".list"), b"\0".join(map(os.fsencode, part))
        if path.exists() and path.read_bytes() != content:  # an earlier run broke off there
            raise CatDogError(f"{source} has changed since", "Name another ANSWERS")
        write(path, content)
        total += len(part)
        console.bar(f"listing {total}", 0, 1, started)
    if not total or part_name(folder, number, ".list").exists():
        why = "has changed since" if total else "holds no photos"
        raise CatDogError(f"{source} {why}", "Name another ANSWERS")
    write(Path(folder, "label.json"), json.dumps({**about, "listed": total}).encode())
    return total


def begin(folder, about):
    """Make ANSWERS, or see that what it holds is of the same net, photos and settings."""
    place = Path(folder, "label.json")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if not place.exists():
            if not all(map(program.is_system_file, os.listdir(folder))):
                raise CatDogError(f"{folder} holds something else", "Name a new ANSWERS")
            write(place, json.dumps({**about, "listed": 0}).encode())
        found = {"listed": 0, **dict(json.loads(place.read_bytes()))}
    except (OSError, ValueError, TypeError) as error:
        raise CatDogError(f"cannot use {folder}: {program.reason(error)}", "Name another") from None
    for name, value in about.items():
        if found.get(name) != value:
            problem = f"{folder} holds the answers for another {name}: {found.get(name)}"
            raise CatDogError(problem, f"Name another ANSWERS, or the same {name}")
    return found


# ==================================================================================================
# 3. Answers for a part, here or on a cluster


@functools.cache
def classifier_of(given):
    """The classifier of these settings; a process loads it once."""
    return program.CatDogClassifier(**dict(given))


def label_part(paths, given, ending=".jsonl"):
    """The answers for some paths, as the content of their file."""
    rows = map(asdict, classifier_of(given).predict_each(paths, read=read_anywhere))
    if ending == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    rows = [{**row, "path": program.escape_control(row["path"])} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink := pyarrow.BufferOutputStream())
    return sink.getvalue().to_pybytes()


def serve(pipe, given, ending):
    """What a process of its own does: answer for the paths that come, until nobody is there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's, who ends this one
    with contextlib.suppress(EOFError, BrokenPipeError):
        while paths := pipe.recv():
            try:
                pipe.send(label_part(paths, given, ending))
            except CatDogError as error:
                pipe.send(error)


def label_here(parts, given, ending):
    """Yield (number, content) of parts, answered in a process of its own; None where it died."""
    context, process = multiprocessing.get_context("spawn"), None
    for number, paths in parts:
        content = None
        for _ in range(ATTEMPTS):
            if not (process and process.is_alive()):
                pipe, theirs = context.Pipe()
                process = context.Process(target=serve, args=(theirs, given, ending), daemon=True)
                process.start()
                theirs.close()
            with contextlib.suppress(EOFError, OSError):  # it died
                pipe.send(paths)
                content = pipe.recv()
                break
            process.join()
        if isinstance(content, CatDogError):
            raise content
        yield number, content


def pack_program(given):
    """What a node needs, zipped, and the settings there: the program, the weights in both forms."""
    classifier, cache = classifier_of(given), program.cache_folder()
    classifier.ready()  # and so it has been converted
    files = {"dataset/label.py": __file__, "CatDogClassifier.py": program.__file__}
    files |= {"weights.h5": classifier.source, program.SHIPPED_LITERT.name: program.SHIPPED_LITERT}
    files |= {f"catdogclassifier/{path.name}": path for path in cache.glob("*.tflite")}
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        for name in filter(lambda name: os.path.exists(files[name]), files):
            archive.write(files[name], name)
    return buffer.getvalue(), tuple({**dict(given), "weights": "weights.h5"}.items())


def label_on_node(archive, name, paths, given, ending, source, cores):
    """The task of a node: `label_part` with what was packed, and its share of the processors."""
    home = Path.home() / ".cache" / "catdogclassifier" / name
    if not home.exists():
        zipfile.ZipFile(io.BytesIO(archive)).extractall(part := f"{home}-{os.getpid()}")
        with contextlib.suppress(OSError):  # another process was first
            os.rename(part, home)
    os.chdir(home)
    os.cpu_count = lambda: cores  # whatever the machine has
    os.environ["XDG_CACHE_HOME"] = str(home)
    sys.path.insert(0, str(home / "dataset"))
    import label

    if not label.is_remote(source) and not os.path.exists(source):
        raise RuntimeError(f"{source} is not there on {socket.gethostname()}")
    return label.label_part(paths, given, ending)


def label_on_ray(parts, given, ending, source, address, cores):
    """Yield (number, content) of parts, as they are ready, from a Ray cluster."""
    archive, given = pack_program(given)
    try:
        host, _, port = address.rpartition("/")[2].partition(":")
        if port:  # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        problem = f"there is no Ray cluster at {address}: {program.reason(error)}"
        raise CatDogError(problem, "Start one: ray start --head") from None
    task = ray.remote(label_on_node).options(num_cpus=cores, max_retries=ATTEMPTS - 1)
    ahead, waiting = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)) // cores), {}
    packed = ray.put(archive), f"node-{program.digest(archive)[:32]}"
    for number, paths in itertools.chain(parts, [(None, None)]):
        if number is not None:
            waiting[task.remote(*packed, paths, given, ending, source, cores)] = number
        while waiting and (number is None or len(waiting) >= ahead):
            (ready, *_), _ = ray.wait(list(waiting))
            yield waiting.pop(ready), result_of(ready)
    ray.shutdown()


def result_of(task):
    """What a task gave; None where it died each time. Raises CatDogError for what it says."""
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise CatDogError(f"a node cannot answer: {program.reason(error.cause)}") from None
    except ray.exceptions.RayError:
        return None


# ==================================================================================================
# 4. Command line


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
    add("--parquet", action="store_true", help="write .parquet instead of .jsonl (needs pyarrow)")
    add("--ray", metavar="ADDRESS", help="of a Ray cluster; auto: the one here (needs ray)")
    add("--cores", metavar="N", type=int, default=1, help="of a part on the cluster (default: 1)")
    add("-q", "--quiet", action="store_true", help="print results and errors only")
    return parser


def tell_all(folder, ending, failed, console):
    """Print the summary over all parts, name what failed; the exit code."""
    answers = collections.Counter()
    for path in sorted(Path(folder).glob(f"*{ending}")):
        if ending == ".parquet":
            answers.update(parquet.read_table(path, columns=["verdict"])["verdict"].to_pylist())
        else:
            with open(path) as lines:
                answers.update(json.loads(line)["verdict"] for line in lines)
    for number in failed:
        why = f"one of these photos ended the process {ATTEMPTS} times"
        console.warn(f"{part_name(folder, number, '.list')}: {why}")
    named = sorted(answers.items(), key=lambda pair: pair[0] or "")
    parts = ", ".join(f"{count} {program.escape_control(k or 'unreadable')}" for k, count in named)
    print(f"{answers.total()} files: {parts}")
    return int(bool(failed or answers[None]))


def main(argv=None):
    """Label the photos and print the summary; the exit code."""
    chosen = build_parser().parse_args(argv)
    if min(chosen.part, chosen.cores) < 1:
        raise UsageError("--part and --cores must be 1 or more")
    for extra in [ray] * bool(chosen.ray) + [pyarrow] * chosen.parquet:
        extra.need()
    given = {"weights": chosen.weights and os.path.abspath(chosen.weights), "unsure": chosen.unsure}
    given = (("quiet", chosen.quiet), *((k, v) for k, v in given.items() if v is not None))
    classifier = program.CatDogClassifier(**dict(given))
    if not is_remote(chosen.source) and not os.path.exists(chosen.source):
        raise CatDogError(f"there is no {chosen.source}", "Name a folder, a list or an address")
    program.tell(classifier) if classifier.ready() else None
    with program.open_regular(classifier.source) as file:
        net = program.digest(file.read())[:16]
    ending = ".parquet" if chosen.parquet else ".jsonl"
    source = chosen.source if is_remote(chosen.source) else os.path.abspath(chosen.source)
    about = {"program": program.PROGRAM, "net": net, "folder": source, "part": chosen.part}
    about |= {"unsure": chosen.unsure, "kind": ending}
    about["list"] = os.path.isfile(source) and program.digest(Path(source).read_bytes())
    if Path(chosen.answers).resolve().is_relative_to(Path(source).resolve()):
        raise UsageError(f"{chosen.answers} lies inside {source}", "Name another ANSWERS")
    about, failed, console = begin(chosen.answers, about), [], classifier.console
    total = list_parts(chosen.answers, source, chosen.part, about, console)
    numbers = range(math.ceil(total / chosen.part))
    missing = [n for n in numbers if not part_name(chosen.answers, n, ending).exists()]
    parts = ((n, read_list(part_name(chosen.answers, n, ".list"))) for n in missing)
    before, started = len(numbers) - len(missing), time.monotonic()
    task, where = (parts, given, ending), (source, chosen.ray, chosen.cores)
    results = label_on_ray(*task, *where) if chosen.ray else label_here(*task)
    with contextlib.redirect_stdout(sys.stderr):  # Ray tells there of nodes that die
        for done, (number, content) in enumerate(results, start=before + 1):
            if content is None:
                failed.append(number)
            else:
                write(part_name(chosen.answers, number, ending), content)
            console.bar(f"part {done} of {len(numbers)}", done, len(numbers), started, start=before)
    console.clear()
    return tell_all(chosen.answers, ending, failed, console)


if __name__ == "__main__":
    raise SystemExit(program.run_guarded(main))
