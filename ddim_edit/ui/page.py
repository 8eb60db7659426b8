"""The page: three tabs around one controller, and how it looks."""

from pathlib import Path

import gradio as gr
from gradio.themes.utils.fonts import LocalFont

from ddim_edit.ui.controller import PageController
from ddim_edit.ui.editing import EditingTab
from ddim_edit.ui.interpolating import InterpolationTab
from ddim_edit.ui.sampling import SamplingTab
from ddim_edit.ui.widgets import keep_stream_open

TITLE = "# ddim-edit"
LEAD = (
    "A photo becomes the noise a diffusion model would have drawn it from; change it there, and draw it again. "
    "Nothing leaves this machine."
)

FOLDER = Path(__file__).parent
HEAD = f"<script>\n{(FOLDER / 'page.js').read_text(encoding='utf-8')}\n</script>"
CSS = (FOLDER / "page.css").read_text(encoding="utf-8")


def theme() -> gr.themes.Base:
    """Return the theme, teal on warm grey; its fonts are local, so that nothing is fetched from other machines."""
    base: gr.themes.Base = gr.themes.Soft(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="stone",
        font=[LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=[LocalFont("IBM Plex Mono", weights=(400,)), "ui-monospace", "monospace"],
    )
    labels = {
        "block_label_background_fill": "*background_fill_primary",
        "block_label_text_color": "*body_text_color",
        "block_title_background_fill": "transparent",
        "block_title_text_color": "*body_text_color",
    }
    dark_labels = {f"{name}_dark": value for name, value in labels.items()}
    return base.set(
        **labels,
        **dark_labels,
        body_background_fill="*neutral_50",
        background_fill_primary="white",
        block_border_width="1px",
        block_title_padding="0",
        block_shadow="none",
        button_primary_shadow="none",
        button_secondary_shadow="none",
        button_secondary_border_color="*neutral_200",
        button_border_width="1px",
        slider_color="*primary_500",
    )


def make_page(controller: PageController) -> gr.Blocks:
    """Return the page around a controller, not served yet."""
    page = gr.Blocks(title="ddim-edit", analytics_enabled=False, fill_width=True)
    with page:
        page.load(keep_stream_open, None, None, show_progress="hidden", concurrency_limit=None)
        gr.Markdown(TITLE)
        gr.Markdown(LEAD, elem_id="lead")
        with gr.Tabs() as tabs:
            with gr.Tab("Edit", id="edit"):
                editing = EditingTab(controller)
            with gr.Tab("Between", id="between"):
                InterpolationTab(controller)
            with gr.Tab("New faces", id="faces"):
                SamplingTab(controller, tabs, editing)
        editing.restore_after(page.load)
    return page
