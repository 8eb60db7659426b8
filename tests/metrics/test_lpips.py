import subprocess
import sys
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor
from torchmetrics.functional.image.lpips import _LPIPS as Reference  # noqa: N811

from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.images import read
from ddim_edit.metrics import LPIPS

FEATURES = resources.files("ddim_edit.assets") / "lpips" / "alexnet_features_fp16.safetensors"


@pytest.fixture(scope="module")
def distance() -> LPIPS:
    return LPIPS(batch=4)


def pictures(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    a = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return a, a.roll(3, -1).lerp(a.flip(-1), 0.3)


@pytest.fixture(scope="module")
def reference() -> Reference:
    """torchmetrics' implementation, with its own copy of the heads and the same features."""
    network = Reference(net="alex", pnet_rand=True)
    stored = load(FEATURES.read_bytes())
    for name, module in network.net.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            key = f"features.{name.split('.')[-1]}"
            module.load_state_dict({part: stored[f"{key}.{part}"] for part in ("weight", "bias")})
    return network


@pytest.mark.parametrize("shape", [(5, 3, 64, 64), (2, 3, 64, 96), (1, 3, 128, 128)])
def test_equals_torchmetrics(distance, reference, shape) -> None:
    a, b = pictures(*shape)
    expected = reference(a, b).flatten().tolist()
    assert min(expected) > 0.01
    assert distance(a, b).tolist() == pytest.approx(expected, abs=1e-6)


def test_small_pictures_are_enlarged_to_64(distance, reference) -> None:
    a, b = pictures(2, 3, 32, 48)
    larger = [torch.nn.functional.interpolate(x, (64, 96), mode="bilinear") for x in (a, b)]
    assert distance(a, b).tolist() == pytest.approx(reference(*larger).flatten().tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "used"),
    [((64, 64), (64, 64)), ((9, 3, 32, 32), (64, 64)), ((3, 100, 16), (400, 64)), ((70, 200), (70, 200))],
)
def test_the_size_used_keeps_the_shape(shape, used) -> None:
    assert LPIPS.size_used(shape) == used


def test_is_a_symmetric_distance_from_oneself(distance) -> None:
    a, b = pictures(3, 3, 64, 64)
    assert distance(a, a).tolist() == [0, 0, 0]
    assert distance(a, b).tolist() == pytest.approx(distance(b, a).tolist(), abs=1e-7)
    assert distance(a, b).dtype == torch.float64
    assert not distance(a.requires_grad_(), b).requires_grad


def test_the_batch_size_changes_nothing(distance) -> None:
    a, b = pictures(7, 3, 64, 64)
    one_by_one = torch.cat([distance(x[None], y[None]) for x, y in zip(a, b, strict=True)])
    assert distance(a, b).tolist() == pytest.approx(one_by_one.tolist(), abs=1e-6)
    assert distance(a[:0], b[:0]).tolist() == []


def test_the_heads_are_the_packages_own(distance) -> None:
    file = Path(find_spec("lpips").origin).parent / "weights" / "v0.1" / "alex.pth"
    heads = torch.load(file, map_location="cpu", weights_only=True)
    loaded = distance._network.state_dict()
    assert len(heads) == 5
    assert all(torch.equal(loaded[key], value) for key, value in heads.items())


def test_heads_that_were_not_loaded_are_noticed(monkeypatch) -> None:
    import lpips

    monkeypatch.setattr(lpips.LPIPS, "load_state_dict", lambda *_, **__: None)
    with pytest.raises(ModelError, match="random heads"):
        LPIPS()


def without(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if key != "features.8.bias"}


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("features."): value for key, value in weights.items()}


def extended(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return weights | {"features.12.bias": torch.zeros(3)}


def misshapen(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return weights | {"features.0.bias": torch.zeros(3)}


@pytest.mark.parametrize("change", [without, renamed, extended, misshapen])
def test_features_that_are_not_exactly_right_are_refused(monkeypatch, change) -> None:
    changed = change(load(FEATURES.read_bytes()))
    monkeypatch.setattr("safetensors.torch.load", lambda _: load(save(changed)))
    with pytest.raises(ModelError, match="not the AlexNet features"):
        LPIPS()


def test_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    LPIPS()
    assert torch.equal(torch.get_rng_state(), before)


def test_pictures_that_do_not_pair_up(distance) -> None:
    with pytest.raises(ArgumentError, match="two batches of images of one shape"):
        distance(torch.zeros(1, 3, 64, 64), torch.zeros(2, 3, 64, 64))


@pytest.mark.slow
def test_loads_silently_offline_and_late() -> None:
    program = (
        "import socket, sys; socket.socket.connect = None\n"
        "from ddim_edit.metrics import LPIPS, mse\n"
        "assert 'lpips' not in sys.modules and 'torchvision' not in sys.modules\n"
        "LPIPS()\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def example_pictures() -> list[Path]:
    """The metric's own example, in case an installed package carries it."""
    folders = [Path(find_spec(name).origin).parent for name in ("lpips", "torchmetrics")]
    found = [path.parent for folder in folders for path in folder.rglob("ex_ref.png")]
    return [found[0] / f"ex_{name}.png" for name in ("ref", "p0", "p1")] if found else []


@pytest.mark.skipif(not example_pictures(), reason="the metric's example pictures are not installed")
def test_the_published_example(distance) -> None:
    ref, first, second = (read(path, 64).tensor[None] for path in example_pictures())
    assert distance(ref, first).item() == pytest.approx(0.722, abs=5e-4)
    assert distance(ref, second).item() == pytest.approx(0.138, abs=5e-4)
