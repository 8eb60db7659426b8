"""A folder of images into a store: how fast, what of it is the network's, and whether memory stays what it is."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from timing.place import Place, Watched
from timing.share import watched
from torch import Tensor

from ddim_edit import Editor, InversionConfig, NetworkDenoiser, images, load_model
from ddim_edit.diffusion.denoisers import Network
from ddim_edit.distributed import list_images
from ddim_edit.distributed.filling import fill_shards, prepare_store
from ddim_edit.distributed.job import FillJob, FinishedShard
from ddim_edit.distributed.worker import Worker
from gpu.material import image_folder
from gpu.plan import Case, Row, Setting

READERS = 8
"""Threads that read alone."""
FEW = 4
"""Batches from which no rate is computed: they are written while later ones run."""


class _Sample(NamedTuple):
    """Measured when a batch was done: seconds, images so far, bytes of the process and of the device."""

    at: float
    images: int
    resident: int
    reserved: int


def cases(setting: Setting) -> list[Case]:
    """Return the cases, the fastest dtype first."""
    return [
        Case("bfloat16", partial(_measure_store, setting, "bfloat16", setting.scale.images)),
        Case("all but the network", partial(_without_network, setting)),
        Case("reading alone", partial(_reading, setting)),
        Case("the default dtype", partial(_measure_store, setting, "auto", setting.scale.images // 4)),
    ]


class _WatchedWorker(Worker):
    """A worker with a timer on its model's network, or with another network in its place.

    Attributes:
        network: the timer, once the model is loaded.
        instead: what answers in place of the network.
        writing: seconds of each batch, in a thread of its own.
    """

    network: Watched | None = None

    def __init__(self, job: FillJob, on_batch: Callable[[int], object], instead: Network | None = None) -> None:
        super().__init__(job, on_batch=on_batch)
        self.instead = instead
        self.writing: list[float] = []

    @cached_property
    def editor(self) -> Editor:
        """The editor of the job on the changed model."""
        model = super().editor.model
        if self.instead is not None:
            assert isinstance(model.denoiser, NetworkDenoiser)
            model = replace(model, denoiser=replace(model.denoiser, network=self.instead, low=None))
        else:
            model, self.network = watched(model, Place(str(model.device)))
        return Editor(model, self.job.batch_size)

    def _write(self, found: Any) -> FinishedShard | None:
        start = time.perf_counter()
        written = super()._write(found)
        self.writing.append(time.perf_counter() - start)
        return written


def _measure_store(setting: Setting, dtype: str, count: int) -> Iterator[Row]:
    with _utilization(setting) as busy:
        worker, samples, wall = _fill_store(setting, dtype, f"{dtype}-store", count)
    assert worker.network is not None
    calls = worker.network.seconds()
    last, rate = samples[-1], _rate(samples)
    # How much more the process and the device hold at the end than after a quarter.
    quarter = samples[len(samples) // 4]
    held, more = quarter.resident + quarter.reserved, last.resident + last.reserved
    memory = {
        "process MiB": last.resident / 2**20,
        "device MiB": last.reserved / 2**20,
        "memory grew %": 100 * (more - held) / held,
    }
    # In the first batch graphs are captured. There are more evaluations than steps: images are checked, too.
    each = len(calls) * setting.scale.folder_batch // count
    own = (count - setting.scale.folder_batch) / sum(calls[each:])
    yield {
        "what": f"a store, {worker.editor.model.dtype}",
        "images": last.images,
        "wall s": wall,
        "images a second": rate,
        "the network's own rate": own,
        "of the network's rate %": None if rate is None else 100 * rate / own,
        "network s": sum(calls),
        "writing s": sum(worker.writing),
        "network busy %": 100 * sum(calls) / wall,
        "device busy %": fmean(busy) if busy else None,
        **memory,
    }


def _without_network(setting: Setting) -> Iterator[Row]:
    """Fill a store with a network that answers at once, so that reading, solver and writing are left."""

    def instant(x: Tensor, index: Tensor) -> Tensor:
        return torch.zeros_like(x)

    _, samples, wall = _fill_store(setting, "bfloat16", "instant-store", setting.scale.images, instant)
    yield {
        "what": "all but the network: reading, solver, writing",
        "images": samples[-1].images,
        "wall s": wall,
        "images a second": _rate(samples),
    }


def _reading(setting: Setting) -> Iterator[Row]:
    """Read the images alone, in threads."""
    files, size = images.find([image_folder(setting)]), load_model(setting.model).size
    start = time.perf_counter()
    with ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(lambda file: images.read(file, size).tensor, files):
            pass
    wall = time.perf_counter() - start
    yield {"what": f"reading alone, {READERS} threads", "images": len(files), "wall s": wall,
           "images a second": len(files) / wall}  # fmt: skip


def _fill_store(
    setting: Setting,
    dtype: str,
    name: str,
    count: int,
    instead: Network | None = None,
) -> tuple[_WatchedWorker, list[_Sample], float]:
    """Fill a store of so many images; return the worker, a sample after each batch, and the wall seconds."""
    found = list_images([image_folder(setting)])
    store = setting.folder("stores") / f"{name}.latents"
    job = FillJob(
        root=found.root,
        store=store,
        model=setting.model,
        device=setting.device,
        dtype=dtype,
        batch_size=setting.scale.folder_batch,
        config=InversionConfig(steps=setting.scale.steps),
    )
    samples: list[_Sample] = []

    def take_sample(done: int) -> None:
        images_before = samples[-1].images if samples else 0
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        reserved = torch.cuda.memory_reserved() if setting.device != "cpu" else 0
        samples.append(_Sample(time.perf_counter(), images_before + done, resident, reserved))

    worker = _WatchedWorker(job, take_sample, instead)
    start = time.perf_counter()
    indices = prepare_store(job, found.names[:count])
    for _ in fill_shards(job, indices, lambda _, left: worker.fill_all(left)):
        pass
    return worker, samples, time.perf_counter() - start


def _rate(samples: list[_Sample]) -> float | None:
    """Return images a second from the first batch on, or None for a few batches."""
    first, last = samples[0], samples[-1]
    return (last.images - first.images) / (last.at - first.at) if len(samples) > FEW else None


@contextmanager
def _utilization(setting: Setting) -> Iterator[list[float]]:
    """Measure the share of time with running kernels, sampled from the driver every 0.2 s; empty on a CPU."""
    shares: list[float] = []
    if setting.device == "cpu":
        yield shares
        return
    words = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield shares
    finally:
        process.terminate()
        output, _ = process.communicate()
        shares += [float(line) for line in output.split() if line.replace(".", "").isdigit()]
