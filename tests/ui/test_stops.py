"""Stopping the jobs of a page."""

import gradio as gr
import pytest

from ddim_edit.ui.widgets import StoppedError, Stops


def _request(page: str) -> gr.Request:
    return gr.Request(username=None, session_hash=page)


def test_job_begun_before_a_stop_ends_even_if_another_began_since() -> None:
    stops = Stops()
    slow = stops.progress_callback(_request("a"), gr.Progress(), "Slow")
    other_page = stops.progress_callback(_request("b"), gr.Progress(), "Other page")
    stops.stop(_request("a"))
    new = stops.progress_callback(_request("a"), gr.Progress(), "New")
    new(0.5)
    other_page(0.5)
    with pytest.raises(StoppedError):
        slow(0.5)
