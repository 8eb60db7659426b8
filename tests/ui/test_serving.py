"""How the page is laid out and served, as far as that can be seen without a browser."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ddim_edit import ui
from ddim_edit.cli import main
from ddim_edit.cli.commands.ui import session_flags
from ddim_edit.cli.session import Session

Widgets = list[tuple[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def told(model: Path, fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `widgets_report.py` reports."""
    script, folder = Path(__file__).with_name("widgets_report.py"), tmp_path_factory.mktemp("laid")
    command = [sys.executable, str(script), str(model), str(fitted), str(folder)]
    env = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def labels(shown: Widgets, kind: str) -> list[str]:
    return [props["label"] for each, props in shown if each == kind]


def test_only_the_sliders_of_the_chosen_level_are_shown(told: dict[str, Any]) -> None:
    shown = told["fitted"]
    assert [label for label in labels(shown, "slider") if label in ("low", "old", "wide")] in (["low"], ["old", "wide"])
    assert labels(shown, "radio") == ["Level of the edit", "Range of the sliders", "Animation"]
    assert labels(shown, "checkboxgroup") == ["Keep"]


def test_without_directions_there_are_no_sliders_and_the_page_says_why(told: dict[str, Any]) -> None:
    shown = told["bare"]
    # Of an own box and of combinations, in groups that are hidden at first.
    weights = {f"Weight of {name}" for name in "ABCD"}
    assert set(labels(shown, "slider")) == {"Size in percent", "Across", "Down"} | weights
    assert labels(shown, "number") == ["Frames from each to the next", "How many", "First seed"]
    assert labels(shown, "radio") == ["Animation"]
    assert any("No directions come with this model" in props["value"] for kind, props in shown if kind == "markdown")


def test_a_page_leaves_nothing_in_the_package(told: dict[str, Any]) -> None:
    """Beside every subclass of its widgets gradio writes a stub file."""
    assert told
    assert not list(Path(ui.__file__).parent.glob("*.pyi"))


def test_errors_name_files_as_the_user_does_and_escape_html(told: dict[str, Any]) -> None:
    wanted = "my &lt;b&gt;.png: the file is &lt;empty&gt;. Save it again."
    assert told["sentence"] == wanted


def test_taken_ports_are_refused(told: dict[str, Any]) -> None:
    port, said = told["port"]
    assert said.startswith(f"Cannot listen on port {port}: ")


def test_without_gradio_the_extra_is_named_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as left:
        main(["ui", "--no-browser", "--model", "no such model"])
    assert left.value.code == 1
    assert "pip install 'ddim-edit[ui]'" in capsys.readouterr().err


def test_the_package_names_the_page_without_loading_it() -> None:
    script = "import sys; from ddim_edit import ui; ui.serve; print({'gradio', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_command_lines_name_the_model_as_the_page_was_told() -> None:
    assert session_flags(Session()) == []
    session = Session(
        "tiny",
        "cpu",
        "fp32",
        (384, 512),
        offline=True,
        compile="off",
        batch_size=2,
        base="parts",
        offload="model",
        runtime="torch",
        encoder_dtype="bf16",
    )
    assert session_flags(session) == [
        *("--model", "tiny", "--base", "parts"),
        *("--encoder-dtype", "bf16", "--offload", "model", "--runtime", "torch", "--device", "cpu", "--dtype", "fp32"),
        *("--size", "512x384", "--compile", "off", "--batch-size", "2", "--offline"),
    ]
