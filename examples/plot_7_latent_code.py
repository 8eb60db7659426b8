"""
7. What can be done with x_T as a latent code?
==============================================

Sampling is deterministic, so it can be inverted: from your own image to its x_T. The applications of a GAN's
latent space are then possible with real photographs: interpolation, edits, analogies, linear probes.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from figures import BLUE, GREY, faces, packaged, show
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_predict

from ddim_edit import Editor, InversionConfig, images

editor = Editor.from_pretrained()
photo, boy, young, old, other = (
    packaged(name) for name in ("astronaut_face", "seed-0018", "seed-0014", "seed-0026", "seed-0028")
)

# %%
# Reconstruct
# -----------
#
# A photograph that the network has never seen, its x_T, and the image that x_T decodes to. The face is not visible in
# x_T, and its statistics are those of noise; yet it decodes to the face.

result = editor.reconstruct([photo, other], steps=10)
latents = result.latents
faces(
    [torch.stack([a, x / 3, b]) for a, x, b in zip(result.originals, latents.x, result.decoded, strict=True)],
    columns=["image", "x_T", "decoded"],
)
for scores in result.scores:
    print(
        "PSNR {psnr:.1f} dB, LPIPS {lpips:.5f}, x_T: std {xt_std:.3f}, correlation of neighbours {xt_corr:+.3f}, "
        "kurtosis {xt_kurtosis:.2f}".format_map(scores)
    )

# %%
# Interpolate
# -----------
#
# Latents are Gaussian, so all have about the same norm. The midpoint of a spherical interpolation (slerp) has it too;
# that of a linear one (lerp) is smaller by three tenths. The network has never seen a state with so little variance at
# T, and decodes it to a colour, as on page 4. Interpolated pixels show two faces at once, slerp shows one.

frames = 5
rows = {name: editor.decode(editor.interpolate(latents, frames, name)[1:-1]) for name in ("slerp", "lerp")}
ends = result.decoded
weights = torch.linspace(0, 1, frames).double()[:, None, None, None]
mixed = torch.lerp(ends[:1], ends[1:], weights)
paths = [torch.cat([ends[:1], row, ends[1:]]) for row in rows.values()]
faces([*paths, mixed], ["slerp", "lerp", "pixels"])

# %%
# Edit
# ----
#
# A direction is a unit vector in the latent space, fitted to labelled images. Strengths are in standard deviations.
# Edits invert only to 0.4 T, where a plane separates attributes better than at x_T (see :doc:`/directions`).

settings = [{"old": -7}, {"old": 7}, {"female": -7}, {"light": 1.0}, {"warm": 1.5}]
names = ["image", "old -7", "old +7", "female -7", "light +1", "warm +1.5"]
(edited,) = editor.edits([photo], settings)
faces([torch.cat([result.originals[:1], edited])], columns=names)

# %%
# Analogy
# -------
#
# What is to the boy as the old man is to the young woman? c + (a - b), for latents at 0.4 T. It needs no labels and no
# direction, but with single images it includes all their other differences.

answer = editor.analogy(old, young, [boy], weight=0.6, steps=10)
three = torch.stack([images.read(name, (64, 64)).tensor for name in (old, young, boy)])
faces([torch.cat([three, answer])], columns=["a", "b", "c", "c + (a - b)"])

# %%
# Linear probes
# -------------
#
# What does x_T tell a linear probe about the image? For 40 sampled faces with known x_T, the brightness of the
# image, its warmth and the side of the light are predicted from the means of x_T over its four quarters, 12
# numbers in all. Every point was predicted by a ridge regression that was not trained on it.

noise = editor.noise(range(100, 140), InversionConfig(steps=3))
decoded = editor.decode(noise).clamp(-1, 1)
quarters = F.avg_pool2d(noise.x, 32).flatten(1).numpy()
attributes = {
    "brightness": decoded.mean((1, 2, 3)),
    "red over blue": (decoded[:, 0] - decoded[:, 2]).mean((1, 2)),
    "left over right": (decoded[..., :32] - decoded[..., 32:]).mean((1, 2, 3)),
}
figure, panels = plt.subplots(1, 3, figsize=(8, 2.9), layout="constrained")
for axes, (name, values) in zip(panels, attributes.items(), strict=True):
    read = cross_val_predict(RidgeCV(np.geomspace(1e-3, 1e3, 13)), quarters, values.numpy(), cv=8)
    axes.axline((0, 0), slope=1, color=GREY, lw=1, ls=":")
    axes.plot(values, read, "o", color=BLUE, ms=4, alpha=0.7, mec="none")
    axes.set(title=f"{name}: r = {np.corrcoef(values, read)[0, 1]:.2f}", xlabel="of the image")
panels[0].set_ylabel("predicted from x_T")

# %%
# Coarse properties of an image can be read from x_T linearly. Attributes such as age or gender hardly can; x_t at 0.4 T
# is better, and the network's bottleneck best: see the measurements in :doc:`/directions`.

show()
