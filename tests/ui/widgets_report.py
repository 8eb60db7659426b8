"""What the page is made of, told in JSON by a process of its own: gradio leaves an event loop open behind it."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

from ddim_edit import DDIMEditError, Editor, ImageError, load_model
from ddim_edit.ui.controller import PageController
from ddim_edit.ui.model_queue import ModelQueue
from ddim_edit.ui.page import make_page
from ddim_edit.ui.records import UploadedImage
from ddim_edit.ui.serving import listen
from ddim_edit.ui.session import Session, directions_by_level
from ddim_edit.ui.widgets import error_text


def visible_widgets(controller: PageController) -> list[tuple[str, dict[str, Any]]]:
    """The widgets of the page that are not hidden, by kind, with their labels and texts."""
    parts = [(part["type"], part["props"]) for part in make_page(controller).get_config_file()["components"]]
    told = ("label", "value")
    return [(kind, {key: props.get(key) for key in told}) for kind, props in parts if props.get("visible", True)]


def taken_port() -> list[str]:
    """What is said of a port where another server is."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        try:
            listen(port).close()
        except DDIMEditError as error:
            return [str(port), str(error)]
    return [str(port), "nothing"]


if __name__ == "__main__":
    model, directions, folder = map(Path, sys.argv[1:])
    editor = Editor(load_model(model))
    error = ImageError("/tmp/x/1.png: the file is <empty>. Save it again.")
    report = {
        "fitted": visible_widgets(
            PageController(Session(editor, directions_by_level("tiny", directions), ModelQueue()), folder)
        ),
        "bare": visible_widgets(PageController(Session(editor, {}, ModelQueue()), folder)),
        "sentence": error_text(error, [None, {"photo": UploadedImage(Path("/tmp/x/1.png"), "my <b>.png")}]),
        "port": taken_port(),
    }
    print(json.dumps(report))
