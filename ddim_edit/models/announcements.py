"""Tell what of a model is being loaded, through the logger `ddim_edit.models`: large checkpoints take minutes."""

import logging
from collections.abc import Iterable
from pathlib import Path

LOGGER = logging.getLogger("ddim_edit.models")
SMALL = 100_000_000
"""Bytes that are loaded before anybody wonders."""


def announce_loading(component: str, files: Iterable[Path], quick: bool = False) -> None:
    """Say that a component is being loaded now, and how large it is.

    Args:
        component: its name, as that of its folder.
        files: its weights, which must exist.
        quick: whether it is loaded without a library that itself takes seconds; if it is small too, only debugging
            tells of it.
    """
    size = sum(file.stat().st_size for file in files)
    level = logging.DEBUG if quick and size < SMALL else logging.INFO
    LOGGER.log(level, "loading %s (%s)", component, describe_size(size))


def announce(what: str) -> None:
    """Say what else is being done now that may take seconds."""
    LOGGER.info("%s", what)


def describe_size(count: int) -> str:
    """Return a number of bytes for people.

    Examples:
        >>> describe_size(3_438_167_540), describe_size(12_345)
        ('3.4 GB', '0.1 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 0.1):.{0 if count >= 1e7 else 1}f} MB"
