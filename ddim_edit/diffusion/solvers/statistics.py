"""Keeping account, image by image, of what a walk costs and how well its equations were solved."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level


@dataclass(frozen=True)
class TrackedDenoiser:
    """A denoiser that counts for each image of a batch how often it was evaluated, and keeps its worst residual.

    Args:
        denoiser: what is asked.
        nfe: [B] int64, evaluations, shared by every view that `only` makes.
        residual: [B] float64, largest residual of an implicit step, in units of x; shared likewise.
        converged: [B] bool, whether every equation was solved to its tolerance; shared likewise.
        rows: [b] int64, the images that the rows of x stand for.
    """

    denoiser: Denoiser
    nfe: Tensor
    residual: Tensor
    converged: Tensor
    rows: Tensor

    @classmethod
    def open(cls, denoiser: Denoiser, batch: int) -> "TrackedDenoiser":
        """A fresh account of a batch."""
        rows = torch.arange(batch)
        residual = torch.zeros(batch, dtype=torch.float64)
        return cls(denoiser, torch.zeros_like(rows), residual, torch.ones(batch, dtype=torch.bool), rows)

    def only(self, rows: Tensor) -> "TrackedDenoiser":
        """The same account for some of its images alone (indices or a mask)."""
        return replace(self, rows=self.rows[rows.cpu()])

    @property
    def spent(self) -> Tensor:
        """Evaluations so far of its images [b], as a copy."""
        return self.nfe[self.rows]

    def note(self, residual: Tensor, converged: Tensor) -> None:
        """Take in the residual [b] of one equation and whether that met its tolerance [b]."""
        self.residual[self.rows] = torch.maximum(self.residual[self.rows], residual.cpu().double())
        self.converged[self.rows] &= converged.cpu()

    def certify(self, converged: Tensor) -> None:
        """Let an end-to-end check [b] overrule what single equations said."""
        self.converged[self.rows] = converged.cpu()

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """The prediction at x [b, ...], counted."""
        self.nfe[self.rows] += 1
        return self.denoiser(x, level)
