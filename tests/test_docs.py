"""README, help, requirements and code say the same."""

import ast
import re
import shlex
import tomllib

import pytest

import CatDogClassifier as program
from conftest import REPO

SOURCE = (REPO / "CatDogClassifier.py").read_text()
README = (REPO / "README.md").read_text()
TREE = ast.parse(SOURCE)
FUNCTIONS = [node for node in ast.walk(TREE) if isinstance(node, ast.FunctionDef)]


def flags():
    return [flag for action in program.build_parser()._actions for flag in action.option_strings]


def commands(text):
    """The command lines of the README's code blocks that call the program."""
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [command for line in lines for command in re.findall(r"python (?:\S*/)?CatDogClassifier\.py[^|&>#]*", line)]


def test_the_inline_metadata_equals_requirements_txt():
    block = re.search(r"(?m)^# /// script\n(.*?)^# ///$", SOURCE, re.DOTALL)[1]
    script = tomllib.loads(re.sub(r"(?m)^# ?", "", block))
    assert script["dependencies"] == (REPO / "requirements.txt").read_text().split()
    assert script["requires-python"] == ">=3.11"


@pytest.mark.parametrize("flag", flags())
def test_every_flag_is_in_the_readme(flag):
    assert re.search(rf"`[^`\n]*{re.escape(flag)}(?![\w-])|```[^`]*\s{re.escape(flag)}(?![\w-])", README)


def test_the_readme_names_no_flag_that_does_not_exist():
    known = {*flags(), "--no-deps", "--version", "--originals", "--score"}  # the last two of scripts in tests
    named = re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", re.sub(r"(?m)^.*\b(pip|git|uv|find) .*$", "", README))
    assert set(named) <= known


def test_there_are_commands_in_the_readme():
    assert len(commands(README)) >= 8


@pytest.mark.parametrize("command", commands(README))
def test_every_command_of_the_readme_parses(command):
    arguments = program.build_parser().parse_args(shlex.split(command)[2:])
    program.Settings(**{name: value for name, value in vars(arguments).items() if name in program.Settings.__dataclass_fields__})
    assert arguments.paths in ([], ["-"])


def test_the_rooms_are_numbered_in_order_and_mapped_in_the_readme():
    rooms = re.findall(r"(?m)^# =+\n# (\d+)\. ([^\n]*)\n# =+$", SOURCE)
    assert [int(number) for number, _ in rooms] == list(range(1, 16))
    for _, title in rooms:
        assert title.split(":")[0] in README


def test_functions_are_short():
    lengths = sorted(node.end_lineno - node.lineno + 1 for node in FUNCTIONS)
    assert lengths[-1] <= 40
    assert lengths[len(lengths) // 2] <= 13
    assert lengths[int(0.9 * len(lengths))] < 30


def test_public_functions_have_docstrings():
    public = [node for node in FUNCTIONS if not node.name.startswith("_") and node.end_lineno - node.lineno > 3]
    nested = {inner for node in FUNCTIONS for inner in ast.walk(node) if isinstance(inner, ast.FunctionDef) and inner is not node}
    assert [node.name for node in public if node not in nested and not ast.get_docstring(node)] == []


def test_heavy_libraries_are_imported_only_where_they_are_used():
    top = {alias.name.split(".")[0] for node in ast.walk(TREE) if isinstance(node, ast.Import) and node.col_offset == 0 for alias in node.names}
    assert not top & {"tensorflow", "keras", "matplotlib", "h5py"}


def test_no_exception_is_caught_without_a_name():
    def caught(tree):
        return [ast.unparse(node.type) if node.type else "" for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]

    optional = [kind for node in FUNCTIONS if node.name in ("_open_litert", "_convert", "_write_beside") for kind in caught(node)]
    assert optional == ["Exception"] * 3  # LiteRT need not be there, curves need not be drawn: they may fail in any way
    plain = [kind for node in FUNCTIONS if node.name in ("keras_digits", "imagenet_names", "fill") for kind in caught(node)]
    assert plain == ["Exception", "Exception", "OSError", "Exception"]  # a download of Keras that fails raises that, and nothing finer
    assert not {"", "BaseException"} & set(caught(TREE))
    assert caught(TREE).count("Exception") == len(optional) + 3
