"""Fill the shards of a store by workers on a Ray cluster.

Ray Data distributes the numbers of shards to a pool of actors, each with a `Worker` of its own, and replaces dead ones.
An actor writes its shard into the store itself, and returns what its header says.
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

from ddim_edit.distributed.job import FillJob, FinishedShard
from ddim_edit.distributed.worker import Worker
from ddim_edit.errors import ArgumentError, DDIMEditError
from ddim_edit.io.extras import import_extra
from ddim_edit.models.packaged import packaged_models

ATTEMPTS = 4
# What passes between the processes is some kilobytes; this is the least that Ray accepts.
SHARED_MEMORY = 80 * 2**20


@dataclass(frozen=True)
class RayEngine:
    """Fills shards in several processes of one host or of many.

    Every worker must see the images, the model and the store under the same paths, and have this package installed.
    One that dies is replaced, and its shard goes on after the last batch that was written. All compute with the
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
                raise ArgumentError(f"The number of {name} must be above 0, not {value}. Leave it out for the default.")
        if self.gpus is not None and (self.gpus < 0 or (self.gpus > 1 and self.gpus % 1)):
            raise ArgumentError(
                f"A worker takes a share of a GPU or a whole number of them, not {self.gpus}. Take 1, or 0 for none."
            )

    def __call__(self, job: FillJob, indices: Sequence[int]) -> Iterator[FinishedShard]:
        """Fill these shards, and yield each as soon as it is there, in any order.

        Raises:
            DDIMEditError: what a worker raised, or workers that died of one shard again and again.
            OSError: what a worker raised.
            MissingExtraError: no Ray.
            ArgumentError: too few cards.
        """
        if not indices:
            return
        threads = job.threads or torch.get_num_threads()
        with self._cluster(threads) as ray:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            share = self.worker_resources(nodes, job.device, threads)
            # Workers run in folders of their own. Names of models stay names.
            model = job.model
            if model is not None and model not in packaged_models() and Path(model).exists():
                model = str(Path(model).absolute())
            absolute = replace(
                job,
                root=job.root.absolute(),
                store=job.store.absolute(),
                model=model,
                device=share.device,
                threads=threads,
            )
            numbers = ray.data.from_items([{"index": index} for index in indices], override_num_blocks=len(indices))
            size = min(share.workers, len(indices))
            pool = ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1)
            resources = {"num_gpus": share.gpus, "num_cpus": share.cpus}
            yield from _results(
                numbers.map(_ShardFiller, fn_constructor_args=(absolute, _make_counter(ray)), compute=pool, **resources)
            )

    def worker_resources(self, nodes: Sequence[Mapping[str, float]], device: str, threads: int) -> "WorkerResources":
        """Return what a worker gets of a cluster, and how many workers there will be.

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
        return WorkerResources(self.workers or max(1, room), gpus, cpus, device)

    @contextmanager
    def _cluster(self, threads: int) -> Iterator[Any]:
        """Connect Ray to a cluster: the one this process is on already, a running one, or one of its own."""
        address = self.address or os.environ.get("RAY_ADDRESS")
        ray = _import_ray(local=not address)
        if ray.is_initialized():
            yield ray
            return
        options: dict[str, Any] = {"address": address}
        if not address:
            # Ray admits as many workers as there are processors, so enough of them are declared for all that are asked.
            room = ceil((self.workers or 1) * (self.cpus or threads))
            options = {
                "address": "local",
                "num_cpus": max(room, os.cpu_count() or 1),
                "object_store_memory": SHARED_MEMORY,
                "include_dashboard": False,
            }
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        try:
            cards = ray.cluster_resources().get("GPU", 0)
            if not address and cards < (self.gpus or 0):  # clusters of others may grow on demand
                raise ArgumentError(f"This host has {cards:g} GPUs, not {self.gpus:g}. Take fewer, or 0.")
            yield ray
        finally:
            ray.shutdown()


class WorkerResources(NamedTuple):
    """How many workers, the cards and processors of each, and the device it computes on."""

    workers: int
    gpus: float
    cpus: float
    device: str


class _ShardFiller:
    """What an actor runs: fills the shard of a row, and returns the finished shard or the error."""

    def __init__(self, job: FillJob, counter: Any) -> None:
        self.job = job
        self.counter = counter

    @cached_property
    def worker(self) -> Worker:
        return Worker(self.job)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, "_Result"]:
        import ray

        index = int(row["index"])
        # Errors are returned: Ray would make a traceback of them, and keep of their causes no more than the text.
        try:
            if ray.get(self.counter.count.remote(index)) > ATTEMPTS:
                raise DDIMEditError(
                    f"{ATTEMPTS} workers died while filling shard {index}. See Ray's logs for the cause; memory is "
                    "the usual one."
                )
            return {"outcome": _Result(self.worker.fill(index))}
        except (DDIMEditError, OSError) as error:
            return {"outcome": _Result(error)}


@dataclass(frozen=True)
class _Result:
    value: FinishedShard | DDIMEditError | OSError


def _make_counter(ray: Any) -> Any:
    """Return an actor that counts the attempts at each shard; Ray itself would retry a deadly one for ever."""

    class AttemptCounter:  # a local class, so that Ray sends it by value and its process need not import torch
        def __init__(self) -> None:
            self.attempts: dict[int, int] = {}

        def count(self, index: int) -> int:
            self.attempts[index] = self.attempts.get(index, 0) + 1
            return self.attempts[index]

    return ray.remote(num_cpus=0)(AttemptCounter).remote()


def _results(rows: Any) -> Iterator[FinishedShard]:
    """Yield finished shards as they come; raise the first error."""
    # Closed here: the garbage collector would do it when Ray is down, which would start it once more.
    with closing(iter(rows.iter_rows())) as coming:
        while True:
            # Ray reports dead workers on standard output, which is kept for data.
            with redirect_stdout(sys.stderr):
                row = next(coming, None)
            if row is None:
                return
            value = row["outcome"].value
            if isinstance(value, Exception):
                raise value
            yield value


def _import_ray(local: bool) -> Any:
    """Return Ray, without telemetry, progress bars and logs.

    Args:
        local: whether a cluster that it starts is for this host only.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if local:
        # Read when Ray is imported: its servers then listen on 127.0.0.1 alone, as they do on Windows and macOS.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray = import_extra("ray", "ray", "--engine ray")
    import_extra("ray.data", "ray", "--engine ray")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1  # a shard may take more than the default of half an hour
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray
