"""
1. Why does alpha go to 1 at t = 0, and to 0 at T?
==================================================

At t = 0, alpha = 1, so the state *is* the image. At T, alpha_bar is almost 0, so the state is pure noise, and sampling
can start from fresh noise. This page violates each of the two conditions once and shows the result.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from figures import GREY, draw, faces, packaged, show

from ddim_edit import Grid, NoiseSchedule, SeededNoise, find_solver, images, load_model, make_grid, sample

linear = NoiseSchedule.linear()
schedules = {
    "linear, to t = 400": NoiseSchedule(linear.log_s[:400]),
    "scaled linear": NoiseSchedule.scaled_linear(),
    "linear": linear,
    "cosine": NoiseSchedule.cosine(),
}

# %%
# How much of the image is left
# -----------------------------
#
# The signal-to-noise ratio at time t is alpha_bar / (1 - alpha_bar). A schedule has to go from far above 1 (almost no
# noise) to far below 1 (almost no signal). The truncated one ends early, at a ratio of 0.2.

photo = images.read(packaged("astronaut_face"), (64, 64)).tensor.double()
noise = SeededNoise([0]).draw(photo.shape)[0]

figure = plt.figure(figsize=(8, 5.6), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=[1, 1.35])
left, right = above.subplots(1, 2)
for (name, schedule), colour in zip(schedules.items(), ["#D55E00", "#CC79A7", "#0072B2", "#009E73"], strict=True):
    share = [t / linear.T for t in range(1, schedule.T + 1)]
    cut = {"ls": "--", "lw": 3, "zorder": 3} if schedule.T < linear.T else {}
    for axes, y in ((left, schedule.alpha_bar), (right, schedule.alpha_bar / (1 - schedule.alpha_bar))):
        axes.plot(share, y, color=colour, label=name, **cut)
        axes.plot(share[-1], y[-1], "o", color=colour, clip_on=False, zorder=4)
left.set(title="alpha_bar", xlabel="t / 1000", xlim=(0, 1), ylim=(0, 1))
left.legend(fontsize=8.5)
right.set(title="signal-to-noise ratio", yscale="log", xlabel="t / 1000", xlim=(0, 1), ylim=(1e-9, 1e5))
right.axhline(1, color=GREY, lw=1, ls=":")

grid = below.subplots(2, 5)
shown = {"x_0": (photo, "")}
for name, schedule in schedules.items():
    last = schedule.level(schedule.T)
    shown[name] = ((last.alpha * photo + last.sigma * noise) / 2, f"SNR {last.s**-2:.1g}")
for (top, bottom), (name, (x, ratio)) in zip(grid.T, shown.items(), strict=True):
    means = F.avg_pool2d(x[None], 8)
    draw(top, x)
    draw(bottom, F.interpolate(means / means.std() / 4, 64, mode="bicubic")[0])
    top.set_title(f"{name.replace(', ', chr(10))}\n{ratio}".strip(), fontsize=9)
for axes, label in zip(grid[:, 0], ["x_T of a\nphotograph", "its coarse\nmeans"], strict=True):
    axes.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)

# %%
# The upper row is x_T = alpha_T x_0 + sigma_T eps of one photograph, with the same eps. The lower row shows means
# over 8 x 8 pixels, which average out the noise and keep the rest of the image. With the schedule truncated at t = 400
# the face is visible. With the scaled linear schedule of latent diffusion a trace of its brightness is left, which is
# why such models hardly generate very dark images (Lin, Liu, Li, Yang 2024). DDPM's linear schedule has a ratio of
# 4e-5, and nothing is visible.

# %%
# What goes wrong otherwise
# -------------------------
#
# The same three x_T are decoded by the same network on three grids. At t = 400 a fifth of the variance should be
# signal. If sampling starts there from pure noise, the network finds no brightness and no large shapes in it, treats
# that as information about the image, and generates distorted faces. If sampling ends at t = 100 instead of 0, the
# images keep the noise of that level.

model = load_model()
whole = make_grid("uniform", model.schedule, 8).to_clean()
kept = {
    "from T to 0": whole,
    f"from t = 400\n(alpha = {model.schedule.level(400).alpha:.2f})": whole.until(400),
    f"only to t = 100\n(alpha = {model.schedule.level(100).alpha:.2f})": Grid("short", whole.times[1:]),
}
x = SeededNoise([14, 28, 18]).draw(model.shape)
rows = []
for grid in kept.values():
    with torch.inference_mode():
        rows.append(sample(model.denoiser, (x,), model.schedule.spans(grid), find_solver("dpm2m")).x0)
faces(rows, list(kept))
for name, row in zip(kept, rows, strict=True):
    print(f"{' '.join(name.split()):32} contrast {row.std((1, 2, 3)).mean():.2f}")

show()
