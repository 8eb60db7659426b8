"""The tab `Between`: a strip and an animation interpolated between two to four photos, and a mixture of them."""

from typing import Any

import gradio as gr

from ddim_edit.images import ANIMATION_FORMATS
from ddim_edit.ui.controller import MOST_IMAGES, PageController
from ddim_edit.ui.crop_choice import CropChoice
from ddim_edit.ui.photo_picker import PhotoPicker
from ddim_edit.ui.records import LoadedPhoto
from ddim_edit.ui.widgets import (
    StoppedError,
    Stops,
    Values,
    command_box,
    download_button,
    enabled_download,
    on_event,
    on_event_run_model,
    on_upload,
    stop_button,
)

PROGRESS = gr.Progress()
LEAD = (
    "Two to four photos, of each the part that you choose, by default its largest face. Each becomes its noise x_T; "
    "the path between them leads over the sphere on which noise lies. Or combine them with weights."
)
FRAMES = 13
"""There and back between two photos they take two seconds."""
NO_VIDEO = "Videos need `pip install 'ddim-edit[video]'`."


class InterpolationTab:
    """The widgets of the tab and their handlers, which call the controller."""

    def __init__(self, controller: PageController) -> None:
        self._controller = controller
        self._stops = Stops()
        formats = controller.animation_choices()
        gr.Markdown(LEAD, elem_classes="hint")
        self.pickers = []
        self._weights = []
        with gr.Row(elem_classes="places"):
            for place in range(MOST_IMAGES):
                with gr.Column(min_width=150):
                    self.pickers.append(PhotoPicker(controller, "ABCD"[place], "ABCD"[place], f"place-{place}", 200))
                    label = f"Weight of {'ABCD'[place]}"
                    self._weights.append(
                        gr.Slider(
                            -1,
                            1,
                            1,
                            step=0.05,
                            label=label,
                            buttons=[],
                            elem_id=f"weight-{place}",
                            elem_classes="signed",
                        )
                    )
        with gr.Row():
            self._frames = gr.Number(FRAMES, precision=0, label="Frames from each to the next", elem_id="frames")
            hint = None if any(ANIMATION_FORMATS[suffix].is_video for _, suffix in formats) else NO_VIDEO
            self._suffix = gr.Radio(formats, value=".webp", label="Animation", info=hint, elem_id="format")
            self._loop = gr.Checkbox(True, label="And back again")
            self._button = gr.Button("Interpolate", variant="primary", scale=0, min_width=160, elem_id="interpolate")
            self._combine_button = gr.Button("Combine", scale=0, min_width=160, elem_id="combine")
        with gr.Column(elem_classes="result"):
            stop = stop_button("stop-between")
            self._strip = gr.Image(
                show_label=False, interactive=False, buttons=[], elem_id="strip", elem_classes="crisp"
            )
            with gr.Row():
                with gr.Column(scale=1):
                    self._animation = gr.Image(
                        label="Animation", interactive=False, buttons=[], height=320, elem_id="moving"
                    )
                    self._video = gr.Video(
                        label="Animation",
                        interactive=False,
                        buttons=[],
                        height=320,
                        autoplay=True,
                        loop=True,
                        visible=False,
                        elem_id="video",
                    )
                with gr.Column(scale=1):
                    self._combined = gr.Image(
                        label="Combined",
                        interactive=False,
                        buttons=[],
                        height=320,
                        elem_id="combined",
                        elem_classes="crisp",
                    )
                with gr.Column(scale=2):
                    with gr.Row(elem_classes="files"):
                        self._strip_file = download_button("Save strip", "strip-file")
                        self._animation_file = download_button("Save animation", "animation-file")
                        self._combined_file = download_button("Save combined", "combined-file")
                    self._command = command_box()
        for picker in self.pickers:
            on_upload(picker.photo, picker.load, picker.outputs)
            on_event(picker.photo.clear, picker.clear, None, picker.outputs)
            picker.events()
        inputs: set[Any] = {self._frames, self._suffix, self._loop, *self._weights}
        for picker in self.pickers:
            inputs |= set(picker.inputs)
        outputs = [
            *(self._strip, self._animation, self._video),
            *(self._strip_file, self._animation_file, self._command),
        ]
        on_event_run_model(self._button.click, self._interpolate, inputs, outputs, progress_on=self._strip)
        outputs = [self._combined, self._combined_file, self._command]
        on_event_run_model(self._combine_button.click, self._combine, inputs, outputs, progress_on=self._combined)
        on_event(stop.click, self._stops.stop, None, [])

    def _interpolate(self, values: Values, request: gr.Request, progress: gr.Progress = PROGRESS) -> Values:
        photos = [photo for photo, _ in self._chosen(values)]
        suffix = values[self._suffix]
        on_progress = self._stops.progress_callback(request, progress, "Interpolating")
        try:
            made = self._controller.interpolate(
                photos, int(values[self._frames] or 0), values[self._loop], suffix, on_progress
            )
        except StoppedError:
            return {self._command: gr.skip()}
        is_video = ANIMATION_FORMATS[suffix].is_video
        animation = str(made.animation)
        return {
            self._strip: str(made.strip),
            self._animation: gr.Image(None if is_video else animation, visible=not is_video),
            self._video: gr.Video(animation if is_video else None, visible=is_video),
            self._strip_file: enabled_download(made.strip),
            self._animation_file: enabled_download(made.animation),
            self._command: made.command,
        }

    def _combine(self, values: Values, request: gr.Request, progress: gr.Progress = PROGRESS) -> Values:
        chosen = self._chosen(values)
        on_progress = self._stops.progress_callback(request, progress, "Combining")
        try:
            made = self._controller.combine(
                [photo for photo, _ in chosen], [weight for _, weight in chosen], on_progress
            )
        except StoppedError:
            return {self._command: gr.skip()}
        return {
            self._combined: str(made.image),
            self._combined_file: enabled_download(made.image),
            self._command: made.command,
        }

    def _chosen(self, values: Values) -> list[tuple[tuple[LoadedPhoto, CropChoice], float]]:
        """Return the photos that there are, with their parts, and the weight of each."""
        chosen = []
        for picker, slider in zip(self.pickers, self._weights, strict=True):
            if values[picker.loaded] is not None:
                photo = (values[picker.loaded], picker.choice(values))
                chosen.append((photo, float(values[slider] or 0)))
        return chosen
