"""A weights file may come from anybody: refused in one line, or read for its numbers alone."""

import json
import math
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

import CatDogClassifier as program
from CatDogClassifier import CatDogError, Settings, keras
from conftest import colour_net, linux, paint, posix, python

KERNEL, BIAS = "conv0/conv0/kernel:0", "fc/fc/bias:0"  # of 4704 numbers, and of one
GAMMA, BETA = "bn0/bn0/gamma:0", "bn0/bn0/beta:0"  # of the same shape


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The weights of a small net."""
    return colour_net(tmp_path_factory.mktemp("weights") / "net.h5", classes=["bear", "wolf"])


@pytest.fixture(scope="module")
def model():
    """A net to read weights into."""
    return program.build_model("happy", "vgg16", 2)


def load(path, model):
    """What a weights file says, its numbers in the model."""
    info = program.read_metadata(path, Settings(model="happy"))
    program.load_h5(path, model)
    return info


def copied(folder, weights, change=lambda file: None, ours=True):
    """A copy of a weights file with a change; not `ours`: as if another program had written it."""
    path = shutil.copy(weights, folder / "stranger.h5")
    (folder / "treasure.bin").write_bytes(np.full(4704, 42, np.float32).tobytes())
    with h5py.File(folder / "treasure.h5", "w") as file:
        file["data"] = np.full((7, 7, 3, 32), 42, np.float32)
    with h5py.File(path, "a") as file:
        change(file)
        if not ours:
            del file.attrs["catdogclassifier"], file.attrs["digest"]
    return path


def instead(name, **more):
    """A change that puts another array in the place of one."""

    def change(file):
        shape = more.get("shape", file[name].shape)
        del file[name]
        file.create_dataset(name, **{"dtype": np.float32, **more, "shape": shape})

    return change


def link(make):
    """A change that puts a link in the place of an array, as large as it."""

    def change(file):
        file["elsewhere"] = file[KERNEL][()]
        del file[KERNEL]
        file[KERNEL] = make(str(Path(file.filename).with_name("treasure.h5")))

    return change


def virtual(file):
    layout, path = h5py.VirtualLayout((7, 7, 3, 32), np.float32), Path(file.filename)
    layout[...] = h5py.VirtualSource(str(path.with_name("treasure.h5")), "data", layout.shape)
    del file[KERNEL]
    file.create_virtual_dataset(KERNEL, layout)


def external(file):
    place = str(Path(file.filename).with_name("treasure.bin")), 0, h5py.h5f.UNLIMITED
    instead(KERNEL, external=[place])(file)


def names(value):
    """A change of the list of layers."""

    def change(file):
        del file.attrs["layer_names"]
        file.attrs["layer_names"] = np.array(value)

    return change


def nested_type(file):
    kind = h5py.h5t.NATIVE_INT8
    for _ in range(1000):
        kind = h5py.h5t.vlen_create(kind)
    del file.attrs["layer_names"]
    h5py.h5a.create(file.id, b"layer_names", kind, h5py.h5s.create_simple((1,)))


def in_itself(file):
    file["fc/again"] = file["/"]
    names([b"fc/again/" * 100])(file)


def text(value):
    return np.array([value], h5py.string_dtype())


def value(name, number):
    return lambda file: file[name].__setitem__((0,) * file[name].ndim, number)


def named_again_and_again(path, length=1_000_000, count=400):
    """What h5py would not write: a list of texts whose elements are one long one, in one heap."""
    with h5py.File(path, "a") as file:
        for name in ("catdogclassifier", "layer_names"):
            file.attrs[name] = np.array(["x" * length, *["y"] * (count - 1)], h5py.string_dtype())
    content = path.read_bytes()
    # A reference is the length of the text, the place of its heap, its number in that.
    for found in re.finditer(re.escape(struct.pack("<I", length)), content):
        place = int.from_bytes(content[found.end() : found.end() + 8], "little")
        if content[place : place + 4] == b"GCOL":
            one, start = content[found.start() : found.start() + 16], found.start()
            content = content[:start] + one * count + content[start + 16 * count :]
    path.write_bytes(content)
    with h5py.File(path) as file:
        names = file.attrs["layer_names"]
    assert len(names) == count and set(map(len, names)) == {length}
    return path


FOREIGN = {
    "an external link": link(lambda path: h5py.ExternalLink(path, "data")),
    "one beside what is read": lambda file: file.__setitem__("x", h5py.ExternalLink("/x", "/")),
    "external storage": external,
    "a virtual array": virtual,
}
LARGE = {
    "3.7 GB": instead(KERNEL, shape=(925_000_000,)),
    "8 PB": instead(KERNEL, shape=(2**51,)),
    "a huge chunk": instead(BIAS, maxshape=(None,), chunks=(10**9,), compression="gzip"),
    "a long name": names(text("x" * 30_000_000)),
    "a long name that looks like a heap": names(text("GCOL\x01" + "x" * 3_000_000)),
    "many names": names([b"conv0"] * 5000),
    "many links": lambda file: [file.__setitem__(f"x{i}", file["fc"]) for i in range(10_001)],
    "a type in a type": nested_type,
}
STRANGE = FOREIGN | LARGE
STRANGE |= {
    "a soft link": link(lambda path: h5py.SoftLink("/elsewhere")),
    "integers": instead(BIAS, dtype=np.int32, data=np.zeros(1)),
    "double precision": instead(BIAS, dtype=np.float64, data=np.zeros(1)),
    "the other byte order": instead(BIAS, dtype=">f4", data=np.zeros(1)),
    "texts": instead(BIAS, dtype=h5py.string_dtype(), data=["x"]),
    "references": instead(BIAS, dtype=h5py.ref_dtype),
    "another shape": instead(BIAS, shape=(2,), data=np.zeros(2)),
    "an array that is not stored": instead(BIAS),
    "a group for an array": lambda file: [file.__delitem__(BIAS), file.create_group(BIAS)],
    "a missing array": lambda file: file.__delitem__(KERNEL),
    "a missing layer": lambda file: file.__delitem__("fc"),
    "no names of layers": lambda file: file.attrs.__delitem__("layer_names"),
    "a layer less": lambda file: names(file.attrs["layer_names"][:-1])(file),
    "no number": value(BIAS, np.nan),
    "infinity": value(BIAS, np.inf),
    "groups in groups": lambda file: file.create_group("g/" * 12),
    "groups in themselves": in_itself,
    "names of another kind": names(range(14)),
    "a layer that is none": names([KERNEL.encode()]),
}


def said(about, sealed=True):
    """A change of what the file says; `sealed` with a new digest, as whoever forges can do."""
    about = about if isinstance(about, bytes) else json.dumps(about).encode()

    def change(file):
        file.attrs["catdogclassifier"] = np.bytes_(about)
        groups = [file[name] for name in file.attrs["layer_names"]]
        arrays = [group[name][()] for group in groups for name in group.attrs["weight_names"]]
        if sealed:
            file.attrs["digest"] = np.bytes_(program.digest(about, *arrays))

    return change


def swapped(file):
    for one, other in ((GAMMA, "x"), (BETA, GAMMA), ("x", BETA)):
        file.move(one, other)


def renamed(file):
    file.move("fc", "fd")
    listed = [name.replace(b"fc", b"fd") for name in file.attrs["layer_names"]]
    names(listed)(file)


CHANGED = {
    "a flipped bit": value(KERNEL, 1e-40),
    "exchanged arrays": swapped,
    "no digest": lambda file: file.attrs.__delitem__("digest"),
    "a digest alone": lambda file: file.attrs.__delitem__("catdogclassifier"),
    "other classes": said({"architecture": "happy", "classes": ["x", "y"]}, sealed=False),
    "endless lists": said(b"[" * 60_000),
    "half a text": said(b"{"),
}
# What a file of a net of the kind happy cannot say of itself.
BASES = [{"architecture": "frozen", "base": base} for base in ("vgg19", None, ["vgg16"])]
CLASSES = [["a"], ["b", "a"], ["a", "a"], [1, 2], sorted(map(str, range(101))), ["", "a"]]
CLASSES += [["../a", "../b"], ["a\0", "b"], ["..", "z"], ["/tmp", "z"]]  # which are no folders
CURVES = [{}, [[0.9, 1]], [["a", 1, 2]], [[0.9, 0, 0]], [[0.9, 0, 10**400]], [[0.9, 3, 2]]]
CURVES += [[[0.9, 0, math.inf]], [[1.5, 0, 9]]]
SAID = [7, [1], {"summary": []}, {"recipe": {"recipe": ["x"]}}, {"size": 224}, {"size": []}, *BASES]
SAID += [{"architecture": kind} for kind in ("transformer", ["happy"], {})]
SAID += [{"temperature": number} for number in (0, "1", math.nan, 1e-300)]
SAID += [{"classes": classes} for classes in CLASSES] + [{"risk_coverage": c} for c in CURVES]
HAPPY = {"architecture": "happy"}
CHANGED |= {str(s)[:60]: said(HAPPY | s if isinstance(s, dict) else s) for s in SAID}
ALL = [pytest.param(STRANGE[n], ours, id=f"{n}-{ours}") for n in STRANGE for ours in (True, False)]
ALL += [pytest.param(change, True, id=name) for name, change in CHANGED.items()]


@pytest.mark.parametrize(("change", "ours"), ALL)
def test_a_hostile_or_changed_file_is_refused_in_one_line(tmp_path, weights, model, change, ours):
    path = copied(tmp_path, weights, change, ours)
    with pytest.raises(CatDogError, match=r"stranger\.h5") as refusal:
        load(path, model)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize(("ours", "classes"), [(True, ["bear", "wolf"]), (False, ["cat", "dog"])])
def test_layers_match_by_order_and_shape_and_a_file_stays(tmp_path, weights, model, ours, classes):
    load(weights, model)
    expected = model.get_weights()
    model.set_weights([weight * 0 for weight in expected])
    path = copied(tmp_path, weights, renamed, ours)
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert load(path, model)["classes"] == classes
    assert all(map(np.array_equal, model.get_weights(), expected))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@posix
def test_a_pipe_a_device_a_folder_or_a_terabyte_is_refused_at_once(tmp_path, weights, model):
    os.mkfifo(tmp_path / "pipe.h5")
    os.truncate(copied(tmp_path, weights), 2**40)  # it takes no room
    for path in (tmp_path / "pipe.h5", "/dev/zero", tmp_path, tmp_path / "stranger.h5"):
        with pytest.raises(CatDogError, match="regular file|a folder|more than 1000 MB"):
            load(path, model)


READ_ALL = """
import sys, types, h5py, numpy as np
import CatDogClassifier as program
with h5py.File(sys.argv[1]) as file:
    groups = [file[name] for name in file.attrs["layer_names"]]
    arrays = [group[name][()] for group in groups for name in group.attrs["weight_names"]]
model = types.SimpleNamespace(weights=arrays, layers=[], set_weights=lambda arrays: None)
for path in sys.argv[1:]:
    open("/proc/self/clear_refs", "w").write("5")  # the peak of memory starts anew
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    before = int(lines["VmRSS"].split()[0])
    try:
        program.read_metadata(path, program.Settings(model="happy"))
        program.load_h5(path, model)
        outcome = "read"
    except program.CatDogError:
        outcome = "refused"
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    print(outcome, int(lines["VmHWM"].split()[0]) - before)
"""


@linux  # it counts memory
def test_hostile_files_take_little_memory_and_have_no_other_file_opened(tmp_path, weights):
    """No more than 4 MB for a net of 0.15 MB; strace, where there is one, sees what is opened."""
    paths = []
    for number, change in enumerate([lambda file: None, *FOREIGN.values(), *LARGE.values()]):
        (tmp_path / str(number)).mkdir()
        paths.append(copied(tmp_path / str(number), weights, change, ours=False))
    (tmp_path / "again").mkdir()
    paths.append(named_again_and_again(tmp_path / "again/stranger.h5"))
    trace = ["strace", "-f", "-qq", "-e", "trace=open,openat", "-o", tmp_path / "trace"]
    works = shutil.which("strace") and subprocess.run([*trace, "true"]).returncode == 0
    done = python("-c", READ_ALL, paths[0], *paths, before=trace if works else [], text=True)
    rows = [row.split() for row in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["read"] * 2 + ["refused"] * (len(paths) - 1), done.stderr
    assert max(int(peak) for _, peak in rows[1:]) < 4000
    if works:
        opened = (tmp_path / "trace").read_text(errors="replace")
        assert "treasure" not in opened
        assert opened.count("stranger.h5") >= len(paths)


def test_no_code_in_a_file_is_ever_run(tmp_path, weights, model):
    """Whole models with poison in them, in the formats that Keras has."""
    witness = tmp_path / "witness"

    def poison(x, path=str(witness)):
        Path(path).write_text("run")
        return x

    layers = [keras.Input((64, 64, 3)), keras.layers.Lambda(poison), keras.layers.Flatten()]
    net = keras.Sequential([*layers, keras.layers.Dense(1)])
    files = [tmp_path / name for name in ("model.h5", "model.keras", "poisoned.weights.h5")]
    net.save(files[0])
    net.save(files[1])
    net.save_weights(files[2])
    witness.unlink(missing_ok=True)  # building the net has run it
    for path in files:
        with pytest.raises(CatDogError):
            load(path, model)
    with h5py.File(files[0]) as file:
        config = file.attrs["model_config"]
    load(copied(tmp_path, weights, lambda file: file.attrs.create("model_config", config)), model)
    assert not witness.exists()


def test_numbers_so_large_that_no_answer_comes_out_are_one_line(tmp_path, weights, run):
    def huge(file):  # infinite features, and nought times infinity is no number
        file["conv0/conv0/bias:0"][...] = file[GAMMA][...] = 3e38
        file["fc/fc/kernel:0"][...] = 0

    path = copied(tmp_path, weights, huge, ours=False)
    paint(tmp_path / "a.png", 0)
    for style in ([], ["--json"], ["--csv"]):
        line = ("-f", tmp_path / "a.png", "--weights", path, "--model", "happy")
        code, out, err = run(*line, *style)
        assert (code, "nan" in out.lower()) == (1, False)
        why = "the net gives answers that are no numbers. Train anew"
        assert err == f"CatDogClassifier: {why}\n"


FUZZ = """
import sys, pathlib, collections, numpy as np
import CatDogClassifier as program
path, seen, settings = sys.argv[1], collections.Counter(), program.Settings()
net = program.load_net(path, settings)
whole, mutant = pathlib.Path(path).read_bytes(), pathlib.Path(path + ".mutant.h5")
wanted = net.model.get_weights()
for seed in range(200):
    rng, changed = np.random.default_rng(seed), bytearray(whole)
    place = int(rng.integers(20_000) - 10_000 if seed % 4 else rng.integers(len(whole)))
    if seed % 2:
        changed[place] ^= 1 << rng.integers(8)
    else:  # a piece goes, or comes from elsewhere
        other, length = rng.integers(len(whole), size=2) // (1, 300)
        changed[place : place + length] = whole[other : other + length * rng.integers(2)]
    mutant.write_bytes(changed)
    print(seed, flush=True)
    try:
        info = program.read_metadata(mutant, settings)
        program.load_h5(mutant, net.model)
        same = all(map(np.array_equal, net.model.get_weights(), wanted))
        seen["same" if same and info == net.info else f"changed {seed}"] += 1
    except program.CatDogError:
        seen["refused"] += 1
print(" ".join(sorted(seen)))
"""


def test_every_flipped_bit_or_lost_piece_is_harmless_or_noticed(tmp_path, weights):
    """200 mutants, most in their structure: no hang, no death, and TensorFlow says not a word."""
    done = python("-c", FUZZ, shutil.copy(weights, tmp_path), text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-200:]
    assert done.stdout.split() == [*map(str, range(200)), "refused", "same"]
