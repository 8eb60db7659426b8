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

from ddim_edit import Editor, InversionConfig, Model, NetworkDenoiser, images, load_model
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
"""Batches of which a rate is none yet."""


class _Moment(NamedTuple):
    """What was so when a batch was done: seconds, images so far, bytes of the process and of the device."""

    at: float
    images: int
    resident: int
    reserved: int


def cases(setting: Setting) -> list[Case]:
    """Return the cases, the fastest dtype first."""
    return [
        Case("bfloat16", partial(_stored, setting, "bfloat16", setting.scale.images)),
        Case("all but the network", partial(_without_network, setting)),
        Case("reading alone", partial(_reading, setting)),
        Case("the default dtype", partial(_stored, setting, "auto", setting.scale.images // 4)),
    ]


class _WatchedWorker(Worker):
    """A worker with a watch on its model's network, or with another network in its place.

    Attributes:
        network: the watch, once the model is loaded.
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
        model = self._changed(super().editor.model)
        return Editor(model, self.job.batch_size)

    def _write(self, found: Any) -> FinishedShard | None:
        start = time.perf_counter()
        written = super()._write(found)
        self.writing.append(time.perf_counter() - start)
        return written

    def _changed(self, model: Model) -> Model:
        if self.instead is not None:
            assert isinstance(model.denoiser, NetworkDenoiser)
            return replace(model, denoiser=replace(model.denoiser, network=self.instead, low=None))
        model, self.network = watched(model, Place(str(model.device)))
        return model


def _stored(setting: Setting, dtype: str, count: int) -> Iterator[Row]:
    with _utilization(setting) as busy:
        worker, moments, wall = _filled(setting, dtype, f"{dtype}-store", count)
    assert worker.network is not None
    calls, steps = worker.network.seconds(), setting.scale.steps
    last, rate = moments[-1], _rate(moments)
    later = calls[steps:]  # in the first batch graphs are captured
    own = setting.scale.folder_batch * len(later) / steps / sum(later)
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
        **_growth(moments),
    }


def _without_network(setting: Setting) -> Iterator[Row]:
    """Fill a store with a network that answers at once, so that reading, solver and writing are left."""
    _, moments, wall = _filled(setting, "bfloat16", "instant-store", setting.scale.images, _instant)
    yield {
        "what": "all but the network: reading, solver, writing",
        "images": moments[-1].images,
        "wall s": wall,
        "images a second": _rate(moments),
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


def _instant(x: Tensor, index: Tensor) -> Tensor:
    return torch.zeros_like(x)


def _filled(
    setting: Setting,
    dtype: str,
    name: str,
    count: int,
    instead: Network | None = None,
) -> tuple[_WatchedWorker, list[_Moment], float]:
    """Fill a store of so many images; return who did it, what was so after each batch, and the wall seconds."""
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
    moments: list[_Moment] = []
    worker = _WatchedWorker(job, lambda done: moments.append(_moment(setting, moments, done)), instead)
    start = time.perf_counter()
    indices = prepare_store(job, found.names[:count])
    for _ in fill_shards(job, indices, lambda _, left: worker.fill_all(left)):
        pass
    return worker, moments, time.perf_counter() - start


def _moment(setting: Setting, before: list[_Moment], done: int) -> _Moment:
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    reserved = torch.cuda.memory_reserved() if setting.device != "cpu" else 0
    return _Moment(time.perf_counter(), done + (before[-1].images if before else 0), resident, reserved)


def _rate(moments: list[_Moment]) -> float | None:
    """Images a second from the first batch on; of a few batches, which are written behind, nothing can be said."""
    first, last = moments[0], moments[-1]
    return (last.images - first.images) / (last.at - first.at) if len(moments) > FEW else None


def _growth(moments: list[_Moment]) -> Row:
    """How much more memory is held at the end than after a quarter, the process's and the device's together."""
    quarter, last = moments[len(moments) // 4], moments[-1]
    held, more = quarter.resident + quarter.reserved, last.resident + last.reserved
    return {
        "process MiB": last.resident / 2**20,
        "device MiB": last.reserved / 2**20,
        "memory grew %": 100 * (more - held) / held,
    }


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
