"""`train`: a pixel UNet from a folder of pictures."""

import functools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import Command, stack
from .session import Session

if TYPE_CHECKING:
    from tqdm import tqdm

    from ddim_edit.training import LossRow, Settings, StartingNetwork, Trainer

# Written out here so that --help and wrong use need not load torch; a test compares them.
NETWORK_NAMES = ("tiny", "small", "faces64")
PREDICTION_NAMES = ("epsilon", "v_prediction", "sample")
SCHEDULE_NAMES = ("linear", "scaled_linear", "cosine")
DECAY_NAMES = ("cosine", "constant")
PRECISION_NAMES = ("no", "bf16", "fp16")
_SEEDS = click.IntRange(0, 2**32 - 1)


def _held_out(context: click.Context, parameter: click.Parameter, value: str) -> float | Path:
    try:
        share = float(value)
    except ValueError:
        return Path(value)
    if not 0 < share < 1:
        raise click.BadParameter(f"{value!r} is no share above 0 and below 1, and no folder.")
    return share


def _with_settings(command: Command) -> Command:
    """Hand the command `settings`, for `Settings`, and of `origin` what was given."""

    @functools.wraps(command)
    def wrapped(*args: Any, source: str | None, **rest: Any) -> Any:
        fresh = {name: value for name in _FRESH if (value := rest.pop(name)) is not None}
        if source is not None and fresh:
            raise click.UsageError(f"--{next(iter(fresh))} is for a new network; it does not go with --from.")
        origin = fresh if source is None else {"model": source}
        settings = {name: rest.pop(name) for name in _SETTINGS}
        return command(*args, origin=origin, settings=settings, **rest)

    return stack(wrapped, *_ORIGIN, *_LEARNING, *_HABITS)


_FRESH = ("network", "prediction", "schedule")
_SETTINGS = (
    *("size", "steps", "batch_size", "accumulate", "lr", "warm_up", "decay", "weight_decay", "ema_decay", "precision"),
    *("flip", "seed", "held_out", "save_every", "sample_every", "samples"),
)
_ORIGIN = (
    click.option("--from", "source", metavar="NAME|DIR", help="Packaged model or diffusers folder to go on from."),
    click.option("--network", type=click.Choice(NETWORK_NAMES), help="Network to begin with. [small]"),
    click.option("--prediction", type=click.Choice(PREDICTION_NAMES), help="What it predicts. [epsilon]"),
    click.option("--schedule", type=click.Choice(SCHEDULE_NAMES), help="Noise schedule. [linear]"),
    click.option("--size", type=click.IntRange(1), metavar="N", help="Side of the pictures in pixels. [the network's]"),
)
_LEARNING = (
    click.option(
        "--steps", type=click.IntRange(1), metavar="N", default=10_000, show_default=True, help="Steps to take in all."
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(1),
        metavar="N",
        default=64,
        show_default=True,
        help="Pictures a step, on all devices.",
    ),
    click.option(
        "--accumulate",
        type=click.IntRange(1),
        metavar="N",
        default=1,
        show_default=True,
        help="Parts that a device takes its share in.",
    ),
    click.option(
        "--lr",
        type=click.FloatRange(0, min_open=True),
        metavar="N",
        default=2e-4,
        show_default=True,
        help="Learning rate.",
    ),
    click.option(
        "--warm-up",
        type=click.IntRange(0),
        metavar="N",
        default=100,
        show_default=True,
        help="Steps until it is reached.",
    ),
    click.option(
        "--decay", type=click.Choice(DECAY_NAMES), default="cosine", show_default=True, help="How it goes down."
    ),
    click.option(
        "--weight-decay", type=click.FloatRange(0), metavar="N", default=1e-3, show_default=True, help="Of AdamW."
    ),
    click.option(
        "--ema-decay",
        type=click.FloatRange(0, 1, max_open=True),
        metavar="N",
        default=0.9995,
        show_default=True,
        help="Of the moving average of the weights, which is the model.",
    ),
    click.option(
        "--precision",
        type=click.Choice(PRECISION_NAMES),
        default="no",
        show_default=True,
        help="Mixed precision; weights stay fp32.",
    ),
    click.option("--flip", is_flag=True, help="Mirror pictures at random."),
    click.option("--seed", type=_SEEDS, metavar="N", default=0, show_default=True, help="Of everything that is drawn."),
    click.option(
        "--held-out",
        default="0.05",
        callback=_held_out,
        show_default=True,
        metavar="SHARE|DIR",
        help="Pictures that only measure.",
    ),
)
_HABITS = (
    click.option(
        "--save-every",
        type=click.IntRange(1),
        metavar="N",
        default=500,
        show_default=True,
        help="Steps between checkpoints.",
    ),
    click.option(
        "--sample-every",
        type=click.IntRange(1),
        metavar="N",
        default=500,
        show_default=True,
        help="Steps between sheets.",
    ),
    click.option(
        "--samples",
        type=click.IntRange(0),
        metavar="N",
        default=16,
        show_default=True,
        help="Pictures on a sheet; 0 for none.",
    ),
)


@click.command()
@click.argument("pictures", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="MODEL",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write the model to.",
)
@_with_settings
@click.option(
    "--device", type=click.Choice(["auto", "cpu"]), default="auto", show_default=True, help="auto is the fastest here."
)
@click.option("--overwrite", is_flag=True, help="Begin anew where a training was written.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per row of losses on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings and errors.")
def train(
    pictures: Path,
    output: Path,
    origin: dict[str, str],
    settings: dict[str, Any],
    device: str,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a pixel UNet on the pictures in DIR and write it as a diffusers folder, which --model takes.

    The same command goes on where it stopped. Needs the extra ddim-edit[diffusers]. On several GPUs:

    \b
    accelerate launch -m ddim_edit train faces/ -o model/ --precision bf16
    """
    from ddim_edit.training import Settings, Trainer, loss_table

    session = Session(None, device, "fp32", None, as_json, quiet)
    told = Settings(origin=_origin(origin), **settings)
    trainer = Trainer(pictures, output, told, device, overwrite)
    if not trainer.is_main_process:
        trainer.run()
        return
    _describe(session, trainer, told)
    rows = _run(session, trainer, output, told.steps)
    if not as_json:
        click.echo(loss_table(rows))
    session.note(f"wrote {output}; see it with `ddim-edit sample --model {output} -n 16 -o samples`")


def _origin(origin: dict[str, str]) -> "StartingNetwork":
    from ddim_edit.training import FineTuning, FreshNetwork

    return FineTuning(**origin) if "model" in origin else FreshNetwork(**origin)


def _describe(session: Session, trainer: "Trainer", settings: "Settings") -> None:
    """Say what is learnt from, what could not be read, and where this begins."""
    for name, reason in trainer.split.failures.items():
        session.warn(f"{name} is left out: {reason}")
    split, size = trainer.split, trainer.record["size"]
    counts = f"{len(split.train):,} pictures to learn from, {len(split.validation):,} held out, {size}x{size} pixels"
    session.note(f"{counts}, on {trainer.device}")
    if trainer.rows:
        session.note(f"goes on at step {trainer.step:,} of {settings.steps:,}")


def _run(session: Session, trainer: "Trainer", output: Path, steps: int) -> "tuple[LossRow, ...]":
    def tell(row: "LossRow") -> None:
        learnt = "" if row.train is None else f", in training {row.train:.5f}"
        bar.clear()
        session.note(f"step {row.step:,}: held-out loss {row.held_out:.5f}{learnt}")
        if session.as_json:
            click.echo(json.dumps(row._asdict(), sort_keys=True))

    with _bar(session, trainer, steps) as bar:
        try:
            return trainer.run(tell, lambda: bar.update())
        except KeyboardInterrupt:
            bar.clear()
            click.echo(f"step {trainer.step:,} is saved in {output}; the same command goes on from there", err=True)
            raise


@contextmanager
def _bar(session: Session, trainer: "Trainer", steps: int) -> "Iterator[tqdm[Any]]":
    from tqdm import tqdm

    hidden = session.quiet or not sys.stderr.isatty()
    with tqdm(total=steps, initial=trainer.step, unit=" steps", disable=hidden, leave=False) as bar:
        yield bar
