"""Options from a file and from the environment, and what shells complete."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddim_edit import InversionConfig
from ddim_edit.cli import main
from ddim_edit.cli.main import commands

from .conftest import Run
from .test_help import HEAVY

Parse = Callable[..., dict[str, Any]]
Config = Callable[[str | bytes], list[str]]
INVERT = ("invert", "a.png", "-o", "out")


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Returns the values of a command line's options by their names on the command line; no command is run."""
    found: dict[str, Any] = {}
    for command in commands.loaded:
        monkeypatch.setattr(command, "callback", lambda **values: found.update(values))

    def parse(*line: object) -> dict[str, Any]:
        found.clear()
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in line])
        assert left.value.code == 0
        return dict(found)

    return parse


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Returns the words of a command line that name a file with this text."""

    def write(text: str | bytes) -> list[str]:
        file = tmp_path / "run.toml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return ["--config", str(file)]

    return write


def test_file_sets_options_that_were_not_typed(parse: Parse, config: Config) -> None:
    text = """
        device = "cpu"
        [default]
        batch-size = 3
        [invert]
        steps = 50
        exact = true
        dequantise = false
        size = 64
        tol = 1
        level = 400
        json = true
        output = "elsewhere"
        [edit]
        set = ["old=+2", "female=-1.5"]
        keep = "smile"
    """
    options = parse(*config(text), "invert", "a.png")
    assert (options["device"], options["batch_size"], options["steps"]) == ("cpu", 3, 50)
    assert (options["exact"], options["dequantise"], options["json"]) == (True, False, True)
    assert (options["size"], options["tol"], options["level"]) == ((64, 64), 1.0, "400")
    assert options["output"] == Path("elsewhere")
    options = parse(*config(text), "edit", "a.png", "-o", "out")
    assert (options["set"], options["keep"]) == ((("old", 2), ("female", -1.5)), ("smile",))
    assert (options["device"], options["output"]) == ("cpu", Path("out"))


def test_table_of_a_command_overrides_shared_options(parse: Parse, config: Config) -> None:
    lines = config('steps = 7\nmodel = "a"\n[invert]\nsteps = 9')
    assert parse(*lines, *INVERT)["steps"] == 9
    assert parse(*lines, "sample", "-o", "out")["steps"] == 7
    assert parse(*lines, "directions")["model"] == "a"
    assert parse(*lines, "train", "faces", "-o", "out")["steps"] == 10_000  # whose steps are other ones


def test_precedence_is_typed_environment_file_default(
    parse: Parse, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parse(*INVERT)["steps"] == 20
    file = config("[invert]\nsteps = 11")
    assert parse(*file, *INVERT)["steps"] == 11
    monkeypatch.setenv("DDIM_EDIT_STEPS", "12")
    assert parse(*file, *INVERT)["steps"] == 12
    monkeypatch.setenv("DDIM_EDIT_INVERT_STEPS", "13")
    assert parse(*file, *INVERT)["steps"] == 13
    assert parse("sample", "-o", "out")["steps"] == 12
    assert parse(*file, *INVERT, "--steps", "14")["steps"] == 14


def test_variables_set_flags_lists_and_shared_options(
    parse: Parse, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "DDIM_EDIT_MODEL": "a",
        "DDIM_EDIT_OFFLINE": "1",
        "DDIM_EDIT_EDIT_SET": "old=+2 female=-1",
        "DDIM_EDIT_EDIT_JSON": "yes",
        "DDIM_EDIT_INTERPOLATE_SHEET": "3x4",
        "DDIM_EDIT_QUIET": "",
    }.items():
        monkeypatch.setenv(name, value)
    options = parse("edit", "a.png", "-o", "out")
    assert (options["model"], options["offline"], options["json"], options["quiet"]) == ("a", True, True, False)
    assert options["set"] == (("old", 2), ("female", -1))
    options = parse("interpolate", "a", "b", "-o", "out.png")
    assert (options["sheet"], options["grid"]) == ((3, 4), InversionConfig().grid)
    monkeypatch.setenv("DDIM_EDIT_CONFIG", config("[edit]\nupscale = 5")[1])
    assert parse("edit", "a.png", "-o", "out")["upscale"] == 5


@pytest.mark.parametrize("name", ["DDIM_EDIT_DEVICE", "DDIM_EDIT_INVERT_DEVICE"])
def test_empty_variables_count_as_unset(parse: Parse, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "")
    assert parse(*INVERT)["device"] == "auto"


def test_dtype_in_file_equals_typed_dtype(config: Config, run: Run, tmp_path: Path, model: Path) -> None:
    text = f'model = "{model}"\n[sample]\noutput = "{tmp_path / "out"}"\nsteps = 2\njson = true\ndtype = "fp32"'
    outcome = run(*config(text), "sample")
    assert outcome.status == 0, outcome.err
    assert "in float32 on cpu" in outcome.err
    assert outcome.rows == [{"output": str(tmp_path / "out" / "seed-0000.png"), "seed": 0}]


WRONG: dict[str, tuple[str | bytes, str]] = {
    "a command": ("[invrt]", "there is no command 'invrt'. Did you mean 'invert'?"),
    "an option": ("[invert]\nstep = 3", "'step' is not an option of invert. Did you mean 'steps'?"),
    "an underscore": ("[invert]\nbatch_size = 3", "Did you mean 'batch-size'?"),
    "an argument": ('[invert]\nimages = "a.png"', "'images' is not an option of invert."),
    "a shared option": ('devise = "cpu"', "'devise' is not an option that commands share. Did you mean 'device'?"),
    "one that is not shared": ('[default]\nsheet = "3x3"', "'sheet' is not an option that commands share."),
    "a list for one": ('[invert]\nmodel = ["a"]', "model of invert takes one value, not a table or list."),
    "a table for one": ('[invert.model]\nname = "a"', "model of invert takes one value, not a table or list."),
    "no TOML": ("steps: 3", "not a TOML file: "),
    "another encoding": ("[invert]\nmodel = 'ä'".encode("latin-1"), "not a TOML file: "),
    "deep": ("a = " + "[\n" * 30_000, "not a TOML file: "),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_wrong_names_in_a_file_are_reported_in_one_sentence(
    run: Run, config: Config, text: str | bytes, words: str
) -> None:
    outcome = run(*config(text), "models")
    assert (outcome.status, outcome.out) == (2, "")
    sentence = outcome.err.splitlines()[-1]
    assert sentence.startswith("Error: ")
    assert words in sentence
    assert "run.toml" in sentence
    assert len(sentence) < 400


@pytest.mark.parametrize(
    "text", ["steps = 2.5", "steps = true", "steps = 0", "tol = 0", "exact = 3", 'dtype = "int8"', 'crop = "1,2"']
)
def test_wrong_value_in_file_names_the_file(run: Run, config: Config, text: str) -> None:
    file = config(f"[invert]\n{text}")
    outcome = run(*file, *INVERT)
    assert outcome.status == 2
    assert outcome.err.endswith(f", as {file[1]} says.\n")


@pytest.mark.parametrize("name", ["absent.toml", "."])
def test_missing_config_file_is_refused(run: Run, tmp_path: Path, name: str) -> None:
    outcome = run("--config", tmp_path / name, "models")
    assert outcome.status == 2
    assert "Invalid value for '--config'" in outcome.err


@pytest.mark.parametrize(("name", "value"), [("DDIM_EDIT_INVERT_STEPS", "many"), ("DDIM_EDIT_EXACT", "perhaps")])
def test_wrong_value_in_environment_names_the_variable(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    outcome = run(*INVERT)
    assert outcome.status == 2
    assert value in outcome.err.splitlines()[-1]
    assert outcome.err.endswith(f", as {name} says.\n")


def complete(shell: str, task: str, *words: str, tab: str = "") -> list[str]:
    """What the program answers a shell, in a fresh process, which must load nothing heavy."""
    variables = {"_DDIM_EDIT_COMPLETE": f"{shell}_{task}", "COMP_WORDS": " ".join(["ddim-edit", *words, tab])}
    variables["COMP_CWORD"] = tab if shell == "fish" else str(len(words) + 1)
    script = (
        "import sys, atexit; from ddim_edit.cli import main\n"
        "atexit.register(lambda: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr))\nmain()"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True)
    assert not set(done.stderr.split()) & HEAVY
    return done.stdout.splitlines()


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete -o"), ("zsh", "#compdef"), ("fish", "complete --")])
def test_completion_script_for_every_shell(shell: str, word: str) -> None:
    script = "\n".join(complete(shell, "source"))
    assert word in script
    assert f"_DDIM_EDIT_COMPLETE={shell}_complete" in script


def test_completes_commands_options_choices_and_packaged_names() -> None:
    assert complete("bash", "complete", tab="in") == ["plain,invert", "plain,interpolate"]
    assert "plain,--steps" in complete("bash", "complete", "invert", tab="--st")
    assert complete("bash", "complete", "invert", "--solver", tab="bd") == ["plain,bdia"]
    assert complete("bash", "complete", "invert", "--model", tab="fa") == ["plain,faces64"]
    assert complete("bash", "complete", "invert", "--model", tab="./") == ["file,./"]
    assert complete("bash", "complete", "edit", "a.png", "--set", tab="li") == ["plain,light"]
    assert complete("bash", "complete", "edit", "--model", "another", "--set", tab="li") == ["file,li"]
