"""What `reconstruct` shows: a table of scores and a sheet of pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim_edit.metrics.registry import METRICS

if TYPE_CHECKING:
    from torch import Tensor

_METRIC_COLUMNS = {
    name: (metric.column, metric.value_format) for name, metric in METRICS.items() if metric.column is not None
}
COLUMNS: Mapping[str, tuple[str, str]] = {
    "nfe_in": ("in", "4.0f"),
    "nfe_out": ("out", "4.0f"),
    **_METRIC_COLUMNS,
    "xt_mean": ("mean", "+7.3f"),
    "xt_std": ("std", "7.4f"),
    "xt_corr": ("corr", "+7.3f"),
    "xt_kurtosis": ("kurt", "6.2f"),
}
CODEC = {"codec_psnr": ("codec", "7.2f")}
"""The PSNR of encoding and decoding alone, of models with an autoencoder: no round trip can be better."""
SCORES = tuple(dict.fromkeys([*COLUMNS, *METRICS, "error", "residual", "rounds", "converged"]))
"""What `reconstruct --json` tells of an image, besides its files."""
CODEC_SCORES = (*CODEC, "codec_error")
"""And of a model whose codec loses something."""
SHOWN = 64
"""Pictures on a sheet at most; more would make it too large to look at."""


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per picture and, for several, one of their means; evaluations, round trip, then health of x_T."""
    columns = {**COLUMNS, **{name: column for name, column in CODEC.items() if name in rows[0]}}
    lines = [_line("", [title.rjust(_width(code)) for title, code in columns.values()])]
    lines += [_scores(Path(row["input"]).stem, row, columns) for row in rows]
    if len(rows) > 1:
        lines.append(_scores("mean", {name: _mean([row[name] for row in rows]) for name in columns}, columns))
    return "\n".join(lines)


def _scores(name: str, row: Mapping[str, Any], columns: Mapping[str, tuple[str, str]]) -> str:
    cells = [(row[key], code) for key, (_, code) in columns.items()]
    return _line(name, ["-".rjust(_width(code)) if value is None else format(value, code) for value, code in cells])


def _line(name: str, cells: Sequence[str]) -> str:
    return "  ".join([name[:20].ljust(20), *cells])


def _width(code: str) -> int:
    return len(format(0.0, code))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


class Sheet:
    """The first pictures of a run beside what came back of them."""

    def __init__(self) -> None:
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self.sources: list[str] = []

    def add(self, originals: "Tensor", pictures: "Tensor", sources: Sequence[str]) -> None:
        """Take in a batch [B, 3, H, W] in [-1, 1] and the hashes of its files, as far as there is room."""
        room = SHOWN - len(self.sources)
        self._pairs.append((originals[:room], pictures[:room]))
        self.sources += sources[:room]

    def save(self, path: Path, recipe: Mapping[str, Any] | None) -> None:
        """Write originals, reconstructions and differences."""
        import torch

        from ddim_edit.images import comparison, to_uint8, write

        originals, pictures = (to_uint8(torch.cat(column)) for column in zip(*self._pairs, strict=True))
        write(path, comparison(originals, pictures), recipe)
