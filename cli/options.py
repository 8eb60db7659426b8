"""Groups of options that several commands have. Those of an inversion are generated from `InversionConfig`."""

from collections.abc import Mapping
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from .command import Option, OptionGroup, SharedOption
from .session import Session
from .types import DEFAULT_MODEL, FiniteRange, ModelName, Text, list_assets, parse_size

if TYPE_CHECKING:
    from ddim_edit import InversionConfig

FILE_OR_FOLDER = click.Path(path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
SEED = click.IntRange(0, 2**32 - 1)
CONDITION = ("prompt", "negative_prompt", "label", "guidance_scale")
"""Fields of a `Condition`."""
LOSSLESS = "bdia"
AUTO = "auto"
"""The --grid that stands for the one found for the model."""
LATEST = 1_000_000
"""A time that no noise schedule reaches, to check the form of levels before the model is known."""


def inputs_argument(name: str, metavar: str) -> click.Argument:
    """Return an argument of one or more files or folders."""
    return click.Argument([name], nargs=-1, required=True, metavar=metavar, type=FILE_OR_FOLDER)


def images_argument() -> click.Argument:
    """Return the argument of image files and folders of them."""
    return inputs_argument("images", "IMAGES|FOLDERS...")


def folder_option() -> Option:
    """Return the option of the output folder of a command that writes several files."""
    return SharedOption("-o", "--output", required=True, metavar="DIR", type=FILE_OR_FOLDER, help="Output folder.")


def output_option(what: str = "image") -> Option:
    """Return the option of the output: a folder, the file of one result, or standard output."""
    help_text = f"Output folder; for one input also a file, or - for standard output: its {what}."
    return SharedOption("-o", "--output", required=True, metavar="DIR|FILE|-", type=FILE_OR_FOLDER, help=help_text)


def recursive_group() -> OptionGroup:
    """Return the option that looks into subfolders, which becomes a part of the command's `session`."""
    option = SharedOption("-r", "--recursive", is_flag=True, help="Look for inputs in subfolders too.")
    return OptionGroup("Output", [option], "session", Session)


def overwrite_option() -> Option:
    """Return the option that lets outputs replace files."""
    return SharedOption("--overwrite", is_flag=True, help="Replace existing files.")


def json_option() -> Option:
    """Return the option that makes standard output JSON."""
    return SharedOption("--json", argument="as_json", is_flag=True, help="Print one JSON object per line.")


def quiet_option() -> Option:
    """Return the option that leaves notes out."""
    return SharedOption("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")


def image_options() -> list[Option]:
    """Return the options of written images: their format, and whether they carry their recipe."""
    from ddim_edit.images import still_suffixes

    formats = [suffix.removeprefix(".") for suffix in still_suffixes()]
    return [
        SharedOption(
            "--format", argument="suffix", type=Suffix(formats), default=formats[0], help="Format of the images."
        ),
        metadata_option(),
    ]


def metadata_option() -> Option:
    """Return the option that leaves recipes out of images."""
    return SharedOption(
        "--metadata/--no-metadata",
        default=True,
        help="Embed in every image the recipe that made it, for `ddim-edit show`.",
    )


class Suffix(click.Choice[str]):
    """A choice of file formats; the command gets the suffix, with its dot."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the suffix of a format."""
        return f".{super().convert(value, param, ctx)}"


def base_option() -> Option:
    """Return the option that completes single files."""
    return SharedOption(
        "--base",
        metavar="DIR",
        help="Take what a single file of Stable Diffusion or Flux lacks (text encoders, tokenizers, autoencoder) "
        "from a diffusers folder.",
    )


def session_options(*without: str) -> OptionGroup:
    """Return the options of the model and of how to run, which become the command's `session`.

    Args:
        without: names of options that the command cannot use.
    """
    options = [
        SharedOption(
            "--model",
            type=ModelName(),
            metavar="NAME|DIR|FILE|HUB-ID",
            help="Packaged model, diffusers folder, checkpoint file or hub id. [default: faces64]",
        ),
        SharedOption(
            "--scheduler",
            metavar="DIR|FILE|NAME",
            help="Read the noise schedule from this scheduler_config.json instead, or take linear, scaled_linear or "
            "cosine betas.",
        ),
        SharedOption(
            "--lora",
            argument="loras",
            multiple=True,
            metavar="FILE[:SCALE]",
            help="Merge a LoRA into the model; may be repeated.",
        ),
        SharedOption(
            "--embedding",
            argument="embeddings",
            multiple=True,
            metavar="FILE",
            help="Add the word of a textual inversion for prompts; may be repeated.",
        ),
        SharedOption("--vae", metavar="DIR|FILE", help="Use another autoencoder than that of the model."),
        base_option(),
        SharedOption("--device", default="auto", metavar="auto|cuda|mps|cpu", help="Device to compute on."),
        SharedOption(
            "--dtype",
            type=click.Choice(["auto", "fp32", "tf32", "bf16", "fp16", "mixed"]),
            default="auto",
            help="Precision of the network; the state is always float64. auto is fp32, but tf32 on CUDA and mixed "
            "(bf16 at low noise) on CPUs that have bf16, unless --exact.",
        ),
        SharedOption(
            "--encoder-dtype",
            type=click.Choice(["fp32", "bf16", "fp16"]),
            help="Precision of text encoders; latents belong to it. [default: fp32]",
        ),
        SharedOption(
            "--offload",
            type=click.Choice(["model", "sequential"]),
            help="Keep networks in the memory of the processor, and on the GPU one at a time, or one layer at a time.",
        ),
        SharedOption(
            "--runtime",
            type=click.Choice(["auto", "torch", "onnx", "openvino"]),
            help="What computes the network on a processor: PyTorch, ONNX Runtime (fp32) or OpenVINO. [default: auto, "
            "which is torch]",
        ),
        SharedOption(
            "--size",
            type=Text(parse_size),
            metavar="N|WxH",
            help="Image size in pixels. [default: the model's training size]",
        ),
        SharedOption("--offline", is_flag=True, help="Use only the local Hugging Face cache."),
        SharedOption(
            "--compile",
            type=click.Choice(["auto", "on", "off"]),
            default="auto",
            help="Compile the network. auto does so on a GPU, for long jobs.",
        ),
        SharedOption(
            "--batch-size",
            type=click.IntRange(1, 100_000),
            metavar="N",
            help="Images per batch. [default: chosen by device]",
        ),
        json_option(),
        quiet_option(),
    ]
    return OptionGroup("Model and run", [each for each in options if each.key not in without], "session", Session)


def condition_options() -> list[Option]:
    """Return the options of a `Condition`, one for each of its fields."""
    return [
        SharedOption("--prompt", metavar="TEXT", help="What the image shows, for models that follow prompts."),
        SharedOption("--negative-prompt", metavar="TEXT", help="What guidance leads away from."),
        SharedOption(
            "--class",
            argument="label",
            type=click.IntRange(0, 1_000_000),
            metavar="N",
            help="Number of a class, for models that follow classes.",
        ),
        SharedOption(
            "--guidance-scale",
            type=FiniteRange(-1000, 1000),
            metavar="W",
            help="Guidance scale; 1 is off. [default: 1]",
        ),
    ]


def condition_group() -> OptionGroup:
    """Return the options of a `Condition`, which become the command's `condition`: the fields that were given."""
    return OptionGroup("Prompt or class", condition_options(), "condition", _combine_condition)


def _combine_condition(**values: Any) -> dict[str, Any]:
    """Return the values that were given; refuse any for a packaged model, all of which are unconditional."""
    given = {name: value for name, value in values.items() if value is not None}
    model = click.get_current_context().params.get("model") or DEFAULT_MODEL
    if given and model in list_assets("models"):
        raise click.UsageError(f"{model} follows no prompt, class or guidance. Name a --model that does.")
    return given


def config_groups(*names: str) -> list[OptionGroup]:
    """Return options for fields of `InversionConfig`, which become the command's `config`: a dictionary of plain data.

    Args:
        names: of the fields, besides the condition.
    """
    options: list[Option] = []
    for each in fields(_config_class()):
        if each.name in names:
            options += _field_options(each)
            if each.name == "grid":
                options.append(_times_option())
    return [
        OptionGroup("Inversion", options, "config", _combine_config),
        OptionGroup("Prompt or class", condition_options(), "config", _combine_config),
    ]


def inversion_groups(*without: str) -> list[OptionGroup]:
    """Return options for all fields of `InversionConfig` but some, and --lossless, as `config_groups`."""
    inversion, condition = config_groups(*(each.name for each in fields(_config_class()) if each.name not in without))
    lossless = SharedOption("--lossless", is_flag=True, help=f"Use {LOSSLESS}, a solver that is exact by algebra.")
    return [replace(inversion, parameters=[*inversion.parameters, lossless]), condition]


def _times_option() -> Option:
    return SharedOption(
        "--times",
        type=Text(parse_times),
        metavar="T,T,...",
        help="The very times to visit, instead of --grid and --steps; a time is diffusers' timestep + 1.",
    )


def _config_class() -> "type[InversionConfig]":
    from ddim_edit import InversionConfig

    return InversionConfig


def _field_options(field: "Field[Any]") -> list[Option]:
    """Return the options of a field of `InversionConfig`: its flag, type, default and help."""
    if field.name == "condition":
        return []  # which has options of its own
    help_text = field.metadata["help"]
    flag = f"--{field.metadata.get('flag', field.name)}"
    if field.name == "dequantise":
        seed_help = "Seed of that noise; each image has its own."
        return [
            SharedOption(f"{flag}/--no-{flag.removeprefix('--')}", default=True, help=help_text),
            SharedOption(f"{flag}-seed", type=SEED, default=field.default, metavar="N", help=seed_help),
        ]
    if isinstance(field.default, bool):
        return [SharedOption(flag, argument=field.name, is_flag=True, help=help_text)]
    attributes = {"help": help_text, "default": field.default, **_click_attributes(field.name)}
    if field.name == "solver":
        # Without a default, so that --lossless and --eta can tell whether a solver was asked for.
        attributes |= {"help": f"{help_text} [default: {field.default}]", "default": None}
    return [SharedOption(flag, argument=field.name, **attributes)]


def _click_attributes(name: str) -> dict[str, Any]:
    """Return what click needs to know of a field of `InversionConfig` besides its default and help."""
    if name == "solver":
        from ddim_edit import SOLVER_ENTRIES

        return {"type": click.Choice(list(SOLVER_ENTRIES))}
    if name == "grid":
        return {"type": Text(parse_grid), "metavar": "NAME", "help": f"Grid of timesteps: {grid_forms()}, or auto."}
    if name == "refine":
        from ddim_edit import REFINERS

        return {"type": click.Choice(list(REFINERS))}
    return {
        "steps": {"type": click.IntRange(1, 10_000), "metavar": "N"},
        "tol": {"type": FiniteRange(0, 1, min_open=True), "metavar": "E", "default": None},
        "level": {"type": Text(parse_level), "metavar": "T|xT|h"},
    }.get(name, {})


def _combine_config(
    solver: str | None,
    lossless: bool = False,
    dequantise: bool | None = None,
    dequantise_seed: int = 0,
    tol: float | None = None,
    level: str | None = None,
    times: str | None = None,
    **values: Any,
) -> dict[str, Any]:
    """Return fields of `InversionConfig` as the plain data that recipes record."""
    if lossless and solver not in (None, LOSSLESS):
        raise click.UsageError(f"--lossless is --solver {LOSSLESS}; it does not go with --solver {solver}.")
    condition = _combine_condition(**{name: values.pop(name) for name in CONDITION})
    config = {
        **values,
        "solver": LOSSLESS if lossless else solver or _config_class().solver,
        "condition": condition,
    }
    if dequantise is not None:
        config["dequantise"] = dequantise_seed if dequantise else None
    if times is not None and _replaces("times", "grid", "steps"):
        config |= {"grid": times, "steps": times.count(",")}
    # Recipes hold these only where they were asked for.
    if tol is not None:
        config["tol"] = tol
    if level is not None:
        config["level"] = level
    return config


def make_config(config: Mapping[str, Any]) -> "InversionConfig":
    """Return the `InversionConfig` of what the options of `config_groups` say.

    Raises:
        UsageError: the grid is still to be found.
    """
    from ddim_edit import Condition, InversionConfig

    if config.get("grid") == AUTO:
        raise click.UsageError(
            "--grid auto is for invert, reconstruct, edit, interpolate and combine. Find a grid with `ddim-edit tune` "
            "and name it."
        )
    return InversionConfig(**{**config, "condition": Condition(**config["condition"])})


def parse_grid(text: str) -> str:
    """Return the name of a grid as it is, or auto.

    Raises:
        ValueError: no such grid.
    """
    from ddim_edit import find_grid

    if text != AUTO:
        find_grid(text)
    return text


def parse_times(text: str) -> str:
    """Return the name of the grid of these times.

    Raises:
        ValueError: fewer than two times, or something else.
    """
    return parse_grid(f"times:{','.join(word.strip() for word in text.split(',') if word.strip())}")


def _replaces(option: str, *others: str) -> bool:
    """Return whether an option takes the place of others, none of which was typed after it was set elsewhere.

    Raises:
        UsageError: both were typed.
    """
    context = click.get_current_context()
    typed = [name for name in others if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if typed and context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
        raise click.UsageError(f"--{option} takes the place of --{typed[0]}. Leave one of them out.")
    return not typed


def grid_forms() -> str:
    """Return the names of all grids, each with its parameter if it has one."""
    from ddim_edit import GRID_ENTRIES

    return ", ".join(entry.form for entry in GRID_ENTRIES.values())


def parse_level(text: str) -> str:
    """Return a level as it is.

    Raises:
        ValueError: a text of another form. Whether the model has such a time is known only when it is loaded.
    """
    from ddim_edit.latents import spaces

    try:
        spaces.parse_level(text, LATEST)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a level: a time (400), a part of T (0.4T), xT, h, h:LEVEL (h:0.2T) or guided:LEVEL."
        ) from None
    return text


def level_option(help_text: str, default: str | None = None) -> Option:
    """Return a --level of a command that does not take it from an `InversionConfig`."""
    return Option("--level", type=Text(parse_level), default=default, metavar="T|xT|h", help=help_text)


def fps_option(help_text: str) -> Option:
    """Return --fps."""
    return Option(
        "--fps",
        type=FiniteRange(1, 50),
        metavar="F",
        help=f"{help_text} [default: 12, but at least two seconds in all]",
    )


def upscale_option(help_text: str) -> Option:
    """Return --upscale."""
    return SharedOption("--upscale", type=click.IntRange(1, 16), metavar="N", help=help_text)
