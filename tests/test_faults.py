"""Room 9 and what it rests on: a training survives signals, kills, full disks and itself; what was saved is never lost."""

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import CatDogClassifier as program
from CatDogClassifier import CatDogClassifier
from conftest import REPO, both, forward, make_dataset, python, quick

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


def losses(folder):
    with open(Path(folder, "net_history.csv")) as file:
        return list(csv.DictReader(file))


def state(folder):
    """(recipe, facts) of the unfinished training in a folder; None when there is none that is whole."""
    found = program.read_sealed(Path(folder, "net.unfinished"))
    return found and found[1:]


class Interrupted(Exception):
    """Stands for a kill that Python cannot see."""


def stop(monkeypatch, where, epoch):
    """Let a training be stopped while it is at a place in an epoch, counted from 1."""
    def signalled(method, act):
        original = getattr(program.Training, method)

        def wrapped(training, batch, logs):
            if training.progress.epochs + 1 == epoch:
                act()
            return original(training, batch, logs)

        monkeypatch.setattr(program.Training, method, wrapped)

    def kill(*arguments):
        raise Interrupted

    if where == "step":
        signalled("end_batch", lambda: signal.raise_signal(signal.SIGINT))
    elif where == "validation":
        signalled("look", lambda: signal.raise_signal(signal.SIGINT))
    elif where == "killed between the two saves":
        save = CatDogClassifier._save_state
        monkeypatch.setattr(CatDogClassifier, "_save_state", lambda self, recipe, training: (
            kill() if training.progress.epochs == epoch else save(self, recipe, training)))
    elif where == "killed while scoring":
        monkeypatch.setattr(CatDogClassifier, "_judge", kill)


@pytest.mark.parametrize(("where", "epoch", "optimizer"), [
    ("step", 2, "rmsprop"), ("step", 4, "adam"), ("validation", 3, "rmsprop"), ("killed between the two saves", 3, "adam"),
    ("killed while scoring", None, "rmsprop"), ("validation", 3, "muon")])
def test_a_resumed_training_ends_exactly_as_one_that_was_never_stopped(dataset, tmp_path, monkeypatch, where, epoch, optimizer):
    """With --seed on the same machine: the same numbers to the last bit, in history, weights and scores."""
    settings = {"epochs": 4, "augment": True, "optimizer": optimizer, "learning_rate": 1e-4, "dataset": str(dataset), "quiet": True}
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = quick(tmp_path / "whole", **settings)
    whole.train()
    with monkeypatch.context() as patch, contextlib.suppress(Interrupted):
        stop(patch, where, epoch)
        quick(tmp_path / "parts", **settings).train()
    assert (tmp_path / "parts" / "net.unfinished").exists()
    parts = quick(tmp_path / "parts", **settings)
    parts.train()
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "parts")) == 4
    for one, other in zip(parts.model.get_weights(), whole.model.get_weights(), strict=True):
        assert np.array_equal(one, other)
    same = ("best_epoch", "epochs", "ending", "validation", "test", "learned")
    assert {name: parts.summary[name] for name in same} == {name: whole.summary[name] for name in same}
    assert not (tmp_path / "parts" / "net.unfinished").exists()
    assert not (tmp_path / "parts" / "net.previous.h5").exists()  # it is one training, not a second one


@pytest.fixture(scope="module")
def once_stopped(tmp_path_factory):
    """A folder with a dataset, and what a training that was stopped in its third epoch of four has left."""
    folder = tmp_path_factory.mktemp("stopped")
    data = make_dataset(folder / "data", {"train": 12, "validation": 6, "test": 6})
    with pytest.MonkeyPatch.context() as patch:
        stop(patch, "step", 3)
        quick(folder, epochs=4, dataset=str(data)).train()
    return folder


@pytest.fixture
def stopped(once_stopped, tmp_path):
    """A copy of that folder."""
    return Path(shutil.copytree(once_stopped, tmp_path / "stopped"))


def again(folder, **settings):
    """The same training once more."""
    classifier = quick(folder, **{"epochs": 1, "dataset": str(folder / "data"), "quiet": False, **settings})
    classifier.train()
    return classifier


def test_a_stopped_training_says_where_it_goes_on(stopped, capsys):
    again(stopped, epochs=3)
    assert "Going on after epoch 2 of an unfinished training (--fresh starts over)." in capsys.readouterr().err
    assert len(losses(stopped)) == 3


@pytest.mark.parametrize("setting", [{"batch_size": 4}, {"optimizer": "sgd"}, {"learning_rate": 0.01}, {"augment": True},
                                     {"seed": 2}, {"seed": None}, {"precision": "float32"}])
def test_a_training_of_another_recipe_is_not_gone_on_with_and_that_is_said(stopped, capsys, setting):
    again(stopped, **setting)
    (name,) = setting
    flag = "--no-augment" if name == "augment" else "--" + name.replace("_", "-")
    assert f"net.unfinished is of another kind (other {flag}): starting over" in capsys.readouterr().err
    assert len(losses(stopped)) == 1


@pytest.mark.parametrize("what", ["photos", "rung", "damaged", "of another net", "of another program", "link to nowhere",
                                  "a policy", "a number", "a history", "a random state"])
def test_a_state_that_belongs_elsewhere_or_is_damaged_is_not_gone_on_with(stopped, capsys, what):
    path = stopped / "net.unfinished"
    content, recipe, facts = program.read_sealed(path)
    if what == "photos":
        shutil.copy(stopped / "data/train/cat/cat.0.png", stopped / "data/train/cat/cat.1.png")
    elif what == "rung":
        path.write_bytes(b"".join(program.sealed({**recipe, "net": "vgg16"}, [content.tobytes()], facts)))
    elif what == "damaged":
        damaged = bytearray(path.read_bytes())
        damaged[5_000_000] ^= 1
        path.write_bytes(damaged)
    elif what == "of another net":
        path.write_bytes(b"".join(program.sealed(recipe, [content.tobytes()[:-4]], facts)))
    elif what == "of another program":
        path.write_bytes(b"".join(program.sealed([1], [b""], "x")))
    elif what == "link to nowhere":
        path.unlink()
        path.symlink_to("nowhere")
    else:  # forged: a seal is no signature
        change = {"a policy": {"policy": "evil"}, "a number": {"kept": "x"}, "a history": {"history": {"loss": [1.0], "acc": []}},
                  "a random state": {"random": {"bit_generator": "x"}}}[what]
        path.write_bytes(b"".join(program.sealed(recipe, [content.tobytes()], {**facts, **change})))
    again(stopped)
    said = capsys.readouterr().err
    assert "net.unfinished" in said
    assert "starting over" in said
    assert "Going on" not in said
    assert len(losses(stopped)) == 1


def test_fresh_starts_over(stopped, capsys):
    again(stopped, fresh=True)
    assert "Going on" not in capsys.readouterr().err
    assert len(losses(stopped)) == 1


def finished(path):
    """The summary in a weights file."""
    return program.facts_of(path)["summary"]


def test_the_weights_of_a_finished_training_are_never_lost_to_one_that_was_killed(dataset, tmp_path, monkeypatch):
    quick(tmp_path, epochs=2, dataset=str(dataset)).train()
    best = (tmp_path / "net.h5").read_bytes()
    for batch_size in (8, 4, 2):  # each time another training, so none goes on with the one before
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            stop(patch, "killed while scoring", None)
            quick(tmp_path, epochs=1, batch_size=batch_size, dataset=str(dataset)).train()
        assert (tmp_path / "net.previous.h5").read_bytes() == best
        assert finished(tmp_path / "net.h5") == {}


def test_weights_put_in_the_place_of_those_of_an_unfinished_training_are_kept(stopped, weights):
    shutil.copy(weights, stopped / "net.h5")
    again(stopped, epochs=3)  # goes on
    assert (stopped / "net.previous.h5").read_bytes() == Path(weights).read_bytes()


def test_a_training_that_was_over_is_only_scored(stopped, capsys):
    classifier = again(stopped, epochs=2)
    assert "Going on after epoch 2 of an unfinished training (--fresh starts over); --epochs asks for no more." in capsys.readouterr().err
    assert (classifier.summary["epochs"], classifier.summary["ending"]) == (2, "all epochs")
    assert classifier.summary["test"]["total"] == 12
    assert not (stopped / "net.unfinished").exists()


def test_patience_counts_across_a_stop(dataset, tmp_path, monkeypatch):
    settings = {"dataset": str(dataset), "epochs": 9, "patience": 2, "learning_rate": 1e-12, "optimizer": "sgd"}
    (tmp_path / "whole").mkdir()
    whole = quick(tmp_path / "whole", **settings)
    whole.train()
    with monkeypatch.context() as patch:
        stop(patch, "step", whole.summary["epochs"])
        quick(tmp_path, **settings).train()
    classifier = quick(tmp_path, **settings)
    classifier.train()
    assert classifier.summary["ending"] == whole.summary["ending"] == "stopped early"
    assert classifier.summary["epochs"] == whole.summary["epochs"]


# Signals and kills, of real processes. ------------------------------------------------------------------------------

SERVER = """
import json, os, sys
import CatDogClassifier as program
import h5py, keras, matplotlib.figure, tensorflow
for line in sys.stdin:
    folder, arguments = json.loads(line)
    child = os.fork()  # the libraries are imported, but nothing in them has run
    if not child:
        os.dup2(os.open(folder + "/out", os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(os.open(folder + "/err", os.O_WRONLY | os.O_CREAT), 2)
        raise SystemExit(program.main(arguments))
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def server():
    """A process that runs the command line in forks of itself, which saves the time of importing TensorFlow."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONPATH": str(REPO), "TF_CPP_MIN_LOG_LEVEL": "3"}) as process:
        yield process
        process.stdin.close()


class Run:
    """A training on the command line, to be killed."""

    def __init__(self, server, folder, *arguments):
        self.server, self.folder = server, folder
        folder.mkdir(exist_ok=True)
        for name in ("out", "err"):
            (folder / name).write_text("")
        print(json.dumps([str(folder), ["--weights", str(folder / "net.h5"), *map(str, arguments)]]), file=server.stdin, flush=True)
        self.child = int(server.stdout.readline())

    def wait_for(self, text):
        while text not in (self.folder / "err").read_text() and Path(f"/proc/{self.child}").exists():
            time.sleep(0.005)

    def kill(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, number)

    def end(self):
        """Its exit code, or minus the signal that killed it."""
        return os.waitstatus_to_exitcode(int(self.server.stdout.readline()))

    def announced(self):
        return sum(line.startswith("epoch ") for line in (self.folder / "err").read_text().splitlines())


EPOCHS = 6
QUICKLY = ["--precision", "float32", "--optimizer", "adam"]  # soonest compiled
SMALL = ["--epochs", EPOCHS, "--batch-size", 8, "--seed", 5, "--patience", 0, *QUICKLY]


@pytest.fixture(scope="module")
def small(server, tmp_path_factory):
    """(dataset, history, seconds) of a small training that nobody stopped."""
    folder = tmp_path_factory.mktemp("small")
    data = make_dataset(folder / "data", {"train": 12, "validation": 6, "test": 6})
    for name in ("first", "second"):  # the first one fills the cache
        run = Run(server, folder / name, "--dataset", data, *SMALL)
        run.wait_for("Ctrl-C stops")
        started = time.monotonic()
        assert run.end() == 0
    return data, losses(folder / "second"), time.monotonic() - started


def check_what_is_left(run, model):
    """After a kill: everything there is loads, at most the epoch under way is lost. Returns the epochs that were saved."""
    folder = run.folder
    if (folder / "net.h5").exists():
        program.unpack_weights(folder / "net.h5", model)
    left = state(folder) if (folder / "net.unfinished").exists() else None
    assert left or not (folder / "net.unfinished").exists(), "the state is damaged"
    over = run.announced() == EPOCHS
    assert left or over or run.announced() == 0
    saved = left[1]["seconds"] if left else []
    assert over or len(saved) >= run.announced()
    assert not run.announced() or (folder / "net.h5").exists()
    return len(saved)


def go_on(server, run, small):
    """The same command once more: it must end as if nothing had happened, and leave nothing half-written."""
    again = Run(server, run.folder, "--dataset", small[0], *SMALL)
    assert again.end() == 0
    assert losses(run.folder) == small[1]
    assert not [path.name for path in run.folder.iterdir() if path.suffix == ".tmp"]


def killed(server, small, tmp_path, number, times, seed):
    """Trainings killed at random moments between the first step and the exit; yields each."""
    rng = np.random.default_rng(seed)
    for i in range(times):
        run = Run(server, tmp_path / str(i), "--dataset", small[0], *SMALL)
        run.wait_for("Ctrl-C stops")
        time.sleep(rng.uniform(0, small[2]))
        run.kill(number)
        yield i, run


def kill_9(server, small, tmp_path, trained, times, each):
    model, seen = program.build_model("default", trained.settings), []
    for i, run in killed(server, small, tmp_path, signal.SIGKILL, times, seed=9):
        assert run.end() in (-signal.SIGKILL, 0)
        seen.append(check_what_is_left(run, model))
        if i % each == 0:
            go_on(server, run, small)
        shutil.rmtree(run.folder)
    return seen


@posix
def test_kill_9_at_any_moment_leaves_what_loads_and_loses_at_most_one_epoch(server, small, tmp_path, trained):
    kill_9(server, small, tmp_path, trained, times=4, each=3)


@posix
@pytest.mark.slow
def test_kill_9_at_200_random_moments(server, small, tmp_path, trained):
    seen = kill_9(server, small, tmp_path, trained, times=200, each=10)
    assert set(range(1, EPOCHS)) <= set(seen)  # all parts of the training were hit


SAVING = """
import sys, CatDogClassifier as program
weights, contents = sys.argv[1], [open(path, "rb").read() for path in sys.argv[2:]]
while True:
    for content in contents:
        program.write_whole(weights, content)
        print("saved", flush=True)
"""


@posix
def test_kill_9_inside_the_save_leaves_the_old_weights_or_the_new(tmp_path, trained, weights):
    """60 times, at a random moment of a process that does nothing but save two nets in turn."""
    rng, model = np.random.default_rng(60), program.build_model("default", trained.settings)
    contents = [Path(weights).read_bytes(), program.pack_weights(model, trained.facts)]
    for name, content in zip("ab", contents, strict=True):
        (tmp_path / name).write_bytes(content)
    path, half = tmp_path / "net.h5", 0
    for _ in range(60):
        process = subprocess.Popen([sys.executable, "-c", SAVING, path, tmp_path / "a", tmp_path / "b"], stdout=subprocess.PIPE,
                                   env={**os.environ, "PYTHONPATH": str(REPO)})
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
        half += any(name.name.endswith(".tmp") for name in tmp_path.iterdir())
        assert path.read_bytes() in contents
        program.unpack_weights(path, model)
        program.check_writable(path)  # as the next training does: it sweeps up
        assert {entry.name for entry in tmp_path.iterdir()} == {"a", "b", "net.h5"}
    assert half >= 20, "too few of the kills were inside a save"


def sigterm(server, small, tmp_path, trained, times):
    model, codes, slowest = program.build_model("default", trained.settings), [], 0
    for _, run in killed(server, small, tmp_path, signal.SIGTERM, times, seed=15):
        sent = time.monotonic()
        codes.append(run.end())
        slowest = max(slowest, time.monotonic() - sent)
        check_what_is_left(run, model)
        assert "Traceback" not in (run.folder / "err").read_text()
        shutil.rmtree(run.folder)
    assert set(codes) <= {143, 0, -signal.SIGTERM}  # over already; or past the end of the program
    assert slowest < 5
    return codes


@posix
def test_sigterm_saves_and_leaves_within_5_seconds(server, small, tmp_path, trained):
    sigterm(server, small, tmp_path, trained, times=3)


@posix
@pytest.mark.slow
def test_sigterm_100_times(server, small, tmp_path, trained):
    assert sigterm(server, small, tmp_path, trained, times=100).count(143) > 70


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_leaves_at_once(server, small, tmp_path, number):
    run = Run(server, tmp_path / "run", "--dataset", small[0], *SMALL, "--epochs", 1000)
    run.wait_for("epoch  2")
    run.kill(number)
    time.sleep(0.002)
    run.kill(number)
    assert run.end() == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert "Traceback" not in (run.folder / "err").read_text()
    assert len(state(run.folder)[1]["seconds"]) >= 2


# Disks. --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A file system of 40 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_never_costs_the_earlier_weights(disk, dataset, trained, weights, run, monkeypatch):
    """20 fill levels, from no room at all to room for everything."""
    earlier, model = Path(weights).read_bytes(), program.build_model("default", trained.settings)
    codes = []
    for free in [0, 1, 4, 40, 256, 1000, *range(2000, 30000, 2000)]:  # kB left beside the earlier weights
        for path in disk.iterdir():
            path.unlink()
        path = disk / "net.h5"
        path.write_bytes(earlier)
        left = shutil.disk_usage(disk).free
        (disk / "fill").write_bytes(bytes(max(0, left - free * 1024)))
        code, _, err = run("--dataset", dataset, "--weights", path, *QUICKLY, "--epochs", 1, "--batch-size", 24, "-q")
        codes.append(code)
        (disk / "fill").unlink()
        if path.read_bytes() != earlier:
            assert (disk / "net.previous.h5").read_bytes() == earlier
        program.unpack_weights(path, model)
        assert code in (0, 1)
        assert code == 0 or str(disk) in err
        assert "Traceback" not in err
        assert not [name for name in os.listdir(disk) if name.endswith(".tmp")]
    assert len(codes) >= 20
    assert codes[0] == 1
    assert codes[-1] == 0


def test_training_goes_on_while_the_disk_is_full_and_saves_when_there_is_room_again(dataset, tmp_path, monkeypatch, capsys):
    attempts, fsync = [], os.fsync

    def full_at_first(descriptor):
        attempts.append(descriptor)
        if len(attempts) <= 2:  # weights and state of the first epoch
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    classifier = quick(tmp_path, epochs=2)
    classifier.load_data(dataset)  # the cache of the photos is written
    monkeypatch.setattr(os, "fsync", full_at_first)
    classifier.train(dataset)
    said = capsys.readouterr().err
    assert said.count("No space left on device") == 2
    assert str(tmp_path / "net.h5") in said
    assert CatDogClassifier(weights=str(tmp_path / "net.h5"), quiet=True).predict(dataset / "test")


@pytest.mark.parametrize("how", ["the folder is in the way", "drawing fails", "no matplotlib"])
def test_pictures_never_cost_weights(dataset, tmp_path, run, monkeypatch, how):
    if how == "the folder is in the way":
        (tmp_path / "net_loss.png").mkdir()
    elif how == "drawing fails":
        monkeypatch.setattr(program, "draw_curves", lambda *arguments: 1 / 0)
    else:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run("--dataset", dataset, "--weights", tmp_path / "net.h5", "--epochs", 1, "-q")
    assert code == 1
    assert str(tmp_path / "net_loss.png") in err
    assert "Traceback" not in err
    saved = out[out.index("saved") :]
    assert "net.h5" in saved
    assert "net_history.csv" in saved
    assert "net_loss.png" not in saved
    assert CatDogClassifier(weights=str(tmp_path / "net.h5"), quiet=True).predict(dataset / "test")


def other_hdf5():
    """An HDF5 file of somebody's data."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["x"] = np.arange(10)
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"# My notes", b"\x89PNG\r\n\x1a\n", b"cat", other_hdf5()])
def test_a_file_that_holds_no_weights_is_never_replaced(dataset, tmp_path, run, content):
    path = tmp_path / "README.md"
    path.write_bytes(content)
    code, _, err = run("--dataset", dataset, "--weights", path, "--epochs", 1)
    assert code == 1
    assert "README.md holds no weights" in err
    assert path.read_bytes() == content


def test_names_that_differ_behind_the_dot_are_different_trainings():
    for name in ("run_0.01", "run_0.02", "x.unfinished", "pets", "pets.keras"):
        assert program.beside(name, "_loss.png").name == name + "_loss.png"
        assert program.beside(name, program.UNFINISHED).name != name
    assert program.beside("a/pets.h5", "_loss.png") == Path("a/pets_loss.png")


@posix
def test_a_name_too_long_to_be_written_is_refused_before_the_training(dataset, tmp_path, run):
    code, _, err = run("--dataset", dataset, "--weights", tmp_path / ("x" * 245 + ".h5"), "--epochs", 1)
    assert code == 1
    assert "File name too long. Name another --weights" in err
    assert err.count("\n") == 1


@posix
def test_the_mode_of_the_weights_is_kept(tmp_path):
    path = tmp_path / "net.h5"
    path.write_bytes(b"old")
    path.chmod(0o600)
    program.write_whole(path, b"new")
    assert path.stat().st_mode & 0o777 == 0o600


# Trainings that go wrong. --------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_any_more_stops_the_training_and_the_best_weights_are_kept(dataset, tmp_path, run, monkeypatch):
    look, kept = program.Training.look, []

    def poisoned(training, batch, logs):
        if training.progress.epochs == 2:
            training.model.layers[-1].kernel.assign(training.model.layers[-1].kernel * np.nan)
            logs = {**logs, "loss": float("nan")}
        elif training.progress.kept:
            kept[:] = training.weights
        return look(training, batch, logs)

    monkeypatch.setattr(program.Training, "look", poisoned)
    code, out, err = run("--dataset", dataset, "--weights", tmp_path / "net.h5", "--epochs", 9, "--optimizer", "adam", "--seed", 1)
    assert code == 1
    assert "of 2, diverged" in out
    assert "loss or weights were no numbers" in out
    assert "--learning-rate" in out
    assert not (tmp_path / "net.unfinished").exists()
    loaded = CatDogClassifier(weights=str(tmp_path / "net.h5"), quiet=True)
    loaded.load_weights()
    assert all(np.isfinite(weight).all() for weight in loaded.model.get_weights())
    assert loaded.facts["summary"]["ending"] == "diverged"


def test_a_learning_rate_that_is_far_too_large_is_said_in_one_line(dataset, tmp_path, run):
    code, out, err = run("--dataset", dataset, "--weights", tmp_path / "net.h5", "--epochs", 30, "--learning-rate", "3e38",
                         "--optimizer", "adam", "-q")
    assert (code, out) == (1, "")
    assert err == "CatDogClassifier: loss or weights are no numbers from the start. Try a smaller --learning-rate\n"
    assert not (tmp_path / "net.h5").exists()


def test_weights_that_are_not_finite_are_never_kept_even_if_the_loss_is(dataset, tmp_path, monkeypatch):
    """A rectified layer can hide a number that is none."""
    end_epoch = program.Training.end_epoch

    def poisoned(training, epoch, logs):
        if epoch == 1:
            training.model.layers[0].bias.assign(training.model.layers[0].bias * np.nan)
            logs = {**logs, "loss": 0.1, "val_loss": 0.0}
        return end_epoch(training, epoch, logs)

    monkeypatch.setattr(program.Training, "end_epoch", poisoned)
    classifier = quick(tmp_path, epochs=2)
    classifier.train(dataset)
    assert (classifier.kept, classifier.summary["ending"]) == (1, "diverged")


def test_a_net_that_has_not_learned_after_ten_epochs_is_saved_marked_and_exits_with_3(tmp_path, run):
    data = make_dataset(tmp_path / "data", {"train": 8, "validation": 8})
    common = ["--dataset", data, "--weights", tmp_path / "net.h5", "--learning-rate", "1e-9", "--patience", 0, "-q"]
    code, out, _ = run(*common, "--epochs", 10)
    assert code == 3
    assert "It has not learned to tell them apart" in out
    assert json.loads(h5py.File(tmp_path / "net.h5").attrs["catdogclassifier"])["summary"]["learned"] is False
    _, _, err = run("-f", data / "train/cat/cat.0.png", "--weights", tmp_path / "net.h5")
    assert "has not learned" in err


def test_few_photos_that_are_all_right_show_that_a_net_has_learned():
    labels = np.array([[0.0]] * 3 + [[1.0]] * 3)
    assert program.better_than_guessing(program.score(both(labels[:, 0]), labels))
    assert not program.better_than_guessing(program.score(both(labels[::-1, 0]), labels))


def test_who_always_names_the_larger_class_has_not_learned():
    labels = np.array([[0.0]] * 900 + [[1.0]] * 100)
    assert not program.better_than_guessing(program.score(both(np.zeros(1000)), labels))  # 90 % right, of course
    rng = np.random.default_rng(0)
    assert not program.better_than_guessing(program.score(both((rng.random(1000) < 0.3).astype(float)), labels))
    right = np.where(rng.random(1000) < 0.7, labels[:, 0], 1 - labels[:, 0])
    assert program.better_than_guessing(program.score(both(right), labels))  # 70 % of either class: less, but better


def test_unequal_classes_are_told_and_weigh_the_same(tmp_path, run):
    data = make_dataset(tmp_path / "data", {"train": 12, "validation": 4})
    for number in range(3, 12):
        os.remove(data / "train" / "dog" / f"dog.{number}.png")
    _, _, err = run("--dataset", data, "--weights", tmp_path / "net.h5", "--epochs", 1)
    assert "15 photos to train on (12 cat, 3 dog), 8 to validate (4 cat, 4 dog)" in err
    assert "it counts a cat 0.62 times, a dog 2.50 times" in err


def test_balanced_batches_carry_the_weight_of_each_photo():
    photos = np.zeros((10, 4, 4, 3), np.uint8)
    labels = np.array([[0.0]] * 8 + [[1.0]] * 2, np.float32)
    batches, weights = program.balanced(program.make_batches(photos, labels, 4), labels)
    assert weights.tolist() == [0.625, 2.5]
    parts = [tuple(map(np.asarray, batch)) for batch in batches]
    assert np.array_equal(np.concatenate([weight for _, _, weight in parts]), np.where(labels, 2.5, 0.625))
    assert np.array_equal(np.concatenate([truth for _, truth, _ in parts]), labels)
    equal = program.make_batches(photos, np.tile([[0.0], [1.0]], (5, 1)).astype(np.float32), 4)
    assert program.balanced(equal, np.tile([[0.0], [1.0]], (5, 1))) == (equal, None)


def test_the_loss_of_unequal_classes_is_the_mean_of_both_classes(tmp_path):
    """An independent computation: the mean loss of each class, and of the two the mean."""
    data = make_dataset(tmp_path / "data", {"train": 12, "validation": 6})
    for number in range(2, 6):
        os.remove(data / "validation" / "dog" / f"dog.{number}.png")
    classifier = quick(tmp_path, epochs=1, dataset=str(data), precision="float32")
    history = classifier.train().history
    photos, labels = classifier.validation
    answers = forward(classifier.model, photos)
    each = -np.log(answers[np.arange(len(photos)), labels[:, 0].astype(int)])
    expected = (each[labels[:, 0] == 0].mean() + each[labels[:, 0] == 1].mean()) / 2
    assert history["val_loss"][0] == pytest.approx(expected, rel=1e-4)


# Streams. ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
@pytest.mark.parametrize("style", [[], ["--json"], ["--csv"]])
def test_results_that_cannot_be_printed_are_one_line(dataset, weights, style):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, REPO / "CatDogClassifier.py", "-d", dataset / "test", "--weights", weights, *style],
                              stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "CatDogClassifier: output: No space left on device"
    assert "Traceback" not in done.stderr


@posix
@pytest.mark.parametrize("closed", ["2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_do_not_matter(dataset, weights, tmp_path, closed):
    line = f'"{sys.executable}" "{REPO / "CatDogClassifier.py"}" "$@" {closed}'
    before = Path(weights).read_bytes()
    done = subprocess.run(["sh", "-c", line, "sh", "-d", dataset / "test", "--weights", weights], capture_output=True)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    done = subprocess.run(["sh", "-c", line, "sh", "--dataset", dataset, "--epochs", "1", "--weights", tmp_path / "net.h5"], capture_output=True)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert CatDogClassifier(weights=str(tmp_path / "net.h5"), quiet=True).predict(dataset / "test")
    assert Path(weights).read_bytes() == before


def test_a_program_that_is_stopped_by_sigterm_while_it_classifies_exits_with_143(dataset, weights):
    code = f"""import CatDogClassifier as p, signal
read = p.read_photo
p.read_photo = lambda *a: signal.raise_signal(signal.SIGTERM) or read(*a)
raise SystemExit(p.main(["-d", {str(dataset)!r}, "--weights", {weights!r}]))"""
    done = python("-c", code, text=True)
    assert done.returncode == 143
    assert "Traceback" not in done.stderr
