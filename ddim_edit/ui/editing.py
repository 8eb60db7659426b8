"""The tab `Edit`: a photo, sliders for its attributes, before and after."""

from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

import gradio as gr

from ddim_edit.latents.spaces import GUIDED
from ddim_edit.ui.controller import PageController
from ddim_edit.ui.crop_choice import CropChoice
from ddim_edit.ui.model_queue import ProgressCallback
from ddim_edit.ui.photo_picker import PhotoPicker
from ddim_edit.ui.records import EditedPhoto, LoadedPhoto, OpenedPhoto
from ddim_edit.ui.session import EditSettings
from ddim_edit.ui.widgets import (
    StoppedError,
    Stops,
    Values,
    command_box,
    disabled_download,
    download_button,
    enabled_download,
    on_event,
    on_event_run_model,
    on_upload,
    stop_button,
    take_typed_number,
    widest,
)

PROGRESS = gr.Progress()
RANGES = (3, 6, 9)
"""Standard deviations to either side that sliders can offer; the first one is what they offer at first."""
EMPTY = "Upload or paste a photo. Its largest face is edited; click another face to edit that one."
STOPPED = "Stopped."
SLIDERS = "Standard deviations along each direction, {where}; 0 leaves the photo as it is."
NO_DIRECTIONS = (
    "No directions come with this model, so there is nothing to slide here. Fit some with `ddim-edit fit` and name "
    "their folder by `--directions`; the other tabs work without."
)
KEEP = "Kept fixed while others move; what you move yourself is not kept."
NO_COMMAND = "Move a slider."
STORAGE = "ddim-edit"
"""Name of what the browser keeps."""


class EditingTab:
    """The widgets of the tab and their handlers, which call the controller."""

    def __init__(self, controller: PageController) -> None:
        self._controller = controller
        self._opens = Stops()
        self._edits = Stops()
        # Sliders of all levels exist from the start, because gradio cannot add widgets later; most are hidden.
        self._directions = [
            (level, name) for level, directions in controller.session.directions.items() for name in directions
        ]
        self._opened = gr.State(None)
        self._edited = gr.State(None)
        # So that a page which is loaded again shows the same; the photo itself stays in the folder of the page.
        self._remembered = gr.BrowserState(None, storage_key=STORAGE)
        with gr.Row(equal_height=False, elem_id="edit"):
            with gr.Column(scale=3, min_width=300, elem_classes="photo"):
                self._add_photo()
            with gr.Column(scale=4, min_width=320, elem_classes="result"):
                self._add_result()
            with gr.Column(scale=3, min_width=300, elem_classes="sliders"):
                self._add_sliders()
        self._result = [self._compare, self._edited, self._image, self._recipe, self._command, self._remembered]
        self._settings_widgets = [self._level, *self._sliders, self._keep]
        self._open_outputs = [
            *(self._opened, self._summary, self._again, self._latent, self._close_up),
            *self._result,
            *self._settings_widgets,
        ]
        self._edit_inputs = {
            *self.picker.inputs,
            *(self._opened, self._edited, self._close_up),
            *self._settings_widgets,
        }
        self._connect_photo()
        self._connect_sliders()

    def _add_photo(self) -> None:
        self.picker = PhotoPicker(self._controller, "Photo", "the photo", "photo", 300)
        self._summary = gr.Markdown(EMPTY, elem_id="verdict")
        self._again = gr.Button("Begin again", size="md", visible=False, elem_id="again")

    def _add_result(self) -> None:
        self._compare = gr.ImageSlider(
            label="Before | after", interactive=False, buttons=["fullscreen"], max_height=900, elem_id="compare"
        )
        with gr.Row(elem_classes="tools"):
            self._close_up = gr.Checkbox(False, label="Close-up", visible=False, min_width=110, elem_id="close-up")
            self._reset = gr.Button("Reset", size="md", min_width=80, elem_id="reset")
            self._stop = stop_button("stop-edit")
        with gr.Row(elem_classes="files"):
            self._image = download_button("Save photo", "image")
            self._latent = download_button("Save latent", "latent")
            self._recipe = download_button("Save recipe", "recipe")
        self._command = command_box(NO_COMMAND)

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
        """Open the photo that an event has loaded, and begin with it anew."""
        self._open_part_after(on_event(event, self._clear_result, None, self._open_outputs).success)

    def restore_after(self, event: Any) -> None:
        """Show again what the browser has kept."""
        outputs = [*self.picker.outputs, *self._settings_widgets]
        self._open_part_after(on_event(event, self._restore, self._remembered, outputs).success)

    def _open_part_after(self, event: Any) -> None:
        opened = on_event_run_model(event, self._open, self._edit_inputs, self._open_outputs, self._compare)
        on_event(opened.failure, self._clear_result, None, self._open_outputs)
        # By the sliders as they are then: they may have moved in the meantime.
        self._edit_after(opened.success)

    def _connect_photo(self) -> None:
        photo = self.picker.photo
        loaded = on_upload(photo, self.picker.load, self.picker.outputs)
        self.open_after(loaded.success)
        nothing = [*self.picker.outputs, *self._open_outputs]
        on_event(loaded.failure, self._clear, None, nothing)
        on_event(photo.clear, self._clear, None, nothing)
        for event in self.picker.events():
            self._open_part_after(on_event(event, self._begin_again, None, [self._again]).success)
        self._open_part_after(on_event(self._again.click, self._begin_again, None, [self._again]).success)

    def _connect_sliders(self) -> None:
        self._edit_after(self._keep.input)
        for slider in self._sliders:
            self._edit_after(take_typed_number(slider, self._range))
        resettable = [*self._sliders, self._keep]
        self._edit_after(on_event(self._reset.click, self._reset_sliders, self._level, resettable).then)
        self._edit_after(on_event(self._level.input, self._reset_sliders, self._level, resettable).then)
        inputs = {self._range, *self._sliders}
        self._edit_after(on_event(self._range.input, self._set_range, inputs, self._sliders).then)
        on_event(self._close_up.input, self._show_again, self._edit_inputs, [self._compare])
        on_event(self._stop.click, self._stop_all, None, [])

    def _edit_after(self, event: Any) -> None:
        """Edit the photo after an event."""
        outputs = [*self._result, *self._settings_widgets]
        on_event_run_model(event, self._edit, self._edit_inputs, outputs, self._compare, "minimal")

    # The handlers: values of widgets in, values of widgets out.

    def _clear_result(self) -> Values:
        return self._no_result() | dict.fromkeys(self._sliders, 0) | {self._keep: [], self._summary: EMPTY}

    def _no_result(self) -> Values:
        values: Values = {self._opened: None, self._edited: None, self._compare: None, self._command: ""}
        values |= dict.fromkeys((self._latent, self._image, self._recipe), disabled_download())
        return values | {self._close_up: gr.Checkbox(visible=False), self._again: gr.Button(visible=False)}

    def _clear(self) -> Values:
        return self._clear_result() | self.picker.clear() | {self._remembered: None}

    def _begin_again(self, request: gr.Request) -> Any:
        self._opens.stop(request)  # the part that was chosen before is no longer waited for
        return gr.Button(visible=False)

    def _stop_all(self, request: gr.Request) -> None:
        self._opens.stop(request)
        self._edits.stop(request)

    def _restore(self, remembered: Any) -> Values:
        try:
            loaded = self._controller.recall(remembered["token"]) if remembered else None
            if loaded is None:
                return {self.picker.loaded: None}
            values = self.picker.show(loaded, CropChoice(*remembered["choice"]))
            settings = EditSettings(remembered["level"], remembered["strengths"], remembered["keep"])
            return values | self._show_settings(settings)
        except (KeyError, TypeError, ValueError):
            # The browser kept it for another version of the page.
            return {self.picker.loaded: None}

    def _open(self, values: Values, request: gr.Request, progress: gr.Progress = PROGRESS) -> Values:
        loaded = values[self.picker.loaded]
        if loaded is None:
            return {self._summary: EMPTY}
        on_progress = self._opens.progress_callback(request, progress, "Inverting")
        try:
            opened = self._controller.open(loaded, self.picker.choice(values), on_progress)
        except StoppedError:
            return self._no_result() | {self._summary: STOPPED, self._again: gr.Button(visible=True)}
        return {
            self._opened: opened,
            self._summary: opened.summary,
            self._latent: enabled_download(opened.latent),
            self._close_up: gr.Checkbox(visible=opened.photo.image.is_reduced),
        }

    def _edit(self, values: Values, request: gr.Request, progress: gr.Progress = PROGRESS) -> Iterator[Values]:
        opened = values[self._opened]
        if opened is None:
            yield {self._command: ""}
            return
        on_progress = self._edits.progress_callback(request, progress, "Editing")
        try:
            yield from self._show_edit(values, opened, on_progress)
        except StoppedError:
            # The sliders go back to the result that is shown.
            edited = values[self._edited]
            yield self._show_settings(edited.settings if edited else EditSettings(values[self._level] or ""))

    def _show_edit(self, values: Values, opened: OpenedPhoto, on_progress: ProgressCallback) -> Iterator[Values]:
        """Yield the result, and then its files, which take longer for large photographs."""
        settings = self._settings(values)
        edited = self._controller.edit(opened, settings, on_progress)
        yield {
            self._compare: self._pictures(opened, edited, values),
            self._edited: edited,
            self._image: disabled_download(),
            self._recipe: disabled_download(),
            self._command: edited.command,
            self._remembered: self._memory(values[self.picker.loaded], self.picker.choice(values), settings),
        }
        files = self._controller.save(opened, edited)
        recipe = disabled_download() if files.recipe is None else enabled_download(files.recipe)
        yield {self._image: enabled_download(files.image), self._recipe: recipe}

    def _show_again(self, values: Values) -> Any:
        opened, edited = values[self._opened], values[self._edited]
        return None if opened is None or edited is None else self._pictures(opened, edited, values)

    def _pictures(self, opened: OpenedPhoto, edited: EditedPhoto, values: Values) -> tuple[str, str]:
        before, after = self._controller.compare(opened, edited, values[self._close_up])
        return str(before), str(after)

    def _memory(self, loaded: LoadedPhoto, choice: CropChoice, settings: EditSettings) -> dict[str, Any]:
        return {
            "token": loaded.token,
            "choice": list(astuple(choice)),
            "level": settings.level,
            "strengths": settings.moved,
            "keep": list(settings.keep),
        }

    def _settings(self, values: Values) -> EditSettings:
        """Return the edit that the widgets show."""
        chosen = values[self._level] or ""
        strengths = {}
        for (level, name), slider in zip(self._directions, self._sliders, strict=True):
            if level == chosen:
                strengths[name] = values[slider]
        return EditSettings(chosen, strengths, values[self._keep])

    def _show_settings(self, settings: EditSettings) -> Values:
        """Return the values of the widgets for an edit."""
        values: Values = {self._level: settings.level or None}
        values[self._keep] = gr.CheckboxGroup(self._choices(settings.level), value=list(settings.keep))
        for (level, name), slider in zip(self._directions, self._sliders, strict=True):
            strength = settings.moved.get(name, 0.0) if level == settings.level else 0.0
            reach = max(RANGES[0], widest(strength))
            values[slider] = gr.Slider(-reach, reach, strength, visible=level == settings.level)
        return values

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
    if level == "h":
        return "the bottleneck h"
    guided = level.startswith(GUIDED)
    time = f"t = {float(level.removeprefix(GUIDED)):.0f}"
    return f"{time}, along gradients of the bottleneck h" if guided else time
