"""Statistics of solvers, image by image: evaluations, residuals and convergence."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level


def select_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Return the rows of x that belong to some images of a batch, without a copy where those are all of them.

    Args:
        x: [B, ...].
        rows: distinct indices in ascending order [b], or a mask [B], on the device of x.

    Returns:
        [b, ...]; x itself for B indices.
    """
    if rows.dtype != torch.bool and len(rows) == len(x):
        return x
    return x[rows]


@dataclass(frozen=True)
class TrackedDenoiser:
    """A denoiser that counts the evaluations of each image of a batch and keeps its worst residual.

    The statistics stay on the device of the state, so that the host need not wait for it at any step.

    Args:
        denoiser: what is evaluated.
        nfe: [B] int64, evaluations, shared by every view that `for_rows` makes.
        residual: [B] float64, largest residual of an implicit step, in units of x; shared likewise.
        converged: [B] bool, whether every equation was solved to its tolerance; shared likewise.
        rows: [b] int64, in ascending order, the images that the rows of x stand for.
    """

    denoiser: Denoiser
    nfe: Tensor
    residual: Tensor
    converged: Tensor
    rows: Tensor

    @classmethod
    def start(cls, denoiser: Denoiser, batch: int, device: torch.device | None = None) -> "TrackedDenoiser":
        """Return a denoiser with fresh statistics for a batch whose state is on a device, by default the CPU."""
        rows = torch.arange(batch, device=device)
        residual = torch.zeros(batch, dtype=torch.float64, device=device)
        converged = torch.ones(batch, dtype=torch.bool, device=device)
        return cls(denoiser, torch.zeros_like(rows), residual, converged, rows)

    def for_rows(self, rows: Tensor) -> "TrackedDenoiser":
        """Return a view with the same statistics for some of its images alone, given as for `select_rows`."""
        return replace(self, rows=select_rows(self.rows, rows))

    @property
    def evaluations(self) -> Tensor:
        """Evaluations so far of its images [b], as a copy."""
        return select_rows(self.nfe, self.rows).clone()

    def record_residual(self, residual: Tensor, converged: Tensor | None = None) -> None:
        """Record the residual [b] of one equation and, if it had a tolerance, whether that was met [b]."""
        self._set(self.residual, torch.maximum(select_rows(self.residual, self.rows), residual.double()))
        if converged is not None:
            self._set(self.converged, select_rows(self.converged, self.rows) & converged)

    def set_converged(self, converged: Tensor) -> None:
        """Replace the convergence of single equations by that of an end-to-end check [b]."""
        self._set(self.converged, converged)

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Return the prediction at x [b, ...], and count it."""
        # Adding in place needs no index arithmetic, which would launch kernels at every evaluation on a GPU.
        if len(self.rows) == len(self.nfe):
            self.nfe.add_(1)
        else:
            self.nfe[self.rows] += 1
        return self.denoiser(x, level)

    def _set(self, statistic: Tensor, values: Tensor) -> None:
        """Overwrite a statistic [B] of its images [b]."""
        if len(self.rows) == len(statistic):
            statistic.copy_(values)
        else:
            statistic[self.rows] = values
