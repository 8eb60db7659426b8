"""What a worker gets of a cluster, without one."""

import subprocess
import sys
from pathlib import Path

import pytest

from ddim_edit.distributed.job import Job
from ddim_edit.distributed.ray_engine import RayEngine, Share
from ddim_edit.errors import ArgumentError

TWO_HOSTS = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}]
NO_CARDS = [{"CPU": 16.0}, {"CPU": 4.0}]


def test_left_to_itself_every_card_has_one_worker() -> None:
    assert RayEngine().share(TWO_HOSTS, "auto", threads=16) == Share(8, 1, 1, "auto")


def test_cards_can_be_shared_or_taken_several_at_a_time_but_not_across_hosts() -> None:
    assert RayEngine(gpus=0.5).share(TWO_HOSTS, "cuda", threads=16) == Share(16, 0.5, 1, "cuda")
    assert RayEngine(gpus=3).share(TWO_HOSTS, "cuda", threads=16) == Share(2, 3, 1, "cuda")


def test_without_cards_every_worker_has_a_processor_for_each_of_its_threads() -> None:
    assert RayEngine().share(NO_CARDS, "auto", threads=4) == Share(5, 0, 4, "auto")
    assert RayEngine(cpus=2).share(NO_CARDS, "auto", threads=4) == Share(10, 0, 2, "auto")


def test_more_threads_than_any_host_has_processors_ask_for_a_whole_host() -> None:
    assert RayEngine().share(NO_CARDS, "cpu", threads=64) == Share(1, 0, 16, "cpu")


def test_a_cluster_that_grows_on_demand_is_asked_for_one_worker() -> None:
    assert RayEngine().share([{"CPU": 0.0}], "auto", threads=8) == Share(1, 0, 1, "auto")


def test_a_worker_that_shall_have_no_card_takes_none() -> None:
    assert RayEngine(gpus=0).share(TWO_HOSTS, "auto", threads=8) == Share(4, 0, 8, "cpu")
    assert RayEngine().share(TWO_HOSTS, "cpu", threads=8) == Share(4, 0, 8, "cpu")


def test_as_many_workers_as_asked_for_are_asked_for() -> None:
    assert RayEngine(workers=3).share(TWO_HOSTS, "auto", threads=16).workers == 3


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"cpus": -1}, {"gpus": -0.5}, {"gpus": 1.5}])
def test_numbers_that_no_cluster_could_have_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match=str(next(iter(wrong.values())))):
        RayEngine(**wrong)  # type: ignore[arg-type]


def test_without_ray_one_sentence_says_how_to_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ArgumentError, match=r"wanted Ray.*pip install 'ddim-edit\[ray\]'"):
        list(RayEngine()(Job(tmp_path, tmp_path / "a.latents"), [0]))


def test_nothing_to_do_starts_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert not list(RayEngine()(Job(tmp_path, tmp_path / "a.latents"), []))


def test_ray_is_not_imported_before_it_runs() -> None:
    program = "import sys, ddim_edit.distributed.ray_engine; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
