from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from ddim_edit.images import read

from .profiles import linear_grey, linear_rgb

LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)
CONVERTED = "colours converted from the embedded profile to sRGB"
UNUSABLE = "embedded colour profile could not be used"


def srgb_transfer(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def array(image) -> np.ndarray:
    return image.pixels.permute(1, 2, 0).numpy().astype(float)


@pytest.mark.parametrize(
    ("stored", "profile"),
    [
        (Image.fromarray(LEVELS).convert("RGB"), linear_rgb()),
        (Image.fromarray(LEVELS), linear_grey()),
        (Image.fromarray(LEVELS).convert("LA"), linear_grey()),
    ],
)
def test_linear_light_is_converted_to_srgb(save, stored, profile) -> None:
    image = read(save(stored, icc_profile=profile), 16)
    expected = 255 * srgb_transfer(LEVELS / 255)[..., None]
    assert np.abs(array(image) - expected).max() <= 1.5
    assert image.notes == (CONVERTED,)


def test_srgb_profiles_change_nothing(save) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = read(save(photo, icc_profile=profile), 16)
    assert np.array_equal(array(image), photo)
    assert image.notes == ()


def test_profile_of_a_photograph_is_recognised_as_srgb() -> None:
    path = Path(str(resources.files("ddim_edit.assets") / "images" / "astronaut.png"))
    image = read(path, 512)
    with Image.open(path) as opened:
        assert np.array_equal(array(image), np.asarray(opened))
    assert image.notes == ()


@pytest.mark.parametrize("profile", [b"rubbish", linear_grey(), linear_rgb()[:200]])
def test_unusable_profile_is_noted_and_ignored(save, profile) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = read(save(photo, icc_profile=profile), 16)
    assert np.array_equal(array(image), photo)
    assert image.notes == (UNUSABLE,)
