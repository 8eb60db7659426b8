"""`ddim-edit likelihood`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddim_edit.tables import plain_table

from ..command import Option, OptionGroup, command
from ..crops import CropOptions, crop_group
from ..files import find_images, read_files
from ..options import SEED, condition_group, images_argument, recursive_group, session_options
from ..session import Session
from ..types import FiniteRange

if TYPE_CHECKING:
    from ddim_edit.images import InputImage


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    return [
        OptionGroup(
            "Integration",
            [
                images_argument(),
                Option("--steps", type=click.IntRange(1, 10_000), default=20, metavar="N", help="Runge-Kutta steps."),
                Option(
                    "--probes",
                    type=click.IntRange(2, 10_000),
                    default=2,
                    metavar="N",
                    help="Random vectors that estimate each trace.",
                ),
                Option("--seed", type=SEED, default=0, metavar="N", help="Random seed of probes and dequantisation."),
                Option(
                    "--start",
                    type=FiniteRange(0, 10_000),
                    default=0.0,
                    metavar="T",
                    help="Time at which the images stand. Take 1 for networks that cannot be evaluated at 0.",
                ),
            ],
        ),
        recursive_group(),
        condition_group(),
        crop_group(),
        # Differences of nearby evaluations need float32.
        session_options("dtype"),
    ]


@command("Evaluate", 2, option_groups, "ddim-edit likelihood portrait.jpg --steps 20 --probes 4")
def likelihood(
    images: Sequence[Path],
    steps: int,
    probes: int,
    seed: int,
    start: float,
    condition: Mapping[str, Any],
    crop: CropOptions,
    session: Session,
) -> None:
    """Estimate bits per dimension of images. Each is printed with its standard error; the model must be one of pixels.

    The figure is the density of the ODE at uniformly dequantised pixels, with traces estimated by random probes: an
    upper bound on the bits that 8-bit pixels take. It costs 4 evaluations per step for the image and for each probe,
    always in fp32. The error of the mean is that over images.
    """
    from ddim_edit import Condition, LikelihoodConfig, Workload, log_likelihood

    session.prefer_dtype("fp32")
    config = LikelihoodConfig(steps, probes, seed, start=start, condition=Condition(**condition))
    rows: list[dict[str, Any]] = []
    files = find_images(session, images, crop)

    def estimate(batch: "Sequence[tuple[Path, InputImage]]") -> "Iterable[tuple[Any, ...]]":
        found = log_likelihood(
            session.editor.model,
            [image for _, image in batch],
            config,
            batch_size=session.editor.batch_size,
            on_evaluation=session.editor.on_evaluation,
        )
        return ((found, *each) for each in zip(found.bits, found.error, found.nats, strict=True))

    evaluations = Workload.exactly(4 * steps * (1 + probes))
    for batch in read_files(session, files, crop, lambda schedule: evaluations, 0):
        for (file, _), (found, bits, error, nats) in session.run_batch(batch, estimate):
            row = {
                "input": str(session.streams.name_of(file)),
                "bits_per_dim": bits.item(),
                "standard_error": error.item(),
                "nats": nats.item(),
                "probes": found.probes,
                "steps": steps,
                "seed": seed,
                "nfe": found.nfe,
                "dim": found.dim,
            }
            session.emit(row)
            rows.append(row)
    if rows:
        session.print_table(_likelihood_table(rows))
    session.finish()


def _likelihood_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each image, with the error of the probes, and one of their mean, with the error over images."""
    from ddim_edit.evaluation import mean_and_error

    lines: list[list[str]] = []
    for row in rows:
        figures = f"{row['bits_per_dim']:9.4f}", f"{row['standard_error']:8.4f}", f"{row['nfe']:6d}"
        lines.append([Path(row["input"]).stem, *figures])
    mean, error = mean_and_error([row["bits_per_dim"] for row in rows])
    if error is not None:
        lines.append([f"mean of {len(rows)}", f"{mean:9.4f}", f"{error:8.4f}", ""])
    return plain_table(["", "bits/dim", "error", "NFE"], lines)
