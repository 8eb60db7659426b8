"""`ddim-edit reconstruct`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command import OptionGroup, command
from ..crops import CropOptions, crop_group
from ..files import Job, claim, find_images, open_destination, plan_jobs, read_jobs, resolve_all
from ..grids import settle_grid
from ..options import (
    images_argument,
    inversion_groups,
    make_config,
    output_option,
    overwrite_option,
    recursive_group,
    session_options,
)
from ..results import ResultOptions, ResultWriter, result_group
from ..session import Session

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.images import InputImage

OPTIONAL_SCORES = ("codec_psnr", "codec_error", "atypicality")
"""What is measured for models with an autoencoder (no round trip can be better than that of the codec alone), and for
models of which it is known which images are typical."""
ON_SHEET = 64
"""Images on the sheet at most; more would make it too large to look at."""


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    output = [images_argument(), output_option(), overwrite_option()]
    inversion = inversion_groups("check")
    groups = [OptionGroup("Output", output), result_group(), recursive_group()]
    return [*groups, *inversion, crop_group(), session_options()]


@command(
    "Invert and decode",
    3,
    option_groups,
    "ddim-edit reconstruct portrait.jpg -o out/",
    "ddim-edit reconstruct portrait.jpg -o out/ --steps 50 --exact",
)
def reconstruct(
    images: Sequence[Path],
    output: Path,
    overwrite: bool,
    result: ResultOptions,
    config: Mapping[str, Any],
    crop: CropOptions,
    session: Session,
) -> None:
    """Invert and decode images, and score the result. They are written as DIR/NAME-reconstructed.png.

    Of a photograph larger than the model's images, what the round trip makes of the part that the model sees is put in
    its place.

    All are shown beside their originals in DIR/sheet.png, unless the output is a file. Scores are of the clipped images
    before they are rounded to 8 bit; the share of same pixels is of the written ones.
    """
    from ddim_edit.latents.image_recipes import ReconstructionRecipe
    from ddim_edit.metrics import METRICS, patch_std

    printed = dict.fromkeys([*score_columns(), *METRICS, "error", "residual", "rounds", "converged", *OPTIONAL_SCORES])
    session.metadata = result.metadata
    if config["exact"]:
        session.prefer_dtype("fp32")
    destination = open_destination(session, output, result.suffix, overwrite, "-reconstructed")
    files = find_images(session, images, crop)
    sheet_file = None
    if destination.file is None:
        sheet_file = claim(
            output / f"sheet{result.suffix or '.png'}", resolve_all(file.path for file in files), overwrite
        )
    jobs = plan_jobs(session, files, destination)
    writer = ResultWriter(session, result, noise=0)  # the noise of the round trip is what is shown
    rows: list[dict[str, Any]] = []
    sources: list[str] = []
    on_sheet: list[tuple[Tensor, Tensor, Tensor]] = []

    config = settle_grid(session, config, files, crop)
    inversion_config = make_config({**config, "check": True})

    def reconstruct_batch(batch: "Sequence[tuple[Job, InputImage]]") -> "Iterable[tuple[Any, ...]]":
        found = session.editor.reconstruct([image for _, image in batch], inversion_config)
        return zip(found.originals, found.decoded, found.latents, found.scores, strict=True)

    for batch in read_jobs(session, jobs, crop, inversion_config.inversion_workload, 3):
        for (job, source), (original, image, latent, scores) in session.run_batch(batch, reconstruct_batch):
            with session.continue_on_error(job.source):
                if sheet_file is not None and len(sources) < ON_SHEET:
                    on_sheet.append((original, image, patch_std(latent.x[None])[0]))
                    sources.append(source.source)
                writer.write(job.source, job.target, [source], [image], latent.recipe)
                session.warn_if_unconverged(job.source, scores)
                row: dict[str, Any] = job.to_json()
                row.update((name, scores[name]) for name in printed if name in scores or name not in OPTIONAL_SCORES)
                rows.append(row)
                session.emit(row, job.target if session.to_stdout else None)
    if rows and sheet_file is not None:
        recipe = ReconstructionRecipe(session.editor.model.name, tuple(sources), {"check": False, **config})
        _write_sheet(sheet_file, on_sheet, session.recipe_json(recipe))
    if rows:
        session.print_table(score_table(rows))
        session.note("scores are of the images before they are rounded to 8 bit, `same` of the written ones")
        if any((row["xt_deviation"] or 0) > 1 for row in rows):
            session.note(
                "dev above 1: the latent is less like white noise than those of typical images, and edits and "
                "interpolations of it are less certain; crop to what the model knows"
            )
    session.finish()


def score_columns() -> dict[str, tuple[str, str]]:
    """Return titles and formats of the table: evaluations, round trip, health of x_T, and the codec's PSNR."""
    from ddim_edit.metrics import METRICS

    columns = {"nfe_in": ("in", "4.0f"), "nfe_out": ("out", "4.0f")}
    for name, metric in METRICS.items():
        if metric.column is not None:
            columns[name] = (metric.column, metric.value_format)
    health = {"xt_mean": ("mean", "+7.3f"), "xt_std": ("std", "7.4f"), "xt_corr": ("corr", "+7.3f")}
    health |= {"xt_kurtosis": ("kurt", "6.2f"), "xt_deviation": ("dev", "5.2f")}
    return {**columns, **health, "codec_psnr": ("codec", "7.2f")}


def score_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each image and, for several, one of their means."""
    from ddim_edit.tables import plain_table

    columns = score_columns()
    if "codec_psnr" not in rows[0]:
        del columns["codec_psnr"]
    means: dict[str, Any] = {"input": "mean"}
    for name in columns:
        values = [row[name] for row in rows if row[name] is not None]
        means[name] = sum(values) / len(values) if values else None
    lines: list[list[str]] = []
    for row in [*rows, means] if len(rows) > 1 else rows:
        line = [Path(row["input"]).stem]
        for name, (_, code) in columns.items():
            line.append("-" if row[name] is None else format(row[name], code))
        lines.append(line)
    return plain_table(["", *(title for title, _ in columns.values())], lines)


def _write_sheet(
    file: Path, images: "Sequence[tuple[Tensor, Tensor, Tensor]]", recipe: Mapping[str, Any] | None
) -> None:
    """Write originals, reconstructions, their differences, and where latents are not white noise."""
    import torch

    from ddim_edit.images import comparison, to_uint8, write

    originals, reconstructions, patch_stds = zip(*images, strict=True)
    before, after = (to_uint8(torch.stack(column)) for column in (originals, reconstructions))
    write(file, comparison(before, after, patch_stds=patch_stds), recipe)
