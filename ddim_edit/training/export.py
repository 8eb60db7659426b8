"""What a training writes: a diffusers folder, its card, losses, and sheets of samples."""

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
from ddim_edit.models.pretrained import import_diffusers
from ddim_edit.training.checkpoint import LossRow, TrainingFolder
from ddim_edit.training.train_state import TrainState

_ROWS_ON_CARD = 20


def write_model(folder: TrainingFolder, state: TrainState, record: Mapping[str, Any], rows: Sequence[LossRow]) -> None:
    """Write the averaged weights as a diffusers pipeline, with losses and a card; every file whole or not at all."""
    network = deepcopy(state.ema.network).cpu().to(memory_format=torch.contiguous_format)
    pipeline = import_diffusers("Training").DDPMPipeline(unet=network, scheduler=state.loss.scheduler)
    folder.path.mkdir(parents=True, exist_ok=True)
    # Inside of the folder, so that files can be renamed to their places.
    with tempfile.TemporaryDirectory(prefix=".ddim-edit-", dir=folder.path) as temporary:
        pipeline.save_pretrained(temporary, safe_serialization=True)
        for file in sorted(Path(temporary).rglob("*.*")):
            target = folder.path / file.relative_to(temporary)
            target.parent.mkdir(exist_ok=True)
            file.chmod(0o644)  # safetensors makes files that only their owner may read
            file.replace(target)
    losses = StringIO()
    writer = csv.writer(losses, lineterminator="\n")
    writer.writerow(LossRow._fields)
    writer.writerows(rows)
    _write_text(folder.losses, losses.getvalue())
    _write_text(folder.path / "README.md", model_card(folder.path.resolve().name, state.step, record, rows))


def _write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_sheet(folder: Path, step: int, count: int, device: str) -> Path:
    """Write a sheet of images that the model in a folder samples from the seeds 0, 1, ...; return its path."""
    path = folder / "training" / f"samples-{step:06}.png"
    images = to_uint8(Editor.from_pretrained(folder, device, "float32").sample(count))
    write(path, sheet(torch.split(images, max(1, round(count**0.5)))), TrainingSheetRecipe(step).to_json())
    return path


def model_card(name: str, step: int, record: Mapping[str, Any], rows: Sequence[LossRow]) -> str:
    """Return what a model was trained on and how, and its losses, as Markdown."""
    facts = "\n".join(f"| {entry.replace('_', ' ')} | {_describe(value)} |" for entry, value in sorted(record.items()))
    # At most so many rows, the first and the last among them; the CSV has all of them.
    every = -(-len(rows) // _ROWS_ON_CARD)
    shown = [*rows[:-1:every], rows[-1]]
    return (
        f"# {name}\n\nAn unconditional pixel diffusion model, trained by `ddim-edit train` for"
        f" {step:,} of {record['steps']:,} steps. The weights are the moving average.\n\n"
        f"| | |\n|---|---|\n{facts}\n\n"
        "The held-out loss is the mean squared error of the averaged weights on images that were not trained on,\n"
        "at times and with noise that are the same in every row.\n\n"
        f"{loss_table(shown)}\n\n"
        "Say here whose the images are and under which terms the model may be used.\n"
    )


def _describe(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_describe(each)}" for name, each in value.items())
    return "another folder" if value is None else str(value)


def loss_table(rows: Sequence[LossRow]) -> str:
    """Return losses as a Markdown table, which is readable as plain text too.

    Examples:
        >>> print(loss_table([LossRow(0, None, 1.0, 0.0), LossRow(500, 0.1, 0.05, 2e-4)]))
        |   step | training | held out |     rate |
        |-------:|---------:|---------:|---------:|
        |      0 |          |  1.00000 | 0.00e+00 |
        |    500 |  0.10000 |  0.05000 | 2.00e-04 |
    """
    lines = ["|   step | training | held out |     rate |", "|-------:|---------:|---------:|---------:|"]
    for row in rows:
        train = "" if row.train is None else f"{row.train:.5f}"
        lines.append(f"| {row.step:6} | {train:>8} | {row.held_out:8.5f} | {row.rate:8.2e} |")
    return "\n".join(lines)
