"""Models: a denoiser and a codec, the schedule they were trained with, and what identifies them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser
from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.errors import ArgumentError
from ddim_edit.images.face_templates import FaceTemplate
from ddim_edit.models.codec.pixels import Codec
from ddim_edit.models.condition import NOTHING, Condition
from ddim_edit.models.devices import PRECISIONS, find_device, is_native, state_device
from ddim_edit.models.identity import Components
from ddim_edit.models.placing import Mover
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
        typicality: tells images that look like those of its training from others; None where nobody measured that.
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
    typicality: Typicality | None = None

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
