"""How far a command is: what is loaded, evaluations of those expected, the autoencoder, and the time left."""

import io
import logging
import os
import re
import threading
from functools import partial
from pathlib import Path

import pytest

from ddim_edit import Workload
from ddim_edit.cli import progress
from ddim_edit.cli.progress import Progress

from .. import pipelines, tiny
from .conftest import Run, files_in

FEW = ("--steps", "4")
LINE = re.compile(r"(?:(\w+) image [\d,]+, )?([\d,]+) of (about )?([\d,]+) evaluations(?:, at most ([\d,]*\d))?")


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painter")
    make = partial(pipelines.stable_diffusion, folder / "words")
    return pipelines.save(make, folder / "stable-diffusion", share=0.1)


@pytest.fixture
def a_line_for_every_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every event writes a line, as a slow run writes them."""
    monkeypatch.setattr(progress, "SHORTEST_SILENCE", 0.0)
    monkeypatch.setattr(progress, "LONGEST_SILENCE", 0.0)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(threading.Thread, "start", lambda thread: None)  # nothing is written but what is asked for


def test_lines_report_evaluations_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    said: list[str] = []
    with Progress(said.append, False) as shown:
        shown.expect(10, Workload.exactly(200))
        for _ in range(20):
            clock.now += 6
            shown.count(4)
    assert said[0] == "8 of 200 evaluations, about 4:48 left"
    assert said[-1] == "80 of 200 evaluations, about 3:00 left"
    assert len(said) == 10


def test_long_runs_write_fewer_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    said: list[str] = []
    with Progress(said.append, False) as shown:
        shown.expect(1, Workload.exactly(100_000))
        for _ in range(20_000):
            clock.now += 1
            shown.count(1)
    assert 300 < len(said) < 400


def test_unknown_numbers_of_evaluations_are_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with Progress(print, False) as shown:
        shown.expect(4, 4 * Workload(100, 480))
        clock.now = 8
        shown.count(40)
        assert shown.describe() == "40 of about 400 evaluations, at most 1,920, about 1:12 left"
        shown.count(20)
        shown.finish_images(1)
        assert shown.describe() == "60 of about 240 evaluations, about 0:24 left"


def test_time_of_the_autoencoder_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with Progress(print, False) as shown:
        shown.expect(2, Workload.exactly(8), codec_passes=2)
        shown.begin("encoding")
        clock.now += 5
        shown.begin("inverting")
        clock.now += 8
        shown.count(8)
        shown.begin("decoding")
        clock.now += 15
        shown.begin("decoding")
        # 20 seconds for the first two of four passes, and the third has begun.
        assert shown.describe() == "decoding image 2, 8 of 8 evaluations, about 0:07 left"


def commands(kit: dict[str, Path]) -> dict[str, list[object]]:
    images = kit["in"]
    return {
        "invert": ["invert", images, *FEW],
        "invert --check": ["invert", images, *FEW, "--check"],
        "invert heun": ["invert", images, *FEW, "--solver", "heun", "--level", "0.4T"],
        "invert edict": ["invert", images, *FEW, "--solver", "edict"],
        "invert store": ["invert", images, *FEW, "--shard-size", "3"],
        "reconstruct": ["reconstruct", images, *FEW, "--batch-size", "3"],
        "reconstruct lossless": ["reconstruct", images, *FEW, "--lossless"],
        "decode": ["decode", kit["latents"]],
        "decode store": ["decode", kit["store"]],
        "sample": ["sample", "-n", "3", *FEW],
        "sample eta": ["sample", "-n", "3", *FEW, "--eta", "1"],
        "interpolate": ["interpolate", *sorted(kit["latents"].iterdir())[:2], "--frames", "5"],
        "edit": ["edit", images, "--set", f"{kit['directions']}/old.direction.safetensors=1"],
        "edit strip": ["edit", images, "--set", f"{kit['directions']}/old.direction.safetensors", "--strip", "-1:1:3"],
        "edit h": ["edit", images, "--set", f"{kit['directions']}/deep.direction.safetensors=1"],
        "likelihood": ["likelihood", images, "--steps", "2", "--probes", "2", "--model", kit["model"]],
        "evaluate": ["evaluate", images, "--steps", "2,3", "--solvers", "dpm2m,heun", "--model", kit["model"]],
        "translate": ["translate", images, *FEW, "--to", kit["model"]],
        "fit": ["fit", "x", "--with", images, "--without", kit["others"], *FEW, "--level", "0.4T"],
    }


@pytest.mark.parametrize(
    "name", commands(dict.fromkeys(["in", "latents", "store", "directions", "model", "others"], Path()))
)
@pytest.mark.usefixtures("a_line_for_every_event")
def test_as_many_evaluations_are_made_as_were_expected(
    run: Run, done: Run, model: Path, pictures: list[Path], latents: list[Path], fitted: Path, tmp_path: Path, name: str
) -> None:
    for seed in range(3):
        tiny.save_picture(tmp_path / "others" / f"{seed}.png", 10 + seed)
    store = tmp_path / "some.latents"
    if name == "decode store":
        done("invert", *pictures, "-o", store, *FEW, "-q")
    kit = {"in": tmp_path / "in", "latents": latents[0].parent, "store": store, "directions": fitted, "model": model}
    line = commands({**kit, "others": tmp_path / "others"})[name]
    output = {"fit": "x.direction.safetensors", "invert store": "new.latents"}.get(name, "out")
    target = [] if name == "likelihood" else ["-o", tmp_path / output]
    outcome = done(*line, *target)
    lines = [found for line in outcome.err.splitlines() if (found := LINE.search(line))]
    assert lines
    assert {found[4] for found in lines} == {lines[-1][2]}, outcome.err
    assert not LINE.search(outcome.out)
    quiet = done(*line, *target, "-q", *([] if name == "likelihood" else ["--overwrite"]))
    assert not [each for each in quiet.err.splitlines() if not each.startswith("warning: ")]


@pytest.mark.usefixtures("a_line_for_every_event")
def test_exact_inversions_report_expected_and_largest_numbers(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    outcome = done("invert", *pictures, "-o", tmp_path / "out", *FEW, "--exact", "--batch-size", "2")
    lines = [found for line in outcome.err.splitlines() if (found := LINE.search(line))]
    assert lines[0].groups()[1:] == ("2", "about ", "64", "384")
    assert lines[-1][2] == lines[-1][4]


@pytest.mark.usefixtures("a_line_for_every_event")
def test_components_and_stages_of_a_pipeline_are_reported(
    done: Run, painter: Path, pictures: list[Path], tmp_path: Path
) -> None:
    line = ["reconstruct", *pictures[:2], "--model", painter, *FEW, "--prompt", "a photo", "-o", tmp_path / "out"]
    said = done(*line).err.splitlines()
    announced = [each.partition(" (")[0] for each in said if each.startswith(("loading", "encoding the"))]
    parts = ["loading unet", "loading vae", "loading text_encoder", "loading the tokenizers"]
    assert announced == [*parts, "encoding the empty prompt", "encoding the prompt 'a photo'"]
    stages = [found[1] for each in said if (found := LINE.search(each)) and found[1]]
    assert "decoding" in stages
    assert done(*line, "-q", "--overwrite").err == ""


def test_long_prompts_are_cut_with_a_warning_of_ours_alone(
    done: Run, painter: Path, pictures: list[Path], tmp_path: Path
) -> None:
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers")]
    for logger in loggers:
        logger.addHandler(handler)
    line = ["invert", pictures[0], "--model", painter, *FEW, "--prompt", "photo " * 100, "-o", tmp_path / "out", "-q"]
    outcome = done(*line)
    for logger in loggers:
        logger.removeHandler(handler)
    model = "stable-diffusion"
    assert outcome.err == (
        f"warning: {model}: the prompt has 102 tokens, and text_encoder reads the first 77. Shorten it.\n"
    )
    assert logged == []


def test_short_commands_report_no_progress(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    said = done("invert", pictures[0], "-o", tmp_path / "a").err
    assert "evaluations" not in said
    assert "loading" not in said
    assert files_in(tmp_path / "a")


def test_a_large_network_is_announced(
    done: Run, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddim_edit.models.announcements.SMALL", 1000)
    outcome = done("invert", pictures[0], "-o", tmp_path / "a", "--steps", "2")
    assert outcome.err.splitlines()[0].startswith("loading unet (0.")


def test_slow_loading_is_reported_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    said: list[str] = []
    with Progress(said.append, False) as shown:
        shown.announce("loading unet (6.9 GB)")
        clock.now += 25
        assert shown.describe() == "loading unet (6.9 GB): 0:25"
    assert said == ["loading unet (6.9 GB)"]


@pytest.mark.parametrize("columns", [0, 80])
def test_terminals_get_a_bar_if_they_know_their_width(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    Clock(monkeypatch)
    monkeypatch.setattr(progress.sys, "stderr", Terminal())
    monkeypatch.setattr(progress.os, "get_terminal_size", lambda number: os.terminal_size((columns, 24)))
    with Progress(print, False) as shown:
        shown.expect(2, Workload.exactly(40))
        shown.count(10)
        written = progress.sys.stderr.getvalue()
    assert ("of 40 evaluations" in written) == (columns > 0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2
