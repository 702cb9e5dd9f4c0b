"""Room 11: a weights file may come from anybody. It is refused in one line, or read for its numbers and nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import CatDogClassifier as program
from CatDogClassifier import CatDogClassifier, WeightsError
from conftest import REPO, python

KERNEL, BIAS = "dense_0/dense_0/kernel:0", "dense_1/dense_1/bias:0"  # of 2 MB, and of one number


def copied(tmp_path, weights, change=lambda file, folder: None, ours=True):
    """A copy of a weights file with a change; `ours=False`: as if another program had written it, without a digest."""
    path = tmp_path / "stranger.h5"
    shutil.copy(weights, path)
    with h5py.File(path, "a") as file:
        change(file, tmp_path)
        if not ours:
            for name in {"catdogclassifier", "digest"} & set(file.attrs):
                del file.attrs[name]
            renamed(file, tmp_path)
    return path


def load(path):
    classifier = CatDogClassifier(weights=str(path), quiet=True)
    classifier.load_weights()
    return classifier


def replaced(name, make):
    """A change that puts something else in the place of an array."""
    def change(file, folder):
        shape = file[name].shape
        del file[name]
        make(file, name, shape, folder)
    return change


def secret(folder, shape):
    """Another file with an array of the right shape: what a hostile weights file would like to read."""
    path = folder / "treasure.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.full(shape, 42, np.float32)
    (folder / "treasure.bin").write_bytes(np.full(shape, 42, np.float32).tobytes())
    return path


def external_link(file, name, shape, folder):
    file[name] = h5py.ExternalLink(str(secret(folder, shape)), "data")


def soft_link(file, name, shape, folder):
    file["elsewhere"] = np.zeros(shape, np.float32)
    file[name] = h5py.SoftLink("/elsewhere")


def external_storage(file, name, shape, folder):
    secret(folder, shape)
    file.create_dataset(name, shape, np.float32, external=[(str(folder / "treasure.bin"), 0, h5py.h5f.UNLIMITED)])


def virtual(file, name, shape, folder):
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[...] = h5py.VirtualSource(str(secret(folder, shape)), "data", shape)
    file.create_virtual_dataset(name, layout)


def bomb(size):
    """An array that says it is so large, in a file of a few bytes."""
    return lambda file, name, shape, folder: file.create_dataset(name, (size // 4,), np.float32)


def compressed(file, name, shape, folder):
    """The right shape, but stored in one huge chunk that is all zeros: small to store, large to unpack."""
    file.create_dataset(name, shape, np.float32, maxshape=(None,), chunks=(1_000_000_000,), compression="gzip")


def typed(dtype):
    return lambda file, name, shape, folder: file.create_dataset(name, shape, dtype)


def long_names(file, folder):
    """A list of names that are all one and the same text of 30 MB."""
    del file.attrs["layer_names"]
    file.attrs["layer_names"] = np.array(["x" * 30_000_000], dtype=h5py.string_dtype())
    attribute = h5py.h5a.create(file.id, b"many", h5py.h5t.py_create(h5py.string_dtype()), h5py.h5s.create_simple((2000,)))
    assert attribute.shape == (2000,)


def many_names(file, folder):
    file.attrs["layer_names"] = np.array([b"dense_0"] * 5_000, "S7")


def many_links(file, folder):
    for i in range(10_001):
        file[f"x{i}"] = file["dense_0"]


def deep(file, folder):
    """Groups that contain themselves."""
    file["dense_0/again"] = file["dense_0"]
    file["dense_0/root"] = file["/"]
    file.attrs["layer_names"] = np.array([b"dense_0/again/root/" * 100], "S")


def said(text):
    def change(file, folder):
        del file.attrs["catdogclassifier"]
        file.attrs["catdogclassifier"] = np.bytes_(text)
        arrays = [file[name][()] for layer in file.attrs["layer_names"] for name in
                  (f"{layer.decode()}/{weight.decode()}" for weight in file[layer].attrs["weight_names"])]
        arrays.append(file["seen"][()])
        file.attrs["digest"] = np.bytes_(program.digest(text, arrays))  # whoever forges can compute that as well
    return change


def swapped(file, folder):
    """Names that point at each other's arrays, of the same shape."""
    file.move("conv2d_2/conv2d_2/bias:0", "x")
    file.move("conv2d_3/conv2d_3/bias:0", "conv2d_2/conv2d_2/bias:0")
    file.move("x", "conv2d_3/conv2d_3/bias:0")


def renamed(file, folder):
    """Names that this program does not give."""
    if file.attrs["layer_names"].dtype.kind == "S":
        file.move("dense_1", "dense_9")
        file.attrs["layer_names"] = np.array([name.replace(b"dense_1", b"dense_9") for name in file.attrs["layer_names"]], "S")


def nested_type(depth):
    """An attribute whose type is a list of lists of lists ..."""
    def change(file, folder):
        kind = h5py.h5t.NATIVE_INT8
        for _ in range(depth):
            kind = h5py.h5t.vlen_create(kind)
        h5py.h5a.delete(file.id, b"layer_names")
        h5py.h5a.create(file.id, b"layer_names", kind, h5py.h5s.create_simple((1,)))
    return change


def hidden_heap(file, folder):
    """A text of 3 MB whose beginning looks as if it lay in another, short one."""
    del file.attrs["layer_names"]
    file.attrs["layer_names"] = np.array(["GCOL\x01" + "x" * 3_000_000], dtype=h5py.string_dtype())


def nested_groups(file, folder):
    group = file
    for _ in range(12):
        group = group.create_group("g")


def bit(file, folder):
    numbers = file[KERNEL][()]
    numbers.view(np.uint32)[500, 100] ^= 1
    file[KERNEL][...] = numbers


STRANGE = {
    "an external link": replaced(KERNEL, external_link),
    "a soft link": replaced(KERNEL, soft_link),
    "an external link beside what is read": lambda file, folder: file.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/")),
    "external storage": replaced(KERNEL, external_storage),
    "a virtual dataset": replaced(KERNEL, virtual),
    "an array of 3.7 GB": replaced(KERNEL, bomb(3_700_000_000)),
    "an array of 8 PB": replaced(KERNEL, bomb(8 * 2**50)),
    "a huge compressed chunk": replaced(BIAS, compressed),
    "integers": replaced(BIAS, typed(np.int32)),
    "double precision": replaced(BIAS, typed(np.float64)),
    "the other byte order": replaced(BIAS, typed(">f4")),
    "texts": replaced(BIAS, typed(h5py.string_dtype())),
    "references": replaced(BIAS, typed(h5py.ref_dtype)),
    "a number that is none": lambda file, folder: file[BIAS].__setitem__(0, np.nan),
    "an infinite number": lambda file, folder: file[BIAS].__setitem__(0, np.inf),
    "long names": long_names,
    "very many names": many_names,
    "very many links": many_links,
    "a type in a type in a type": nested_type(1000),
    "a heap hidden in another": hidden_heap,
    "groups in groups in groups": nested_groups,
    "groups in themselves": deep,
    "layer names of another kind": lambda file, folder: file.attrs.__setitem__("layer_names", np.arange(14)),
    "a layer that is none": lambda file, folder: file.attrs.__setitem__("layer_names", np.array([BIAS.encode()], "S")),
}
ONLY_OURS = {
    "a flipped bit": bit,
    "arrays that were exchanged": swapped,
    "other names": renamed,
    "no digest": lambda file, folder: file.attrs.__delitem__("digest"),
    "another answer": lambda file, folder: file.attrs.__setitem__("catdogclassifier", np.bytes_(
        json.dumps({**json.loads(file.attrs["catdogclassifier"]), "classes": ["bird", "fish"]}).encode())),
    "facts nested without end": said(b"[" * 60_000),
    "facts that are a number": said(b"7"),
    "a summary that is a list": said(b'{"summary": []}'),
    "a net of a later version": said(b'{"rung": "transformer"}'),
    "a net that is a list": said(b'{"rung": ["default"]}'),
    "three classes": said(b'{"classes": ["a", "b", "c"]}'),
}


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "anybody's"])
@pytest.mark.parametrize("what", STRANGE)
def test_a_hostile_file_is_refused_in_one_line_and_no_other_file_is_read(tmp_path, weights, what, ours):
    with pytest.raises(WeightsError) as refusal:
        load(copied(tmp_path, weights, STRANGE[what], ours))
    assert "stranger.h5" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("what", ONLY_OURS)
def test_a_change_in_one_of_our_own_files_is_noticed(tmp_path, weights, what):
    with pytest.raises(WeightsError, match=r"stranger\.h5"):
        load(copied(tmp_path, weights, ONLY_OURS[what]))


def test_a_file_of_another_program_is_read_by_order_and_shape(tmp_path, trained, weights):
    loaded = load(copied(tmp_path, weights, ours=False))
    for one, other in zip(loaded.model.get_weights(), trained.model.get_weights(), strict=True):
        assert np.array_equal(one, other)


def test_a_file_of_a_terabyte_that_takes_no_room_is_refused_at_once(tmp_path, weights):
    path = copied(tmp_path, weights)
    try:
        os.truncate(path, 2**40)
    except OSError as error:
        pytest.skip(f"no such files here: {error}")
    with pytest.raises(WeightsError, match=r"stranger\.h5"):
        load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_a_device_or_a_folder_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    for path in (tmp_path / "pipe.h5", "/dev/zero", tmp_path):
        with pytest.raises(WeightsError, match="regular file|a folder"):
            CatDogClassifier(weights=str(path), quiet=True).predict("x.jpg")


def test_a_file_is_opened_for_reading_only(tmp_path, weights):
    path = copied(tmp_path, weights)
    before = path.read_bytes(), path.stat().st_mtime_ns
    load(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


MEASURE = """
import sys, numpy as np
import CatDogClassifier as program
program.start_tensorflow(program.Settings())
model = program.build_model("default", program.Settings())
import h5py
def private():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = private()
try:
    program.unpack_weights(sys.argv[1], model)
    print("loaded", private() - before)
except program.WeightsError as error:
    print("refused", private() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux counts it")
@pytest.mark.parametrize("what", [None, "an array of 3.7 GB", "an array of 8 PB", "a huge compressed chunk", "long names", "very many links",
                                  "a type in a type in a type", "a heap hidden in another"])
def test_a_hostile_file_takes_no_more_than_twice_the_memory_of_the_net(tmp_path, weights, what):
    path = copied(tmp_path, weights, STRANGE.get(what, lambda file, folder: None))
    done = python("-c", MEASURE, path, text=True)
    outcome, extra = done.stdout.split()
    assert outcome == ("refused" if what else "loaded")
    assert int(extra) <= 2 * 4 * 1_061_313 + 2_000_000  # two megabytes for what the libraries load on first use


READ_ALL = """
import sys, types, numpy as np
import CatDogClassifier as program
model = types.SimpleNamespace(weights=[np.zeros(tuple(map(int, shape.split("x"))), np.float32) for shape in sys.argv[1].split()])
for path in sys.argv[2:]:
    try:
        program.unpack_weights(path, model)
        print("read")
    except program.WeightsError:
        print("refused")
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="what is opened is seen by strace only")
def test_no_foreign_file_is_even_opened(tmp_path, trained, weights):
    paths, trace = [], tmp_path / "trace"
    for what in ("an external link", "an external link beside what is read", "external storage", "a virtual dataset"):
        paths.append(copied(tmp_path, weights, STRANGE[what]).rename(tmp_path / f"{what}.h5"))
    shapes = " ".join("x".join(map(str, weight.shape)) for weight in trained.model.get_weights())
    done = subprocess.run(["strace", "-f", "-qq", "-e", "trace=open,openat,execve", "-o", trace, sys.executable, "-c", READ_ALL, shapes,
                           *paths], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPO)})
    if not trace.exists() or "an external link.h5" not in trace.read_text(errors="replace"):
        pytest.skip(f"strace does not work here: {done.stderr[-200:]}")
    assert done.stdout.split() == ["refused"] * len(paths)
    assert not {"treasure", "passwd"} & set(re.findall(r"treasure|passwd", trace.read_text(errors="replace")))


def test_no_code_in_a_file_is_ever_run(tmp_path, weights):
    """Whole models with poison in them, in all three formats that Keras has, under the name of a weights file."""
    import keras

    witness = tmp_path / "witness"

    def poison(x, path=str(witness)):
        Path(path).write_text("run")
        return x

    net = keras.Sequential([keras.Input((150, 150, 3)), keras.layers.Lambda(poison), keras.layers.Flatten(), keras.layers.Dense(1)])
    files = [tmp_path / name for name in ("model.h5", "model.keras", "poisoned.weights.h5")]
    net.save(files[0])
    net.save(files[1])
    net.save_weights(files[2])
    witness.unlink(missing_ok=True)  # building the net has run it
    config = h5py.File(files[0]).attrs["model_config"]
    shutil.copy(weights, tmp_path / "both.h5")
    with h5py.File(tmp_path / "both.h5", "a") as file:
        file.attrs["model_config"] = config
    for path in files:
        with pytest.raises(WeightsError):
            load(path)
    load(tmp_path / "both.h5")  # good numbers beside the poison: only they are read
    assert not witness.exists()


@pytest.mark.parametrize("what", ["catdogclassifier", "digest", "layer_names"])
def test_a_damaged_name_does_not_make_our_file_one_of_another_program(tmp_path, weights, what):
    path = copied(tmp_path, weights)
    content = path.read_bytes()
    assert what.encode() in content
    path.write_bytes(content.replace(what.encode(), what.encode().replace(what[0].encode(), b"X", 1)))
    with pytest.raises(WeightsError):
        load(path)


@pytest.mark.parametrize("style", [[], ["--json"], ["--csv"]])
def test_numbers_so_large_that_no_answer_comes_out_are_one_line(tmp_path, weights, run, dataset, style):
    def huge(file, folder):
        """Features of 3e38; their sums are infinite; and nought times infinity is no number."""
        file["conv2d_4/conv2d_4/kernel:0"][...], file["conv2d_4/conv2d_4/bias:0"][...] = 0, 3e38
        file[KERNEL][...], file["dense_1/dense_1/kernel:0"][...] = 2, 0

    path = copied(tmp_path, weights, huge, ours=False)
    code, out, err = run("-f", dataset / "test/cat/cat.0.png", "--weights", path, *style)
    assert code == 1
    assert "nan" not in out.lower()
    assert err == f"CatDogClassifier: {path} gives answers that are no numbers. Train anew\n"


def test_every_flipped_bit_is_harmless_or_noticed(tmp_path, trained, weights):
    """400 random bits of our file, most of them in its structure: the same net, or a refusal."""
    rng, whole, path = np.random.default_rng(400), Path(weights).read_bytes(), tmp_path / "flipped.h5"
    wanted, model = trained.model.get_weights(), program.build_model("default", trained.settings)
    structure = [place for place in range(0, len(whole), 1) if place < 20_000 or place > len(whole) - 20_000]
    outcomes = {"same": 0, "refused": 0}
    for i in range(400):
        flipped, place = bytearray(whole), int(rng.integers(len(whole)) if i % 4 == 0 else rng.choice(structure))
        flipped[place] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            facts, _ = program.unpack_weights(path, model)
        except WeightsError:
            outcomes["refused"] += 1
        else:
            assert facts == json.loads(json.dumps(trained.facts))
            assert all(np.array_equal(one, other) for one, other in zip(model.get_weights(), wanted, strict=True))
            outcomes["same"] += 1
    assert outcomes["refused"] >= 100  # all those in the numbers


FUZZ = """
import sys, pathlib, collections, numpy as np
sys.path.insert(0, sys.argv[2])
import CatDogClassifier as program
from test_hostile import mutate
program.start_tensorflow(program.Settings())
model = program.build_model("default", program.Settings())
whole, path, seen = open(sys.argv[1], "rb").read(), pathlib.Path(sys.argv[1] + ".mutant.h5"), collections.Counter()
for seed in range(int(sys.argv[3])):
    rng = np.random.default_rng([5, seed])
    head = mutate(rng, whole[:6000])
    path.write_bytes(head + whole[6000:] if rng.integers(2) else mutate(rng, whole))
    print(seed, flush=True)
    try:
        program.unpack_weights(path, model)
        seen["read"] += 1
    except program.WeightsError:
        seen["refused"] += 1
print(dict(seen))
"""


def test_mutants_of_a_weights_file_end_as_an_answer_or_one_line(tmp_path, trained, weights):
    """300 files with damaged structure, through the HDF5 library: no traceback, no hang, no death of the process."""
    path = copied(tmp_path, weights, ours=False)
    done = python("-c", FUZZ, path, REPO / "tests", 300, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-200:]
    assert "refused" in done.stdout.splitlines()[-1]
