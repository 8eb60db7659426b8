"""What the page is made of, told in JSON by a process of its own: gradio leaves an event loop open behind it."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

from ddim_edit import DDIMEditError, Editor, ImageError, load_model
from ddim_edit.ui.desk import Given, PageController
from ddim_edit.ui.page import make_page
from ddim_edit.ui.serving import _listening
from ddim_edit.ui.studio import Session, Ticks, levels_of
from ddim_edit.ui.widgets import sentence


def seen(desk: PageController) -> list[tuple[str, dict[str, Any]]]:
    """The widgets of the page that are not hidden, by kind, with their labels and texts."""
    parts = [(part["type"], part["props"]) for part in make_page(desk).get_config_file()["components"]]
    told = ("label", "value")
    return [(kind, {key: props.get(key) for key in told}) for kind, props in parts if props.get("visible", True)]


def taken_port() -> list[str]:
    """What is said of a port where another server is."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        try:
            _listening(port).close()
        except DDIMEditError as error:
            return [str(port), str(error)]
    return [str(port), "nothing"]


if __name__ == "__main__":
    model, directions, folder = map(Path, sys.argv[1:])
    editor = Editor(load_model(model))
    error = ImageError("a picture", "/tmp/x/1.png, which is <empty>", "save it again")
    report = {
        "fitted": seen(PageController(Session(editor, levels_of("tiny", directions), Ticks()), folder)),
        "bare": seen(PageController(Session(editor, {}, Ticks()), folder)),
        "sentence": sentence(error, [None, {"photo": Given(Path("/tmp/x/1.png"), "my <b>.png")}]),
        "port": taken_port(),
    }
    print(json.dumps(report))
