import subprocess
import sys

import pytest

import ddim_edit
from ddim_edit.cli import files, options, types
from ddim_edit.cli.commands import fit
from ddim_edit.directions import ESTIMATORS, direction
from ddim_edit.latents import latent


def test_public_names_load() -> None:
    assert all(getattr(ddim_edit, name) is not None for name in ddim_edit.__all__)


@pytest.mark.parametrize("statement", ["import ddim_edit", "from ddim_edit import DDIMEditError"])
def test_importing_the_package_imports_nothing_heavy(statement: str) -> None:
    script = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "PIL", "safetensors", "click", "diffusers"} & set(done.stdout.split())


def test_suffixes_that_the_command_line_writes_out_so_that_it_starts_fast() -> None:
    assert types.DIRECTION == direction.SUFFIX
    assert files.LATENT == latent.SUFFIX
    assert types.DEFAULT_MODEL in ddim_edit.packaged_models()
    assert fit.DEFAULT_ESTIMATOR in ESTIMATORS
    assert options.LOSSLESS in ddim_edit.SOLVERS
