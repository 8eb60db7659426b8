"""The tab `Between`: two to four pictures, a strip and an animation on the way from one to the next."""

import gradio as gr

from ddim_edit.images import ANIMATION_FORMATS
from ddim_edit.ui.desk import MOST, PageController
from ddim_edit.ui.widgets import Values, command_line, download, in_turn, photo, ready, telling

PROGRESS = gr.Progress()
# Videos cannot be shown in the place of an image.
FORMATS = [(each.name, suffix) for suffix, each in ANIMATION_FORMATS.items() if not each.is_video]
LEAD = "Two to four pictures. Each becomes its noise x_T; the way leads over the sphere on which noise lies."


class WalkingTab:
    """Lays the tab out and wires it to a desk; holds widgets, no pictures."""

    def __init__(self, desk: PageController) -> None:
        self._desk = desk
        gr.Markdown(LEAD, elem_classes="hint")
        with gr.Row():
            self.photos = [photo("ABCD"[place], 190, f"place-{place}") for place in range(MOST)]
        with gr.Row():
            self._frames = gr.Slider(
                3, 25, 9, step=1, label="Frames from each to the next", buttons=[], elem_id="frames"
            )
            self._suffix = gr.Radio(FORMATS, value=".webp", label="Animation")
            self._loop = gr.Checkbox(True, label="And back again")
            self._go = gr.Button("Walk", variant="primary", scale=0, min_width=160, elem_id="walk")
        self._strip = gr.Image(show_label=False, interactive=False, buttons=[], elem_id="strip", elem_classes="crisp")
        with gr.Row():
            with gr.Column(scale=1):
                self._moving = gr.Image(
                    label="Animation", interactive=False, buttons=[], height=320, elem_id="moving", elem_classes="crisp"
                )
            with gr.Column(scale=2):
                with gr.Row():
                    self._strip_file, self._moving_file = (
                        download("Save strip", "strip-file"),
                        download("Save animation", "animation-file"),
                    )
                self._command = command_line()
        self._wire()

    def _wire(self) -> None:
        shown = [self._strip, self._moving, self._strip_file, self._moving_file, self._command]
        inputs = {*self.photos, self._frames, self._suffix, self._loop}
        in_turn(self._go.click, self._walk, inputs, shown, [self._strip, self._moving])

    def _walk(self, values: Values, progress: gr.Progress = PROGRESS) -> Values:
        given = [values[place] for place in self.photos if values[place] is not None]
        how = int(values[self._frames]), values[self._loop], values[self._suffix]
        made = self._desk.walk(given, *how, telling(progress, "Walking"))
        return {
            self._strip: str(made.strip),
            self._moving: str(made.animation),
            self._strip_file: ready(made.strip),
            self._moving_file: ready(made.animation),
            self._command: made.command,
        }
