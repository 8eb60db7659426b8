"""Learned perceptual image patch similarity (LPIPS)."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

from ddim_edit.errors import ModelError
from ddim_edit.io.ignored_warnings import ignored_warnings
from ddim_edit.metrics.image_pairs import require_image_pair
from ddim_edit.metrics.metric import Metric

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SHORTEST_SIDE = 64
"""Pixels that the short side must have: AlexNet's features shrink an image to a sixteenth."""

# The convolutions of torchvision's AlexNet (index within `features`), and the slice of lpips' network that holds each.
_SLICE_OF_CONVOLUTION = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}

_LARGE = 1 << 16
"""Elements of a tensor from which on it is not filled at random before its weights are read; heads have up to 384."""


class LPIPS:
    """Learned perceptual distance with AlexNet features; 0 for equal images.

    The heads come from the `lpips` package, the features from a file of this package: nothing is downloaded. Images
    whose short side is under 64 pixels are enlarged to 64, bilinearly; `size_used` tells the size.

    Args:
        device: where the features are computed; the CPU takes over where its memory runs out or it lacks an operation.
        batch: image pairs per forward pass, which bounds the memory.

    Raises:
        ModelError: the installed `lpips` or the features' file are not the trained ones.

    References:
        Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
        CVPR 2018, arXiv:1801.03924.
    """

    def __init__(self, device: torch.device | str = "cpu", batch: int = 16) -> None:
        import torch

        self._device = torch.device(device)
        self._batch = batch
        self._network = _load_network().to(self._device)

    @staticmethod
    def size_used(shape: torch.Size | tuple[int, ...]) -> tuple[int, int]:
        """Return the (height, width) at which images of `shape` [..., H, W] are compared."""
        height, width = shape[-2:]
        scale = max(1, SHORTEST_SIDE / min(height, width))
        return round(height * scale), round(width * scale)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of two batches of images; arguments and result as `mse`."""
        import torch

        from ddim_edit.memory import is_out_of_memory

        require_image_pair(a, b)
        try:
            return self._distances(a, b)
        except RuntimeError as error:
            lacking = is_out_of_memory(error) or isinstance(error, NotImplementedError)
            if self._device.type == "cpu" or not lacking:
                raise
        # The device has no memory left, or lacks an operation: the CPU always answers.
        self._device = torch.device("cpu")
        self._network = self._network.to(self._device)
        return self._distances(a, b)

    def _distances(self, a: Tensor, b: Tensor) -> Tensor:
        import torch

        from ddim_edit.precision import float32_precision

        distances = []
        with torch.no_grad(), float32_precision():
            for start in range(0, len(a), self._batch):
                first = self._resize(a[start : start + self._batch])
                second = self._resize(b[start : start + self._batch])
                distances.append(self._network(first, second).flatten())
        # Not every device has float64.
        return torch.cat(distances).to(a.device).double() if len(a) else a.new_zeros(0).double()

    def _resize(self, x: Tensor) -> Tensor:
        import torch
        from torch.nn.functional import interpolate

        x = x.to(self._device, torch.float32)
        size = self.size_used(x.shape)
        if x.shape[-2:] == size:
            return x
        return interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)


def _load_network() -> Any:
    """Return lpips' network with our feature weights."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    from ddim_edit.models.weights import NoInitialization

    # lpips builds all of AlexNet with random weights first, among them the 58 million of its classifier, which take
    # half a second. Small tensors are drawn all the same, as random heads are known by their values; that must not move
    # the global generator. torchvision warns about the way in which lpips makes it.
    with ignored_warnings, torch.random.fork_rng(devices=[]), NoInitialization(_LARGE):
        import lpips

        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)

    file = resources.files("ddim_edit.assets") / "lpips" / "alexnet_features_fp16.safetensors"
    try:
        weights = {}
        for name, value in load(file.read_bytes()).items():
            index = int(name.split(".")[1])
            weights[f"slice{_SLICE_OF_CONVOLUTION[index]}.{name.removeprefix('features.')}"] = value.float()
        network.net.load_state_dict(weights, strict=True)
    except (OSError, SafetensorError, LookupError, RuntimeError, ValueError) as error:
        raise ModelError(f"{file.name}: not the AlexNet features of this package. Reinstall ddim-edit.") from error
    if any((head.model[-1].weight < 0).any() for head in network.lins):
        # Only trained heads are free of negative weights: their authors clamp them at 0.
        raise ModelError("The lpips package holds random heads instead of the trained ones. Reinstall lpips.")
    return network


METRIC = Metric(
    name="lpips",
    title="LPIPS",
    help="Learned perceptual distance, 0 for equal images.",
    value_format="8.6f",
    mean_format=".2g",
    better="lower",
    order=30,
    make=LPIPS,
    lowest=0.0,
    plot_label="LPIPS",
    column="LPIPS",
)
