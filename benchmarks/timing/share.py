"""(f): how much of the time is the network's, and how near the network comes to what the machine can do."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ddim_edit import Editor, InversionConfig, Model, load_model
from ddim_edit.diffusion.denoisers import Network, NetworkDenoiser
from ddim_edit.models.devices import PRECISIONS
from ddim_edit.models.unet.network import load_unet
from ddim_edit.precision import float32_precision
from timing.bench import Bench, BenchSection
from timing.place import Place, Watched
from timing.report import Row
from timing.sample_images import fill
from timing.spread import Spread, rounds_in, spread

TRIES = 9
"""Products of matrices of which the fastest counts."""


def shares(bench: Bench) -> Iterator[Row]:
    """Yield the network's share of inversions from image files to latent files, batch by batch and dtype by dtype."""
    work = flops(load_unet(bench.folder / "unet"), bench.images[:1])
    for dtype in bench.place.dtypes:
        if PRECISIONS[dtype].low is not None:
            continue  # two networks, of two peaks
        model = load_model(bench.folder, bench.place.name, dtype)
        top = peak(bench.place, dtype, bench.scale.matrix)
        for batch in bench.scale.batches:
            found = bench.place.tried(partial(_measure_batch, bench, model, batch))
            if found is None:
                continue
            share, seconds = found
            rate = work * batch / seconds.median
            yield {
                "dtype": dtype,
                "batch": batch,
                "ms an evaluation": 1000 * seconds.median,
                "outside the network %": 100 * (1 - share.median),
                "GFLOP/s": rate / 1e9,
                "matrix peak GFLOP/s": top / 1e9,
                "of the peak %": 100 * rate / top,
            }


def _measure_batch(bench: Bench, model: Model, batch: int) -> tuple[Spread, Spread]:
    """Return the network's share of the wall time of one batch, files included; and seconds per evaluation."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fill(folder, bench.images, batch)
        first, _ = _invert_files(bench, model, folder, batch)
        network_shares, evaluations = list[float](), list[float]()
        for _ in range(rounds_in(bench.scale.seconds / 4, first)):
            wall, calls = _invert_files(bench, model, folder, batch)
            network_shares.append(sum(calls) / wall)
            evaluations += calls
    return spread(network_shares), spread(evaluations)


def _invert_files(bench: Bench, model: Model, folder: Path, batch: int) -> tuple[float, list[float]]:
    """Return the wall seconds of a batch from files to files, and the seconds of each evaluation in them."""
    model, network = watched(model, bench.place)

    def work() -> None:
        for index, latent in enumerate(Editor(model, batch).invert(folder, InversionConfig(steps=bench.scale.steps))):
            latent.save(folder / f"{index}.latent.safetensors")

    wall, _ = bench.place.timed(work)
    return wall, network.seconds()


def watched(model: Model, place: Place) -> tuple[Model, Watched]:
    """Return the model with one timer on its networks, and the timer."""
    denoiser = model.denoiser
    assert isinstance(denoiser, NetworkDenoiser)
    network = place.watch(denoiser.network)
    low = None if denoiser.low is None else replace(network, network=denoiser.low)
    return replace(model, denoiser=replace(denoiser, network=network, low=low)), network


def flops(network: Network, image: Tensor) -> int:
    """Return the operations of one evaluation of one image [1, C, H, W]: convolutions and matrix products alone.

    A multiplication and an addition are two. What a faster implementation saves or adds is not counted, so that
    rates of the same network can be compared.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image, torch.zeros(1))
    return int(counter.get_total_flops())


@cache
def peak(place: Place, dtype: str, largest: int) -> float:
    """Return the most FLOP/s of products of two square matrices; sides double until a product takes long."""
    best, side, seconds = 0.0, 512, 0.0
    precision = PRECISIONS[dtype]
    while side <= largest and seconds < 0.2:
        a, b, out = (torch.randn(side, side, device=place.device).to(precision.dtype) for _ in range(3))
        multiply = partial(torch.mm, a, b, out=out)
        with float32_precision(precision.tf32):
            seconds = min(place.timed(multiply)[0] for _ in range(TRIES))
        best, side = max(best, 2 * side**3 / seconds), 2 * side
    return best


SECTIONS = (
    BenchSection(
        "f",
        "Share of the network, and of the matrix peak",
        "Inversion of one batch from image files to latent files, {steps} steps. Outside the network are the solver, "
        "bookkeeping and files. FLOP are those of convolutions and matrix products, a multiplication and an addition "
        "being two; the peak is the best product of two square matrices in the same dtype with the same threads.",
        shares,
    ),
)
