"""Picture files and tensors: reading, writing, sheets of pictures and animations. The only user of Pillow.

A network's picture is float32 [B, 3, H, W] in [-1, 1]; a file's picture is uint8 [3, H, W] in sRGB.
`to_float` and `to_uint8` lead from one to the other and lose nothing on the way there and back.
"""

from ddim_edit.images.animating import write_animation
from ddim_edit.images.crop import Box, CentreSquare, Crop, Fit
from ddim_edit.images.finding import find
from ddim_edit.images.pixels import to_float, to_uint8
from ddim_edit.images.reading import Picture, read, read_recipe
from ddim_edit.images.sheets import captioned, comparison, enlarge, labelled, sheet, strip
from ddim_edit.images.writing import write

__all__ = [
    "Box",
    "CentreSquare",
    "Crop",
    "Fit",
    "Picture",
    "captioned",
    "comparison",
    "enlarge",
    "find",
    "labelled",
    "read",
    "read_recipe",
    "sheet",
    "strip",
    "to_float",
    "to_uint8",
    "write",
    "write_animation",
]
