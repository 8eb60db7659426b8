"""
6. Why does a network trained as a DDPM work unchanged?
=======================================================

DDPM's training loss is a sum over t of ``E |eps - eps_network(alpha_t x_0 + sigma_t eps, t)|^2``. Each term depends
only on the marginal, the distribution of x_t given x_0, and not on the joint distribution of x_s and x_t.
Every process with these marginals has the same loss, so one network suits them all: Markovian or not, with a
thousand steps or with ten.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from figures import BLUE, ORANGE, faces, packaged, show

from ddim_edit import SeededNoise, images, load_model

model = load_model()
times = [50, 150, 300, 500, 700, 900]
levels = [model.schedule.level(t) for t in times]
names = ["astronaut_face", "seed-0014", "seed-0018", "seed-0026", "seed-0028"]
photos = torch.stack([images.read(packaged(name), (64, 64)).tensor.double() for name in names])

# %%
# Two processes
# -------------
#
# DDPM's Markov chain adds fresh noise at every step. DDIM's forward process draws one eps and keeps it: it is not a
# Markov chain, because x_t depends on x_s and x_0.


def markov(x0: torch.Tensor, seeds: range) -> list[torch.Tensor]:
    """Return states of the chain x_t = k x_s + sqrt(sigma_t^2 - k^2 sigma_s^2) z, k = alpha_t / alpha_s, from s = 0."""
    x, alpha, sigma, noise, states = x0, 1.0, 0.0, SeededNoise(seeds), []
    for level in levels:
        k = level.alpha / alpha
        x = k * x + (level.sigma**2 - (k * sigma) ** 2) ** 0.5 * noise(x)
        alpha, sigma = level.alpha, level.sigma
        states.append(x)
    return states


def one_noise(x0: torch.Tensor, seeds: range) -> list[torch.Tensor]:
    """Return states x_t = alpha_t x0 + sigma_t eps with a single eps."""
    eps = SeededNoise(seeds)(x0)
    return [level.alpha * x0 + level.sigma * eps for level in levels]


def noise_in(x: torch.Tensor, x0: torch.Tensor, level: object) -> torch.Tensor:
    """Return the eps of a state."""
    return (x - level.alpha * x0) / level.sigma


processes = {"DDPM's chain": markov, "one eps": one_noise}
rows, labels = [], []
for name, process in processes.items():
    states = process(photos[:1], range(1))
    rows += [torch.cat(states) / 1.6]
    corners = [noise_in(x, photos[:1], level)[..., :12, :12] for x, level in zip(states, levels, strict=True)]
    rows += [torch.cat(corners) / 2.5]
    labels += [f"{name}:\nx_t", "a corner of\nits noise"]
faces(rows, labels, [f"t = {t}" for t in times])

# %%
# The upper and the lower pair of rows have the same distribution at each time, but very different joint distributions.
#
# The loss is the same
# --------------------
#
# Left: the loss of the packaged network at six times, on five images with two noises each; bars are twice the standard
# error. Right: the correlation of the noises at two times.

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
x0 = photos.repeat(2, 1, 1, 1)
for (name, process), colour, shift in zip(processes.items(), (ORANGE, BLUE), (-8, 8), strict=True):
    losses, first, along = [], None, []
    for x, level in zip(process(x0, range(len(x0))), levels, strict=True):
        eps = noise_in(x, x0, level)
        first = eps if first is None else first
        along.append(float((first * eps).mean()))
        with torch.inference_mode():
            losses.append((eps - model.denoiser(x, level).eps).square().mean((1, 2, 3)))
    means = torch.stack(losses).mean(1)
    errors = torch.stack(losses).std(1) / len(x0) ** 0.5
    left.errorbar(np.array(times) + shift, means, 2 * errors, fmt="o", color=colour, label=name, capsize=3)
    right.plot(times, along, "o-", color=colour)
    print(name, " ".join(f"{mean:.4f}" for mean in means))
left.set(title="training loss", xlabel="t", ylabel="mean of |eps - network|^2", yscale="log")
left.legend()
right.set(title=f"correlation of the noise with that at t = {times[0]}", xlabel="t", ylim=(-0.05, 1.08))

show()
