"""`benchmarks/gpu_check.py` without a GPU: a rehearsal on a processor, and the verdicts on figures."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu_check
import pytest
from gpu import targets, watching
from gpu.checks import demo_commands
from gpu.page import JSON_LINES, PAGE, Results, compared
from gpu.plan import SECTIONS, Row, Section, Setting, find_section
from gpu.targets import COMPILED, HALF, PLAIN, Rows, verdicts
from gpu.variants import VARIANTS

from . import tiny

SCRIPT = Path(gpu_check.__file__)
Message = dict[str, Any]
Watched = Callable[..., list[Message]]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / JSON_LINES).read_text().splitlines()]


def setting(folder: Path, seconds: float = 60.0) -> Setting:
    return Setting("cpu", True, "", str(folder), time.monotonic() + seconds)


class TestPlan:
    def test_untimed_sections_run_first_and_in_parallel(self) -> None:
        first, *others = watching.in_groups(SECTIONS)
        assert [section.name for section in first] == [section.name for section in SECTIONS[: len(first)]]
        assert len(first) > 1
        assert all(len(group) == 1 for group in others)

    def test_budgets_fit_the_total(self) -> None:
        together, *others = watching.in_groups(SECTIONS)
        alone = [group[0].seconds for group in others]
        assert max(section.seconds for section in together) + sum(alone[:-1]) < gpu_check.SECONDS

    def test_settings_round_trip_as_text(self, tmp_path: Path) -> None:
        assert Setting.from_text(setting(tmp_path).as_text()).scratch == str(tmp_path)

    def test_every_section_has_an_existing_source(self, tmp_path: Path) -> None:
        for section in SECTIONS:
            assert list(section.cases(setting(tmp_path))) or section.name == "compile"

    def test_variant_names_are_unique(self) -> None:
        names = [variant.name for variant in VARIANTS]
        assert len(set(names)) == len(names)
        assert set(targets.PEERS) <= set(names)

    def test_demo_is_that_of_the_makefile(self, tmp_path: Path) -> None:
        commands = demo_commands(tmp_path)
        assert [words[0] for words in commands] == ["reconstruct", "invert", "interpolate", "interpolate", "edit"]
        for words in commands:
            assert words[words.index("-o") + 1].startswith(str(tmp_path))
            assert not any("$(" in word for word in words)
        assert all(Path(word).is_file() for word in commands[0] if word.endswith(".png"))


# What `watching` runs in place of gpu_check.py, with cases that fail in every way that a section may.
STAND_IN = """
import json, os, sys, time
from gpu import child
from gpu.plan import Case, Section, Setting

class Stand(Section):
    def cases(self, setting):
        def fine(name):
            print("what others print is no row")
            yield {"found": name}
        def broken():
            yield {"found": "before it broke"}
            raise RuntimeError("no kernel")
        def killed():
            os._exit(9)
            yield {}
        def slow():
            time.sleep(600)
            yield {}
        cases = {"broken": broken, "killed": killed, "slow": slow}
        for name in self.name.split():
            yield Case(name, cases.get(name, lambda name=name: fine(name)))

name, setting, begun = sys.argv[2:]
raise SystemExit(child.run(Stand(name, "", "", "", 0), Setting.from_text(setting), json.loads(begun)))
"""


@pytest.mark.slow
class TestWatching:
    @pytest.fixture
    def watched(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
        script = tmp_path / "stand_in.py"
        script.write_text(STAND_IN)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SCRIPT.parent), os.environ.get("PYTHONPATH", "")]))
        monkeypatch.setattr(watching, "START", 0.0)

        def run(cases: str, on_message: Callable[[Message], object] = lambda message: None) -> list[Message]:
            messages: list[Message] = []

            def receive(section: Section, message: Message) -> None:
                messages.append(message)
                on_message(message)

            given = Setting("cpu", True, "a model", str(tmp_path), time.monotonic() + 600)
            watching.run_group([Section(cases, "", "", "", 600)], given, script, receive)
            return messages

        return run

    def test_failing_cases_do_not_end_others(self, watched: Watched) -> None:
        messages = watched("one broken killed two")
        rows = [message["row"] for message in messages if "row" in message]
        assert rows == [{"found": "one"}, {"found": "before it broke"}, {"found": "two"}]
        broken, killed = (message for message in messages if "error" in message)
        assert broken["case"] == "broken"
        assert broken["error"].rstrip().endswith("RuntimeError: no kernel")
        assert killed["case"] == "killed"
        assert "status 9" in killed["error"]

    def test_slow_cases_are_stopped_and_results_kept(self, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
        def on_message(message: Message) -> None:
            if "row" in message:
                monkeypatch.setattr(watching, "GRACE", -600.0)  # as if the time of the section were over now

        messages = watched("one slow two", on_message)
        assert messages[0]["row"] == {"found": "one"}
        # Stopped while "slow" runs, or just before its message that it begins.
        assert messages[-1]["case"] in ("one", "slow")
        assert messages[-1]["note"] == "stopped: the time of the section was over"
        assert not [message for message in messages[1:] if "row" in message or "error" in message]


class TestTargets:
    @staticmethod
    def inversion(variant: str, batch: int, ms: float) -> Row:
        return {"variant": variant, "batch": batch, "inversion ms": ms}

    def word(self, rows: Rows, wanted: str) -> str:
        (found,) = (verdict for verdict in verdicts(rows) if wanted in verdict.wanted)
        return found.word

    def test_unmeasured_targets_are_not_met(self) -> None:
        assert {verdict.word for verdict in verdicts({})} == {"not measured"}

    @pytest.mark.parametrize(("ms", "word"), [(10.0, "met"), (10.1, "MISSED")])
    def test_fastest_variant_is_compared_at_the_same_batch(self, ms: float, word: str) -> None:
        plain = [self.inversion(PLAIN, 1, 70.0), self.inversion(PLAIN, 64, 1000.0)]
        own = [self.inversion("ours, a", 1, ms), self.inversion("ours, b", 1, 30.0), self.inversion("ours, a", 64, 1.0)]
        assert self.word({"speed": [*plain, *own]}, "at least 7 x") == word

    def test_inaccurate_variants_do_not_count(self) -> None:
        wrong = {**self.inversion("ours, wrong", 1, 1.0), "evaluation error": 0.1}
        right = {**self.inversion("ours, right", 1, 20.0), "evaluation error": 0.004}
        assert self.word({"speed": [self.inversion(PLAIN, 1, 70.0), wrong, right]}, "at least 7 x") == "MISSED"

    @pytest.mark.parametrize(("ms", "word"), [(20.0, "met"), (21.0, "MISSED")])
    def test_strongest_peer_is_compared_at_every_batch(self, ms: float, word: str) -> None:
        ours = [self.inversion("ours, a", batch, 20.0 if batch == 1 else ms) for batch in (1, 8, 64)]
        peer = [self.inversion(COMPILED, batch, 20.0) for batch in (1, 64)]
        assert self.word({"speed": ours, "compiled": peer}, "not slower") == word

    @pytest.mark.parametrize(("latents", "word"), [(9e-6, "met"), (2e-5, "MISSED")])
    def test_accuracy_target_is_for_strict_float32(self, latents: float, word: str) -> None:
        reference = {"dtype": "float32", "on": "cpu"}
        rough = {"dtype": "bfloat16", "latents": 0.1, "images": 0.1}
        strict = {"dtype": "float32", "latents": latents, "images": 1e-7}
        assert self.word({"demo": [reference, rough, strict]}, "relative error") == word

    def test_one_false_certificate_misses_the_target(self) -> None:
        rows: list[Row] = [{"method": "a", "certified": 5}, {"holds": "yes"}, {"holds": "yes"}]
        assert self.word({"certificates": rows}, "certificate") == "met"
        assert self.word({"certificates": [*rows, {"holds": "NO"}]}, "certificate") == "MISSED"

    def test_target_limits(self) -> None:
        cases: list[tuple[str, Row, str, str]] = [
            ("round-trip", {"seconds": 0.09}, "50 dB", "met"),
            ("round-trip", {"seconds": None}, "50 dB", "not measured"),
            ("outside", {"outside the network %": 10.0}, "outside the network", "MISSED"),
            ("store", {"of the network's rate %": 90.0}, "of the network's own rate", "met"),
            ("store", {"memory grew %": 2.5}, "memory grows", "MISSED"),
        ]
        for section, row, wanted, word in cases:
            assert self.word({section: [row]}, wanted) == word


class TestResults:
    def test_results_are_written_at_once(self, tmp_path: Path) -> None:
        results = Results(tmp_path, tiny=False)
        for count, batch in enumerate((1, 64), 1):
            results.add("speed", {"case": "x", "row": {"variant": HALF, "batch": batch, "inversion ms": 20.0}})
            results.add("compiled", {"case": "y", "row": {"variant": "ours", "batch": batch, "inversion ms": 8.0}})
            assert len(lines(tmp_path)) == 2 * count
        results.add("store", {"case": "z", "error": "Traceback\nRuntimeError: no"})
        results.add("training", {"case": "z", "note": "skipped: none here"})
        text = (tmp_path / PAGE).read_text()
        assert "RuntimeError: no" in text
        assert "- z: skipped: none here" in text
        assert "2.50 x (ours)" in text
        assert [row[f"x {HALF}"] for row in compared(results.rows(), "compiled")] == [2.5, 2.5]


@pytest.mark.slow
def test_rehearsal_on_cpu_runs_sections_in_processes(tmp_path: Path) -> None:
    model, out = tiny.save_model(tmp_path / "tiny"), tmp_path / "out"
    words = [sys.executable, str(SCRIPT), "--device", "cpu", "--tiny", "--only", "machine,speed"]
    done = subprocess.run(
        [*words, "--model", str(model), "--out", str(out)], check=True, capture_output=True, text=True
    )
    told = lines(out)
    assert not [said for said in told if "error" in said]
    rows = [said["row"] for said in told if said["section"] == "speed" and "row" in said]
    assert {row["variant"] for row in rows} >= {PLAIN, HALF, "ours, bfloat16", "ours, float32"}
    for row in rows:
        assert row["inversion ms"] >= row["evaluation ms"] > 0
        assert 0 <= row["outside the network %"] < 100
        assert row["evaluation error"] < targets.WRONG
    page = (out / PAGE).read_text()
    assert page in done.stdout
    for section in ("machine", "speed"):
        assert f"## {find_section(section).title}" in page


@pytest.mark.slow
def test_light_sections_run_on_cpu(tmp_path: Path) -> None:
    light = ("images", "round-trip", "launches", "outside", "store", "memory")
    given = replace(setting(tmp_path, 600.0), model=str(tiny.save_model(tmp_path / "tiny")))
    rows = {name: [row for case in find_section(name).cases(given) for row in case.measure()] for name in light}
    assert all(rows.values())
    assert all(row["operators a step"] > 0 for row in rows["launches"])
    narrow, wide = rows["memory"]
    assert narrow["goes on"] == wide["goes on"] == "yes"
    assert narrow["ended at batches of"] < wide["ended at batches of"]
