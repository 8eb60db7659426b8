"""How graphs are captured and replayed: on a pretend card, and on a real one where there is one."""

import threading
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from ddim_edit.memory import is_out_of_memory, release_caches
from ddim_edit.models import executors
from ddim_edit.models.executors import CaptureError, CUDAGraph, GraphedNetwork

from .pretend_card import CARD, SELECTED, PretendCard, Stream

WEIGHT = torch.linspace(-1, 1, 9).view(3, 3)


def network(x: Tensor, index: Tensor, **given: Tensor) -> Tensor:
    mixed = torch.einsum("oc,bchw->bohw", WEIGHT, torch.sin(x))
    return mixed.add_(index[:, None, None, None])


def work(**inputs: Tensor) -> tuple[Tensor, ...]:
    return network(**inputs), 2 * inputs["x"]


def waiting(x: Tensor, index: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def inputs(batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(batch, 3, 2, 2, generator=generator),
        "index": torch.randn(batch, generator=generator),
    }


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendCard]:
    pretend = PretendCard()
    pretend.install(monkeypatch)
    executors._pool.cache_clear()
    yield pretend
    executors._pool.cache_clear()


def test_a_graph_answers_for_its_inputs(card: PretendCard) -> None:
    graph = CUDAGraph(work, inputs())
    for seed in range(3):
        torch.testing.assert_close(graph(inputs(seed=seed)), work(**inputs(seed=seed)))


def test_a_graph_is_made_on_the_card_of_its_inputs_whichever_is_selected(card: PretendCard) -> None:
    """Streams that are made while another card is selected would capture nothing."""
    graph = CUDAGraph(work, inputs())
    assert card.graphs[0].stream.device == CARD
    assert card.device == SELECTED
    replayed = list[torch.device]()
    card.graphs[0].replay, replay = lambda: (replayed.append(card.device), replay()), card.graphs[0].replay
    graph(inputs(seed=1))
    assert replayed == [CARD]
    assert card.device == SELECTED


def test_a_graph_that_captured_nothing_is_refused(card: PretendCard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its replays would all give the first answer."""
    made = torch.ones(2, 3, 2, 2)
    with pytest.raises(CaptureError, match="the graph is empty"):
        CUDAGraph(lambda x, index: (made,), inputs())
    with pytest.raises(CaptureError, match="the graph is empty"):
        CUDAGraph(lambda x, index: (x + 1, made), inputs())


def test_a_network_whose_graph_is_empty_is_called_as_it_is(card: PretendCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", lambda: Stream(SELECTED))
    graphed = GraphedNetwork(network)
    with pytest.warns(RuntimeWarning, match="cannot be captured: the graph is empty"):
        graphed(**inputs())
    for seed in range(3):
        torch.testing.assert_close(graphed(**inputs(seed=seed)), network(**inputs(seed=seed)))


def test_a_capture_that_fails_leaves_the_stream_and_the_card_as_they_were(card: PretendCard) -> None:
    streams = dict(card.streams)
    with pytest.raises(CaptureError) as caught:
        CUDAGraph(lambda x, index: (waiting(x, index),), inputs())
    assert str(caught.value.__cause__).startswith("operation not permitted when stream is capturing")
    assert (card.streams, card.device) == (streams, SELECTED)


def test_a_network_that_cannot_be_captured_is_called_as_it_is(card: PretendCard) -> None:
    graphed = GraphedNetwork(waiting)
    with pytest.warns(RuntimeWarning, match=r"operation not permitted when stream is capturing$"):
        graphed(**inputs())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(3):
            torch.testing.assert_close(graphed(**inputs(seed=seed)), waiting(**inputs(seed=seed)))


def test_what_does_not_even_run_says_so_itself(card: PretendCard) -> None:
    with pytest.raises(RuntimeError, match="must match the size") as caught:
        CUDAGraph(work, inputs() | {"index": torch.ones(5)})
    assert not isinstance(caught.value, CaptureError)


def test_memory_that_runs_out_is_known_in_a_capture(card: PretendCard) -> None:
    calls = []

    def greedy(x: Tensor, index: Tensor) -> tuple[Tensor]:
        calls.append(x)
        if len(calls) > CUDAGraph.WARM_UP:
            card.graphs[-1].spoilt = True  # so that its end raises something else
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return (x + 1,)

    with pytest.raises(CaptureError) as caught:
        CUDAGraph(greedy, inputs())
    assert caught.value.__cause__ is not None
    assert is_out_of_memory(caught.value.__cause__)


def test_graphs_share_their_memory(card: PretendCard) -> None:
    networks = [GraphedNetwork(network), GraphedNetwork(network)]
    for seed, n in enumerate((5, 2, 1, 5, 3, 2)):
        for graphed in networks:
            asked = inputs(n, seed)
            torch.testing.assert_close(graphed(**asked), network(**asked))
    assert len(card.graphs) == 8
    assert len({graph.pool for graph in card.graphs}) == 1


def test_memory_that_was_released_is_not_shared_with_later_graphs(card: PretendCard) -> None:
    """CUDA's allocator forgets memory whose last graph has gone."""
    graphed = GraphedNetwork(network)
    graphed(**inputs())
    assert release_caches()
    graphed(**inputs())
    assert [graph.pool for graph in card.graphs] == [1, 2]
    assert release_caches()
    assert not release_caches()


def test_memory_of_a_capture_that_failed_is_not_shared_with_later_graphs(card: PretendCard) -> None:
    """CUDA's allocator may go on taking it for that of the capture."""
    graphs = [CUDAGraph(work, inputs())]
    with pytest.raises(CaptureError):
        CUDAGraph(lambda x, index: (waiting(x, index),), inputs())
    graphs.append(CUDAGraph(work, inputs()))
    assert [graph.pool for graph in card.graphs] == [1, 1, 2]


def test_warming_up_and_capturing_are_done_on_streams_of_their_own(card: PretendCard) -> None:
    seen = list[Stream]()

    def noting(**inputs: Tensor) -> tuple[Tensor, ...]:
        seen.append(card.streams[CARD])
        return work(**inputs)

    own, graphs = card.streams[CARD], [CUDAGraph(noting, inputs()) for _ in range(2)]
    warm_up, capture = seen[0], seen[CUDAGraph.WARM_UP]
    assert seen == ([warm_up] * CUDAGraph.WARM_UP + [capture]) * len(graphs)
    assert len({warm_up, capture, own}) == 3
    assert own.waited_for == [warm_up] * len(graphs)
    assert warm_up.waited_for == [own] * len(graphs)


def test_a_replay_waits_for_the_last_one_on_another_stream(card: PretendCard) -> None:
    first, second = CUDAGraph(work, inputs()), CUDAGraph(work, inputs())
    own, other = card.streams[CARD], Stream(CARD)
    before = list(own.waited_for)
    for graph in (first, second):
        graph(inputs())
    assert own.waited_for == before
    with card.stream_selected(other):
        first(inputs())
        second(inputs())
    assert other.waited_for == [own]
    second(inputs())
    assert own.waited_for == [*before, other]


class Little(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return nn.functional.silu(self.conv(x)) * index[:, None, None, None]

    def read(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return self(x, index), self.conv(x)

    def shifted(self, x: Tensor, index: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        return self(x, index), self(x + shift, index)


gpu = pytest.mark.gpu
with_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def on(device: str, **values: Tensor) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in values.items()}


def assert_alike(found: object, wanted: object) -> None:
    """Kernels for other numbers of rows round otherwise, convolutions perhaps to tf32."""
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)


def last_card() -> str:
    return f"cuda:{torch.cuda.device_count() - 1}"


@gpu
@with_cuda
def test_a_real_graph_answers_as_the_network_does_on_any_card() -> None:
    little = Little().requires_grad_(False).to(last_card())
    graphed = GraphedNetwork(little)
    with torch.inference_mode():
        for seed, n in enumerate((6, 5, 3, 1, 6, 2)):
            asked = on(last_card(), **inputs(n, seed))
            assert_alike(graphed(**asked), little(**asked))
            assert_alike(graphed.read(**asked), little.read(**asked))
            shift = asked["x"][0].flip(0)
            assert_alike(graphed.shifted(**asked, shift=shift), little.shifted(**asked, shift=shift))
    assert all(kept.replay for kept in graphed._kept.values())


@gpu
@with_cuda
def test_a_real_capture_that_fails_leaves_its_stream_and_later_captures_succeed() -> None:
    stream, little = torch.cuda.current_stream(), Little().requires_grad_(False).cuda()
    asked = on("cuda", **inputs())
    with pytest.warns(RuntimeWarning, match="cannot be captured"):
        assert_alike(GraphedNetwork(waiting)(**asked), waiting(**asked))
    assert torch.cuda.current_stream() == stream
    graphed = GraphedNetwork(little)
    assert_alike(graphed(**asked), little(**asked))
    assert all(kept.replay for kept in graphed._kept.values())


@gpu
@with_cuda
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_a_real_graph_that_captured_nothing_is_refused() -> None:
    made = torch.ones(2, 3, 2, 2, device="cuda")
    with pytest.raises(CaptureError, match="the graph is empty"):
        CUDAGraph(lambda x, index: (made,), on("cuda", **inputs()))


@gpu
@with_cuda
def test_real_graphs_are_released_and_made_anew() -> None:
    little = Little().requires_grad_(False).cuda()
    graphed = GraphedNetwork(little)
    for _ in range(2):
        for n in (4, 2):
            asked = on("cuda", **inputs(n))
            assert_alike(graphed(**asked), little(**asked))
        assert graphed.release()
        torch.cuda.empty_cache()


@gpu
@with_cuda
def test_threads_on_streams_of_their_own_get_their_own_answers_of_real_graphs() -> None:
    little = Little().requires_grad_(False).cuda()
    networks, wrong = [GraphedNetwork(little), GraphedNetwork(little)], list[int]()

    def ask(number: int) -> None:
        with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream()):
            for step in range(100):
                asked = on("cuda", **inputs(1 + step % 4, 1000 * number + step))
                if not torch.allclose(networks[step % 2](**asked), little(**asked), rtol=1e-2, atol=1e-2):
                    wrong.append(step)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
