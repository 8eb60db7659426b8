"""`likelihood`: how probable a model makes pictures, in bits per dimension."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .files import picture_files, pictures_of
from .options import images_argument, with_condition, with_crop, with_session
from .session import Session

if TYPE_CHECKING:
    from ddim_edit import LikelihoodConfig
    from ddim_edit.images import InputImage

Row = Mapping[str, Any]


@click.command()
@images_argument
@click.option(
    "--probes", type=click.IntRange(2), default=2, show_default=True, help="Vectors that a trace is estimated with."
)
@click.option("--steps", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Runge-Kutta steps.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of probes and dequantisation.")
@click.option(
    "--start",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    metavar="T",
    help="Time at which pictures stand; 1 for networks that cannot be asked at 0.",
)
@with_condition
@with_crop
@with_session
def likelihood(
    images: Sequence[Path],
    probes: int,
    steps: int,
    seed: int,
    start: float,
    condition: Mapping[str, Any],
    crop: Any,
    session: Session,
) -> None:
    """Bits per dimension of pictures under a model of pixels, each with its standard error; writes no files.

    The density of the ODE at uniformly dequantised pixels, its traces by random probes: an upper bound on the bits
    that 8-bit pixels take. Costs 4 evaluations a step for the picture and for each probe, always in fp32. The mean's
    error is that over pictures.
    """
    from ddim_edit import Condition, LikelihoodConfig

    if session.dtype == "auto":
        session.dtype = "fp32"
    told = LikelihoodConfig(steps, probes, seed, start=start, condition=Condition(**condition))
    rows = []
    files = picture_files(session, images)
    for batch in pictures_of(session, files, files, crop):
        for row in _measured(session, batch, told):
            session.emit(row)
            rows.append(row)
    if rows:
        (session.note if session.as_json else click.echo)(_table(rows))
    session.leave()


def _measured(session: Session, batch: "Sequence[tuple[Path, InputImage]]", told: "LikelihoodConfig") -> Iterator[Row]:
    from ddim_edit import log_likelihood

    pictures = [picture for _, picture in batch]
    found = log_likelihood(session.editor.model, pictures, told, batch_size=session.editor.batch_size)
    for (file, _), bits, error, nats in zip(batch, found.bits, found.error, found.nats, strict=True):
        figures = {"bits_per_dim": bits.item(), "standard_error": error.item(), "nats": nats.item()}
        costs = {"probes": found.probes, "steps": told.steps, "seed": told.seed, "nfe": found.nfe, "dim": found.dim}
        yield {"input": str(file), **figures, **costs}


def _table(rows: Sequence[Row]) -> str:
    """One line a picture, its error by the probes, and for several one of their mean, its error over pictures."""
    from ddim_edit.evaluation.likelihood.bits import mean_and_error

    cells = [(Path(row["input"]).stem, row["bits_per_dim"], row["standard_error"], row["nfe"]) for row in rows]
    lines = [_line(name, f"{bits:9.4f}", f"{error:8.4f}", f"{nfe:6d}") for name, bits, error, nfe in cells]
    mean, error = mean_and_error([bits for _, bits, _, _ in cells])
    if error is not None:
        lines.append(_line(f"mean of {len(rows)}", f"{mean:9.4f}", f"{error:8.4f}", ""))
    return "\n".join([_line("", " bits/dim", "   error", "   NFE"), *lines])


def _line(name: str, *cells: str) -> str:
    return "  ".join([name[:20].ljust(20), *cells]).rstrip()
