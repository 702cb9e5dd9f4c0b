"""README, help, requirements and code say the same; the code keeps to its measures."""

import argparse
import ast
import io
import re
import shlex
import shutil
import tokenize
import tomllib

import pytest

import CatDogClassifier as program
from conftest import PROGRAM, REPO, python
from dataset import check, label, prepare

SOURCE, README = PROGRAM.read_text(), (REPO / "README.md").read_text()
DOCUMENTS = [REPO / "README.md", REPO / "dataset" / "README.md", *(REPO / ".readme").glob("*.md")]
TREE = ast.parse(SOURCE)
FUNCTIONS = [node for node in ast.walk(TREE) if isinstance(node, ast.FunctionDef)]
CLASSIFIER = next(node for node in TREE.body if getattr(node, "name", "") == "CatDogClassifier")
ROOMS = re.findall(r"(?m)^# =+\n# (\d+)\. ([^:\n]*)", SOURCE)
PARSERS = {"CatDogClassifier.py": program, "dataset/prepare.py": prepare, "dataset/check.py": check}
PARSERS["dataset/label.py"] = label


def commands(path):
    """[(script, its arguments)] of the command lines in a document's code blocks."""
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", path.read_text(), re.DOTALL)
    call = rf"python ({'|'.join(map(re.escape, PARSERS))})([^|&>\n]*)"
    return [found for block in blocks for found in re.findall(call, block)]


def test_the_inline_metadata_equals_requirements_txt():
    block = re.search(r"(?m)^# /// script\n(.*?)^# ///$", SOURCE, re.DOTALL)[1]
    script = tomllib.loads(re.sub(r"(?m)^# ?", "", block))
    assert script["dependencies"] == (REPO / "requirements.txt").read_text().split()
    assert script["requires-python"] == ">=3.11"


def test_every_flag_is_explained_in_the_help():
    hidden = None, "", argparse.SUPPRESS
    assert [each for each in program.build_parser()._actions if each.help in hidden] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))
def test_the_documents_name_no_flag_and_no_file_that_does_not_exist(path):
    text = re.sub(r"`pip [^`]*`|(?m:^(?:pip|find) .*$)", "", path.read_text())
    scripts = "".join(each.read_text() for each in (REPO / "tests" / "measure").glob("*.py"))
    actions = [each for tool in PARSERS.values() for each in tool.build_parser()._actions]
    known = {flag for action in actions for flag in action.option_strings}
    known |= set(re.findall(r'"(--[a-z-]+)"', scripts))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text)) <= known
    named = re.findall(r"\]\(([^)#:]+)", text), re.findall(r"(?:tests|dataset)/\S+\.py", text)
    files = [*(path.parent / name for name in named[0]), *(REPO / name for name in named[1])]
    assert [file for file in files if not file.exists()] == []


@pytest.mark.parametrize(
    ("script", "line"), dict.fromkeys(found for path in DOCUMENTS for found in commands(path))
)
def test_every_command_of_the_documents_parses(script, line):
    arguments = vars(PARSERS[script].build_parser().parse_intermixed_args(shlex.split(line)))
    if script == "dataset/prepare.py":
        assert len(arguments["folders"]) == 2 - arguments["download"]
    elif script == "CatDogClassifier.py":
        known = program.Settings.__dataclass_fields__
        program.resolve_settings({name: arguments[name] for name in arguments if name in known})
        assert arguments["paths"] in ([], ["-"])


def test_the_readme_is_short_and_has_a_command_for_everything():
    assert len(README.splitlines()) <= 200 and len(README.split()) <= 2000
    assert len(commands(REPO / "README.md")) >= 12
    assert {script for path in DOCUMENTS for script, _ in commands(path)} == set(PARSERS)


def test_the_rooms_are_numbered_in_order_and_listed_in_the_readme():
    assert [int(number) for number, _ in ROOMS] == list(range(1, 15))
    assert [f"{number}. {title}" in README for number, title in ROOMS] == [True] * 14


def test_functions_are_short_and_described_the_class_is_small_and_the_first_net_comes_early():
    lengths = sorted(node.end_lineno - node.lineno + 1 for node in FUNCTIONS)
    assert lengths[-1] <= 40 and lengths[len(lengths) // 2] <= 10
    assert lengths[int(0.9 * len(lengths))] <= 25
    assert CLASSIFIER.end_lineno - CLASSIFIER.lineno + 1 <= 250
    assert sum(isinstance(node, ast.FunctionDef) for node in CLASSIFIER.body) <= 25
    assert len(set(re.findall(r"self\.(\w+)(?= = |, [^=\n]* = )", ast.unparse(CLASSIFIER)))) <= 6
    assert SOURCE[: SOURCE.index("layers.Conv2D(")].count("\n") + 1 < 350
    nested = {inner for node in FUNCTIONS for inner in ast.walk(node) if inner is not node}
    public = [node for node in FUNCTIONS if not node.name.startswith("_") and node not in nested]
    long = [node for node in public if node.end_lineno - node.lineno > 3]
    assert [node.name for node in long if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("number", ["3", "5", "7", "9", "11"])
def test_the_rooms_with_mathematics_are_commented(number):
    _, room, _ = re.split(rf"(?m)^# {number}\. .*$|^# {int(number) + 1}\. .*$", SOURCE)
    tokens = tokenize.generate_tokens(io.StringIO(room.strip()).readline)
    comments = [each.string for each in tokens if each.type == tokenize.COMMENT]
    telling = [each for each in comments if not re.match("# (=+$|noqa)", each)]
    assert 100 * len(telling) / room.count("\n") >= 10


def test_the_file_alone_in_an_empty_folder_answers(tmp_path):
    alone = shutil.copy(PROGRAM, tmp_path)
    found = python("-P", alone, "-h", cwd=tmp_path, env={"PYTHONPATH": ""})
    assert (found.returncode, found.stderr) == (0, b"")
    assert found.stdout.decode().startswith("usage: python CatDogClassifier.py")
