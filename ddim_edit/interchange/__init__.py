"""Latents to and from the files of other programs: numpy, plain safetensors, diffusers' `latents=` and ComfyUI.

What is exchanged is the state x at the latent's own time, nearly always x_T, in the other program's units. The recipe
stays behind: whoever brings a tensor back says what decodes it. Nothing is unpickled, and sizes are compared with a
file's header before memory is taken.
"""

from ddim_edit.interchange.exchange import FORMATS, Format, export_latents, import_latents

__all__ = ["FORMATS", "Format", "export_latents", "import_latents"]
