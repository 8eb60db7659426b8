"""The tab `New faces`: images sampled from seeds, each a click away from the tab `Edit`."""

from typing import Any

import gradio as gr

from ddim_edit.ui.controller import PageController
from ddim_edit.ui.editing import EditingTab
from ddim_edit.ui.records import SampledImages, UploadedImage
from ddim_edit.ui.widgets import (
    StoppedError,
    Stops,
    Values,
    command_box,
    download_button,
    enabled_download,
    on_event,
    on_event_run_model,
    stop_button,
)

PROGRESS = gr.Progress()
LEAD = "A seed is a noise x_T, and so a face; the same seed always gives the same face. Click one to edit it."
FIRST_COUNT = 12


class SamplingTab:
    """The widgets of the tab and their handlers, which call the controller."""

    def __init__(self, controller: PageController, tabs: gr.Tabs, editing: EditingTab) -> None:
        self._controller = controller
        self._editing = editing
        self._tabs = tabs
        self._stops = Stops()
        gr.Markdown(LEAD, elem_classes="hint")
        with gr.Row():
            self._count = gr.Number(FIRST_COUNT, precision=0, label="How many", elem_id="count")
            self._seed = gr.Number(controller.first_seed, precision=0, label="First seed", elem_id="seed")
            self._button = gr.Button("Draw", variant="primary", scale=0, min_width=120, elem_id="draw")
            self._shuffle = gr.Button("Shuffle", scale=0, min_width=120, elem_id="shuffle")
        self._sampled = gr.State(None)
        with gr.Column(elem_classes="result"):
            stop = stop_button("stop-draw")
            self._gallery = gr.Gallery(
                show_label=False,
                columns=6,
                height="auto",
                allow_preview=False,
                interactive=False,
                buttons=[],
                elem_id="faces",
                elem_classes="crisp",
            )
            with gr.Row(elem_classes="files"):
                self._sheet = download_button("Save sheet", "sheet-file")
            self._command = command_box()
        shuffled = on_event(self._shuffle.click, controller.shuffle_seed, None, [self._seed])
        inputs = {self._count, self._seed}
        outputs = [self._sampled, self._gallery, self._sheet, self._command]
        for event in (self._button.click, shuffled.success):
            on_event_run_model(event, self._sample, inputs, outputs, self._gallery)
        on_event(stop.click, self._stops.stop, None, [])
        chosen = on_event(self._gallery.select, self._choose, self._sampled, [*editing.picker.outputs, tabs])
        editing.open_after(chosen.success)

    def _sample(self, values: Values, request: gr.Request, progress: gr.Progress = PROGRESS) -> Values:
        on_progress = self._stops.progress_callback(request, progress, "Drawing")
        count, seed = int(values[self._count] or 0), int(values[self._seed] or 0)
        try:
            made = self._controller.sample(count, seed, on_progress)
        except StoppedError:
            return {self._sampled: gr.skip()}
        captions = [(str(path), path.stem) for path in made.thumbnails]
        return {
            self._sampled: made,
            self._gallery: gr.Gallery(captions, selected_index=None),
            self._sheet: enabled_download(made.sheet),
            self._command: made.command,
        }

    def _choose(self, sampled: SampledImages, event: gr.SelectData) -> dict[Any, Any]:
        file = sampled.files[event.index]
        return {**self._editing.picker.load(UploadedImage(file, file.name)), self._tabs: gr.Tabs(selected="edit")}
