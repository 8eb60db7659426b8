"""`Model.from_network`: networks of the user's own, beside what they say when they are called by hand."""

import pickle
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddim_edit import ArgumentError, DDPMParametrization, Editor, Model, ModelError, NoiseSchedule
from ddim_edit.models.identity import find_difference

SHAPE = (3, 8, 8)
LINEAR = NoiseSchedule.linear()


class Tiny(nn.Module):
    """Its answer depends on x, on the time, and in train mode on chance."""

    def __init__(self, channels: int = 3, out: int | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(channels, out or channels, 3, padding=1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        result: Tensor = self.dropout(self.conv(x)) + t[:, None, None, None] / 1000
        return result


class Halves:
    """Latents are means of 2x2 pixels."""

    factor = 2
    lossy = True

    def encode(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, 2)

    def decode(self, x0: Tensor) -> Tensor:
        return x0.repeat_interleave(2, -1).repeat_interleave(2, -2)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_network_is_called_at_zero_based_timesteps(prediction: str) -> None:
    network = Tiny()
    model = Model.from_network(network, LINEAR, prediction, SHAPE)
    x, level = noise(2, *SHAPE), LINEAR.level(400)
    with torch.no_grad():
        output = network.eval()(x.float(), torch.full((2,), 399.0)).double()
    wanted = DDPMParametrization(prediction).to_prediction(output, x, level)
    found = model.denoiser(x, level)
    assert torch.allclose(found.eps, wanted.eps)
    assert torch.allclose(found.x0, wanted.x0)


def test_images_return() -> None:
    editor = Editor(Model.from_network(Tiny(), LINEAR, shape=SHAPE))
    image = noise(*SHAPE).clamp(-1, 1)
    latent = editor.invert(image, steps=20, solver="ddim", exact=True, tol=1e-6)
    assert torch.allclose(editor.decode(latent).double(), image, atol=1e-4)


def test_the_network_is_left_as_it_was() -> None:
    network = Tiny()
    network.dropout.eval()
    modes = [part.training for part in network.modules()]
    pointers = [parameter.data_ptr() for parameter in network.parameters()]
    model = Model.from_network(network, LINEAR, shape=SHAPE)
    first, second = (model.denoiser(noise(1, *SHAPE), LINEAR.level(10)).eps for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert [part.training for part in network.modules()] == modes
    assert [parameter.data_ptr() for parameter in network.parameters()] == pointers
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_dropout_is_off() -> None:
    model = Model.from_network(Tiny(), LINEAR, shape=SHAPE)
    first, second = (model.denoiser(noise(1, *SHAPE), LINEAR.level(10)).eps for _ in range(2))
    assert torch.equal(first, second)


def test_identity_is_the_content_of_the_weights() -> None:
    network = Tiny()
    components = Model.from_network(network, LINEAR, shape=SHAPE).components
    assert Model.from_network(Tiny(), LINEAR, shape=SHAPE).components == components
    assert Model.from_network(torch.compile(network), LINEAR, shape=SHAPE).components == components
    half = Model.from_network(Tiny().half(), LINEAR, shape=SHAPE).components
    assert find_difference(components, half) is None
    network.conv.bias.data += 1
    changed = Model.from_network(network, LINEAR, shape=SHAPE).components
    assert find_difference(components, changed) == "another network (other weights)"
    other = Model.from_network(Tiny(), LINEAR, "sample", SHAPE).components
    assert find_difference(components, other) == "another noise schedule or parametrization (other settings)"


def test_a_function_is_identified_by_the_weights_that_it_names() -> None:
    network = Tiny()
    model = Model.from_network(lambda x, t: network(x, t), LINEAR, shape=SHAPE, weights=network, name="tiny")
    assert model.name == "tiny"
    network.conv.bias.data += 1
    other = Model.from_network(lambda x, t: network(x, t), LINEAR, shape=SHAPE, weights=[network], name="tiny")
    assert model.components != other.components


def test_float64_networks_compute_in_float64() -> None:
    model = Model.from_network(Tiny().double(), LINEAR, shape=SHAPE)
    editor = Editor(model)
    image = noise(*SHAPE).clamp(-1, 1)
    latent = editor.invert(image, steps=20, solver="ddim", exact=True, tol=1e-10)
    assert (model.dtype, latent.recipe.dtype) == ("float64", "float64")
    assert torch.allclose(editor.decode(latent).double(), image, atol=1e-8)


def test_learned_variances_do_not_count() -> None:
    model = Model.from_network(Tiny(3, 6), LINEAR, shape=SHAPE)
    assert model.denoiser(noise(1, *SHAPE), LINEAR.level(10)).eps.shape == (1, *SHAPE)


def test_flows_are_called_at_their_own_times() -> None:
    times: list[float] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        times.extend(t.tolist())
        return -x

    flow = NoiseSchedule.flow(500)
    model = Model.from_network(velocity, flow, "flow_prediction", SHAPE, weights={})
    level = flow.level(200)
    model.denoiser(noise(1, *SHAPE), level)
    assert times == pytest.approx([500 * level.s / (1 + level.s)])


def test_own_codecs() -> None:
    model = Model.from_network(Tiny(), LINEAR, shape=SHAPE, codec=Halves())
    assert model.size == (16, 16)
    assert set(model.components) == {"network", "process", "autoencoder"}
    latent = Editor(model).invert(noise(3, 16, 16).clamp(-1, 1), steps=2)
    assert latent.x.shape == SHAPE

    class Named(Halves):
        component = "halves of my own"

    named = Model.from_network(Tiny(), LINEAR, shape=SHAPE, codec=Named())
    assert named.components["autoencoder"] == "halves of my own"


def test_models_of_own_networks_can_be_copied_and_pickled() -> None:
    editor = Editor(Model.from_network(Tiny(), LINEAR, shape=SHAPE))
    image = noise(*SHAPE).clamp(-1, 1)
    wanted = editor.invert(image, steps=2).x
    assert torch.allclose(deepcopy(editor).invert(image, steps=2).x, wanted)
    assert torch.allclose(pickle.loads(pickle.dumps(editor)).invert(image, steps=2).x, wanted)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((lambda x, t: x, LINEAR), {}, ArgumentError, r"is a function, whose weights cannot be found"),
        ((Tiny(), LINEAR, "noise"), {}, ArgumentError, r"^prediction_type must be one of epsilon, .* not 'noise'"),
        ((Tiny(), LINEAR, "epsilon", (3, 8)), {}, ArgumentError, r"^shape must be three positive numbers"),
        ((Tiny(4), LINEAR, "epsilon", (4, 8, 8)), {}, ModelError, r"4 channels is one of latents, and needs a codec"),
        (
            (Tiny(), LINEAR),
            {"codec": object()},
            ArgumentError,
            r"^The codec object has no factor, lossy, encode, decode",
        ),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Model.from_network(*arguments, **options)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (lambda x, t: (x, t), r"returned a tuple instead of a tensor \[1, 3, 8, 8\]"),
        (lambda x, t: x[:, :1], r"returned a tensor \[1, 1, 8, 8\] for x \[1, 3, 8, 8\]"),
    ],
)
def test_wrong_outputs_are_named(output: Any, words: str) -> None:
    model = Model.from_network(output, LINEAR, shape=SHAPE, weights={})
    with pytest.raises(ModelError, match=words):
        model.denoiser(noise(1, *SHAPE), LINEAR.level(10))
