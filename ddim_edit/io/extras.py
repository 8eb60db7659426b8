"""Import optional dependencies."""

import importlib
import importlib.util
from types import ModuleType

from ddim_edit.errors import MissingExtraError


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a module of an optional dependency.

    Args:
        module: its dotted name, as in "matplotlib.figure".
        extra: the extra of ddim-edit that installs it, as in "eval".
        purpose: what it is needed for, as the subject of a sentence, as in "Drawing plots".

    Raises:
        MissingExtraError: the package is not installed.

    Examples:
        >>> import_extra("json", extra="eval", purpose="Drawing plots").__name__
        'json'
    """
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, extra, purpose)
    return importlib.import_module(module)
