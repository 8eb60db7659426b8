"""Several pictures on one sheet."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.images.pixels import from_image

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
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


def labelled(rows: Sequence[Tensor], labels: Sequence[str], row_labels: Sequence[str] = ()) -> Tensor:
    """Rows of pictures, each uint8 [N, 3, H, W], as a grid under one label a column, in Latin letters that fit.

    Args:
        rows: as for `sheet`.
        labels: one a column.
        row_labels: one a row, to be written left of it; or none at all.

    Errors: ArgumentError as `sheet`, and for another number of labels than columns or rows.
    """
    if not rows:
        raise ArgumentError("at least one row of pictures", "none", "hand in a row")
    gap, (height, width) = _gap(rows[0]), rows[0].shape[-2:]
    body = sheet(rows, gap)
    if len(labels) != max(len(row) for row in rows):
        raise ArgumentError("one label a column", f"{len(labels)} of them", "name every column")
    if row_labels and len(row_labels) != len(rows):
        raise ArgumentError("one label a row", f"{len(row_labels)} of them", "name every row, or none")
    whole = torch.cat([_heading(labels, width, gap), body], dim=1)
    return torch.cat([_side(row_labels, height, width, gap, whole.shape[1]), whole], dim=2) if row_labels else whole


def captioned(pictures: Tensor, captions: Sequence[str], columns: int = 8) -> Tensor:
    """The pictures uint8 [N, 3, H, W] in even rows of at most so many, each above its own caption.

    Errors: ArgumentError for no pictures, another number of captions, and less than one column.
    """
    if not len(pictures) or len(captions) != len(pictures) or columns < 1:
        given = f"{len(captions)} captions for {len(pictures)} pictures in {columns} columns"
        raise ArgumentError("pictures, one caption for each, in at least one column", given, "correct that")
    rows, gap = math.ceil(len(pictures) / columns), _gap(pictures)
    columns = math.ceil(len(pictures) / rows)
    captions = [*captions, *[""] * (-len(pictures) % columns)]
    blocks = []
    for row, first in zip(torch.split(pictures, columns), range(0, len(captions), columns), strict=True):
        body = sheet([row], gap)
        under = _heading(captions[first : first + columns], pictures.shape[-1], gap)
        blocks.append(torch.cat([F.pad(body, (0, under.shape[2] - body.shape[2]), value=WHITE), under], dim=1))
    return torch.cat(blocks, dim=1)


def _gap(row: Tensor) -> int:
    return max(2, row.shape[-1] // 32)


def _heading(labels: Sequence[str], width: int, gap: int) -> Tensor:
    height = 2 * _letters(width)
    font = _font(labels, height // 2, width - gap)
    image = Image.new("RGB", (len(labels) * (width + gap) - gap, height), (WHITE,) * 3)
    for column, label in enumerate(labels):
        _write(image, (column * (width + gap) + width / 2, height / 2), label, font, "mm")
    return from_image(image)


def _side(labels: Sequence[str], height: int, width: int, gap: int, whole: int) -> Tensor:
    """Labels right before their rows, the last of which ends at the bottom of a sheet that is `whole` pixels high."""
    font = _font(labels, _letters(width), 2 * width)
    across = math.ceil(max(font.getlength(label) for label in labels)) + 3 * gap
    image = Image.new("RGB", (across, whole), (WHITE,) * 3)
    for row, label in enumerate(reversed(labels)):
        _write(image, (across - 2 * gap, whole - row * (height + gap) - height / 2), label, font, "rm")
    return from_image(image)


def _letters(width: int) -> int:
    """Height of letters for pictures of that width; as large as body text, and on large pictures larger."""
    return max(1, min(18, width // 9), width // 24)


def _font(labels: Sequence[str], size: int, room: int) -> Font:
    """The font of that size, or of the largest one that keeps every label within so many pixels."""
    widest = max(ImageFont.load_default(size=100).getlength(label) for label in labels) / 100
    return ImageFont.load_default(size=max(1, min(size, int(room / max(widest, 1e-9)))))


def _write(image: Image.Image, at: tuple[float, float], label: str, font: Font, anchor: str) -> None:
    ImageDraw.Draw(image).text(at, label, fill=(INK,) * 3, font=font, anchor=anchor)


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
