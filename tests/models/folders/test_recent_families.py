"""Families of 2024 to 2026 beside their own pipelines of diffusers: every step, the way to the image, and back.

Straight paths of diffusers begin at pure noise, and ours with 2^-12 of the image; here both begin where ours do.
"""

import json
import pickle
import shutil
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import pytest
import torch
from torch import Tensor

from ddim_edit import ArgumentError, Editor, InversionConfig, Model, ModelError, find_solver, load_model, sample
from ddim_edit.diffusion.denoisers import NetworkDenoiser
from ddim_edit.diffusion.solvers.recording import RecordingStep
from ddim_edit.diffusion.solvers.solver import SamplingOnlySolver, SingleStateSolver
from ddim_edit.models.condition import Condition
from ddim_edit.models.devices import DeviceNetwork

from ... import pipelines, recent_pipelines
from ...rounding import assert_alike
from ..host_tensors import HostTensors, on_meta
from .originals import PROMPT, epsilon, flow, velocity, walked
from .recent import RECENT
from .words import assert_words_are_directions

Diffusers: Any = diffusers  # its types are hidden from mypy
# Diffusers' schedulers make arrays of tensors in a way that NumPy 2 has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
TAME = 0.02
SAID = {"epsilon": epsilon, "v_prediction": velocity, "flow_prediction": flow}
KNOWN = {name: recent for name, recent in RECENT.items() if hasattr(Diffusers, recent.pipeline)}
"""Those that the installed diffusers has: most are younger than the oldest one that we allow."""
families = pytest.mark.parametrize("family", KNOWN)
cases = pytest.mark.parametrize(
    ("family", "condition"), [(name, condition) for name, recent in KNOWN.items() for condition in recent.conditions]
)


class Loaded(NamedTuple):
    """A checkpoint of a family: its folder, our model of it, and diffusers' pipeline."""

    folder: Path
    model: Model
    pipe: Any


Loads = Callable[[str], Loaded]


def pipe_of(folder: Path) -> Any:
    """A pipeline as diffusers loads it."""
    pipe = Diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loads:
    def load(family: str) -> Loaded:
        folder = pipelines.save(recent_pipelines.RECENT[family], tmp_path_factory.mktemp("recent") / "model")
        return Loaded(folder, load_model(folder, size=pipelines.SIZE), pipe_of(folder))

    return cache(load)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def test_all_are_families_of_the_registry() -> None:
    assert set(RECENT) == set(recent_pipelines.RECENT)


@cases
def test_every_step_and_the_image_equal_the_pipeline(loaded: Loads, family: str, condition: Condition) -> None:
    """Of the folder, and with guidance of the pipeline itself.

    Diffusers rounds its times to float32, which changes an answer by up to 1e-5, and x by less.
    """
    _, model, pipe = loaded(family)
    recent = RECENT[family]
    if condition.guided:
        model = Editor.from_pipeline(pipe, size=pipelines.SIZE).model
    run = recent.run(pipe, condition)
    grid = recent.times(model.schedule)
    levels = walked(model, grid)
    denoiser = model.conditioned_on(condition)
    said = SAID[model.prediction]
    assert len(run.steps) == len(levels) - 1
    for step, level in zip(run.steps, levels, strict=False):
        assert relative(said(denoiser(recent.ours(step.x, level), level), level), step.output) < 1e-5
    states: dict[float, Tensor] = {}
    solver = find_solver(recent.solver)
    assert isinstance(solver, SingleStateSolver)
    recording = SamplingOnlySolver(RecordingStep(solver.down, states))
    start = recent.ours(run.steps[0].x, levels[0])
    x0 = sample(denoiser, (start,), model.schedule.spans(grid), recording).x0
    for x, step, level in zip(states.values(), run.steps, levels[1:], strict=True):
        assert relative(x, recent.ours(step.next, level)) < 2e-6
    assert float((model.codec.decode(x0) / 2 + 0.5).clamp(0, 1).sub(run.pictures).abs().max()) < 5e-6


@families
def test_a_pipeline_is_the_same_model_as_its_folder(loaded: Loads, family: str) -> None:
    _, model, pipe = loaded(family)
    found = Editor.from_pipeline(pipe, size=pipelines.SIZE).model
    assert found.components == model.components
    assert (found.shape, found.sizes, found.prediction) == (model.shape, model.sizes, model.prediction)
    assert found.schedule.sampler == model.schedule.sampler
    assert model.shape == RECENT[family].shape


@families
def test_images_return_under_guidance_from_a_pipeline(loaded: Loads, family: str) -> None:
    """Of a network that answers little, so that its way back exists."""
    pipe = pipe_of(loaded(family).folder)
    with torch.no_grad():
        for weight in pipelines.last_layer(pipe).parameters():
            weight *= TAME if RECENT[family].grid == "flow" else TAME / 10
    editor = Editor.from_pipeline(pipe, size=pipelines.SIZE)
    condition = RECENT[family].conditions[-1]
    image = torch.rand(1, 3, pipelines.SIZE, pipelines.SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config = InversionConfig("ddim", steps=3, condition=condition, exact=True, tol=1e-6, dequantise=None)
    (latent,) = editor.invert(image, config)
    assert latent.report["converged"]
    codec = editor.model.codec
    assert float((editor.decode([latent]) - codec.decode(codec.encode(image))).abs().max()) < 1e-4


@families
def test_prompts_and_negative_prompts_matter(loaded: Loads, family: str) -> None:
    """Otherwise none of the above would say anything about them. To a copy of the model too."""
    model = loaded(family).model
    x = torch.randn(1, *model.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    level = model.schedule.level(500)
    conditions = [
        Condition(PROMPT),
        Condition("young woman"),
        Condition(PROMPT, guidance_scale=2.0),
    ]
    assert model.conditioner is not None
    if not model.conditioner.encoder.distilled:
        conditions.append(Condition(PROMPT, "young woman", guidance_scale=2.0))
    answers = [model.conditioned_on(condition)(x, level).eps for condition in conditions]
    copied = pickle.loads(pickle.dumps(model))
    assert_alike(copied.conditioned_on(conditions[0])(x, level).eps, answers[0])
    for number, answer in enumerate(answers):
        # AuraFlow has a few words among 250 tokens of padding.
        assert min(relative(answer, other) for other in answers[:number] + answers[number + 1 :]) > 1e-5


@families
def test_networks_take_the_sizes_that_they_say(loaded: Loads, family: str) -> None:
    _, model, _ = loaded(family)
    denoiser, level, factor = model.conditioned_on(Condition(PROMPT)), model.schedule.level(500), model.codec.factor
    most = model.sizes.largest or 0
    for cells in [(8, 12), (9, 9), (most // factor, 8), (most // factor + 2, 8)]:
        if min(cells) < 8 or max(cells) > 64:
            continue  # a network without a largest size, or with one beyond reach
        x = torch.zeros(1, model.shape[0], *cells, dtype=torch.float64)
        try:
            taken = denoiser(x, level).x0.shape == x.shape
        except (ArgumentError, RuntimeError, ValueError, IndexError):
            taken = False
        assert taken == model.sizes.allows((cells[0] * factor, cells[1] * factor)), cells


UNCAPTURED = ("z-image", "chroma", "lumina 2", "cog view 4")
"""Networks of diffusers that make tables on the host, or wait for the device; they run without CUDA graphs."""


@pytest.mark.parametrize("family", [name for name in KNOWN if name not in UNCAPTURED])
def test_networks_make_no_host_tensors(loaded: Loads, family: str) -> None:
    model = loaded(family).model
    denoiser = model.conditioned_on(Condition(PROMPT))
    assert isinstance(denoiser, NetworkDenoiser)
    placed = denoiser.network
    assert isinstance(placed, DeviceNetwork)
    inputs = on_meta(x=torch.zeros(1, *model.shape), index=torch.zeros(1), **placed.conditioning)
    network = deepcopy(placed.network).to("meta")
    with torch.inference_mode(), HostTensors() as host:
        network(**inputs)
    assert not host.made_by


def test_released_pixart_names_the_former_class_of_its_network(loaded: Loads, tmp_path: Path) -> None:
    folder = shutil.copytree(loaded("pixart sigma").folder, tmp_path / "model")
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": "Transformer2DModel"}))
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "transformer": ["diffusers", "Transformer2DModel"]}))
    assert load_model(folder, size=pipelines.SIZE).components == loaded("pixart sigma").model.components


VIDEO = {
    "CogVideoXPipeline": "CogVideoXTransformer3DModel",
    "WanPipeline": "WanTransformer3DModel",
    "HunyuanVideoPipeline": "HunyuanVideoTransformer3DModel",
    "LTXPipeline": "LTXVideoTransformer3DModel",
    "MochiPipeline": "MochiTransformer3DModel",
}


OTHERS = {
    **{
        name: (network, "it is a video model, and only models of still images are supported.")
        for name, network in VIDEO.items()
    },
    "QwenImageEditPipeline": (
        "QwenImageTransformer2DModel",
        "it takes another image beside the prompt, which an inversion knows nothing of. Use Qwen-Image itself.",
    ),
    "KolorsPipeline": (
        "UNet2DConditionModel",
        "it is Kolors, whose text encoder (ChatGLM) is not supported. Use another model, as Stable Diffusion XL.",
    ),
}


@pytest.mark.parametrize("pipeline", OTHERS)
def test_other_models_are_refused_by_name(pipeline: str, tmp_path: Path) -> None:
    network, words = OTHERS[pipeline]
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(json.dumps({"_class_name": network}))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path)
    assert str(caught.value) == f"{tmp_path}: {words}"


@families
def test_words_lead_from_one_prompt_to_the_other(loaded: Loads, family: str) -> None:
    assert_words_are_directions(loaded(family).model)
