"""The tab `Edit`: a photograph, sliders for its attributes, before and after."""

from dataclasses import astuple
from typing import Any

import gradio as gr

from ddim_edit.ui.desk import Given, Opened, PageController
from ddim_edit.ui.framing import Framing
from ddim_edit.ui.studio import Change, Tell, silent
from ddim_edit.ui.widgets import Values, at_once, command_line, download, in_turn, photo, ready, telling, waiting

PROGRESS = gr.Progress()
REACH = 3
"""Standard deviations to either side that sliders offer at first."""
REACHES = (3, 6, 9)
EMPTY = "Upload or paste a photo of one face. The model sees a square of it."
SLIDERS = "Standard deviations along each direction, {where}; 0 leaves the photo as it is."
BARE = (
    "No directions come with this model, so there is nothing to slide here. Fit some with `ddim-edit fit` and name "
    "their folder by `--directions`; the other tabs work without."
)
KEEP = "Kept fixed while others move; what you move yourself is not kept."


class EditingTab:
    """Lays the tab out and wires it to a desk; holds widgets, no pictures."""

    def __init__(self, desk: PageController) -> None:
        self._desk = desk
        self._opened = gr.State(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=300):
                self._lay_photo()
            with gr.Column(scale=4, min_width=400):
                self._lay_result()
            with gr.Column(scale=3, min_width=300):
                self._lay_sliders()
        self._wire_photo()
        self._wire_sliders()

    @property
    def _names(self) -> list[tuple[str, str]]:
        return [(level, name) for level, directions in self._desk.studio.levels.items() for name in directions]

    def _choices(self, level: str | None) -> list[tuple[str, str]]:
        """The directions of a level as people and as command lines call them."""
        return [(found.name, name) for name, found in self._desk.studio.levels.get(level or "", {}).items()]

    def _lay_photo(self) -> None:
        self.photo = photo("Photo", 180, "photo")
        self._verdict = gr.Markdown(EMPTY, elem_id="verdict")
        with gr.Accordion("Crop"):
            self._view = gr.Image(
                show_label=False, interactive=False, height=180, buttons=[], container=False, elem_id="view"
            )
            gr.Markdown("Click the middle of the face, then choose the size.", elem_classes="hint")
            size = gr.Slider(5, 100, 100, step=0.1, label="Size in percent", buttons=[], elem_id="size")
            with gr.Row():
                across = gr.Slider(0, 100, 50, step=0.1, label="Across", buttons=[], min_width=120, elem_id="across")
                down = gr.Slider(0, 100, 50, step=0.1, label="Down", buttons=[], min_width=120, elem_id="down")
            self._framing = [size, across, down]
            self._use = gr.Button("Use this part", size="md", interactive=False, elem_id="use")

    def _lay_result(self) -> None:
        self._compare = gr.ImageSlider(
            label="Before | after",
            interactive=False,
            buttons=[],
            elem_id="compare",
            elem_classes="crisp",
        )
        with gr.Row():
            self._reset = gr.Button("Reset", size="md", min_width=80, elem_id="reset")
            self._picture = download("Save picture", "picture")
            self._latent = download("Save latent", "latent")
            self._recipe = download("Save recipe", "recipe")
        self._command = command_line()

    def _lay_sliders(self) -> None:
        levels = list(self._desk.studio.levels)
        where = f"in codes at {_place(levels[0])}" if len(levels) == 1 else "in codes of the level you choose"
        gr.Markdown(SLIDERS.format(where=where) if levels else BARE, elem_classes="hint")
        self._level = gr.Radio(
            [(_place(level), level) for level in levels],
            value=levels[0] if levels else None,
            label="Level of the edit",
            visible=len(levels) > 1,
        )
        self._sliders = [
            gr.Slider(
                *(-REACH, REACH, 0),
                step=0.1,
                label=label,
                visible=level == levels[0],
                elem_id=f"slide-{label}",
                elem_classes="signed",
            )
            for level in levels
            for label, _ in self._choices(level)
        ]
        here = self._choices(levels[0] if levels else None)
        self._keep = gr.CheckboxGroup(here, label="Keep", info=KEEP, visible=bool(levels), elem_id="keep")
        self._reach = gr.Radio(
            [(f"±{reach}", reach) for reach in REACHES], value=REACH, label="Reach of the sliders", visible=bool(levels)
        )

    def after(self, event: Any) -> None:
        """Open whatever photo there is on this event; one that cannot be opened leaves the tab empty."""
        emptied = at_once(event, self._emptied, None, [*self._shown, *self._framing])
        framed = at_once(emptied.success, self._frame, self._framed, [self._view])
        in_turn(framed.success, self._open, self._framed, self._shown, self._compare)

    @property
    def _shown(self) -> list[Any]:
        """Whatever a new photo changes."""
        return [self._opened, self._verdict, self._use, self._latent, *self._changed, *self._sliders, self._keep]

    @property
    def _changed(self) -> list[Any]:
        """Whatever a new edit changes."""
        return [self._compare, self._picture, self._recipe, self._command]

    @property
    def _framed(self) -> list[Any]:
        """Whatever tells the part of a photo."""
        return [self.photo, *self._framing]

    def _wire_photo(self) -> None:
        self.after(self.photo.upload)
        at_once(self.photo.clear, self._emptied, None, [*self._shown, *self._framing, self._view])
        in_turn(self._use.click, self._open, self._framed, self._shown, self._compare)
        at_once(self._view.select, self._pointed, self._framed, [*self._framing, self._view])
        for slider in self._framing:
            at_once(slider.release, self._frame, self._framed, [self._view])

    def _wire_sliders(self) -> None:
        self._answer(self._keep.input)
        for slider in self._sliders:
            self._answer(slider.release)
        zeros = [*self._sliders, self._keep]
        self._answer(at_once(self._reset.click, self._zeroed, self._level, zeros).then)
        self._answer(at_once(self._level.input, self._zeroed, self._level, zeros).then)
        reach = {self._reach, *self._sliders}
        self._answer(at_once(self._reach.input, self._reached, reach, self._sliders).then)

    def _answer(self, event: Any) -> None:
        """Edit the photo on this event."""
        chosen = {self._opened, self._level, self._keep, *self._sliders}
        in_turn(event, self._edit, chosen, self._changed, self._compare, "minimal")

    # What follows answers the events: values of widgets in, values of widgets out.

    def _emptied(self) -> Values:
        empty: Values = {self._opened: None, self._verdict: EMPTY, self._compare: None, self._command: ""}
        off: Values = dict.fromkeys((self._latent, self._picture, self._recipe), waiting())
        zeros: Values = {**dict.fromkeys(self._sliders, 0), self._keep: []}
        framing: Values = dict(zip(self._framing, astuple(Framing()), strict=True))
        return {**empty, **off, **zeros, **framing, self._use: gr.Button(interactive=False)}

    def _frame(self, given: Given | None, *framing: float) -> str | None:
        return str(self._desk.frame(given, Framing(*framing))) if given else None

    def _pointed(
        self, given: Given | None, size: float, across: float, down: float, event: gr.SelectData
    ) -> tuple[float, float, float, str | None]:
        framing = Framing(size, across, down)
        if given:
            framing = self._desk.pointed(given, framing, *event.index)
        return framing.size, framing.across, framing.down, self._frame(given, *astuple(framing))

    def _open(
        self, given: Given | None, size: float, across: float, down: float, progress: gr.Progress = PROGRESS
    ) -> Values:
        if given is None:
            return {self._verdict: EMPTY}
        opened = self._desk.open(given, Framing(size, across, down), telling(progress, "Inverting"))
        zeros: Values = {**dict.fromkeys(self._sliders, 0), self._keep: []}
        said = {self._opened: opened, self._verdict: opened.verdict, self._latent: ready(opened.latent)}
        level = next(iter(self._desk.studio.levels), "")
        return {**zeros, **said, **self._show(opened, Change(level)), self._use: gr.Button(interactive=True)}

    def _edit(self, values: Values, progress: gr.Progress = PROGRESS) -> Values:
        opened = values[self._opened]
        if opened is None:
            return {self._command: ""}
        level, pairs = values[self._level] or "", zip(self._names, self._sliders, strict=True)
        strengths = {name: values[slider] for (where, name), slider in pairs if where == level}
        return self._show(opened, Change(level, strengths, values[self._keep]), telling(progress, "Editing"))

    def _show(self, opened: Opened, change: Change, tell: Tell = silent) -> Values:
        made = self._desk.edit(opened, change, tell)
        return {
            self._compare: (str(opened.before), str(made.after)),
            self._picture: ready(made.picture),
            self._recipe: ready(made.recipe),
            self._command: made.command,
        }

    def _zeroed(self, level: str | None) -> Values:
        seen = [gr.Slider(value=0, visible=where == level) for where, _ in self._names]
        zeroed: Values = dict(zip(self._sliders, seen, strict=True))
        return {**zeroed, self._keep: gr.CheckboxGroup(self._choices(level), value=[])}

    def _reached(self, values: Values) -> Values:
        reach = values[self._reach]
        held: Values = {slider: min(max(values[slider], -reach), reach) for slider in self._sliders}
        return {slider: gr.Slider(-reach, reach, value) for slider, value in held.items()}


def _place(level: str) -> str:
    return "the bottleneck h" if level == "h" else f"t = {float(level):.0f}"
