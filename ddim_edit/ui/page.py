"""The page: three tabs around one controller, and how it looks."""

import gradio as gr
from gradio.themes.utils.fonts import LocalFont

from ddim_edit.ui.controller import PageController
from ddim_edit.ui.editing import EditingTab
from ddim_edit.ui.interpolating import InterpolationTab
from ddim_edit.ui.sampling import SamplingTab

TITLE = "# ddim-edit"
LEAD = (
    "A photo becomes the noise a diffusion model would have drawn it from; change it there, and draw it again. "
    "Nothing leaves this machine."
)

HEAD = """
<script>
// gradio fires a slider's release for pointers only; keys that move one count here too.
const MOVING = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"];
document.addEventListener("keyup", (event) => {
  if (event.target.type === "range" && MOVING.includes(event.key))
    event.target.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
});
</script>
"""

CSS = """
.gradio-container { max-width: 1400px !important; width: 100% !important; margin: 0 auto !important; }
.gradio-container > main, .gradio-container .wrap.fillable { width: 100%; max-width: none !important; }
.prose h1 { margin: 0.2rem 0 0 !important; font-size: 1.7rem; letter-spacing: -0.01em; }
#lead p { color: var(--body-text-color-subdued); margin: 0; }
.hint p { color: var(--body-text-color-subdued); margin: 0; line-height: 1.45; }
.line textarea { font-family: var(--font-mono); font-size: 13px; line-height: 1.6; }
#verdict p { margin: 0 0 0.5rem; line-height: 1.45; }
/* Pixels as they are, and both images of the comparison in one square. */
.crisp img { image-rendering: pixelated; }
#compare .content { aspect-ratio: 1; width: 100%; }
#compare .content img { position: absolute; inset: 0; width: 100%; height: 100%; max-height: none !important; }
#compare .content img { object-fit: contain; }
/* A slider of strengths fills from its middle, where nothing is moved. */
.signed input[type=range]::-webkit-slider-runnable-track {
  background: linear-gradient(to right,
    var(--neutral-200) min(50%, var(--range_progress)), var(--slider-color) min(50%, var(--range_progress)),
    var(--slider-color) max(50%, var(--range_progress)), var(--neutral-200) max(50%, var(--range_progress))) !important;
}
.signed input[type=range]::-moz-range-progress { background: var(--neutral-200) !important; }
"""


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
        gr.Markdown(TITLE)
        gr.Markdown(LEAD, elem_id="lead")
        with gr.Tabs() as tabs:
            with gr.Tab("Edit", id="edit"):
                editing = EditingTab(controller)
            with gr.Tab("Between", id="between"):
                InterpolationTab(controller)
            with gr.Tab("New faces", id="faces"):
                SamplingTab(controller, tabs, editing)
    return page
