"""Editors, models, latents and directions print what they are, and notebooks show them, without any evaluation."""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ddim_edit import Editor, Latents, Model
from ddim_edit.images import read

from .. import tiny
from .attributes import made
from .measures import QUICK


@pytest.fixture(scope="module")
def things(model: Model, files: list[Path]) -> dict[str, Any]:
    editor = Editor(model)
    latents = editor.invert(files, QUICK)
    trip = editor.reconstruct(files[:2], QUICK)
    bottleneck = made(editor, "low", 1, "h")
    return {
        "Editor": editor,
        "Model": model,
        "Latent": latents[0],
        "5 Latents": latents,
        "0 Latents": Latents([]),
        "12 Latents": Latents([*latents, *latents, *latents[:2]]),
        "Direction": made(editor, "old", 1),
        "Direction of h": bottleneck,
        "Reconstruction": trip,
        "ReconstructedImage": trip[1],
        "InputImage": read(files[0], tiny.SIZE),
    }


TOLD = {
    "Editor": "tiny.*batch_size=8",
    "Model": "tiny.*v_prediction.*cpu",
    "Latent": "tiny.*t=1000.0.*dpm2m.*karras:14.*steps=4.*inversion",
    "5 Latents": "(?s)^5 Latents:(.*Latent){5}",
    "0 Latents": "^0 Latents$",
    "12 Latents": "(?s)^12 Latents:.*and 4 more",
    "Direction": r"'old', model='tiny', level='\d",
    "Direction of h": "'low', model='tiny', level='h'",
    "Reconstruction": "of 2 images.*PSNR",
    "ReconstructedImage": "PSNR.*Latent",
    "InputImage": r"\(0, 16x16\)",
}


@pytest.mark.parametrize("name", TOLD)
def test_it_prints_what_it_is_in_a_few_lines(things: dict[str, Any], name: str) -> None:
    printed = repr(things[name])
    assert re.search(TOLD[name], printed), printed
    assert "tensor(" not in printed
    assert all(len(line) < 300 for line in printed.splitlines())


SHOWN = {"Latent": 16, "5 Latents": 5 * 16, "12 Latents": 8 * 16, "Direction": 16}
"""Pixels in width, before they are enlarged eight times."""


@pytest.mark.parametrize("name", ["Editor", "Model", "0 Latents", "Direction of h", *SHOWN])
def test_notebooks_show_a_table_and_an_image_where_there_is_one(things: dict[str, Any], name: str) -> None:
    html = things[name]._repr_html_()
    assert html.startswith(f"<div><b>{name.removesuffix(' of h')}</b>")
    found = re.search('src="data:image/png;base64,([^"]+)"', html)
    assert (found is not None) == (name in SHOWN)
    if found:
        assert Image.open(io.BytesIO(base64.b64decode(found[1]))).size == (8 * SHOWN[name], 128)
    assert len(html) < 100_000


@pytest.mark.parametrize("name", ["Reconstruction", "ReconstructedImage", "InputImage"])
def test_notebooks_show_images(things: dict[str, Any], name: str) -> None:
    show: Callable[[], bytes] = things[name]._repr_png_
    assert Image.open(io.BytesIO(show())).mode == "RGB"
