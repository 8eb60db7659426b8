from .animation import write_animation
from .crop import Box, CentreSquare, Crop, Fit
from .finding import find
from .pixels import to_float, to_uint8
from .reading import Picture, read, read_recipe
from .sheets import captioned, comparison, enlarge, labelled, sheet, strip
from .writing import write

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
