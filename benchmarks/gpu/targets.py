"""The targets on a GPU, and whether the rows meet them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gpu.plan import Row

Rows = Mapping[str, Sequence[Row]]
"""The rows of each section by its name."""
PLAIN = "diffusers, float32, default flags"
HALF = "diffusers, bfloat16, channels_last"
COMPILED = "diffusers, bfloat16, compiled"
PEERS = (PLAIN, HALF, COMPILED)
WRONG = 0.02
"""Relative error of an evaluation above which a variant does not count, however fast: bfloat16 has 0.004."""


class Verdict(NamedTuple):
    """One target: its section, what is wanted, what was found, and whether that is enough; None if not measured."""

    section: str
    wanted: str
    found: str
    met: bool | None

    @property
    def word(self) -> str:
        """The verdict in a word or two."""
        return "not measured" if self.met is None else "met" if self.met else "MISSED"


def verdicts(rows: Rows) -> list[Verdict]:
    """Return the verdict on each target."""
    return [
        _all("tests", "no test fails", rows, "outcome", ("passed", "skipped")),
        _tests_ran(rows),
        _accuracy(rows),
        _all("certificates", "every certificate holds in a second process", rows, "holds", ("yes",)),
        _all("determinism", "the same bits twice", rows, "same bits", ("yes",)),
        _times_faster(rows, PLAIN, 1, 7.0),
        _times_faster(rows, HALF, 64, 2.0),
        _never_slower(rows),
        _below("round-trip", "50 dB there and back in < 0.1 s", rows, "seconds", 0.1, least=True),
        _below("outside", "less than 10 % outside the network", rows, "outside the network %", 10.0),
        _above("store", "at least 90 % of the network's own rate", rows, "of the network's rate %", 90.0),
        _below("store", "memory grows by less than 2 % once it is filled to a quarter", rows, "memory grew %", 2.0),
        _all("memory", "a batch that does not fit is halved and goes on", rows, "goes on", ("yes",)),
        _all("training", "the loss falls", rows, "loss falls", ("yes",)),
    ]


def inversions(rows: Rows) -> list[Row]:
    """Return the rows that hold the time of a whole inversion, of all sections."""
    found = [*rows.get("speed", ()), *rows.get("compiled", ())]
    return [row for row in found if "inversion ms" in row]


def ratio(rows: Sequence[Row], row: Row, peer: str) -> float | None:
    """Return how many times faster a whole inversion is than a peer's at the same batch, if both were measured."""
    found = [each for each in rows if each.get("variant") == peer and each.get("batch") == row.get("batch")]
    if not found or row.get("inversion ms") is None or found[0].get("inversion ms") is None:
        return None
    return float(found[0]["inversion ms"]) / float(row["inversion ms"])


def _best(rows: Sequence[Row], batch: int, peer: str) -> tuple[float, str] | None:
    """Return the largest ratio of our accurate variants, and the name of the variant."""
    right = [row for row in rows if row.get("batch") == batch and row.get("evaluation error", 0.0) <= WRONG]
    ours = [row for row in right if str(row["variant"]).startswith("ours")]
    ratios = [(found, str(row["variant"])) for row in ours if (found := ratio(rows, row, peer)) is not None]
    return max(ratios, default=None)


def _times_faster(rows: Rows, peer: str, batch: int, factor: float) -> Verdict:
    wanted = f"at least {factor:g} x {peer}, batch {batch}"
    best = _best(inversions(rows), batch, peer)
    if best is None:
        return Verdict("speed", wanted, "", None)
    return Verdict("speed", wanted, f"{best[0]:.2f} x ({best[1]})", best[0] >= factor)


def _never_slower(rows: Rows) -> Verdict:
    """Check our fastest variant against the compiled peer at every measured batch size."""
    wanted, speed = f"not slower than {COMPILED} at any batch", inversions(rows)
    ratios, texts = list[float](), list[str]()
    for batch in sorted({int(row["batch"]) for row in speed if row.get("variant") == COMPILED}):
        best = _best(speed, batch, COMPILED)
        if best is not None:
            ratios.append(best[0])
            texts.append(f"{best[0]:.2f} x at {batch} ({best[1]})")
    return Verdict("speed", wanted, "; ".join(texts), min(ratios) >= 1 if ratios else None)


def _accuracy(rows: Rows) -> Verdict:
    wanted = "latents and images as on the CPU in strict float32: relative error at most 1e-5"
    strict = [row for row in rows.get("demo", ()) if row.get("dtype") == "float32" and row.get("latents") is not None]
    if not strict:
        return Verdict("demo", wanted, "", None)
    latents, images = float(strict[0]["latents"]), float(strict[0]["images"])
    return Verdict("demo", wanted, f"latents {latents:.1e}, images {images:.1e}", max(latents, images) <= 1e-5)


def _tests_ran(rows: Rows) -> Verdict:
    found = rows.get("tests", ())
    passed = sum(row.get("outcome") == "passed" for row in found)
    return Verdict("tests", "some tests run", f"{passed} passed", passed > 0 if found else None)


def _all(section: str, wanted: str, rows: Rows, column: str, good: Sequence[object]) -> Verdict:
    """Check that every row that has this column is good."""
    cells = [row[column] for row in rows.get(section, ()) if column in row]
    bad = sum(cell not in good for cell in cells)
    return Verdict(section, wanted, f"{len(cells) - bad} of {len(cells)}" if cells else "", not bad if cells else None)


def _below(section: str, wanted: str, rows: Rows, column: str, limit: float, least: bool = False) -> Verdict:
    """Check that the largest value of a column is below a limit, or the smallest, if one suffices."""
    figures = _figures(rows.get(section, ()), column)
    if not figures:
        return Verdict(section, wanted, "", None)
    figure = min(figures) if least else max(figures)
    return Verdict(section, wanted, f"{figure:.3g}", figure < limit)


def _above(section: str, wanted: str, rows: Rows, column: str, limit: float) -> Verdict:
    """Check that the smallest value of a column reaches a limit."""
    figures = _figures(rows.get(section, ()), column)
    if not figures:
        return Verdict(section, wanted, "", None)
    return Verdict(section, wanted, f"{min(figures):.3g}", min(figures) >= limit)


def _figures(rows: Sequence[Row], column: str) -> list[float]:
    return [float(row[column]) for row in rows if row.get(column) is not None]
