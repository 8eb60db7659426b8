"""Which share of a job a process takes, and which card."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ddim_edit.distributed.ranks import Rank, device_of, rank_of
from ddim_edit.errors import ArgumentError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SRUN = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6", "SLURM_LOCALID": "2", "SLURM_NTASKS": "6"}


def test_a_process_of_its_own_does_everything() -> None:
    assert rank_of({}) == Rank(0, 1, 0)


def test_what_is_asked_by_hand_wins_over_torchrun_which_wins_over_slurm() -> None:
    assert rank_of(TORCHRUN | SRUN, "1/2") == Rank(1, 2, 1)
    assert rank_of(TORCHRUN | SRUN) == Rank(3, 8, 1, launched=True)
    assert rank_of(SRUN) == Rank(5, 6, 2, launched=True)


def test_where_a_launcher_gives_no_local_number_the_index_stands_for_it() -> None:
    assert rank_of({"RANK": "3", "WORLD_SIZE": "8"}) == Rank(3, 8, 3, launched=True)


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
def test_half_a_launcher_or_an_allocation_without_a_step_is_a_process_of_its_own(environ: dict[str, str]) -> None:
    assert rank_of(environ) == Rank(0, 1, 0)


@given(st.integers(1, 64).flatmap(lambda count: st.tuples(st.integers(0, count - 1), st.just(count))))
def test_every_share_of_every_count_can_be_asked_for(share: tuple[int, int]) -> None:
    index, count = share
    assert rank_of({}, f"{index}/{count}") == Rank(index, count, index)


@given(st.text())
def test_whatever_else_is_asked_for_is_refused_in_one_sentence(asked: str) -> None:
    assume(re.fullmatch(r"\s*[0-9]+\s*/\s*[0-9]+\s*", asked) is None)
    with pytest.raises(ArgumentError, match=r"\Awanted .*: as in 0/2 and 1/2 for two of them\Z"):
        rank_of({}, asked)


@pytest.mark.parametrize("asked", ["", "2", "2/2", "3/2", "-1/2", "1/0", "a/b", "0.5/2", "1/2/3", "²/3", "/2", "1/"])
def test_a_share_that_is_none_is_refused(asked: str) -> None:
    with pytest.raises(ArgumentError, match=r"wanted a share I/N with I from 0 to N - 1, was given '.*': as in 0/2"):
        rank_of({}, asked)


@pytest.mark.parametrize(
    "wrong", [{"RANK": "8"}, {"RANK": "-1"}, {"WORLD_SIZE": "many"}, {"LOCAL_RANK": ""}, {"WORLD_SIZE": "0"}]
)
def test_a_launcher_that_contradicts_itself_is_refused_by_its_names(wrong: dict[str, str]) -> None:
    with pytest.raises(ArgumentError, match=r"RANK=.*, WORLD_SIZE=.*, LOCAL_RANK=.*: unset them"):
        rank_of(TORCHRUN | wrong)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_processes_of_one_host_take_its_cards_in_turn(device: str) -> None:
    devices = [device_of(Rank(local, 5, local), device, 4) for local in range(5)]
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
def test_a_device_that_was_named_or_needs_no_choice_stays(rank: Rank, device: str, count: int) -> None:
    assert device_of(rank, device, count) == device
