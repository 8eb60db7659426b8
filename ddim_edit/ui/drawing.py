"""The tab `New faces`: pictures of nobody from seeds, each a click away from the other tabs."""

from typing import Any

import gradio as gr

from ddim_edit.ui.desk import Drawn, PageController
from ddim_edit.ui.editing import EditingTab
from ddim_edit.ui.widgets import command_line, download, in_turn, ready, telling

PROGRESS = gr.Progress()
LEAD = "A seed is a noise x_T, and so a face; the same seed is the same face for ever. Click one to edit it."


class DrawingTab:
    """Lays the tab out and wires it to a desk and to the tab where a chosen face goes; holds widgets, no pictures."""

    def __init__(self, desk: PageController, tabs: gr.Tabs, editing: EditingTab) -> None:
        self._desk = desk
        gr.Markdown(LEAD, elem_classes="hint")
        with gr.Row():
            self._count = gr.Slider(2, 24, 12, step=1, label="How many", buttons=[], elem_id="count")
            self._seed = gr.Number(0, precision=0, minimum=0, label="First seed", elem_id="seed")
            self._go = gr.Button("Draw", variant="primary", scale=0, min_width=160, elem_id="draw")
        self._drawn = gr.State(None)
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
            self._sheet = download("Save sheet", "sheet-file")
        self._command = command_line()
        self._wire(tabs, editing)

    def _wire(self, tabs: gr.Tabs, editing: EditingTab) -> None:
        shown = [self._drawn, self._gallery, self._sheet, self._command]
        inputs = [self._count, self._seed]
        in_turn(self._go.click, self._draw, inputs, shown, self._gallery)
        editing.after(self._gallery.select(self._chosen, self._drawn, [editing.photo, tabs]).success)

    def _draw(self, count: float, seed: float | None, progress: gr.Progress = PROGRESS) -> tuple[Any, ...]:
        made = self._desk.draw(int(count), int(seed or 0), telling(progress, "Drawing"))
        captions = [(str(path), path.stem) for path in made.shown]
        return made, gr.Gallery(captions, selected_index=None), ready(made.sheet), made.command

    def _chosen(self, drawn: Drawn, event: gr.SelectData) -> tuple[str, Any]:
        return str(drawn.files[event.index]), gr.Tabs(selected="edit")
