"""The tab `New faces`: images sampled from seeds, each a click away from the tab `Edit`."""

from typing import Any

import gradio as gr

from ddim_edit.ui.controller import PageController, SampledImages
from ddim_edit.ui.editing import EditingTab
from ddim_edit.ui.widgets import command_box, download_button, enabled_download, on_event_run_model, progress_callback

PROGRESS = gr.Progress()
LEAD = "A seed is a noise x_T, and so a face; the same seed always gives the same face. Click one to edit it."


class SamplingTab:
    """The widgets of the tab and their handlers, which call the controller."""

    def __init__(self, controller: PageController, tabs: gr.Tabs, editing: EditingTab) -> None:
        self._controller = controller
        gr.Markdown(LEAD, elem_classes="hint")
        with gr.Row():
            self._count = gr.Slider(2, 24, 12, step=1, label="How many", buttons=[], elem_id="count")
            self._seed = gr.Number(0, precision=0, minimum=0, label="First seed", elem_id="seed")
            self._button = gr.Button("Draw", variant="primary", scale=0, min_width=160, elem_id="draw")
        self._sampled = gr.State(None)
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
        with gr.Row():
            self._sheet = download_button("Save sheet", "sheet-file")
        self._command = command_box()
        outputs = [self._sampled, self._gallery, self._sheet, self._command]
        on_event_run_model(self._button.click, self._sample, [self._count, self._seed], outputs, self._gallery)
        editing.open_after(self._gallery.select(self._choose, self._sampled, [editing.photo, tabs]).success)

    def _sample(self, count: float, seed: float | None, progress: gr.Progress = PROGRESS) -> tuple[Any, ...]:
        made = self._controller.sample(int(count), int(seed or 0), progress_callback(progress, "Drawing"))
        captions = [(str(path), path.stem) for path in made.thumbnails]
        return made, gr.Gallery(captions, selected_index=None), enabled_download(made.sheet), made.command

    def _choose(self, sampled: SampledImages, event: gr.SelectData) -> tuple[str, Any]:
        return str(sampled.files[event.index]), gr.Tabs(selected="edit")
