"""The tab `Edit`: a photo, sliders for its attributes, before and after."""

from dataclasses import astuple
from typing import Any

import gradio as gr

from ddim_edit.ui.controller import OpenedPhoto, PageController, UploadedImage
from ddim_edit.ui.crop_choice import CropChoice
from ddim_edit.ui.session import EditSettings, ProgressCallback, ignore_progress
from ddim_edit.ui.widgets import (
    Values,
    command_box,
    disabled_download,
    download_button,
    enabled_download,
    image_upload,
    on_event,
    on_event_run_model,
    progress_callback,
)

PROGRESS = gr.Progress()
RANGES = (3, 6, 9)
"""Standard deviations to either side that sliders can offer; the first one is what they offer at first."""
EMPTY = "Upload or paste a photo of one face. The model sees a square of it."
SLIDERS = "Standard deviations along each direction, {where}; 0 leaves the photo as it is."
NO_DIRECTIONS = (
    "No directions come with this model, so there is nothing to slide here. Fit some with `ddim-edit fit` and name "
    "their folder by `--directions`; the other tabs work without."
)
KEEP = "Kept fixed while others move; what you move yourself is not kept."


class EditingTab:
    """The widgets of the tab and their handlers, which call the controller."""

    def __init__(self, controller: PageController) -> None:
        self._controller = controller
        # Sliders of all levels exist from the start, because gradio cannot add widgets later; most are hidden.
        self._directions = [
            (level, name) for level, directions in controller.session.directions.items() for name in directions
        ]
        self._opened = gr.State(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=300):
                self._add_photo()
            with gr.Column(scale=4, min_width=400):
                self._add_result()
            with gr.Column(scale=3, min_width=300):
                self._add_sliders()
        self._edit_outputs = [self._compare, self._image, self._recipe, self._command]
        self._open_outputs = [
            *(self._opened, self._summary, self._use, self._latent),
            *self._edit_outputs,
            *self._sliders,
            self._keep,
        ]
        self._crop_inputs = [self.photo, *self._crop]
        self._connect_photo()
        self._connect_sliders()

    def _add_photo(self) -> None:
        self.photo = image_upload("Photo", 180, "photo")
        self._summary = gr.Markdown(EMPTY, elem_id="verdict")
        with gr.Accordion("Crop"):
            self._view = gr.Image(
                show_label=False, interactive=False, height=180, buttons=[], container=False, elem_id="view"
            )
            gr.Markdown("Click the middle of the face, then choose the size.", elem_classes="hint")
            size = gr.Slider(5, 100, 100, step=0.1, label="Size in percent", buttons=[], elem_id="size")
            with gr.Row():
                across = gr.Slider(0, 100, 50, step=0.1, label="Across", buttons=[], min_width=120, elem_id="across")
                down = gr.Slider(0, 100, 50, step=0.1, label="Down", buttons=[], min_width=120, elem_id="down")
            self._crop = [size, across, down]
            self._use = gr.Button("Use this part", size="md", interactive=False, elem_id="use")

    def _add_result(self) -> None:
        self._compare = gr.ImageSlider(
            label="Before | after",
            interactive=False,
            buttons=[],
            elem_id="compare",
            elem_classes="crisp",
        )
        with gr.Row():
            self._reset = gr.Button("Reset", size="md", min_width=80, elem_id="reset")
            self._image = download_button("Save image", "image")
            self._latent = download_button("Save latent", "latent")
            self._recipe = download_button("Save recipe", "recipe")
        self._command = command_box()

    def _add_sliders(self) -> None:
        levels = list(self._controller.session.directions)
        first = levels[0] if levels else None
        where = f"in latents at {_describe_level(levels[0])}" if len(levels) == 1 else "in latents of the chosen level"
        gr.Markdown(SLIDERS.format(where=where) if levels else NO_DIRECTIONS, elem_classes="hint")
        self._level = gr.Radio(
            [(_describe_level(level), level) for level in levels],
            value=first,
            label="Level of the edit",
            visible=len(levels) > 1,
        )
        self._sliders = []
        for level in levels:
            for label, _ in self._choices(level):
                slider = gr.Slider(
                    *(-RANGES[0], RANGES[0], 0),
                    step=0.1,
                    label=label,
                    visible=level == first,
                    elem_id=f"slide-{label}",
                    elem_classes="signed",
                )
                self._sliders.append(slider)
        choices = self._choices(first)
        self._keep = gr.CheckboxGroup(choices, label="Keep", info=KEEP, visible=bool(levels), elem_id="keep")
        self._range = gr.Radio(
            [(f"±{each}", each) for each in RANGES], value=RANGES[0], label="Range of the sliders", visible=bool(levels)
        )

    def _choices(self, level: str | None) -> list[tuple[str, str]]:
        """Return the directions of a level as people and as command lines call them."""
        directions = self._controller.session.directions.get(level or "", {})
        return [(direction.name, name) for name, direction in directions.items()]

    def open_after(self, event: Any) -> None:
        """Open whatever photo there is after an event; one that cannot be opened leaves the tab empty."""
        cleared = on_event(event, self._clear, None, [*self._open_outputs, *self._crop])
        shown = on_event(cleared.success, self._show_crop, self._crop_inputs, [self._view])
        on_event_run_model(shown.success, self._open, self._crop_inputs, self._open_outputs, self._compare)

    def _connect_photo(self) -> None:
        self.open_after(self.photo.upload)
        on_event(self.photo.clear, self._clear, None, [*self._open_outputs, *self._crop, self._view])
        on_event_run_model(self._use.click, self._open, self._crop_inputs, self._open_outputs, self._compare)
        on_event(self._view.select, self._centre_crop, self._crop_inputs, [*self._crop, self._view])
        for slider in self._crop:
            on_event(slider.release, self._show_crop, self._crop_inputs, [self._view])

    def _connect_sliders(self) -> None:
        self._edit_after(self._keep.input)
        for slider in self._sliders:
            self._edit_after(slider.release)
        resettable = [*self._sliders, self._keep]
        self._edit_after(on_event(self._reset.click, self._reset_sliders, self._level, resettable).then)
        self._edit_after(on_event(self._level.input, self._reset_sliders, self._level, resettable).then)
        inputs = {self._range, *self._sliders}
        self._edit_after(on_event(self._range.input, self._set_range, inputs, self._sliders).then)

    def _edit_after(self, event: Any) -> None:
        """Edit the photo after an event."""
        inputs = {self._opened, self._level, self._keep, *self._sliders}
        on_event_run_model(event, self._edit, inputs, self._edit_outputs, self._compare, "minimal")

    # The handlers: values of widgets in, values of widgets out.

    def _clear(self) -> Values:
        values: Values = {self._opened: None, self._summary: EMPTY, self._compare: None, self._command: ""}
        values |= dict.fromkeys((self._latent, self._image, self._recipe), disabled_download())
        values |= dict.fromkeys(self._sliders, 0)
        values |= {self._keep: [], self._use: gr.Button(interactive=False)}
        return values | dict(zip(self._crop, astuple(CropChoice()), strict=True))

    def _show_crop(self, upload: UploadedImage | None, *crop: float) -> str | None:
        return str(self._controller.show_crop(upload, CropChoice(*crop))) if upload else None

    def _centre_crop(
        self, upload: UploadedImage | None, size: float, across: float, down: float, event: gr.SelectData
    ) -> tuple[float, float, float, str | None]:
        crop = CropChoice(size, across, down)
        if upload:
            crop = self._controller.centre_crop(upload, crop, *event.index)
        return crop.size, crop.across, crop.down, self._show_crop(upload, *astuple(crop))

    def _open(
        self,
        upload: UploadedImage | None,
        size: float,
        across: float,
        down: float,
        progress: gr.Progress = PROGRESS,
    ) -> Values:
        if upload is None:
            return {self._summary: EMPTY}
        on_progress = progress_callback(progress, "Inverting")
        opened = self._controller.open(upload, CropChoice(size, across, down), on_progress)
        values: Values = {self._opened: opened, self._summary: opened.summary}
        values |= {self._latent: enabled_download(opened.latent), self._use: gr.Button(interactive=True)}
        values |= dict.fromkeys(self._sliders, 0)
        values[self._keep] = []
        first_level = next(iter(self._controller.session.directions), "")
        return values | self._show_edit(opened, EditSettings(first_level))

    def _edit(self, values: Values, progress: gr.Progress = PROGRESS) -> Values:
        opened = values[self._opened]
        if opened is None:
            return {self._command: ""}
        chosen = values[self._level] or ""
        strengths = {}
        for (level, name), slider in zip(self._directions, self._sliders, strict=True):
            if level == chosen:
                strengths[name] = values[slider]
        settings = EditSettings(chosen, strengths, values[self._keep])
        return self._show_edit(opened, settings, progress_callback(progress, "Editing"))

    def _show_edit(
        self, opened: OpenedPhoto, settings: EditSettings, on_progress: ProgressCallback = ignore_progress
    ) -> Values:
        edited = self._controller.edit(opened, settings, on_progress)
        return {
            self._compare: (str(opened.before), str(edited.after)),
            self._image: enabled_download(edited.image),
            self._recipe: enabled_download(edited.recipe),
            self._command: edited.command,
        }

    def _reset_sliders(self, level: str | None) -> Values:
        values: Values = {self._keep: gr.CheckboxGroup(self._choices(level), value=[])}
        for (own_level, _), slider in zip(self._directions, self._sliders, strict=True):
            values[slider] = gr.Slider(value=0, visible=own_level == level)
        return values

    def _set_range(self, values: Values) -> Values:
        largest = values[self._range]
        updates: Values = {}
        for slider in self._sliders:
            updates[slider] = gr.Slider(-largest, largest, min(max(values[slider], -largest), largest))
        return updates


def _describe_level(level: str) -> str:
    return "the bottleneck h" if level == "h" else f"t = {float(level):.0f}"
