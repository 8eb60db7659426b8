"""Several pictures on one sheet."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.images.pixels import from_image

WHITE, INK = 255, 40
CELL = 128
"""Pixels a picture on a comparison sheet is at least wide."""

ROWS = 8
"""Pictures below one another on a comparison sheet before the next block begins to the right."""


def enlarge(pixels: Tensor, factor: int) -> Tensor:
    """The pictures [..., H, W] with every pixel repeated `factor` times both ways; nothing is smoothed."""
    if factor < 1:
        raise ArgumentError("a whole factor of at least 1", f"{factor}", "shrink pictures elsewhere")
    return pixels.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def strip(frames: Tensor, gap: int = 2, background: int = WHITE) -> Tensor:
    """The pictures uint8 [N, 3, H, W] side by side, `gap` pixels apart: uint8 [3, H, N (W + gap) - gap]."""
    return sheet([frames], gap, background)


def sheet(rows: Sequence[Tensor], gap: int = 2, background: int = WHITE) -> Tensor:
    """The pictures of several rows, each uint8 [N, 3, H, W], as a grid; shorter rows are filled up.

    Args:
        rows: one tensor a row; N may differ between them, H and W may not.
        gap: pixels between pictures.
        background: grey level from 0 to 255.

    Errors: ArgumentError for no pictures and for pictures of different sizes.
    """
    sizes = {tuple(row.shape[1:]) for row in rows}
    if len(sizes) != 1 or any(row.ndim != 4 for row in rows):
        raise ArgumentError("rows of pictures of one size", f"sizes {sorted(sizes)}", "resize them first")
    _, height, width = sizes.pop()
    down, across = height + gap, width + gap
    columns = max(len(row) for row in rows)
    canvas = torch.full((3, len(rows) * down - gap, columns * across - gap), background, dtype=torch.uint8)
    for top, row in enumerate(rows):
        for left, picture in enumerate(row):
            canvas[:, top * down :, left * across :][:, :height, :width] = picture
    return canvas


def comparison(originals: Tensor, reconstructions: Tensor, gain: float = 20) -> Tensor:
    """A labelled sheet of triples: original, reconstruction, and `gain` times their absolute difference.

    Small pictures are enlarged without smoothing; after eight rows a new block of columns begins.

    Args:
        originals: uint8 [N, 3, H, W].
        reconstructions: uint8 of the same shape.
        gain: a difference of 255 / gain levels or more is shown at full brightness.

    Errors: ArgumentError for pictures that do not pair up.
    """
    if originals.shape != reconstructions.shape or originals.ndim != 4 or not len(originals):
        given = f"{list(originals.shape)} and {list(reconstructions.shape)}"
        raise ArgumentError("two tensors of one shape [N, 3, H, W]", given, "pair the pictures up")
    difference = (originals.float() - reconstructions.float()).abs().mul(gain).clamp(max=255).to(torch.uint8)
    triples = torch.stack([originals, reconstructions, difference], dim=1)
    triples = enlarge(triples, -(-CELL // triples.shape[-1]))
    labels = ["original", "reconstruction", f"difference x {gain:g}"]
    return _beside([labelled(list(rows), labels) for rows in torch.split(triples, ROWS)])


def labelled(rows: Sequence[Tensor], labels: Sequence[str]) -> Tensor:
    """Rows of pictures, each uint8 [N, 3, H, W], as a grid under one label a column; small pictures get small labels.

    Errors: ArgumentError as `sheet`, and for another number of labels than columns.
    """
    if not rows:
        raise ArgumentError("at least one row of pictures", "none", "hand in a row")
    gap = max(2, rows[0].shape[-1] // 32)
    body = sheet(rows, gap)
    if len(labels) != max(len(row) for row in rows):
        raise ArgumentError("one label a column", f"{len(labels)} of them", "name every column")
    return torch.cat([_heading(labels, rows[0].shape[-1], gap), body], dim=1)


def _heading(labels: Sequence[str], width: int, gap: int) -> Tensor:
    size = max(1, min(18, width // 9))
    font = ImageFont.load_default(size=size)
    height = 2 * size
    image = Image.new("RGB", (len(labels) * (width + gap) - gap, height), (WHITE,) * 3)
    draw = ImageDraw.Draw(image)
    for column, label in enumerate(labels):
        centre = column * (width + gap) + width / 2, height / 2
        draw.text(centre, label, fill=(INK,) * 3, font=font, anchor="mm")
    return from_image(image)


def _beside(blocks: Sequence[Tensor]) -> Tensor:
    """Blocks [3, H_i, W] from left to right on a white ground with a margin, H_0 being the largest."""
    margin = blocks[0].shape[-1] // 24
    _, height, width = blocks[0].shape
    across = len(blocks) * (width + margin) + margin
    canvas = torch.full((3, height + margin, across), WHITE, dtype=torch.uint8)
    for index, block in enumerate(blocks):
        left = margin + index * (width + margin)
        canvas[:, : block.shape[1], left : left + width] = block
    return canvas
