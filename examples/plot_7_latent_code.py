"""
7. What is x_T good for, as the code of an image?
=================================================

Because nothing is drawn on the way, the way can be walked up again: from your own picture to its x_T. What a GAN's
latent space is used for can then be done with real photographs: interpolate, edit, reason by analogy, read attributes
with a line.
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
# There and back
# --------------
#
# A photograph that the network has never seen, its x_T, and what x_T decodes to. Nothing of the face can be seen in
# x_T, and its statistics are those of noise; yet it decodes to the face.

trip = editor.reconstruct([photo, other])
codes = trip.latents
faces(
    [torch.stack([a, x / 3, b]) for a, x, b in zip(trip.originals, codes.x, trip.decoded, strict=True)],
    columns=["picture", "x_T", "decoded"],
)
for scores in trip.scores:
    print(
        "PSNR {psnr:.1f} dB, LPIPS {lpips:.5f}, x_T: deviation {xt_std:.3f}, correlation of neighbours {xt_corr:+.3f}, "
        "kurtosis {xt_kurtosis:.2f}".format_map(scores)
    )

# %%
# Interpolate
# -----------
#
# Codes are Gaussian and so all of about the same length: halfway between two of them lies on the great circle
# (slerp), not on the straight line (lerp). The middle of that is too short by three tenths, and the network, which
# has never seen a state so quiet at T, decodes it to a colour, as on page 4. Mixed pixels are two faces at once;
# along the great circle there is one.

frames = 6
rows = {name: editor.decode(editor.interpolate(codes, frames, name)[1:-1]) for name in ("slerp", "lerp")}
ends = trip.decoded
weights = torch.linspace(0, 1, frames).double()[:, None, None, None]
mixed = torch.lerp(ends[:1], ends[1:], weights)
walks = [torch.cat([ends[:1], row, ends[1:]]) for row in rows.values()]
faces([*walks, mixed], ["slerp", "lerp", "pixels"])

# %%
# Edit
# ----
#
# A direction is a unit vector in the space of codes, fitted to labelled pictures. Strengths are standard deviations.
# Edits stop half-way up, at 0.4 T, where a plane separates attributes better than at x_T itself (see
# :doc:`/directions`).

settings = [{"old": -7}, {"old": 0}, {"old": 7}, {"female": -7}, {"light": 1.0}, {"warm": 1.5}]
names = ["old -7", "picture", "old +7", "female -7", "light +1", "warm +1.5"]
faces(list(editor.edits([photo], settings)), columns=names)

# %%
# Analogy
# -------
#
# The old man is to the young woman as whom to the boy? c + (a - b), in codes at 0.4 T. It needs no labels and no
# direction; from single pictures it takes along everything else in which they differ.

answer = editor.analogy(old, young, boy, weight=0.6)
three = torch.stack([images.read(name, (64, 64)).tensor for name in (old, young, boy)])
faces([torch.cat([three, answer])], columns=["a", "b", "c", "c + (a - b)"])

# %%
# Read with a line
# ----------------
#
# What does x_T say of the picture, to a linear probe? Here 48 sampled faces, whose x_T we know. The light of the
# picture, its warmth and the side that it comes from are looked for in the means of x_T over its four quarters, 12
# numbers in all. Every point was predicted by a ridge regression that has not seen it.

noise = editor.noise(range(100, 148), InversionConfig(steps=4))
pictures = editor.decode(noise).clamp(-1, 1)
quarters = F.avg_pool2d(noise.x, 32).flatten(1).numpy()
attributes = {
    "light": pictures.mean((1, 2, 3)),
    "red over blue": (pictures[:, 0] - pictures[:, 2]).mean((1, 2)),
    "left over right": (pictures[..., :32] - pictures[..., 32:]).mean((1, 2, 3)),
}
figure, panels = plt.subplots(1, 3, figsize=(8, 2.9), layout="constrained")
for axes, (name, values) in zip(panels, attributes.items(), strict=True):
    read = cross_val_predict(RidgeCV(np.geomspace(1e-3, 1e3, 13)), quarters, values.numpy(), cv=8)
    axes.axline((0, 0), slope=1, color=GREY, lw=1, ls=":")
    axes.plot(values, read, "o", color=BLUE, ms=4, alpha=0.7, mec="none")
    axes.set(title=f"{name}: r = {np.corrcoef(values, read)[0, 1]:.2f}", xlabel="of the picture")
panels[0].set_ylabel("read off x_T")

# %%
# The coarse things of a picture lie open in x_T. Attributes such as age or gender do not: a line through x_T gets
# little of them, one through x_t at 0.4 T more, one through the network's bottleneck most. :doc:`/directions` has the
# figures.

show()
