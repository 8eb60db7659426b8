"""Cost of fitting a direction to latents on disk: wall and CPU seconds, and peak memory, of each estimator.

    python benchmarks/fitting_at_scale.py --n 100000 --d 12288 --methods mean ridge lda logistic principal

Gaussian latents of two classes with the spectrum of half-noised images, a floor of noise and a power law above it, are
written to a temporary file block by block (4.9 GB by default) and removed afterwards. Each estimator runs in a process
of its own through `fit_direction` with its defaults, the search of its regularisation and the baseline of five shuffles
included. The file is read by plain reads, so that the peak of the resident memory is what the process itself holds.

The last columns are cosines: with the normal of the best plane between the two Gaussians, measured where the noise is
white, and with the difference of their means, which is what a mean difference estimates.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct, idct
from torch import Tensor

from ddim_edit import LatentArray, Recipe, fit_direction, hardware, principal_directions

RECIPE = Recipe("synthetic", {}, {"T": 1000}, "epsilon", "float32", "dpm2m", "karras:9", (1.0, 1000.0))
GAP = 2.0
"""Between the classes, in deviations of the noise across the best plane: the AUC is at most 0.921."""
COLUMNS = {
    "method": "<10",
    "n": ">7",
    "d": ">6",
    "wall_s": ">8.0f",
    "cpu_s": ">8.0f",
    "peak_gb": ">8.2f",
    "auc": ">7.3f",
    "permuted_auc": ">13.3f",
    "plane": ">7.3f",
    "means": ">7.3f",
}


@dataclass(frozen=True)
class FileRows:
    """Rows of a raw float32 file, by plain reads."""

    file: Path
    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, where: slice) -> NDArray[np.float32]:
        start, stop, _ = where.indices(len(self))
        d = self.shape[1]
        return np.fromfile(self.file, np.float32, (stop - start) * d, offset=4 * start * d).reshape(-1, d)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100_000, help="latents")
    parser.add_argument("--d", type=int, default=12_288, help="numbers of a code")
    parser.add_argument("--methods", nargs="+", default=["mean", "ridge", "lda", "logistic", "principal"])
    parser.add_argument("--folder", type=Path, help="where the temporary file goes")
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)  # the file, in a process for one estimator
    arguments = parser.parse_args()
    if arguments.fit:
        print(json.dumps(_fitted(arguments.methods[0], FileRows(arguments.fit, (arguments.n, arguments.d)))))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = FileRows(Path(folder) / "latents", (arguments.n, arguments.d))
        _write(rows)
        print(f"{hardware()}\n")
        print("".join(f"{name:{form.split('.')[0]}}" for name, form in COLUMNS.items()))
        results = [_measured(method, rows) for method in arguments.methods]
    print(json.dumps(results))


def _measured(method: str, rows: FileRows) -> Mapping[str, Any]:
    line = [sys.executable, __file__, "--fit", str(rows.file), "--methods", method]
    line += ["--n", str(rows.shape[0]), "--d", str(rows.shape[1])]
    result: Mapping[str, Any] = json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE).stdout)
    cells = [f"{result[name]:{form}}" if result[name] is not None else f"{'-':>7}" for name, form in COLUMNS.items()]
    print("".join(cells), flush=True)
    return result


def _fitted(method: str, rows: FileRows) -> Mapping[str, Any]:
    latents = LatentArray(cast(Tensor, rows), RECIPE)
    wall, cpu = time.perf_counter(), time.process_time()
    if method == "principal":
        (direction,) = principal_directions(latents)[:1]
    else:
        direction = fit_direction("planted", latents, _labels(len(rows)), method)
    spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    push, deviations = _push(rows.shape[1]), np.sqrt(_variances(rows.shape[1]))
    found = dct(direction.vector.numpy(), norm="ortho")
    cosines = {"plane": _cosine(found * deviations, push), "means": _cosine(found, push * deviations)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {**direction.report, **spent, **cosines, "method": method, "peak_gb": peak}


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def _labels(n: int) -> NDArray[np.float64]:
    return np.random.default_rng(1).permutation(np.arange(n) % 2).astype(np.float64)


def _variances(d: int) -> NDArray[np.float64]:
    """Return the variances along the waves of a cosine transform."""
    return 0.5 + d / (12 * (1 + np.arange(d)))


def _push(d: int) -> NDArray[np.float64]:
    """Return the gap between the classes where the noise is white."""
    push = np.random.default_rng(2).standard_normal(d)
    return GAP * push / np.linalg.norm(push)


def _write(rows: FileRows) -> None:
    rng, labels = np.random.default_rng(3), _labels(len(rows))
    n, d = rows.shape
    push, scale = _push(d).astype(np.float32), np.sqrt(_variances(d)).astype(np.float32)
    with rows.file.open("wb") as file:
        for start in range(0, n, 1000):
            sides = labels[start : start + 1000, None].astype(np.float32) - np.float32(0.5)
            white = rng.standard_normal((len(sides), d), dtype=np.float32) + sides * push
            idct(white * scale, axis=1, norm="ortho").tofile(file)


if __name__ == "__main__":
    main()
