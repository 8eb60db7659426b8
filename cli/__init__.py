"""The command line: one short function per command, through the public face of the package only."""

from .main import main

__all__ = ["main"]
