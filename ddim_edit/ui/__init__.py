"""A page in the browser: invert photos, edit them by sliders, interpolate between images and sample new ones.

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

    LoadEditor = Callable[[Callable[[int], object]], Editor]
    """Returns an editor with the argument as its `on_evaluation`."""

PORT = 7860

__all__ = ["PORT", "serve"]


def serve(
    load: "LoadEditor",
    on_ready: Callable[[str], object],
    port: int = PORT,
    directions: Path | None = None,
    flags: Sequence[str] = (),
) -> None:
    """Serve the page at 127.0.0.1 until interrupted; other machines cannot reach it, and nothing is sent to any.

    Uploads and results lie in a temporary folder that is removed in the end.

    Args:
        load: returns the editor, with its argument as `on_evaluation`.
        on_ready: called with the address once the page answers.
        port: where to listen; 0 is any port that is free.
        directions: folder of direction files; those packaged for the model if left out.
        flags: options that the command lines on the page need for the same model.

    Raises:
        MissingExtraError: gradio is not installed.
        ArgumentError: the port is taken.
        DirectionError: a folder without directions.
    """
    if find_spec("gradio") is None:
        raise MissingExtraError("gradio", "ui", "The page")
    # So that a terminated page removes its folder as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryDirectory(prefix="ddim-edit-ui-") as folder:
        # gradio reads both when it is imported: no telemetry, and uploads to where they are removed.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "gradio")
        from ddim_edit.ui.controller import PageController
        from ddim_edit.ui.page import make_page
        from ddim_edit.ui.serving import serve_page
        from ddim_edit.ui.session import ProgressCounter, Session, directions_by_level

        progress = ProgressCounter()
        editor = load(progress)
        session = Session(editor, directions_by_level(editor.model.name, directions), progress)
        serve_page(make_page(PageController(session, Path(folder) / "made", flags)), port, on_ready)
