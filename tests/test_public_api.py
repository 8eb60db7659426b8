import subprocess
import sys

import click
import pytest

import ddim_edit
from ddim_edit import GRIDS, REFINERS, SOLVERS, InversionConfig
from ddim_edit.cli import fitting, interpolating, looking, options, probing, sampling
from ddim_edit.cli.main import commands
from ddim_edit.directions import ESTIMATORS, SUFFIX
from ddim_edit.latents.interpolation import INTERPOLATIONS
from ddim_edit.models.families.family import SINGLE_FILE_SUFFIXES
from ddim_edit.plots import plot_suffixes


def test_public_names_load() -> None:
    assert all(getattr(ddim_edit, name) is not None for name in ddim_edit.__all__)


@pytest.mark.parametrize("statement", ["import ddim_edit", "from ddim_edit import DDIMEditError"])
def test_importing_the_package_imports_nothing_heavy(statement: str) -> None:
    script = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "PIL", "safetensors", "click", "diffusers"} & set(done.stdout.split())


# What the command line writes out so that it need not load the library for --help.


def test_the_command_line_knows_the_names_of_the_registries() -> None:
    assert tuple(SOLVERS) == options.SOLVER_NAMES
    assert tuple(GRIDS) == options.GRID_NAMES
    assert tuple(REFINERS) == options.REFINER_NAMES
    assert tuple(INTERPOLATIONS) == interpolating.BLEND_NAMES
    assert set(ESTIMATORS) == set(fitting.METHOD_NAMES)
    assert SUFFIX == fitting.DIRECTION
    assert set(SINGLE_FILE_SUFFIXES) == set(looking.CHECKPOINTS)
    assert plot_suffixes() == probing.PLOTS


def default(command: str, name: str) -> object:
    found = {parameter.name: parameter for parameter in commands.commands[command].params}
    assert isinstance(found[name], click.Option)
    return found[name].default


@pytest.mark.parametrize("command", ["invert", "reconstruct", "interpolate", "sample", "translate", "fit", "probe"])
def test_the_command_line_has_the_defaults_of_the_library(command: str) -> None:
    method = InversionConfig()
    assert default(command, "grid") == method.grid
    assert default(command, "steps") == method.steps
    if command not in ("sample", "fit", "probe"):
        assert (default(command, "seed"), default(command, "dequantise")) == (method.dequantise, True)


def test_a_bare_command_line_asks_for_the_default_method() -> None:
    told = {}

    @click.command()
    @options.with_method()
    def spy(method: dict[str, object]) -> None:
        told.update(method)

    spy.main(args=[], standalone_mode=False)
    assert options.make_method(told) == InversionConfig()
    assert options.LOSSLESS in SOLVERS
    spy.main(args=["--lossless"], standalone_mode=False)
    assert told["solver"] == options.LOSSLESS


def test_every_grid_name_and_rho_is_taken_by_the_command_line() -> None:
    for name in (*GRIDS, "karras:1", "karras:7.5", "karras:14", "flow:3"):
        assert options.grid_name(click.Context(sampling.sample), sampling.sample.params[0], name) == name
