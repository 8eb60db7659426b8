"""`RayEngine`: the shards of a store, filled by workers on a Ray cluster.

Ray Data deals the numbers of shards out to a pool of actors, each with a `Worker` of its own, and replaces the dead.
What an actor makes it writes into the store itself; what comes back is the account of it.
"""

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ddim_edit.distributed.job import Filled, Job
from ddim_edit.distributed.worker import Worker
from ddim_edit.errors import ArgumentError, DDIMEditError
from ddim_edit.models.packaged import packaged_models

ATTEMPTS = 4
# What passes between the processes is some kilobytes; this is the least that Ray accepts.
SHARED_MEMORY = 80 * 2**20


@dataclass(frozen=True)
class RayEngine:
    """Fills shards in several processes of one host or of many; cannot make the folders they share.

    Every worker must see the pictures, the model and the store under the same paths, and have this package installed.
    One that dies is replaced, and its shard goes on behind the last batch that was written. All compute with the
    threads of the job, because the number of threads decides the last bits on a CPU.

    Args:
        workers: how many, or None for as many as the cluster has room for now.
        gpus: cards of each, a whole number or a share of one; None for one each where there are any and the job may
            use them, else none.
        cpus: processors reserved for each; None for one a thread, or one beside a card.
        address: of a running cluster, "auto" for the one on this host; None for RAY_ADDRESS, and where that is not
            set either, a cluster that lives on this host as long as the job.

    Raises:
        ArgumentError: numbers that no cluster could have.
    """

    workers: int | None = None
    gpus: float | None = None
    cpus: float | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("processors", self.cpus)):
            if value is not None and value <= 0:
                raise ArgumentError(f"a number of {name} above 0", str(value), "leave it out to have it chosen")
        if self.gpus is not None and (self.gpus < 0 or (self.gpus > 1 and self.gpus % 1)):
            raise ArgumentError("a share of a GPU or a whole number of them", str(self.gpus), "take 1, or 0 for none")

    def __call__(self, job: Job, indices: Sequence[int]) -> Iterator[Filled]:
        """Fill these shards, and tell of each as soon as it is there, in any order.

        Raises:
            DDIMEditError: what a worker raised, or workers that died of one shard again and again.
            OSError: what a worker raised.
            ArgumentError: no Ray here, or no such cards.
        """
        if not indices:
            return
        threads = job.threads or torch.get_num_threads()
        with self._cluster(threads) as ray:
            share = self.share([node["Resources"] for node in ray.nodes() if node["Alive"]], job.device, threads)
            task = (_anywhere(replace(job, device=share.device, threads=threads)), _tally(ray))
            numbers = ray.data.from_items([{"index": index} for index in indices], override_num_blocks=len(indices))
            size = min(share.workers, len(indices))
            pool = ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1)
            resources = {"num_gpus": share.gpus, "num_cpus": share.cpus}
            yield from _outcomes(numbers.map(_Filler, fn_constructor_args=task, compute=pool, **resources))

    def share(self, nodes: Sequence[Mapping[str, float]], device: str, threads: int) -> "Share":
        """What a worker gets of a cluster, and how many there will be.

        Args:
            nodes: "CPU" and "GPU" of each host.
            device: as the job asks.
            threads: of a worker.
        """
        cards = sum(node.get("GPU", 0) for node in nodes)
        gpus = self.gpus if self.gpus is not None else float(cards > 0 and device != "cpu")
        largest = max(1, *(node.get("CPU", 0) for node in nodes))
        cpus = self.cpus or (1 if gpus else min(threads, largest))
        room = sum(int(node.get("GPU", 0) / gpus if gpus else node.get("CPU", 0) / cpus) for node in nodes)
        # Left to itself, a worker without a card of its own would take any that it sees.
        device = "cpu" if device == "auto" and cards and not gpus else device
        return Share(self.workers or max(1, room), gpus, cpus, device)

    @contextmanager
    def _cluster(self, threads: int) -> Iterator[Any]:
        """Ray on a cluster: the one this process is on already, a running one, or our own."""
        address = self.address or os.environ.get("RAY_ADDRESS")
        ray = _ray(alone=not address)
        if ray.is_initialized():
            yield ray
            return
        options = {"address": address} if address else self._own(threads)
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        try:
            cards = ray.cluster_resources().get("GPU", 0)
            if not address and cards < (self.gpus or 0):  # others may grow when they are asked
                raise ArgumentError(f"a host with {self.gpus:g} GPUs", f"one with {cards:g}", "take fewer, or 0")
            yield ray
        finally:
            ray.shutdown()

    def _own(self, threads: int) -> dict[str, Any]:
        # Processors are Ray's word for room: who asks for more workers than there are processors shall have them.
        room = ceil((self.workers or 1) * (self.cpus or threads))
        return {
            "address": "local",
            "num_cpus": max(room, os.cpu_count() or 1),
            "object_store_memory": SHARED_MEMORY,
            "include_dashboard": False,
        }


class Share(NamedTuple):
    """How many workers, the cards and processors of each, and the device it computes on."""

    workers: int
    gpus: float
    cpus: float
    device: str


class _Filler:
    """What an actor runs: fills the shard of a row, and answers with the account of it or with what was raised."""

    def __init__(self, job: Job, tally: Any) -> None:
        self.job, self.tally = job, tally

    @cached_property
    def worker(self) -> Worker:
        return Worker(self.job)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, "_Outcome"]:
        # Ray would make a traceback of an error, and keep of its cause no more than the text.
        try:
            return {"outcome": _Outcome(self._fill(int(row["index"])))}
        except (DDIMEditError, OSError) as error:
            return {"outcome": _Outcome(error)}

    def _fill(self, index: int) -> Filled:
        import ray

        if ray.get(self.tally.begin.remote(index)) > ATTEMPTS:
            given = f"{ATTEMPTS} deaths over shard {index}"
            raise DDIMEditError("workers that live", given, "see Ray's logs for the cause; memory is the usual one")
        return self.worker.fill(index)


@dataclass(frozen=True)
class _Outcome:
    value: Filled | DDIMEditError | OSError


def _tally(ray: Any) -> Any:
    """An actor that counts how often each shard was begun: Ray itself would begin a deadly one for ever."""

    class Tally:  # in here, so that it is sent as a whole and its process need not import torch
        def __init__(self) -> None:
            self.begun: dict[int, int] = {}

        def begin(self, index: int) -> int:
            self.begun[index] = self.begun.get(index, 0) + 1
            return self.begun[index]

    return ray.remote(num_cpus=0)(Tally).remote()


def _outcomes(rows: Any) -> Iterator[Filled]:
    """The accounts, as they come; stops at the first error."""
    # Closed here: left to the garbage collector, it asks for Ray when that is down, which starts it once more.
    with closing(iter(rows.iter_rows())) as coming:
        while True:
            # Ray tells on standard output of workers that died, and that is kept for data.
            with redirect_stdout(sys.stderr):
                row = next(coming, None)
            if row is None:
                return
            value = row["outcome"].value
            if isinstance(value, Exception):
                raise value
            yield value


def _ray(alone: bool) -> Any:
    """The library, quiet.

    Args:
        alone: whether what it starts is for this host only.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if alone:
        # Read when Ray is imported: its servers listen on 127.0.0.1 alone, as they do on Windows and macOS, ...
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        given = f"an installation without ({error.name})"
        raise ArgumentError("Ray, for --engine ray", given, "pip install 'ddim-edit[ray]'") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1  # a shard may well take more than its half hour
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _anywhere(job: Job) -> Job:
    """The job with paths that mean the same in every folder; names of models stay names."""
    model = job.model
    if model is not None and model not in packaged_models() and Path(model).exists():
        model = str(Path(model).absolute())
    return replace(job, root=job.root.absolute(), store=job.store.absolute(), model=model)
