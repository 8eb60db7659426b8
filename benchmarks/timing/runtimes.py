"""(g): one evaluation and a round trip beside everything else that runs the same network."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from math import inf, log10
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddim_edit import InversionConfig, load_model, metrics
from ddim_edit.diffusion.denoisers import NetworkDenoiser
from ddim_edit.errors import ArgumentError, MissingExtraError
from ddim_edit.models.unet.network import load_unet
from timing.bench import Bench, BenchSection
from timing.comparison import GOAL, fewest_steps, raise_steps
from timing.place import Place
from timing.report import Row
from timing.round_trips import (
    DiffusersRoundTrip,
    EditorRoundTrip,
    MakeRoundTrip,
    TimedRoundTrip,
    load_their_network,
    make_multistep_loop,
    make_their_loop,
    time_round_trip,
)
from timing.spread import interleaved, ratio, rounds_in, spread

THEIRS = "diffusers, float32"
LARGEST = 8
"""Larger batches take too long beside so many."""
RUNTIMES = {"onnx": ("ONNX Runtime", ("float32",)), "openvino": ("OpenVINO", ("float32", "mixed", "bfloat16"))}
Evaluate = Callable[[Tensor, Tensor], Tensor]
"""x [B, C, H, W] and times [B] to the output of the network, both in float32."""


class Variant(NamedTuple):
    """One way to run the network of the model folder.

    Fields: name; dtype; evaluate, which calls the network once, None where two networks take turns; round_trip of the
    schedulers that go with it, None where it is a matter of the evaluations alone; missing, what is not here for it.
    """

    name: str
    dtype: str
    evaluate: Evaluate | None = None
    round_trip: MakeRoundTrip | None = None
    missing: str = ""

    @property
    def key(self) -> str:
        """Name and dtype."""
        return f"{self.name}, {self.dtype}"


@cache
def all_variants(bench: Bench) -> tuple[Variant, ...]:
    """Return diffusers' ways in both dtypes, then ours in PyTorch and in each runtime."""
    found = [
        _theirs(bench, "diffusers", torch.float32),
        _theirs(bench, "diffusers, channels_last", torch.bfloat16, torch.channels_last),
        _theirs(bench, "diffusers, torch.compile", torch.float32, torch.channels_last, compiled=True),
        _theirs(bench, "diffusers, torch.compile", torch.bfloat16, torch.channels_last, compiled=True),
    ]
    found += [_ours(bench, "ours", dtype) for dtype in bench.place.dtypes]
    for runtime, (name, dtypes) in RUNTIMES.items():
        found += [_ours(bench, f"ours, {name}", dtype, runtime) for dtype in dtypes]
    return tuple(found)


def _theirs(
    bench: Bench,
    name: str,
    dtype: torch.dtype,
    memory_format: torch.memory_format = torch.contiguous_format,
    compiled: bool = False,
) -> Variant:
    network = load_their_network(bench.folder, bench.place).to(dtype).to(memory_format=memory_format)
    call: Any = torch.compile(network, dynamic=False) if compiled else network

    def evaluate(x: Tensor, time: Tensor) -> Tensor:
        with torch.no_grad():
            output: Tensor = call(x.to(dtype, memory_format=memory_format), time).sample
        return output.float()

    loop = make_their_loop(bench.folder, evaluate)
    trip = None if compiled else lambda steps: DiffusersRoundTrip(network, loop, steps)
    return Variant(name, str(dtype).removeprefix("torch."), evaluate, trip)


def _ours(bench: Bench, name: str, dtype: str, runtime: str = "torch") -> Variant:
    try:
        model = load_model(bench.folder, bench.place.name, dtype, runtime=runtime)
    except MissingExtraError as error:
        return Variant(name, dtype, missing=f"{error.package} is not installed")
    except ArgumentError:  # not on this device, or not in this dtype on this processor
        return Variant(name, dtype, missing="not possible here")
    assert isinstance(model.denoiser, NetworkDenoiser)
    evaluate = model.denoiser.network if model.denoiser.low is None else None
    return Variant(name, dtype, evaluate, lambda steps: EditorRoundTrip(model, InversionConfig(steps=steps)))


def evaluations(bench: Bench) -> Iterator[Row]:
    """Yield the time and the error of one evaluation, batch by batch."""
    exact = load_unet(bench.folder / "unet").double()
    for batch in _batches(bench):
        x = torch.randn(batch, *bench.images.shape[1:], generator=torch.Generator().manual_seed(batch))
        time = torch.linspace(1, 900, batch)
        with torch.no_grad():
            wanted = exact(x.double(), time)
        place = bench.place
        inputs = x.to(place.device), time.to(place.device)
        variants = [each for each in all_variants(bench) if each.evaluate or each.missing]
        calls: dict[str, Callable[[], Tensor]] = {}
        for each in variants:
            if each.evaluate:
                calls[each.key] = partial(each.evaluate, *inputs)
        # The first calls compile, and their outputs are compared.
        errors = {key: signal_to_noise(call().cpu(), wanted) for key, call in calls.items()}
        runs = {key: partial(_seconds, place, call) for key, call in calls.items()}
        once = sum(run() for run in runs.values())
        measured = interleaved(runs, rounds_in(bench.scale.seconds / 4, once, most=9))
        for each in variants:
            row: Row = {"batch": batch, "variant": each.name, "dtype": each.dtype}
            if each.missing:
                yield {**row, "ms": each.missing}
                continue
            seconds = measured[each.key]
            yield {
                **row,
                "ms": 1000 * spread(seconds).median,
                "ms an image": 1000 * spread(seconds).median / batch,
                "times diffusers in this dtype": ratio(_baseline(measured, each.dtype), seconds),
                "error dB": errors[each.key],
            }


def _baseline(measured: Mapping[str, list[float]], dtype: str) -> list[float]:
    return measured[THEIRS if dtype == "float32" else "diffusers, channels_last, bfloat16"]


def _seconds(place: Place, call: Callable[[], Tensor]) -> float:
    seconds, _ = place.timed(call)
    return seconds


def signal_to_noise(found: Tensor, wanted: Tensor) -> float:
    """Return 10 log10(|wanted|^2 / |found - wanted|^2)."""
    error = float((found.double() - wanted).square().sum())
    return 10 * log10(float(wanted.square().sum()) / error) if error else inf


def round_trips(bench: Bench) -> Iterator[Row]:
    """Yield the time and the PSNR of round trips at the same number of steps, batch by batch."""
    for batch in _batches(bench):
        images = bench.images[:batch]
        variants = [each for each in all_variants(bench) if each.round_trip]
        runs: dict[str, Callable[[], TimedRoundTrip]] = {}
        for each in variants:
            assert each.round_trip is not None
            trip = each.round_trip(bench.scale.steps)
            runs[each.key] = partial(time_round_trip, trip, images, bench.place)
        measured = interleaved(runs, rounds_in(bench.scale.seconds, inf, least=1 if batch > 1 else 3))
        theirs = [each.total for each in measured[THEIRS]]
        for each in variants:
            timed = measured[each.key]
            total = [one.total for one in timed]
            psnr = metrics.psnr(images, timed[0].decoded)
            yield {
                "batch": batch,
                "variant": each.name,
                "dtype": each.dtype,
                "seconds": spread(total).median,
                "times diffusers, float32": ratio(theirs, total),
                "PSNR dB": float(psnr.mean()),
                "worst dB": float(psnr.min()),
            }


def equal_accuracy(bench: Bench) -> Iterator[Row]:
    """Yield how long diffusers' better pair of schedulers takes to the accuracy of this package."""
    image = bench.images[:1]
    network = load_their_network(bench.folder, bench.place)
    loop = make_multistep_loop(bench.folder, lambda x, time: network(x, time).sample)
    makes: dict[str, MakeRoundTrip] = {
        "diffusers, DPM-Solver++": lambda steps: DiffusersRoundTrip(network, loop, steps)
    }
    for each in all_variants(bench):
        if each.name == "ours" and each.round_trip:
            makes[f"ours, {each.dtype}"] = each.round_trip

    def psnr(make: MakeRoundTrip, steps: int) -> Tensor:
        return metrics.psnr(image, time_round_trip(make(steps), image, bench.place).decoded)

    chosen = {name: list(raise_steps(bench.scale, partial(psnr, make))) for name, make in makes.items()}
    steps = {}
    for name, found in chosen.items():
        fewest = fewest_steps(found)
        steps[name] = fewest if fewest.mean >= GOAL else max(found, key=lambda each: each.mean)
    runs = {name: partial(time_round_trip, make(steps[name].steps), image, bench.place) for name, make in makes.items()}
    measured = interleaved(runs, rounds_in(bench.scale.seconds, inf, least=1))
    for name, timed in measured.items():
        yield {
            "variant": name,
            "reached": "yes" if steps[name].mean >= GOAL else "no, at best",
            "steps": steps[name].steps,
            "PSNR dB": steps[name].mean,
            "seconds": spread([each.total for each in timed]).median,
        }


def _batches(bench: Bench) -> list[int]:
    return [batch for batch in bench.scale.batches if batch <= LARGEST]


SECTIONS = (
    BenchSection(
        "g",
        "One evaluation beside other runtimes",
        "All variants in turn, A B C A B C; medians, and ratios of what was measured side by side, over diffusers in "
        "float32 or, for bfloat16, in bfloat16 and channels_last. Error: |output|^2 over |output - output in "
        "float64|^2. The runtimes run our network as `--runtime` does.",
        evaluations,
    ),
    BenchSection(
        "g",
        "A round trip beside other runtimes",
        "Images to latents and back in {steps} steps and as many evaluations each way, the first of them included; "
        "diffusers with its DDIM pair, as in (a). Interleaved; batches above 1 once.",
        round_trips,
    ),
    BenchSection(
        "g",
        f"Time to {GOAL:g} dB beside diffusers' DPM-Solver++",
        "One image. `DPMSolverMultistepInverseScheduler` and its counterpart, order 2 on Karras sigmas, float32. Steps "
        f"are raised until the PSNR reaches {GOAL:g} dB, or until more of them do not bring 1 dB.",
        equal_accuracy,
    ),
)
