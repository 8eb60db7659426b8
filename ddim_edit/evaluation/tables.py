"""An evaluation as tables in Markdown, aligned so that they read well as plain text."""

from collections.abc import Sequence
from pathlib import Path

from ddim_edit.evaluation.report import Evaluation
from ddim_edit.evaluation.rows import Setting
from ddim_edit.evaluation.statistics import Interval, Summary
from ddim_edit.io.atomic import atomic

_CODES = {"lpips": ".2g", "psnr": ".2f", "ssim": ".5f", "mse": ".2g", "identical_pixels": ".1%"}
_TITLES = ("LPIPS", "PSNR dB", "SSIM", "MSE", "same pixels")
ABSENT = "-"


def markdown(evaluation: Evaluation) -> str:
    """All means with their intervals, then the table of reconstruction errors, each under a line that explains it."""
    return "\n\n".join(
        [
            f"Round trips of {over(evaluation)} through {evaluation.recipe['model']}: means and their 95 % "
            "intervals (Student's t over the pictures); NFE counts both ways.",
            means_table(evaluation),
            "Reconstruction error by the number of steps S: mean squared error per dimension, pictures in [0, 1].",
            reconstruction_table(evaluation),
        ]
    )


def over(evaluation: Evaluation) -> str:
    """How many pictures there are, as "32 pictures" or, where settings differ, "4 to 32 pictures"."""
    counts = {each.pictures for each in evaluation.summaries}
    several = f"{max(counts)} pictures" if max(counts) > 1 else "1 picture"
    return several if len(counts) == 1 else f"{min(counts)} to {several}"


def write_tables(evaluation: Evaluation, path: Path) -> None:
    """Write that as a file, whole or not at all.

    Errors: OSError as the system raised it.
    """
    with atomic(path) as temporary:
        temporary.write_text(markdown(evaluation) + "\n", encoding="utf-8")


def means_table(evaluation: Evaluation) -> str:
    """A row for each setting: pictures, evaluations there and back, and the mean of every figure, "low to high"."""
    titles = ["way", "S", "pictures", "NFE", *_TITLES]
    names = _names([each.setting for each in evaluation.summaries])
    return _table(titles, [_means(name, each) for name, each in zip(names, evaluation.summaries, strict=True)])


def reconstruction_table(evaluation: Evaluation) -> str:
    """The layout of the DDIM paper's table 2: a column for each S, a row of errors for each way; "-" was not measured.

    Error is the mean squared error per dimension, of pictures in [0, 1], over the pictures; two digits, as there.

    Song, Meng, Ermon (2021), table 2.
    """
    steps = sorted({each.setting.steps for each in evaluation.summaries})
    names = _names([each.setting for each in evaluation.summaries])
    errors = {(name, each.setting.steps): each.mse for name, each in zip(names, evaluation.summaries, strict=True)}
    ways = dict.fromkeys(names)
    rows = [[f"Error, {way}", *(_error(errors.get((way, S))) for S in steps)] for way in ways]
    return _table(["S", *map(str, steps)], rows)


def _error(found: Interval | None) -> str:
    return ABSENT if found is None else format(found.mean, ".2g")


def way_name(setting: Setting) -> str:
    """What to call everything about a setting but its steps."""
    return f"{setting.solver} {setting.grid}{' exact' if setting.exact else ''}"


def _names(settings: Sequence[Setting]) -> list[str]:
    return [way_name(setting) for setting in settings]


def _means(name: str, summary: Summary) -> list[str]:
    figures = [_shown(getattr(summary, figure), code) for figure, code in _CODES.items()]
    return [name, str(summary.setting.steps), str(summary.pictures), f"{summary.nfe:.4g}", *figures]


def _shown(found: Interval | None, code: str) -> str:
    if found is None:
        return ABSENT
    if found.low is None or found.high is None:
        return format(found.mean, code)
    return f"{found.mean:{code}} ({found.low:{code}} to {found.high:{code}})"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of Markdown whose columns are as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    ruler = ["-" * width for width in widths]
    return "\n".join(_line(cells, widths) for cells in (titles, ruler, *rows))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return f"| {' | '.join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])} |"
