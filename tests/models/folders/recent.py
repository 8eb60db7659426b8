"""What diffusers' pipelines of the families of 2024 to 2026 do, step by step, and how their states are ours."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddim_edit import NoiseSchedule
from ddim_edit.diffusion.grids import Grid, make_grid
from ddim_edit.diffusion.schedules import SMALLEST_ALPHA, Level
from ddim_edit.models.condition import Condition

from ...pipelines import CELLS, SIZE
from .originals import NEGATIVE, PROMPT, Run, Step, noise, preserving, recorded, straight

STEPS = 5
PLAIN = Condition(PROMPT)
GUIDED = Condition(PROMPT, NEGATIVE, guidance_scale=3.0)
PURE = 1 / (1 + SMALLEST_ALPHA)
"""The share of noise that our straight paths begin with, less 2^-12 than that of diffusers."""


def scaled(condition: Condition) -> dict[str, Any]:
    return {"guidance_scale": condition.guidance_scale, "negative_prompt": condition.negative_prompt}


def truly_scaled(condition: Condition) -> dict[str, Any]:
    return {"true_cfg_scale": condition.guidance_scale, "negative_prompt": condition.negative_prompt}


def scaled_from_zero(condition: Condition) -> dict[str, Any]:
    return {"guidance_scale": condition.guidance_scale - 1, "negative_prompt": condition.negative_prompt}


def scaled_without_words(condition: Condition) -> dict[str, Any]:
    return {"guidance_scale": condition.guidance_scale}


def unbinned(condition: Condition) -> dict[str, Any]:
    """Sizes are taken as they are, not as the nearest of those of the training."""
    return {**scaled(condition), "use_resolution_binning": False}


class Recent(NamedTuple):
    """How the pipeline of a family is called, and in which units it walks.

    Fields: pipeline, its class; options of its call that make a condition; conditions; side, how many cells a side are
    one of the tokens that its states consist of, or 0 where they are images; shape of x_0; grid that it walks on, by
    name; scale, how large its x are; solver of ours that is its own.
    """

    pipeline: str
    options: Callable[[Condition], Mapping[str, Any]] = scaled
    conditions: tuple[Condition, ...] = (PLAIN, GUIDED)
    side: int = 0
    shape: tuple[int, int, int] = (4, CELLS, CELLS)
    grid: str = "flow"
    scale: Callable[[Level], float] = straight
    solver: str = "ddim"

    def run(self, pipe: Any, condition: Condition) -> Run:
        """Call the pipeline; straight paths begin where ours do."""
        latents = noise(1, *self.shape)
        options = {"height": SIZE, "width": SIZE, "num_inference_steps": STEPS, "output_type": "pt"}
        begin_where_ours_do(pipe.scheduler)
        given = {"prompt": condition.prompt, "latents": self.packed(latents), **options, **self.options(condition)}
        run = recorded(pipe, lambda: pipe(**given))
        return Run([Step(step.index, *map(self.unpacked, step[1:])) for step in run.steps], run.pictures)

    def packed(self, x: Tensor) -> Tensor:
        """Tokens of x, row by row."""
        return torch.nn.functional.pixel_unshuffle(x, self.side).flatten(2).mT if self.side > 1 else x

    def unpacked(self, state: Tensor) -> Tensor:
        """What diffusers' states are as images."""
        if not self.side:
            return state
        rows = self.shape[1] // self.side
        return torch.nn.functional.pixel_shuffle(state.mT.unflatten(2, (rows, rows)), self.side)

    def ours(self, x: Tensor, level: Level) -> Tensor:
        """Our x of theirs."""
        return x.double() / self.scale(level)

    def times(self, schedule: NoiseSchedule) -> Grid:
        """The times that both visit."""
        return make_grid(self.grid, schedule, STEPS)


def begin_where_ours_do(scheduler: Any) -> None:
    """Have straight paths begin with a little of the image, and times be no whole numbers."""
    set_timesteps = scheduler.set_timesteps

    @functools.wraps(set_timesteps)
    def setting(*args: Any, **options: Any) -> None:
        set_timesteps(*args, **options)
        if hasattr(scheduler, "sigmas") and scheduler.sigmas[0] == 1:
            scheduler.sigmas[0] = PURE
            # CogView4 gives times as they are before the shift.
            shift = options["mu"] if options.get("timesteps") is not None else 1
            scheduler.timesteps[0] = 1000 * PURE / (shift - (shift - 1) * PURE)
        if scheduler.config.get("use_flow_sigmas"):
            scheduler.timesteps = 1000 * scheduler.sigmas[:-1]

    scheduler.set_timesteps = setting


EPS = {"grid": "linspace", "scale": preserving, "solver": "dpm2m"}
RECENT: Mapping[str, Recent] = {
    "qwen-image": Recent("QwenImagePipeline", truly_scaled, side=2),
    "z-image": Recent("ZImagePipeline", scaled_from_zero),
    "flux 2": Recent(
        "Flux2Pipeline",
        scaled_without_words,
        (PLAIN, Condition(PROMPT, guidance_scale=3.0)),
        side=1,
        shape=(16, CELLS // 2, CELLS // 2),
    ),
    "flux 2 klein": Recent(
        "Flux2KleinPipeline",
        scaled_without_words,
        (PLAIN, Condition(PROMPT, guidance_scale=3.0)),
        side=1,
        shape=(16, CELLS // 2, CELLS // 2),
    ),
    "pixart sigma": Recent("PixArtSigmaPipeline", unbinned, **EPS),
    "pixart alpha": Recent("PixArtAlphaPipeline", unbinned, **EPS),
    "chroma": Recent("ChromaPipeline", side=2),
    "sana": Recent("SanaPipeline", unbinned, solver="dpm2m"),
    "lumina 2": Recent("Lumina2Pipeline"),
    "aura flow": Recent("AuraFlowPipeline"),
    "cog view 4": Recent("CogView4Pipeline"),
    "hunyuan dit": Recent(
        "HunyuanDiTPipeline", unbinned, shape=(4, SIZE // 8, SIZE // 8), grid="leading", scale=preserving
    ),
}
