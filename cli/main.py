"""The command `ddim-edit`: its group of commands, and how every one of them ends."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from ddim_edit import DDIMEditError

from . import (
    converting,
    editing,
    evaluating,
    fitting,
    interpolating,
    inverting,
    looking,
    measuring,
    probing,
    sampling,
    serving,
    training,
)
from .completing import let_shells_complete
from .config import let_environment_set, read_config, with_source
from .session import plainly

FAILED, INTERRUPTED = 1, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ddim-edit")
@click.option(
    "--config",
    callback=read_config,
    expose_value=False,
    envvar="DDIM_EDIT_CONFIG",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML file with a table of options for each command; what is typed or in the environment comes first.",
)
def commands() -> None:
    """Pictures to the noise latent x_T of a diffusion model and back: invert, decode, interpolate, edit, measure.

    Everything runs offline on the packaged model faces64 unless --model names another one. Results go to files and
    to standard output, notes and progress to standard error.

    \b
    ddim-edit reconstruct portrait.jpg -o out/
    ddim-edit interpolate a.png b.png -o out/a-to-b.webp --frames 25
    ddim-edit edit portrait.jpg --set old=+6 -o out/
    """


for command in (
    inverting.invert,
    inverting.decode,
    inverting.reconstruct,
    interpolating.interpolate,
    editing.edit,
    editing.translate,
    sampling.sample,
    converting.export_command,
    converting.import_command,
    fitting.fit,
    fitting.directions,
    probing.probe,
    evaluating.evaluate,
    measuring.likelihood,
    training.train,
    serving.ui,
    looking.show,
    looking.models,
    looking.env,
):
    commands.add_command(command)
let_environment_set(commands)
let_shells_complete(commands)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and leave: 0 done, 1 something failed, 2 wrong use, 130 interrupted."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        status = commands.main(args=arguments, prog_name="ddim-edit", standalone_mode=False)
    except click.ClickException as error:
        with_source(error).show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has gone; writing to it again at exit must not raise once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (DDIMEditError, OSError) as error:
        click.echo(f"error: {plainly(error)}", err=True)
        return FAILED
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        click.echo("error: memory ran out: choose a smaller --size or --batch-size, or another --device", err=True)
        return FAILED
    return int(status or 0)


def _is_out_of_memory(error: Exception) -> bool:
    from ddim_edit.memory import is_out_of_memory

    return is_out_of_memory(error)
