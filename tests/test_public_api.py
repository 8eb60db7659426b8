import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ddim_edit
from ddim_edit.cli import files, options, types
from ddim_edit.cli.commands import fit
from ddim_edit.directions import ESTIMATORS, direction
from ddim_edit.latents import latent


def test_public_names_load() -> None:
    assert all(getattr(ddim_edit, name) is not None for name in ddim_edit.__all__)


def test_no_public_name_is_that_of_a_module_of_its_package() -> None:
    """The import of such a module would put it in the place of what is public, except with lazy_loader 0.6 or newer."""
    shadowed = set()
    for stub in Path(ddim_edit.__path__[0]).rglob("__init__.pyi"):
        modules = {path.stem for path in stub.parent.iterdir() if path.suffix == ".py" or path.is_dir()}
        for statement in ast.parse(stub.read_text()).body:
            if isinstance(statement, ast.ImportFrom) and statement.module:
                shadowed |= {(str(stub), each.name) for each in statement.names if each.name in modules}
    assert shadowed == set()


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
