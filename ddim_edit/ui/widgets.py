"""Widgets and event handlers that several tabs of the page share."""

import asyncio
import functools
import html
import inspect
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, cast

import gradio as gr
from gradio.utils import get_upload_folder

from ddim_edit.errors import DDIMEditError
from ddim_edit.ui.model_queue import ProgressCallback
from ddim_edit.ui.records import LoadedPhoto, OpenedPhoto, UploadedImage

P = ParamSpec("P")
Result = TypeVar("Result")
Values = dict[Any, Any]
"""Values of widgets by widget."""
TOAST = 12
"""Seconds that an error is shown."""
MOST_JOBS = 8
"""Handlers of one kind that may run at once, such as those that share the model; more of them wait."""
STEP = 5.0
"""Seconds between two steps of the handler that keeps a stream open; after a step gradio ends it if nobody listens."""
Inputs = Any
"""One widget, a list of them, or a set, for a handler that takes values by widget."""


def image_upload(label: str, height: int, elem_id: str) -> gr.Image:
    """Return a place to upload or paste an image; see `on_upload`."""
    return gr.Image(
        label=label, height=height, elem_id=elem_id, sources=["upload", "clipboard"], type="filepath", buttons=[]
    )


def on_upload(photo: gr.Image, handler: Callable[[UploadedImage | None], Any], outputs: Sequence[Any]) -> Any:
    """Answer an upload by a handler, which gets the file itself; gradio would decode it and save it anew."""

    @functools.wraps(handler)
    def handle(payload: dict[str, Any] | None) -> Any:
        return errors_as_toasts(handler)(_to_uploaded_image(payload))

    return photo.upload(
        handle, photo, list(outputs), show_progress="hidden", preprocess=False, concurrency_limit=MOST_JOBS
    )


def _to_uploaded_image(payload: dict[str, Any] | None) -> UploadedImage | None:
    if payload is None or payload.get("path") is None:
        return None
    # `PageGuard` has checked it already, but a page may be served without.
    path = Path(payload["path"]).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()):
        raise gr.Error("Only files that were uploaded to this page can be read.", print_exception=False)
    return UploadedImage(path, payload.get("orig_name") or path.name)


def command_box(placeholder: str | None = None) -> gr.Textbox:
    """Return a box that shows a command line, with a button that copies it."""
    return gr.Textbox(
        label="Copy as command line",
        info="Makes the same image from a terminal in the folder of the photo.",
        placeholder=placeholder,
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


def stop_button(elem_id: str) -> gr.Button:
    """Return a button that stops what the model does for its tab."""
    return gr.Button("Stop", size="md", min_width=80, variant="stop", elem_id=elem_id, elem_classes="stop-button")


def on_event(event: Callable[..., Any], handler: Callable[..., Any], inputs: Inputs, outputs: Sequence[Any]) -> Any:
    """Answer an event by a handler that takes no time."""
    return event(errors_as_toasts(handler), inputs, list(outputs), show_progress="hidden", concurrency_limit=MOST_JOBS)


def on_event_run_model(
    event: Callable[..., Any],
    handler: Callable[..., Any],
    inputs: Inputs,
    outputs: Sequence[Any],
    progress_on: Any,
    progress: Literal["full", "minimal"] = "full",
) -> Any:
    """Answer an event by a handler that runs the model; of waiting events the last one counts.

    Several may run at once: they share the model by its `ModelQueue`.
    """
    return event(
        errors_as_toasts(handler),
        inputs,
        list(outputs),
        show_progress=progress,
        show_progress_on=progress_on,
        trigger_mode="always_last",
        concurrency_id="model",
        concurrency_limit=MOST_JOBS,
    )


def take_typed_number(slider: gr.Slider, reach: gr.Radio | None = None) -> Callable[..., Any]:
    """Return what answers the release of a slider, also with a number beyond its reach, which can be typed.

    Args:
        slider: the slider.
        reach: where its reach is chosen, which then widens; without it the number becomes the nearest one inside.
    """

    def clip(number: float | None) -> float | None:
        return slider.value if number is None else min(max(number, slider.minimum), slider.maximum)

    def widen(number: float | None, chosen: float) -> Any:
        # With its value: the browser has cut it off at the end of the slider.
        if number is None or abs(number) <= chosen:
            return gr.skip()
        return gr.Slider(-widest(number), widest(number), number)

    # Without preprocessing, in which gradio refuses such numbers.
    released = slider.release(
        clip if reach is None else widen,
        slider if reach is None else [slider, reach],
        slider,
        show_progress="hidden",
        preprocess=False,
        concurrency_limit=MOST_JOBS,
    )
    then: Callable[..., Any] = released.then
    return then


def widest(number: float) -> int:
    """Return the reach of a slider that shows a number: the next multiple of 3."""
    return 3 * math.ceil(abs(number) / 3)


class StoppedError(Exception):
    """The user has stopped a job."""


class Stops:
    """Tells the jobs of one kind to stop, for each page that is open in a browser."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def stop(self, request: gr.Request) -> None:
        """Stop the jobs that this page in the browser has begun so far."""
        page = request.session_hash or ""
        self._counts[page] = self._counts.get(page, 0) + 1

    def progress_callback(self, request: gr.Request, progress: gr.Progress, description: str) -> ProgressCallback:
        """Return a callback for a new job that shows progress, and raises `StoppedError` once the job is stopped."""
        page = request.session_hash or ""
        # A count, not a flag: the next job would clear a flag before a slow one has seen it.
        stops_before = self._counts.get(page, 0)

        def report(share: float) -> None:
            if self._counts.get(page, 0) != stops_before:
                raise StoppedError
            progress(share, desc=description)

        return report


async def keep_stream_open() -> AsyncIterator[None]:
    """Run until the browser leaves the page, so that gradio's stream of results stays open; an event handler.

    gradio closes the stream whenever nothing is pending. An event that the browser sends at this moment is lost: the
    server takes it for one of the closed stream and drops it, or the browser waits at a stream that is closed, and the
    page stands still (seen twice in 60 runs of the browser tests with gradio 6.31).
    """
    while True:
        await asyncio.sleep(STEP)
        yield


def errors_as_toasts(handler: Callable[P, Result]) -> Callable[P, Result]:
    """Return the handler, which may be a generator, with its errors shown on the page."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def generator(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
            try:
                yield from handler(*args, **kwargs)
            except (DDIMEditError, OSError) as error:
                raise _toast(error, args) from None

        return cast(Callable[P, Result], generator)

    @functools.wraps(handler)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Result:
        try:
            return handler(*args, **kwargs)
        except (DDIMEditError, OSError) as error:
            raise _toast(error, args) from None

    return wrapper


def _toast(error: Exception, values: Sequence[object]) -> gr.Error:
    return gr.Error(error_text(error, values), duration=TOAST, print_exception=False)


def error_text(error: Exception, values: Sequence[object]) -> str:
    """Return the message of an error as HTML, with the user's names of uploaded files among the values of widgets."""
    text = str(error)
    for value in values:
        for upload in value.values() if isinstance(value, dict) else [value]:
            if isinstance(upload, LoadedPhoto | OpenedPhoto):
                upload = upload.upload
            if isinstance(upload, UploadedImage):
                text = text.replace(str(upload.path), upload.name)
    return html.escape(text)
