"""One faces64 for all commands and examples of a file, and no network evaluation that was made before."""

import hashlib
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ddim_edit.metrics.image_metrics import learned_perceptual
from ddim_edit.models import loading
from ddim_edit.models.devices import DeviceNetwork
from ddim_edit.models.packaged import packaged_models


@pytest.fixture(scope="module")
def remembered() -> Iterator[None]:
    """Load packaged models once, LPIPS once, and answer what a network was asked before with what it answered.

    The pages show much the same commands on the same photograph, in dozens of short sessions. Networks are functions:
    the same input, to the bit and in the same batch, has the same output.
    """
    models: dict[Hashable, Any] = {}
    lpips: dict[Hashable, Any] = {}
    outputs: dict[Hashable, tuple[Tensor, ...]] = {}
    load, load_lpips = loading.load_with_options, learned_perceptual._load_network

    def load_once(name: str, options: Any, offline: bool = False) -> Any:
        if name not in packaged_models():
            return load(name, options, offline)
        return _kept(models, (name, repr(options)), lambda: load(name, options, offline))

    def call_once(call: Callable[..., Any]) -> Callable[..., Any]:
        def answer(network: DeviceNetwork, *inputs: Tensor) -> Any:
            key = (call.__name__, network.network, network.precision, *map(_content, inputs))
            conditioning = ((name, _content(value)) for name, value in sorted(network.conditioning.items()))
            found = _kept(outputs, (*key, *conditioning), lambda: call(network, *inputs))
            # What is computed in inference mode stays apart from what is not, and nobody changes what is kept.
            return _copied(found) if isinstance(found, Tensor) else tuple(map(_copied, found))

        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_with_options", load_once)
        patch.setattr(learned_perceptual, "_load_network", lambda: _kept(lpips, None, load_lpips))
        for name in ("__call__", "read", "shifted"):
            patch.setattr(DeviceNetwork, name, call_once(getattr(DeviceNetwork, name)))
        yield


def _kept(values: dict[Hashable, Any], key: Hashable, make: Callable[[], Any]) -> Any:
    if key not in values:
        values[key] = make()
    return values[key]


def _content(tensor: Tensor) -> Hashable:
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return tensor.dtype, tuple(tensor.shape), tensor.stride(), hashlib.sha256(data).digest()


def _copied(tensor: Tensor) -> Tensor:
    with torch.inference_mode(tensor.is_inference()):
        return tensor.clone()
