"""Conditions of loaded folders: prompts, negative prompts, classes and guidance."""

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from ddim_edit import ArgumentError, Model, load_model
from ddim_edit.diffusion.denoisers import GuidedNetwork, NetworkDenoiser
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.models.condition import NOTHING, Condition
from ddim_edit.models.devices import DeviceNetwork
from ddim_edit.models.prompts import VisitingEncoders

from ... import pipelines
from .originals import NEGATIVE, ORIGINALS, PROMPT, noise

Models = Callable[[str], Model]
ONE_SENTENCE = r"^[^\n]+$"
TEXT = [family for family in ORIGINALS if family.startswith(("stable", "zero", "flux"))]
UNDISTILLED = [family for family in TEXT if family != "flux dev"]
CLASSES = ["dit", "classes"]
texts = pytest.mark.parametrize("family", TEXT)


def asked(model: Model, condition: Condition, t: float = 400, batch: int = 1) -> Prediction:
    x = noise(batch, *model.shape).double()
    return model.conditioned_on(condition)(x, model.schedule.level(t))


def given(model: Model, condition: Condition) -> dict[str, Tensor]:
    """What a network is given under a condition without guidance."""
    denoiser = model.conditioned_on(condition)
    assert isinstance(denoiser, NetworkDenoiser)
    return dict(denoiser.network.conditioning)


def away_from(model: Model, condition: Condition) -> dict[str, Tensor]:
    """What the unconditional half of a guided network is given."""
    denoiser = model.conditioned_on(condition)
    assert isinstance(denoiser, NetworkDenoiser)
    assert isinstance(denoiser.network, GuidedNetwork)
    both = denoiser.network.network.conditioning
    assert {len(value) for value in both.values()} == {2}
    return {name: value[:1] for name, value in both.items()}


def assert_same(found: Prediction, wanted: Prediction, atol: float = 0.0) -> None:
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=atol * float(theirs.abs().max()))


@pytest.mark.parametrize(("family", "scale"), list(zip(UNDISTILLED, cycle([0.0, 0.5, 7.5]), strict=False)))
def test_guidance_extrapolates_from_the_negative_prompt(models: Models, family: str, scale: float) -> None:
    """eps_u + w (eps_c - eps_u), and x0 alike; each family's word for no negative prompt is its own."""
    model = models(family)
    yes, no = asked(model, Condition(PROMPT)), asked(model, Condition(NEGATIVE))
    wanted = Prediction(*(u + scale * (c - u) for c, u in zip(yes, no, strict=True)))
    # Both are asked in one batch, which rounds float32 in another order; the algebra is tested in float64 elsewhere.
    assert_same(asked(model, Condition(PROMPT, NEGATIVE, guidance_scale=scale)), wanted, 1e-5)


def test_distilled_network_gets_the_guidance_scale(models: Models) -> None:
    model = models("flux dev")
    told = model.conditioned_on(Condition(PROMPT, guidance_scale=3.5))
    assert isinstance(told, NetworkDenoiser)
    assert isinstance(told.network, DeviceNetwork)
    assert told.network.conditioning["guidance"].tolist() == [3.5]


@texts
def test_no_condition_is_the_empty_prompt(models: Models, family: str) -> None:
    model, level = models(family), models(family).schedule.level(400)
    assert_same(model.denoiser(noise(1, *model.shape).double(), level), asked(model, Condition("", label=None)))
    assert model.conditioned_on(NOTHING) is model.denoiser


@texts
def test_batch_rows_do_not_interact(models: Models, family: str) -> None:
    model = models(family)
    condition = Condition(PROMPT, NEGATIVE, guidance_scale=2.0)
    x, level = noise(3, *model.shape).double(), model.schedule.level(400)
    together = model.conditioned_on(condition)(x, level)
    for row in range(3):
        alone = model.conditioned_on(condition)(x[row : row + 1], level)
        torch.testing.assert_close(together.eps[row : row + 1], alone.eps, rtol=1e-4, atol=1e-5)


def test_sdxl_negative_conditioning_defaults_to_zeros(models: Models) -> None:
    """force_zeros_for_empty_prompt: nothing is wanted, which is not the empty prompt."""
    model = models("stable diffusion xl")
    zeros = away_from(model, Condition(PROMPT, guidance_scale=2.0))
    assert not zeros["encoder_hidden_states"].any()
    assert not zeros["text_embeds"].any()
    empty = given(model, Condition(""))
    assert empty["encoder_hidden_states"].any()
    assert empty["text_embeds"].any()
    named = away_from(model, Condition(PROMPT, NEGATIVE, guidance_scale=2.0))
    assert torch.equal(named["text_embeds"], given(model, Condition(NEGATIVE))["text_embeds"])


def test_sdxl_without_force_zeros_uses_the_empty_prompt(tmp_path: Path) -> None:
    def make() -> Any:
        pipe = pipelines.stable_diffusion_xl(tmp_path / "tokens")
        pipe.register_to_config(force_zeros_for_empty_prompt=False)
        return pipe

    model = load_model(pipelines.save(make, tmp_path / "sdxl"))
    away = away_from(model, Condition(PROMPT, guidance_scale=2.0))
    for name, value in given(model, NOTHING).items():
        assert torch.equal(away[name], value)


def test_sdxl_is_told_the_size_of_the_pictures(folders: Callable[[str], Path]) -> None:
    model = load_model(folders("stable diffusion xl"), size=(32, 48))
    assert given(model, Condition(PROMPT))["time_ids"].tolist() == [[32, 48, 0, 0, 32, 48]]


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which text encoder was run, each time."""
    ran: list[str] = []
    for name in ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"):
        kind = getattr(transformers, name)

        def forward(self: Any, *args: Any, kind: Any = kind, own: Any = kind.forward, **options: Any) -> Any:
            ran.append(kind.__name__)
            return own(self, *args, **options)

        monkeypatch.setattr(kind, "forward", forward)
    return ran


@texts
def test_a_prompt_is_encoded_once(folders: Callable[[str], Path], encodings: list[str], family: str) -> None:
    """However often it is asked about, at whatever level, however strongly."""
    model = load_model(folders(family))
    asked(model, Condition(PROMPT, NEGATIVE, guidance_scale=2.0))
    assert encodings
    encodings.clear()
    asked(model, Condition(PROMPT, NEGATIVE, guidance_scale=2.0))
    asked(model, Condition(PROMPT, NEGATIVE, guidance_scale=5.0), t=900)
    asked(model, Condition(PROMPT), batch=2)
    assert not encodings
    asked(model, Condition("old woman"))
    assert encodings


class Reader(nn.Module):
    """A text encoder of one weight, which it has twice, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]), requires_grad=False)
        self.tied = self.weight
        self.register_buffer("shift", torch.tensor([10.0]))

    @property
    def tensors(self) -> list[Tensor]:
        return [self.weight, self.tied, *self.buffers()]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_text_encoders_visit_the_device(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is played by the CPU: what is copied there is 100 larger."""
    there, to, reader = torch.device("cuda"), Tensor.to, Reader()
    monkeypatch.setattr(Tensor, "to", lambda x, *rest: x + 100 if rest == (there,) else to(x, *rest))

    def encode(text: str) -> dict[str, Tensor]:
        if not text:
            raise KeyError(text)
        return {"states": torch.cat(reader.tensors)}

    visit, before = VisitingEncoders([reader], there).visiting(encode), [each.data_ptr() for each in reader.tensors]
    with mode():
        assert visit("words")["states"].tolist() == [101, 101, 110]
        with pytest.raises(KeyError):
            visit("")
    assert torch.cat(reader.tensors).tolist() == [1, 1, 10]
    assert [each.data_ptr() for each in reader.tensors] == before
    assert not any(each.is_inference() for each in reader.tensors)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_is_left_as_it_was_after_a_text() -> None:
    card, reader = torch.device("cuda"), Reader()
    devices = VisitingEncoders([reader], card).visiting(lambda text: {"seen": [each.device for each in reader.tensors]})
    held = torch.cuda.memory_allocated()
    assert {device.type for device in devices("words")["seen"]} == {"cuda"}
    assert torch.cuda.memory_allocated() == held
    assert {each.device.type for each in reader.tensors} == {"cpu"}


def test_prompts_are_truncated(models: Models) -> None:
    """CLIP reads 77 tokens."""
    model = models("stable diffusion 1")
    long = " ".join(["old"] * 75)
    first = given(model, Condition(long))["encoder_hidden_states"]
    assert torch.equal(given(model, Condition(f"{long} woman"))["encoder_hidden_states"], first)
    assert not torch.equal(given(model, Condition("old"))["encoder_hidden_states"], first)


# Classes.


@pytest.mark.parametrize("label", [0, 7, 999])
def test_a_class_reaches_a_transformer_as_it_is(models: Models, pipe_of: Callable[[str], Any], label: int) -> None:
    model, transformer = models("dit"), pipe_of("dit").transformer
    x = noise(2, *model.shape)
    with torch.no_grad():
        wanted = transformer(x, torch.tensor([399]), torch.tensor([label] * 2)).sample[:, :4]
    found = model.conditioned_on(Condition(label=label))(x.double(), model.schedule.level(400))
    torch.testing.assert_close(found.eps.float(), wanted, rtol=1e-5, atol=1e-5)


def test_dit_guidance_uses_the_null_class(models: Models, pipe_of: Callable[[str], Any]) -> None:
    """The one after the last, which is also what it is given where nothing is asked for."""
    model, transformer = models("dit"), pipe_of("dit").transformer
    yes, no = asked(model, Condition(label=3)), asked(model, NOTHING)
    with torch.no_grad():
        theirs = transformer(noise(1, *model.shape), torch.tensor([399]), torch.tensor([1000])).sample[:, :4]
    torch.testing.assert_close(no.eps.float(), theirs, rtol=1e-5, atol=1e-5)
    guided = asked(model, Condition(label=3, guidance_scale=4.0))
    torch.testing.assert_close(guided.eps, no.eps + 4 * (yes.eps - no.eps), rtol=0, atol=1e-5)


def test_missing_class_is_refused(models: Models) -> None:
    """Loading it is fine; a condition may come later."""
    model = models("classes")
    with pytest.raises(ArgumentError, match=r"^The class is missing\. classes 1 follows classes from 0 to 4"):
        asked(model, NOTHING)
    assert asked(model, Condition(label=4)).x0.shape == (1, *model.shape)


# Refusals.

REFUSED: dict[str, tuple[str, Condition, str]] = {
    "a class for a prompt": ("stable diffusion 1", Condition(label=3), "the class 3"),
    "a class beside a prompt": ("stable diffusion 3", Condition(PROMPT, label=0), "the class 0"),
    "a prompt for a transformer of classes": ("dit", Condition(PROMPT), PROMPT),
    "a prompt for a UNet of classes": ("classes", Condition(PROMPT, label=1), PROMPT),
    "a negative prompt for classes": ("dit", Condition("", NEGATIVE, 3, 2.0), NEGATIVE),
    "a class out of range": ("classes", Condition(label=5), "5 does not exist"),
    "the class for none by its number": ("dit", Condition(label=1000), "1000 does not exist"),
    "guidance without a class for none": ("classes", Condition(label=1, guidance_scale=2.0), "guidance_scale 2"),
    "a prompt for an unconditional model": ("cifar10", Condition(PROMPT), PROMPT),
    "a class for an unconditional model": ("ldm vq", Condition(label=3), "label 3"),
    "guidance for an unconditional model": ("ldm kl", Condition(guidance_scale=2.0), "guidance_scale 2.0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_conditions_are_refused(models: Models, name: str) -> None:
    family, condition, words = REFUSED[name]
    with pytest.raises(ArgumentError, match=ONE_SENTENCE) as caught:
        models(family).conditioned_on(condition)
    assert words in str(caught.value)
