"""Training for a while: images a second, and whether the loss falls."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from time import perf_counter

from ddim_edit.training import FreshNetwork, Settings, Trainer
from ddim_edit.training import LossRow as Losses
from gpu.material import image_folder
from gpu.plan import Case, Row, Setting, Skipped

STEPS, EVERY = 14_850, 100
"""Steps of the whole recipe, which decide the learning rate; and those between two measurements of the loss."""
FIRST = 10
"""Steps in which kernels are chosen and memory is taken; their time does not count."""
ENDING = 3.0
"""Seconds before the deadline at which a training ends in any case."""


def cases(setting: Setting) -> list[Case]:
    """Return the one case."""
    return [Case("bfloat16", partial(_train, setting))]


class _TimeOver(Exception):  # noqa: N818 - no error
    """Ends a training from within one of its callbacks."""


def _train(setting: Setting) -> Iterator[Row]:
    """Train until the time is over; the loss of images held out is measured before the first step and now and then."""
    for name in ("accelerate", "diffusers"):
        if find_spec(name) is None:
            raise Skipped(f"{name} is not installed, and nothing is trained without it")
    losses, ends = list[Losses](), list[float]()

    def on_row(row: Losses) -> None:
        losses.append(row)
        if row.step and setting.left < ENDING + 1.5 * (perf_counter() - start) * every / row.step:
            raise _TimeOver  # another measurement would come too late

    def on_step() -> None:
        ends.append(perf_counter())
        if setting.left < ENDING:
            raise _TimeOver

    every = 1 if setting.tiny else EVERY
    trainer = _trainer(setting, every)
    start = perf_counter()
    with suppress(_TimeOver):
        trainer.run(on_row, on_step)
    row: dict[str, object] = {
        "device": trainer.device,
        "steps": len(ends),
        "seconds": perf_counter() - start,
        "images a second": _rate(setting.scale.training_batch, ends, {row.step for row in losses}),
        "loss before": losses[0].held_out,
        "loss": losses[-1].held_out,
        "measured at step": losses[-1].step,
    }
    if len(losses) > 1:
        row["loss falls"] = "yes" if losses[-1].held_out < losses[0].held_out else "NO"
    yield row


def _trainer(setting: Setting, every: int) -> Trainer:
    """Return a trainer with the recipe of faces64, in bfloat16; of a small network in a rehearsal."""
    tiny = setting.tiny
    settings = Settings(
        origin=FreshNetwork(network="tiny" if tiny else "faces64"),
        steps=3 if tiny else STEPS,
        batch_size=setting.scale.training_batch,
        lr=4e-4,
        precision="bf16",
        flip=True,
        held_out=0.25 if tiny else 0.05,
        save_every=every,
        samples=0,
    )
    device = "cpu" if setting.device == "cpu" else "auto"
    return Trainer(image_folder(setting), setting.folder("training") / "model", settings, device, overwrite=True)


def _rate(batch: int, ends: list[float], measured: set[int]) -> float | None:
    """Return images a second over all steps but the first ones, and those in which the loss was measured besides.

    Args:
        batch: images in a step.
        ends: when each step ended, from the first on.
        measured: the steps behind which the loss was measured, which counts for the step after them.
    """
    steps = range(min(FIRST, len(ends) // 2) + 1, len(ends))
    spent = [ends[step] - ends[step - 1] for step in steps if step not in measured]
    return batch * len(spent) / sum(spent) if spent else None
