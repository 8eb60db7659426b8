"""Find the share of a job that is this process's, from an option or from the environment of a launcher."""

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
        launched: whether a launcher started them all, which may end the others once one fails.
    """

    index: int
    count: int
    local: int
    launched: bool = False


ALONE = Rank(0, 1, 0)
"""A process on its own."""
# Variables with index, count and index on this host: of torchrun, and of a step of srun. The number of tasks is taken
# from the step, which `srun` makes: SLURM_NTASKS is in every shell of an allocation, where a single process that used
# it would do one share, and no process the others.
_LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)


def find_rank(environ: Mapping[str, str], share: str | None = None) -> Rank:
    """Return the rank of this process; whether the others run is not known.

    A share that is given wins, then torchrun, then a step of `srun`; a process on its own is 0 of 1.

    Args:
        environ: as `os.environ`.
        share: "I/N" with I from 0, or None.

    Raises:
        ArgumentError: malformed numbers, or an index that is not below the count.

    Examples:
        >>> find_rank({}, "1/4")
        Rank(index=1, count=4, local=1, launched=False)
    """
    if share is not None:
        index, _, count = share.partition("/")
        rank = _parse_rank(index, count, index)
        if rank is None:
            raise ArgumentError(
                f"A share is I/N with I from 0 to N - 1, as 0/2 and 1/2 for two processes, not {share!r}."
            )
        return rank
    for index, count, local in _LAUNCHERS:
        if index in environ and count in environ:
            if local not in environ:
                local = index
            rank = _parse_rank(environ[index], environ[count], environ[local])
            if rank is None:
                values = ", ".join(f"{name}={environ[name]}" for name in dict.fromkeys((index, count, local)))
                raise ArgumentError(
                    f"The launcher's numbers are malformed: {values}. Unset them, or name the share with --shard I/N."
                )
            return replace(rank, launched=rank.count > 1)
    return ALONE


def _parse_rank(index: str, count: str, local: str) -> Rank | None:
    numbers = index.strip(), count.strip(), local.strip()
    if not all(text.isascii() and text.isdigit() for text in numbers):
        return None
    rank = Rank(int(index), int(count), int(local))
    return rank if rank.index < rank.count else None


def device_for_rank(rank: Rank, device: str, cards: int) -> str:
    """Return the device of a process when several share a host: a card of its own, as long as there are enough.

    Args:
        rank: of this process.
        device: as asked for; one that names a card, or no card at all, stays what it is.
        cards: how many this process can see.

    Examples:
        >>> device_for_rank(Rank(5, 8, 1), "auto", cards=4)
        'cuda:1'
    """
    alone = rank.count == 1 or cards < 2
    return device if alone or device not in ("auto", "cuda") else f"cuda:{rank.local % cards}"
