"""Edits along gradients: x moves so that linear scores of the network's bottleneck change."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser
from ddim_edit.directions.direction import GUIDED_STEPS, LONGEST_STEP, Direction
from ddim_edit.directions.edits import record_edit, require_compatible
from ddim_edit.directions.geometry import rotate
from ddim_edit.errors import NonFiniteError
from ddim_edit.latents.latent import Latent, Latents
from ddim_edit.memory import AdaptiveBatcher
from ddim_edit.models.differentiation import BottleneckJacobian
from ddim_edit.models.model import Model
from ddim_edit.transfer import to_device


@dataclass(frozen=True)
class GuidedEdit:
    """Moves latents x so that their scores p_i = u_i . h(x) change by s_i sd_i, those of held directions by nothing.

    h is the network's bottleneck at the time of x, and u the vector of a direction, which a linear classifier of h
    found. h bends, so that the gradient G = u dh/dx is another one for each image and at each point of the way. Of K
    steps, step k takes the shortest way to its share of what is left to go,

        x <- x + G^T (G G^T)^-1 r / (K - k),   r_i = p_i(start) + s_i sd_i - p_i(x),

    on the shell of x, as `rotate`. The last step takes all that is left, in as far as the score is linear by then.

    Args:
        model: whose bottleneck it is.
        strengths: of each direction, in standard deviations of its training scores.
        held: directions whose scores are kept.
        steps: how many; each costs about one evaluation of the network.
        batches: splits the latents into batches; None takes all of them at once.
        on_evaluation: called after each step of a batch with the number of its latents.

    References:
        Dhariwal, Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021, arXiv:2105.05233, for gradients
        of a classifier of noisy images.
        Kwon, Jeong, Uh, "Diffusion Models Already Have a Semantic Latent Space", ICLR 2023, arXiv:2210.10960, for the
        bottleneck as a space of attributes.
    """

    model: Model
    strengths: Mapping[Direction, float]
    held: Sequence[Direction] = ()
    steps: int = GUIDED_STEPS
    batches: AdaptiveBatcher | None = None
    on_evaluation: Callable[[int], object] | None = None

    def __call__(self, latents: Latents, denoiser: Denoiser) -> tuple[Latents, Denoiser]:
        """Return the moved latents, and the same denoiser.

        Raises:
            DirectionMismatchError: latents of another level, grid or model than the directions were fitted at.
            ArgumentError: latents of another size; ModelError: a network that cannot be differentiated.
            NonFiniteError: a gradient that is not finite.
        """
        for latent in latents:
            require_compatible(latent, [*self.strengths, *self.held])
        x = latents.x
        if any(self.strengths.values()):
            jacobian = BottleneckJacobian(denoiser, self.model.schedule.level(latents[0].t))

            def move(some: Sequence[Latent]) -> Tensor:
                return self._move(jacobian, Latents(some).x)

            moved = [move(latents)] if self.batches is None else self.batches(move, list(latents))
            x = torch.cat(list(moved))
        return record_edit(latents, x, self.strengths, self.held), denoiser

    def _move(self, jacobian: BottleneckJacobian, x: Tensor) -> Tensor:
        """Return states x [B, C, H, W] after all steps, on the device of the states."""
        own_device, x = x.device, self.model.to_state_device(x)
        directions = [*self.strengths, *self.held]
        vectors = torch.stack([each.vector[0] for each in directions])
        changes = [strength * each.sd for each, strength in self.strengths.items()] + [0.0] * len(self.held)
        wanted = to_device(torch.tensor(changes, dtype=torch.float64), x.device)
        nothing = x.new_zeros(0, x[0].numel())
        # A gradient that vanishes would ask for a step without end.
        longest = LONGEST_STEP * math.sqrt(x[0].numel()) / self.steps
        target = None
        for step in range(self.steps):
            scores, gradients = (each.double() for each in jacobian.scores(x, vectors))
            if not gradients.isfinite().all():
                raise NonFiniteError("The gradient of h has NaN or infinite values. Load the model in float32.")
            if target is None:
                target = scores + wanted
            slopes = gradients.flatten(2)
            gram = slopes @ slopes.mT
            share = (target - scores) / (self.steps - step)
            way = (torch.linalg.pinv(gram, hermitian=True) @ share.unsqueeze(-1)).mT @ slopes
            length = way.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
            way = way * (longest / length).clamp_max(1)
            x = rotate(x.flatten(1), way.squeeze(1), nothing).view_as(x)
            if self.on_evaluation is not None:
                self.on_evaluation(len(x))
        if not x.isfinite().all():
            raise NonFiniteError(
                "The gradient of the bottleneck has NaN or infinite values. Load the model in float32."
            )
        return x.to(own_device)
