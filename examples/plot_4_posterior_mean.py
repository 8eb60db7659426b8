"""
4. Is DDPM without its noise DDIM?
==================================

No. Both are deterministic, and they are often confused. DDPM with sigma = 0 keeps the mean of the
posterior and drops its noise,

    x_s = alpha_s x_0 + sqrt(sigma_s^2 - beta^2) eps          (beta of eta = 1),

whereas DDIM has beta = 0, so that the full noise remains in eps:

    x_s = alpha_s x_0 + sigma_s eps.

The former arrives at s with less noise than that level should have. The network is conditioned on sigma_s, so it
removes the missing noise from the image instead, at every step.
"""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from figures import BLUE, GREY, ORANGE, faces, show

from ddim_edit import Grid, MixtureDenoiser, NoiseSchedule, SeededNoise, load_model, make_grid, sample
from ddim_edit.diffusion.solvers.ancestral import AncestralStep
from ddim_edit.diffusion.solvers.solver import SamplingOnlySolver

# %%
# Exactly, for Gaussian data
# --------------------------
#
# The data have the standard deviation c = 0.3. The state at t should have sqrt(alpha_t^2 c^2 + sigma_t^2), the dotted
# line.

schedule, c = NoiseSchedule.linear(), 0.3
gaussian = MixtureDenoiser(torch.zeros(1, 1), torch.tensor([c]), torch.ones(1))


def deviations(grid: Grid, eta: float, noise: float) -> list[float]:
    """Return the standard deviation of the state at every time of the grid; noise = 0 drops the noise, 1 keeps it."""
    variances = [1.0]
    for there, here in reversed(list(pairwise(grid.times))):
        t, s = schedule.level(here), schedule.level(there)
        x0, eps = (float(part) for part in gaussian(torch.ones(1, 1), t))
        beta = eta * s.sigma / t.sigma * (1 - (t.alpha / s.alpha) ** 2) ** 0.5
        factor = s.alpha * x0 + (s.sigma**2 - beta**2) ** 0.5 * eps
        variances.append(factor**2 * variances[-1] + (noise * beta) ** 2)
    return np.sqrt(variances[::-1]).tolist()


figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
grid = make_grid("uniform", schedule, 100)
levels = [schedule.level(t) for t in grid.times]
axes.plot(grid.times, deviations(grid, 1, 1), color=GREY, label="DDPM")
axes.plot(grid.times, deviations(grid, 0, 0), color=BLUE, label="DDIM")
axes.plot(grid.times, deviations(grid, 1, 0), color=ORANGE, label="DDPM, sigma = 0")
axes.plot(grid.times, [(c**2 * a.alpha**2 + a.sigma**2) ** 0.5 for a in levels], "k:", label="exact")
axes.set(xlabel="t", ylabel="standard deviation of x_t", xlim=(1000, 0), ylim=(0, 1.05), title="100 steps")
axes.legend(loc="lower left", bbox_to_anchor=(0.3, 0.12))
for n in (20, 100, 1000):
    ends = [deviations(make_grid("uniform", schedule, n), eta, noise)[0] for eta, noise in ((1, 1), (0, 0), (1, 0))]
    print("{:4} steps: DDPM {:.3f}, DDIM {:.3f}, DDPM with sigma = 0 {:.5f}".format(n, *ends))

# %%
# More steps do not help. A posterior mean of posterior means is again a posterior mean, here E[x_0 | x_T] = alpha_T
# c^2 x_T (with alpha_T = 0.006), for any number of steps: the information in x_T is averaged out.
#
# On faces
# --------
#
# The same x_T in 8 steps with all of DDPM's noise, with less, and with none; below, DDIM. With nine tenths of the
# noise, faces are smooth and pale; with three quarters they drift towards one colour. Without noise the states have
# a far too small variance for their time, which the network never saw in training, and only a colour remains.

model, seeds = load_model(), [14, 18, 57]
spans = model.schedule.spans(make_grid("uniform", model.schedule, 8))


def sampled(eta: float, kept: float) -> torch.Tensor:
    """Sample images with this share of the noise of each step."""
    noise = SeededNoise(seeds)  # draws x_T of each image first, and then the noise of the steps
    start = noise.draw(model.shape)
    with torch.inference_mode():
        return sample(
            model.denoiser, (start,), spans, SamplingOnlySolver(AncestralStep(eta, lambda x: kept * noise(x)))
        ).x0


rows = {
    "DDPM": sampled(1, 1),
    "90 % of\nits noise": sampled(1, 0.9),
    "75 % of\nits noise": sampled(1, 0.75),
    "DDPM,\nsigma = 0": sampled(1, 0),
    "DDIM": sampled(0, 0),
}
faces(list(rows.values()), list(rows))

# %%
# ``Editor.sample(posterior_mean=True)`` and the option ``--posterior-mean`` of ``ddim-edit sample`` show it for other
# models.

show()
# sphinx_gallery_thumbnail_number = 2
