"""Convert any Pillow image to 8-bit sRGB."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from ddim_edit.errors import ImageError
from ddim_edit.images.colour_tags import find_encodings
from ddim_edit.images.encodings import ColourEncoding

IDENTITY_TOLERANCE = 2
"""A colour profile that moves no colour by more than this many of 255 levels is taken for sRGB itself."""

_OPAQUE_MODES = {"1": "L", "P": "RGB", "RGBX": "RGB"}
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


def to_srgb(
    image: Image.Image,
    notes: list[str],
    encodings: Sequence[bytes | ColourEncoding] | None = None,
    grey_range: tuple[float, float] | None = None,
) -> Image.Image:
    """Return the RGB image that a viewer would show on white; add what was done for it to `notes`.

    Args:
        image: of any mode.
        notes: is added to.
        encodings: what `find_encodings` found, if it was called before, as it must be for parts of an image and for
            files that are closed.
        grey_range: for a part of an image of 32-bit grey, the range of all of it.

    Raises:
        ImageError: grey values that are NaN or infinite.
    """
    if encodings is None:
        encodings = list(find_encodings(image, notes))
    image = image.convert(_PREMULTIPLIED.get(image.mode, image.mode))
    if image.mode.startswith("I;16"):
        notes.append("16-bit grey reduced to 8 bit")
        image = _scale_grey(image, 0, 65535)
    elif image.mode in ("I", "F"):
        black, white = grey_range or find_grey_range(image)
        notes.append(f"32-bit grey reduced to 8 bit, {black:g} as black and {white:g} as white")
        image = _scale_grey(image, black, white)
    opaque = _lay_over_white(image, notes)
    if opaque.mode not in ("L", "RGB"):
        notes.append(f"converted from {opaque.mode}")
    return _convert_colours(opaque, encodings, notes)


def from_srgb(image: Image.Image, encodings: Sequence[bytes | ColourEncoding]) -> Image.Image:
    """Return an RGB image, which is in sRGB, in the colours of these encodings: the way back of `to_srgb`."""
    profile = usable_profile(encodings, is_grey=False)
    if profile is None or _is_identity(_build_transform("RGB", profile), "RGB"):
        return image
    transform = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"),
        ImageCms.ImageCmsProfile(BytesIO(profile)),
        "RGB",
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return ImageCms.applyTransform(image, transform) or image  # nothing is returned only for work in place


def usable_profile(encodings: Sequence[bytes | ColourEncoding], is_grey: bool) -> bytes | None:
    """Return the ICC profile of the first encoding that can be used; None for sRGB."""
    for encoding in encodings:
        if isinstance(encoding, ColourEncoding) and encoding.is_srgb:
            return None
        try:
            profile = encoding if isinstance(encoding, bytes) else encoding.to_icc(is_grey=is_grey)
            _build_transform("L" if is_grey else "RGB", profile)
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            continue
        return profile
    return None


def find_grey_range(image: Image.Image) -> tuple[float, float]:
    """Return the black and white of 32-bit grey: 0 and the smallest usual white above all values, or its own range.

    Raises:
        ImageError: grey values that are NaN or infinite.
    """
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise ImageError("its grey values are not all finite. Convert it to 8 bit first.")
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        # 32-bit grey has no agreed white: files hold bytes, 16-bit numbers or shares of 1.
        for white in (255, 65535) if image.mode == "I" else (1, 255, 65535):
            if high <= white:
                return 0.0, float(white)
    return low, high


def _scale_grey(image: Image.Image, black: float, white: float) -> Image.Image:
    # float32 holds every 16-bit level, and 8-bit results leave it room to spare.
    levels = (np.asarray(image).astype(np.float32) - black) * (255 / max(white - black, 1e-30))
    return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))


def _lay_over_white(image: Image.Image, notes: list[str]) -> Image.Image:
    # Grey stays grey here, since its colour profile, if any, is one for grey.
    if not image.has_transparency_data:
        return image.convert(_OPAQUE_MODES.get(image.mode, image.mode))
    alpha = image.convert("RGBA").getchannel("A")
    is_grey = image.mode in ("1", "L", "LA")
    # Through a mode with alpha, so that no transparent colour stays behind in the image's info.
    solid = image.convert("LA" if is_grey else "RGBA").convert("L" if is_grey else "RGB")
    if alpha.getextrema() == (255, 255):
        return solid
    notes.append("transparency laid over white")
    return Image.composite(solid, Image.new(solid.mode, solid.size, "white"), alpha)


def _convert_colours(image: Image.Image, encodings: Sequence[bytes | ColourEncoding], notes: list[str]) -> Image.Image:
    """Return an image in sRGB by the first of its encodings that can be used; without one it is taken for sRGB."""
    for encoding in encodings:
        if isinstance(encoding, ColourEncoding) and (encoding.is_srgb or image.mode not in ("L", "RGB")):
            break
        try:
            transform = _build_transform(image.mode, encoding)
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            name = "embedded colour profile" if isinstance(encoding, bytes) else f"colours of {encoding}"
            notes.append(f"{name} could not be used")
            continue
        if image.mode in ("L", "RGB") and _is_identity(transform, image.mode):
            break
        source = "the embedded profile" if isinstance(encoding, bytes) else str(encoding)
        notes.append(f"colours converted from {source} to sRGB")
        return ImageCms.applyTransform(image, transform) or image  # nothing is returned only for work in place
    return _from_lab(image) if image.mode == "LAB" else image.convert("RGB")


def _build_transform(mode: str, encoding: bytes | ColourEncoding) -> ImageCms.ImageCmsTransform:
    profile = encoding if isinstance(encoding, bytes) else encoding.to_icc(is_grey=mode == "L")
    # For grey, the default is a table too coarse in the dark; for RGB, the exact way is ten times slower.
    precision = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    return ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION | precision,
    )


def _from_lab(image: Image.Image) -> Image.Image:
    """Return an image in CIELAB, which Pillow converts by profiles alone, in sRGB."""
    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    assert converted is not None
    return converted


def _is_identity(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    # By a probe of all colours: the names in profiles cannot be trusted, and many call themselves sRGB.
    ramp = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(ramp, ramp, ramp), axis=-1).reshape(-1, len(ramp), 3)
    probe = Image.fromarray(colours if mode == "RGB" else ramp[None])
    shown = np.asarray(ImageCms.applyTransform(probe, transform)).astype(int)
    return bool(abs(shown - np.asarray(probe.convert("RGB"))).max() <= IDENTITY_TOLERANCE)
