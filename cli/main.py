"""The program `ddim-edit`: the group of its commands, and how each of them ends."""

import atexit
import gc
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from ddim_edit.errors import DDIMEditError, InputWarning

from .command import ENVIRONMENT
from .config import read_config
from .group import CommandGroup
from .session import error_text

FAILED = 1
INTERRUPTED = 130

# As it ends, the interpreter looks for garbage among all that PyTorch has made, which takes it most of a second.
# What is frozen is left to the operating system.
atexit.register(gc.freeze)


@click.group(
    cls=CommandGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
        "show_default": True,
        "auto_envvar_prefix": ENVIRONMENT,
    },
)
@click.version_option(None, "-V", "--version", package_name="ddim-edit")
@click.option(
    "--config",
    callback=read_config,
    expose_value=False,
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    metavar="FILE",
    help="TOML file with options: a table for each command. Options that are typed, or in the environment, win.",
)
def commands() -> None:
    """Invert images to the noise latent x_T of a diffusion model, decode, interpolate, edit and measure them.

    Everything runs offline on the packaged model faces64 unless --model names another one. Results go to files and
    to standard output, notes and progress to standard error.

    \b
    Examples:
      ddim-edit reconstruct portrait.jpg -o out/
      ddim-edit interpolate a.png b.png -o out/a-to-b.webp --frames 13
      ddim-edit edit portrait.jpg --set old=+6 -o out/
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit: 0 done, 1 something failed, 2 wrong use, 130 interrupted."""
    _yield_busy_processors()
    with warnings.catch_warnings():
        told: set[str] = set()
        # What the library warns of is told as the program tells its own warnings.
        warnings.simplefilter("always", InputWarning)
        warnings.showwarning = partial(_print_warning, warnings.showwarning, told)
        status = _run(arguments)
    sys.exit(status)


def _yield_busy_processors() -> None:
    """Have threads sleep while they wait for one another, where more is running than there are processors.

    By default OpenMP's threads spin at the end of each layer. Where other programs run in their place, one spins while
    the other has no processor: an evaluation was ten times slower (docs/performance.md). Read when torch is imported.
    """
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1):
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _print_warning(
    default: Callable[..., None], told: set[str], message: Warning | str, category: type[Warning], *place: Any
) -> None:
    if not issubclass(category, InputWarning):
        default(message, category, *place)
    elif str(message) not in told:  # batches repeat it
        told.add(str(message))
        click.echo(f"warning: {message}", err=True)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        status = commands.main(args=arguments, prog_name="ddim-edit", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has gone; writing to it again at exit must not raise once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (DDIMEditError, OSError) as error:
        click.echo(f"error: {error_text(error)}", err=True)
        return FAILED
    except (MemoryError, RuntimeError) as error:
        from ddim_edit.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        click.echo("error: memory ran out. Choose a smaller --size or --batch-size, or another --device.", err=True)
        return FAILED
    return int(status or 0)
