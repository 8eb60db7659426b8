"""What diffusers' own pipelines do, step by step, and how their units are ours."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import diffusers
import torch
from torch import Tensor

from ddim_edit import Model, NoiseSchedule, Prediction
from ddim_edit.diffusion.grids import Grid, make_grid
from ddim_edit.diffusion.schedules import Level
from ddim_edit.models.condition import NOTHING, Condition

from ...pipelines import CELLS, SIZE

Diffusers: Any = diffusers
STEPS = 5
"""A divisor of T: of other trailing steps diffusers' DDIM computes the lengths wrongly."""
PROMPT, NEGATIVE = "a photo of the old man", "young woman smiling"


class Step(NamedTuple):
    """One step of a scheduler: the index it is at, x, what the network says of it (guided), and the next x."""

    index: float
    x: Tensor
    output: Tensor
    next: Tensor


@dataclass
class Run:
    """A pipeline called end to end: its steps, and its pictures [B, 3, H, W] in [0, 1]."""

    steps: list[Step] = field(default_factory=list)
    pictures: Tensor = field(default_factory=lambda: torch.empty(0))


def recorded(pipe: Any, call: Callable[[], Any], batch: int = 1) -> Run:
    """A call of a pipeline; of batches that guidance doubled the first half counts."""
    run, step = Run(), pipe.scheduler.step

    @functools.wraps(step)
    def noting(output: Tensor, t: Any, x: Tensor, *rest: Any, **options: Any) -> Any:
        before = x.clone()
        answer = step(output, t, x, *rest, **options)
        run.steps.append(Step(float(t), *(each[:batch].clone() for each in (before, output, answer[0]))))
        return answer

    pipe.scheduler.step = noting
    images = call().images
    pictures = images if isinstance(images, Tensor) else torch.from_numpy(images).permute(0, 3, 1, 2)
    return Run(run.steps, pictures)


# How large their x is where ours is 1.


def preserving(level: Level) -> float:
    return 1.0


def exploding(level: Level) -> float:
    return 1 / level.alpha


def straight(level: Level) -> float:
    """(1 - tau) x0 + tau eps beside alpha x0 + sigma eps, with tau = sigma / (alpha + sigma)."""
    return 1 / (level.alpha + level.sigma)


# What a network said, given what we make of it.


def epsilon(found: Prediction, level: Level) -> Tensor:
    return found.eps


def velocity(found: Prediction, level: Level) -> Tensor:
    return level.alpha * found.eps - level.sigma * found.x0


def flow(found: Prediction, level: Level) -> Tensor:
    return found.eps - found.x0


# Grids follow the folders' own schedulers: offset, last level, shift and list of shares.


def leading(schedule: NoiseSchedule) -> Grid:
    return make_grid("leading", schedule, STEPS)


def trailing(schedule: NoiseSchedule) -> Grid:
    return make_grid("trailing", schedule, STEPS)


def flow_grid(schedule: NoiseSchedule) -> Grid:
    return make_grid("flow", schedule, STEPS)


class Original(NamedTuple):
    """A family as diffusers has it: how to run it, on which grid it walks, and in which units."""

    run: Callable[[Any, Condition], Run]
    grid: Callable[[NoiseSchedule], Grid]
    conditions: tuple[Condition, ...] = (NOTHING,)
    said: Callable[[Prediction, Level], Tensor] = epsilon
    scale: Callable[[Level], float] = preserving
    exact_start: bool = True

    def ours(self, x: Tensor, level: Level) -> Tensor:
        """Our x of theirs."""
        return x.double() / self.scale(level)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_prompt(pipe: Any, condition: Condition, cells: tuple[int, int] = (CELLS, CELLS)) -> Run:
    height, width = cells
    options = {
        "height": 2 * height,
        "width": 2 * width,
        "prompt": condition.prompt,
        "negative_prompt": condition.negative_prompt or None,
        "guidance_scale": condition.guidance_scale,
        "latents": noise(1, 4, height, width),
        "num_inference_steps": STEPS,
        "output_type": "pt",
    }
    return recorded(pipe, lambda: pipe(**options))


def by_flux(pipe: Any, condition: Condition) -> Run:
    """Its states are tokens of 2x2 cells; a negative prompt and a true scale are for the one that is not distilled."""
    tokens = torch.nn.functional.pixel_unshuffle(noise(1, 4, CELLS, CELLS), 2).flatten(2).mT
    distilled = pipe.transformer.config.guidance_embeds
    guided = {"guidance_scale": condition.guidance_scale}
    true = {"negative_prompt": condition.negative_prompt, "true_cfg_scale": condition.guidance_scale}
    options = {"height": SIZE, "width": SIZE, "num_inference_steps": STEPS, "output_type": "pt", "latents": tokens}
    run = recorded(pipe, lambda: pipe(condition.prompt, **options, **(guided if distilled else true)))
    return Run([Step(step.index, *map(untokened, step[1:])) for step in run.steps], run.pictures)


def untokened(tokens: Tensor) -> Tensor:
    return torch.nn.functional.pixel_shuffle(tokens.mT.unflatten(2, (CELLS // 2, CELLS // 2)), 2)


def by_class(pipe: Any, condition: Condition) -> Run:
    options = {"guidance_scale": condition.guidance_scale, "num_inference_steps": STEPS, "output_type": "pt"}
    return recorded(pipe, lambda: pipe([condition.label], generator=torch.Generator().manual_seed(0), **options))


def by_itself(pipe: Any, condition: Condition) -> Run:
    options = {"num_inference_steps": STEPS, "output_type": "np", "batch_size": 2}
    return recorded(pipe, lambda: pipe(generator=torch.Generator().manual_seed(0), **options), batch=2)


def as_ddim(pipe: Any, condition: Condition) -> Run:
    """The same network with DDIM, which does not clip."""
    scheduler = Diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    return by_itself(Diffusers.DDIMPipeline(pipe.unet, scheduler), condition)


@torch.no_grad()
def by_hand(pipe: Any, condition: Condition) -> Run:
    """Networks that diffusers has no pipeline of DDIM for: with classes, or with variances beside their answer."""
    scheduler = Diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(STEPS)
    label = None if condition.label is None else torch.tensor([condition.label] * 2)
    x, steps = noise(2, 3, SIZE, SIZE), []
    for t in scheduler.timesteps:
        output = pipe.unet(x, t, class_labels=label).sample[:, :3]
        after = scheduler.step(output, t, x).prev_sample
        steps.append(Step(float(t), x, output, after))
        x = after
    return Run(steps, (x / 2 + 0.5).clamp(0, 1))


PROMPTS = (
    Condition(PROMPT),
    Condition(PROMPT, guidance_scale=3.0),
    Condition(PROMPT, NEGATIVE, guidance_scale=7.5),
    Condition("", NEGATIVE, guidance_scale=2.0),
)
FLOW = {"said": flow, "scale": straight, "exact_start": False}
ORIGINALS: dict[str, Original] = {
    "stable diffusion 1": Original(by_prompt, leading, PROMPTS),
    "stable diffusion 2": Original(by_prompt, leading, PROMPTS, velocity),
    "latent consistency": Original(by_prompt, leading, (Condition(PROMPT), Condition(PROMPT, guidance_scale=8.0))),
    "zero snr": Original(by_prompt, trailing, PROMPTS, velocity, exact_start=False),
    "stable diffusion xl": Original(by_prompt, leading, PROMPTS, scale=exploding),
    "stable diffusion 3": Original(by_prompt, flow_grid, PROMPTS, **FLOW),
    "stable diffusion 3 with t5": Original(by_prompt, flow_grid, PROMPTS, **FLOW),
    "flux dev": Original(by_flux, flow_grid, PROMPTS[:2], **FLOW),
    "flux schnell": Original(by_flux, flow_grid, PROMPTS, **FLOW),
    "dit": Original(by_class, leading, (Condition(label=207), Condition(label=3, guidance_scale=4.0))),
    "ldm vq": Original(by_itself, leading),
    "ldm kl": Original(by_itself, leading),
    "cifar10": Original(as_ddim, leading),
    "celebahq": Original(as_ddim, leading),
    "flipped": Original(as_ddim, leading),
    "learned variances": Original(by_hand, leading),
    "classes": Original(by_hand, leading, (Condition(label=0), Condition(label=4))),
    "diffusers' own": Original(as_ddim, leading, said=velocity),
}
CASES = [(family, condition) for family, original in ORIGINALS.items() for condition in original.conditions]


def walked(model: Model, grid: Grid) -> list[Level]:
    """The levels of a grid from noise to the picture."""
    return [model.schedule.level(t) for t in reversed(grid.times)]
