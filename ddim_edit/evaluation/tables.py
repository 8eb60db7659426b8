"""Tables of an evaluation in Markdown, aligned so that they read well as plain text."""

from pathlib import Path

from ddim_edit.evaluation.report import Evaluation
from ddim_edit.evaluation.rows import EvaluationSetting
from ddim_edit.evaluation.statistics import Interval
from ddim_edit.io.atomic import atomic
from ddim_edit.metrics.registry import METRICS
from ddim_edit.tables import markdown_table

ABSENT = "-"


def markdown(evaluation: Evaluation) -> str:
    """Return the table of means and the table of reconstruction errors, each below a line that explains it."""
    warnings = [_describe_atypical(evaluation), *_describe_unhealthy(evaluation)]
    return "\n\n".join(
        [
            f"Round trips of {count_images(evaluation)} through {evaluation.recipe['model']}: means and their 95 % "
            "intervals (Student's t over the images); NFE counts inversion and decoding.",
            means_table(evaluation),
            "Reconstruction error by the number of steps S: mean squared error per dimension, images in [0, 1].",
            reconstruction_table(evaluation),
            *(text for text in warnings if text),
        ]
    )


def _describe_atypical(evaluation: Evaluation) -> str:
    """Return which images do not look like those of the model's training, or nothing."""
    scores = {row.image: row.atypicality for row in evaluation.rows if row.atypicality is not None}
    found = [f"{name} ({score:.2f})" for name, score in scores.items() if score > 1]
    if not found:
        return ""
    return (
        f"{len(found)} of {len(scores)} images do not look like those that {evaluation.recipe['model']} was trained on "
        f"(atypicality above 1): {', '.join(found)}."
    )


def _describe_unhealthy(evaluation: Evaluation) -> list[str]:
    """Return at which settings the latents of which images are not white noise."""
    texts = []
    for summary in evaluation.summaries:
        scores = {row.image: row.deviation for row in evaluation.rows if row.setting == summary.setting}
        found = [f"{name} ({score:.1f})" for name, score in scores.items() if score is not None and score > 1]
        if found:
            setting = f"{setting_name(summary.setting)}, {summary.setting.steps} steps"
            count = f"{len(found)} of {len(scores)} latents"
            texts.append(f"{setting}: {count} are not white noise (deviation above 1): {', '.join(found)}.")
    return texts


def count_images(evaluation: Evaluation) -> str:
    """Return the number of images in words: "32 images" or, where settings differ, "4 to 32 images"."""
    counts = {summary.images for summary in evaluation.summaries}
    most = f"{max(counts)} images" if max(counts) > 1 else "1 image"
    return most if len(counts) == 1 else f"{min(counts)} to {most}"


def write_tables(evaluation: Evaluation, path: Path) -> None:
    """Write `markdown(evaluation)` to a file, atomically.

    Raises:
        OSError: as the system raised it.
    """
    with atomic(path) as temporary:
        temporary.write_text(markdown(evaluation) + "\n", encoding="utf-8")


def means_table(evaluation: Evaluation) -> str:
    """Return a row for each setting: images, network evaluations, and the mean of every metric with its interval."""
    titles = ["solver and grid", "S", "images", "NFE", *(metric.title for metric in METRICS.values())]
    rows = []
    for summary in evaluation.summaries:
        cells = [setting_name(summary.setting), str(summary.setting.steps), str(summary.images)]
        cells.append(f"{summary.nfe:.4g}")
        for name, metric in METRICS.items():
            cells.append(_format_interval(summary.scores[name], metric.mean_format))
        rows.append(cells)
    return markdown_table(titles, rows)


def reconstruction_table(evaluation: Evaluation) -> str:
    """Return errors in the layout of the DDIM paper's table 2: a column for each S, a row for each solver and grid.

    The error is the mean squared error per dimension, of images in [0, 1], averaged over the images, with two digits as
    there; "-" was not measured.

    References:
        Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502, table 2.
    """
    steps = sorted({summary.setting.steps for summary in evaluation.summaries})
    errors: dict[str, dict[int, str]] = {}
    for summary in evaluation.summaries:
        error = summary.scores["mse"]
        cell = ABSENT if error is None else format(error.mean, ".2g")
        errors.setdefault(setting_name(summary.setting), {})[summary.setting.steps] = cell
    rows = [[f"Error, {name}", *(cells.get(S, ABSENT) for S in steps)] for name, cells in errors.items()]
    return markdown_table(["S", *map(str, steps)], rows)


def setting_name(setting: EvaluationSetting) -> str:
    """Return the name of a setting without its steps, as in "dpm2m karras:14 exact"."""
    suffix = " exact" if setting.exact else ""
    return f"{setting.solver} {setting.grid}{suffix}"


def _format_interval(found: Interval | None, code: str) -> str:
    if found is None:
        return ABSENT
    if found.low is None or found.high is None:
        return format(found.mean, code)
    return f"{found.mean:{code}} ({found.low:{code}} to {found.high:{code}})"
