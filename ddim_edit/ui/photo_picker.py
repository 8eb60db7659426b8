"""A photo to upload, and the part of it that the model sees: a face, the centre, all of it, or an own box."""

from dataclasses import astuple
from typing import Any

import gradio as gr

from ddim_edit.ui.controller import PageController
from ddim_edit.ui.crop_choice import BOX, CropChoice
from ddim_edit.ui.records import LoadedPhoto, UploadedImage
from ddim_edit.ui.widgets import Values, image_upload, on_event, take_typed_number

HINT = "Click the middle of the box, and set its size."


class PhotoPicker:
    """The widgets of a photo and their handlers, which call the controller.

    Attributes:
        photo: where the photo is uploaded, which then shows its faces and the part that is chosen.
        loaded: the `LoadedPhoto`, or None.
        inputs: the widgets that `choice` takes the values of, with `loaded`.
        outputs: the widgets that `clear`, `load` and `show` return values of.

    Args:
        controller: does the work.
        label: of the photo.
        mention: the photo in the middle of a sentence.
        name: how the ids of the widgets end.
        height: of the photo on the page, in pixels.
    """

    def __init__(self, controller: PageController, label: str, mention: str, name: str, height: int) -> None:
        self._controller = controller
        self.loaded = gr.State(None)
        self._shown = gr.State(CropChoice())
        self.photo = image_upload(label, height, name)
        self._kind = gr.Dropdown([], label=f"Part of {mention}", visible=False, elem_id=f"crop-{name}")
        with gr.Group(visible=False, elem_classes="box") as self._box_group:
            gr.Markdown(HINT, elem_classes="hint")
            self._box = [
                gr.Slider(5, 100, 100, step=0.1, label="Size in percent", buttons=[], elem_id=f"size-{name}"),
                gr.Slider(0, 100, 50, step=0.1, label="Across", buttons=[], elem_id=f"across-{name}"),
                gr.Slider(0, 100, 50, step=0.1, label="Down", buttons=[], elem_id=f"down-{name}"),
            ]
        self.inputs = [self.loaded, self._shown, self._kind, *self._box]
        self.outputs = [self.loaded, self._shown, self.photo, self._kind, *self._box, self._box_group]

    def events(self) -> list[Any]:
        """Answer the events by which a part is chosen, and return those that follow."""
        inputs = set(self.inputs)
        clicked = on_event(self.photo.select, self._choose_at, inputs, self.outputs)
        chosen = on_event(self._kind.input, self._choose, inputs, self.outputs)
        followed = [clicked.success, chosen.success]
        for slider in self._box:
            moved = on_event(take_typed_number(slider), self._show_box, inputs, self.outputs)
            followed.append(moved.success)
        return followed

    def clear(self) -> Values:
        """Return the values of the widgets without a photo."""
        hidden = {self._kind: gr.Dropdown([], value=None, visible=False), self._box_group: gr.Group(visible=False)}
        return {self.loaded: None, self.photo: None, **hidden}

    def load(self, upload: UploadedImage | None) -> Values:
        """Return the values of the widgets for a photo; ImageError as `images.read`."""
        if upload is None:
            return self.clear()
        loaded = self._controller.load(upload)
        return self.show(loaded, self._controller.session.usual_choice(loaded.source))

    def show(self, loaded: LoadedPhoto, choice: CropChoice) -> Values:
        """Return the values of the widgets for a photo and a part of it."""
        choices = self._controller.crop_choices(loaded)
        values: Values = {self.loaded: loaded, self._shown: choice}
        values[self.photo] = str(self._controller.show_choice(loaded, choice))
        values[self._kind] = gr.Dropdown(choices, value=choice.kind, visible=True)
        values[self._box_group] = gr.Group(visible=choice.kind == BOX)
        return values | dict(zip(self._box, astuple(choice)[1:], strict=True))

    def choice(self, values: Values) -> CropChoice:
        """Return the choice that the widgets show."""
        return CropChoice(values[self._kind] or "", *(values[slider] for slider in self._box))

    # The handlers: values of widgets in, values of widgets out.

    def _choose_at(self, values: Values, event: gr.SelectData) -> Values:
        loaded = values[self.loaded]
        if loaded is None:
            return {self.loaded: None}
        x, y = event.index
        return self.show(loaded, self._controller.choose_at(loaded, self.choice(values), x, y))

    def _choose(self, values: Values) -> Values:
        loaded, shown, choice = values[self.loaded], values[self._shown], self.choice(values)
        if loaded is None:
            return {self.loaded: None}
        if choice.kind == BOX and shown.kind != BOX:
            choice = self._controller.start_box(loaded, shown)
        return self.show(loaded, choice)

    def _show_box(self, values: Values) -> Values:
        loaded, choice = values[self.loaded], self.choice(values)
        if loaded is None:
            return {self.loaded: None}
        return {self._shown: choice, self.photo: str(self._controller.show_choice(loaded, choice))}
