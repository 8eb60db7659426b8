"""The tab `Between`: a strip and an animation interpolated between two to four images."""

import gradio as gr

from ddim_edit.images import ANIMATION_FORMATS
from ddim_edit.ui.controller import MOST_IMAGES, PageController
from ddim_edit.ui.widgets import (
    Values,
    command_box,
    download_button,
    enabled_download,
    image_upload,
    on_event_run_model,
    progress_callback,
)

PROGRESS = gr.Progress()
# Videos cannot be shown in the place of an image.
FORMATS = [(each.name, suffix) for suffix, each in ANIMATION_FORMATS.items() if not each.is_video]
LEAD = (
    "Two to four images. Each becomes its noise x_T; the path between them leads over the sphere on which noise lies."
)


class InterpolationTab:
    """The widgets of the tab and their handler, which calls the controller."""

    def __init__(self, controller: PageController) -> None:
        self._controller = controller
        gr.Markdown(LEAD, elem_classes="hint")
        with gr.Row():
            self.photos = [image_upload("ABCD"[place], 190, f"place-{place}") for place in range(MOST_IMAGES)]
        with gr.Row():
            self._frames = gr.Slider(
                3, 25, 9, step=1, label="Frames from each to the next", buttons=[], elem_id="frames"
            )
            self._suffix = gr.Radio(FORMATS, value=".webp", label="Animation")
            self._loop = gr.Checkbox(True, label="And back again")
            self._button = gr.Button("Interpolate", variant="primary", scale=0, min_width=160, elem_id="interpolate")
        self._strip = gr.Image(show_label=False, interactive=False, buttons=[], elem_id="strip", elem_classes="crisp")
        with gr.Row():
            with gr.Column(scale=1):
                self._animation = gr.Image(
                    label="Animation", interactive=False, buttons=[], height=320, elem_id="moving", elem_classes="crisp"
                )
            with gr.Column(scale=2):
                with gr.Row():
                    self._strip_file = download_button("Save strip", "strip-file")
                    self._animation_file = download_button("Save animation", "animation-file")
                self._command = command_box()
        inputs = {*self.photos, self._frames, self._suffix, self._loop}
        outputs = [self._strip, self._animation, self._strip_file, self._animation_file, self._command]
        on_event_run_model(
            self._button.click, self._interpolate, inputs, outputs, progress_on=[self._strip, self._animation]
        )

    def _interpolate(self, values: Values, progress: gr.Progress = PROGRESS) -> Values:
        made = self._controller.interpolate(
            [values[photo] for photo in self.photos if values[photo] is not None],
            int(values[self._frames]),
            values[self._loop],
            values[self._suffix],
            progress_callback(progress, "Interpolating"),
        )
        return {
            self._strip: str(made.strip),
            self._animation: str(made.animation),
            self._strip_file: enabled_download(made.strip),
            self._animation_file: enabled_download(made.animation),
            self._command: made.command,
        }
