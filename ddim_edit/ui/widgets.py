"""What several tabs of the page are made of, and how their events are answered."""

import functools
import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import gradio as gr
from gradio.data_classes import ImageData

from ddim_edit.errors import DDIMEditError
from ddim_edit.ui.desk import Given
from ddim_edit.ui.studio import Tell

Taken = ParamSpec("Taken")
Made = TypeVar("Made")
Values = dict[Any, Any]
"""Values of widgets by widget."""
Inputs = Any
"""One widget, a list of them, or a set, for a step that takes values by widget."""


def photo(label: str, height: int, name: str) -> gr.Image:
    """A place to upload or paste a picture, handed on as the very file: gradio itself would decode and save it anew."""
    place = gr.Image(
        label=label, height=height, elem_id=name, sources=["upload", "clipboard"], type="filepath", buttons=[]
    )
    # Not by a subclass, beside whose source gradio would write a stub file.
    place.preprocess = _as_given  # type: ignore[method-assign, assignment]
    return place


def _as_given(payload: ImageData | None) -> Given | None:
    if payload is None or payload.path is None:
        return None
    return Given(Path(payload.path), payload.orig_name or Path(payload.path).name)


def command_line() -> gr.Textbox:
    """Where a command line is shown, with a button that copies it."""
    return gr.Textbox(
        label="Copy as command line",
        info="Makes the same picture from a terminal in the folder of the photo.",
        lines=2,
        max_lines=5,
        interactive=False,
        buttons=["copy"],
        elem_classes="line",
    )


def download(label: str, name: str) -> gr.DownloadButton:
    """A button that hands out a file, once there is one."""
    return gr.DownloadButton(label, size="md", min_width=80, interactive=False, elem_id=name)


def ready(path: Path) -> gr.DownloadButton:
    """That button with its file."""
    return gr.DownloadButton(value=str(path), interactive=True)


def waiting() -> gr.DownloadButton:
    """That button without one."""
    return gr.DownloadButton(value=None, interactive=False)


def at_once(event: Callable[..., Any], step: Callable[..., Any], inputs: Inputs, outputs: Sequence[Any]) -> Any:
    """Answer an event by a step that takes no time."""
    return event(spoken(step), inputs, list(outputs), show_progress="hidden")


def in_turn(
    event: Callable[..., Any],
    step: Callable[..., Any],
    inputs: Inputs,
    outputs: Sequence[Any],
    over: Any,
    progress: Literal["full", "minimal"] = "full",
) -> Any:
    """Answer an event by a step with the model, one at a time; of events that wait, the last one counts."""
    return event(
        spoken(step),
        inputs,
        list(outputs),
        show_progress=progress,
        show_progress_on=over,
        trigger_mode="always_last",
        concurrency_id="model",
        concurrency_limit=1,
    )


def spoken(step: Callable[Taken, Made]) -> Callable[Taken, Made]:
    """The step, whose errors the page shows as the sentences that they are."""

    @functools.wraps(step)
    def careful(*args: Taken.args, **options: Taken.kwargs) -> Made:
        try:
            return step(*args, **options)
        except (DDIMEditError, OSError) as error:
            raise gr.Error(sentence(error, args), duration=None, print_exception=False) from None

    return careful


def sentence(error: Exception, values: Sequence[object]) -> str:
    """What an error says, with the names that files have for the user, as HTML; values are those of the widgets."""
    text = str(error)
    for value in values:
        among = value.values() if isinstance(value, dict) else [value]
        for given in among:
            if isinstance(given, Given):
                text = text.replace(str(given.path), given.name)
    return html.escape(text)


def telling(progress: gr.Progress, what: str) -> Tell:
    """Shows on the page how far a long call is."""
    return lambda share: progress(share, desc=what)
