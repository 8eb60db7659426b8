"""Round-trip error against network evaluations, for every solver and grid, beside diffusers' inverse scheduler.

    python benchmarks/roundtrip.py --images FOLDER --count 32

Pictures go to x_T and back; one line per method, all in one run. PSNR is on [0, 1]; "same" is the share of pixels that
come back in 8 bit; std, corr and kurt are the health of x_T, which for a Gaussian sample is 1, 0 and 3.
"""

import argparse
from collections.abc import Mapping
from itertools import product
from math import inf, nan
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ddim_edit import SOLVERS, Editor, InversionConfig, hardware, images, metrics
from ddim_edit.models.diffusers_inversion import DiffusersInversion

GRIDS = ("karras:14@0.16T", "karras:14", "karras", "logsnr", "uniform")
EXACT = (
    InversionConfig(exact=True),
    InversionConfig("heun", exact=True),
    InversionConfig("ddim", exact=True),
    InversionConfig("ddim", steps=50, exact=True),
)
HEADER = (
    f"{'method':<34}{'in':>6}{'out':>6}{'PSNR':>8}{'worst':>8}{'max err':>9}{'same':>9}{'std':>8}{'corr':>8}{'kurt':>7}"
)
Row = Mapping[str, float]


def main() -> None:
    """Print the table."""
    arguments = _arguments()
    editor = Editor.from_pretrained(arguments.model)
    pictures = _pictures(arguments.images, arguments.count, editor.model.size)
    print(f"{len(pictures)} pictures, {editor.model.name}, {editor.model.dtype} network, float64 state")
    print(f"{hardware(editor.model.device)}\n\n{HEADER}")
    for steps in arguments.steps:
        for solver, grid in product(arguments.solvers, arguments.grids):
            method = InversionConfig(solver, grid, steps)
            print(_line(_name(method), _ours(editor, pictures, method)), flush=True)
        print(_line(f"diffusers DDIMInverseScheduler {steps}", _diffusers(editor, pictures, steps)), flush=True)
    for method in EXACT if arguments.exact else ():
        print(_line(_name(method), _ours(editor, pictures, method)), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder of pictures")
    parser.add_argument("--count", type=int, default=8, help="how many of them, the first by name")
    parser.add_argument("--model", help="a packaged model's name, a folder or a hub id")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS))
    parser.add_argument("--grids", nargs="+", default=list(GRIDS))
    parser.add_argument("--no-exact", dest="exact", action="store_false", help="leave out the exact inversions")
    return parser.parse_args()


def _pictures(folder: Path, count: int, size: tuple[int, int]) -> Tensor:
    files = images.find([folder])[:count]
    return torch.stack([images.read(file, size).tensor for file in files])


def _name(method: InversionConfig) -> str:
    return f"{method.solver} {method.grid} {method.steps}{' exact' if method.exact else ''}"


def _ours(editor: Editor, pictures: Tensor, method: InversionConfig) -> Row:
    scores = editor.reconstruct(pictures, method).scores
    columns = {}
    for name in scores[0]:
        columns[name] = [score[name] for score in scores]
    return _summary(columns)


def _summary(columns: Mapping[str, list[Any]]) -> Row:
    # What is not finite is None in the scores: the PSNR of a bit-exact return, or anything of one that overflowed.
    absent = inf if columns["error"] and set(columns["error"]) == {0.0} else nan
    known: dict[str, list[float]] = {}
    for name, values in columns.items():
        known[name] = [absent if value is None else value for value in values]
    means = {name: fmean(values) for name, values in known.items()}
    return means | {"worst": min(known["psnr"]), "error": max(known["error"])}


def _line(name: str, row: Row) -> str:
    return (
        f"{name:<34}{row['nfe_in']:>6.1f}{row['nfe_out']:>6.1f}{row['psnr']:>8.2f}{row['worst']:>8.2f}"
        f"{row['error']:>9.1e}{row['identical_pixels']:>9.2%}{row['xt_std']:>8.4f}{row['xt_corr']:>+8.3f}"
        f"{row['xt_kurtosis']:>7.2f}"
    )


def _diffusers(editor: Editor, pictures: Tensor, steps: int) -> Row:
    """Diffusers' own pair of schedulers around the same network, without clipping."""
    loop = DiffusersInversion.of(editor.model)
    x = torch.cat([loop.encode(part, steps) for part in torch.split(pictures, 8)])
    back = torch.cat([loop.decode(part, steps) for part in torch.split(x, 8)])
    health = metrics.health(x)
    columns: dict[str, Tensor] = {
        "psnr": metrics.psnr(pictures, back),
        "error": (back - pictures).flatten(1).abs().amax(1),
        "identical_pixels": (images.to_uint8(back) == images.to_uint8(pictures)).all(1).double().mean((1, 2)),
        "xt_std": health.std,
        "xt_corr": health.corr,
        "xt_kurtosis": health.kurtosis,
    }
    measured = {name: values.tolist() for name, values in columns.items()}
    return _summary(measured | {"nfe_in": [float(steps)], "nfe_out": [float(steps)]})


if __name__ == "__main__":
    main()
