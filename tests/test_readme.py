"""The README is true: its Python runs as it stands, on pictures that the reader would have."""

import re
import shutil
from importlib import resources
from pathlib import Path

import pytest

from ddim_edit import Latent, images

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shelf = Path(str(resources.files("ddim_edit.assets"))) / "images"
    for name, source in {"a.png": "seed-0028.png", "b.png": "seed-0014.png"}.items():
        shutil.copy(shelf / source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert "'converged': True" in capsys.readouterr().out
    assert images.read("strip.png", (64, 9 * 66 - 2)).notes == ()
    assert Latent.load("a.latent.safetensors").recipe.model == "faces64"
