"""Cost of the estimators of directions on as many images as a user may have: wall and CPU seconds of one fit.

    python benchmarks/fitting.py --n 500 6000 --d 12288

Synthetic float32 latents with a power-law spectrum and a planted direction; regularisations are searched as by default.
The last column is the cosine with the planted direction.
"""

import argparse
import time
from collections.abc import Mapping

import numpy as np

from ddim_edit import hardware
from ddim_edit.directions import ESTIMATORS, DirectionEstimator, PrincipalDirections, make_estimator


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[500, 6000], help="pictures")
    parser.add_argument("--d", type=int, default=12288, help="numbers of a code")
    arguments = parser.parse_args()
    print(f"{hardware()}\n")
    print(f"{'estimator':<12}{'n':>7}{'d':>8}{'wall s':>9}{'CPU s':>9}{'cosine':>9}")
    for n in arguments.n:
        X, y, planted = _planted(n, arguments.d)
        estimators: Mapping[str, DirectionEstimator] = {name: make_estimator(name) for name in ESTIMATORS}
        for name, estimator in estimators.items():
            wall, cpu = time.perf_counter(), time.process_time()
            found = estimator.fit(X, y).direction_
            spent = f"{time.perf_counter() - wall:>9.1f}{time.process_time() - cpu:>9.1f}"
            print(f"{name:<12}{n:>7}{arguments.d:>8}{spent}{found @ planted:>9.3f}", flush=True)
        wall, cpu = time.perf_counter(), time.process_time()
        PrincipalDirections().fit(X)
        spent = f"{time.perf_counter() - wall:>9.1f}{time.process_time() - cpu:>9.1f}"
        print(f"{'principal':<12}{n:>7}{arguments.d:>8}{spent}{'':>9}", flush=True)


def _planted(n: int, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scales = (1 + np.arange(d)) ** -0.25
    X = rng.standard_normal((n, d), dtype=np.float32) * scales.astype(np.float32)
    y = rng.permutation(np.arange(n) % 2).astype(np.float64)
    direction = rng.standard_normal(d) * scales
    direction /= np.linalg.norm(direction)
    X += np.outer(y - 0.5, 2 * direction).astype(np.float32)
    return X, y, direction


if __name__ == "__main__":
    main()
