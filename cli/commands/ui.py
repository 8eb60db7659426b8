"""`ddim-edit ui`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..command import Option, OptionGroup, command
from ..options import session_options
from ..session import Session

if TYPE_CHECKING:
    from ddim_edit import Editor


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    from ddim_edit.ui import PORT

    return [
        OptionGroup(
            "Page",
            [
                Option(
                    "--port",
                    type=click.IntRange(0, 65535),
                    default=PORT,
                    metavar="N",
                    help="Port to listen on; 0 is any free one.",
                ),
                Option("--no-browser", is_flag=True, help="Print the address, but open no browser."),
                Option(
                    "--directions",
                    metavar="DIR",
                    type=click.Path(file_okay=False, exists=True, path_type=Path),
                    help="Folder of direction files for the sliders. [default: those packaged for the model]",
                ),
            ],
        ),
        session_options("json"),
    ]


@command("Tools", 1, option_groups, "ddim-edit ui")
def ui(port: int, no_browser: bool, directions: Path | None, session: Session) -> None:
    """Open the page in the browser. There you load a photo, move its attributes, interpolate and sample.

    It listens on 127.0.0.1 only, serves whoever has its address, and sends nothing anywhere. The address is printed
    once it answers; Ctrl-C ends it.
    """
    from ddim_edit.ui import serve

    def ready(address: str) -> None:
        click.echo(address)
        session.note("the page is open until Ctrl-C")

    def load(on_evaluation: "Callable[[int], object]") -> "Editor":
        options = {"on_evaluation": on_evaluation, "compiled": session.compiled, **session.parts}
        editor = session.load(session.model, **options)
        session.describe(editor.model)
        return editor

    serve(load, ready, port, directions, session_flags(session), open_browser=not no_browser)


def session_flags(session: Session) -> list[str]:
    """Return the options that a command line needs to run the same model in the same way."""
    words: list[str] = []
    for name in ("model", "base", "scheduler", "vae", "encoder_dtype", "offload", "runtime"):
        if value := getattr(session, name):
            words += [f"--{name.replace('_', '-')}", value]
    for lora in session.loras:
        words += ["--lora", lora]
    for embedding in session.embeddings:
        words += ["--embedding", embedding]
    if session.device != "auto":
        words += ["--device", session.device]
    if session.dtype != "auto":
        words += ["--dtype", session.dtype]
    if session.size:
        height, width = session.size
        words += ["--size", f"{width}x{height}"]
    if session.compile != "auto":
        words += ["--compile", session.compile]
    if session.batch_size:
        words += ["--batch-size", str(session.batch_size)]
    if session.offline:
        words.append("--offline")
    return words
