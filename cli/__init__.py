"""The command line. Each command is a module of `cli.commands`; it uses the public API and public modules only."""

from .main import main

__all__ = ["main"]
