"""How long an evaluation and a whole inversion take, and what they consist of."""

import gc
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

import torch
from timing.place import Place
from timing.round_trips import ours, time_round_trip
from timing.sample_images import fill
from timing.share import flops, peak, watched
from timing.spread import spread
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ddim_edit import Editor, InversionConfig, NetworkDenoiser, load_model, metrics
from ddim_edit.models.devices import PRECISIONS
from ddim_edit.models.unet.network import load_unet
from gpu.material import gather, image_size, portrait, relative
from gpu.plan import Case, Row, Setting, Skipped
from gpu.targets import HALF, PLAIN
from gpu.variants import FEW, VARIANTS, LoadedVariant, Runner, Variant, load

GOAL = 50.0
"""PSNR in dB at which a round trip counts as good."""
MOST = 7
"""Repetitions of one measurement, at most."""
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
REPLAY = "cudaGraphLaunch"
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
PROFILED = (PLAIN, HALF, "ours, bfloat16", "ours, bfloat16, eager", "ours, bfloat16, no graphs", "ours, float32")


@dataclass
class _LazyVariant:
    """A variant whose network is loaded when it is first needed, and freed with this object."""

    variant: Variant
    setting: Setting
    missing: bool = False

    @cached_property
    def loaded(self) -> LoadedVariant:
        """The network on its device.

        Raises:
            Skipped: it cannot be had here.
        """
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            return load(self.variant, self.setting)
        except Skipped:
            self.missing = True
            raise


def speed(setting: Setting) -> Iterator[Case]:
    """Yield a case for each variant that is not compiled and each batch, the most telling batches first."""
    batches = setting.scale.batches
    for some in (batches[: len(FEW)], batches[len(FEW) :]):
        for variant in VARIANTS:
            if not variant.is_compiled:
                yield from _cases(variant, setting, some)


def compiled(setting: Setting) -> Iterator[Case]:
    """Yield a case for each batch and each variant that is compiled, as far as that is done."""
    for batch in setting.scale.batches:
        for variant in _compiled_ones(setting):
            yield from _cases(variant, setting, (batch,))


def _cases(variant: Variant, setting: Setting, batches: Sequence[int]) -> Iterator[Case]:
    lane = _LazyVariant(variant, setting)
    for batch in batches:
        if not lane.missing and (setting.tiny or variant.batches is None or batch in variant.batches):
            yield Case(f"{variant.name}, batch {batch}", partial(_inversions, lane, batch))


def _compiled_ones(setting: Setting) -> list[Variant]:
    """Return the compiled variants; in a rehearsal only blocks, because a whole network takes minutes on a CPU."""
    return [variant for variant in VARIANTS if variant.is_compiled and not (setting.tiny and variant.compiled)]


def _inversions(lane: _LazyVariant, batch: int) -> Iterator[Row]:
    """Invert once to warm up, and then again and again until the time of one measurement is over."""
    setting, place, loaded = lane.setting, Place(lane.setting.device), lane.loaded
    images, steps = gather(setting, batch), setting.scale.steps
    if place.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first, _ = place.timed(lambda: loaded.runner().invert(images, 2))
    walls, calls, shares = list[float](), list[float](), list[float]()
    while not walls or (sum(walls) < setting.scale.seconds and len(walls) < MOST):
        runner = loaded.runner()
        wall, _ = place.timed(partial(runner.invert, images, steps))
        evaluations = runner.network.seconds()
        walls.append(wall)
        calls += evaluations
        shares.append(100 * (1 - sum(evaluations) / wall))
    seconds = spread(calls).median
    yield {
        "variant": lane.variant.name,
        "batch": batch,
        "evaluation ms": 1000 * seconds,
        "inversion ms": 1000 * spread(walls).median,
        "outside the network %": spread(shares).median,
        "evaluation error": _error(loaded.runner(), setting, batch),
        **_rates(lane, place, batch / seconds),
        "memory GiB": torch.cuda.max_memory_allocated() / 2**30 if place.device.type == "cuda" else None,
        "SM MHz": _clock(place),
        "first call s": first,
        "rounds": len(walls),
    }


def _error(runner: Runner, setting: Setting, batch: int) -> float:
    """Return the relative error of one evaluation against float32 on the CPU."""
    x, index, reference = _reference_evaluation(setting.model)
    rows, indices = (value.expand(batch, *value.shape[1:]).contiguous().to(setting.device) for value in (x, index))
    with torch.no_grad():
        return relative(runner.network.network(rows, indices)[-1:], reference)


@cache
def _reference_evaluation(model: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return a noisy image [1, 3, H, W], an index [1], and the network's output for them in float32."""
    x = torch.randn(1, 3, *image_size(model), generator=torch.Generator().manual_seed(0))
    index, denoiser = torch.full((1,), 500.0), load_model(model).denoiser
    assert isinstance(denoiser, NetworkDenoiser)
    return x, index, denoiser.network(x, index)


def _clock(place: Place) -> int | None:
    """Return the clock of the GPU right after a measurement, if it can be queried."""
    with suppress(ModuleNotFoundError, RuntimeError):
        return torch.cuda.clock_rate() if place.device.type == "cuda" else None
    return None


def _rates(lane: _LazyVariant, place: Place, images_per_second: float) -> Row:
    """Return the FLOP rate of the evaluations, and its share of the device's peak in the same dtype."""
    setting, variant = lane.setting, lane.variant
    rate = _flops_of_model(setting.model) * images_per_second
    dtype = "tf32" if variant.name == PLAIN else variant.dtype  # torch lets cuDNN round, if it is not told otherwise
    if PRECISIONS[dtype].low is not None:
        return {"TFLOP/s": rate / 1e12}  # two networks, of two peaks
    return {"TFLOP/s": rate / 1e12, "of the peak %": 100 * rate / peak(place, dtype, setting.scale.matrix)}


@cache
def _flops_of_model(model: str) -> int:
    """Return the floating point operations of one evaluation of one image."""
    return flops(load_unet(Path(model) / "unet"), torch.zeros(1, 3, *image_size(model)))


def compile_ahead(setting: Setting) -> Iterator[Case]:
    """Yield a case for each variant that is compiled and each of its batches, the most telling batches first."""
    for batch in setting.scale.batches:
        for variant in _compiled_ones(setting):
            yield Case(f"{variant.name}, batch {batch}", partial(_compile, variant, setting, batch))


def _compile(variant: Variant, setting: Setting, batch: int) -> Iterator[Row]:
    place, images, runner = Place(setting.device), gather(setting, batch), load(variant, setting).runner()
    seconds, _ = place.timed(lambda: runner.invert(images, 1))
    yield {"variant": variant.name, "batch": batch, "seconds": seconds}


def round_trip(setting: Setting) -> list[Case]:
    """Return a case for each dtype."""
    dtypes = Place(setting.device).dtypes
    return [Case(dtype, partial(_round_trip, setting, dtype)) for dtype in reversed(dtypes)]


def _round_trip(setting: Setting, dtype: str) -> Iterator[Row]:
    """Raise the steps until the portrait comes back well enough, and take the time of that."""
    place, image = Place(setting.device), portrait(setting)
    make = ours(Path(setting.model), place, dtype)
    psnr, steps = 0.0, 0
    for steps in setting.scale.ladder:
        psnr = float(metrics.psnr(image, time_round_trip(make(steps), image, place).decoded))
        if psnr >= GOAL:
            break
    row = {"dtype": dtype, "steps": steps, "PSNR dB": psnr}
    if psnr < GOAL:
        yield {**row, "seconds": None}
        return
    timed = [time_round_trip(make(steps), image, place) for _ in range(MOST)]
    seconds = spread([each.total for each in timed]).median
    yield {**row, "seconds": seconds, "inverting s": spread([each.inverting for each in timed]).median}


def launches(setting: Setting) -> list[Case]:
    """Return a case for each variant that is profiled."""
    variants = [variant for variant in VARIANTS if variant.name in PROFILED]
    if setting.tiny:
        variants = [variant for variant in variants if not variant.theirs][:1]
    return [Case(variant.name, partial(_launches, variant, setting)) for variant in variants]


def _launches(variant: Variant, setting: Setting) -> Iterator[Row]:
    """Profile one evaluation, and one inversion with all that its steps do besides."""
    place, steps, batch = Place(setting.device), 4, min(setting.scale.batches)
    runner, images = load(variant, setting).runner(), gather(setting, batch)
    x, index = images.to(place.device), torch.zeros(batch, device=place.device)
    runner.invert(images, steps)  # graphs, workspaces and buffers are made here
    with torch.no_grad():
        alone = _profiled(place, lambda: runner.network.network(x, index))
    whole = _profiled(place, lambda: runner.invert(images, steps))
    yield {
        "variant": variant.name,
        **{f"{name} an evaluation": count for name, count in alone.items()},
        **{f"{name} a step": count / steps for name, count in whole.items()},
    }


def _profiled(place: Place, work: Callable[[], object]) -> dict[str, int]:
    """Return how many kernels ran, and how often the processor launched some, replayed a graph and waited."""
    activities = [ProfilerActivity.CPU]
    if place.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as found:
        work()
        place.wait()
    names = Counter(event.name for event in found.events() if event.device_type.name == "CPU")
    on_gpu = [event.name for event in found.events() if event.device_type.name == "CUDA"]
    copies = sum(name.startswith(("Memcpy", "Memset")) for name in on_gpu)
    return {
        "kernels": len(on_gpu) - copies,
        "copies": copies,
        "operators": sum(count for name, count in names.items() if name.startswith("aten::")),
        "launches": sum(names[name] for name in LAUNCHES),
        "replays": names[REPLAY],
        "waits": sum(names[name] for name in WAITS),
    }


def outside(setting: Setting) -> list[Case]:
    """Return a case for each dtype."""
    dtypes = ("bfloat16",) if setting.tiny else ("bfloat16", "float16", "tf32", "float32")
    return [Case(dtype, partial(_outside, setting, dtype)) for dtype in dtypes]


def _outside(setting: Setting, dtype: str) -> Iterator[Row]:
    """Invert one batch from files to files, once to warm up and then a few times."""
    place, batch, config = Place(setting.device), setting.scale.folder_batch, InversionConfig(steps=setting.scale.steps)
    model = load_model(setting.model, setting.device, dtype)
    with tempfile.TemporaryDirectory(dir=setting.folder("outside")) as scratch:
        folder = Path(scratch)
        fill(folder, gather(setting, batch), batch)

        def work(editor: Editor) -> None:
            for index, latent in enumerate(editor.invert(folder, config)):
                latent.save(folder / f"{index}.latent.safetensors")

        walls, shares = list[float](), list[float]()
        for _ in range(1 if setting.tiny else 4):
            watched_model, network = watched(model, place)
            wall, _ = place.timed(partial(work, Editor(watched_model, batch)))
            walls.append(wall)
            shares.append(100 * (1 - sum(network.seconds()) / wall))
    yield {
        "dtype": dtype,
        "batch": batch,
        "wall ms": 1000 * spread(walls[1:] or walls).median,
        "outside the network %": spread(shares[1:] or shares).median,
    }
