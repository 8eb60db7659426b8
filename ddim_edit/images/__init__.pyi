from .crop import Box, CentreSquare, Crop, Fit
from .finding import find, list_folder
from .formats import (
    ANIMATION_FORMATS,
    STILL_FORMATS,
    AnimationFormat,
    StillFormat,
    animation_suffixes,
    find_animation_format,
    find_still_format,
    still_suffixes,
)
from .pixels import to_float, to_uint8
from .prepare import prepare_images, read_all
from .reading import InputImage, read, read_recipe
from .sheets import captioned, comparison, enlarge, labelled, sheet, strip
from .writing import write, write_animation

__all__ = [
    "ANIMATION_FORMATS",
    "STILL_FORMATS",
    "AnimationFormat",
    "Box",
    "CentreSquare",
    "Crop",
    "Fit",
    "InputImage",
    "StillFormat",
    "animation_suffixes",
    "captioned",
    "comparison",
    "enlarge",
    "find",
    "find_animation_format",
    "find_still_format",
    "labelled",
    "list_folder",
    "prepare_images",
    "read",
    "read_all",
    "read_recipe",
    "sheet",
    "still_suffixes",
    "strip",
    "to_float",
    "to_uint8",
    "write",
    "write_animation",
]
