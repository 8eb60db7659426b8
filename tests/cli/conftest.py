"""A small model, pictures for it, and the command line run inside this process."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from ddim_edit.cli import main
from ddim_edit.models.devices import DeviceNetwork

from .. import tiny

WALKING = (
    *("invert", "decode", "reconstruct", "interpolate", "combine", "edit", "translate", "sample", "fit", "discover"),
    "probe",
)


READING = ("decode", "interpolate", "combine")
"""Commands that compute in the dtype of the latents they are given."""


@dataclass(frozen=True)
class Outcome:
    """What a command line left behind: its exit status and its two streams."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Standard output as one legal JSON object a line."""
        return [json.loads(line, parse_constant=_refuse) for line in self.out.splitlines()]

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("warning: ")]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


Run = Callable[..., Outcome]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture
def run(model: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line as `ddim-edit` does, on the small model unless it names another one."""

    def run_it(*arguments: object) -> Outcome:
        line = [str(argument) for argument in arguments]
        if line[0] in WALKING and "--model" not in line:
            line += ["--model", str(model)]
        if line[0] in WALKING and line[0] not in READING and "--dtype" not in line:
            line += ["--dtype", "fp32"]  # what is chosen otherwise depends on the processor
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(line)
        out, err = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Outcome(left.value.code, out, err)

    return run_it


@pytest.fixture
def done(run: Run) -> Run:
    """As `run`, for command lines that must succeed."""

    def run_it(*arguments: object) -> Outcome:
        outcome = run(*arguments)
        assert outcome.status == 0, outcome.err
        return outcome

    return run_it


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Four pictures of the model's own size, a.png to d.png."""
    return [tiny.save_picture(tmp_path / "in" / f"{name}.png", seed) for seed, name in enumerate("abcd")]


@pytest.fixture(scope="session")
def inverted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the latent files of these pictures, by the default method."""
    folder = tmp_path_factory.mktemp("inverted")
    pictures = [tiny.save_picture(folder / "in" / f"{name}.png", seed) for seed, name in enumerate("abcd")]
    with pytest.raises(SystemExit) as left:
        main(["invert", *map(str, pictures), "-o", str(folder / "out"), "--model", str(model), "--dtype", "fp32", "-q"])
    assert left.value.code == 0
    return folder / "out"


@pytest.fixture
def latents(inverted: Path, tmp_path: Path) -> list[Path]:
    """A copy of those files, free to be broken."""
    shutil.copytree(inverted, tmp_path / "latents")
    return sorted((tmp_path / "latents").iterdir())


@pytest.fixture(scope="session")
def fitted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of direction files: `old` and `wide` at 0.4 T, `high` at x_T and `deep` in h, on six steps."""
    folder = tmp_path_factory.mktemp("fitted")
    for side, seeds in {"with": range(10, 15), "without": range(20, 26), "wider": range(30, 36)}.items():
        for seed in seeds:
            tiny.save_picture(folder / side / f"{seed}.png", seed)
    for name, level, against in (
        ("old", "0.4T", "without"),
        ("wide", "0.4T", "wider"),
        ("high", "xT", "without"),
        ("deep", "h", "without"),
    ):
        sides = ["--with", str(folder / "with"), "--without", str(folder / against)]
        file = folder / "out" / f"{name}.direction.safetensors"
        line = [
            "fit",
            name,
            *sides,
            "--level",
            level,
            "--steps",
            "6",
            "-o",
            str(file),
            "--model",
            str(model),
            "--dtype",
            "fp32",
            "-q",
        ]
        with pytest.raises(SystemExit) as left:
            main(line)
        assert left.value.code == 0
    return folder / "out"


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures every evaluation of the network is for, as they happen, counted at the network itself."""
    seen: list[int] = []

    def counted(answer: Callable[..., Any]) -> Callable[..., Any]:
        def count(network: DeviceNetwork, x: Any, *rest: Any) -> Any:
            seen.append(len(x))
            return answer(network, x, *rest)

        return count

    for name in ("__call__", "read", "shifted"):
        monkeypatch.setattr(DeviceNetwork, name, counted(getattr(DeviceNetwork, name)))
    return seen


def files_in(folder: Path) -> list[str]:
    """Every file below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def moving(path: Path) -> list[Tensor]:
    """The frames of an animation or a video as uint8 [H, W, 3], without our own reader."""
    if path.suffix in (".mp4", ".webm"):
        with av.open(str(path)) as video:
            # PyAV before 17 converts by BT.709, which the file is tagged with, only if it is given two spaces.
            spaces = {"src_colorspace": "itu709", "dst_colorspace": "itu601"}
            return [torch.from_numpy(frame.to_ndarray(format="rgb24", **spaces)) for frame in video.decode(video=0)]
    with Image.open(path) as animation:
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(animation)]
        return [torch.from_numpy(np.array(frame)) for frame in frames]


def pixels_of(path: Path) -> Tensor:
    """A picture file as uint8 [3, H, W], without our own reader."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
