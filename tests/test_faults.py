"""A training survives signals, kills, full disks and itself; what was saved is never lost."""

import contextlib
import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from test_classifier import equal, load, small

import CatDogClassifier as program
from CatDogClassifier import keras
from conftest import PROGRAM, REPO, linux, make_dataset, posix, python, quick, slow, tree

marathon = [pytest.mark.slow, pytest.mark.marathon]
SMALL = {"model": "signs", "learning_rate": 0.003, "recipe": "tutorial", "patience": 0}


def flags(**settings):
    """Settings on the command line."""
    pairs = ((f"--{name.replace('_', '-')}", value) for name, value in settings.items())
    return [text for pair in pairs for text in map(str, pair)]


def losses(folder):
    """The rows of the history that a training has left."""
    with open(Path(folder, "net_history.csv")) as file:
        return list(csv.DictReader(file))


class Killed(BaseException):
    """Stands for a kill that Python cannot see."""


def at(monkeypatch, event, epoch, act):
    """Call `act(model)` at an event of Keras' callbacks in an epoch, counted from 1."""
    fit, begun = keras.Model.fit, []

    def watched(net, *given, callbacks, **more):
        events = {"on_epoch_begin": lambda number, logs: begun.append(number + 1)}
        events[event] = lambda *_, **logs: act(net) if begun[-1] == epoch else None
        act_first = keras.callbacks.LambdaCallback(**events)
        return fit(net, *given, callbacks=[act_first, *callbacks], **more)

    monkeypatch.setattr(keras.Model, "fit", watched)


def killed_at_write(monkeypatch, name, times):
    """Let a training be killed when it is to write a file for the n-th time."""
    replace, count = os.replace, iter(range(1, 100))

    def replaced(source, target):
        if Path(target).name == name and next(count) == times:
            raise Killed
        replace(source, target)

    monkeypatch.setattr(os, "replace", replaced)


def ctrl_c(model):
    signal.raise_signal(signal.SIGINT)


STOPS = {
    "in a step": lambda patch: at(patch, "on_train_batch_end", 3, ctrl_c),
    "in validation": lambda patch: at(patch, "on_test_begin", 3, ctrl_c),
    "between two saves": lambda patch: killed_at_write(patch, "net.checkpoint", 3),
    "while scoring": lambda patch: killed_at_write(patch, "net_history.csv", 1),
}


# Resuming. ----------------------------------------------------------------------------------------


def stopped_training(folder, how, **settings):
    """Stop a training in one of these ways."""
    with pytest.MonkeyPatch.context() as patch:
        STOPS[how](patch)
        with contextlib.suppress(Killed):
            quick(folder, **settings).train()
            assert how.startswith("in ")


NORMALIZED = {"model": "happy", "augment": True, "optimizer": "muon", "recipe": "best"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training with all that could get lost, from batch normalization to a rate that falls."""
    folder = tmp_path_factory.mktemp("whole")
    data = make_dataset(folder / "data", {"train": 12, "validation": 6, "test": 6})
    classifier = quick(folder, dataset=str(data), **NORMALIZED)
    classifier.train()
    return classifier


DROPOUT = "in a step"  # of a net with dropout
WAYS = ["between two saves", *slow(DROPOUT, "in validation", "while scoring")]


@pytest.mark.parametrize("how", WAYS)
def test_a_resumed_training_ends_exactly_as_one_that_was_never_stopped(request, tmp_path, how):
    never = request.getfixturevalue("trained" if how == DROPOUT else "whole")
    settings = {"dataset": never.settings.dataset, **({} if how == DROPOUT else NORMALIZED)}
    stopped_training(tmp_path, how, **settings)
    parts = quick(tmp_path, **settings)
    parts.train()
    assert losses(tmp_path) == losses(Path(never.settings.weights).parent)
    assert len(losses(tmp_path)) == 4
    assert equal(parts.model.get_weights(), never.model.get_weights())
    names = "best_epoch", "epochs", "stop_reason", "validation", "test", "calibration"
    found, wanted = (each.info["summary"] for each in (parts, never))
    assert {name: found[name] for name in names} == {name: wanted[name] for name in names}
    assert parts.info["risk_coverage"] == never.info["risk_coverage"]
    names = {path.name for path in tmp_path.iterdir()}
    assert not [name for name in names if name.endswith((".checkpoint", ".tmp"))]


@pytest.fixture(scope="module")
def once_stopped(tmp_path_factory):
    """A folder with a dataset, and what a training that was stopped in its third epoch has left."""
    folder = tmp_path_factory.mktemp("stopped")
    data = make_dataset(folder / "data", {"train": 12, "validation": 6, "test": 6})
    stopped_training(folder, "in a step", dataset=str(data), **SMALL)
    return folder


@pytest.fixture
def stopped(once_stopped, tmp_path):
    return Path(shutil.copytree(once_stopped, tmp_path / "stopped"))


def again(folder, **settings):
    """The same training once more."""
    more = {"dataset": str(folder / "data"), "quiet": False, **settings}
    classifier = small(folder, **more)
    classifier.train()
    return classifier


@pytest.fixture
def begun(stopped, monkeypatch, capsys):
    """begun(seed=2): what the same training says before its first step, in which it is killed."""

    def call(**settings):
        with pytest.raises(Killed):
            again(stopped, **settings)
        return capsys.readouterr().err

    monkeypatch.setattr(keras.Model, "fit", mock.Mock(side_effect=Killed))
    return call


RESUMES = "Resuming after epoch 2 of a checkpoint (--no-resume starts over)."


def test_a_stopped_training_says_where_it_goes_on_unless_told_to_start_over(begun):
    assert RESUMES in begun() and RESUMES in begun(epochs=3)
    assert "Resuming" not in begun(resume=False)


def of_another_version(path):
    """The checkpoint stays whole."""
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(arrays["CatDogClassifier"].tobytes())
    about[0]["program"] = "CatDogClassifier 1.9"
    arrays["CatDogClassifier"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def of_other_photos(path):
    cats = path.parent / "data/train/cat"
    shutil.copy(cats / "cat.0.png", cats / "cat.1.png")


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halved(path):
    os.truncate(path, path.stat().st_size // 2)


def emptied(path):
    os.truncate(path, 0)


def a_link_to_nowhere(path):
    path.unlink()
    path.symlink_to("nowhere")


DAMAGED = [of_another_version, of_other_photos, flipped, halved, emptied, a_link_to_nowhere]
OTHERS = [{"batch_size": 4}, {"optimizer": "sgd"}, {"learning_rate": 0.01}, {"augment": True}]
OTHERS += [{"recipe": "best"}, {"steps": 2}, {"seed": 2}, {"seed": None}, {"model": "happy"}]
OTHERS += [{"smoothing": 0.1}]


@pytest.mark.parametrize("case", [*DAMAGED, *OTHERS])
def test_a_checkpoint_damaged_or_of_another_training_is_left_and_said(stopped, begun, case):
    if case in DAMAGED:
        case(stopped / "net.checkpoint")
    said = begun(**case if case in OTHERS else {})
    assert "net.checkpoint is no checkpoint of this training" in said and "Resuming" not in said


def test_a_training_that_was_over_is_only_scored(stopped, capsys):
    summary = again(stopped, epochs=2).info["summary"]
    found = summary["epochs"], summary["stop_reason"], summary["test"]["total"]
    assert RESUMES in capsys.readouterr().err and found == (2, "all epochs", 12)
    assert not (stopped / "net.checkpoint").exists()


@pytest.mark.slow
def test_patience_counts_across_a_stop(dataset, tmp_path):
    settings = {**SMALL, "dataset": str(dataset), "epochs": 9, "patience": 2}
    settings |= {"optimizer": "sgd", "learning_rate": 1e-12}  # its loss will not fall
    stopped_training(tmp_path, "in a step", **settings)
    classifier = quick(tmp_path, **settings)
    classifier.train()
    summary = classifier.info["summary"]
    assert summary["stop_reason"] == "stopped early"
    assert summary["epochs"] == summary["best_epoch"] + 2


def test_what_a_killed_run_has_left_half_written_is_swept_up(stopped):
    for name in (".net.h5.0123abcd.tmp", ".net.checkpoint.0123abcd.tmp", ".other.h5.01.tmp"):
        (stopped / name).write_bytes(b"half")
    again(stopped, epochs=3, quiet=True)
    assert [path.name for path in stopped.glob(".*.tmp")] == [".other.h5.01.tmp"]


def test_a_file_of_somebody_in_the_place_of_the_checkpoint_is_never_lost(dataset, tmp_path):
    (tmp_path / "net.checkpoint").write_text("my notes")
    with pytest.raises(program.CatDogError, match="not written by this program"):
        small(tmp_path, epochs=1, dataset=str(dataset)).train()
    assert (tmp_path / "net.checkpoint").read_text() == "my notes"
    assert not (tmp_path / "net.h5").exists()  # it was said before the first epoch


# Signals and kills, of real processes. ------------------------------------------------------------

SERVER = """
import json, os, sys
import CatDogClassifier as program
import h5py, keras, matplotlib.figure, tensorflow
for line in sys.stdin:
    out, err, arguments = json.loads(line)
    child = os.fork()  # the libraries are imported, but nothing in them has run
    if not child:
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(os.open(err, os.O_WRONLY), 2)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")
        raise SystemExit(program.main(arguments))
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def server():
    """A process that runs the command line in forks of itself: TensorFlow is imported once."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    environment = {**os.environ, "PYTHONPATH": str(REPO), "TF_CPP_MIN_LOG_LEVEL": "3"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SERVER], env=environment, **pipes) as process:
        yield process
        process.stdin.close()


class Run:
    """The command line in a process of its own, to be killed."""

    def __init__(self, server, folder, *arguments, out=os.devnull):
        folder.mkdir(exist_ok=True)
        self.server, self.said, pipe = server, "", folder / f"err-{os.urandom(4).hex()}"
        os.mkfifo(pipe)
        request = [str(out), str(pipe), list(map(str, arguments))]
        print(json.dumps(request), file=server.stdin, flush=True)
        self.child, self.stderr = int(server.stdout.readline()), open(pipe)  # noqa: SIM115
        pipe.unlink()

    def wait_for(self, text):
        """Read what it says until a text comes, or its end."""
        while text not in self.said and (line := self.stderr.readline()):
            self.said += line

    def end(self):
        """Its exit code, or minus the signal that killed it."""
        self.said += self.stderr.read()
        self.stderr.close()
        code = os.waitstatus_to_exitcode(int(self.server.stdout.readline()))
        assert "Traceback" not in self.said
        return code

    def epochs(self):
        """How many whole epochs it has told of."""
        return sum(line.startswith("epoch ") for line in self.said.splitlines())


TRAINING = flags(**SMALL, epochs=6, batch_size=8, seed=5, optimizer="adam")
TRAINING += ["--no-augment", "--precision", "float32"]


def training(server, folder, data, *more):
    weights = ["--dataset", data, "--weights", folder / "net.h5"]
    return Run(server, folder, *weights, *TRAINING, *more)


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    """(dataset, history, seconds) of a training that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    data = make_dataset(folder / "data", {"train": 12, "validation": 6, "test": 6})
    run = training(server, folder, data)
    assert (run.end(), run.epochs()) == (0, 6)
    return data, losses(folder), load(folder / "net.h5").info["summary"]["seconds"]


def check_what_is_left(server, run, folder, undisturbed):
    """After a kill all that is there loads, and the same command ends as if nothing had happened.

    Returns how many epochs were saved; at most the one under way may be lost.
    """
    if run.epochs():
        load(folder / "net.h5")
    after = training(server, folder, undisturbed[0])
    assert after.end() == 0 and losses(folder) == undisturbed[1]
    assert not [path for path in folder.iterdir() if path.suffix in (".tmp", ".checkpoint")]
    _, found, rest = after.said.partition("Resuming after epoch ")
    saved = int(rest.split()[0]) if found else 0
    assert saved >= run.epochs() or run.epochs() == 6
    return saved


@posix
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, *slow(signal.SIGTERM)])
@pytest.mark.parametrize("times", [1, pytest.param(100, marks=marathon)])
def test_a_kill_at_any_moment_loses_at_most_one_epoch(server, undisturbed, tmp_path, number, times):
    """At random moments after the start, or after one of the epochs."""
    codes = {signal.SIGKILL: -9, signal.SIGTERM: 130, signal.SIGINT: 130}
    rng, seen = np.random.default_rng(int(number)), set()
    lines = ["Ctrl-C stops", *(f"epoch  {epoch}" for epoch in range(1, 7))]
    for turn in range(times):
        folder = tmp_path / str(turn)
        run = training(server, folder, undisturbed[0])
        run.wait_for(rng.choice(lines) if times > 1 else "epoch  2")
        delay = rng.uniform(0, undisturbed[2] / 3) if times > 1 else 0
        timer = threading.Timer(delay, os.kill, (run.child, number))
        timer.start()
        code = run.end()
        timer.cancel()
        assert code in (codes[number], 0) if times > 1 else code == codes[number]
        seen.add(check_what_is_left(server, run, folder, undisturbed))
        shutil.rmtree(folder)
    assert times == 1 or set(range(1, 6)) <= seen  # all parts of the training were hit


def test_a_second_signal_leaves_at_once(dataset, tmp_path, monkeypatch):
    def twice(model):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it went on")

    at(monkeypatch, "on_train_batch_end", 2, twice)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path, dataset=str(dataset)).train()
    assert load(tmp_path / "net.h5").info["summary"]["epochs"] == 1
    assert (tmp_path / "net.checkpoint").exists()


SAVER = """
import json, os, signal, sys, types
from pathlib import Path
import numpy as np
import CatDogClassifier as program

class Weight(np.ndarray):
    name = "kernel"

def classifier(number):
    weight = np.full((500, 500), number, np.float32).view(Weight)
    layer = types.SimpleNamespace(name="layer", weights=[weight])
    found = program.CatDogClassifier(weights=sys.argv[1], quiet=True)
    model = types.SimpleNamespace(layers=[layer], get_weights=lambda: [weight], optimizer=None)
    found.net = program.Net(model, program.new_info(found.settings, ["cat", "dog"], run="x"))
    return found

pair, path, half = [classifier(0), classifier(1)], Path(sys.argv[1]), 0
contents = [program.save_h5(each.net) for each in pair]
pair[0].save_weights()
times, rng = int(sys.argv[2]), np.random.default_rng(60)
for done in range(50 * times):
    if done >= times and half > times / 10:
        break  # on a busy machine more are needed until enough were inside a save
    delay = rng.uniform(0, 0.03)
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, delay + 1e-6)  # the kernel kills it, as kill -9 does
        while True:
            for each in pair:
                each.save_weights()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGALRM
    assert path.read_bytes() in contents
    left = [name for name in path.parent.iterdir() if name != path]
    half += bool(left)
    for name in left:
        assert name.suffix == ".tmp", name
        name.unlink()
print(half / times)
"""


@posix
@pytest.mark.parametrize("times", [60, pytest.param(5_000, marks=marathon)])
def test_a_kill_inside_the_save_leaves_the_old_weights_or_the_new(tmp_path, times):
    """At random moments of a process that does nothing but save two nets in turn."""
    done = python("-c", SAVER, tmp_path / "net.h5", times, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0.1, "too few of the kills were inside a save"


def test_sigterm_while_it_classifies_ends_it_as_ctrl_c_does(dataset, whole, run, monkeypatch):
    opened, once = Image.open, iter([signal.SIGTERM])  # one more, after its end, would end pytest

    def terminated(*arguments, **more):
        [signal.raise_signal(number) for number in once]
        return opened(*arguments, **more)

    monkeypatch.setattr(Image, "open", terminated)
    code, _, err = run("-d", dataset, "--weights", whole.settings.weights)
    assert (code, err.splitlines()[-1]) == (130, "CatDogClassifier: interrupted")


# Disks, and trainings that go wrong. --------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A file system of 40 MB of its own."""
    folder, options = tmp_path / "disk", ["-t", "tmpfs", "-o", "size=40m", "tmpfs"]
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("only root on Linux may mount")
    if subprocess.run(["mount", *options, folder], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


LEVELS = [0, 1, 4, 40, 256, 1000, *range(2000, 30000, 2000)]  # kB left beside the earlier weights


@pytest.mark.parametrize("levels", [[0, 2000, 28000], *slow(LEVELS)])
def test_a_full_disk_leaves_old_or_new_weights_whole(disk, dataset, whole, run, levels):
    earlier, path, codes = Path(whole.settings.weights).read_bytes(), disk / "net.h5", []
    for free in levels:
        for old in disk.iterdir():
            old.unlink()
        path.write_bytes(earlier)
        (disk / "fill").write_bytes(bytes(max(0, shutil.disk_usage(disk).free - free * 1024)))
        code, _, err = run(*flags(dataset=dataset, weights=path, **SMALL, epochs=1), "-q")
        codes.append(code)
        (disk / "fill").unlink()
        load(path)
        assert code == 0 or str(disk) in err
        assert not [name for name in os.listdir(disk) if name.endswith(".tmp")]
    assert set(codes) == {0, 1} and (codes[0], codes[-1]) == (1, 0)


def test_training_goes_on_with_a_full_disk_and_saves_later(dataset, tmp_path, monkeypatch, capsys):
    full = OSError(errno.ENOSPC, "No space left on device")
    twice = [full] * 2 + [None] * 99  # the weights and, in the next epoch, whatever comes first
    classifier = small(tmp_path, epochs=3)
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=twice))
    classifier.train(dataset)
    said = capsys.readouterr().err
    assert said.count("No space left on device") == 2
    assert f"cannot write {tmp_path / 'net.h5'}" in said
    assert equal(load(tmp_path / "net.h5").model.get_weights(), classifier.model.get_weights())


@pytest.mark.parametrize("how", ["a folder is in the way", "a file of others", "no matplotlib"])
def test_pictures_never_cost_weights_nor_files_of_others(dataset, tmp_path, run, monkeypatch, how):
    path = tmp_path / "net_loss.png"
    if how == "a folder is in the way":
        path.mkdir()
    elif how == "no matplotlib":
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    else:
        Image.new("RGB", (8, 8)).save(path)
        (tmp_path / "net_history.csv").write_text("epoch,weather\n1,rain\n")
    before = tree(tmp_path)
    line = flags(dataset=dataset, weights=tmp_path / "net.h5", **SMALL, epochs=1)
    code, out, err = run(*line, "-q")
    assert (code, "Traceback" in err, f"{path} is missing" in err) == (1, False, True)
    saved = out[out.index("saved") :]
    found = [name in saved for name in ("net.h5", "net_history.csv", "net_loss.png")]
    assert found == [True, how != "a file of others", False]
    assert load(tmp_path / "net.h5").predict(dataset / "test")
    assert before.items() <= tree(tmp_path).items()


def test_names_that_differ_behind_the_dot_are_different_trainings():
    for name in ("run_0.01", "run_0.02", "x.checkpoint", "pets", "pets.keras"):
        assert program.beside(name, "_loss.png").name == name + "_loss.png"
    assert program.beside("a/pets.h5", "_loss.png") == Path("a/pets_loss.png")


def test_a_diverged_training_ends_with_its_best_weights_kept(dataset, tmp_path, run, monkeypatch):
    at(monkeypatch, "on_train_batch_end", 3, lambda net: net.layers[-1].bias.assign([np.nan]))
    code, out, _ = run(*flags(dataset=dataset, weights=tmp_path / "net.h5", **SMALL, epochs=9))
    assert code == 1 and "of 2, diverged" in out
    assert "Loss or weights were no numbers any more. Try a smaller --learning-rate" in out
    assert not (tmp_path / "net.checkpoint").exists()
    loaded = load(tmp_path / "net.h5")
    assert all(np.isfinite(weight).all() for weight in loaded.model.get_weights())
    assert loaded.info["summary"]["stop_reason"] == "diverged"


# Streams. -----------------------------------------------------------------------------------------


@linux  # it has /dev/full
@pytest.mark.parametrize("style", [[], ["--json"], ["--csv"]])
def test_results_that_cannot_be_printed_are_one_line(server, dataset, whole, tmp_path, style):
    line = ["-d", dataset / "test", "--weights", whole.settings.weights, *style]
    run = Run(server, tmp_path / "run", *line, out="/dev/full")
    assert run.end() == 1
    assert run.said.splitlines()[-1] == "CatDogClassifier: output: No space left on device"


@pytest.mark.slow
@posix
@pytest.mark.parametrize("closed", ["0<&- 1>&- 2>&-", "2>&-"])
def test_closed_streams_do_not_matter(dataset, tmp_path, closed):
    given = flags(dataset=dataset, weights=tmp_path / "net.h5", **SMALL, epochs=1)
    line = ["sh", "-c", f'"{sys.executable}" "{PROGRAM}" "$@" {closed}', "sh", *given]
    done = subprocess.run(line, capture_output=True)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert load(tmp_path / "net.h5").predict(dataset / "test")
