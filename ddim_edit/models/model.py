"""Models: a denoiser and a codec, the schedule they were trained with, and what identifies them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser, NetworkDenoiser
from ddim_edit.diffusion.parametrization import Parametrization
from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.errors import ArgumentError
from ddim_edit.images.face_templates import FaceTemplate
from ddim_edit.models.checkpoint import Checkpoint
from ddim_edit.models.codec.pixels import Codec
from ddim_edit.models.condition import NOTHING, Condition
from ddim_edit.models.devices import PRECISIONS, DeviceNetwork, Precision, find_device, is_native, state_device
from ddim_edit.models.identity import Components, process_component
from ddim_edit.models.own_network import (
    OwnNetwork,
    Weights,
    codec_digest,
    find_codec,
    find_parametrization,
    name_of,
    network_digest,
    place_of,
    weights_of,
)
from ddim_edit.models.placing import Mover
from ddim_edit.models.sizes import ANY_SIZE, SizeRule
from ddim_edit.models.typicality import Typicality
from ddim_edit.tables import html_summary
from ddim_edit.transfer import to_device


@dataclass(frozen=True)
class Model:
    """A loaded checkpoint: denoiser, codec, schedule and metadata.

    Args:
        denoiser: the denoiser of no condition.
        codec: between images and x_0.
        schedule: the noise schedule.
        shape: of x_0, (C, H, W).
        name: what to call it; for a folder its last part.
        components: what identifies it: the digest of each of its components.
        prediction: the prediction type of the network, in diffusers' words.
        dtype: what the network computes in, by name.
        device: where the network is.
        native: whether that device computes in the dtype itself, or emulates it.
        state_device: where the state of an integration is; the CPU for devices without float64.
        conditioner: makes the denoiser of a condition; None for a model that follows none.
        follows: what kind of condition that is, in words.
        face_template: where a face model expects the landmarks of a face; None for other models.
        sizes: the heights and widths in pixels that the model takes; this one has the `size` that it was loaded with.
        typicality: tells images that look like those of its training from others; None where nobody measured that.
        notes: sentences on what may surprise about it, such as that it is distilled.
    """

    denoiser: Denoiser
    codec: Codec
    schedule: NoiseSchedule
    shape: tuple[int, int, int]
    name: str
    components: Components
    prediction: str
    dtype: str = "float32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    native: bool = True
    state_device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    conditioner: Callable[[Condition], Denoiser] | None = None
    follows: str = "nothing"
    face_template: FaceTemplate | None = None
    sizes: SizeRule = ANY_SIZE
    typicality: Typicality | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def from_network(
        cls,
        network: Callable[..., Any],
        schedule: NoiseSchedule,
        prediction_type: str | Parametrization = "epsilon",
        shape: tuple[int, int, int] = (3, 64, 64),
        codec: Codec | None = None,
        *,
        name: str | None = None,
        weights: Weights | None = None,
    ) -> Self:
        """Return the model of a network of your own.

        The network is called with x [B, C, H, W] in the dtype of its weights, and with time conditions [B] in float32:
        of discrete levels t - 1, from 0 to T - 1, which solvers may ask for between whole numbers. It runs where it is,
        in eval mode and without gradients, and is left as it was found. Latents are tied to its weights by their
        content.

        Args:
            network: a module or a function that returns a tensor of the shape of x, or an object that has it as
                `sample`. As many channels again may follow, which are learned variances.
            schedule: the noise schedule of its training.
            prediction_type: "epsilon", "sample", "v_prediction", "flow_prediction", "edm", or a `Parametrization`,
                which decides what the network sees and gets as time.
            shape: of x_0, (C, H, W).
            codec: between images and x_0; None for networks of 3 or 1 channels, which diffuse images themselves. What
                identifies it is its `component`, a text, or else its class and the weights of its modules.
            name: what to call the model; by default the class of the network.
            weights: what a function computes with, to tie latents to: a module, several, or tensors by name.

        Raises:
            ArgumentError: a function without weights, an unknown prediction type, a shape that is none, or a codec
                that is none.
            ModelError: weights that are not finite, or a network of latents without a codec.

        Examples:
            >>> from torch import nn
            >>> class Zero(nn.Module):
            ...     def forward(self, x, t):
            ...         return 0 * x
            >>> model = Model.from_network(Zero(), NoiseSchedule.linear(), shape=(3, 8, 8))
            >>> model.name, model.size, sorted(model.components)
            ('Zero', (8, 8), ['network', 'process'])
        """
        if len(shape) != 3 or any(not isinstance(side, int) or side < 1 for side in shape):
            raise ArgumentError(f"shape must be three positive numbers, channels, height and width, not {shape!r:.60}.")
        parametrization = find_parametrization(prediction_type, schedule.T)
        found_codec = find_codec(codec, shape[0])
        tensors = weights_of(network, weights)
        device, dtype = place_of(tensors)
        own = OwnNetwork(network)
        checkpoint = Checkpoint(own, schedule, parametrization, shape[0], shape[1:])
        components = {"network": network_digest(network, tensors), "process": process_component(checkpoint)}
        if codec is not None:
            components["autoencoder"] = codec_digest(codec)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        placed = DeviceNetwork(own, device, Precision(dtype), shared=True)
        return cls(
            denoiser=NetworkDenoiser(placed, parametrization, wide),
            codec=found_codec,
            schedule=schedule,
            shape=shape,
            name=name or name_of(network),
            components=components,
            prediction=parametrization.name,
            dtype=str(dtype).removeprefix("torch."),
            device=device,
            native=is_native(device, dtype),
            state_device=state_device(device),
        )

    def summary(self) -> dict[str, Any]:
        """Return what it is, by what names it, as JSON types."""
        return {
            "name": self.name,
            "images": f"{self.size[1]}x{self.size[0]}",
            "x_0": list(self.shape),
            "prediction": self.prediction,
            "schedule": f"{self.schedule.T} levels",
            "follows": self.follows,
            "dtype": self.dtype,
            "device": str(self.device),
        }

    def __repr__(self) -> str:
        return f"Model({', '.join(f'{name}={value!r}' for name, value in self.summary().items())})"

    def _repr_html_(self) -> str:
        return html_summary("Model", self.summary())

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its images, in pixels."""
        return self.shape[1] * self.codec.factor, self.shape[2] * self.codec.factor

    @property
    def default_batch_size(self) -> int:
        """The default batch size; larger ones gain nothing on a CPU, and little on a GPU."""
        if self.device.type != "cpu":
            return 64
        # A CPU has no allocator that fails in time, so large images go through in smaller batches.
        return max(min(8, 2**19 // (self.shape[1] * self.shape[2])), 1)

    def to(self, device: str | torch.device) -> Self:
        """Return the same model on another device, "auto", "cuda", "mps" or "cpu"; itself if it is there already.

        Raises:
            ArgumentError: this machine has no such device.
        """
        found = find_device(str(device))
        if found == self.device:
            return self
        move = Mover(found)
        precision = PRECISIONS.get(self.dtype)
        return replace(
            self,
            denoiser=move(self.denoiser),
            codec=move(self.codec),
            conditioner=move(self.conditioner),
            device=found,
            native=precision is None or is_native(found, precision.low or precision.dtype),
            state_device=state_device(found),
        )

    def to_state_device(self, x: Tensor) -> Tensor:
        """Return a tensor on the state device, copied there while the device goes on with its work."""
        return to_device(x, self.state_device)

    def pinned(self, x: Tensor) -> Tensor:
        """Return a tensor in memory that `to_state_device` copies from without blocking.

        It is the tensor itself where that changes nothing. May be called in a thread while another one uses the device.
        """
        moves = self.state_device.type == "cuda" and x.device.type == "cpu"
        return x.pin_memory() if moves and not x.is_pinned() else x

    def conditioned_on(self, condition: Condition) -> Denoiser:
        """Return the denoiser of a condition.

        Raises:
            ArgumentError: a condition that this model cannot follow.
        """
        if condition == NOTHING:
            return self.denoiser
        if self.conditioner is None:
            given = ", ".join(f"{name} {value!r}" for name, value in condition.as_dict().items())
            raise ArgumentError(
                f"{self.name} is unconditional: it follows no prompt, class or guidance. Leave {given} out."
            )
        return self.conditioner(condition)
