"""Fill networks with weights."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ddim_edit.errors import ModelError

_LEFT_OVER = re.compile(r"(model_ema|ema|loss|discriminator|optimizer)\.|(.*\.)?(num_updates|num_batches_tracked)")
"""Names of tensors that only a training needs: of averages, of losses, and counters."""

Net = TypeVar("Net", bound=nn.Module)
_HARMLESS_WIDTH = 1_000_000
_HARMLESS_LAYERS = 100
"""Numbers in a config that cost nothing, however few weights there are."""


class NoInitialization(TorchFunctionMode):
    """A context in which networks of other libraries are built without the random weights that are read afterwards.

    `torch.nn.utils.skip_init` does the same for single layers, and the "meta" device for networks that hold nothing
    else.

    Args:
        smallest: tensors of fewer elements get their values all the same.
    """

    def __init__(self, smallest: int = 0) -> None:
        super().__init__()
        self.smallest = smallest

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the tensor that an initializer is to fill; call every other function."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if tensor.numel() >= self.smallest:
                return tensor
        return func(*args, **kwargs)


def fill(
    make: Callable[[], Net], weights: Mapping[str, Tensor], source: str, dtype: torch.dtype = torch.float32
) -> Net:
    """Return the network that `make` builds with these weights, on the CPU, in eval mode, without gradients.

    Args:
        make: builds the network; it is called on the "meta" device, where random weights cost neither time nor a move
            of the global generator. Buffers that no checkpoint holds must be made on the CPU explicitly.
        weights: every parameter and persistent buffer by name, in any floating dtype, and no other tensors, except
            for what trainings leave behind, such as `model_ema.decay`.
        source: what the weights are, for the error, as in "An EDM checkpoint".
        dtype: of the network's weights.

    Raises:
        ModelError: tensors that are missing, unknown, or of another shape.
    """
    with torch.device("meta"):
        network = make()
    expected = network.state_dict()
    _require_fit(expected, weights, source)
    # nn.Module.to_empty would do this, but it imports sympy, which takes half a second.
    tensors = {}
    for name, like in expected.items():
        kind = dtype if like.is_floating_point() else like.dtype
        tensors[name] = torch.empty_strided(like.shape, like.stride(), dtype=kind).copy_(weights[name])
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)


@contextmanager
def without_parameters() -> Iterator[None]:
    """Have the networks that are built inside without memory for their parameters; their buffers have values.

    accelerate does that, which comes with diffusers. Without it the parameters have memory that is never written to.
    """
    with ExitStack() as contexts:
        contexts.enter_context(NoInitialization())
        try:
            from accelerate import init_empty_weights
        except ImportError:
            pass
        else:
            contexts.enter_context(init_empty_weights(include_buffers=False))
        yield


def fill_in_place(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    source: str,
) -> None:
    """Give a network its weights, on the CPU, in eval mode and without gradients.

    Each tensor is cast and laid out as it is read, so that a mapping that keeps none of them needs no more memory than
    the network itself.

    Args:
        network: built `without_parameters`.
        weights: every parameter and persistent buffer by name, in any floating dtype, and no other tensors, except
            for what trainings leave behind, and what the class of the network passes over itself.
        dtype: that of the network afterwards; whole numbers keep theirs.
        memory_format: of its convolutions' weights. What is contiguous and in the dtype already is shared.
        source: what the weights are of, for the error.

    Raises:
        ModelError: tensors that are missing, unknown, or of another shape.
    """
    expected = network.state_dict()
    require_all([name for name in expected if name not in weights], source)
    passed_over = getattr(network, "_keys_to_ignore_on_load_unexpected", None) or ()
    for name in weights:
        known = name in expected or _LEFT_OVER.match(name) or any(re.search(each, name) for each in passed_over)
        if not known:
            raise ModelError(
                f"{source}: the weights do not fit the config: {name:.80} is unknown. Take both from one checkpoint."
            )
    tensors = {}
    for name, like in expected.items():
        tensor = weights[name]
        if tensor.shape != like.shape:
            raise ModelError(
                f"{source}: the weights do not fit the config: {name} has the shape {list(tensor.shape)}, not "
                f"{list(like.shape)}. Take both from one checkpoint."
            )
        kind = dtype if like.is_floating_point() else like.dtype
        if memory_format == torch.contiguous_format:
            tensors[name] = tensor.to(kind)  # which a file that is mapped need not be read for, where it has the dtype
            continue
        layout = memory_format if like.dim() == 4 else torch.contiguous_format
        # Copies all, as one tensor that is mapped would keep all of its file in memory.
        tensors[name] = torch.empty(like.shape, dtype=kind, memory_format=layout).copy_(tensor)
    network.load_state_dict(tensors, assign=True)
    # Buffers that no file holds were made with values, in float32.
    nn.Module.to(network, dtype)  # diffusers' own warns of modules that it may keep in float32, of which there are none
    network.eval().requires_grad_(False)


def require_all(missing: Collection[str], source: str) -> None:
    """Refuse weights that lack tensors.

    Args:
        missing: the names of those.
        source: what the weights are of, for the error.

    Raises:
        ModelError: there are any.
    """
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ModelError(
            f"{source}: the weights do not fit the config: {min(missing)}{others} missing. Take both from one "
            "checkpoint."
        )


def _require_fit(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str) -> None:
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in expected and not _LEFT_OVER.match(name)]
    for name, tensor in weights.items():
        like = expected.get(name)
        if like is None:
            continue
        if tensor.shape != like.shape:
            problems.append(f"{name} has the shape {list(tensor.shape)}, not {list(like.shape)}")
        elif like.is_floating_point() and not tensor.is_floating_point():
            problems.append(f"{name} is of {tensor.dtype}")
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ModelError(
            f"{source}: the weights do not fit the network: {', '.join(problems[:3])}{more}. "
            "Take config and weights from one checkpoint."
        )


def require_plausible_config(config: Mapping[str, object], shapes: Sequence[Sequence[int]], source: str) -> None:
    """Refuse a config of a network that is larger than its weights, before building it takes all memory.

    Args:
        config: the config as its file has it; numbers under names with the word "layers" are counts of layers.
        shapes: the shapes of all tensors of the checkpoint.
        source: the file or folder, for the error.

    Raises:
        ModelError: a number, or a list, that is larger than what the file can hold.
    """
    most_weights = max(sum(map(prod, shapes)), _HARMLESS_WIDTH)
    most_layers = max(len(shapes), _HARMLESS_LAYERS)
    for name, value in config.items():
        values = value if isinstance(value, list | tuple) else [value]
        most = most_layers if "layers" in name else most_weights
        too_long = len(values) > most_layers
        if too_long or any(type(number) is int and number > most for number in values):
            raise ModelError(
                f"{source}: the weights do not fit the config: {name:.60} has more than "
                f"{most_layers if too_long else most:,} entries or units. Take both from one checkpoint."
            )
