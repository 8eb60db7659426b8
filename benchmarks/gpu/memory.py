"""More images at once than fit: the batch is halved, and the job goes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from timing.place import Place
from torch import Tensor

from ddim_edit import Editor, InversionConfig, NetworkDenoiser, load_model
from gpu.material import gather, relative
from gpu.plan import Case, Row, Setting

STEPS = 2
COMPARED = 4
"""Images from each end whose latents are compared with those of a small batch."""


def cases(setting: Setting) -> list[Case]:
    """Return the cases: in a part of the memory, where they cannot fit, and in all of it."""
    # Bytes on a GPU; rows on a CPU, which has no limit of its own.
    limit = setting.scale.room if setting.device != "cpu" else setting.scale.many // 3
    return [
        Case("in a part of the memory", partial(_invert_many, setting, limit)),
        Case("in all of it", partial(_invert_many, setting, None)),
    ]


def _invert_many(setting: Setting, limit: int | None) -> Iterator[Row]:
    """Invert many images at once; yield the batches that the network got in the end, and the error of the latents."""
    place, count = Place(setting.device), setting.scale.many
    batches: list[int] = []
    model = load_model(setting.model, setting.device, "bfloat16")
    images, method = gather(setting, count), InversionConfig(steps=STEPS)
    ends = [*range(COMPARED), *range(count - COMPARED, count)]
    few = Editor(model, len(ends)).invert(images[ends], method)
    assert isinstance(model.denoiser, NetworkDenoiser)
    if limit is not None and setting.device == "cpu":
        narrow = _LimitedNetwork(model.denoiser.network, limit)
        model = replace(model, denoiser=replace(model.denoiser, network=narrow))
    with _memory(place, limit):
        editor = Editor(model, batch_size=count, on_evaluation=batches.append)
        wall, found = place.timed(lambda: editor.invert(images, method))
        held = torch.cuda.max_memory_reserved() / 2**30 if place.device.type == "cuda" else None
    error = max(relative(found[row].x, other.x) for row, other in zip(ends, few, strict=True))
    yield {
        "images at once": count,
        "allowed": "all" if limit is None else f"{limit / 2**30:.0f} GiB" if held is not None else f"{limit} rows",
        "ended at batches of": batches[-1],
        "seconds": wall,
        "most held GiB": held,
        "relative difference to small batches": error,
        # Of another batch size's kernels; anything larger means that rows were lost or mixed up.
        "goes on": "yes" if len(found) == count and error < 0.1 else "NO",
    }


class _LimitedNetwork:
    """A network that runs out of memory above so many rows, as a GPU does; for a rehearsal without one."""

    def __init__(self, network: Callable[[Tensor, Tensor], Tensor], rows: int) -> None:
        self._network, self._rows = network, rows

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        """Return the network's output."""
        if len(x) > self._rows:
            raise torch.OutOfMemoryError("more rows than there shall be memory for")
        return self._network(x, index)


@contextmanager
def _memory(place: Place, limit: int | None) -> Iterator[None]:
    """Allow this process so many bytes of the card, or all of it."""
    if place.device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    whole = torch.cuda.get_device_properties(place.device).total_memory
    torch.cuda.set_per_process_memory_fraction(1.0 if limit is None else min(1.0, limit / whole))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
