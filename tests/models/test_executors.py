"""Graphs are tested here with a stand-in for CUDA's; `test_graphs.py` tests how CUDA's are made."""

import copy
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ddim_edit import Editor, InversionConfig, load_model
from ddim_edit.config import EIGHT_BIT
from ddim_edit.diffusion.bottleneck import Bottleneck
from ddim_edit.diffusion.denoisers import NetworkDenoiser
from ddim_edit.errors import ModelError
from ddim_edit.images import read, to_uint8
from ddim_edit.memory import AdaptiveBatcher, release_caches
from ddim_edit.models.devices import PRECISIONS, DeviceNetwork
from ddim_edit.models.executors import (
    Call,
    CaptureError,
    CompiledNetwork,
    GraphedNetwork,
    Inputs,
    Outputs,
    Work,
    eager,
    executor_for,
)

from .. import tiny

INDEX = torch.tensor([3.0])


def network(x: Tensor, index: Tensor, **given: Tensor) -> Tensor:
    return torch.sin(x) * index[:, None, None, None] + sum(given.values(), torch.zeros(()))


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Bottle:
    """A network whose bottleneck is its input, of as many channels as a batch may have rows."""

    def __call__(self, x: Tensor, index: Tensor, **given: Tensor) -> Tensor:
        return network(x, index, **given)

    def read(self, x: Tensor, index: Tensor, **given: Tensor) -> tuple[Tensor, Tensor]:
        return self(x, index, **given), x

    def shifted(self, x: Tensor, index: Tensor, shift: Tensor, **given: Tensor) -> tuple[Tensor, Tensor]:
        return self(x, index, **given), self(x + shift, index, **given)


class Recorder:
    """Makes replays that, as CUDA's, write their answers where the last ones were."""

    def __init__(self) -> None:
        self.captures: list[int] = []
        self.inputs: list[Inputs] = []

    def __call__(self, work: Work, inputs: Inputs) -> Callable[[Inputs], Outputs]:
        self.captures.append(len(inputs["x"]))
        answers = work(**inputs)

        def replay(inputs: Inputs) -> Outputs:
            self.inputs.append(inputs)
            for answer, new in zip(answers, work(**inputs), strict=True):
                answer.copy_(new)
            return answers

        return replay


class Card:
    """Makes replays that hold a unit of memory for each row, which is also what a call takes, on a card of so many."""

    def __init__(self, room: int) -> None:
        self.room, self.held = room, 0
        self.captures, self.replays = list[int](), list[int]()

    def __call__(self, work: Work, inputs: Inputs) -> "_Held":
        rows = len(inputs["x"])
        self.require(rows)
        self.captures.append(rows)
        return _Held(self, work, rows)

    def require(self, rows: int) -> None:
        if self.held + rows > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")


class _Held:
    def __init__(self, card: Card, work: Work, rows: int) -> None:
        self.card, self.work, self.rows = card, work, rows
        card.held += rows

    def __call__(self, inputs: Inputs) -> Outputs:
        self.card.replays.append(len(inputs["x"]))
        return self.work(**inputs)

    def __del__(self) -> None:
        self.card.held -= self.rows


def test_every_size_is_captured_once_and_answers_for_its_own_inputs() -> None:
    recorder = Recorder()
    graphed = GraphedNetwork(network, recorder)
    for seed in range(3):
        for batch in (1, 4):
            x = images(batch, 3, 2, 2, seed=seed)
            torch.testing.assert_close(graphed(x, INDEX), network(x, INDEX))
    assert recorder.captures == [1, 4]


def test_what_is_given_belongs_to_the_shape() -> None:
    recorder = Recorder()
    graphed, x = GraphedNetwork(network, recorder), images(2, 3, 2, 2)
    for told in ({}, {"a": images(2, 1, 1, 1)}, {"a": images(2, 1, 1, 1, seed=5)}, {"b": images(2, 1, 1, 1)}):
        torch.testing.assert_close(graphed(x, INDEX, **told), network(x, INDEX, **told))
    assert len(recorder.captures) == 3


def test_so_does_the_device() -> None:
    recorder = Recorder()
    graphed = GraphedNetwork(lambda x, index: x + index[:, None, None, None], recorder)
    for device in ("cpu", "meta", "cpu", "meta"):
        graphed(torch.ones(2, 3, 2, 2, device=device), torch.ones(2, device=device))
    assert recorder.captures == [2, 2]


def test_an_answer_outlives_the_next_replay() -> None:
    graphed = GraphedNetwork(network, Recorder())
    first = graphed(images(1, 3, 2, 2), INDEX)
    kept = first.clone()
    graphed(images(1, 3, 2, 2, seed=1), INDEX)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_capture_for_themselves(duplicate: Callable[[GraphedNetwork], GraphedNetwork]) -> None:
    graphed = GraphedNetwork(network, Recorder(), limit=3)
    wanted = graphed(images(2), torch.ones(2))
    made = duplicate(graphed)
    assert made.network is network
    assert not made.release()
    assert torch.equal(made(images(2), torch.ones(2)), wanted)
    assert made.release()
    assert graphed.release()


def test_the_shapes_used_last_are_kept() -> None:
    recorder = Recorder()
    graphed = GraphedNetwork(network, recorder, limit=2)
    for batch in (1, 2, 1, 3, 1, 2):
        graphed(images(batch, 1, 1, 1), INDEX)
    assert recorder.captures == [1, 2, 3, 2]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40))
def test_batches_of_any_sizes_need_few_captures_and_are_answered_row_by_row(sizes: list[int]) -> None:
    recorder = Recorder()
    graphed = GraphedNetwork(network, recorder)
    for seed, n in enumerate(sizes):
        x, index, text = images(n, 3, 2, 2, seed=seed), images(n, seed=-seed - 1), images(n, 1, 1, 1)
        torch.testing.assert_close(graphed(x, index, text=text), network(x, index, text=text))
    largest_so_far = {max(sizes[: place + 1]) for place in range(len(sizes))}
    assert len(recorder.captures) == len(set(recorder.captures))
    assert set(recorder.captures) <= {1, 2, 4, 8, 16, 32} | largest_so_far


def test_a_batch_is_filled_up_with_copies_of_its_last_row() -> None:
    recorder, one = Recorder(), images(1, 1, 1)
    graphed = GraphedNetwork(network, recorder)
    for n, rows in ((6, 6), (5, 6), (3, 4)):
        own = {"x": images(n, 1, 2, 2, seed=n), "index": images(n, seed=n), "text": images(n, 1, 2, 2, seed=-n)}
        graphed(**own, one=one)
        filled = {name: value[[*range(n), *[n - 1] * (rows - n)]] for name, value in own.items()}
        seen = recorder.inputs[-1]
        assert all(torch.equal(seen[name], value) for name, value in {**filled, "one": one}.items())


def test_filled_up_batches_keep_their_memory_layout() -> None:
    recorder = Recorder()
    graphed = GraphedNetwork(network, recorder)
    for n in (8, 5):
        graphed(images(n, 3, 4, 4).contiguous(memory_format=torch.channels_last), INDEX)
        assert recorder.inputs[-1]["x"].is_contiguous(memory_format=torch.channels_last)


def test_a_fixed_point_that_loses_rows_needs_few_captures(tmp_path: Path) -> None:
    model = load_model(tiny.save_model(tmp_path / "tiny"))
    assert isinstance(model.denoiser, NetworkDenoiser)
    assert isinstance(model.denoiser.network, DeviceNetwork)
    pictures = [tiny.save_picture(tmp_path / f"{seed}.png", seed) for seed in range(6)]
    recorder, method = Recorder(), InversionConfig(solver="midpoint", steps=3)
    graphed = replace(model.denoiser.network, run=GraphedNetwork(model.denoiser.network.network, recorder))
    found = Editor(replace(model, denoiser=replace(model.denoiser, network=graphed))).invert(pictures, method)
    assert len(recorder.captures) <= 4
    assert len(recorder.inputs) > 20
    for latent, wanted in zip(found, Editor(model).invert(pictures, method), strict=True):
        torch.testing.assert_close(latent.x, wanted.x, rtol=1e-3, atol=1e-3)


def test_a_bottleneck_is_read_and_shifted_by_replays_of_their_own() -> None:
    recorder, bottle = Recorder(), Bottle()
    graphed = GraphedNetwork(bottle, recorder)
    assert isinstance(graphed, Bottleneck)
    for n, seed in ((4, 0), (3, 1), (4, 2)):
        x, text = images(n, 3, 2, 2, seed=seed), images(n, 1, 1, 1, seed=seed)
        torch.testing.assert_close(graphed(x, INDEX, text=text), bottle(x, INDEX, text=text))
        torch.testing.assert_close(graphed.read(x, INDEX, text=text), bottle.read(x, INDEX, text=text))
        for shift in (images(3, 2, 2, seed=5), images(1, 3, 2, 2, seed=6), images(n, 3, 2, 2, seed=7)):
            found, wanted = (each.shifted(x, INDEX, shift, text=text) for each in (graphed, bottle))
            torch.testing.assert_close(found, wanted)
    # One for the output, one for the bottleneck; and for shifts of all images, and of each.
    assert recorder.captures == [4, 4, 4, 4]


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_placed_network_is_read_and_shifted_through_its_executor(name: str) -> None:
    recorder, bottle, x = Recorder(), Bottle(), images(2, 3, 2, 2).double()
    plain = DeviceNetwork(bottle, torch.device("cpu"), PRECISIONS[name])
    graphed = replace(plain, run=GraphedNetwork(bottle, recorder))
    for ask in (lambda n: n(x, INDEX), lambda n: n.read(x, INDEX), lambda n: n.shifted(x, INDEX, x[0])):
        before = len(recorder.inputs)
        torch.testing.assert_close(ask(graphed), ask(plain))
        assert len(recorder.inputs) == before + 1


def test_a_graphed_network_without_a_bottleneck_says_so() -> None:
    graphed = GraphedNetwork(network, Recorder())
    for ask in (lambda: graphed.read(INDEX, INDEX), lambda: graphed.shifted(INDEX, INDEX, INDEX)):
        with pytest.raises(ModelError, match="does not expose its bottleneck"):
            ask()


def refuse(work: Work, inputs: Inputs) -> Callable[[Inputs], Outputs]:
    work(**inputs)
    raise CaptureError("not captured") from RuntimeError("operation not permitted when stream is capturing\nCompile")


def test_what_cannot_be_captured_is_called_as_it_is_and_that_is_said_once() -> None:
    tries = []

    def counting(work: Work, inputs: Inputs) -> Callable[[Inputs], Outputs]:
        tries.append(work)
        return refuse(work, inputs)

    bottle = Bottle()
    graphed = GraphedNetwork(bottle, counting)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for batch in (1, 2):
            x = images(batch, 3, 2, 2)
            assert torch.equal(graphed(x, INDEX), network(x, INDEX))
            assert torch.equal(graphed.read(x, INDEX)[1], x)
    assert len(tries) == 2
    assert [str(each.message) for each in said] == [
        f"the {what} of this network is computed without CUDA graphs, which is slower for small batches, as it cannot "
        "be captured: operation not permitted when stream is capturing"
        for what in ("output", "bottleneck")
    ]


def test_an_error_of_the_network_itself_is_not_taken_for_one_of_its_capture() -> None:
    recorder = Recorder()
    graphed = GraphedNetwork(network, recorder)
    with pytest.raises(RuntimeError, match="must match the size"):
        graphed(images(2, 3, 2, 2), images(5))
    graphed(images(2, 3, 2, 2), INDEX)
    assert recorder.captures == [2, 2]


def test_where_memory_runs_out_it_is_said_to_whoever_made_the_batch() -> None:
    card = Card(1)
    graphed = GraphedNetwork(network, card)
    with pytest.raises(torch.OutOfMemoryError):
        graphed(images(2, 3, 2, 2), INDEX)
    x = images(1, 3, 2, 2)
    torch.testing.assert_close(graphed(x, INDEX), network(x, INDEX))
    assert card.captures == [1]


def test_where_memory_runs_out_a_larger_graph_answers_for_a_smaller_batch() -> None:
    card = Card(100)
    graphed = GraphedNetwork(network, card)
    for n in (80, 30, 30, 80):
        x = images(n, 3, 2, 2, seed=n)
        torch.testing.assert_close(graphed(x, INDEX), network(x, INDEX))
    assert card.captures == [80]
    assert card.replays == [80] * 4


def test_where_memory_runs_out_for_a_graph_alone_the_network_answers_until_some_is_released() -> None:
    tries, recorder = [], Recorder()

    def full(work: Work, inputs: Inputs) -> Callable[[Inputs], Outputs]:
        tries.append(len(inputs["x"]))
        if len(tries) > 1:
            return recorder(work, inputs)
        raise CaptureError("not captured") from RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")

    graphed, x = GraphedNetwork(network, full), images(2, 3, 2, 2)
    for _ in range(2):
        assert torch.equal(graphed(x, INDEX), network(x, INDEX))
    assert tries == [2]
    release_caches()
    assert torch.equal(graphed(x, INDEX), network(x, INDEX))
    assert recorder.captures == [2]


def test_a_last_batch_finds_room_beside_the_graphs_of_the_others() -> None:
    """On a card for 100 rows, graphs for 64 and for 40 do not fit together."""
    card, done = Card(100), list[int]()
    graphed, batches = GraphedNetwork(network, card), AdaptiveBatcher(64)

    def work(some: Sequence[int]) -> None:
        graphed(images(len(some), 1, 1, 1), INDEX)
        done.append(len(some))

    for _ in range(2):
        list(batches(work, range(168)))
    assert done == [64, 64, 40] * 2


def test_graphs_give_their_memory_back_before_a_batch_is_halved() -> None:
    card, done = Card(100), list[int]()
    first, second = GraphedNetwork(network, card), GraphedNetwork(network, card)

    def work(some: Sequence[int]) -> None:
        first(images(len(some), 1, 1, 1), INDEX)
        card.require(80)  # for what is done besides
        done.append(len(some))

    second(images(64, 1, 1, 1), INDEX)
    list(AdaptiveBatcher(20)(work, range(20)))
    assert (done, card.held) == ([20], 20)


def test_graphs_of_larger_batches_are_forgotten_with_their_memory() -> None:
    """A batch that was halved to 20 is not filled up to 32 for having been 40."""
    card, done = Card(30), list[int]()
    graphed = GraphedNetwork(network, card)

    def work(some: Sequence[int]) -> None:
        graphed(images(len(some), 1, 1, 1), INDEX)
        done.append(len(some))

    list(AdaptiveBatcher(40)(work, range(40)))
    assert done == [20, 20]
    assert card.captures == [20]


def test_threads_get_their_own_answers() -> None:
    """Replays of two networks, which work in the same memory, as do those of one."""
    shared = torch.zeros(1, 1, 1, 1)

    def capture(work: Work, inputs: Inputs) -> Callable[[Inputs], Outputs]:
        def replay(inputs: Inputs) -> Outputs:
            shared.copy_(work(**inputs)[0])
            time.sleep(1e-4)  # lets another thread in
            return (shared,)

        return replay

    networks = [GraphedNetwork(network, capture), GraphedNetwork(network, capture)]
    wrong = list[float]()

    def ask(number: int) -> None:
        for step in range(100):
            x = torch.full((1, 1, 1, 1), number + step / 100)
            if not torch.equal(networks[step % 2](x, INDEX), network(x, INDEX)):
                wrong.append(float(x))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_no_rows_are_nothing_to_capture() -> None:
    recorder = Recorder()
    assert GraphedNetwork(network, recorder)(images(0, 3, 2, 2), INDEX).shape == (0, 3, 2, 2)
    assert not recorder.captures


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


def test_a_compiled_network_is_read_and_shifted_as_it_is() -> None:
    bottle, x = Bottle(), images(2, 3, 2, 2)
    compiled = CompiledNetwork(bottle)
    assert isinstance(compiled, Bottleneck)
    torch.testing.assert_close(compiled.read(x, INDEX), bottle.read(x, INDEX))
    torch.testing.assert_close(compiled.shifted(x, INDEX, x[0]), bottle.shifted(x, INDEX, x[0]))


def test_a_network_that_cannot_be_compiled_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import Unsupported

    def failing(network: Call, dynamic: bool) -> Call:
        def call(*args: Tensor) -> Tensor:
            raise Unsupported("no compiler\nand much more")

        return call

    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(ModelError, match=r"^The network cannot be compiled here \(.*\)\. Leave --compile out\.$"):
        CompiledNetwork(network)(images(1, 3, 2, 2), INDEX)


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
    converged = [latent.report["converged"] for latent in latents]
    assert converged == (errors <= EIGHT_BIT).tolist()
    assert all(equal for equal, certified in zip(same, converged, strict=True) if certified)
    assert dtype == "bfloat16" or all(converged)  # so rough a map may leave an image short, and says so
