"""Options from a file and from the environment, and what shells are told of all of them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from ddim_edit.cli import main
from ddim_edit.cli.config import LARGEST, LONGEST, name_of
from ddim_edit.cli.main import commands

from .conftest import Run
from .test_help import HEAVY

HistoryEntry = Callable[..., dict[str, Any]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> HistoryEntry:
    """The options that a command line comes to, by their names in Python; no command is run."""
    found: dict[str, Any] = {}
    for command in commands.commands.values():
        monkeypatch.setattr(command, "callback", lambda **options: found.update(options))

    def see(*line: object) -> dict[str, Any]:
        found.clear()
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in line])
        assert left.value.code == 0
        return dict(found)

    return see


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], list[str]]:
    """The words of a command line that name a file with this text."""

    def write(text: str | bytes) -> list[str]:
        file = tmp_path / "run.toml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return ["--config", str(file)]

    return write


Config = Callable[[str | bytes], list[str]]
INVERT = ("invert", "a.png", "-o", "out")


def test_a_file_sets_what_is_not_typed(seen: HistoryEntry, config: Config) -> None:
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
        json = true
        output = "elsewhere"
        [edit]
        set = ["old=+2", "female=-1.5"]
        keep = "smile"
    """
    options = seen(*config(text), "invert", "a.png")
    assert (options["device"], options["batch_size"], options["steps"]) == ("cpu", 3, 50)
    assert (options["exact"], options["dequantise"], options["as_json"]) == (True, False, True)
    assert (options["size"], options["tol"], options["output"]) == ((64, 64), 1.0, Path("elsewhere"))
    assert options["images"] == (Path("a.png"),)
    options = seen(*config(text), "edit", "a.png", "-o", "out")
    assert (options["settings"], options["keep"]) == ({"old": 2, "female": -1.5}, ("smile",))
    assert (options["device"], options["output"]) == ("cpu", Path("out"))


def test_the_table_of_a_command_beats_what_all_share(seen: HistoryEntry, config: Config) -> None:
    lines = config('steps = 7\nmodel = "a"\n[default]\nseed = 3\n[invert]\nsteps = 9')
    assert seen(*lines, *INVERT)["steps"] == 9
    assert seen(*lines, "sample", "-o", "out")["steps"] == 7
    assert seen(*lines, "sample", "-o", "out")["seed"] == 3
    assert seen(*lines, "directions")["model"] == "a"


def test_typed_beats_environment_beats_file_beats_default(
    seen: HistoryEntry, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seen(*INVERT)["steps"] == 20
    file = config("[invert]\nsteps = 11")
    assert seen(*file, *INVERT)["steps"] == 11
    monkeypatch.setenv("DDIM_EDIT_STEPS", "12")
    assert seen(*file, *INVERT)["steps"] == 12
    monkeypatch.setenv("DDIM_EDIT_INVERT_STEPS", "13")
    assert seen(*file, *INVERT)["steps"] == 13
    assert seen("sample", "-o", "out")["steps"] == 12
    assert seen(*file, *INVERT, "--steps", "14")["steps"] == 14


def test_every_option_of_every_command_has_a_variable_of_its_own() -> None:
    names = [
        name
        for command in commands.commands.values()
        for each in command.params
        if isinstance(each, click.Option)
        for name in [f"DDIM_EDIT_{command.name}_{name_of(each)}".replace("-", "_").upper()]
        if name in (each.envvar or ())
    ]
    options = sum(isinstance(each, click.Option) for command in commands.commands.values() for each in command.params)
    assert len(set(names)) == options > 100


def test_variables_set_flags_lists_and_shared_options(
    seen: HistoryEntry, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "DDIM_EDIT_MODEL": "a",
        "DDIM_EDIT_DEVICE": "cpu",
        "DDIM_EDIT_DTYPE": "bf16",
        "DDIM_EDIT_OFFLINE": "1",
        "DDIM_EDIT_EDIT_SET": "old=+2 female=-1",
        "DDIM_EDIT_EDIT_JSON": "yes",
        "DDIM_EDIT_INTERPOLATE_GRID": "3x4",
        "DDIM_EDIT_QUIET": "",
    }.items():
        monkeypatch.setenv(name, value)
    options = seen("edit", "a.png", "-o", "out")
    assert (options["model"], options["device"], options["dtype"]) == ("a", "cpu", "bf16")
    assert (options["offline"], options["as_json"], options["quiet"]) == (True, True, False)
    assert options["settings"] == {"old": 2, "female": -1}
    options = seen("interpolate", "a", "b", "-o", "out.png")
    assert (options["shape"], options["grid"]) == ((3, 4), "karras:14")
    monkeypatch.setenv("DDIM_EDIT_CONFIG", config("[edit]\nscale = 5")[1])
    assert seen("edit", "a.png", "-o", "out")["scale"] == 5


def test_a_dtype_of_the_file_is_as_one_that_is_typed(config: Config, run: Run, tmp_path: Path, model: Path) -> None:
    """Only where nobody named one does --exact choose it."""
    text = f'model = "{model}"\n[sample]\noutput = "{tmp_path / "out"}"\nsteps = 2\njson = true\ndtype = "fp32"'
    outcome = run(*config(text), "sample")
    assert outcome.status == 0, outcome.err
    assert "in float32 on cpu" in outcome.err
    assert outcome.rows == [{"output": str(tmp_path / "out" / "seed-0000.png"), "seed": 0}]


WRONG: dict[str, tuple[str | bytes, str]] = {
    "a command": ("[invrt]", "'invrt' is no command; did you mean 'invert'?"),
    "an option": ("[invert]\nstep = 3", "'step' is no option of invert; did you mean 'steps'?"),
    "an option with a line": ("[invert]\nbatch_size = 3", "did you mean 'batch-size'?"),
    "an argument": ('[invert]\nimages = "a.png"', "'images' is no option of invert"),
    "help": ("[invert]\nhelp = true", "'help' is no option of invert."),
    "a shared option": ('devise = "cpu"', "'devise' is no option of any command; did you mean 'device'?"),
    "one of several meanings": ('[default]\ngrid = "quad"', "'grid' has another meaning in each command"),
    "a word for a number": ('[invert]\nsteps = "3"', "[invert] steps must be a whole number, not '3'"),
    "a fraction for a whole number": ("[invert]\nsteps = 2.5", "steps must be a whole number, not 2.5"),
    "a flag for a number": ("[invert]\nsteps = true", "steps must be a whole number, not True"),
    "a number for a flag": ("[invert]\nexact = 1", "exact must be true or false, not 1"),
    "a list for one": ('[invert]\nmodel = ["a"]', "model must be a text or a number, not a list"),
    "a table for one": ('[invert.model]\nname = "a"', "model must be a text or a number, not a table"),
    "a date": ("[invert]\nmodel = 2024-01-01", "model must be a text or a number, not datetime.date(2024, 1, 1)"),
    "a number for a choice": ("[invert]\ndtype = 16", "dtype must be a text, not 16"),
    "a number for a path": ("[invert]\noutput = 3", "output must be a text, not 3"),
    "nan": ("[invert]\ntol = nan", "tol must be a number, not nan"),
    "out of range": ("[invert]\nsteps = 0", "[invert] steps cannot be: 0 is not in the range"),
    "no choice": ('[invert]\ndtype = "int8"', "dtype cannot be: 'int8' is not one of"),
    "a malformed text": ('[invert]\ncrop = "1,2"', "crop cannot be: '1,2' is not X,Y,SIZE"),
    "a NUL": ('[invert]\noutput = "a\\u0000b"', "output must be a text, not 'a\\x00b'"),
    "in a list": ('[edit]\nset = ["old=1", "old=much"]', "set cannot be: 'old=much' is not NAME=STRENGTH"),
    "shared, wrong for all": ("[default]\nsteps = 0", "[default] steps cannot be: 0 is not in the range"),
    "a scalar for a table": ("invert = 3", "'invert' is no option of any command"),
    "tables in a list": ("[[invert]]\nsteps = 3", "'invert' is no option of any command"),
    "no TOML": ("steps: 3", "which is none ("),
    "twice": ("[invert]\nsteps = 3\nsteps = 4", "which is none ("),
    "another encoding": ("[invert]\nmodel = 'ä'".encode("latin-1"), "which is not UTF-8"),
    "deep": ("a = " + "[\n" * 30_000, "which is nested too deeply"),
    "a deep table": ("invert.model" + ".a" * 1_000 + " = 1", "text or a number, not a table"),
    "a long line": ("a" + ".a" * 20_000 + " = 1", f"which has a line of more than {LONGEST:,} bytes"),
    "infinity": ("[invert]\ntol = inf", "tol must be a number, not inf"),
    "a long number": ("[invert]\nsteps = 1" + "0" * 4_000, "whole number, not one of more than 64 bits"),
    "a longer one in hexadecimal": ("[invert]\nsteps = 0x1" + "0" * 4_000, "not one of more than 64 bits"),
    "a large file": (b"#" * (LARGEST + 1), f"which is larger than {LARGEST:,} bytes"),
    "binary": (bytes(range(256)), "which is not UTF-8"),
    "UTF-16": ("[invert]".encode("utf-16"), "which is not UTF-8"),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_in_a_file_is_said_in_one_sentence(
    run: Run, config: Config, text: str | bytes, words: str
) -> None:
    outcome = run(*config(text), "models")
    assert (outcome.status, outcome.out) == (2, "")
    (sentence,) = [line for line in outcome.err.splitlines() if line.startswith("Error: ")]
    assert words in sentence
    assert "run.toml" in sentence
    assert outcome.err.splitlines()[-1] == sentence
    assert len(sentence) < 400


@pytest.mark.parametrize("name", ["absent.toml", "."])
def test_a_file_that_is_none_is_wrong_use(run: Run, tmp_path: Path, name: str) -> None:
    outcome = run("--config", tmp_path / name, "models")
    assert outcome.status == 2
    assert "Wanted a TOML file" in outcome.err


@pytest.mark.parametrize(("name", "value"), [("DDIM_EDIT_INVERT_STEPS", "many"), ("DDIM_EDIT_EXACT", "perhaps")])
def test_what_is_wrong_in_a_variable_names_it(run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    outcome = run(*INVERT)
    assert outcome.status == 2
    assert value in outcome.err.splitlines()[-1]
    assert outcome.err.endswith(f", as {name} says.\n")


TOLD = """
import sys, atexit
from ddim_edit.cli import main
atexit.register(lambda: print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr))
main()
"""


def told(shell: str, task: str, *words: str, tab: str = "") -> list[str]:
    """What the program answers a shell, in a fresh process, which must load nothing heavy."""
    variables = {"_DDIM_EDIT_COMPLETE": f"{shell}_{task}", "COMP_WORDS": " ".join(["ddim-edit", *words, tab])}
    variables["COMP_CWORD"] = tab if shell == "fish" else str(len(words) + 1)
    script = "import sys, atexit; from ddim_edit.cli import main\n"
    script += (
        "atexit.register(lambda: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr))\nmain()"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True)
    assert not set(done.stderr.split()) & HEAVY
    return done.stdout.splitlines()


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete -o"), ("zsh", "#compdef"), ("fish", "complete --")])
def test_every_shell_gets_its_script(shell: str, word: str) -> None:
    script = "\n".join(told(shell, "source"))
    assert word in script
    assert f"_DDIM_EDIT_COMPLETE={shell}_complete" in script


def test_commands_options_choices_and_packaged_names_are_completed() -> None:
    assert told("bash", "complete", tab="in") == ["plain,interpolate", "plain,invert"]
    assert "plain,--steps" in told("bash", "complete", "invert", tab="--st")
    assert told("bash", "complete", "invert", "--solver", tab="bd") == ["plain,bdia"]
    assert told("bash", "complete", "invert", "--model", tab="fa") == ["plain,faces64"]
    assert told("bash", "complete", "invert", "--model", tab="./") == ["file,./"]
    assert told("bash", "complete", "edit", "a.png", "--set", tab="ol") == ["plain,old"]
    assert told("bash", "complete", "edit", "--model", "another", "--set", tab="ol") == ["file,ol"]


def test_zsh_and_fish_are_answered_too() -> None:
    assert told("zsh", "complete", "edit", "--keep", tab="ol")[:2] == ["plain", "old"]
    assert told("fish", "complete", "edit", "--keep", tab="ol")[0] == "plain,old"


@pytest.mark.parametrize(
    "name", ["model", "device", "dtype", "size", "offline", "compile", "batch-size", "json", "quiet", "steps", "output"]
)
def test_what_says_how_to_run_may_be_set_for_all_commands(name: str) -> None:
    """No command may use one of these flags for another thing."""
    found = [each for each in commands.commands["invert"].params if name_of(each) == name]
    assert [f"DDIM_EDIT_{name}".upper().replace("-", "_") in (each.envvar or ()) for each in found] == [True]
