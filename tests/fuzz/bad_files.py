"""Checkpoint files that cannot be run, or that would run something."""

import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from .kit import WEIGHTS, Kit, Line, Make, Tensors
from .spoiling import BYTES, TENSORS, share


class Bomb:
    """A pickle of it runs a command that would leave a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def single(name: str, spoil: Callable[[Kit, Path], bytes], settings: bytes | None = None) -> Make:
    def make(kit: Kit, folder: Path) -> Line:
        (folder / name).write_bytes(spoil(kit, folder))
        if settings is not None:
            (folder / name).with_suffix(".json").write_bytes(settings)
        return ["show", folder / name]

    return make


def saved(content: object, **how: Any) -> bytes:
    file = BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def single_cases() -> Iterator[tuple[str, Make]]:
    def plain(kit: Kit) -> bytes:
        return saved({"a": torch.ones(4, 4)})

    for name, spoil in share(TENSORS, 4, 6).items():
        yield (
            f"file {name}",
            single("m.safetensors", lambda kit, folder, spoil=spoil: spoil((kit.model / WEIGHTS).read_bytes())),
        )
    for name, spoil in share(BYTES, 2, 3).items():
        yield f"pickle {name}", single("m.pt", lambda kit, folder, spoil=spoil: spoil(plain(kit)))
    for how, legacy in (("zipped", True), ("legacy", False)):
        yield (
            f"pickle that would run a command, {how}",
            single(
                "m.pt",
                lambda kit, folder, legacy=legacy: saved(
                    {"a": Bomb(folder / "trace")}, _use_new_zipfile_serialization=legacy
                ),
            ),
        )
    yield (
        "pickle that would run a command, bare",
        single("m.ckpt", lambda kit, folder: pickle.dumps(Bomb(folder / "trace"))),
    )
    yield "pickle of a class", single("m.pth", lambda kit, folder: saved({"a": torch.nn.Linear(2, 2)}))
    for name, content in {
        "nothing": None, "a number": 3, "a text": "a", "a list": [1, 2], "an empty dictionary": {}, "numbers": {"a": 1},
        "a tensor": torch.ones(3), "no network": {"a": torch.ones(3)},
        "a network of no family": {"conv.weight": torch.ones(3, 3), "conv.bias": torch.ones(3)},
        "tensors by number": {1: torch.ones(3)},
    }.items():  # fmt: skip
        yield f"pickle of {name}", single("m.pt", lambda kit, folder, content=content: saved(content))
    deep: Any = {"a": torch.ones(1)}
    for _ in range(300):
        deep = {"a": deep}
    yield "pickle deep", single("m.pt", lambda kit, folder: saved(deep))
    for name, state in HOLLOW.items():
        yield f"{name}", single("m.pt", lambda kit, folder, state=state: saved(state))


def _zeros(**shapes: tuple[int, ...]) -> Tensors:
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


VAST, LONG = 10**12, "9" * 5_000
HOLLOW: Mapping[str, Tensors] = {
    "guided-diffusion with marks alone": _zeros(
        time_embed__0__weight=(8, 2), input_blocks__0__0__weight=(2, 3, 3, 3),
        middle_block__0__in_layers__2__weight=(2, 2, 3, 3)
    ),
    "guided-diffusion with numbers for marks": _zeros(
        time_embed__0__weight=(), input_blocks__0__0__weight=(), middle_block__0__in_layers__2__weight=()
    ),
    "guided-diffusion with a way up": _zeros(
        time_embed__0__weight=(8, 2), input_blocks__0__0__weight=(2, 3, 3, 3),
        middle_block__0__in_layers__2__weight=(2, 2, 3, 3),
        output_blocks__0__0__weight=(2,), out__2__weight=(3, 2, 3, 3),
    ),
    "ermongroup with numbers for marks": _zeros(
        temb__dense__0__weight=(), conv_in__weight=(), conv_out__weight=(), down__0__block__0__conv1__weight=(),
        mid__block_1__temb_proj__weight=(),
    ),
    "ermongroup with marks alone": _zeros(
        temb__dense__0__weight=(8, 2), conv_in__weight=(32, 3, 3, 3), conv_out__weight=(3, 32, 3, 3),
        down__0__block__0__conv1__weight=(32, 32, 3, 3), mid__block_1__temb_proj__weight=(32, 8),
    ),
    "denoising-diffusion with numbers for marks": _zeros(
        init_conv__weight=(), mid_block1__block1__proj__weight=(), final_conv__weight=()
    ),
    "denoising-diffusion with marks alone": _zeros(
        init_conv__weight=(8, 3, 7, 7), mid_block1__block1__proj__weight=(8, 8, 3, 3), final_conv__weight=(3, 8, 1, 1)
    ),
    "edm with marks alone": {"map_layer0.weight": torch.zeros(8, 2), "enc.32x32_conv.weight": torch.zeros(8, 3, 3, 3)},
    "edm with numbers for marks": {"map_layer0.weight": torch.zeros(()), "enc.32x32_conv.weight": torch.zeros(())},
    "edm of a vast size": {
        "map_layer0.weight": torch.zeros(8, 2), f"enc.{VAST}x{VAST}_conv.weight": torch.zeros(8, 3, 3, 3)
    },
    "edm of a number of digits": {
        "map_layer0.weight": torch.zeros(8, 2), f"enc.{LONG}x{LONG}_conv.weight": torch.zeros(8, 3, 3, 3)
    },
}  # fmt: skip
