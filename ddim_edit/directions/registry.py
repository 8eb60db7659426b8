"""The registry of estimators, importable without torch and scikit-learn.

An estimator is one module of `ddim_edit.directions.estimators`: its file name is the name of the estimator, the first
line of its docstring is the help text, and `ESTIMATOR` is the class. Names and help texts are known without importing
the module, so that `ddim-edit fit --help` waits for neither scikit-learn nor torch.
"""

import ast
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ddim_edit.directions import estimators
from ddim_edit.errors import ArgumentError


@dataclass(frozen=True)
class EstimatorEntry:
    """What the registry knows of an estimator.

    Args:
        name: as the command line, recipes and reports spell it.
        file: the module that defines it.
    """

    name: str
    file: Path

    @property
    def help(self) -> str:
        """One line on what it fits."""
        docstring = ast.get_docstring(ast.parse(self.file.read_text(encoding="utf-8"))) or ""
        return docstring.partition("\n")[0]

    @property
    def estimator_class(self) -> type[Any]:
        """The scikit-learn estimator."""
        cls: type[Any] = import_module(f"{estimators.__name__}.{self.name}").ESTIMATOR
        return cls


def _find_estimators() -> Mapping[str, EstimatorEntry]:
    (folder,) = estimators.__path__
    names = sorted(info.name for info in pkgutil.iter_modules([folder]))
    return MappingProxyType({name: EstimatorEntry(name, Path(folder) / f"{name}.py") for name in names})


ESTIMATORS: Mapping[str, EstimatorEntry] = _find_estimators()
"""All estimators by name."""


def make_estimator(name: str) -> Any:
    """Return a new estimator with its defaults.

    Raises:
        ArgumentError: an unknown name.

    Examples:
        >>> make_estimator("mean")
        MeanDifference()
    """
    if name not in ESTIMATORS:
        raise ArgumentError(f"There is no estimator {name!r}. Choose one of {', '.join(ESTIMATORS)}.")
    return ESTIMATORS[name].estimator_class()


def estimator_name(estimator: object) -> str:
    """Return the registered name of an estimator, or the name of its class."""
    for name, entry in ESTIMATORS.items():
        if entry.estimator_class is type(estimator):
            return name
    return type(estimator).__name__
