"""Write docs/anchors.md: every solver beside the programs and methods that others use, on the same pictures.

    pip install azula k-diffusion "setuptools<81"
    python benchmarks/anchors.py --data FOLDER --rows anchors.jsonl -o docs/anchors.md

One JSON row per picture and method is kept in --rows, so that a run that was interrupted goes on where it stopped. The
pictures are the ones that no grid was chosen on: --first 64 of the test faces, by name.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from peers import AzulaExponentialAdams, DiffusersUniPC, KDiffusionSampler, PeerSolver, uniform_times
from torch import Tensor

from ddim_edit import Editor, hardware, images, metrics
from ddim_edit.evaluation.statistics import interval
from ddim_edit.metrics.reconstruction import to_json_rows
from ddim_edit.metrics.registry import ImageScorer
from ddim_edit.models.diffusers_inversion import DiffusersInversion

Rows = Sequence[Mapping[str, Any]]
DEFAULT = "**dpm2m, our grid and start** (default)"
AZULA = "azula, xEAB of order 2, its own times"
K_DIFFUSION = "k-diffusion, dpmpp_2m, Karras sigmas reversed"
TWO_TENSORS = ("bdia", "edict", "belm")
"""What the names of methods begin with whose latents have a second tensor beside x_T."""
COLUMNS = (
    "method",
    "evaluations",
    "PSNR, dB (95 %)",
    "worst",
    "LPIPS",
    "identical",
    "x_T: std",
    "correlation",
    "kurtosis",
    "deviation",
)
BIT_EXACT = 300.0
"""PSNR in place of infinity; that of the rounding of float64 is 280."""
HEALTH = ("std", "corr", "kurtosis", "deviation")


Method = Callable[[Editor, Tensor], Rows]
"""Scores pictures [B, 3, H, W]: one mapping for each."""


def by_editor(**options: Any) -> Method:
    """Return a round trip by the editor: of our solvers, or of another library's sampler, which is scored alike."""
    return lambda editor, pictures: editor.reconstruct(pictures, **options).scores


def by_diffusers(steps: int, multistep: bool) -> Method:
    """Return an inverse scheduler of diffusers with its counterpart, on the levels that they choose."""

    def measure(editor: Editor, pictures: Tensor) -> Rows:
        loop = DiffusersInversion.of(editor.model, multistep)
        x = loop.encode(pictures, steps)
        decoded = loop.decode(x, steps)
        found = metrics.health(x)
        columns = ImageScorer(editor.model.device)(pictures, decoded.clamp(-1, 1))
        columns |= {f"xt_{name}": getattr(found, name) for name in HEALTH}
        evaluations = torch.full((len(pictures),), steps)
        return to_json_rows({**columns, "nfe_in": evaluations, "nfe_out": evaluations})

    return measure


def equal_evaluations(steps: int) -> dict[str, Method]:
    """Return what spends `steps` evaluations there and as many back; Heun and EDICT take two a step."""
    half = steps // 2
    azula, k_diffusion = AzulaExponentialAdams(), KDiffusionSampler()
    return {
        DEFAULT: by_editor(steps=steps),
        "dpm2m, `karras:14` from t = 1": by_editor(grid="karras:14", steps=steps),
        "ddim, our grid and start": by_editor(solver="ddim", steps=steps),
        "heun, our grid and start": by_editor(solver="heun", steps=half),
        "bdia, `karras:14`": by_editor(solver="bdia", grid="karras:14", steps=steps),
        "edict, `karras:14`": by_editor(solver="edict", grid="karras:14", steps=half),
        "belm, `karras:14`": by_editor(solver="belm", grid="karras:14", steps=steps),
        "diffusers, DDIM pair": by_diffusers(steps, multistep=False),
        "diffusers, DPM-Solver++ pair, Karras sigmas": by_diffusers(steps, multistep=True),
        AZULA: by_editor(solver=azula, grid=uniform_times, dequantise=None, steps=steps),
        "azula, xEAB of order 2, our grid and start": by_editor(solver=azula, steps=steps),
        K_DIFFUSION: by_editor(solver=k_diffusion, grid="karras:7", dequantise=None, steps=steps),
        "k-diffusion, dpmpp_2m, our grid and start": by_editor(solver=k_diffusion, steps=steps),
    }


def orders(steps: int) -> dict[str, Method]:
    """Return multistep methods of growing order on our grid with our start."""
    solvers: dict[str, PeerSolver] = {}
    for order in (1, 2, 3, 4):
        solvers[f"xEAB of order {order} (azula)"] = AzulaExponentialAdams(order)
    for order in (1, 2, 3):
        solvers[f"UniPC of order {order} (diffusers)"] = DiffusersUniPC(order)
    return {name: by_editor(solver=solver, steps=steps) for name, solver in solvers.items()}


EXACT: Mapping[str, Method] = {
    "dpm2m, exact (`--exact`)": by_editor(exact=True),
    "ddim, exact (`--solver ddim --exact`)": by_editor(solver="ddim", exact=True),
    "bdia (`--lossless`), `karras:14`": by_editor(solver="bdia", grid="karras:14"),
}


@dataclass(frozen=True)
class Table:
    """A table of the page, and the text above it."""

    title: str
    text: str
    methods: Mapping[str, Method]


TABLES = (
    Table(
        "20 + 20 evaluations",
        "Every method evaluates the network at most 21 times to invert an image and 20 times to decode it.",
        equal_evaluations(20),
    ),
    Table("10 + 10 evaluations", "The same with half of them.", equal_evaluations(10)),
    Table(
        "Exact inversions",
        "These return every pixel of 8 bits, for more evaluations or for a second tensor beside x_T (bdia).",
        EXACT,
    ),
    Table(
        "Orders, 10 + 10 evaluations",
        "Multistep methods on our grid with our start. Higher orders than 2 lose: a polynomial through more points "
        "differs more between the two directions, and so does UniPC's corrector of order 2 and 3. Its corrector of "
        "order 1, nearly a trapezoidal rule, is symmetric and half a dB above our default here, which is within the "
        "intervals of both. The inverse of `dpm2m` does read "
        "polynomials through three and four points, but for what the steps of decoding take at them.",
        orders(10),
    ),
)
HEAD = """# Beside other programs and methods

Generated by `python benchmarks/anchors.py`: {count} photographs of faces ({first} to {last} of UTKFace's test part at
64x64, on which no grid, solver or start was chosen), the packaged model `faces64`, {dtype}, {hardware}. All rows of a
table are of the same photographs and the same network. Means have Student's 95 % intervals over the photographs.
Scores are of images clipped to [-1, 1]; "identical" is the share of 8-bit pixels. std, correlation and kurtosis of
x_T are 1, 0 and 3 for noise; deviation is the greatest distance of any of its statistics from noise, relative to what
is tolerated ([the health of x_T](explanation/health.md)). **Bold** is the best mean of a column, "!" an x_T that is
not like noise (deviation above 1 on average), and "†" a latent of two tensors of the size of the image; neither
competes for the best.
"""
FOOT = """
## Where another program is near ours

- **azula and k-diffusion on our grid, with our start level and seeded noise** decode by the formula of our default
  (DPM-Solver++(2M) is the exponential Adams method of order 2) and invert by the same one, where `dpm2m` undoes its
  own steps ([how](numerics.md#the-way-up-undoes-the-way-down)). Where the steps are, and where they start, is ours
  too. On the terms of their own users they are {behind} behind.
- **bdia, edict and belm return every bit** for few evaluations, but their latent is two tensors of the size of the
  image, and that of edict and belm is not like noise. If x_T alone must do, `--exact` returns every pixel.
- **`ddim`** returns as much on average, with worse worst images. It solves an implicit equation, which strong guidance
  may forbid, and its steps are of order 1.

## What was tried and is not here

- **Rex** (Blasingame, Liu, "Reversible Exponential Solvers for Diffusion Models", ICML 2026, arXiv:2502.08834), the
  reversible exponential Runge-Kutta method by the coupling of McCallum and Foster: written from its formulas and run
  on the Karras grid with 20 evaluations, its x_T had a standard deviation of 64 to 136, as the coupling amplifies
  differences of its two states over steps of this length. BDIA stays.
- **One evaluation of the fixed point** ("Iteration-free fixed-point inversion", 2025, arXiv:2512.08547), with the
  error of the last step as estimate: `ddim` here is that step. It evaluates the network at the point that the last
  step's derivative leads to, and takes one evaluation a step; see `ddim_edit.diffusion.solvers`.
- **Third order and UniPC**: the table of orders above.
- **Higher starts**: "There and Back Again" (Staniszewski et al., ICLR 2026, arXiv:2410.23530) replaces the first
  steps by noise; `karras:14@0.16T` is that, with the noise drawn from a seed so that it can be taken off again. See
  [why grids matter](explanation/grids.md).
"""


def main() -> None:
    """Measure what is missing, and write the page."""
    arguments = _arguments()
    editor = Editor.from_pretrained(dtype=arguments.dtype, batch_size=8)
    files = images.find([arguments.data / "test"])[arguments.first : arguments.first + arguments.count]
    pictures = torch.stack([images.read(file, editor.model.size).tensor for file in files])
    measured: dict[str, Rows] = {}
    if arguments.rows.is_file():
        for line in arguments.rows.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            measured[record["method"]] = record["rows"]
    for table in TABLES:
        for name, method in table.methods.items():
            key = f"{table.title}: {name}"
            if key in measured:
                continue
            measured[key] = [row for part in torch.split(pictures, 8) for row in method(editor, part)]
            with arguments.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"method": key, "rows": measured[key]}) + "\n")
            print(key, f"{fmean(_values(measured[key], 'psnr')):.2f}", flush=True)
    head = {"count": len(files), "first": files[0].stem, "last": files[-1].stem, "dtype": editor.model.dtype}
    page = HEAD.format(**head, hardware=hardware(editor.model.device))
    for table in TABLES:
        page += f"\n## {table.title}\n\n{table.text}\n\n{_rendered(table, measured)}\n"
    first = TABLES[0].title
    ours, *others = (fmean(_values(measured[f"{first}: {name}"], "psnr")) for name in (DEFAULT, AZULA, K_DIFFUSION))
    behind = " and ".join(f"{ours - other:.0f} dB" for other in others)
    arguments.output.write_text(page + FOOT.format(behind=behind), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with test/")
    parser.add_argument("--first", type=int, default=64, help="number of the first picture")
    parser.add_argument("--count", type=int, default=16, help="how many pictures")
    parser.add_argument("--dtype", default="float32", help="of the network")
    parser.add_argument("--rows", type=Path, required=True, help="JSON lines of what is measured")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the page")
    return parser.parse_args()


def _rendered(table: Table, measured: Mapping[str, Rows]) -> str:
    """Return a table in Markdown, the best value of each column in bold, of the rows whose x_T is like noise."""
    cells: dict[str, list[str]] = {}
    ranks: dict[str, list[float]] = {}
    for name in table.methods:
        rows = measured[f"{table.title}: {name}"]
        psnr, lpips = _values(rows, "psnr"), _values(rows, "lpips")
        identical = 100 * fmean(_values(rows, "identical_pixels"))
        std, corr, kurtosis, deviation = (fmean(_values(rows, f"xt_{column}")) for column in HEALTH)
        mean = interval(psnr)
        cells[name] = [
            f"{fmean(_values(rows, 'nfe_in')):.4g} + {fmean(_values(rows, 'nfe_out')):.4g}",
            f"{mean.mean:.1f} ({mean.low:.1f} to {mean.high:.1f})",
            f"{min(psnr):.1f}",
            f"{fmean(lpips):.1e}",
            f"{identical:.1f} %",
            f"{std:.3f}",
            f"{corr:+.3f}",
            f"{kurtosis:.2f}",
            f"{deviation:.2f}" + (" !" if deviation > 1 else ""),
        ]
        # As values of which the greatest is the best; evaluations are not ranked.
        if deviation <= 1 and not name.startswith(TWO_TENSORS):
            closeness = [-abs(std - 1), -abs(corr), -abs(kurtosis - 3), -deviation]
            ranks[name] = [-inf, mean.mean, min(psnr), -fmean(lpips), identical, *closeness]
    for column in range(1, len(COLUMNS) - 1):
        best = max(rank[column] for rank in ranks.values())
        for name, rank in ranks.items():
            # Whatever is shown as the same number is level with the best.
            if rank[column] == best:
                shown = cells[name][column]
                for other in ranks:
                    if cells[other][column] == shown:
                        cells[other][column] = f"**{shown}**"
                break
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for name, row in cells.items():
        mark = " †" if name.startswith(TWO_TENSORS) else ""
        lines.append(f"| {name}{mark} | {' | '.join(row)} |")
    return "\n".join(lines)


def _values(rows: Rows, column: str) -> list[float]:
    """Return a column; a PSNR without a number is that of an image that came back bit by bit."""
    values = []
    for row in rows:
        values.append(BIT_EXACT if row[column] is None else float(row[column]))
    return values


if __name__ == "__main__":
    main()
