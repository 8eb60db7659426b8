"""A page in the browser: invert photos, edit them by sliders, interpolate between images and sample new ones.

`PageController` is the logic, independent of widgets. gradio comes with the extra `ui` and is imported with the page.
"""

import html
import os
import signal
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_edit.io.extras import require_extra
from ddim_edit.ui.workspace import private_folder

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
    open_browser: bool = False,
) -> None:
    """Serve the page at 127.0.0.1 until interrupted, to whoever has its address, which ends in a token.

    Uploads and results lie in a temporary folder that is removed in the end.

    Args:
        load: returns the editor, with its argument as `on_evaluation`.
        on_ready: called with the address once the page answers.
        port: where to listen; 0 is any port that is free.
        directions: folder of direction files; those packaged for the model if left out.
        flags: options that the command lines on the page need for the same model.
        open_browser: open the page in the browser once it answers.

    Raises:
        MissingExtraError: gradio is not installed, or too old.
        ArgumentError: the port is taken.
        DirectionError: a folder without directions.
    """
    require_extra("gradio", "ui", "The page")
    # A page that is terminated, or whose terminal is closed, removes its folder as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        # The server ends in good order on SIGTERM and does not know SIGHUP.
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    with private_folder() as folder:
        # Set before gradio is imported, which reads them: no telemetry, uploads go where they are removed, no history
        # of what was done, for which older versions have no parameter.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_RUN_HISTORY"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")
        from ddim_edit.ui.controller import PageController
        from ddim_edit.ui.model_queue import ModelQueue
        from ddim_edit.ui.page import make_page
        from ddim_edit.ui.serving import serve_page
        from ddim_edit.ui.session import Session, directions_by_level

        def ready(address: str) -> None:
            on_ready(address)
            if open_browser:
                # By a file that leads there, not by the address itself: the arguments of a program can be read by
                # every user of the machine, and the address ends in the token.
                redirect = folder / "open.html"
                target = html.escape(address)
                refresh = f'<meta http-equiv="refresh" content="0; url={target}">'
                redirect.write_text(f'{refresh}<a href="{target}">Open the page</a>')
                webbrowser.open(redirect.as_uri())

        queue = ModelQueue()
        editor = load(queue)
        session = Session(editor, directions_by_level(editor.model.name, directions), queue)
        serve_page(make_page(PageController(session, folder / "made", flags)), port, folder, ready)
