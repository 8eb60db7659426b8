"""Import optional dependencies."""

import importlib
import importlib.util
from importlib import metadata
from types import ModuleType

from ddim_edit.errors import MissingExtraError


def is_installed(module: str) -> bool:
    """Return whether a top-level module can be imported; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:
        # Another thread is importing it: OpenCV is a module without a specification for a moment.
        return True


def require_extra(package: str, extra: str, purpose: str) -> None:
    """Check that an optional dependency is installed, and new enough, without importing it.

    Args:
        package: the name by which it is imported, as in "gradio".
        extra: the extra of ddim-edit that installs it, as in "ui".
        purpose: what it is needed for, as the subject of a sentence, as in "The page".

    Raises:
        MissingExtraError: the package is not installed, or is older than the extra asks for.
    """
    from packaging.requirements import Requirement

    if not is_installed(package):
        raise MissingExtraError(package, extra, purpose)
    # What was installed without the extra, or before an update of ddim-edit, can be of any version.
    try:
        installed = metadata.version(package)
        own = metadata.requires("ddim-edit") or []
    except metadata.PackageNotFoundError:
        # A module that is not called as its distribution (cv2), or ddim-edit run from a source tree.
        return
    for requirement in map(Requirement, own):
        same = requirement.name.replace("-", "_") == package
        if same and not requirement.specifier.contains(installed, prereleases=True):
            raise MissingExtraError(f"{requirement.name}{requirement.specifier}", extra, purpose)


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a module of an optional dependency.

    Args:
        module: its dotted name, as in "matplotlib.figure".
        extra: the extra of ddim-edit that installs it, as in "eval".
        purpose: what it is needed for, as the subject of a sentence, as in "Drawing plots".

    Raises:
        MissingExtraError: the package is not installed, or is older than the extra asks for.

    Examples:
        >>> import_extra("json", extra="eval", purpose="Drawing plots").__name__
        'json'
    """
    require_extra(module.partition(".")[0], extra, purpose)
    return importlib.import_module(module)
