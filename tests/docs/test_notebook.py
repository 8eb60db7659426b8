"""The quick-start notebook runs offline, and shows what its committed outputs show."""

from typing import Any

import nbformat
import pytest

from . import notebook
from .notebook import NOTEBOOK, WIDGET

pytestmark = pytest.mark.slow

# No network, and few steps: each evaluation takes a tenth of a second.
BEFORE = """
import socket

from ddim_edit import InversionConfig


def refuse(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError("the network is switched off")
    return connect(self, address)


connect, socket.socket.connect = socket.socket.connect, refuse
defaults = list(InversionConfig.__init__.__defaults__)
defaults[2] = 2
InversionConfig.__init__.__defaults__ = tuple(defaults)
"""


def committed() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return notebook.run(committed(), tmp_path_factory.mktemp("notebook"), BEFORE)


def kinds(cells: Any) -> list[list[set[str]]]:
    """What is shown below each cell of code."""
    return [[set(output.data) for output in cell.outputs] for cell in cells if cell.cell_type == "code"]


def test_the_notebook_shows_what_is_committed(ran: Any) -> None:
    bars = sum(WIDGET in data for outputs in kinds(ran.cells) for data in outputs)
    assert bars == 1 + 1 + 2 + 4 + 2 + 1  # invert; reconstruct; interpolate, decode; edits; a photograph; sample
    text = str(ran.cells)
    notebook.clean(ran)
    assert kinds(ran.cells) == kinds(committed().cells)
    assert "Warning" not in text


def test_committed_outputs_are_clean() -> None:
    cleaned = committed()
    notebook.clean(cleaned)
    assert cleaned == committed()
    assert NOTEBOOK.stat().st_size < 500_000
