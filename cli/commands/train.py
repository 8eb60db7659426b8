"""`ddim-edit train`."""

import json
from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..command import Option, OptionGroup, command
from ..files import require_folder
from ..options import FILE_OR_FOLDER, SEED, json_option, quiet_option
from ..session import Session
from ..types import ModelName

if TYPE_CHECKING:
    from ddim_edit.training import LossRow, Settings, StartingNetwork, Trainer

SECTIONS = {
    "Training": (
        *("steps", "batch_size", "accumulate", "lr", "warm_up", "decay", "weight_decay", "clip", "ema_decay"),
        *("precision", "flip", "seed"),
    ),
    "Validation and samples": ("held_out", "save_every", "sample_every", "samples"),
}
"""Titles under which the fields of `Settings` stand."""


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    from ddim_edit.training import NETWORKS, PREDICTIONS, SCHEDULES, FreshNetwork, Settings

    settings = {each.name: _setting_option(each) for each in fields(Settings) if each.name != "origin"}
    fresh = FreshNetwork()

    def fresh_option(name: str, choices: Sequence[str], what: str) -> Option:
        # Without a default, so that --from can tell whether it was given.
        help_text = f"{what} of a new network. [default: {getattr(fresh, name)}]"
        return Option(f"--{name}", type=click.Choice(choices), help=help_text)

    origin = [
        Option(
            "--from",
            argument="source",
            type=ModelName(),
            metavar="NAME|DIR",
            help="Packaged model or diffusers folder to start from, in place of a new network.",
        ),
        fresh_option("network", list(NETWORKS), "Architecture"),
        fresh_option("prediction", PREDICTIONS, "Prediction type"),
        fresh_option("schedule", list(SCHEDULES), "Noise schedule"),
    ]
    sections = [OptionGroup(title, [settings[name] for name in names], "settings") for title, names in SECTIONS.items()]
    return [
        OptionGroup(
            "Output",
            [
                click.Argument(["images"], metavar="DIR", type=click.Path(path_type=Path)),
                Option(
                    "-o",
                    "--output",
                    required=True,
                    metavar="MODEL",
                    type=FILE_OR_FOLDER,
                    help="Output folder of the model.",
                ),
                Option("--overwrite", is_flag=True, help="Start again where a training was written."),
            ],
        ),
        OptionGroup("Network", origin, "origin", _combine_origin),
        OptionGroup("Network", [settings["size"]], "settings"),
        *sections,
        OptionGroup(
            "Run",
            [
                Option(
                    "--device",
                    type=click.Choice(["auto", "cpu"]),
                    default="auto",
                    help="Device to train on; auto is the fastest.",
                ),
                json_option(),
                quiet_option(),
            ],
        ),
    ]


class Setting(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """The value of a field of `Settings`: of the type of its default, and as its check wants it."""

    name = "value"

    def __init__(self, field: "Field[Any]") -> None:
        self.field = field

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the checked value."""
        check = self.field.metadata["check"]
        wanted: type[int | float] = float if isinstance(self.field.default, float) else int
        try:
            number: int | float | Path = wanted(value)
        except ValueError:
            number = Path(value)  # which only a field that takes a folder accepts
        if not check.accepts(number):
            self.fail(f"{value!r} is not {check.wanted}.", param, ctx)
        return number


def _setting_option(field: "Field[Any]") -> Option:
    """Return the option of a field of `Settings`."""
    flag = f"--{field.name.replace('_', '-')}"
    help_text = field.metadata["help"]
    if isinstance(field.default, bool):
        return Option(flag, is_flag=True, help=help_text)
    if field.metadata["choices"]:
        return Option(flag, type=click.Choice(field.metadata["choices"]), default=field.default, help=help_text)
    if field.name == "seed":
        return Option(flag, type=SEED, default=field.default, metavar="N", help=help_text)
    metavar = "F|DIR" if field.name == "held_out" else "N"
    return Option(flag, type=Setting(field), default=field.default, metavar=metavar, help=help_text)


def _combine_origin(source: str | None, **fresh: str | None) -> dict[str, str]:
    """Return the fields of a `FineTuning` or a `FreshNetwork` that were given."""
    given = {name: value for name, value in fresh.items() if value is not None}
    if source is None:
        return given
    if given:
        raise click.UsageError(f"--{next(iter(given))} is for a new network; it does not go with --from.")
    return {"model": source}


@command(
    "Tools",
    4,
    option_groups,
    "ddim-edit train faces/ -o my-model --network faces64 --flip",
    "ddim-edit train portraits/ -o tuned --from faces64 --steps 2000 --lr 5e-5",
    "accelerate launch -m ddim_edit train faces/ -o my-model --precision bf16",
)
def train(
    images: Path,
    output: Path,
    overwrite: bool,
    origin: dict[str, str],
    settings: dict[str, Any],
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a pixel UNet on a folder of images. It is written as a diffusers folder, which --model takes.

    The same command continues where it stopped. It needs the extra ddim-edit[diffusers].
    """
    from ddim_edit.training import FineTuning, FreshNetwork, Settings, Trainer, loss_table

    require_folder(output)
    session = Session(as_json=as_json, quiet=quiet)
    start: StartingNetwork = FineTuning(**origin) if "model" in origin else FreshNetwork(**origin)
    training = Settings(origin=start, **settings)
    trainer = Trainer(images, output, training, device, overwrite)
    if not trainer.is_main_process:
        trainer.run()
        return
    _describe(session, trainer, training)
    rows = _run(session, trainer, output, training.steps)
    if not as_json:
        click.echo(loss_table(rows))
    session.note(f"wrote {output}; see it with `ddim-edit sample --model {output} -n 16 -o samples`")


def _describe(session: Session, trainer: "Trainer", settings: "Settings") -> None:
    """Print what is trained on, what could not be read, and where this starts."""
    split = trainer.split
    size = trainer.record["size"]
    for name, reason in split.failures.items():
        session.warn(f"{name} is left out: {reason}")
    session.note(
        f"{len(split.train):,} images to train on, {len(split.validation):,} for validation, {size}x{size} pixels, "
        f"on {trainer.device}"
    )
    if trainer.rows:
        session.note(f"continues at step {trainer.step:,} of {settings.steps:,}")


def _run(session: Session, trainer: "Trainer", output: Path, steps: int) -> "tuple[LossRow, ...]":
    from tqdm import tqdm

    hidden = session.hides_progress
    with tqdm(total=steps, initial=trainer.step, unit=" steps", disable=hidden, leave=False) as bar:

        def report(row: "LossRow") -> None:
            training = "" if row.train is None else f", in training {row.train:.5f}"
            bar.clear()
            session.note(f"step {row.step:,}: validation loss {row.held_out:.5f}{training}")
            if session.as_json:
                click.echo(json.dumps(row._asdict(), sort_keys=True))

        try:
            return trainer.run(report, lambda: bar.update())
        except KeyboardInterrupt:
            bar.clear()
            click.echo(f"step {trainer.step:,} is saved in {output}; the same command continues from there", err=True)
            raise
