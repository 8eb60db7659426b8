"""Directions of a small model's codes, without the labels that it would take to fit them."""

import torch
from torch import Tensor

from ddim_edit import Direction, Editor, InversionConfig, Latents
from ddim_edit.directions import make_edit, to_unit

from .. import tiny
from .measures import QUICK

GREY = torch.zeros(1, 3, tiny.SIZE, tiny.SIZE)


def made(
    editor: Editor,
    name: str,
    seed: int,
    level: str = "0.4T",
    config: InversionConfig = QUICK,
    vector: Tensor | None = None,
) -> Direction:
    """A random direction, or that of a vector, fitted at a level as far as anybody can tell; a strength is 3 long."""
    (codes,) = editor.latents_at(torch.zeros(1, 3, *editor.model.size), [level], config)
    draw = torch.randn(codes.values.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    vector = to_unit(draw if vector is None else vector)
    return Direction(name, vector, 0.0, 0.0, 3.0, codes.recipe, codes.times)


def moved(latents: Latents, strengths: dict[Direction, float], **options: object) -> Latents:
    """The codes of an edit, before they are decoded."""
    return make_edit(strengths, **options)(latents, print)[0]
