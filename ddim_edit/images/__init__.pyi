from .alignment import Similarity
from .compositing import FrameChange
from .crop import AutoCrop, Box, CentreSquare, Crop, FaceCrop, Fit, default_crop
from .face_preview import draw_choice, draw_faces
from .face_templates import FaceTemplate
from .faces import Face, can_find_faces, require_face_detector
from .finding import find, list_folder, readable_suffixes
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
from .image_tensor import ImageTensor, to_pil
from .photograph_files import photograph_suffix
from .photographs import Photograph
from .pixels import display_factor, to_float, to_uint8, upscale
from .prepare import prepare_images, read_all
from .reading import InputImage, detect_faces, read, read_faces, read_recipe, read_recorded
from .sheets import captioned, comparison, enlarge, labelled, sheet, short_label, strip
from .writing import write, write_animation

__all__ = [
    "ANIMATION_FORMATS",
    "STILL_FORMATS",
    "AnimationFormat",
    "AutoCrop",
    "Box",
    "CentreSquare",
    "Crop",
    "Face",
    "FaceCrop",
    "FaceTemplate",
    "Fit",
    "FrameChange",
    "ImageTensor",
    "InputImage",
    "Photograph",
    "Similarity",
    "StillFormat",
    "animation_suffixes",
    "can_find_faces",
    "captioned",
    "comparison",
    "default_crop",
    "detect_faces",
    "display_factor",
    "draw_choice",
    "draw_faces",
    "enlarge",
    "find",
    "find_animation_format",
    "find_still_format",
    "labelled",
    "list_folder",
    "photograph_suffix",
    "prepare_images",
    "read",
    "read_all",
    "read_faces",
    "read_recipe",
    "read_recorded",
    "readable_suffixes",
    "require_face_detector",
    "sheet",
    "short_label",
    "still_suffixes",
    "strip",
    "to_float",
    "to_pil",
    "to_uint8",
    "upscale",
    "write",
    "write_animation",
]
