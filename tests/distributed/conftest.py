from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ddim_edit import InversionConfig
from ddim_edit.distributed import list_images
from ddim_edit.distributed.filling import fill_shards, local_engine, prepare_store
from ddim_edit.distributed.job import FillJob, FinishedShard

from .. import tiny

Fill = Callable[..., list[FinishedShard]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 0.png to 9.png."""
    for seed in range(10):
        tiny.save_picture(tmp_path / "in" / f"{seed}.png", seed)
    return tmp_path / "in"


@pytest.fixture
def job(model: Path, pictures: Path, tmp_path: Path) -> FillJob:
    """Batches of two, on the CPU, in few steps."""
    method = InversionConfig(solver="ddim", steps=3)
    return FillJob(pictures, tmp_path / "out.latents", str(model), device="cpu", batch_size=2, config=method)


@pytest.fixture
def filled(job: FillJob) -> Fill:
    """Fills a store as the command does, with some entries of the job replaced."""

    def fill_it(shard_size: int = 4, **changes: object) -> list[FinishedShard]:
        changed = replace(job, **changes)  # type: ignore[arg-type]
        return list(
            fill_shards(changed, prepare_store(changed, list_images([changed.root]).names, shard_size), local_engine)
        )

    return fill_it


def bytes_of(folder: Path) -> dict[str, bytes]:
    """What every file below a folder holds, hidden ones too, and the names of its folders."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}
