"""The pieces of `benchmarks/speed.py` compute what they say; how fast anything is, is never asserted here."""

import json
import platform
import subprocess
import sys
from dataclasses import replace
from functools import partial
from math import inf, log
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import speed
import torch
from timing import report
from timing.bench import QUICK, Bench, BenchScale
from timing.comparison import GOAL, PsnrAtSteps, fewest_steps, raise_steps
from timing.folders import marginal_rate, worker_setups
from timing.machine import describe
from timing.place import Place
from timing.process import run
from timing.round_trips import all_round_trips, ours, theirs, time_round_trip
from timing.runtimes import all_variants, evaluations, round_trips, signal_to_noise
from timing.sample_images import fill, gather
from timing.share import flops, watched
from timing.spread import Spread, interleaved, ratio, rounds_in, spread
from timing.startup import ProcessTimes, split
from torch import Tensor, nn

from ddim_edit import Editor, InversionConfig, images, load_model
from ddim_edit.models.unet.network import load_unet

from . import tiny
from .rounding import assert_alike, assert_shown_alike

CPU = Place("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.stack([images.to_float(torch.from_numpy(tiny.pixels(seed)).permute(2, 0, 1)) for seed in range(3)])


class TestSpread:
    @pytest.mark.parametrize(
        ("n", "low", "high", "coverage"),
        [(1, 1, 1, 0), (2, 1, 2, 1 / 2), (3, 1, 3, 3 / 4), (6, 1, 6, 31 / 32), (10, 2, 9, 501 / 512)],
    )
    def test_interval_is_that_of_order_statistics(self, n: int, low: int, high: int, coverage: float) -> None:
        assert spread(list(range(n, 0, -1))) == Spread((n + 1) / 2, low, high, coverage)

    def test_coverage_of_the_median(self) -> None:
        drawn = np.random.default_rng(0).exponential(size=(4000, 15))
        spreads = [spread(list(row)) for row in drawn]
        held = np.mean([each.low <= log(2) <= each.high for each in spreads])
        coverage = spreads[0].coverage
        assert coverage >= 0.95
        assert abs(held - coverage) < 4 * (coverage * (1 - coverage) / 4000) ** 0.5

    def test_ratio_is_paired(self) -> None:
        assert ratio([2, 40, 6], [1, 10, 3])[:3] == (2, 2, 4)

    def test_measurements_are_interleaved(self) -> None:
        calls: list[str] = []
        found = interleaved({name: lambda name=name: calls.append(name) or len(calls) for name in "AB"}, 3)
        assert "".join(calls) == "ABABAB"
        assert found == {"A": [1, 3, 5], "B": [2, 4, 6]}

    def test_number_of_rounds_is_bounded(self) -> None:
        assert [rounds_in(10, seconds) for seconds in (0, 0.1, 2, 100)] == [15, 15, 5, 3]


class TestRoundTrips:
    STEPS = 10

    def test_baseline_is_the_formula_of_diffusers_schedulers(self, folder: Path, pictures: Tensor) -> None:
        schedule, network, stride = load_model(folder).schedule, load_unet(folder / "unet"), 1000 // self.STEPS
        times = [stride * step for step in range(self.STEPS)]

        def step(x: Tensor, index: int, start: int, end: int) -> Tensor:
            here, there = (
                schedule.level(max(time + 1, 0)) if time >= 0 else schedule.level(0) for time in (start, end)
            )
            v = network(x, torch.full((len(x),), float(index)))
            x0, eps = here.alpha * x - here.sigma * v, here.sigma * x + here.alpha * v
            return there.alpha * x0 + there.sigma * eps

        x = pictures
        with torch.no_grad():
            # The inverse scheduler asks at the time that it goes to, and takes the answer for the one where it is.
            for time in times:
                x = step(x, time, time - stride, time)
            for time in reversed(times):
                x = step(x, time, time, time - stride)
        back = time_round_trip(theirs(folder, CPU)(self.STEPS), pictures, CPU).decoded
        torch.testing.assert_close(back, x, atol=2e-4, rtol=0)

    def test_ours_is_the_round_trip_of_the_editor(self, folder: Path, pictures: Tensor) -> None:
        wanted = Editor(load_model(folder)).reconstruct(pictures, InversionConfig(steps=self.STEPS)).decoded
        timed = time_round_trip(ours(folder, CPU, "float32")(self.STEPS), pictures, CPU)
        assert_alike(timed.decoded, wanted)

    def test_both_cost_one_evaluation_a_step(self, folder: Path, pictures: Tensor) -> None:
        plain, own = theirs(folder, CPU)(self.STEPS), ours(folder, CPU, "float32")(self.STEPS)
        calls: list[int] = []
        plain.network.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
        model, network = watched(own.model, CPU)
        for round_trip, count in (
            (plain, lambda: len(calls)),
            (replace(own, model=model), lambda: len(network.seconds())),
        ):
            decode = round_trip(pictures)
            assert count() == self.STEPS
            decode()
            assert count() == 2 * self.STEPS

    def test_order_of_the_variants(self, folder: Path) -> None:
        assert list(all_round_trips(folder, CPU)) == ["diffusers", "ours, float32", "ours, mixed", "ours, bfloat16"]


class TestRaisedSteps:
    SCALE = BenchScale(ladder=(10, 20, 50, 100, 500, 1000), table=50)

    def raised(self, *decibels: float) -> list[PsnrAtSteps]:
        heights = dict(zip(self.SCALE.ladder, decibels, strict=False))
        return list(raise_steps(self.SCALE, lambda steps: torch.tensor([heights[steps] - 1.0, heights[steps] + 1.0])))

    def test_steps_of_the_table_are_always_measured(self) -> None:
        found = self.raised(40, 51, 52)
        assert found == [PsnrAtSteps(10, 40, 39), PsnrAtSteps(20, 51, 50), PsnrAtSteps(50, 52, 51)]
        assert fewest_steps(found).steps == 20

    def test_stops_at_the_goal(self) -> None:
        found = self.raised(20, 25, 30, 35, GOAL)
        assert [each.steps for each in found] == [10, 20, 50, 100, 500]
        assert fewest_steps(found).steps == 500

    def test_stops_when_more_steps_do_not_help(self) -> None:
        found = self.raised(20, 25, 30, 30.5)
        assert [each.steps for each in found] == [10, 20, 50, 100]
        assert fewest_steps(found) == found[-1]


class TestShare:
    def test_time_of_the_network_is_separated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [0.0]
        monkeypatch.setattr("timing.place.time.perf_counter", lambda: now[0])

        def pass_(seconds: float) -> None:
            now[0] += seconds

        def network(x: Tensor, index: Tensor) -> Tensor:
            pass_(3)
            return x + index

        watch = CPU.watch(network)

        def work() -> Tensor:
            pass_(1)
            return watch(torch.ones(1), torch.ones(1)) + watch(torch.ones(1), torch.zeros(1))

        assert CPU.timed(work) == (7, 3)
        assert watch.seconds() == [3, 3]

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_gpu_time_is_at_most_the_total(self) -> None:
        card = Place("cuda")
        watch = card.watch(lambda x, index: x @ x)
        wall, _ = card.timed(lambda: [watch(torch.ones(2048, 2048, device="cuda"), torch.zeros(1)) for _ in range(3)])
        calls = watch.seconds()
        assert len(calls) == 3
        assert 0 < min(calls) <= sum(calls) <= wall

    def test_flops_of_layers(self) -> None:
        convolution, linear = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(8, 7)
        counted = flops(lambda x, index: linear(convolution(x)), torch.zeros(1, 3, 8, 8))
        assert counted == 2 * (8 * 8 * 5 * 3 * 3 * 3) + 2 * (5 * 8 * 8 * 7)

    def test_flops_equal_those_of_diffusers_network(self, folder: Path, pictures: Tensor) -> None:
        network = theirs(folder, CPU)(1).network
        counted = flops(lambda x, index: network(x, index).sample, pictures[:1])
        assert flops(load_unet(folder / "unet"), pictures[:1]) == counted > 0

    def test_only_out_of_memory_errors_are_skipped(self) -> None:
        def fail(error: Exception) -> None:
            raise error

        assert CPU.tried(partial(fail, MemoryError())) is None
        with pytest.raises(RuntimeError, match="shape"):
            CPU.tried(partial(fail, RuntimeError("shape")))


class TestRuntimes:
    def test_error_is_the_ratio_of_energies(self) -> None:
        wanted = torch.tensor([3.0, 4.0], dtype=torch.float64)
        assert signal_to_noise(wanted + torch.tensor([0.0, 0.5]), wanted) == pytest.approx(20)
        assert signal_to_noise(wanted, wanted) == inf

    @pytest.mark.slow
    def test_what_is_not_installed_is_named_and_all_else_agrees(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch, "compile", lambda network, dynamic: network)  # which takes a minute
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        monkeypatch.setitem(sys.modules, "openvino", None)
        bench = Bench(folder, CPU, QUICK._replace(batches=(1, 9), steps=2, judged=1))
        rows = list(evaluations(bench))
        missing = [row for row in rows if isinstance(row["ms"], str)]
        assert {row["ms"] for row in missing} == {"onnxruntime is not installed", "openvino is not installed"}
        for row in rows:
            assert row in missing or row["error dB"] > (100 if row["dtype"] == "float32" else 30)
        assert {row["batch"] for row in rows} == {1}  # larger ones are left out
        trips = [(row["variant"], row["dtype"]) for row in round_trips(bench)]
        assert trips == [(each.name, each.dtype) for each in all_variants(bench) if each.round_trip]


class TestStartup:
    def test_parts_of_the_start_add_up(self) -> None:
        parts = split(ProcessTimes(imports=2.0, loading=0.5, calls=[1.0, 0.1, 0.1, 0.1]), wall=4.5)
        *inside, outside = parts.values()
        assert sum(inside) == pytest.approx(4.5)
        assert parts["4 network evaluations"] == pytest.approx(0.4)
        assert parts["the rest"] == pytest.approx(1.6)
        assert outside == pytest.approx(4.1)

    def test_processes_run_in_parallel(self) -> None:
        code = "import os; print(os.environ['OMP_NUM_THREADS'], end='')"
        assert run(("-c", code), ("-c", code), threads=3).output == "33"

    def test_failed_process_raises(self) -> None:
        with pytest.raises(subprocess.CalledProcessError) as caught:
            run(("-c", "raise SystemExit('no')"))
        assert caught.value.stderr == "no\n"


class TestFolders:
    @pytest.mark.parametrize(("on_card", "share"), [(False, ()), (True, ("--gpus-per-worker", 0.5))])
    def test_every_shard_is_taken_once(self, on_card: bool, share: tuple[object, ...]) -> None:
        alone, pair, ray = (setup.commands(("invert",)) for setup in worker_setups(on_card))
        assert alone == [("invert",)]
        assert pair == [("invert", "--shard", "0/2"), ("invert", "--shard", "1/2")]
        assert ray == [("invert", "--engine", "ray", "--workers", 2, *share)]

    def test_marginal_rate_excludes_startup(self) -> None:
        assert marginal_rate((25, 100), (10 + 25 / 3, 10 + 100 / 3)) == pytest.approx(3)
        assert marginal_rate((25, 100), (9.0, 8.0)) is None

    def test_generated_images_are_distinct(self, pictures: Tensor, tmp_path: Path) -> None:
        fill(tmp_path, pictures, 8)
        found = [images.read(file, (tiny.SIZE, tiny.SIZE)).tensor for file in sorted(tmp_path.iterdir())]
        assert len({picture.numpy().tobytes() for picture in found}) == 8
        torch.testing.assert_close(found[7], pictures[1].roll(2, -1), check_dtype=False)

    def test_images_are_packaged_ones_and_8_bit_samples(self, folder: Path) -> None:
        found = gather(folder, CPU, 7)
        packaged = gather(folder, CPU, 5)
        assert torch.equal(found[:5], packaged)
        sampled = Editor(load_model(folder)).sample(2, seed=1000)
        assert_shown_alike(images.to_uint8(found[5:]), images.to_uint8(sampled))
        assert torch.equal(images.to_float(images.to_uint8(found)), found)


class TestReport:
    PAGE: ClassVar = {"Machine": "| fast |", "(a) One": "text\n\n| 1 |", "(b) Two": "| 2 |"}

    def test_report_round_trips(self) -> None:
        assert report.read(report.write("Title", self.PAGE)) == self.PAGE

    def test_sections_of_the_same_machine_are_replaced(self) -> None:
        merged = report.merged(self.PAGE, {"Machine": "| fast |", "(c) Three": "3", "(a) One": "new"})
        assert list(merged.items()) == [
            ("Machine", "| fast |"), ("(a) One", "new"), ("(b) Two", "| 2 |"), ("(c) Three", "3"),
        ]  # fmt: skip

    def test_results_of_another_machine_are_dropped(self) -> None:
        new = {"Machine": "| slow |", "(b) Two": "22"}
        assert report.merged(self.PAGE, new) == new

    def test_cell_format(self) -> None:
        cells = (1234.5, 61.86, 7.704, 0.0456, Spread(2.0, 1.5, 3.0, 0.75), Spread(2.0, 2.0, 2.0, 0.0), None, 3, "x")
        shown = ["1234", "61.9", "7.70", "0.046", "2.00 (1.50 to 3.00)", "2.00", "", "3", "x"]
        assert [report.shown(cell) for cell in cells] == shown

    def test_table_has_the_columns_of_all_rows(self) -> None:
        assert report.table([{"a": 1}, {"a": 2, "b": "x"}]) == "| a | b |\n| --- | --- |\n| 1 |  |\n| 2 | x |"

    def test_json_has_no_nan(self) -> None:
        line = report.as_json("(a)", {"PSNR dB": float("inf"), "ratio": Spread(2, 1, 3, 0.75)})
        assert json.loads(line) == {"section": "(a)", "PSNR dB": None, "ratio": [2, 1, 3, 0.75]}

    def test_machine_description_is_anonymous(self) -> None:
        text = report.table([describe(CPU)])
        assert f"torch {torch.__version__.partition('+')[0]}" in text
        assert "GiB" in text
        assert platform.node() not in text
        assert str(Path.home()) not in text


@pytest.mark.slow
def test_command_prints_json_rows_and_writes_tables(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "results.md"
    common = ["--quick", "--device", "cpu", "--model", str(folder), "--date", "today", "-o", str(page)]
    speed.main([*common, "--only", "a,b,d,f"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    found = report.read(page.read_text())
    assert list(found) == ["Machine", *dict.fromkeys(row["section"] for row in rows)]
    for heading in found:
        made = [row for row in rows if row["section"] == heading]
        assert not made or found[heading].count("\n|") == len(made) + 2
    before = found["(d) Start-up"]
    speed.main([*common, "--only", "f", "--batches", "2"])
    assert report.read(page.read_text())["(d) Start-up"] == before
