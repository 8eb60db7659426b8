"""Diffusers folders that cannot be run."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .kit import WEIGHTS, Kit, Line, Make, Tensors, retensored
from .spoiling import TENSORS, TEXTS, Spoil


def folder_model(file: Path | str, spoil: Spoil) -> Make:
    def make(kit: Kit, folder: Path) -> Line:
        copied = Path(shutil.copytree(kit.model, folder / "model"))
        (copied / file).write_bytes(spoil((copied / file).read_bytes()))
        return ["sample", "-o", folder / "out", "--steps", "2", "--model", copied]

    return make


def entry(name: str, value: object) -> Spoil:
    return lambda text: json.dumps({**json.loads(text), name: value}).encode()


UNET: Mapping[str, list[Any]] = {
    "_class_name": [None, 3, [], "os.system", "UNet1DModel"],
    "sample_size": [0, -1, 1.5, "16", [], [16], [16, 16, 16], [16, "a"], True, 10**9, 10**30, [10**6, 10**6]],
    "in_channels": [0, -3, None, "3", 3.5, [3], 10**9, 10**30, 4, True],
    "out_channels": [0, None, "3", 10**9, 4],
    "layers_per_block": [0, -1, None, "1", 1.5, 2, 10**9, 10**30, True],
    "block_out_channels": [[], None, 16, "16", [16], [16, 0], [16, -16], [16, "16"], [16, 17], [16] * 3, [10**9, 10**9],
                           [10**18, 10**18], [16] * 100_000, [[16], [16]], {}],
    "down_block_types": [[], None, "DownBlock2D", ["DownBlock2D"], ["DownBlock2D", "UpBlock2D"], ["Down", 3],
                         ["DownBlock2D"] * 50_000, {}],
    "up_block_types": [[], None, "UpBlock2D", ["UpBlock2D"], [["UpBlock2D"]]],
    "norm_num_groups": [0, -8, None, "8", 3, 10**9],
    "norm_eps": [0, -1, None, "small"],
    "attention_head_dim": [0, -8, "8", 1.5],
    "act_fn": [None, "tanh", 3, [], {}],
    "time_embedding_type": [None, "learned", []],
    "time_embedding_dim": [0, "8", 10**9, 7],
    "freq_shift": [None, "0", [], 8],
    "mid_block_type": ["UNetMidBlock2DCrossAttn", 3, []],
    "resnet_time_scale_shift": [None, "shift", {}],
    "num_class_embeds": [0, -1, "10", 10**9, 10],
    "mid_block_scale_factor": [0, -1, None, "1"],
    "downsample_padding": [2, None, "1"],
    "unknown": [1],
}  # fmt: skip
SCHEDULER: Mapping[str, list[Any]] = {
    "_class_name": [None, 3, [], "ScoreSdeVeScheduler", "os.system"],
    "num_train_timesteps": [0, -1, None, "1000", 1.5, 10**9, 10**30, True, []],
    "beta_start": [0, -1, None, "small", 10**400, float("nan"), float("inf"), []],
    "beta_end": [0, 1, 2, None, "large", float("nan"), {}],
    "beta_schedule": [None, "cubic", 3, []],
    "trained_betas": ["many", {}, [], [0.1, None], [0.1, 2], [0.1, "a"], [float("nan")], [[0.1]], [10**400], 3],
    "prediction_type": [None, "noise", 3, []],
}


def folder_cases() -> Iterator[tuple[str, Make]]:
    for name, spoil in TENSORS.items():
        yield f"weights {name}", folder_model(WEIGHTS, spoil)
    for name, change in WEIGHT_CHANGES.items():
        yield f"weights {name}", folder_model(WEIGHTS, retensored(change))
    for name, prepare in ODD_FOLDERS.items():
        yield f"model {name}", odd_folder(prepare)
    for file, entries in (("unet/config.json", UNET), ("scheduler/scheduler_config.json", SCHEDULER)):
        yield from config_cases(file, entries)


def config_cases(file: str, entries: Mapping[str, list[Any]]) -> Iterator[tuple[str, Make]]:
    for name, spoil in TEXTS.items():
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
