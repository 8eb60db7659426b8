"""Products with the Jacobian dh / dx of a network's bottleneck h, by automatic differentiation.

The networks of a loaded model run without gradients, on layers that have none: weights packed for a processor, fused
norms, captured graphs. Where they were rewritten, the Jacobian is that of a copy with plain layers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from ddim_edit.diffusion.bottleneck import bottleneck_at, require_bottleneck
from ddim_edit.diffusion.denoisers import Denoiser
from ddim_edit.diffusion.schedules import Level
from ddim_edit.errors import ArgumentError, ModelError, first_line
from ddim_edit.io.ignored_warnings import ignored_warnings
from ddim_edit.models.blocks import restore_blocks
from ddim_edit.models.devices import DeviceNetwork, evaluation_mode
from ddim_edit.models.unet.base import UNetBase
from ddim_edit.precision import float32_precision


class _ContiguousGroupNorms(TorchFunctionMode):
    """Inside of it group norms take contiguous maps: up to version 2.11, PyTorch has a forward mode for no others."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.group_norm:
            args = (args[0].contiguous(), *args[1:])
        return func(*args, **(kwargs or {}))


class BottleneckJacobian:
    """Products with J = dh / dx at one level, row by row of a batch; what follows h in the network is not run.

    J v takes one pass with tangents (forward mode), u J one pass forth and back (reverse mode).

    Args:
        denoiser: of a single network that exposes its bottleneck.
        level: where.

    Raises:
        ModelError: a denoiser without a bottleneck.

    References:
        Baydin, Pearlmutter, Radul, Siskind, "Automatic Differentiation in Machine Learning: a Survey", JMLR 18, 2018,
        arXiv:1502.05767.
    """

    def __init__(self, denoiser: Denoiser, level: Level) -> None:
        self._denoiser, _ = bottleneck_at(denoiser, level)
        self._level = level
        network = self._denoiser.network
        assert isinstance(network, DeviceNetwork)  # as of every model
        require_bottleneck(network.network)
        if isinstance(network.network, UNetBase):
            plain = restore_blocks(deepcopy(network.network)).to(self._denoiser.dtype)
            precision = network.precision._replace(dtype=self._denoiser.dtype)
            network = replace(network, network=plain, precision=precision, run=None)
        self._network = network

    def __call__(self, x: Tensor) -> Tensor:
        """Return h [B, c, h, w] at x [B, C, H, W]."""
        parametrization = self._denoiser.parametrization
        time = torch.full((len(x),), parametrization.time_condition(self._level), dtype=torch.float32, device=x.device)
        return self._network.differentiable_bottleneck(parametrization.scale_input(x, self._level), time)

    def times(self, x: Tensor, v: Tensor) -> Tensor:
        """Return J v [B, c, h, w] at x for v, both [B, C, H, W]."""
        # Of attention, only the kernel of plain operations has a forward mode.
        plain_attention, plain_norms = sdpa_kernel(SDPBackend.MATH), _ContiguousGroupNorms()
        with self._differentiating(), torch.no_grad(), plain_attention, plain_norms, forward_ad.dual_level():
            with ignored_warnings:  # torch uses what it has deprecated where it is first asked for a forward mode
                moving = forward_ad.make_dual(x.clone(), v.clone())  # type: ignore[no-untyped-call]
            h = self(moving)
            product: Tensor | None = forward_ad.unpack_dual(h).tangent  # type: ignore[no-untyped-call]
        return torch.zeros_like(h) if product is None else product

    def transposed_times(self, x: Tensor, u: Tensor) -> Tensor:
        """Return u J [B, C, H, W] at x [B, C, H, W] for u [B, c, h, w]."""
        with self._differentiating(), torch.enable_grad():
            x = x.clone().requires_grad_()
            (product,) = torch.autograd.grad(self(x), x, u.clone())
        return product

    def scores(self, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inner products of h with vectors, and their gradients, from one pass forth and K back.

        Args:
            x: [B, C, H, W].
            vectors: [K, c, h, w].

        Returns:
            u . h [B, K] and its gradients u J [B, K, C, H, W] in float32, on the device of x.

        Raises:
            ArgumentError: vectors of another shape than h.
        """
        with self._differentiating(), torch.enable_grad():
            x = x.clone().requires_grad_()
            h = self(x)
            if h.shape[1:] != vectors.shape[1:]:
                raise ArgumentError(
                    f"The direction is of bottlenecks of shape {list(vectors.shape[1:])}, but that of these latents is "
                    f"{list(h.shape[1:])}. Fit it again at this size."
                )
            products = h.float().flatten(1) @ vectors.to(h.device, torch.float32).flatten(1).T
            gradients = []
            for column in products.sum(0):
                (gradient,) = torch.autograd.grad(column, x, retain_graph=True)
                gradients.append(gradient.float())
        return products.detach().to(x.device), torch.stack(gradients, 1)

    @contextmanager
    def _differentiating(self) -> Iterator[None]:
        network = self._network
        try:
            # Tensors that are made in inference mode have no derivatives; clones made outside of it have.
            with (
                torch.inference_mode(False),
                evaluation_mode(network.network),
                float32_precision(network.precision.tf32),
            ):
                yield
        except NotImplementedError as error:
            raise ModelError(
                f"This network has a layer that cannot be differentiated ({first_line(error, 120)}). Use plain "
                "attention in place of a faster one."
            ) from error
