"""Which share of a job is this process's, as the launcher of several of them says in the environment."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ddim_edit.errors import ArgumentError


@dataclass(frozen=True)
class Rank:
    """One process among several that do one job.

    Attributes:
        index: which one this is, from 0.
        count: how many there are.
        local: which one of those on this host it is, from 0.
        launched: whether a launcher started them all, which may end the others once one leaves with a status but 0.
    """

    index: int
    count: int
    local: int
    launched: bool = False


@dataclass(frozen=True)
class _Launcher:
    """What a program that starts several processes tells each of them, by the names of its variables."""

    index: str
    count: str
    local: str

    def started(self, environ: Mapping[str, str]) -> bool:
        return self.index in environ and self.count in environ

    def rank(self, environ: Mapping[str, str]) -> Rank:
        local = self.local if self.local in environ else self.index
        numbers = {name: environ[name] for name in (self.index, self.count, local)}
        rank = _rank(environ[self.index], environ[self.count], environ[local])
        if rank is None:
            wanted = f"numbers of a launcher, {self.index} below {self.count}"
            given = ", ".join(f"{name}={value}" for name, value in numbers.items())
            raise ArgumentError(wanted, given, "unset them, or name the share with --shard I/N")
        return replace(rank, launched=rank.count > 1)


# The number of tasks is taken from the step, which `srun` makes. SLURM_NTASKS is in every shell of an allocation, where
# one process that believed it would do one share and nobody the others.
_LAUNCHERS = (
    _Launcher("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    _Launcher("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)


def rank_of(environ: Mapping[str, str], asked: str | None = None) -> Rank:
    """The rank of this process; cannot tell whether the others run.

    What is asked for by hand wins, then torchrun, then a step of `srun`; a process of its own is 0 of 1.

    Args:
        environ: as `os.environ`.
        asked: "I/N" with I from 0, or None.

    Raises:
        ArgumentError: numbers that are none, or an index that is not below the count.
    """
    if asked is not None:
        index, _, count = asked.partition("/")
        rank = _rank(index, count, index)
        if rank is None:
            raise ArgumentError("a share I/N with I from 0 to N - 1", repr(asked), "as in 0/2 and 1/2 for two of them")
        return rank
    started = (launcher.rank(environ) for launcher in _LAUNCHERS if launcher.started(environ))
    return next(started, Rank(0, 1, 0))


def device_of(rank: Rank, device: str, count: int) -> str:
    """The device a process takes when several share a host: a card of its own, as long as there are enough.

    Args:
        rank: of this process.
        device: as asked for; one that names a card, or no card at all, stays what it is.
        count: how many cards this process can see.
    """
    alone = rank.count == 1 or count < 2
    return device if alone or device not in ("auto", "cuda") else f"cuda:{rank.local % count}"


def _rank(index: str, count: str, local: str) -> Rank | None:
    numbers = index.strip(), count.strip(), local.strip()
    if not all(text.isascii() and text.isdigit() for text in numbers):
        return None
    rank = Rank(int(index), int(count), int(local))
    return rank if rank.index < rank.count else None
