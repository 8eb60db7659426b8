"""Tensors that cannot be images in [-1, 1] are refused, wherever they are handed in."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddim_edit import ArgumentError, InputWarning, metrics
from ddim_edit.images import CentreSquare, prepare_images, to_float, to_uint8
from ddim_edit.images.ranges import require_image_range

Use = Callable[[Tensor], Any]
USES: dict[str, Use] = {
    "prepare": lambda x: list(prepare_images(x, (16, 16), CentreSquare())),
    **{name: lambda x, metric=metric: metric.make("cpu")(x, x.roll(1, -1)) for name, metric in metrics.METRICS.items()},
}


def levels(seed: int = 0, low: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, 256, (2, 3, 16, 16), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("given_images", "message"),
    [
        (levels(), r"must be floats in \[-1, 1\], not torch.uint8\. Convert them"),
        (levels().int(), "must be floats"),
        (levels().float(), r"not in \[0, 255\]\. If they are in 0\.\.255, use x / 127\.5 - 1"),
        (levels(low=30).half(), r"If they are in 0\.\.255"),
        (levels().float() / 255, r"not in \[0, 1\]\. If they are in \[0, 1\], use 2 \* x - 1"),
        (levels(low=60).double() / 255, r"If they are in \[0, 1\]"),
        (torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), r"If they are in \[0, 1\]"),
        (levels().float() - 128, r"not in \[-128, 127\]\. Scale them, and clip what overshoots"),
        (2 * levels().double() - 255, r"not in \[-255, 255\]\. Scale them"),
    ],
)
def test_ranges_that_cannot_be_meant_are_refused(use: str, given_images: Tensor, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        USES[use](given_images)


@pytest.mark.parametrize("use", USES)
def test_ranges_that_may_be_meant_are_warned_of(use: str) -> None:
    bright = 0.3 + 0.6 * torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.warns(
        InputWarning, match=r"All values are in \[0\.3.*, 0\.[89].*\], as only those of very bright images"
    ):
        USES[use](bright)


@given(st.integers(0, 99), st.sampled_from([0, 1, 100, 128, 200, 254]), st.sampled_from([torch.float32, torch.float64]))
def test_images_of_any_brightness_pass_in_silence(seed: int, low: int, dtype: torch.dtype) -> None:
    image = to_float(levels(seed, low)).to(dtype)
    overshooting = image + 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_image_range(image)
        require_image_range(image, overshooting)
        for constant in (-1.0, 0.0, 0.5, 1.0):
            require_image_range(torch.full_like(image, constant), torch.zeros_like(image))
        require_image_range(torch.rand(1, 3, 2, 2))
        require_image_range(image[:0])


@pytest.mark.parametrize("convert", [lambda x: x.to(torch.float8_e4m3fn), Tensor.to_sparse, lambda x: x.to("meta")])
def test_tensors_that_are_not_computed_with_are_refused(convert: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ArgumentError, match="dense and of at least 16 bits"):
        list(prepare_images(convert(to_float(levels())), (16, 16), CentreSquare()))


def test_pixels_of_the_wrong_kind_are_not_converted() -> None:
    with pytest.raises(ArgumentError, match=r"must be uint8, not torch\.float32"):
        to_float(levels() / 255)
    with pytest.raises(ArgumentError, match=r"must be floats in \[-1, 1\], not torch.uint8"):
        to_uint8(levels())
