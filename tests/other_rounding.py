"""A plugin of pytest under which no two networks round alike: `pytest -p tests.other_rounding -m "not same_bits"`.

Two loads of one network usually return the same bits, but not always, so that a test that asks for more than `rounding`
allows fails now and then. Here each layer that is made multiplies what it returns by 1 + 2**-23 or 1 - 2**-23, drawn
anew, so that such a test fails at once. Those that promise the same bytes (see `rounding`) are marked `same_bits`.
"""

import random
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_factors: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()
_draw = random.SystemRandom()


def _round_otherwise(layer: type[nn.Module]) -> None:
    computed = layer.forward

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        answer = computed(self, *args, **kwargs)
        if type(answer) is not Tensor or answer.dtype != torch.float32 or answer.device.type != "cpu":
            return answer
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return answer
        if self not in _factors:
            _factors[self] = 1 + _draw.choice((-1, 1)) * 2.0**-23
        return answer * _factors[self]

    layer.forward = forward


def pytest_configure() -> None:
    for layer in (nn.Conv2d, nn.Linear):
        _round_otherwise(layer)
