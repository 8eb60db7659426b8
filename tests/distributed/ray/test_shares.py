"""What a worker gets of a cluster, without one."""

import subprocess
import sys
from pathlib import Path

import pytest

from ddim_edit.distributed.job import FillJob
from ddim_edit.distributed.ray_engine import RayEngine, WorkerResources
from ddim_edit.errors import ArgumentError, MissingExtraError

TWO_HOSTS = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}]
NO_CARDS = [{"CPU": 16.0}, {"CPU": 4.0}]


def test_default_is_one_worker_per_gpu() -> None:
    assert RayEngine().worker_resources(TWO_HOSTS, "auto", threads=16) == WorkerResources(8, 1, 1, "auto")


def test_gpus_can_be_shared_or_combined_within_a_host() -> None:
    assert RayEngine(gpus=0.5).worker_resources(TWO_HOSTS, "cuda", threads=16) == WorkerResources(16, 0.5, 1, "cuda")
    assert RayEngine(gpus=3).worker_resources(TWO_HOSTS, "cuda", threads=16) == WorkerResources(2, 3, 1, "cuda")


def test_workers_without_gpus_reserve_a_processor_per_thread() -> None:
    assert RayEngine().worker_resources(NO_CARDS, "auto", threads=4) == WorkerResources(5, 0, 4, "auto")
    assert RayEngine(cpus=2).worker_resources(NO_CARDS, "auto", threads=4) == WorkerResources(10, 0, 2, "auto")


def test_too_many_threads_reserve_a_whole_host() -> None:
    assert RayEngine().worker_resources(NO_CARDS, "cpu", threads=64) == WorkerResources(1, 0, 16, "cpu")


def test_growing_cluster_starts_with_one_worker() -> None:
    assert RayEngine().worker_resources([{"CPU": 0.0}], "auto", threads=8) == WorkerResources(1, 0, 1, "auto")


def test_worker_with_zero_gpus_uses_the_cpu() -> None:
    assert RayEngine(gpus=0).worker_resources(TWO_HOSTS, "auto", threads=8) == WorkerResources(4, 0, 8, "cpu")
    assert RayEngine().worker_resources(TWO_HOSTS, "cpu", threads=8) == WorkerResources(4, 0, 8, "cpu")


def test_worker_count_option_is_used() -> None:
    assert RayEngine(workers=3).worker_resources(TWO_HOSTS, "auto", threads=16).workers == 3


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"cpus": -1}, {"gpus": -0.5}, {"gpus": 1.5}])
def test_impossible_resources_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match=str(next(iter(wrong.values())))):
        RayEngine(**wrong)  # type: ignore[arg-type]


def test_missing_ray_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"--engine ray needs ray.*pip install 'ddim-edit\[ray\]'"):
        list(RayEngine()(FillJob(tmp_path, tmp_path / "a.latents"), [0]))


def test_no_shards_start_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert not list(RayEngine()(FillJob(tmp_path, tmp_path / "a.latents"), []))


def test_ray_is_not_imported_before_it_runs() -> None:
    program = "import sys, ddim_edit.distributed.ray_engine; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
