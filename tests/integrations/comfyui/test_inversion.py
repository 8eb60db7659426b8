"""Inversion and decoding by a MODEL, beside `Editor` on the same network."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ddim_edit import ArgumentError, Editor, InversionConfig, LatentMismatchError, Model, ModelError, NoiseSchedule
from ddim_edit.integrations.comfyui import LatentNoise, decode, fit, invert, move
from ddim_edit.latents.latent import Latent, Latents, interpolate

from . import hosts

KINDS = {"EPS": "epsilon", "V_PREDICTION": "v_prediction", "FLOW": "flow_prediction"}
SCALE = 0.5
CONFIG = InversionConfig(steps=6)


def conditioning(seed: int) -> list[Any]:
    """A CONDITIONING of one token."""
    return [[torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(seed)), {"pooled_output": None}]]


POSITIVE, NEGATIVE = conditioning(1), conditioning(2)


@pytest.fixture(scope="module")
def network() -> hosts.TinyNetwork:
    return hosts.TinyNetwork()


@pytest.fixture(scope="module")
def samples() -> Tensor:
    """The samples of two LATENTs."""
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def editor_of(network: hosts.TinyNetwork, kind: str, cfg: float) -> Editor:
    """An editor on the same network, which is guided by hand."""
    positive, negative = POSITIVE[0][0], NEGATIVE[0][0]

    def guided(x: Tensor, time: Tensor) -> Tensor:
        found = network(x, time, positive.expand(len(x), -1, -1))
        if cfg == 1:
            return found
        other = network(x, time, negative.expand(len(x), -1, -1))
        return other + cfg * (found - other)

    schedule = NoiseSchedule.flow() if kind == "FLOW" else NoiseSchedule.scaled_linear(0.00085, 0.012)
    return Editor(Model.from_network(guided, schedule, KINDS[kind], (3, 16, 16), weights=network))


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_finds_and_decodes_as_the_editor_does(
    network: hosts.TinyNetwork, samples: Tensor, kind: str, cfg: float
) -> None:
    model = hosts.make_model(kind, network, scale=SCALE)
    editor = editor_of(network, kind, cfg)
    expected = editor.invert((samples * SCALE).double(), CONFIG)
    with torch.inference_mode():  # as ComfyUI executes nodes
        latents = invert(model, POSITIVE, NEGATIVE, samples, CONFIG, cfg)
        decoded = decode(model, POSITIVE, NEGATIVE, latents)
    assert (latents.x - expected.x).abs().max() < 2e-6
    assert (decoded * SCALE - editor.decode(expected)).abs().max() < 2e-5


def test_exact_inversions_come_back(network: hosts.TinyNetwork, samples: Tensor) -> None:
    model = hosts.make_model("V_PREDICTION", network, scale=SCALE)
    latents = invert(model, POSITIVE, NEGATIVE, samples, replace(CONFIG, exact=True, tol=1e-6), cfg=3.0)
    assert all(latent.report["converged"] for latent in latents)
    decoded = decode(model, POSITIVE, NEGATIVE, latents)
    assert (decoded - samples).abs().max() < 1e-6 / SCALE + 1e-6


def test_times_between_two_levels_reach_the_network(network: hosts.TinyNetwork, samples: Tensor) -> None:
    seen: set[float] = set()
    hook = network.register_forward_pre_hook(lambda module, args: seen.update(args[1].tolist()))
    model = hosts.make_model("EPS", network)
    latents = invert(model, POSITIVE, NEGATIVE, samples[:1], CONFIG)
    hook.remove()
    # DPM-Solver++(2M) does not evaluate at the last time, and indices are t - 1.
    expected = torch.tensor([time - 1 for time in latents[0].recipe.times[:-1]])
    assert torch.allclose(torch.tensor(sorted(seen)), expected, atol=1e-3)
    assert any(abs(time - round(time)) > 0.1 for time in seen)


def test_one_frame_is_an_image(network: hosts.TinyNetwork, samples: Tensor) -> None:
    model = hosts.make_model("FLOW", network, dimensions=3)
    flat = hosts.make_model("FLOW", network)
    latents = invert(model, POSITIVE, NEGATIVE, samples[:, :, None], CONFIG)
    assert torch.equal(latents.x, invert(flat, POSITIVE, NEGATIVE, samples, CONFIG).x)
    assert list(decode(model, POSITIVE, NEGATIVE, latents).shape) == [2, 3, 1, 16, 16]


def test_samples_take_the_place_of_the_states(network: hosts.TinyNetwork, samples: Tensor) -> None:
    model = hosts.make_model("V_PREDICTION", network)
    latents = invert(model, POSITIVE, NEGATIVE, samples, CONFIG)
    again = decode(model, POSITIVE, NEGATIVE, latents)
    unchanged = decode(model, POSITIVE, NEGATIVE, latents, latents.x.float())
    swapped = decode(model, POSITIVE, NEGATIVE, latents, latents.x.flip(0).float())
    assert torch.equal(unchanged, again)
    assert (swapped - again).abs().max() > 0.1


def test_another_condition_edits(network: hosts.TinyNetwork, samples: Tensor) -> None:
    model = hosts.make_model("V_PREDICTION", network)
    latents = invert(model, POSITIVE, NEGATIVE, samples, CONFIG)
    edited = decode(model, conditioning(3), NEGATIVE, latents)
    moved = Latents(latent.moved() for latent in latents)
    # Its noise is not taken off: the decode of what was moved ends with the detail of the image.
    assert (edited - decode(model, POSITIVE, NEGATIVE, moved)).abs().max() > 1e-3


def test_latents_of_another_model_are_refused(network: hosts.TinyNetwork, samples: Tensor) -> None:
    latents = invert(hosts.make_model("V_PREDICTION", network), POSITIVE, NEGATIVE, samples, CONFIG)
    other = hosts.make_model("V_PREDICTION", hosts.TinyNetwork(share=0.04))
    with pytest.raises(LatentMismatchError, match="another network"):
        decode(other, POSITIVE, NEGATIVE, latents)
    assert decode(other, POSITIVE, NEGATIVE, latents, force=True).isfinite().all()


def test_a_lora_makes_another_model(network: hosts.TinyNetwork, samples: Tensor) -> None:
    model = hosts.make_model("V_PREDICTION", network)
    latents = invert(model, POSITIVE, NEGATIVE, samples, CONFIG)
    patched = model.clone()
    patched.patches = {"diffusion_model.last.bias": [(1.0, ("diff", (torch.ones(3),)), 1.0, None, None)]}
    with pytest.raises(LatentMismatchError, match="patches"):
        decode(patched, POSITIVE, NEGATIVE, latents)


def test_latents_survive_a_file(network: hosts.TinyNetwork, samples: Tensor, tmp_path: Any) -> None:
    model = hosts.make_model("V_PREDICTION", network)
    latents = invert(model, POSITIVE, NEGATIVE, samples[:1], CONFIG)
    latents[0].save(tmp_path / "a.latent.safetensors")
    loaded = Latents([Latent.load(tmp_path / "a.latent.safetensors")])
    assert torch.equal(decode(model, POSITIVE, NEGATIVE, loaded), decode(model, POSITIVE, NEGATIVE, latents))


def test_interpolations_begin_and_end_with_the_images(network: hosts.TinyNetwork, samples: Tensor) -> None:
    model = hosts.make_model("V_PREDICTION", network)
    latents = invert(model, POSITIVE, NEGATIVE, samples, CONFIG)
    ends = Latents(interpolate(*latents, "slerp", w) for w in (0.0, 1.0))
    assert torch.equal(decode(model, POSITIVE, NEGATIVE, ends), decode(model, POSITIVE, NEGATIVE, latents))


def test_a_direction_moves_from_one_group_to_the_other(network: hosts.TinyNetwork) -> None:
    model = hosts.make_model("V_PREDICTION", network)
    noise = 0.3 * torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    latents = invert(model, POSITIVE, NEGATIVE, noise + torch.arange(60)[:, None, None, None].ge(30), CONFIG)
    direction = fit("bright", latents[30:], latents[:30])
    before, after = latents[:30], move(latents[:30], direction, 2.0)
    assert (direction.score(after.x) - direction.score(before.x)).mean() > 1
    decoded = decode(model, POSITIVE, NEGATIVE, after)
    assert decoded.mean() > decode(model, POSITIVE, NEGATIVE, before).mean() + 0.2


def test_noise_is_the_state_in_the_shape_of_the_latent(network: hosts.TinyNetwork, samples: Tensor) -> None:
    latents = invert(hosts.make_model("V_PREDICTION", network), POSITIVE, NEGATIVE, samples, CONFIG)
    noise = LatentNoise(latents)
    assert torch.equal(noise.generate_noise({"samples": torch.zeros(2, 3, 16, 16)}), latents.x.float())
    assert noise.generate_noise({"samples": torch.zeros(2, 3, 1, 16, 16)}).shape == (2, 3, 1, 16, 16)
    with pytest.raises(LatentMismatchError, match="empty LATENT"):
        noise.generate_noise({"samples": torch.zeros(2, 3, 8, 16)})


def test_reports_every_evaluation(network: hosts.TinyNetwork, samples: Tensor) -> None:
    seen: list[tuple[int, int]] = []

    def callback(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        seen.append((step, total))

    invert(hosts.make_model("V_PREDICTION", network), POSITIVE, NEGATIVE, samples, CONFIG, callback=callback)
    assert seen == [(2 * step + 1, 12) for step in range(6)]


def test_can_be_interrupted(network: hosts.TinyNetwork, samples: Tensor) -> None:
    model = hosts.make_model("V_PREDICTION", network)
    from comfy.model_management import InterruptProcessingException, interrupt_current_processing

    interrupt_current_processing()
    with pytest.raises(InterruptProcessingException):
        invert(model, POSITIVE, NEGATIVE, samples, CONFIG)
    invert(model, POSITIVE, NEGATIVE, samples, CONFIG)  # goes on as before


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 4, 16, 16), r"\[B, 3, H, W\], not \[1, 4, 16, 16\]"), ((1, 3, 2, 16, 16), "not"), ((0, 3, 16, 16), "not")],
)
def test_refuses_other_latents(network: hosts.TinyNetwork, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        invert(hosts.make_model("V_PREDICTION", network), POSITIVE, NEGATIVE, torch.zeros(shape), CONFIG)


def test_refuses_other_states(network: hosts.TinyNetwork, samples: Tensor) -> None:
    with pytest.raises(ModelError, match="IMG_TO_IMG"):
        invert(hosts.make_model("IMG_TO_IMG", network), POSITIVE, NEGATIVE, samples, CONFIG)


def test_flow_grids_follow_the_shift(network: hosts.TinyNetwork, samples: Tensor) -> None:
    model = hosts.make_model("FLOW", network, shift=3.0)
    latents = invert(model, POSITIVE, NEGATIVE, samples, replace(CONFIG, grid="flow", dequantise=None))
    schedule = NoiseSchedule.flow()
    expected = InversionConfig(grid="flow:3", steps=6).make_grid(schedule)
    assert latents[0].recipe.times == pytest.approx(expected.times)
