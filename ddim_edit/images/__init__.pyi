from .animation import write_animation
from .crop import Box, CentreSquare, Crop, Fit
from .finding import find
from .pixels import to_float, to_uint8
from .prepare import prepare_images, read_all
from .reading import InputImage, read, read_recipe
from .sheets import captioned, comparison, enlarge, labelled, sheet, strip
from .writing import write

__all__ = [
    "Box",
    "CentreSquare",
    "Crop",
    "Fit",
    "InputImage",
    "captioned",
    "comparison",
    "enlarge",
    "find",
    "labelled",
    "prepare_images",
    "read",
    "read_all",
    "read_recipe",
    "sheet",
    "strip",
    "to_float",
    "to_uint8",
    "write",
    "write_animation",
]
