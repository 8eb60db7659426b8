"""Arrange several images on one sheet."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.images.pixels import display_factor, from_image

WHITE, INK = 255, 40
MIN_CELL = 128
"""Pixels that an image on a comparison sheet is wide at least."""

MAX_ROWS = 8
"""Images below one another on a comparison sheet before the next block begins to the right."""


def enlarge(pixels: Tensor, factor: int) -> Tensor:
    """Return images [..., H, W] with every pixel repeated `factor` times in both directions, without smoothing."""
    if factor < 1:
        raise ArgumentError(f"factor must be a whole number of at least 1, not {factor}.")
    return pixels.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def strip(frames: Tensor, gap: int = 2, background: int = WHITE) -> Tensor:
    """Return images uint8 [N, 3, H, W] side by side, `gap` pixels apart: uint8 [3, H, N (W + gap) - gap]."""
    return sheet([frames], gap, background)


def sheet(rows: Sequence[Tensor], gap: int = 2, background: int = WHITE) -> Tensor:
    """Return the images of several rows, each uint8 [N, 3, H, W], as a grid; shorter rows end in background.

    Args:
        rows: one tensor per row; N may differ between them, H and W may not.
        gap: pixels between images.
        background: grey level from 0 to 255.

    Raises:
        ArgumentError: no images, or images of different sizes.

    Examples:
        >>> list(sheet([torch.zeros(4, 3, 64, 64, dtype=torch.uint8)] * 2).shape)
        [3, 130, 262]
    """
    sizes = {tuple(row.shape[1:]) for row in rows}
    if len(sizes) != 1 or any(row.ndim != 4 for row in rows):
        raise ArgumentError(f"rows must be of shape [N, 3, H, W] and of one size, not of sizes {sorted(sizes)}.")
    _, height, width = sizes.pop()
    down, across = height + gap, width + gap
    columns = max(len(row) for row in rows)
    canvas = torch.full((3, len(rows) * down - gap, columns * across - gap), background, dtype=torch.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            canvas[:, i * down : i * down + height, j * across : j * across + width] = image
    return canvas


def comparison(
    originals: Tensor, reconstructions: Tensor, gain: float = 20, patch_stds: Sequence[Tensor] = ()
) -> Tensor:
    """Return a labelled sheet of rows: original, reconstruction, and `gain` times their absolute difference.

    Small images are enlarged without smoothing; after eight rows a new block of columns begins.

    Args:
        originals: uint8 [N, 3, H, W].
        reconstructions: uint8 of the same shape.
        gain: a difference of 255 / gain levels or more is shown at full brightness.
        patch_stds: of the latent of each image, as `metrics.patch_std` returns them, to be shown too; or nothing.

    Raises:
        ArgumentError: no images, or tensors of different shapes.
    """
    if originals.shape != reconstructions.shape or originals.ndim != 4 or not len(originals):
        shapes = f"{list(originals.shape)} and {list(reconstructions.shape)}"
        raise ArgumentError(f"Originals and reconstructions must have one shape [N, 3, H, W], not {shapes}.")
    difference = (originals.float() - reconstructions.float()).abs().mul(gain).clamp(max=255).to(torch.uint8)
    columns = [originals, reconstructions, difference]
    labels = ["original", "reconstruction", f"difference x {gain:g}"]
    if patch_stds:
        columns.append(torch.stack([std_map(each, originals.shape[-2:]) for each in patch_stds]))
        labels.append("std of x_T, 0.5 to 1.5")
    shown = torch.stack(columns, dim=1)
    shown = enlarge(shown, display_factor(shown.shape[-1], MIN_CELL))
    blocks = [labelled(list(rows), labels) for rows in torch.split(shown, MAX_ROWS)]
    _, height, width = blocks[0].shape  # no other block is larger
    margin = width // 24
    canvas = torch.full((3, height + margin, len(blocks) * (width + margin) + margin), WHITE, dtype=torch.uint8)
    for index, block in enumerate(blocks):
        left = margin + index * (width + margin)
        canvas[:, : block.shape[1], left : left + width] = block
    return canvas


def std_map(patch_std: Tensor, size: Sequence[int]) -> Tensor:
    """Return the standard deviations of patches as colours, uint8 [3, H, W].

    White is 1, as of white noise; blue is 0.5 or less, where a latent is too quiet, and red is 1.5 or more.

    Args:
        patch_std: [rows, columns].
        size: (H, W).
    """
    distance = 2 * (patch_std - 1).clamp(-0.5, 0.5)
    quiet, loud = distance.clamp(max=0).neg(), distance.clamp(min=0)
    colours = 1 - torch.stack([quiet, quiet + loud, loud])
    return F.interpolate(colours[None], tuple(size), mode="nearest-exact")[0].mul(255).round().to(torch.uint8)


def labelled(rows: Sequence[Tensor], labels: Sequence[str], row_labels: Sequence[str] = ()) -> Tensor:
    """Return a sheet with a label above each column; letters shrink until the labels fit.

    Args:
        rows: as for `sheet`.
        labels: one per column, in Latin letters.
        row_labels: one per row, written left of it, or none at all.

    Raises:
        ArgumentError: as `sheet`, and for another number of labels than columns or rows.
    """
    if not rows:
        raise ArgumentError("rows is empty. Pass at least one row of images.")
    gap = _gap(rows[0])
    height, width = rows[0].shape[-2:]
    body = sheet(rows, gap)
    columns = max(len(row) for row in rows)
    if len(labels) != columns:
        raise ArgumentError(f"There must be one label per column: {columns}, not {len(labels)}.")
    if row_labels and len(row_labels) != len(rows):
        raise ArgumentError(f"There must be one label per row, or none: {len(rows)}, not {len(row_labels)}.")
    whole = torch.cat([_draw_line(labels, width, gap), body], dim=1)
    if not row_labels:
        return whole
    font = _fitting_font(row_labels, _letter_height(width), 2 * width)
    across = math.ceil(max(font.getlength(label) for label in row_labels)) + 3 * gap
    side = Image.new("RGB", (across, whole.shape[1]), (WHITE,) * 3)
    draw = ImageDraw.Draw(side)
    # From the bottom, where the last row ends: above the first one is the line of labels.
    for row, label in enumerate(reversed(row_labels)):
        middle = whole.shape[1] - row * (height + gap) - height / 2
        draw.text((across - 2 * gap, middle), label, fill=(INK,) * 3, font=font, anchor="rm")
    return torch.cat([from_image(side), whole], dim=2)


def short_label(name: str, otherwise: str) -> str:
    """Return a label for something with a name: its first 24 letters, or `otherwise` if the font has not all of them.

    Examples:
        >>> short_label("portrait", "image 1"), short_label("портрет", "image 1")
        ('portrait', 'image 1')
    """
    try:
        name.encode("latin-1")
    except UnicodeEncodeError:
        return otherwise
    return name if len(name) <= 24 else f"{name[:21]}..."


def captioned(images: Tensor, captions: Sequence[str], columns: int = 8) -> Tensor:
    """Return images uint8 [N, 3, H, W] in rows of even length, each above its own caption.

    Args:
        images: uint8 [N, 3, H, W].
        captions: one per image, in Latin letters.
        columns: the longest row allowed.

    Raises:
        ArgumentError: no images, another number of captions, or less than one column.
    """
    if not len(images) or len(captions) != len(images) or columns < 1:
        raise ArgumentError(f"Cannot caption {len(images)} images with {len(captions)} captions in {columns} columns.")
    gap = _gap(images)
    columns = math.ceil(len(images) / math.ceil(len(images) / columns))
    blocks = []
    for first in range(0, len(images), columns):
        texts = list(captions[first : first + columns])
        texts += [""] * (columns - len(texts))
        row = sheet([images[first : first + columns]], gap)
        line = _draw_line(texts, images.shape[-1], gap)
        blocks += [F.pad(row, (0, line.shape[2] - row.shape[2]), value=WHITE), line]
    return torch.cat(blocks, dim=1)


def _gap(images: Tensor) -> int:
    return max(2, images.shape[-1] // 32)


def _letter_height(width: int) -> int:
    """Return the height of letters for images of this width: that of body text, and more on large images."""
    return max(1, min(18, width // 9), width // 24)


def _fitting_font(labels: Sequence[str], size: int, room: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of this size, or of the largest one that keeps every label within `room` pixels."""
    widest = max(ImageFont.load_default(size=100).getlength(label) for label in labels) / 100
    return ImageFont.load_default(size=max(1, min(size, int(room / max(widest, 1e-9)))))


def _draw_line(labels: Sequence[str], width: int, gap: int) -> Tensor:
    """Return a line of labels, each centred on a column of this width."""
    height = 2 * _letter_height(width)
    font = _fitting_font(labels, height // 2, width - gap)
    line = Image.new("RGB", (len(labels) * (width + gap) - gap, height), (WHITE,) * 3)
    draw = ImageDraw.Draw(line)
    for column, label in enumerate(labels):
        draw.text((column * (width + gap) + width / 2, height / 2), label, fill=(INK,) * 3, font=font, anchor="mm")
    return from_image(line)
