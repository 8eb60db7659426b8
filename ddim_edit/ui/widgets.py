"""Widgets and event handlers that several tabs of the page share."""

import functools
import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import gradio as gr
from gradio.data_classes import ImageData
from gradio.utils import get_upload_folder

from ddim_edit.errors import DDIMEditError
from ddim_edit.ui.controller import UploadedImage
from ddim_edit.ui.session import ProgressCallback

P = ParamSpec("P")
Result = TypeVar("Result")
Values = dict[Any, Any]
"""Values of widgets by widget."""
Inputs = Any
"""One widget, a list of them, or a set, for a handler that takes values by widget."""


def image_upload(label: str, height: int, elem_id: str) -> gr.Image:
    """Return a place to upload or paste an image, whose handlers get the file itself as an `UploadedImage`."""
    widget = gr.Image(
        label=label, height=height, elem_id=elem_id, sources=["upload", "clipboard"], type="filepath", buttons=[]
    )
    # gradio itself would decode the file and save it anew. The method is replaced on the object, because of a subclass
    # gradio would write a stub file beside this source.
    widget.preprocess = _to_uploaded_image  # type: ignore[method-assign, assignment]
    return widget


def _to_uploaded_image(payload: ImageData | None) -> UploadedImage | None:
    if payload is None or payload.path is None:
        return None
    # `PageGuard` has checked it already, but a page may be served without.
    path = Path(payload.path).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()):
        raise gr.Error("Only files that were uploaded to this page can be read.", print_exception=False)
    return UploadedImage(path, payload.orig_name or path.name)


def command_box() -> gr.Textbox:
    """Return a box that shows a command line, with a button that copies it."""
    return gr.Textbox(
        label="Copy as command line",
        info="Makes the same image from a terminal in the folder of the photo.",
        lines=2,
        max_lines=5,
        interactive=False,
        buttons=["copy"],
        elem_classes="line",
    )


def download_button(label: str, elem_id: str) -> gr.DownloadButton:
    """Return a button that downloads a file, disabled until there is one."""
    return gr.DownloadButton(label, size="md", min_width=80, interactive=False, elem_id=elem_id)


def enabled_download(path: Path) -> gr.DownloadButton:
    """Return the update that gives such a button its file."""
    return gr.DownloadButton(value=str(path), interactive=True)


def disabled_download() -> gr.DownloadButton:
    """Return the update that takes the file of such a button away."""
    return gr.DownloadButton(value=None, interactive=False)


def on_event(event: Callable[..., Any], handler: Callable[..., Any], inputs: Inputs, outputs: Sequence[Any]) -> Any:
    """Answer an event by a handler that takes no time."""
    return event(errors_as_toasts(handler), inputs, list(outputs), show_progress="hidden")


def on_event_run_model(
    event: Callable[..., Any],
    handler: Callable[..., Any],
    inputs: Inputs,
    outputs: Sequence[Any],
    progress_on: Any,
    progress: Literal["full", "minimal"] = "full",
) -> Any:
    """Answer an event by a handler that runs the model, one at a time; of waiting events the last one counts."""
    return event(
        errors_as_toasts(handler),
        inputs,
        list(outputs),
        show_progress=progress,
        show_progress_on=progress_on,
        trigger_mode="always_last",
        concurrency_id="model",
        concurrency_limit=1,
    )


def errors_as_toasts(handler: Callable[P, Result]) -> Callable[P, Result]:
    """Return the handler with its errors shown on the page."""

    @functools.wraps(handler)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Result:
        try:
            return handler(*args, **kwargs)
        except (DDIMEditError, OSError) as error:
            raise gr.Error(error_text(error, args), duration=None, print_exception=False) from None

    return wrapper


def error_text(error: Exception, values: Sequence[object]) -> str:
    """Return the message of an error as HTML, with the user's names of uploaded files among the values of widgets."""
    text = str(error)
    for value in values:
        for upload in value.values() if isinstance(value, dict) else [value]:
            if isinstance(upload, UploadedImage):
                text = text.replace(str(upload.path), upload.name)
    return html.escape(text)


def progress_callback(progress: gr.Progress, description: str) -> ProgressCallback:
    """Return a callback that shows progress on the page."""
    return lambda share: progress(share, desc=description)
