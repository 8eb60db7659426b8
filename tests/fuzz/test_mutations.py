"""Good files with a few bytes changed: they are read, or refused by the package's own errors."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from ddim_edit import Latent, LatentStore, load_model
from ddim_edit.directions import Direction
from ddim_edit.directions.labels import read_csv
from ddim_edit.errors import DDIMEditError
from ddim_edit.images import read, read_recipe
from ddim_edit.latents.provenance import Recipe
from ddim_edit.latents.store.shard import write_shard
from ddim_edit.models.checkpoint_file import read_state_dict

from .. import tiny
from . import bad_images

Read = Callable[[Path], object]
# What a mutation does: (where, as a share of the file; how many bytes go; which bytes come in their place).
MUTATIONS = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from([0, 1, 1, 2, 8, 10**9]), st.binary(max_size=8)), min_size=1, max_size=4
)
RECIPE = Recipe(
    model="m",
    components={"network": "-".join(["ab" * 8, "cd" * 8, "ef" * 8]), "process": "01" * 8},
    schedule={"kind": "linear", "T": 1000},
    prediction="epsilon",
    dtype="float32",
    solver="dpm2m",
    grid="karras",
    times=(1.0, 30.5, 1000.0),
    dequantise=((7, 1.0),),
)
CODE = Latent(torch.ones(3, 4, 4, dtype=torch.float64), 1000.0, RECIPE, report={"converged": True})
FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def mutated(blob: bytes, mutations: list[tuple[float, int, bytes]]) -> bytes:
    for where, gone, come in mutations:
        start = int(where * len(blob))
        blob = blob[:start] + come + blob[start + gone :]
    return blob


def survives(file: Path, blob: bytes, read_it: Read) -> None:
    file.write_bytes(blob)
    with suppress(DDIMEditError, OSError):
        read_it(file)


@FEW
@given(MUTATIONS)
def test_latents(tmp_path: Path, mutations: list[tuple[float, int, bytes]]) -> None:
    CODE.save(tmp_path / "good")
    survives(tmp_path / "a", mutated((tmp_path / "good").read_bytes(), mutations), Latent.load)


@FEW
@given(MUTATIONS)
def test_directions(tmp_path: Path, mutations: list[tuple[float, int, bytes]]) -> None:
    vector = torch.zeros(3, 4, 4, dtype=torch.float64)
    vector[0, 0, 0] = 1
    Direction("old", vector, 0.5, 0.0, 1.0, RECIPE, report={"auc": 0.9, "auc_sd": 0.1}).save(tmp_path / "good")
    survives(tmp_path / "a", mutated((tmp_path / "good").read_bytes(), mutations), Direction.load)


def all_of(store: Path) -> None:
    opened = LatentStore(store)
    list(zip(opened, opened.names, strict=True))


@FEW
@given(MUTATIONS, st.sampled_from(["shard-00000.safetensors", "pictures.jsonl"]))
def test_stores(tmp_path: Path, mutations: list[tuple[float, int, bytes]], file: str) -> None:
    (tmp_path / "store.json").write_text('{"format": 1}')
    (tmp_path / "pictures.jsonl").write_text('["a.png", "b.png"]\n')
    write_shard(tmp_path / "shard-00000.safetensors", {"a.png": CODE, "b.png": replace(CODE, t=30.5)}, {}, (3, 4, 4))
    blob = mutated((tmp_path / file).read_bytes(), mutations)
    survives(tmp_path / file, blob, lambda path: all_of(tmp_path))


@FEW
@given(MUTATIONS, st.sampled_from([None, ">=30", "20..30", "20"]))
def test_labels(tmp_path: Path, mutations: list[tuple[float, int, bytes]], positive: str | None) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
    good = b'file,age,sex\na.png,20,f\n"b.png",60,m\nc.png,,f\n'
    survives(tmp_path / "a.csv", mutated(good, mutations), lambda file: read_csv(file, "age", tmp_path, positive))


@pytest.mark.parametrize("suffix", bad_images.SUFFIXES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(mutations=MUTATIONS)
def test_images(tmp_path: Path, suffix: str, mutations: list[tuple[float, int, bytes]]) -> None:
    blob = mutated(bad_images.good(suffix), mutations)
    survives(tmp_path / f"a.{suffix}", blob, lambda file: read(file, 16))
    survives(tmp_path / f"a.{suffix}", blob, read_recipe)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(MUTATIONS, st.sampled_from(["unet/config.json", "scheduler/scheduler_config.json", f"unet/{tiny.WEIGHTS}"]))
def test_diffusers_folders(
    tmp_path_factory: pytest.TempPathFactory, mutations: list[tuple[float, int, bytes]], file: str
) -> None:
    good, folder = tmp_path_factory.getbasetemp() / "good", tmp_path_factory.getbasetemp() / "mutated"
    if not good.exists():
        tiny.save_model(good)
    shutil.copytree(good, folder, dirs_exist_ok=True)
    survives(folder / file, mutated((good / file).read_bytes(), mutations), lambda path: load_model(folder))


@FEW
@given(MUTATIONS, st.sampled_from([".pt", ".safetensors"]), st.booleans())
def test_checkpoint_files(tmp_path: Path, mutations: list[tuple[float, int, bytes]], suffix: str, zipped: bool) -> None:
    state, file = {"a.weight": torch.ones(3, 3), "b": torch.ones(2)}, tmp_path / f"a{suffix}"
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    good = file.read_bytes() if suffix == ".pt" else save(state)
    survives(file, mutated(good, mutations), read_state_dict)
