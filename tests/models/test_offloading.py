"""Networks that are on their device only while they run. The device is this processor: what is tested is who is there.

Parameters of a `sequential` network are on "meta" at rest all the same.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from ddim_edit import Model, load_model
from ddim_edit.errors import ArgumentError, MissingExtraError
from ddim_edit.models import offloading
from ddim_edit.models.autoencoders import load_autoencoder
from ddim_edit.models.checkpoint import LoadOptions
from ddim_edit.models.devices import PRECISIONS
from ddim_edit.models.diffusers_network import load_diffusers_network
from ddim_edit.models.families.registry import family_of_config
from ddim_edit.models.offloading import OFFLOADS, require_offload
from ddim_edit.models.placing import Mover, place_offloaded
from ddim_edit.models.pretrained import read_config

from .. import pipelines
from ..rounding import assert_alike

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shelf = tmp_path_factory.mktemp("offloaded")
    return pipelines.save(lambda: pipelines.stable_diffusion(shelf / "tokens"), shelf / "model")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Model:
    return load_model(folder)


@pytest.mark.parametrize("how", OFFLOADS)
def test_offloaded_networks_compute_the_same(folder: Path, whole: Model, how: str) -> None:
    family = family_of_config(read_config(folder / "unet" / "config.json"))
    network = load_diffusers_network(folder / "unet", family, torch.float32, torch.channels_last)
    codec = load_autoencoder(folder / "vae", CPU, offloaded=True)
    placed = place_offloaded(network, codec, PRECISIONS["float32"], CPU, how, "model")
    conditioning = whole.conditioner.encoder.encode("a man")  # type: ignore[union-attr]
    parameters = list(network.parameters())
    for _ in range(2):
        x, t = torch.ones(2, 4, 16, 16), torch.tensor([10.0, 700.0])
        wanted = whole.conditioner.network.with_conditioning(conditioning)(x, t)  # type: ignore[union-attr]
        assert_alike(placed.with_conditioning(conditioning)(x, t), wanted)
        assert_alike(codec.decode(x), whole.codec.decode(x))
        assert_alike(codec.encode(wanted[:, :3]), whole.codec.encode(wanted[:, :3]))
        at_rest = {parameter.device.type for parameter in network.parameters()}
        assert at_rest == ({"meta"} if how == "sequential" else {"cpu"})
    assert not any(parameter.requires_grad for parameter in parameters)
    with pytest.raises(ArgumentError, match="A network that is offloaded stays where it is"):
        Mover(torch.device("meta"))(placed)


def test_networks_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate

    seen: list[str] = []

    class Named(torch.nn.Linear):
        def to(self, *args: Any, **kwargs: Any) -> Any:
            return self

    class Hook:
        prev_module_hook: Any = None

    def hook_of(network: Any, device: torch.device, previous: Any) -> tuple[Any, Any]:
        seen.append(f"{network.out_features} on {device} after {previous and previous.name}")
        user = type("User", (), {"name": network.out_features, "hook": Hook()})()
        user.hook.prev_module_hook = previous
        hooks.append(user)
        return network, user

    hooks: list[Any] = []
    monkeypatch.setattr(accelerate, "cpu_offload_with_hook", hook_of)
    offloading.offload([Named(1, 1), Named(1, 2)], CUDA, "model")
    assert seen == ["1 on cuda after None", "2 on cuda after 1"]
    assert [user.hook.prev_module_hook.name for user in hooks] == [2, 1]


@pytest.mark.parametrize(
    ("options", "how", "problem"),
    [
        (LoadOptions(CPU, "float32"), "model", "offload frees the memory of a GPU that has its own, and cpu has that"),
        (LoadOptions(CUDA, "float32"), "disk", "offload must be one of model, sequential, not 'disk'."),
        (LoadOptions(CUDA, "mixed"), "model", "mixed holds the network in two dtypes"),
        (LoadOptions(CUDA, "float32", compiled=True), "sequential", "cannot be compiled"),
    ],
)
def test_what_cannot_be_offloaded_is_refused(options: LoadOptions, how: str, problem: str) -> None:
    require_offload(options)
    with pytest.raises(ArgumentError) as caught:
        require_offload(options._replace(parts={"offload": how}))
    assert problem in str(caught.value)


def test_accelerate_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(MissingExtraError, match="Offloading needs accelerate"):
        require_offload(LoadOptions(CUDA, "float32", parts={"offload": "model"}))


def test_our_own_networks_are_not_offloaded() -> None:
    model = load_model("faces64")
    with pytest.raises(ArgumentError, match="faces64 runs on a network of this package"):
        place_offloaded(model.denoiser.network.network, model.codec, PRECISIONS["float32"], CPU, "model", "faces64")  # type: ignore[attr-defined]
