"""
5. Where does diversity come from when eta = 0?
===============================================

From x_T alone. Sampling adds no noise, so x_T determines the image. The grid of times, which can be chosen freely,
only determines the accuracy. Three rows of five images show it, and LPIPS, a perceptual distance, measures it.
"""

from itertools import combinations

import matplotlib.pyplot as plt
import torch
from figures import BLUE, GREEN, ORANGE, faces, show

from ddim_edit import Editor, InversionConfig, SeededNoise, make_grid, metrics, sample
from ddim_edit.diffusion.solvers.ancestral import AncestralStep
from ddim_edit.diffusion.solvers.solver import SamplingOnlySolver

editor = Editor.from_pretrained()
grids = ["uniform", "quad", "karras:14", "logsnr", "trailing"]

# %%
# One x_T, five grids
# -------------------

one_latent = torch.cat([editor.decode(editor.noise([28], InversionConfig("ddim", grid, 8))) for grid in grids])

# %%
# One grid, five x_T
# ------------------

one_grid = editor.decode(editor.noise([28, 10, 14, 18, 56], InversionConfig("ddim", "uniform", 8)))

# %%
# One x_T, five times DDPM
# ------------------------
#
# With eta = 1 the image also depends on the noise of the steps, and x_T is not a latent code of the image.

model = editor.model
start = SeededNoise([28]).draw(model.shape).expand(5, -1, -1, -1)
spans = model.schedule.spans(make_grid("uniform", model.schedule, 8))
with torch.inference_mode():
    ddpm = sample(model.denoiser, (start,), spans, SamplingOnlySolver(AncestralStep(1.0, SeededNoise(range(5))))).x0

rows = {"one x_T,\nfive grids": one_latent, "one grid,\nfive x_T": one_grid, "one x_T,\nDDPM": ddpm}
faces(list(rows.values()), list(rows))

# %%
# All ten pairs of each row
# -------------------------

lpips = metrics.LPIPS()
pairs = list(combinations(range(5), 2))
left, right = (torch.tensor(side) for side in zip(*pairs, strict=True))
figure, axes = plt.subplots(figsize=(6.6, 2.3), layout="constrained")
for height, ((name, row), colour) in enumerate(zip(rows.items(), (BLUE, GREEN, ORANGE), strict=True)):
    row = row.clamp(-1, 1)
    apart = lpips(row[left], row[right])
    axes.plot(apart, [-height] * len(apart), "o", color=colour, alpha=0.5, mec="none")
    axes.plot(apart.mean(), -height, "|", color=colour, ms=22, mew=2.5)
    print(f"{' '.join(name.split()):20} LPIPS {apart.mean():.3f}, from {apart.min():.3f} to {apart.max():.3f}")
axes.set(yticks=[0, -1, -2], yticklabels=list(rows), xlabel="LPIPS of two images", xlim=(0, None), ylim=(-2.5, 0.5))

show()
