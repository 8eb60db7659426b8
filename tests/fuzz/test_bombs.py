"""Files that claim to be vast: refused before memory is taken for them, and none of them runs anything."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .. import tiny
from . import bad_images
from .kit import WEIGHTS
from .spoiling import TENSORS, with_header
from .test_mutations import CODE

GIGABYTE = 1 << 30
# Runs command lines with a gigabyte of address space more than Python and torch have taken, and tells how they ended
# and by how many megabytes the largest ever resident set grew.
SCRIPT = """
import json, resource, sys
from contextlib import redirect_stderr
from io import StringIO
import torch, PIL.Image, ddim_edit.models, ddim_edit.editor, sklearn.linear_model
from ddim_edit.cli import main
lines = json.load(sys.stdin)
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (1 << 30),) * 2)
before, told = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
for name, line in lines.items():
    errors, ended = StringIO(), None
    try:
        with redirect_stderr(errors):
            main(line)
    except SystemExit as left:
        ended = left.code
    except BaseException as error:
        errors.write(repr(error))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    told[name] = [ended, errors.getvalue(), grown]
print(json.dumps(told))
"""


def entry(folder: Path, file: str, **entries: object) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def sparse(path: Path, start: bytes, size: int) -> Path:
    """A file that is as large as it says, but takes no room."""
    path.write_bytes(start)
    os.truncate(path, size)
    return path


def zip_bomb(path: Path) -> Path:
    """A checkpoint whose pickle unpacks to a gigabyte and a half."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("archive/data.pkl", "w", force_zip64=True) as file,
    ):
        for _ in range(96):
            file.write(bytes(1 << 24))
    return path


def models(folder: Path) -> Iterator[tuple[str, list[str]]]:
    changes: dict[str, Callable[[Path], object]] = {
        "channels": lambda model: entry(model, "unet/config.json", in_channels=10**9, out_channels=10**9),
        "widths": lambda model: entry(model, "unet/config.json", block_out_channels=[10**9, 10**9]),
        "layers": lambda model: entry(model, "unet/config.json", layers_per_block=10**9),
        "groups": lambda model: entry(model, "unet/config.json", time_embedding_dim=10**12),
        "classes": lambda model: entry(model, "unet/config.json", num_class_embeds=10**12),
        "size": lambda model: entry(model, "unet/config.json", sample_size=[10**6, 10**6]),
        "levels": lambda model: entry(
            model,
            "unet/config.json",
            block_out_channels=[16] * 40_000,
            down_block_types=["DownBlock2D"] * 40_000,
            up_block_types=["UpBlock2D"] * 40_000,
        ),
        "steps": lambda model: entry(model, "scheduler/scheduler_config.json", num_train_timesteps=10**9),
        "shape": lambda model: (model / WEIGHTS).write_bytes(
            with_header(lambda header: header.update(shape=[1 << 40]))((model / WEIGHTS).read_bytes())
        ),
        "header": lambda model: (model / WEIGHTS).write_bytes(
            TENSORS["length of a terabyte"]((model / WEIGHTS).read_bytes())
        ),
        "config": lambda model: sparse(model / "unet/config.json", b"{", 1 << 40),
    }
    for name, change in changes.items():
        model = tiny.save_model(folder / name)
        change(model)
        yield f"model {name}", ["sample", "-o", str(folder / "out"), "--model", str(model)]
    model = tiny.save_model(folder / "good")
    yield "asked size", ["sample", "-o", str(folder / "out"), "--model", str(model), "--size", "99999x99999"]


def others(folder: Path) -> Iterator[tuple[str, list[str]]]:
    model = ["--model", str(folder / "good")]
    for suffix in ("png", "bmp", "gif", "ppm", "jpg"):
        name, content = next(each for each in bad_images.malformed() if each[0] == f"a.{suffix} a bomb")
        (folder / f"a.{suffix}").write_bytes(content())
        yield name, ["reconstruct", str(folder / f"a.{suffix}"), "-o", str(folder / "out"), *model]
    CODE.save(folder / "code")
    for name in ("length of a terabyte", "a shape of a terabyte", "header deep"):
        (folder / f"{name}.latent.safetensors").write_bytes(TENSORS[name]((folder / "code").read_bytes()))
        yield f"latent {name}", ["show", str(folder / f"{name}.latent.safetensors")]
    yield "zip", ["show", str(zip_bomb(folder / "bomb.pt"))]
    csv = ["--images", str(folder), "--column", "age", "-o", str(folder / "a.direction.safetensors")]
    (folder / "wide.csv").write_bytes(b"file,age" + b",c" * 1_000_000 + b"\n")
    yield "CSV of a million columns", ["fit", "old", "--labels", str(folder / "wide.csv"), *csv]
    yield "CSV of a terabyte", ["fit", "old", "--labels", str(sparse(folder / "a.csv", b"file,age\n", 1 << 40)), *csv]
    yield "TOML of a terabyte", ["--config", str(sparse(folder / "a.toml", b"a = 1\n", 1 << 40)), "models"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads how much memory is taken where Linux says so")
def test_files_of_vast_claimed_size_are_refused_in_little_memory(tmp_path: Path) -> None:
    lines = dict([*models(tmp_path), *others(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(lines),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    grown = {name: megabytes for name, (_, _, megabytes) in told.items()}
    assert {name: ended for name, (ended, _, _) in told.items() if ended not in (1, 2)} == {}, told
    assert {name: said for name, (_, said, _) in told.items() if said.lower().count("error: ") != 1} == {}
    assert {name: said for name, (_, said, _) in told.items() if "memory ran out" in said} == {}
    print(f"{len(lines)} bombs, {max(grown.values())} MB at most: {grown}")
    assert max(grown.values()) < 256
    assert not (tmp_path / "out").exists()


class Bomb:
    """A pickle of it runs a command that would leave a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def test_payload_runs_where_pickles_are_trusted(tmp_path: Path) -> None:
    """Or the tests that nothing is run would pass over a dud."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()
