"""Diffusers folders that cannot be run."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .kit import WEIGHTS, Kit, Line, Make, Tensors, retensored
from .spoiling import TENSORS, TEXTS, Damages, Spoil, share


def folder_model(file: Path | str, spoil: Spoil) -> Make:
    def make(kit: Kit, folder: Path) -> Line:
        copied = Path(shutil.copytree(kit.model, folder / "model"))
        (copied / file).write_bytes(spoil((copied / file).read_bytes()))
        return ["sample", "-o", folder / "out", "--steps", "2", "--model", copied]

    return make


def entry(name: str, value: object) -> Spoil:
    return lambda text: json.dumps({**json.loads(text), name: value}).encode()


UNET: Mapping[str, list[Any]] = {
    "_class_name": [3, "os.system"],
    "sample_size": [0, [16, 16, 16], [16, "a"], 10**30, True],
    "in_channels": [0, None, 3.5, 10**9],
    "out_channels": ["3", 4],
    "layers_per_block": [-1, 2, 10**9],
    "block_out_channels": [[], "16", [16], [16, 0], [16, 17], [10**18, 10**18], [16] * 100_000],
    "down_block_types": ["DownBlock2D", ["DownBlock2D", "UpBlock2D"], ["Down", 3], ["DownBlock2D"] * 50_000],
    "up_block_types": [[], [["UpBlock2D"]]],
    "norm_num_groups": [0, 3],
    "norm_eps": [-1],
    "attention_head_dim": [0, 1.5],
    "act_fn": ["tanh"],
    "time_embedding_type": ["learned"],
    "time_embedding_dim": ["8", 7],
    "freq_shift": ["0"],
    "mid_block_type": ["UNetMidBlock2DCrossAttn", []],
    "resnet_time_scale_shift": ["shift"],
    "num_class_embeds": [-1, 10**9],
    "mid_block_scale_factor": [0],
    "downsample_padding": [2],
    "unknown": [1],
}
SCHEDULER: Mapping[str, list[Any]] = {
    "_class_name": [[], "ScoreSdeVeScheduler", "os.system"],
    "num_train_timesteps": [0, "1000", 1.5, 10**30, True],
    "beta_start": [-1, None, 10**400, float("nan")],
    "beta_end": [0, 2],
    "beta_schedule": ["cubic", 3],
    "trained_betas": ["many", [], [0.1, None], [0.1, 2], [float("nan")], [10**400]],
    "prediction_type": ["noise"],
}


def folder_cases() -> Iterator[tuple[str, Make]]:
    for name, spoil in share(TENSORS, 5, 6).items():
        yield f"weights {name}", folder_model(WEIGHTS, spoil)
    for name, change in WEIGHT_CHANGES.items():
        yield f"weights {name}", folder_model(WEIGHTS, retensored(change))
    for name, prepare in ODD_FOLDERS.items():
        yield f"model {name}", odd_folder(prepare)
    yield from config_cases("unet/config.json", share(TEXTS, 4, 6), UNET)
    yield from config_cases("scheduler/scheduler_config.json", share(TEXTS, 5, 6), SCHEDULER)


def config_cases(file: str, damages: Damages, entries: Mapping[str, list[Any]]) -> Iterator[tuple[str, Make]]:
    for name, spoil in damages.items():
        yield f"{file} {name}", folder_model(file, spoil)
    for name, values in entries.items():
        for value in values:
            yield f"{file} {name} {json.dumps(value)[:40]}", folder_model(file, entry(name, value))


def first(tensors: Tensors) -> str:
    return next(name for name, tensor in tensors.items() if tensor.ndim == 4)


WEIGHT_CHANGES: Mapping[str, Callable[[Tensors], object]] = {
    "without one": lambda tensors: tensors.pop(first(tensors)),
    "with one more": lambda tensors: tensors.update(extra=torch.ones(3)),
    "of another shape": lambda tensors: tensors.update({first(tensors): torch.ones(2, 2)}),
    "under other names": lambda tensors: tensors.update({f"a.{name}": tensors.pop(name) for name in list(tensors)}),
    "a number": lambda tensors: tensors.update({first(tensors): torch.tensor(1.0)}),
    "complex": lambda tensors: tensors.update({first(tensors): tensors[first(tensors)].to(torch.complex64)}),
}
ODD_FOLDERS: Mapping[str, Callable[[Path], object]] = {
    "an empty folder": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "without a unet": lambda folder: shutil.rmtree(folder / "unet"),
    "without a scheduler": lambda folder: shutil.rmtree(folder / "scheduler"),
    "without weights": lambda folder: (folder / WEIGHTS).unlink(),
    "with a folder for its config": lambda folder: (
        (folder / "unet/config.json").unlink(), (folder / "unet/config.json").mkdir()
    ),
    "with a folder for weights": lambda folder: ((folder / WEIGHTS).unlink(), (folder / WEIGHTS).mkdir()),
    "with a link to itself for weights": lambda folder: (
        (folder / WEIGHTS).unlink(), (folder / WEIGHTS).symlink_to(folder / WEIGHTS)
    ),
    "with a pickle for weights": lambda folder: (
        (folder / WEIGHTS).unlink(), torch.save({}, folder / "unet/diffusion_pytorch_model.bin")
    ),
    "in shards": lambda folder: (
        (folder / WEIGHTS).unlink(), (folder / "unet" / f"{WEIGHTS.name}.index.json").write_text("{}")
    ),
}  # fmt: skip


def odd_folder(prepare: Callable[[Path], object]) -> Make:
    def make(kit: Kit, folder: Path) -> Line:
        copied = Path(shutil.copytree(kit.model, folder / "model"))
        prepare(copied)
        return ["show", copied]

    return make
