"""Stores: inverting very many pictures into one folder of shards, by one process or several."""

import functools
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ddim_edit import ArgumentError

from .files import Place, claim, save_picture, untaken
from .options import Command, stack
from .session import Session

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit import Latent, LatentStore
    from ddim_edit.distributed.job import Engine, Filled, Job
    from ddim_edit.distributed.listing import Listing
    from ddim_edit.distributed.ranks import Rank

STORE, SETTINGS = ".latents", "store.json"
_GIVEN_TO_RAY = ("workers", "gpus_per_worker")


def _share(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    numbers = re.fullmatch(r"(\d{1,9})/([1-9]\d{0,8})", value or "0/1")
    if numbers is None or int(numbers[1]) >= int(numbers[2]):
        raise click.BadParameter(f"{value!r} is not I/N with I from 0 to N - 1, as in 0/2 and 1/2.")
    return value


def with_filling(command: Command) -> Command:
    """Hand the command a `filling`: how a store is filled, as plain data; only of what was asked for."""
    names = ("shard_size", "shard", "engine", *_GIVEN_TO_RAY)

    @functools.wraps(command)
    def wrapped(*args: Any, output: Path, **rest: Any) -> Any:
        filling = {name: value for name in names if (value := rest.pop(name)) is not None}
        if filling and output.suffix != STORE:
            flag = next(iter(filling)).replace("_", "-")
            raise click.UsageError(f"--{flag} is for a store, an output whose name ends in {STORE}.")
        for name in _GIVEN_TO_RAY:
            if name in filling and filling.get("engine") != "ray":
                raise click.UsageError(f"--{name.replace('_', '-')} goes with --engine ray.")
        if filling.get("engine") == "ray" and "shard" in filling:
            raise click.UsageError("--shard and --engine ray exclude each other.")
        return command(*args, output=output, filling=filling, **rest)

    return stack(
        wrapped,
        click.option("--shard-size", type=click.IntRange(1), metavar="N", help="Latents in a file of a store. [512]"),
        click.option(
            "--shard", callback=_share, metavar="I/N", help="Fill every N-th shard of a store from the I-th on, from 0."
        ),
        click.option("--engine", type=click.Choice(list(ENGINES)), help="Who fills a store. [local: this process]"),
        click.option("--workers", type=click.IntRange(1), metavar="N", help="Processes of --engine ray. [all it has]"),
        click.option(
            "--gpus-per-worker", type=click.FloatRange(0), metavar="F", help="GPUs of each, 0.5 for half of one."
        ),
    )


def fill_store(
    session: Session,
    images: Sequence[Path],
    output: Path,
    overwrite: bool,
    filling: Mapping[str, Any],
    **how: Any,
) -> None:
    """Invert pictures into a store, or go on with one; `how` is the method and the crop of a `Job`."""
    from ddim_edit.distributed import listing
    from ddim_edit.distributed.running import begin, sizes

    rank = _rank(filling)
    found = listing(images, session.survive)
    if overwrite:
        _clear(output, rank)
    if not found.names:
        return
    size = sizes(output, session.device, session.batch_size, filling.get("shard_size"))
    session.expect(len(found.names) * 2 * how["config"].steps)
    job = _job(session, output, found, rank, batch_size=size.batch, threads=size.threads, **how)
    _run(session, job, begin(job, found.names, size.shard, rank), filling, output)
    if rank.launched:
        session.failures = 0  # a launcher would end the other processes for a picture that this one could not read


def is_store(path: Path) -> bool:
    """Whether a path is a store of latents."""
    return (path / SETTINGS).is_file()


def decode_store(session: Session, path: Path, place: Place, force: bool, condition: Mapping[str, Any]) -> None:
    """Decode every latent of a store, a batch at a time, into pictures that are named as those it was made from."""
    from ddim_edit import LatentStore
    from ddim_edit.io.prefetch import prefetch_map

    store = LatentStore(path)
    if not store:
        return
    session.dtype = store.recipe.dtype if session.dtype == "auto" else session.dtype
    session.editor.require_own(store[0], force)
    # Pictures are written in threads, while the next ones go through the network.
    for one, written in prefetch_map(
        _write, _decoded(session, store, place, force, condition), session.editor.batch_size
    ):
        with session.survive(one.name):
            written()
            session.emit({"input": f"{path}/{one.name}", "output": str(one.target)}, one.target)


class _Decoded(NamedTuple):
    """A picture of a store's latent, on its way to its file."""

    name: str
    target: Path
    overwrite: bool
    picture: "Tensor"
    latent: "Latent"
    metadata: bool


def _decoded(
    session: Session, store: "LatentStore", place: Place, force: bool, condition: Mapping[str, Any]
) -> Iterator[_Decoded]:
    taken = set[str]()
    for rows in session.batches(range(len(store)), "latents", len(store)):
        latents = [store[row] for row in rows]
        latents = [latent.with_condition(replace(latent.recipe.condition, **condition)) for latent in latents]
        for row, latent, picture in zip(rows, latents, session.editor.decode(latents, force), strict=True):
            stem = untaken(str(Path(store.names[row]).with_suffix("")), taken)
            target = place.folder / f"{stem}{place.suffix}"
            yield _Decoded(store.names[row], target, place.overwrite, picture, latent, session.metadata)


def _write(one: _Decoded) -> None:
    save_picture(claim(one.target, frozenset(), one.overwrite), one.picture, one.latent, one.metadata)


def _rank(filling: Mapping[str, Any]) -> "Rank":
    from ddim_edit.distributed.ranks import rank_of

    return rank_of({} if filling.get("engine") == "ray" else os.environ, filling.get("shard"))


def _clear(output: Path, rank: "Rank") -> None:
    from ddim_edit.latents.store.files import StoreFiles

    if rank.count > 1:
        wanted = "one process that overwrites a store"
        raise ArgumentError(wanted, f"{rank.count} of them", "remove it first, or use another name")
    StoreFiles(output).remove()


def _job(session: Session, output: Path, found: "Listing", rank: "Rank", **how: Any) -> "Job":
    import torch

    from ddim_edit.distributed.job import Job
    from ddim_edit.distributed.ranks import device_of

    return Job(
        root=found.root,
        store=output.absolute(),
        model=session.model,
        device=device_of(rank, session.device, torch.cuda.device_count()),
        dtype=session.settled_dtype,
        size=session.size,
        offline=session.offline,
        compiled=session.compiled,
        **how,
    )


def _run(session: Session, job: "Job", mine: Sequence[int], filling: Mapping[str, Any], output: Path) -> None:
    """Have shards filled, tell of each, and at the end of every picture that failed."""
    from ddim_edit.distributed.running import fill

    rows, failures = 0, dict[str, str]()
    with _progress(session, job, mine) as progress:
        engine = ENGINES[filling.get("engine", "local")](session, filling, progress)
        for filled in fill(job, mine, engine):
            progress.finish(filled)
            rows += filled.rows
            failures.update(filled.failures)
            _tell(session, output, filled)
    for name, reason in failures.items():
        session.failures += 1
        click.echo(f"error: {name}: {reason}", err=True)
    failed = f", and {len(failures):,} failed" if failures else ""
    session.note(f"{output.name}: {rows:,} latents in {len(mine):,} shards{failed}")


def _tell(session: Session, output: Path, filled: "Filled") -> None:
    from ddim_edit.latents.store.files import StoreFiles

    file = StoreFiles(output).shard(filled.index)
    if filled.unconverged:
        session.warn(f"{file.name}: {filled.unconverged:,} pictures did not converge, so their best codes were kept")
    session.emit({"shard": filled.index, "rows": filled.rows, "failures": dict(filled.failures)}, file)


class _Progress:
    """How many pictures are done, how fast, and how long it will take: a bar where somebody looks, else notes."""

    def __init__(self, session: Session, counts: Mapping[int, int], bar: Any) -> None:
        self._session, self._counts, self._bar = session, counts, bar
        self._done, self._total, self._start = 0, sum(counts.values()), time.monotonic()

    def advance(self, pictures: int) -> None:
        """So many more are done, in a shard that is not finished yet."""
        self._bar.update(pictures)

    def finish(self, filled: "Filled") -> None:
        """A shard is finished; of those that were there before nothing is said."""
        if filled.index not in self._counts:
            return
        self._done += self._counts[filled.index]
        self._bar.update(self._done - self._bar.n)
        self._bar.clear()  # what is told of the shard comes where it was
        if self._bar.disable:
            self._session.note(f"shard {filled.index}: {self._done:,} of {self._total:,} pictures{self._pace()}")

    def pause(self) -> None:
        """Make room for something that is said beside the bar."""
        self._bar.clear()

    def _pace(self) -> str:
        rate = self._done / max(time.monotonic() - self._start, 1e-9)
        left = self._bar.format_interval((self._total - self._done) / rate)
        return f", {rate:.3g} a second, {left} left"


@contextmanager
def _progress(session: Session, job: "Job", mine: Sequence[int]) -> Iterator[_Progress]:
    from tqdm import tqdm

    from ddim_edit.distributed.running import finished
    from ddim_edit.latents.store.files import ShardPlan, StoreFiles

    plan, there = ShardPlan(StoreFiles(job.store).plan), set(finished(job, mine))
    counts = {index: len(plan[index]) for index in mine if index not in there}
    hidden = session.quiet or not sys.stderr.isatty()
    with tqdm(total=sum(counts.values()), unit=" pictures", disable=hidden, leave=False) as bar:
        yield _Progress(session, counts, bar)


def _local(session: Session, filling: Mapping[str, Any], progress: "_Progress") -> "Engine":
    from ddim_edit.distributed.job import Filled, Job
    from ddim_edit.distributed.worker import Worker

    def engine(job: Job, indices: Sequence[int]) -> Iterator[Filled]:
        worker = Worker(job, on_batch=progress.advance)
        model = worker.editor.model
        progress.pause()
        session.describe(model)
        return worker.fill_all(indices)

    return engine


def _ray(session: Session, filling: Mapping[str, Any], progress: "_Progress") -> "Engine":
    from ddim_edit.distributed.ray_engine import RayEngine

    return RayEngine(filling.get("workers"), filling.get("gpus_per_worker"))


ENGINES: Mapping[str, Callable[[Session, Mapping[str, Any], _Progress], "Engine"]] = {"local": _local, "ray": _ray}
