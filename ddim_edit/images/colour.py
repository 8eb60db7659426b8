"""Any Pillow image as an 8-bit sRGB image."""

from io import BytesIO

import numpy as np
from PIL import Image, ImageCms
from PIL.ImageCms import ImageCmsProfile, ImageCmsTransform

from ddim_edit.errors import ImageError

SAME_COLOUR = 2
"""A profile that moves no colour by more than this many of 255 levels is taken for sRGB itself."""

_SOLID = {"1": "L", "P": "RGB", "RGBX": "RGB"}


def in_srgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """The RGB image that a viewer would show on white; what had to be done for it is added to `notes`."""
    profile = image.info.get("icc_profile")
    opaque = _on_white(_in_8_bits(image, notes), notes)
    if opaque.mode not in ("L", "RGB"):
        notes.append(f"converted from {opaque.mode}")
    converted = _by_profile(opaque, profile, notes) if profile else None
    return converted or opaque.convert("RGB")


def _in_8_bits(image: Image.Image, notes: list[str]) -> Image.Image:
    if image.mode.startswith("I;16"):
        notes.append("16-bit grey reduced to 8 bit")
        return _scaled_grey(image, 0, 65535)
    if image.mode in ("I", "F"):
        return _deep_grey(image, notes)
    return image


def _deep_grey(image: Image.Image, notes: list[str]) -> Image.Image:
    """32-bit grey has no agreed white: the smallest usual one above all values, or else its own range."""
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise ImageError("finite grey values", "infinite ones or NaN", "convert the picture to 8 bit first")
    low, high = float(values.min()), float(values.max())
    usual_whites = (255, 65535) if image.mode == "I" else (1, 255, 65535)
    white = next((white for white in usual_whites if low >= 0 and high <= white), None)
    black, top = (low, high) if white is None else (0.0, float(white))
    notes.append(f"32-bit grey reduced to 8 bit, {black:g} as black and {top:g} as white")
    return _scaled_grey(image, black, top)


def _scaled_grey(image: Image.Image, black: float, white: float) -> Image.Image:
    # float32 holds every 16-bit level, and 8-bit results leave it room to spare.
    levels = (np.asarray(image).astype(np.float32) - black) * (255 / max(white - black, 1e-30))
    return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))


def _on_white(image: Image.Image, notes: list[str]) -> Image.Image:
    """Grey stays grey here, since its colour profile, if any, is one for grey."""
    if not image.has_transparency_data:
        return image.convert(_SOLID.get(image.mode, image.mode))
    alpha = image.convert("RGBA").getchannel("A")
    solid = _without_alpha(image)
    if alpha.getextrema() == (255, 255):
        return solid
    notes.append("transparency laid over white")
    return Image.composite(solid, Image.new(solid.mode, solid.size, "white"), alpha)


def _without_alpha(image: Image.Image) -> Image.Image:
    grey = image.mode in ("1", "L", "LA")
    return image.convert("LA" if grey else "RGBA").convert("L" if grey else "RGB")


def _by_profile(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image | None:
    """The image in sRGB, or None where the profile changes nothing or cannot be used."""
    try:
        transform = _to_srgb(profile, image.mode)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        notes.append("embedded colour profile could not be used")
        return None
    if _is_identity(transform, image.mode):
        return None
    notes.append("colours converted from the embedded profile to sRGB")
    return ImageCms.applyTransform(image, transform)


def _to_srgb(profile: bytes, mode: str) -> ImageCmsTransform:
    # For grey, the default is a table too coarse in the dark; for RGB, the exact way is ten times slower.
    precision = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    return ImageCms.buildTransform(
        ImageCmsProfile(BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION | precision,
    )


def _is_identity(transform: ImageCmsTransform, mode: str) -> bool:
    """Whether a probe of all colours comes back the same; names of profiles cannot be trusted to tell."""
    if mode not in ("L", "RGB"):
        return False
    ramp = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(ramp, ramp, ramp), axis=-1).reshape(-1, len(ramp), 3)
    probe = Image.fromarray(colours if mode == "RGB" else ramp[None])
    shown = np.asarray(ImageCms.applyTransform(probe, transform)).astype(int)
    return bool(abs(shown - np.asarray(probe.convert("RGB"))).max() <= SAME_COLOUR)
