import struct
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

import matplotlib as mpl

from ddim_edit.errors import ArgumentError, ImageError, MissingExtraError
from ddim_edit.evaluation.probing import ProbeReport, ProbeRow
from ddim_edit.images import read_recipe
from ddim_edit.plots import probe_curves
from ddim_edit.plots.drawing import spread_heights
from ddim_edit.plots.probes import probe_figure

NAMES = ["t=373", "x_T", "pixels", "random projection"]


def row(name: str, n: int, accuracy: float) -> ProbeRow:
    return ProbeRow(name, 8, n, 10, accuracy, accuracy - 0.05, accuracy + 0.04, accuracy)


@pytest.fixture
def report() -> ProbeReport:
    rows = [
        row(name, n, 0.6 + 0.05 * i + 0.02 * j) for i, name in enumerate(NAMES) for j, n in enumerate([10, 100, 900])
    ]
    return ProbeReport(tuple(rows), train=900, test=300, positives=0.5, seed=0)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_recipe(report: ProbeReport, tmp_path: Path, suffix: str) -> None:
    recipe = {"kind": "probe", "text": "</dc:description> & <b>", "letters": "ä", "numbers": list(range(400))}
    told, bare = tmp_path / f"told{suffix}", tmp_path / f"bare{suffix}"
    probe_curves(report, told, recipe=recipe)
    probe_curves(report, bare)
    assert read_recipe(told) == recipe
    assert b"ddim" not in bare.read_bytes()
    if suffix == ".png":
        assert read_recipe(bare) is None


def test_lines_are_the_rows_and_baselines_are_grey(report) -> None:
    (axes,) = probe_figure(report, ["pixels", "random projection"]).axes
    lines = axes.get_lines()[: len(NAMES)]
    for name, line in zip(NAMES, lines, strict=True):
        rows = [row for row in report.rows if row.representation == name]
        assert line.get_xydata().tolist() == [[row.n, row.balanced_accuracy] for row in rows]
        assert (line.get_color() == "#8A8A8A") == (name in NAMES[2:])
        assert line.is_dashed() == (name in NAMES[2:])
    assert axes.get_xscale() == "log"
    texts = [text.get_text() for text in axes.texts]
    assert all(any(text.startswith(name) for text in texts) for name in NAMES)


def test_bands_reach_from_low_to_high(report) -> None:
    (axes,) = probe_figure(report, []).axes
    for band, name in zip(axes.collections, NAMES, strict=True):
        corners = {(x, round(y, 9)) for x, y in band.get_paths()[0].vertices.tolist()}
        rows = [row for row in report.rows if row.representation == name]
        assert corners == {(row.n, round(end, 9)) for row in rows for end in (row.low, row.high)}


@pytest.mark.parametrize("suffix", [".png", ".svg", ".PNG"])
def test_files_do_not_depend_on_the_settings(report, tmp_path: Path, suffix: str) -> None:
    one, other = tmp_path / f"one{suffix}", tmp_path / f"other{suffix}"
    probe_curves(report, one)
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30, "axes.facecolor": "red"}):
        probe_curves(report, str(other))
    assert one.read_bytes() == other.read_bytes()
    assert b"date" not in one.read_bytes().lower()


def test_formats(report, tmp_path: Path) -> None:
    probe_curves(report, tmp_path / "new" / "curves.png")
    head = (tmp_path / "new" / "curves.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:]) == (1280, 768)
    probe_curves(report, tmp_path / "curves.svg")
    assert ET.parse(tmp_path / "curves.svg").getroot().tag.endswith("svg")


def test_matplotlib_settings_are_restored(report, tmp_path: Path) -> None:
    before = mpl.rcParams.copy()
    probe_curves(report, tmp_path / "curves.png")
    assert mpl.rcParams == before
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_one_row_and_a_dozen_lines(tmp_path: Path) -> None:
    dozen = [row(f"level {i}", n, 0.9) for i in range(12) for n in (1000, 1125)]
    for name, rows in [("one", [row("x_T", 10, 0.45)]), ("dozen", dozen)]:
        (axes,) = probe_figure(ProbeReport(tuple(rows), 1125, 300, 0.5, 0), []).axes
        looks = {(line.get_color(), line.get_marker()) for line in axes.get_lines()[:-1]}
        assert len(looks) == len({row.representation for row in rows})
        probe_curves(ProbeReport(tuple(rows), 1125, 300, 0.5, 0), tmp_path / f"{name}.png")


def test_spread_heights() -> None:
    assert spread_heights([0.1, 0.5, 0.9], gap=0.1, top=1) == pytest.approx([0.1, 0.5, 0.9])
    assert spread_heights([0.1, 0.5, 0.5], gap=0.1, top=1) == pytest.approx([0.1, 0.45, 0.55])
    assert spread_heights([0.98, 0.99, 1.0], gap=0.1, top=1) == pytest.approx([0.8, 0.9, 1.0])


def test_reports_that_cannot_be_drawn(report, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ArgumentError, match=r"curves\.gif: plots are written as \.png or \.svg\."):
        probe_curves(report, tmp_path / "curves.gif")
    with pytest.raises(ArgumentError, match="The report has no rows"):
        probe_curves(ProbeReport((), 1, 1, 0.5, 0), tmp_path / "curves.png")
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match=r"curves\.png: cannot write: "):
        probe_curves(report, tmp_path / "file" / "curves.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"ddim-edit\[eval\]"):
        probe_curves(report, tmp_path / "curves.png")
