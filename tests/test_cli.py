"""Room 14: exit codes, clean streams, one line for every mistake, and quick answers."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

import CatDogClassifier as program
from conftest import PROGRAM, make_dataset, paint, posix, python, refusal

NO_PHOTO = "not a photo that can be read (JPEG, PNG, GIF, BMP, WEBP, AVIF, HEIC; no RAW)"
ROW = ["path", "label", "confidence", "verdict", "probabilities", "error"]


@pytest.fixture
def photos(tmp_path):
    """A folder of a cat, a dog deeper down, something broken and a system file."""
    folder = tmp_path / "photos"
    paint(folder / "sub" / "rex 2.png", 100)
    paint(folder / "猫.png", -100)
    (folder / "broken.jpg").write_bytes(b"broken")
    (folder / ".DS_Store").write_bytes(b"x")
    return folder


def launch(*arguments, **more):
    """The program as a process of its own, its output captured."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.Popen([sys.executable, PROGRAM, *map(str, arguments)], **pipes)


# Answers. -----------------------------------------------------------------------------------------


def test_one_photo_gives_its_label_and_confidence(run, photos, colours):
    photo = photos / "猫.png"
    assert run("-f", photo, "--weights", colours) == (0, f"cat       95.8 %  {photo}\n", "")


def test_a_folder_goes_on_after_a_bad_photo_and_exits_with_1(run, photos, colours):
    code, out, err = run("-d", photos, "--weights", colours)
    assert (code, [line.split()[0] for line in out.splitlines()]) == (1, ["cat", "dog"])
    broken, total = f"{photos / 'broken.jpg'}: {NO_PHOTO}", "3 files: 1 cat, 1 dog, 1 unreadable"
    assert err.splitlines() == [broken, total]
    quiet = run("-d", photos, "--weights", colours, "-q")
    assert quiet == (1, out, f"{broken}\n")  # results and errors only


def test_json_and_csv_say_what_the_class_says(run, photos, colours):
    code, out, _ = run("-d", photos, "--weights", colours, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, [list(row) for row in rows]) == (1, [ROW] * 3)
    expected = program.CatDogClassifier(weights=colours, quiet=True).predict(photos)
    assert rows == [vars(row) for row in expected]
    assert rows[0] == {**dict.fromkeys(ROW), "path": str(photos / "broken.jpg"), "error": NO_PHOTO}
    assert [row["label"] for row in rows] == [None, "cat", "dog"]
    code, out, _ = run("-d", photos, "--weights", colours, "--csv")
    table = list(csv.DictReader(io.StringIO(out)))
    assert list(table[0]) == ["path", "label", "confidence", "verdict", "cat", "dog", "error"]
    for row, line in zip(rows, table, strict=True):
        flat = {**row, **(row["probabilities"] or {"cat": None, "dog": None})}
        assert line == {name: str("" if flat[name] is None else flat[name]) for name in line}


def test_files_and_folders_may_be_mixed_and_a_missing_one_is_named(run, photos, colours):
    line = ["-f", photos / "猫.png", "none.png", "-d", photos / "sub", "--weights", colours, "-q"]
    code, out, err = run(*line)
    assert (code, [row.split()[0] for row in out.splitlines()]) == (1, ["cat", "dog"])
    assert err == "none.png: cannot be read: No such file or directory\n"
    assert run(photos / "猫.png", "--weights", colours)[1] == out.splitlines(keepends=True)[0]


def test_an_answer_names_its_net_unless_that_was_named(run, photos, dataset, colours, monkeypatch):
    monkeypatch.chdir(photos.parent)
    shutil.copy(colours, "CatDogClassifier_model.h5")
    photo = "photos/猫.png"
    for action in (["--evaluate", "--dataset", dataset], ["--explain", photo], ["-f", photo]):
        assert "Answered by CatDogClassifier_model.h5." in run(*action)[2].splitlines()
        assert run(*action, "-q")[2] == ""
        assert "Answered by" not in run(*action, "--weights", colours)[2]


@pytest.mark.parametrize("arguments", [["-"], ["-f", "-"]])
def test_paths_come_from_stdin(run, photos, colours, monkeypatch, arguments):
    lines = f"{photos / 'sub' / 'rex 2.png'}\r\n\n{photos / 'none.png'}".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    code, out, _ = run(*arguments, "--weights", colours, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    missing = "cannot be read: No such file or directory"
    assert (code, [row["label"] for row in rows]) == (1, ["dog", None])
    assert [row["error"] for row in rows] == [None, missing]


# Streams. -----------------------------------------------------------------------------------------


NASTY = ["--dataset no\x1b[31m\nrow", "-\x1b[31m\nx.jpg", "-f \x1b[31m.jpg --weights \x1b\n"]


@pytest.mark.parametrize("line", NASTY)
def test_no_name_acts_on_the_terminal_in_an_error(run, line):
    code, out, err = run(*line.split(" "))
    assert code in (1, 2) and "\x1b" not in out + err and "\\x1b" in err


def test_a_reader_that_goes_away_is_no_error(photos, colours):
    for number in range(300):  # more than a pipe holds
        shutil.copy(photos / "猫.png", photos / f"{number}.png")
    process = launch("-d", photos, "--weights", colours, "--json")
    process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        assert b"Traceback" not in process.stderr.read()
    assert process.wait() == 1


@posix
def test_on_a_terminal_a_bar_counts_photos_and_its_encoding_need_not_know_names(photos, colours):
    (ours, theirs), narrow = os.openpty(), {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = launch("-d", photos, "--weights", colours, stderr=theirs, env=narrow)
    os.close(theirs)
    lines = process.stdout.read().decode().splitlines()
    process.wait()
    drawn = os.read(ours, 100_000).decode()
    os.close(ours)
    assert [line.endswith("\\u732b.png") for line in lines] == [True, False]
    assert drawn.index("classifying [######") < drawn.index(" 33 %") < drawn.index("] 100 %")


def test_a_bar_tells_the_time_that_is_left_and_a_line_is_written_at_once(monkeypatch):
    console, written = program.Console(), []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "write", written.append)
    console.bar("epoch 2/30", 30, 120, time.monotonic() - 10, "loss 0.5")
    console.say("done")
    drawn, _, line = filter(None, written)  # between two writes another thread may have its own
    assert line == "done\n" and "2/30 [#####---------------]  25 %  0:00:30 left  loss 0.5" in drawn


# Help and mistakes. -------------------------------------------------------------------------------


def test_help_shows_examples_first_and_every_default(run):
    code, out, err = run("-h")
    example = "python CatDogClassifier.py -f photo.jpg"
    assert (code, err) == (0, "") and out.index(example) < out.index("--file")
    assert "130\nafter Ctrl-C" in out
    words = " ".join(out.split())
    for default in ("CatDogClassifier_model.h5", 30, 32, "muon", 0.001, "vgg16", "auto", "best"):
        assert f"(default: {default})" in words
    assert run("--version") == (0, f"CatDogClassifier {program.__version__}\n", "")


QUICK = [["-h"], ["--version"], ["--epochs", "0"], ["--csv"], ["--dataset", "none"]]
QUICK += [["-f", "x.jpg", "--weights", "none"]]


def test_help_version_and_mistakes_answer_before_tensorflow_is_imported():
    code = f"""import sys, CatDogClassifier as program
for line in {QUICK}:
    try: program.main(line)
    except SystemExit: pass
print({{"tensorflow", "keras", "h5py", "matplotlib"}} & set(sys.modules))"""
    assert python("-c", code, text=True).stdout.splitlines()[-1] == "set()"


LAYOUT = "Expected {}/{{train,validation,test}}/{{cat,dog}}"


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("--model x", 2, f"--model x is none of {', '.join(program.ARCHITECTURES)}\n"),
        ("--base vgg19", 2, f"--base vgg19 is none of {', '.join([*program.BASES, 'box'])}\n"),
        ("-f none.jpg --weights none.h5", 1, "no weights at none.h5. Train first: python Cat"),
        ("-d empty", 1, "there are no photos in empty"),
        ("--evaluate -d empty", 2, "these are two actions. Say one after the other"),
        ("-f file.txt --weights file.txt", 1, "file.txt is not a weights file"),
        ("-f file.txt --weights empty", 1, "empty is not a weights file"),
        ("--epochs 0", 2, "--epochs must be 1 or more"),
        ("-d empty --unsure 2", 2, "--unsure must be 0 to 1"),
        ("--dataset none", 1, "no dataset folder none. " + LAYOUT.format("none")),
        ("--dataset empty", 1, "empty has no folder train. " + LAYOUT.format("empty")),
        ("--dataset data --weights none/x.h5", 1, "cannot write none/x.h5: No such file"),
        ("--dataset data --weights empty", 1, "cannot write empty: a folder, not a file"),
        ("--dataset data --weights " + 245 * "x", 1, "File name too long. Name ano"),
        ("--dataset data --weights file.txt", 1, "file.txt is there already, not written by this"),
        ("--csv", 2, "--csv goes with -f, -d"),
        ("--unsure 0.1", 2, "--unsure goes with -f, -d, --explain"),
        ("--sort-into x", 2, "--sort-into goes with -f, -d"),
        ("-d empty --sort-into ''", 2, "--sort-into needs a name"),
        ("--explain file.txt --report x.html", 2, "--report goes with -f, -d, --evaluate"),
        ("-d empty --report x.jpg", 2, "--report needs a name that ends in .html"),
        ("-d empty --report none/x.html", 1, "cannot write none/x.html: No such file"),
        (f"-d empty --report {'x' * 250}.html", 1, "File name too long. Name ano"),
    ],
)
def test_every_mistake_gets_one_line_with_the_remedy(run, tmp_path, monkeypatch, line, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("text")
    make_dataset("data", {"train": 2, "validation": 2})
    err = refusal(run(*(word.strip("'") for word in line.split())), code)
    assert words in err and err.startswith("CatDogClassifier: ")


@pytest.mark.parametrize("line", ["--no-such-flag", "-f", "--epochs x", "--json --csv"])
def test_usage_errors_exit_with_2(run, line):
    code, out, err = run(*line.split())
    assert (code, out, err.partition(".py")[0]) == (2, "", "usage: python CatDogClassifier")


# Training, and Ctrl-C. ----------------------------------------------------------------------------


def test_a_summary_goes_to_stdout_and_the_epochs_to_stderr(run, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["--dataset", dataset, "--epochs", "2", "--model", "signs"]
    code, out, err = run(*common)
    assert code == 0
    told = ["best", "validation", "test", "calibration", "time", "saved"]
    assert [line.split()[0] for line in out.splitlines()[:6]] == told
    numbers = [line.split()[1] for line in err.splitlines() if line.startswith("epoch")]
    assert numbers == ["1/2", "2/2"] and "\r" not in err
    own = "CatDogClassifier_model"
    kinds = [".h5", "_history.csv", "_accuracy.png", "_loss.png", "_reliability.png"]
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {own + kind for kind in kinds}
    code, out, err = run(*common, "--json", "-q")
    summary = json.loads(out)
    assert (summary["test"]["total"], summary["stop_reason"], err) == (12, "all epochs", "")
    assert summary["files"] == [own + kind for kind in kinds]
    code, out, err = run("--evaluate", "--json", *common[:2], "--precision", "float32")
    assert json.loads(out)["loss"] == pytest.approx(summary["test"]["loss"], abs=1e-4)


def test_ctrl_c_while_the_program_is_being_loaded_is_no_traceback(tmp_path):
    (tmp_path / "numpy.py").write_text("raise KeyboardInterrupt")  # where most of this time goes
    done = python(PROGRAM, "-f", "x.jpg", env={"PYTHONPATH": str(tmp_path)})
    told = b"\nCatDogClassifier: interrupted\n"
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", told)
