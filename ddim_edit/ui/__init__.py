"""The page in the browser: photographs through x_T and back, sliders for attributes, walks and new faces.

`PageController` does the work and knows no widget. gradio comes with the extra `ui` and is imported with the page.
"""

import os
import signal
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ddim_edit.errors import MissingExtraError

if TYPE_CHECKING:
    from ddim_edit.editor import Editor

    Load = Callable[[Callable[[int], object]], Editor]
    """Makes an editor that reports evaluations to the function it is given."""

PORT = 7860

__all__ = ["PORT", "serve"]


def serve(
    load: "Load",
    ready: Callable[[str], object],
    port: int = PORT,
    directions: Path | None = None,
    flags: Sequence[str] = (),
) -> None:
    """Serve the page at 127.0.0.1 until interrupted; to other machines it is not there, and nothing is sent to any.

    Uploads and results lie in a temporary folder that goes when the page does.

    Args:
        load: makes the editor, with its argument as `on_evaluation`.
        ready: told the address once the page answers.
        port: where; 0 is any that is free.
        directions: folder of direction files; those packaged for the model if left out.
        flags: options that the command lines on the page need for the same model.

    Raises:
        MissingExtraError: gradio is not installed.
        ArgumentError: the port is taken.
        DirectionError: a folder without directions.
    """
    if find_spec("gradio") is None:
        raise MissingExtraError("gradio", "ui", "The page")
    # A terminated page clears its folder as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryDirectory(prefix="ddim-edit-ui-") as folder:
        _forbid_calling_home(Path(folder) / "gradio")
        from ddim_edit.ui.desk import PageController
        from ddim_edit.ui.page import make_page
        from ddim_edit.ui.serving import serve_page
        from ddim_edit.ui.studio import Session, Ticks, levels_of

        ticks = Ticks()
        editor = load(ticks)
        studio = Session(editor, levels_of(editor.model.name, directions), ticks)
        serve_page(make_page(PageController(studio, Path(folder) / "made", flags)), port, ready)


def _forbid_calling_home(folder: Path) -> None:
    """What gradio reads when it is imported: no telemetry, and uploads to where they are cleared away."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
