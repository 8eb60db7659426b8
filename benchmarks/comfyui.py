"""Images to x_T and back inside ComfyUI: by our nodes' functions, by flipped sigmas, and by our Editor.

    COMFYUI_PATH=ComfyUI python benchmarks/comfyui.py

One packaged portrait by faces64, which predicts eps, and by the same network as one that predicts v and as a rectified
flow. Its requirements (torchsde, einops and so on) must be installed beside ddim-edit.
"""

import argparse
import math
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

import comfy_host
import torch
from torch import Tensor, nn

from ddim_edit import Editor, InversionConfig, Model, NetworkDenoiser, NoiseSchedule
from ddim_edit.images import read
from ddim_edit.integrations.comfyui import decode, invert

STEPS = 20
KINDS = {"EPS": "epsilon", "V_PREDICTION": "v_prediction", "FLOW": "flow_prediction"}
CONDITIONING = [[torch.zeros(1, 1, 8), {}]]
LARGEST_TAU = 1 - 2**-12
"""Beyond, a straight path has nothing of the image."""


class Faces(nn.Module):
    """faces64 as a network that predicts eps, v or the velocity of a straight path."""

    dtype = torch.float32

    def __init__(self, model: Model, kind: str) -> None:
        super().__init__()
        self.denoiser = cast(NetworkDenoiser, model.denoiser)
        self.schedule = model.schedule
        self.kind = kind

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, **_: Any) -> Tensor:
        """Return the output for x [B, 3, H, W], all of whose rows are at one time."""
        if self.kind == "EPS":
            return self.denoiser.network(x, timesteps)
        time = float(timesteps[0])
        x = x.double()
        if self.kind == "FLOW":
            tau = min(time / 1000, LARGEST_TAU)
            s = tau / (1 - tau)
            y = x / (1 - tau)
            # Straight paths go on where the training of faces64 ends, at pure noise.
            index = torch.full_like(timesteps, self.schedule.time(s) - 1).clamp(min=0)
            eps = self.denoiser.network((y / math.hypot(1, s)).float(), index).double()
            return (eps - (y - s * eps)).float()
        level = self.schedule.level(time + 1)
        x0, eps = self.denoiser(x, level)
        return (level.alpha * eps - level.sigma * x0).float()


def flipped(model: Any, samples: Tensor, sampler: str, scheduler: str) -> tuple[Tensor, Tensor]:
    """Return x_T in units of sigma and what comes back, as with the nodes Flip Sigmas and SamplerCustom."""
    import comfy.samplers

    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, STEPS)
    up = sigmas.flip(0)
    up[0] = max(float(up[0]), 0.0001)  # as Flip Sigmas has it
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(CONDITIONING, CONDITIONING)
    results = [samples]
    for each in (up, sigmas):
        method = comfy.samplers.sampler_object(sampler)
        results.append(guider.sample(torch.zeros_like(samples), results[-1], method, each, disable_pbar=True))
    return results[1] / float(sigmas[0]), results[2]


def measure(kind: str, model: Model, image: Tensor) -> list[str]:
    """Return the rows of a kind."""
    host = comfy_host.make_model(kind, Faces(model, kind))
    sampling = host.get_model_object("model_sampling")
    if kind != "FLOW":
        # The betas of faces64, which are not those that ComfyUI has for Stable Diffusion.
        sampling.set_sigmas(torch.from_numpy(model.schedule.log_s).exp())
    schedule = NoiseSchedule.flow() if kind == "FLOW" else model.schedule
    own = Faces(model, kind)
    editor = Editor(Model.from_network(lambda x, t: own(x, t), schedule, KINDS[kind], model.shape, weights=own))
    config = InversionConfig(steps=STEPS)
    with torch.inference_mode():
        latents = invert(host, CONDITIONING, None, image, config)
        ours = latents.x, decode(host, CONDITIONING, None, latents)
    reference = editor.invert(image.double(), config)
    editors = reference.x, editor.decode(reference)
    rows = [_row(kind, "our nodes", image, *ours), _row(kind, "our Editor", image, *editors)]
    for sampler, scheduler in (("euler", "normal"), ("euler", "karras"), ("dpmpp_2m", "karras")):
        rows.append(
            _row(kind, f"Flip Sigmas, {sampler}, {scheduler}", image, *flipped(host, image, sampler, scheduler))
        )
    difference = float((ours[0] - editors[0]).abs().max() / editors[0].abs().max())
    images = float((ours[1] - editors[1]).abs().max())
    return [*rows, f"| {kind} | nodes against Editor: x_T {difference:.1e} of its largest, image {images:.1e} | | |"]


def _row(kind: str, name: str, image: Tensor, x: Tensor, decoded: Tensor) -> str:
    error = (decoded.clamp(-1, 1) - image).double().square().mean()
    psnr = 10 * math.log10(4 / float(error)) if error.isfinite() else math.nan
    return f"| {kind} | {name} | {psnr:.2f} | {float(x.double().std()):.3f} |"


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args(words)
    comfy_host.install(Path(os.environ["COMFYUI_PATH"]))
    editor = Editor.from_pretrained(device="cpu", dtype="float32")
    portrait = Path(str(resources.files("ddim_edit.assets"))) / "images" / "astronaut_face.png"
    image = read(portrait, editor.model.size).tensor[None].float()
    print("| predicts | x_T by | PSNR, dB | standard deviation of x_T |", "|---|---|---|---|", sep="\n")
    for kind in arguments.kinds:
        print(*measure(kind, editor.model, image), sep="\n", flush=True)


if __name__ == "__main__":
    main()
