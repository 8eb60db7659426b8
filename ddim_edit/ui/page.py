"""The page: three tabs around one desk."""

import gradio as gr

from ddim_edit.ui.desk import PageController
from ddim_edit.ui.drawing import DrawingTab
from ddim_edit.ui.editing import EditingTab
from ddim_edit.ui.walking import WalkingTab

TITLE = "# ddim-edit"
LEAD = (
    "A photo becomes the noise a diffusion model would have drawn it from; change it there, and draw it again. "
    "Nothing leaves this machine."
)


def make_page(desk: PageController) -> gr.Blocks:
    """The page around a desk, not served yet."""
    page = gr.Blocks(title="ddim-edit", analytics_enabled=False, fill_width=True)
    with page:
        gr.Markdown(TITLE)
        gr.Markdown(LEAD, elem_id="lead")
        with gr.Tabs() as tabs:
            with gr.Tab("Edit", id="edit"):
                editing = EditingTab(desk)
            with gr.Tab("Between", id="between"):
                WalkingTab(desk)
            with gr.Tab("New faces", id="faces"):
                DrawingTab(desk, tabs, editing)
    return page
