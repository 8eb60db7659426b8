"""The tree of errors: messages are plain sentences, survive pickling and are bounded."""

import copy
import importlib.metadata
import inspect
import pickle
import sys
from types import ModuleType

import pytest

from ddim_edit import errors
from ddim_edit.errors import (
    ArgumentError,
    DDIMEditError,
    DirectionError,
    DirectionMismatchError,
    ImageError,
    LatentError,
    LatentMismatchError,
    MissingExtraError,
    ModelError,
    NonFiniteError,
)
from ddim_edit.io.extras import import_extra, is_installed, require_extra

TREE = {
    name: thing for name, thing in vars(errors).items() if inspect.isclass(thing) and issubclass(thing, DDIMEditError)
}


def make(kind: type[DDIMEditError]) -> DDIMEditError:
    if kind is MissingExtraError:
        return MissingExtraError("gradio", "ui", "The page")
    return kind("image.png: cannot read: file is truncated. Download it again.")


@pytest.mark.parametrize("kind", TREE.values())
def test_errors_survive_copying_and_pickling(kind: type[DDIMEditError]) -> None:
    """A pool of processes passes errors on by pickling, and hangs over those that cannot be unpickled."""
    error = make(kind)
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is kind
        assert str(other) == str(error)


def test_message_is_kept() -> None:
    assert str(make(ImageError)) == "image.png: cannot read: file is truncated. Download it again."


def test_messages_are_bounded() -> None:
    assert len(str(ArgumentError("x" * 10**6))) == errors.LONGEST_MESSAGE + len("...")


def test_hierarchy_is_as_documented() -> None:
    parents = {kind: kind.__bases__ for kind in TREE.values()}
    assert parents == {
        DDIMEditError: (Exception,),
        ArgumentError: (DDIMEditError, ValueError),
        MissingExtraError: (DDIMEditError, ImportError),
        ImageError: (DDIMEditError,),
        ModelError: (DDIMEditError,),
        NonFiniteError: (ModelError,),
        LatentError: (DDIMEditError,),
        LatentMismatchError: (LatentError,),
        DirectionError: (DDIMEditError,),
        DirectionMismatchError: (DirectionError,),
    }
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in TREE)


def test_missing_extra_tells_how_to_install_it() -> None:
    with pytest.raises(MissingExtraError) as caught:
        import_extra("no_such_package.module", extra="eval", purpose="Drawing plots")
    assert str(caught.value) == (
        "Drawing plots needs no_such_package, which is not installed. Run: pip install 'ddim-edit[eval]'"
    )
    assert (caught.value.package, caught.value.extra) == ("no_such_package", "eval")


def test_module_that_another_thread_imports_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """While OpenCV is imported, its compiled part stands in its place, without a specification."""
    monkeypatch.setitem(sys.modules, "half_imported", ModuleType("half_imported"))
    assert is_installed("half_imported")
    assert not is_installed("no_such_package")


def test_extra_that_is_too_old_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["click>=8.1", "pytest>=1000; extra == 'eval'"])
    with pytest.raises(MissingExtraError, match="Drawing plots needs pytest>=1000, which is not installed"):
        require_extra("pytest", extra="eval", purpose="Drawing plots")


def test_extra_of_a_version_that_will_do_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["pytest>=1.0; extra == 'eval'"])
    require_extra("pytest", extra="eval", purpose="Drawing plots")


def test_present_extra_is_imported() -> None:
    assert import_extra("json.decoder", extra="eval", purpose="Drawing plots").__name__ == "json.decoder"
