"""`ui`: all of it with a mouse, in a browser on this machine."""

import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import with_session
from .session import Session

if TYPE_CHECKING:
    from ddim_edit import Editor


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="Where to listen; 0 is any free one."
)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option(
    "--directions",
    metavar="DIR",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Folder of direction files for the sliders. [those packaged for the model]",
)
@with_session
def ui(port: int, no_browser: bool, directions: Path | None, session: Session) -> None:
    """Open a page in the browser to load a photo, slide its attributes, walk between pictures and draw new ones.

    It listens on 127.0.0.1 and asks nobody anything. Its address is printed when it answers; Ctrl-C ends it.
    """
    from ddim_edit import ui as page

    def ready(address: str) -> None:
        click.echo(address)
        session.note("the page is open until Ctrl-C")
        if not no_browser:
            webbrowser.open(address)

    def load(heard: "Callable[[int], object]") -> "Editor":
        editor = session.load(session.model, on_evaluation=heard, compiled=session.compiled)
        session.describe(editor.model)
        return editor

    page.serve(load, ready, port, directions, _flags(session))


def _flags(session: Session) -> list[str]:
    """What a command line needs to work with the same model in the same way."""
    height, width = session.size or (0, 0)
    told = {
        "--model": session.model,
        "--device": session.device if session.device != "auto" else None,
        "--dtype": session.dtype if session.dtype != "auto" else None,
        "--size": f"{width}x{height}" if session.size else None,
        "--compile": session.compile if session.compile != "auto" else None,
        "--batch-size": str(session.batch_size) if session.batch_size else None,
    }
    offline = ["--offline"] if session.offline else []
    return [word for name, value in told.items() if value is not None for word in (name, value)] + offline
