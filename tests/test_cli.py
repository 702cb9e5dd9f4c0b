"""Room 13: exit codes, clean streams, one line for every mistake, and quick answers."""

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

import numpy as np
import pytest

import CatDogClassifier as program
from conftest import REPO, make_dataset, python, tint

PROGRAM = REPO / "CatDogClassifier.py"


@pytest.fixture
def photos(tmp_path):
    """A folder of a cat, a dog deeper down, something broken and a system file."""
    rng = np.random.default_rng(4)
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    tint("cat", rng).save(folder / "猫.jpg")
    tint("dog", rng).save(folder / "sub" / "rex 2.png")
    (folder / "broken.jpg").write_bytes(b"broken")
    (folder / ".DS_Store").write_bytes(b"x")
    return folder


def test_one_photo_gives_its_label_and_confidence(run, photos, weights):
    code, out, err = run("-f", photos / "猫.jpg", "--weights", weights)
    label, share, sign, path = out.split(maxsplit=3)
    assert (code, label, sign, path.strip(), err) == (0, "cat", "%", str(photos / "猫.jpg"), "")
    assert 50 <= float(share) <= 100


def test_a_folder_goes_on_after_a_bad_photo_and_exits_with_1(run, photos, weights):
    code, out, err = run("-d", photos, "--weights", weights)
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == ["dog", "cat"]
    assert err.splitlines() == [
        f"{photos / 'broken.jpg'}: not a photo that can be read (JPEG, PNG, GIF, BMP, WEBP)",
        "4 files: 1 cat, 1 dog, 1 unreadable (.jpg 1), 1 hidden or system file ignored",
    ]


def test_json_rows_have_the_promised_keys(run, photos, weights):
    code, out, _ = run("-d", photos, "--weights", weights, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [set(row) for row in rows] == [{"path", "label", "confidence", "verdict", "strangeness", "probabilities", "error"}] * 3
    assert [row["label"] for row in rows] == [None, "dog", "cat"]
    assert rows[2]["path"].endswith("猫.jpg")
    assert set(rows[1]["probabilities"]) == {"cat", "dog"}
    assert rows[1]["confidence"] == rows[1]["probabilities"]["dog"]
    assert rows[0]["error"].startswith("not a photo")
    assert [row["error"] for row in rows[1:]] == [None, None]


def test_csv_has_one_column_per_class(run, photos, weights):
    _, out, _ = run("-d", photos, "--weights", weights, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["path", "label", "confidence", "verdict", "cat", "dog", "error"]
    assert [row["label"] for row in rows] == ["", "dog", "cat"]
    assert float(rows[1]["dog"]) == float(rows[1]["confidence"]) > 0.5


def test_csv_of_three_classes_has_its_errors_in_their_column(run, photos, tmp_path):
    model = program.build_model("mnist", program.Settings(model="mnist"), classes=3)
    facts = {"rung": "mnist", "base": None, "classes": ["ant", "bee", "cow"], "versions": {"keras": "3"}}
    (tmp_path / "three.h5").write_bytes(program.pack_weights(model, facts))
    _, out, _ = run("-d", photos, "--weights", tmp_path / "three.h5", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [bool(row["error"]) for row in rows] == [True, False, False]
    assert sum(float(rows[1][name]) for name in ("ant", "bee", "cow")) == pytest.approx(1)


def test_ctrl_c_while_the_program_is_being_loaded_is_no_traceback(tmp_path):
    (tmp_path / "numpy.py").write_text("raise KeyboardInterrupt")  # that is where most of this time goes
    done = python(PROGRAM, "-h", env={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize("action", [["--evaluate"], ["--explain", "photos/猫.jpg"], ["-f", "photos/猫.jpg"]])
def test_every_answer_says_which_net_it_is_from_unless_that_was_asked_for(action, run, photos, dataset, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("CatDogClassifier_model.h5").write_bytes(Path(weights).read_bytes())
    told = "Answered by CatDogClassifier_model.h5."
    assert told in run(*action, "--dataset", dataset)[2].splitlines()
    assert "Answered by" not in run(*action, "--dataset", dataset, "--weights", weights)[2]


def test_an_iphones_photo_is_said_to_want_conversion(run, photos, weights):
    for name in ("a.HEIC", "b.txt"):
        (photos / name).write_bytes(b"\0\0\0\x18ftypheic")
    _, _, err = run("-f", photos / "a.HEIC", photos / "b.txt", "--weights", weights)
    assert [line.endswith("(JPEG, PNG, GIF, BMP, WEBP); convert it to JPEG first") for line in err.splitlines()[:2]] == [True, False]


@pytest.mark.parametrize("arguments", [["-"], ["-f", "-"]])
def test_paths_come_from_stdin(run, photos, weights, monkeypatch, arguments):
    lines = f"{photos / 'sub' / 'rex 2.png'}\n\n{photos / 'none.png'}\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    code, out, _ = run(*arguments, "--weights", weights, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [(row["label"], row["error"]) for row in rows] == [("dog", None), (None, "cannot be read: No such file or directory")]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="this file system takes any bytes as a name only on Linux")
@pytest.mark.parametrize("style", [[], ["--json"], ["--csv"]])
def test_names_that_are_no_text_or_hold_newlines_stay_on_one_line(photos, weights, style):
    folder = os.fsencode(photos)
    shutil.copy(photos / "猫.jpg", os.path.join(folder, b"\xff\xfe.jpg"))
    shutil.copy(photos / "猫.jpg", os.path.join(folder, b"two\nlines.jpg"))
    done = subprocess.run([sys.executable, PROGRAM, "-d", photos, "--weights", weights, *style], capture_output=True)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    if style == ["--csv"]:
        assert len(list(csv.DictReader(io.StringIO(done.stdout.decode())))) == 5
    else:
        assert len(done.stdout.splitlines()) == (5 if style else 4)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-f", "none.jpg", "--weights", "none.h5"], 1, "no weights at none.h5. Train first: python CatDogClassifier.py --weights none.h5. Or "),
        (["-d", "none"], 1, "no folder none"),
        (["-d", "empty"], 1, "empty holds no photos"),
        (["-d", "file.txt"], 2, "file.txt is not a folder. Classify a photo with -f file.txt"),
        (["-f", "empty"], 2, "empty is a folder. Classify a folder with -d empty"),
        (["-f", "file.txt", "--weights", "file.txt"], 1, "file.txt is not a weights file"),
        (["-f", "file.txt", "--weights", "empty"], 1, "empty is not a weights file"),
        (["photo.jpg"], 2, "Say -f for photos, -d for a folder"),
        (["--epochs", "0"], 2, "--epochs must be 1 or more"),
        (["--dataset", "none"], 1, "no dataset folder none. Expected none/{train,validation,test}/{cat,dog}"),
        (["--dataset", "data", "--weights", "none/x.h5"], 1, "cannot write in none: No such file or directory"),
        (["--dataset", "data", "--weights", "empty"], 1, "empty: it is no regular file"),
        (["--prepare", "none", "--dataset", "new"], 1, "no folder none"),
        (["--prepare", "data/train"], 2, "not clear where the photos shall go. Name a new folder: --dataset NEW"),
        (["--download"], 2, "not clear where the photos shall go. Name a new folder: --dataset NEW"),
        (["--prepare", "data/train", "--dataset", "dataset"], 1, "dataset already holds other files"),
        (["--download", "--dataset", "dataset"], 1, "dataset already holds other files"),
        (["--check", "none"], 1, "there is no folder none. --check takes a dataset, or any folder of photos"),
        (["--check", "empty"], 1, "empty holds no photos"),
        (["--check", "data", "--weights", "none.h5"], 1, "no weights at none.h5. Train first"),
        (["--download-url", "x"], 2, "go with --download"),
        (["--prepare", "data/train", "--dataset", "new", "--split", "0.8,100,100"], 2, "mixes shares with numbers"),
        (["--prepare", "data/train", "--dataset", "new", "--split", "1,2"], 2, "--split 1,2 must name three parts"),
        (["--prepare", "data/train", "--dataset", "new", "--split", "9,9,9"], 1, "needs 27 photos of cat, but there are 10"),
        (["--prepare", "data/validation", "--dataset", "new"], 1,
         "leaves no cat of 2, such as data/validation/cat/cat.0.png, to train on or to validate"),
        (["--prepare", "", "--dataset", "new"], 1, "there is no folder"),
        (["-d", ""], 1, "there is no folder"),
        (["-", "-d", "empty"], 2, "not clear what to do with -"),
        (["--csv"], 2, "--csv goes with -f and -d"),
        (["--split", "1,1,1"], 2, "--split goes with --prepare"),
        (["--dataset", "empty"], 1, "empty has no folder train. Expected empty/{train,validation,test}/{cat,dog}"),
        (["--prepare", "data/train", "--dataset", "data/train/new"], 1, "never changed. Name a new folder: --dataset NEW"),
    ],
)
def test_every_mistake_gets_one_line_with_the_remedy(run, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.txt").touch()
    make_dataset("data", {"train": 10, "validation": 2})
    got, out, err = run(*arguments)
    assert (got, out) == (code, "")
    assert words in err
    assert err.startswith("CatDogClassifier: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--no-such-flag"], ["-f"], ["-f", "a.jpg", "-d", "b"], ["--epochs", "many"], ["--json", "--csv"]])
def test_usage_errors_exit_with_2(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "usage" in err


@pytest.mark.parametrize("arguments", [["-h"], ["--version"], ["-f", "."], ["--epochs", "0"], ["-d", "none"], ["--dataset", "none"]])
def test_help_version_and_mistakes_answer_before_tensorflow_is_imported(arguments):
    code = ("import sys, CatDogClassifier as p\ntry: p.main(sys.argv[1:])\nexcept SystemExit: pass\n"
            "print([m for m in sys.modules if m in ('tensorflow', 'keras', 'matplotlib')])")
    assert python("-c", code, *arguments, text=True).stdout.splitlines()[-1] == "[]"


def test_help_shows_examples_first_and_every_default(run):
    code, out, _ = run("-h")
    assert code == 0
    assert out.index("examples:") < out.index("--file")
    for default in ("CatDogClassifier_model.h5", "(default: 30)", "(default: 32)", "(default: muon)", "(default: 0.001)"):
        assert default in out


def test_the_cache_is_emptied_and_nothing_else(run, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = sorted(dataset.rglob("*"))
    program.load_photos(program.list_split(dataset, "train"), 100, program.Console(quiet=True))
    (cache,) = program.cache_folder().iterdir()
    size = cache.stat().st_size
    assert run("--clear-cache") == (0, f"{cache.parent}: {size / 1e6:.1f} MB removed\n", "")
    assert run("--clear-cache") == (0, f"{cache.parent}: 0.0 MB removed\n", "")
    assert list(cache.parent.iterdir()) == []
    assert sorted(dataset.rglob("*")) == before


def test_the_bar_knows_how_many_photos_there_are(run, photos, weights, monkeypatch):
    totals = []
    monkeypatch.setattr(program.Console, "has_bar", lambda self: True)
    monkeypatch.setattr(program.Console, "bar", lambda self, label, done, total, *_: totals.append((done, total)))
    count = len(list(program.list_photos(photos)))
    run("-d", photos, "--weights", weights)
    assert totals == [(done, count) for done in range(1, count + 1)]


def test_version_names_the_libraries(run):
    from importlib import metadata

    out = run("--version")[1]
    assert f"CatDogClassifier {program.__version__}" in out
    assert f"keras {metadata.version('keras')}" in out


def test_training_prints_the_summary_on_stdout_and_the_epochs_on_stderr(run, dataset, tmp_path):
    common = ["--dataset", dataset, "--weights", tmp_path / "猫.h5", "--epochs", "2", "--optimizer", "adam"]
    code, out, err = run(*common)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[:7]] == [
        "best", "validation", "test", "confidence", "neither", "time", "on"]
    assert "CPU" in out or "GPU" in out
    assert [line.split()[1] for line in err.splitlines() if line.startswith("epoch")] == ["1/2", "2/2"]
    assert "\r" not in err
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        "猫.h5", "猫_history.csv", "猫_accuracy.png", "猫_loss.png", "猫_reliability.png"}
    code, out, err = run(*common, "--json", "-q")
    assert json.loads(out)["test"]["total"] == 12
    assert err == ""
    assert (tmp_path / "猫.previous.h5").exists()


def test_prepare_then_train_as_the_readme_says(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_dataset("source", {"all": 8})
    code, out, _ = run("--prepare", "source/all", "--split", "4,2,2", "--dataset", "pets")
    assert (code, out) == (0, "pets: 8 train, 4 validation, 4 test photos\n")
    assert run("--dataset", "pets", "--epochs", "1", "-q")[0] == 0
    assert os.path.exists("CatDogClassifier_model.h5")
    assert run("-f", "pets/test/cat/cat.6.png")[0] == 0


def test_a_net_that_only_guesses_is_not_praised(run, dataset, tmp_path):
    _, out, _ = run("--dataset", dataset, "--weights", tmp_path / "n.h5", "--epochs", "1", "--learning-rate", "1e-9", "-q")
    assert "No better than guessing" in out


def test_show_without_a_display_says_so_and_goes_on(dataset, tmp_path):
    done = subprocess.run(
        [sys.executable, PROGRAM, "--dataset", dataset, "--weights", tmp_path / "n.h5", "--epochs", "1", "--show", "-q"],
        capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "agg"})
    assert (done.returncode, done.stderr) == (0, "There is no display to show the curves on.\n")


def test_a_reader_that_goes_away_is_no_error(photos, weights):
    for number in range(200):
        shutil.copy(photos / "猫.jpg", photos / f"{number}.jpg")
    program_line = [sys.executable, PROGRAM, "-d", photos, "--weights", weights, "--json"]
    process = subprocess.Popen(program_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    assert process.wait() == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_saves_the_best_epoch_and_exits_with_130(dataset, tmp_path):
    process = subprocess.Popen(
        [sys.executable, PROGRAM, "--dataset", dataset, "--weights", tmp_path / "net.h5", "--epochs", "1000", "--patience", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("epoch  2"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert "interrupted" in out
    assert "Traceback" not in err
    assert program.CatDogClassifier(weights=str(tmp_path / "net.h5"), quiet=True).predict(dataset / "train")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_before_anything_was_learned_exits_with_130_and_touches_nothing(dataset, tmp_path, weights):
    earlier = Path(weights).read_bytes()
    (tmp_path / "net.h5").write_bytes(earlier)
    process = subprocess.Popen([sys.executable, PROGRAM, "--dataset", dataset, "--weights", tmp_path / "net.h5"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert (tmp_path / "net.h5").read_bytes() == earlier


@pytest.mark.parametrize("arguments", [["--dataset", "no\x1b[31m\nrow"], ["-\x1b[31m\nx.jpg"], ["-f", "\x1b[31m.jpg", "--weights", "\x1b\n"],
                                       ["-d", "\x1b[2J"], ["--prepare", "\x1b[2J", "--dataset", "new"]])
def test_no_name_acts_on_the_terminal_in_an_error(run, arguments):
    code, out, err = run(*arguments)
    assert code in (1, 2)
    assert "\x1b" not in out + err
    assert "\\x1b" in err


@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals")
def test_a_bar_with_the_time_left_is_drawn_on_a_terminal_only(monkeypatch, capsys):
    console = program.Console()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    console.bar("epoch 2/30", 30, 120, time.monotonic() - 10, "loss 0.5")
    console.say("done")
    drawn, line = capsys.readouterr().err.rsplit("\r", 1)
    assert "epoch 2/30 [#####---------------]  25 %  0:30 left  loss 0.5" in drawn
    assert line == "done\n"


def test_the_standard_streams_may_be_of_a_narrow_encoding(photos, weights):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, PROGRAM, "-d", photos, "--weights", weights], capture_output=True, env=environment)
    assert done.returncode == 1
    assert b"\\u732b.jpg" in done.stdout
    assert b"Traceback" not in done.stderr


def test_a_cache_folder_with_a_per_cent_sign_does_not_break_the_help(run, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "100%s"))
    code, out, _ = run("-h")
    assert code == 0
    assert "100%s" in out
