"""The variants of running the network that are compared: a table, and what makes each of its lines runnable."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timing.place import Place, Watched
from timing.round_trips import load_their_network, make_their_loop
from timing.share import watched
from torch import Tensor

from ddim_edit import Editor, InversionConfig, Model, NetworkDenoiser
from ddim_edit.models.checkpoint import LoadOptions
from ddim_edit.models.devices import DeviceNetwork
from ddim_edit.models.layers import FusedLayer
from ddim_edit.models.loading import load_with_options
from gpu.plan import Setting, Skipped
from gpu.targets import COMPILED, HALF, PLAIN

FEW = (64, 1)
"""The most telling batches."""


@dataclass(frozen=True)
class Variant:
    """One variant of running the network.

    Attributes:
        name: in the tables.
        dtype: of the network, as `load_model` takes it.
        theirs: whether it is diffusers' network in diffusers' loop.
        channels_last: of theirs, whether it is laid out so.
        compiled: whether TorchInductor compiles the whole network; of theirs with `MAX_AUTOTUNE`.
        graphs: of ours, whether it may be replayed from CUDA graphs.
        typicality: of ours, whether images are compared with typical ones, which takes two evaluations more.
        options: of ours, further fields of `LoadOptions`.
        batches: the only ones to measure, or None for all.
    """

    name: str
    dtype: str
    theirs: bool = False
    channels_last: bool = False
    compiled: bool = False
    graphs: bool = True
    typicality: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    batches: tuple[int, ...] | None = None

    @property
    def is_compiled(self) -> bool:
        """Whether anything has to be compiled before it runs."""
        return self.compiled or self.options.get("blocks") == "compiled"


MAX_AUTOTUNE: Mapping[str, Any] = {
    "max_autotune": True,
    "triton.cudagraphs": True,
    "max_autotune_conv_backends": "ATEN",
    "max_autotune_gemm_backends": "ATEN",
}
"""mode="max-autotune", but that convolutions and products stay cuDNN's and cuBLAS's. With Triton's among the candidates
not one batch size was compiled in 130 s on the 16 cores beside an H200."""
EAGER: Mapping[str, Any] = {"blocks": "eager"}
NCHW: Mapping[str, Any] = {"memory_format": torch.contiguous_format}
# ----------------------------------------------------------------------------------------------------------------------
# The table of variants; what the targets are about comes first.
# ----------------------------------------------------------------------------------------------------------------------
VARIANTS = (
    Variant(PLAIN, "float32", theirs=True),
    Variant(HALF, "bfloat16", theirs=True, channels_last=True),
    Variant("ours, bfloat16", "bfloat16"),
    Variant("ours, float32", "float32"),
    Variant("ours, tf32", "tf32"),
    Variant("ours, mixed", "mixed", batches=FEW),
    Variant("ours, float16", "float16"),
    Variant("ours, bfloat16, with typicality", "bfloat16", typicality=True),
    Variant("ours, bfloat16, eager", "bfloat16", options=EAGER, batches=FEW),
    Variant("ours, float32, eager", "float32", options=EAGER, batches=FEW),
    Variant("ours, tf32, eager", "tf32", options=EAGER, batches=FEW),
    Variant("ours, bfloat16, NCHW", "bfloat16", options=NCHW, batches=FEW),
    Variant("ours, float32, NCHW", "float32", options=NCHW, batches=FEW),
    Variant("ours, tf32, NCHW", "tf32", options=NCHW, batches=FEW),
    Variant("ours, bfloat16, no graphs", "bfloat16", graphs=False, batches=(64, 1, 8)),
    Variant("ours, float16, no graphs", "float16", graphs=False, batches=FEW),
    Variant("ours, tf32, no graphs", "tf32", graphs=False, batches=FEW),
    Variant("ours, float32, no graphs", "float32", graphs=False, batches=FEW),
    Variant(COMPILED, "bfloat16", theirs=True, channels_last=True, compiled=True),
    Variant("ours, bfloat16, compiled", "bfloat16", compiled=True),
    Variant("ours, bfloat16, compiled blocks", "bfloat16", options={"blocks": "compiled"}),
)


class Runner(NamedTuple):
    """A variant that runs: what inverts images [B, 3, H, W] in so many steps, and the timer on its network."""

    invert: Callable[[Tensor, int], object]
    network: Watched


@dataclass(frozen=True)
class LoadedVariant:
    """A variant with its network on the device, on which `runner` puts a fresh timer."""

    runner: Callable[[], Runner]


def load(variant: Variant, setting: Setting) -> LoadedVariant:
    """Load the network of a variant.

    Raises:
        Skipped: without diffusers, or where the device cannot do as asked.
    """
    place = Place(setting.device)
    if variant.theirs:
        network = _theirs(variant, Path(setting.model), place)
        return LoadedVariant(lambda: _their_runner(network, variant, Path(setting.model), place))
    model = load_ours(variant, setting)

    def our_runner() -> Runner:
        watched_model, timer = watched(model, place)

        def invert(images: Tensor, steps: int) -> object:
            return Editor(watched_model, batch_size=len(images)).invert(images, InversionConfig(steps=steps))

        return Runner(invert, timer)

    return LoadedVariant(our_runner)


def load_ours(variant: Variant, setting: Setting) -> Model:
    """Load the model of one of our variants.

    Raises:
        Skipped: the device cannot do as asked.
    """
    device = torch.device(setting.device)
    options = LoadOptions(device, variant.dtype, compiled=variant.compiled, **variant.options)
    model = load_with_options(setting.model, options)
    if not variant.typicality:
        model = replace(model, typicality=None)
    assert isinstance(model.denoiser, NetworkDenoiser)
    device_network = model.denoiser.network
    assert isinstance(device_network, DeviceNetwork)
    assert isinstance(device_network.network, torch.nn.Module)
    # Layers fall back to torch's where the kernels do not run.
    fused = any(isinstance(module, FusedLayer) for module in device_network.network.modules())
    if device.type == "cuda" and options.blocks == "fused" and not (fused or variant.compiled):
        raise Skipped("the kernels of fused layers do not run here")
    if variant.graphs:
        return model
    # In eager mode: without the faster call of the network.
    return replace(model, denoiser=replace(model.denoiser, network=replace(device_network, run=None)))


def _theirs(variant: Variant, model: Path, place: Place) -> Any:
    try:
        network = load_their_network(model, place).to(dtype=_torch_dtype(variant))
    except ImportError as error:
        raise Skipped("diffusers is not installed, so this was not measured") from error
    if variant.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return torch.compile(network, options=dict(MAX_AUTOTUNE), dynamic=False) if variant.compiled else network


def _torch_dtype(variant: Variant) -> torch.dtype:
    return torch.bfloat16 if variant.dtype == "bfloat16" else torch.float32


def _their_runner(network: Any, variant: Variant, model: Path, place: Place) -> Runner:
    """Return diffusers' loop in float32 around its network in its dtype."""
    layout = torch.channels_last if variant.channels_last else torch.preserve_format
    dtype = _torch_dtype(variant)

    def evaluate(x: Tensor, index: Tensor) -> Tensor:
        if variant.compiled:
            # Graphs take no inputs of the processor's, and the scheduler's times are; of one dtype, as it is compiled
            # for each.
            index = index.to(x.device, torch.float32).expand(len(x))
        output: Tensor = network(x.to(dtype, memory_format=layout), index).sample
        return output.float()

    timer = place.watch(evaluate)
    loop = make_their_loop(model, timer)
    return Runner(lambda images, steps: loop.encode(images.to(place.device, torch.float32), steps), timer)
