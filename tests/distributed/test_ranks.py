"""Which share of a job a process takes, and which card."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ddim_edit.distributed.ranks import Rank, device_for_rank, find_rank
from ddim_edit.errors import ArgumentError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SRUN = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6", "SLURM_LOCALID": "2", "SLURM_NTASKS": "6"}


def test_single_process_has_all_shards() -> None:
    assert find_rank({}) == Rank(0, 1, 0)


def test_precedence_is_option_torchrun_slurm() -> None:
    assert find_rank(TORCHRUN | SRUN, "1/2") == Rank(1, 2, 1)
    assert find_rank(TORCHRUN | SRUN) == Rank(3, 8, 1, launched=True)
    assert find_rank(SRUN) == Rank(5, 6, 2, launched=True)


def test_index_replaces_a_missing_local_rank() -> None:
    assert find_rank({"RANK": "3", "WORLD_SIZE": "8"}) == Rank(3, 8, 3, launched=True)


@pytest.mark.parametrize(
    "environ",
    [
        {"RANK": "3"},
        {"WORLD_SIZE": "8"},
        {"LOCAL_RANK": "1"},
        {"SLURM_NTASKS": "4"},  # a shell of salloc
        {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4"},  # a script of sbatch
        {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"},  # srun --pty
    ],
)
def test_incomplete_launchers_and_allocations_are_one_process(environ: dict[str, str]) -> None:
    assert find_rank(environ) == Rank(0, 1, 0)


@given(st.integers(1, 64).flatmap(lambda count: st.tuples(st.integers(0, count - 1), st.just(count))))
def test_valid_shares_are_parsed(share: tuple[int, int]) -> None:
    index, count = share
    assert find_rank({}, f"{index}/{count}") == Rank(index, count, index)


@given(st.text())
def test_invalid_texts_are_refused(asked: str) -> None:
    assume(re.fullmatch(r"\s*[0-9]+\s*/\s*[0-9]+\s*", asked) is None)
    with pytest.raises(ArgumentError, match=r"\AA share is I/N .*, not [^\n]*\.\Z"):
        find_rank({}, asked)


@pytest.mark.parametrize("asked", ["", "2", "2/2", "3/2", "-1/2", "1/0", "a/b", "0.5/2", "1/2/3", "²/3", "/2", "1/"])
def test_malformed_shares_are_refused(asked: str) -> None:
    with pytest.raises(ArgumentError, match=r"A share is I/N with I from 0 to N - 1, as 0/2"):
        find_rank({}, asked)


@pytest.mark.parametrize(
    "wrong", [{"RANK": "8"}, {"RANK": "-1"}, {"WORLD_SIZE": "many"}, {"LOCAL_RANK": ""}, {"WORLD_SIZE": "0"}]
)
def test_contradicting_launchers_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ArgumentError, match=r"RANK=.*, WORLD_SIZE=.*, LOCAL_RANK=.*. Unset them"):
        find_rank(TORCHRUN | wrong)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_ranks_are_assigned_gpus_in_turn(device: str) -> None:
    devices = [device_for_rank(Rank(local, 5, local), device, 4) for local in range(5)]
    assert devices == ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:0"]


@pytest.mark.parametrize(
    ("rank", "device", "count"),
    [
        (Rank(0, 1, 0), "auto", 4),  # nobody to share with
        (Rank(1, 2, 1), "auto", 1),  # one card, or the one that SLURM let this process see
        (Rank(1, 2, 1), "auto", 0),
        (Rank(1, 2, 1), "cpu", 4),
        (Rank(1, 2, 1), "cuda:3", 4),
    ],
)
def test_named_device_is_kept(rank: Rank, device: str, count: int) -> None:
    assert device_for_rank(rank, device, count) == device
