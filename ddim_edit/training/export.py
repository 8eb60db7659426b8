"""The model that a training writes: a diffusers folder, its card, and sheets of what it draws."""

import csv
import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from ddim_edit.editor import Editor
from ddim_edit.images import sheet, to_uint8, write
from ddim_edit.io.atomic import atomic
from ddim_edit.latents.image_recipes import TrainingSheetRecipe
from ddim_edit.models.extra import diffusers
from ddim_edit.training.checkpoint import Row
from ddim_edit.training.learner import TrainState

CHECKPOINT, LOSSES = "training/checkpoint.safetensors", "training/losses.csv"
_SHOWN = 20
"""Rows of losses on a card; the file has all of them."""


def write_model(folder: Path, learner: TrainState, record: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """The averaged weights as a diffusers pipeline in safetensors, with losses and a card; every file whole or not."""
    network = deepcopy(learner.ema.network).cpu().to(memory_format=torch.contiguous_format)
    pipeline = diffusers("a training").DDPMPipeline(unet=network, scheduler=learner.lesson.scheduler)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ddim-edit-", dir=folder) as temporary:
        pipeline.save_pretrained(temporary, safe_serialization=True)
        for file in sorted(Path(temporary).rglob("*.*")):
            target = folder / file.relative_to(temporary)
            target.parent.mkdir(exist_ok=True)
            file.chmod(0o644)
            file.replace(target)
    _write_text(folder / LOSSES, _losses(rows))
    _write_text(folder / "README.md", card(folder.resolve().name, learner.step, record, rows))


def write_sheet(folder: Path, step: int, count: int, device: str) -> Path:
    """A sheet of pictures that the model in a folder draws from the seeds 0, 1, ...; the same x_T at every step."""
    path = folder / "training" / f"samples-{step:06}.png"
    pictures = to_uint8(Editor.from_pretrained(folder, device, "float32").sample(count))
    write(path, sheet(torch.split(pictures, max(1, round(count**0.5)))), TrainingSheetRecipe(step).to_json())
    return path


def card(name: str, step: int, record: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """What a model was trained on and how, and its losses, as Markdown; it does not know whose the pictures are."""
    facts = "\n".join(f"| {entry.replace('_', ' ')} | {_told(value)} |" for entry, value in sorted(record.items()))
    return (
        f"# {name}\n\nAn unconditional pixel diffusion model, trained by `ddim-edit train` for"
        f" {step:,} of {record['steps']:,} steps. The weights are the moving average.\n\n"
        f"| | |\n|---|---|\n{facts}\n\n"
        "The held-out loss is the mean squared error of the averaged weights on pictures that were not trained on,\n"
        "at times and with noise that are the same in every row.\n\n"
        f"{loss_table(_thinned(rows))}\n\n"
        "Say here whose the pictures are and under which terms the model may be used.\n"
    )


def loss_table(rows: Sequence[Row]) -> str:
    """Losses as a Markdown table, which reads as plain text too."""
    lines = [f"| {row.step:6} | {_loss(row.train)} | {_loss(row.held_out)} | {row.rate:8.2e} |" for row in rows]
    heading = ["|   step | training | held out |     rate |", "|-------:|---------:|---------:|---------:|"]
    return "\n".join(heading + lines)


def _losses(rows: Sequence[Row]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(rows)
    return text.getvalue()


def _loss(value: float | None) -> str:
    return f"{'' if value is None else format(value, '.5f'):>8}"


def _told(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_told(each)}" for name, each in value.items())
    return "another folder" if value is None else str(value)


def _thinned(rows: Sequence[Row]) -> Sequence[Row]:
    """At most so many rows, the first and the last among them."""
    every = -(-len(rows) // _SHOWN)
    return [*rows[:-1:every], rows[-1]]


def _write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
