"""Graphs are tested here with a stand-in for CUDA's, and with CUDA's own where there is a device."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ddim_edit import Editor, InversionConfig, load_model
from ddim_edit.diffusion.denoisers import NetworkDenoiser
from ddim_edit.errors import ModelError
from ddim_edit.images import read, to_uint8
from ddim_edit.models.executors import Call, CompiledNetwork, CUDAGraph, GraphedNetwork, eager, executor_for
from ddim_edit.models.placement import DeviceNetwork

from .. import tiny

INDEX = torch.tensor([3.0])


def network(x: Tensor, index: Tensor, **given: Tensor) -> Tensor:
    return torch.sin(x) * index[:, None, None, None] + sum(given.values(), torch.zeros(()))


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Recorder:
    """Makes replays that, as CUDA's, write their answer where the last one was."""

    def __init__(self) -> None:
        self.captures: list[tuple[int, ...]] = []

    def __call__(self, network: Call, inputs: Mapping[str, Tensor]) -> "_Replay":
        self.captures.append(tuple(inputs["x"].shape))
        return _Replay(network, inputs)


class _Replay:
    def __init__(self, network: Call, inputs: Mapping[str, Tensor]) -> None:
        self.network, self.output = network, network(**inputs)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.output.copy_(self.network(**inputs))


def test_every_shape_is_captured_once_and_answers_for_its_own_inputs() -> None:
    recorder = Recorder()
    graphed = GraphedNetwork(network, recorder)
    for seed in range(3):
        for batch in (1, 4):
            x = images(batch, 3, 2, 2, seed=seed)
            torch.testing.assert_close(graphed(x, INDEX), network(x, INDEX))
    assert recorder.captures == [(1, 3, 2, 2), (4, 3, 2, 2)]


def test_what_is_given_belongs_to_the_shape() -> None:
    recorder = Recorder()
    graphed, x = GraphedNetwork(network, recorder), images(2, 3, 2, 2)
    for given in ({}, {"a": images(2, 1, 1, 1)}, {"a": images(2, 1, 1, 1, seed=5)}, {"b": images(2, 1, 1, 1)}):
        torch.testing.assert_close(graphed(x, INDEX, **given), network(x, INDEX, **given))
    assert len(recorder.captures) == 3


def test_an_answer_outlives_the_next_replay() -> None:
    graphed = GraphedNetwork(network, Recorder())
    first = graphed(images(1, 3, 2, 2), INDEX)
    kept = first.clone()
    graphed(images(1, 3, 2, 2, seed=1), INDEX)
    assert torch.equal(first, kept)


def test_the_shapes_used_last_are_kept() -> None:
    recorder = Recorder()
    graphed = GraphedNetwork(network, recorder, limit=2)
    for batch in (1, 2, 1, 3, 1, 2):
        graphed(images(batch, 1, 1, 1), INDEX)
    assert [batch for batch, *_ in recorder.captures] == [1, 2, 3, 2]


def test_a_network_that_cannot_be_captured_is_called_as_it_is() -> None:
    tries = []

    def refuse(network: Call, inputs: Mapping[str, Tensor]) -> "_Replay":
        tries.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    graphed = GraphedNetwork(network, refuse)
    for batch in (1, 2):
        x = images(batch, 3, 2, 2)
        assert torch.equal(graphed(x, INDEX), network(x, INDEX))
    assert len(tries) == 1


def test_a_capture_that_runs_out_of_memory_is_no_reason_to_give_up_graphs() -> None:
    """The batch is halved by whoever made it, and captured again."""

    def full(network: Call, inputs: Mapping[str, Tensor]) -> "_Replay":
        if len(inputs["x"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return _Replay(network, inputs)

    graphed = GraphedNetwork(network, full)
    with pytest.raises(torch.OutOfMemoryError):
        graphed(images(2, 3, 2, 2), INDEX)
    x = images(1, 3, 2, 2)
    torch.testing.assert_close(graphed(x, INDEX), network(x, INDEX))


def test_a_cpu_runs_networks_as_they_are_and_cuda_in_graphs() -> None:
    assert executor_for(torch.device("cpu"), compiled=False) is eager
    assert eager(network) is network
    assert isinstance(executor_for(torch.device("cuda"), compiled=False)(network), GraphedNetwork)
    assert isinstance(executor_for(torch.device("cpu"), compiled=True)(network), CompiledNetwork)


class Little(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return torch.nn.functional.silu(self.conv(x)) * index[:, None, None, None]


@pytest.mark.slow
def test_a_compiled_network_answers_alike() -> None:
    little = Little().requires_grad_(False)
    x = images(2, 3, 8, 8)
    torch.testing.assert_close(CompiledNetwork(little)(x, INDEX), little(x, INDEX))


def test_a_network_that_cannot_be_compiled_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import Unsupported

    def failing(network: Call, dynamic: bool) -> Call:
        def call(*args: Tensor) -> Tensor:
            raise Unsupported("no compiler\nand much more")

        return call

    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(ModelError, match=r"^wanted a network that can be compiled here, .*: leave --compile out$"):
        CompiledNetwork(network)(images(1, 3, 2, 2), INDEX)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_graph_answers_as_the_network_does() -> None:
    little, index = Little().requires_grad_(False).cuda(), INDEX.cuda()
    x = images(2, 3, 8, 8).cuda()
    replay = CUDAGraph(little, {"x": x, "index": index})
    for seed in range(3):
        x = images(2, 3, 8, 8, seed=seed).cuda()
        torch.testing.assert_close(replay({"x": x, "index": index}), little(x, index))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_exactness_is_certified_whatever_runs_the_network(dtype: str, tmp_path: Path) -> None:
    """The certificate is the decode itself, through the same executor."""
    model = load_model(tiny.save_model(tmp_path / "tiny"), dtype=dtype)
    assert isinstance(model.denoiser, NetworkDenoiser)
    assert isinstance(model.denoiser.network, DeviceNetwork)
    graphed = replace(model.denoiser.network, run=GraphedNetwork(model.denoiser.network.network, Recorder()))
    editor = Editor(replace(model, denoiser=replace(model.denoiser, network=graphed)))
    pictures = [tiny.save_picture(tmp_path / f"{seed}.png", seed) for seed in range(3)]
    latents = editor.invert(pictures, InversionConfig(exact=True))
    decoded = editor.decode(latents)
    originals = torch.stack([read(path, model.size).tensor.double() for path in pictures])
    errors = (decoded - originals).flatten(1).abs().amax(1)
    assert errors.tolist() == [pytest.approx(latent.report["error"], rel=1e-9) for latent in latents]
    same = (to_uint8(decoded) == to_uint8(originals)).flatten(1).all(1).tolist()
    assert [latent.report["converged"] for latent in latents] == same
    assert dtype == "bfloat16" or all(same)  # so rough a map may leave an image short, and says so
