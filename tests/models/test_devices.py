from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from ddim_edit.diffusion.bottleneck import Bottleneck
from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.models.devices import PRECISIONS, DeviceNetwork, Precision, dtype_name, find_device, state_device
from ddim_edit.precision import HAS_FP32_PRECISION


def rounds() -> tuple[bool, bool]:
    """Whether convolutions and matrix products of a card may be rounded to tf32."""
    if not HAS_FP32_PRECISION:
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    return torch.backends.cudnn.conv.fp32_precision == "tf32", torch.backends.cuda.matmul.fp32_precision == "tf32"


class Spy(nn.Module):
    """A network that doubles its input and remembers what it was given, and how."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        self.x, self.index = x, index
        self.tf32, self.tracking = rounds(), torch.is_grad_enabled()
        return self.weight.to(x.dtype) * x


class Bottle(Spy):
    """A spy whose bottleneck is its input."""

    def read(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(x, index), x

    def shifted(self, x: Tensor, index: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        self.shift = shift
        return self.forward(x, index), self.forward(x + shift, index)


def bottled(name: str) -> tuple[DeviceNetwork, Bottle]:
    bottle = Bottle()
    return DeviceNetwork(bottle, torch.device("cpu"), PRECISIONS[name]), bottle


def placed(name: str = "float32") -> tuple[DeviceNetwork, Spy]:
    spy = Spy()
    return DeviceNetwork(spy, torch.device("cpu"), PRECISIONS[name]), spy


X, INDEX = torch.linspace(-1, 1, 6, dtype=torch.float64).view(1, 1, 2, 3), torch.tensor([3.5])


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("auto", "float32"),
        ("fp32", "float32"),
        ("bf16", "bfloat16"),
        ("fp16", "float16"),
        *((name, name) for name in PRECISIONS),
    ],
)
def test_every_name_of_a_dtype_has_a_full_one(name: str, full: str) -> None:
    assert dtype_name(name) == full


def test_other_dtypes_are_refused() -> None:
    for name in ("int8", "", "float64", "Float32"):
        with pytest.raises(ArgumentError, match=r"dtype must be one of float32, tf32, bfloat16, float16"):
            dtype_name(name)


@pytest.mark.parametrize("name", PRECISIONS)
def test_inputs_are_cast_and_gradients_off(name: str) -> None:
    network, spy = placed(name)
    output = network(X.clone().requires_grad_(), INDEX)
    assert spy.x.dtype == output.dtype == PRECISIONS[name].dtype
    assert not spy.tracking
    assert not output.requires_grad
    assert torch.equal(spy.index, INDEX)
    torch.testing.assert_close(output.double(), 2 * X, rtol=1e-2, atol=1e-2)


def test_outputs_are_ordinary_tensors() -> None:
    """In-place work and autograd on what a walk makes of it must not fail."""
    network, _ = placed()
    scale = torch.tensor(3.0, requires_grad=True)
    (scale * (0.0 + network(X, INDEX))).sum().backward()
    assert scale.grad is not None


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_bottleneck_is_read_as_the_network_is_asked(name: str) -> None:
    network, bottle = bottled(name)
    output, h = network.read(X.clone().requires_grad_(), INDEX)
    assert not bottle.tracking
    assert bottle.x.dtype == PRECISIONS[name].dtype
    assert torch.equal(output, network(X, INDEX))
    assert h.dtype == torch.float32
    assert torch.equal(h, X.to(PRECISIONS[name].dtype).float())


def test_a_bottleneck_is_read_in_float32_into_an_ordinary_tensor() -> None:
    """It is kept and worked on, so neither in-place work nor autograd may fail, and it shares no memory."""
    network, _ = bottled("float32")
    x = X.float()
    _, h = network.read(x, INDEX)
    h += 1
    (torch.ones(1, requires_grad=True) * h).sum().backward()
    assert torch.equal(x, X.float())


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_shift_comes_in_the_precision_of_the_network(name: str) -> None:
    network, bottle = bottled(name)
    own, shifted = network.shifted(X, INDEX, torch.ones(1, 2, 3, dtype=torch.float64))
    assert not bottle.tracking
    assert bottle.shift.dtype == shifted.dtype == PRECISIONS[name].dtype
    assert torch.equal(own, network(X, INDEX))
    torch.testing.assert_close(shifted.double(), 2 * X + 2, rtol=1e-2, atol=1e-2)


class Conditioned(Bottle):
    """A spy that remembers what it was given besides."""

    def forward(self, x: Tensor, index: Tensor, **given: Tensor) -> Tensor:
        self.given = given
        return super().forward(x, index)

    def read(self, x: Tensor, index: Tensor, **given: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(x, index, **given), x

    def shifted(self, x: Tensor, index: Tensor, shift: Tensor, **given: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(x, index, **given), x + shift


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize(
    "ask",
    [lambda n, x: n(x, INDEX), lambda n, x: n.read(x, INDEX), lambda n, x: n.shifted(x, INDEX, x[0])],
    ids=["call", "read", "shifted"],
)
def test_conditioning_is_repeated_and_cast(name: str, ask: Callable[[DeviceNetwork, Tensor], object]) -> None:
    spy, text = Conditioned(), torch.linspace(0, 1, 6).view(1, 2, 3)
    given = {"text": text, "label": torch.tensor([7])}
    ask(DeviceNetwork(spy, torch.device("cpu"), PRECISIONS[name]).with_conditioning(given), X.expand(3, -1, -1, -1))
    assert torch.equal(spy.given["text"], text.to(PRECISIONS[name].dtype).expand(3, 2, 3))
    assert torch.equal(spy.given["label"], torch.tensor([7, 7, 7]))  # numbers stay whole


def test_variances_are_dropped() -> None:
    def network(x: Tensor, index: Tensor) -> Tensor:
        return torch.cat([2 * x, x.new_full(x.shape, torch.nan)], 1)

    placed = DeviceNetwork(network, torch.device("cpu"), PRECISIONS["float32"])
    torch.testing.assert_close(placed(X, INDEX).double(), 2 * X)


def test_networks_without_bottleneck_are_refused() -> None:
    network, _ = placed()
    assert isinstance(network, Bottleneck)
    for ask in (lambda: network.read(X, INDEX), lambda: network.shifted(X, INDEX, X)):
        with pytest.raises(ModelError, match=r"\(Spy\) does not expose its bottleneck"):
            ask()


@pytest.mark.parametrize("name", PRECISIONS)
def test_tf32_flags(name: str) -> None:
    network, bottle = bottled(name)
    for ask in (
        lambda: network(X, INDEX),
        lambda: network.read(X, INDEX),
        lambda: network.shifted(X, INDEX, X[0]),
    ):
        ask()
        assert bottle.tf32 == (name == "tf32", name == "tf32")


def test_only_tf32_rounds() -> None:
    assert {name: precision.tf32 for name, precision in PRECISIONS.items() if precision.tf32} == {"tf32": True}
    assert Precision(torch.float32).tf32 is False


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A machine whose devices a test may choose; here it has a CPU alone."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return monkeypatch


def with_cards(machine: pytest.MonkeyPatch, count: int) -> None:
    machine.setattr(torch.cuda, "is_available", lambda: True)
    machine.setattr(torch.cuda, "device_count", lambda: count)


def test_auto_is_the_first_of_cuda_mps_and_cpu(machine: pytest.MonkeyPatch) -> None:
    assert find_device("auto") == torch.device("cpu")
    machine.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto") == torch.device("mps")
    with_cards(machine, 1)
    assert find_device("auto") == torch.device("cuda")


def test_cards_may_be_asked_for_by_number(machine: pytest.MonkeyPatch) -> None:
    with_cards(machine, 2)
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert find_device(name) == torch.device(name)
    with pytest.raises(ArgumentError, match=r"no device cuda:2, only cuda, cpu, cuda:0, cuda:1\."):
        find_device("cuda:2")


@pytest.mark.parametrize("name", ["cuda", "mps", "tpu", "cpu:x", "cuda:0", "", "CPU"])
def test_devices_that_are_not_here_are_refused(machine: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^This machine has no device {name}, only cpu\."):
        find_device(name)


def test_the_state_lives_beside_the_network_where_there_is_float64() -> None:
    assert state_device(torch.device("cuda:1")) == torch.device("cuda:1")
    assert state_device(torch.device("cpu")) == torch.device("cpu")
    assert state_device(torch.device("mps")) == torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_is_asked_in_strict_float32_and_answers_where_the_state_is() -> None:
    spy = Spy().to("cuda")
    for name in ("float32", "tf32"):
        output = DeviceNetwork(spy, torch.device("cuda"), PRECISIONS[name])(X, INDEX)
        assert output.device == X.device
        assert spy.x.device.type == "cuda"
        assert spy.tf32 == (name == "tf32", name == "tf32")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_reads_and_shifts_where_the_state_is() -> None:
    network = DeviceNetwork(Bottle().to("cuda"), torch.device("cuda"), PRECISIONS["float32"])
    for answer in (*network.read(X, INDEX), *network.shifted(X, INDEX, X[0])):
        assert answer.device == X.device
