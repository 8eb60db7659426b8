import ast
import copy
import inspect
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ddim_edit
import ddim_edit.cli
from ddim_edit import errors
from ddim_edit.errors import (
    ArgumentError,
    DDIMEditError,
    DirectionError,
    DirectionMismatchError,
    ImageError,
    LatentError,
    LatentMismatchError,
    ModelError,
)

TREE = {
    name: thing for name, thing in vars(errors).items() if inspect.isclass(thing) and issubclass(thing, DDIMEditError)
}
HOUSES = [Path(inspect.getfile(package)).parent for package in (ddim_edit, ddim_edit.cli)]
SOURCES = [path for house in HOUSES for path in sorted(house.rglob("*.py"))]
FRAGMENT = st.text(min_size=1)


@given(FRAGMENT, FRAGMENT, FRAGMENT)
def test_every_error_is_one_sentence_of_three_parts(wanted: str, given: str, remedy: str) -> None:
    for kind in TREE.values():
        assert str(kind(wanted, given, remedy)) == f"wanted {wanted}, was given {given}: {remedy}"


@pytest.mark.parametrize("kind", TREE.values())
def test_errors_survive_copying_and_pickling(kind: type[DDIMEditError]) -> None:
    """A pool of processes hands errors over by pickling, and hangs over those that cannot be unpickled."""
    error = kind("a picture", "a letter", "paint one")
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is kind
        assert str(other) == str(error)


def test_the_tree_is_as_drawn() -> None:
    parents = {kind: kind.__bases__ for kind in TREE.values()}
    assert parents == {
        DDIMEditError: (Exception,),
        ArgumentError: (DDIMEditError, ValueError),
        ImageError: (DDIMEditError,),
        ModelError: (DDIMEditError,),
        LatentError: (DDIMEditError,),
        LatentMismatchError: (LatentError,),
        DirectionError: (DDIMEditError,),
        DirectionMismatchError: (DirectionError,),
    }
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in TREE)


def made_errors(tree: ast.Module) -> Iterator[ast.Call]:
    """Every call in a module that makes one of our errors."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return (call for call in calls if isinstance(call.func, ast.Name) and call.func.id in TREE)


def lengths(arguments: list[ast.expr], tree: ast.Module) -> int:
    """How many arguments these are, those of a starred call of a function being as many as its annotation says."""
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    total = 0
    for argument in arguments:
        if isinstance(argument, ast.Starred):
            assert isinstance(argument.value, ast.Call)
            assert isinstance(argument.value.func, ast.Name)
            returned = functions[argument.value.func.id].returns
            assert isinstance(returned, ast.Subscript)
            assert isinstance(returned.slice, ast.Tuple)
            total += len(returned.slice.elts)
        else:
            total += 1
    return total


def words(argument: ast.expr) -> str:
    """The literal text in an argument; what is filled in stands as a question mark."""
    if isinstance(argument, ast.Constant):
        return str(argument.value)
    if isinstance(argument, ast.JoinedStr):
        return "".join(words(part) for part in argument.values)
    return "?"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(path.parts[-2:]))
def test_whoever_raises_tells_all_three_parts(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for call in made_errors(tree):
        where = f"{path.name}:{call.lineno}"
        assert not call.keywords, where
        assert lengths(call.args, tree) == 3, where
        texts = [words(argument) for argument in call.args]
        assert all(text and "\n" not in text and text == text.strip(" .") for text in texts), (where, texts)
        assert not any(text.startswith(("wanted ", "was given ")) for text in texts), where


def test_the_sources_were_looked_at() -> None:
    counts = {path.name: len(list(made_errors(ast.parse(path.read_text())))) for path in SOURCES}
    assert sum(counts.values()) > 40
    assert counts["conditioning.py"] > 2


BUILTIN_ERRORS = {"Exception", "ValueError", "TypeError", "RuntimeError", "KeyError", "OSError", "AssertionError"}
ASKED_FOR = {
    "codes.py": {"KeyError"},
    "estimators.py": {"ValueError"},
    "hyperplane.py": {"ValueError"},
    "learning.py": {"ValueError"},
}
"""What the protocols that a file speaks want to be raised: a mapping's, and scikit-learn's."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(path.parts[-2:]))
def test_nothing_else_is_raised(path: Path) -> None:
    """But AttributeError by a module's `__getattr__`, and what click and Pillow ask for."""
    raised = [node.exc for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Raise)]
    names = {ast.unparse(exc.func if isinstance(exc, ast.Call) else exc) for exc in raised if exc is not None}
    assert not names & BUILTIN_ERRORS - ASKED_FOR.get(path.name, set())
