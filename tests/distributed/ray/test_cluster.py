"""Stores that workers on a real Ray cluster of this host fill, held against those that one process fills."""

import gc
import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import GeneratorType

import pytest

from ddim_edit.config import InversionConfig
from ddim_edit.distributed import list_images
from ddim_edit.distributed.filling import fill_shards, local_engine, prepare_store
from ddim_edit.distributed.job import FillJob
from ddim_edit.distributed.ray_engine import RayEngine
from ddim_edit.errors import DDIMEditError, ModelError
from ddim_edit.images import CentreSquare
from ddim_edit.images.crop import Placement

from ... import tiny
from ...waiting import HANG, wait_until
from ..conftest import bytes_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),  # Ray's own, of its own settings
]

SHARD, BATCH = 8, 2
# Ray's own limits, for which a busy machine may be too slow.
LIMITS = ("raylet_start_wait_time_s", "worker_register_timeout_seconds", "gcs_server_request_timeout_seconds")
PATIENT = {f"RAY_{limit}": f"{HANG:.0f}" for limit in LIMITS}
NAMES = [f"{index:02}.png" for index in range(20)]
MORE = [f"{index:02}.png" for index in range(20, 60)]
"""For the run that is interrupted."""
BROKEN = NAMES[13]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and pictures, one of which is none."""
    folder = tmp_path_factory.mktemp("ray")
    tiny.save_model(folder / "tiny")
    for index, name in enumerate([*NAMES, *MORE]):
        tiny.save_picture(folder / "pictures" / name, index)
    (folder / "pictures" / BROKEN).write_text("no picture")
    return folder


def job_in(folder: Path, name: str, **changes: object) -> FillJob:
    job = FillJob(
        folder / "pictures",
        folder / name,
        str(folder / "tiny"),
        "cpu",
        batch_size=BATCH,
        config=InversionConfig(steps=6),
    )
    return replace(job, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def alone(here: Path) -> dict[str, bytes]:
    """What one process makes."""
    job = job_in(here, "alone.latents")
    list(fill_shards(job, prepare_store(job, NAMES, SHARD), local_engine))
    return bytes_of(job.store)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster for several tests, which engines find running and leave so."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in PATIENT.items():
            patch.setenv(name, value)
        import ray

        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        assert ray.is_initialized()
        ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_errors_are_those_of_one_process(here: Path) -> None:
    job = job_in(here, "none.latents", model=str(here / "nothing"))
    indices = prepare_store(job, NAMES, SHARD)
    told = []
    for engine in (local_engine, RayEngine(workers=1)):
        with pytest.raises(ModelError) as error:
            list(fill_shards(job, indices, engine))
        told.append(str(error.value))
        assert unfinished_reads() == []  # with the error still held, and its frames
    assert told[0] == told[1]


@pytest.mark.usefixtures("cluster")
def test_two_workers_one_of_them_killed_and_replaced_write_same_bytes_as_one_process(
    here: Path, alone: dict[str, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    killed = tmp_path / "killed"
    placed = []

    # A class of this function is sent as a whole: workers cannot import tests.
    class DeadlyOnce(CentreSquare):
        def place(self, width: int, height: int, target: tuple[int, int]) -> Placement:
            placed.append(width)
            if len(placed) > 2 * BATCH and not killed.exists():  # in the middle of a shard
                killed.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return super().place(width, height, target)

    job = job_in(here, "killed.latents", crop=DeadlyOnce())
    found = fill_shards(job, prepare_store(job, NAMES, SHARD), RayEngine(workers=2))
    done = sorted(found, key=lambda filled: filled.index)
    assert bytes_of(job.store) == alone
    assert [filled.index for filled in done] == list(range(3))
    assert [filled.rows for filled in done] == [8, 7, 4]
    assert [list(filled.failures) for filled in done] == [[], [BROKEN], []]
    out, err = capfd.readouterr()
    assert f"Worker PID: {killed.read_text()}" in err
    assert not out  # which is kept for data


@pytest.mark.usefixtures("cluster")
def test_shard_that_kills_every_worker_ends_run(here: Path) -> None:
    # A class of this function is sent as a whole: workers cannot import tests.
    class Deadly(CentreSquare):
        def place(self, width: int, height: int, target: tuple[int, int]) -> Placement:
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

    job = job_in(here, "deadly.latents", crop=Deadly())
    with pytest.raises(DDIMEditError, match="4 workers died while filling shard 0"):
        list(fill_shards(job, prepare_store(job, NAMES[:SHARD], SHARD), RayEngine(workers=1)))


def unfinished_reads() -> list[str]:
    """Ray's own iterators that nobody has closed: collected when Ray is down, they would start it anew."""
    alive = [each for each in gc.get_objects() if type(each) is GeneratorType]  # proxies would answer isinstance
    suspended = [each for each in alive if inspect.getgeneratorstate(each) == inspect.GEN_SUSPENDED]
    return [each.__qualname__ for each in suspended if "iter_batches" in each.__qualname__]


def descendants(pid: int) -> list[int]:
    """Processes below one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    below, found = {pid}, set[int]()
    while below := {child for child, parent in parents.items() if parent in below} - found:
        found |= below
    return sorted(found)


STEPS = 100
"""Enough to interrupt a run in the middle of a shard."""


def invert_with_ray(here: Path, name: str) -> subprocess.Popen[str]:
    """Start `ddim-edit invert --engine ray` on a cluster of its own, in a folder with relative paths."""
    line = ["invert", "pictures", "-o", name, "--model", "tiny", "--device", "cpu", "--steps", str(STEPS), "--json"]
    line += ["--shard-size", str(SHARD), "--batch-size", str(BATCH), "--engine", "ray", "--workers", "2"]
    line += ["--dtype", "fp32"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-m", "ddim_edit", *line],
        cwd=here,
        env=env | PATIENT | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_interrupted_run_leaves_no_process_and_is_finished_without_ray(here: Path) -> None:
    job = job_in(here, "interrupted.latents", config=InversionConfig(steps=STEPS), threads=1)
    with invert_with_ray(here, "interrupted.latents") as process:
        # Both workers are in the middle of a shard: some of its batches are there and others are not.
        wait_until(lambda: len({path.parent for path in job.store.glob("parts/*/batch-*")}) >= 2, process)
        started = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=HANG)
    assert process.returncode == 130, err
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))

    left = prepare_store(job, list_images([job.root]).names, SHARD)[:1]
    list(fill_shards(job, left, local_engine))
    undisturbed = replace(job, store=here / "undisturbed.latents")
    prepare_store(undisturbed, list_images([job.root]).names, SHARD)
    list(fill_shards(undisturbed, left, local_engine))
    wanted = bytes_of(undisturbed.store)
    assert f"shard-{left[0]:05}.safetensors" in wanted
    assert wanted.items() <= bytes_of(job.store).items()
