"""
2. Why can steps be skipped?
============================

A network trained with 1000 levels can be used with ten steps. This is not a numerical approximation of the training
process: there is a whole family of processes with the same marginals, Markovian or not, which can take steps of any
length.

For s < t, with the network's x_0 and eps at x_t, and for any beta from 0 to sigma_s,

    x_s = alpha_s x_0 + sqrt(sigma_s^2 - beta^2) eps + beta z,    z ~ N(0, I).
"""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from figures import BLUE, GREY, ORANGE, faces, show
from torch import Tensor

from ddim_edit import Denoiser, Editor, Grid, InversionConfig, MixtureDenoiser, NoiseSchedule, make_grid, metrics

# %%
# The marginals do not depend on beta
# -----------------------------------
#
# For the true x_0 and eps, x_s has mean alpha_s x_0 and variance (sigma_s^2 - beta^2) + beta^2 = sigma_s^2 for all t,
# s and beta. So a step of any length gives the right distribution, and the noise z can be omitted.
#
# With DDPM's beta (eta = 1 below) the process is Markovian; with beta = 0 it is deterministic: DDIM.


def sample_path(denoiser: Denoiser, x: Tensor, schedule: NoiseSchedule, grid: Grid, eta: float) -> list[Tensor]:
    """Return all states of a process of the family along a grid, from data to noise."""
    states, noise = [x], torch.Generator().manual_seed(1)
    for there, here in reversed(list(pairwise(grid.times))):
        t, s = schedule.level(here), schedule.level(there)
        x0, eps = denoiser(x, t)
        beta = eta * s.sigma / t.sigma * (1 - (t.alpha / s.alpha) ** 2) ** 0.5
        x = (
            s.alpha * x0
            + max(s.sigma**2 - beta**2, 0) ** 0.5 * eps
            + beta * torch.randn(x.shape, dtype=x.dtype, generator=noise)
        )
        states.append(x)
    return states[::-1]


# %%
# In one dimension
# ----------------
#
# The data are two narrow Gaussians; their exact denoiser is a formula, `MixtureDenoiser`. Grey is the true density of
# x_t at every t. 2000 points each are sampled with eta = 1 and eta = 0 in 250 steps; the lines are some of their paths.

means, widths, weights = torch.tensor([[-1.0], [0.6]]), torch.tensor([0.12, 0.2]), torch.tensor([0.4, 0.6])
mixture = MixtureDenoiser(means.double(), widths.double(), weights.double())
schedule = NoiseSchedule.linear()


def density(y: np.ndarray, t: float) -> np.ndarray:
    """Return the density of x_t at the values y."""
    level = schedule.level(t)
    deviations = (level.alpha**2 * widths**2 + level.sigma**2).sqrt()
    parts = zip(weights.tolist(), (level.alpha * means[:, 0]).tolist(), deviations.tolist(), strict=True)
    return sum(w * np.exp(-(((y - m) / d) ** 2) / 2) / d / np.sqrt(2 * np.pi) for w, m, d in parts)


grid = make_grid("uniform", schedule, 250)
start = torch.randn(2000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
paths = {eta: torch.stack(sample_path(mixture, start, schedule, grid, eta))[..., 0].numpy() for eta in (1.0, 0.0)}

figure, panels = plt.subplots(1, 3, figsize=(8.6, 3.1), width_ratios=[1, 1, 0.62], sharey=True, layout="constrained")
y = np.linspace(-3, 3, 301)
shade = np.stack([density(y, t) for t in grid.times], 1)
for axes, (eta, states), colour in zip(panels, paths.items(), (ORANGE, BLUE), strict=False):
    axes.imshow(shade**0.5, origin="lower", extent=(0, 1000, -3, 3), aspect="auto", cmap="Greys", vmax=1.1)
    axes.plot(grid.times, states[:, :16], color=colour, lw=0.9, alpha=0.9)
    axes.set(title=f"eta = {eta:g}: {'Markovian' if eta else 'deterministic'}", xlabel="t", xlim=(1000, 0))
    panels[2].hist(states[0], bins=60, density=True, orientation="horizontal", histtype="step", color=colour, lw=1.5)
panels[0].set(ylabel="x_t", ylim=(-3, 3))
panels[2].fill_betweenx(y, density(y, 0), color=GREY, alpha=0.35, lw=0)
panels[2].set(title="both sample the data", xlabel="density at t = 0")

# %%
# Both have the right distribution at every intermediate level too. The largest distance between their distribution
# functions and the true one (Kolmogorov-Smirnov; 2000 exact samples exceed 0.03 once in twenty times):

for t in (800, 400, 200, 100, 0):
    index = grid.times.index(t)
    edges = np.linspace(-6, 6, 6001)
    law = np.cumsum(density(edges, t)) * (edges[1] - edges[0])
    found = [np.abs(np.searchsorted(np.sort(s[index]), edges) / 2000 - law).max() for s in paths.values()]
    print(f"t = {t:3}    eta = 1: {found[0]:.3f}    eta = 0: {found[1]:.3f}")

# %%
# On faces
# --------
#
# The same three x_T decoded by DDIM in 4 to 16 steps. Far fewer than 1000 steps are needed, because the paths are
# smooth, and every number of steps gives the *same* faces with different accuracy. This suggests that x_T is a latent
# code.

editor = Editor.from_pretrained()
steps = [4, 8, 16]
rows = [editor.sample(3, seed=55, config=InversionConfig("ddim", "uniform", n)) for n in steps]
faces(rows, [f"{n} steps" for n in steps])
for n, row in zip(steps[:-1], rows, strict=False):
    print(f"{n:2} steps against 16: PSNR {metrics.psnr(row, rows[-1]).mean():.1f} dB")

show()
# sphinx_gallery_thumbnail_number = 2
