"""The sections of `gpu_check.py` in the order of their importance, and the setting that each of them gets.

Imports neither torch nor the package, so that the process that watches over the others starts at once and cannot fail
with them.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
Row = Mapping[str, Any]
"""One line of a table: numbers, texts and None by column."""


@dataclass(frozen=True)
class Scale:
    """How much to measure.

    Attributes:
        steps: of an inversion whose time is taken.
        batches: images at once, the most telling ones first.
        seconds: that the repetitions of one measurement may take; there is one in any case.
        ladder: steps to try until a round trip reaches 50 dB.
        matrix: longest side of the square matrices whose product gives the peak of a device.
        images: in the folder.
        folder_batch: images at once when a store is filled.
        many: images at once that shall not fit.
        room: bytes of the device that they may take.
        training_batch: images in a step of training.
    """

    steps: int = 20
    batches: tuple[int, ...] = (64, 1, 8, 256)
    seconds: float = 1.2
    ladder: tuple[int, ...] = (20, 22, 25, 28, 32, 40, 50)
    matrix: int = 16384
    images: int = 4096
    folder_batch: int = 64
    many: int = 8192
    room: int = 16 * 2**30
    training_batch: int = 256


TINY = Scale(
    steps=2, batches=(2, 1), seconds=0.0, ladder=(2, 3), matrix=512, images=12,
    folder_batch=2, many=16, training_batch=4,
)  # fmt: skip
"""To see on any processor that everything runs; its figures mean nothing."""


@dataclass(frozen=True)
class Setting:
    """How a section runs, as plain data that fits a command line.

    Attributes:
        device: "cuda", or "cpu" for a rehearsal.
        tiny: whether the figures need not mean anything.
        model: folder of the pixel model that is measured; empty for faces64 until a section runs.
        scratch: folder for whatever sections write; several may run at once.
        deadline: when to stop beginning anything, as `time.monotonic` tells it.
        batches: images at once where times are taken; those of the scale when empty.
    """

    device: str
    tiny: bool
    model: str
    scratch: str
    deadline: float
    batches: tuple[int, ...] = ()

    @property
    def scale(self) -> Scale:
        """How much to measure."""
        scale = TINY if self.tiny else Scale()
        return replace(scale, batches=tuple(self.batches)) if self.batches else scale

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def folder(self, name: str) -> Path:
        """Return a folder of that name in the scratch folder, made where it is missing."""
        made = Path(self.scratch) / name
        made.mkdir(parents=True, exist_ok=True)
        return made

    def as_text(self) -> str:
        """Return the setting as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Setting":
        """Return the setting that `as_text` wrote."""
        return cls(**json.loads(text))


class Skipped(Exception):  # noqa: N818 - nothing is wrong
    """Something that this checkout or this machine does not have; the text says what is missing."""


class Case(NamedTuple):
    """One piece of a section, which may fail without ending the others: its name, and what yields its rows."""

    name: str
    measure: Callable[[], Iterator[Row]]


@dataclass(frozen=True)
class Section:
    """One table of the page.

    Attributes:
        name: as `--only` and `--budget` take it.
        title: heading of its table.
        note: what the columns mean.
        source: "module:function" from a `Setting` to its cases; by name, as the module imports torch.
        seconds: that it may take at most.
        alone: whether it takes times, so that nothing else may run beside it.
    """

    name: str
    title: str
    note: str
    source: str
    seconds: float
    alone: bool = True

    def cases(self, setting: Setting) -> Iterable[Case]:
        """Return the cases of the section."""
        module, _, function = self.source.partition(":")
        made: Iterable[Case] = getattr(import_module(module), function)(setting)
        return made


SECTIONS = (
    Section(
        "machine",
        "Machine",
        "",
        "gpu.machine:cases",
        60,
        alone=False,
    ),
    Section(
        "tests",
        "Tests on the device",
        "The tests marked `gpu`, by pytest.",
        "gpu.checks:tests",
        100,
        alone=False,
    ),
    Section(
        "demo",
        "The commands of `make demo`, against the CPU in float32",
        "Relative L2 error, the worst of both latents and of both images decoded from them; then the files: the share "
        "of 8-bit values that are the same, and the largest difference of any.",
        "gpu.checks:demo",
        100,
        alone=False,
    ),
    Section(
        "certificates",
        "Exact and lossless inversions, decoded anew in a second process",
        "An inversion is certified where its own decode returns every pixel; the second process is `ddim-edit decode` "
        "on the latents' files, whose images are compared with the original ones in 8 bit.",
        "gpu.checks:certificates",
        100,
        alone=False,
    ),
    Section(
        "determinism",
        "The same inversion twice",
        "Bits of the latents, in one process and in two.",
        "gpu.checks:determinism",
        100,
        alone=False,
    ),
    Section(
        "images",
        "A folder of images",
        "Made beside the checks, for the sections below.",
        "gpu.material:cases",
        60,
        alone=False,
    ),
    Section(
        "compile",
        "Networks compiled ahead",
        "So that the compiled variants below start from the compiler's cache. This runs beside the checks above, so "
        "that kernels which TorchInductor chooses by their time were timed on a device that others used now and then.",
        "gpu.speed:compile_ahead",
        100,
        alone=False,
    ),
    Section(
        "speed",
        "Time of an evaluation and of a whole inversion",
        "{steps} steps and as many evaluations, unless images are compared with typical ones, which takes two more; "
        "images in memory to latents in memory, medians. Outside the network are solver, bookkeeping and copies. FLOP "
        "are those of convolutions and matrix products; the peak is that of the best product of two square matrices in "
        "the same dtype. `x ...` is how many times faster a whole inversion is than that of diffusers at the same "
        "batch. The error is the relative one of an evaluation against float32 on the processor.",
        "gpu.speed:speed",
        130,
    ),
    Section(
        "compiled",
        "The same of networks that are compiled",
        "As above; the first call compiles, or reads what was compiled ahead.",
        "gpu.speed:compiled",
        70,
    ),
    Section(
        "round-trip",
        "One image there and back at 50 dB",
        "The fewest steps at which the packaged portrait comes back at 50 dB or more.",
        "gpu.speed:round_trip",
        20,
    ),
    Section(
        "launches",
        "Kernels launched",
        "By torch.profiler: in one evaluation, and for each step of an inversion with its evaluations. Operators are "
        "those of torch on the processor, with those that they call.",
        "gpu.speed:launches",
        25,
    ),
    Section(
        "outside",
        "From image files to latent files",
        "One batch of {folder_batch} read, inverted in {steps} steps and written; the share that is not the network's.",
        "gpu.speed:outside",
        20,
    ),
    Section(
        "store",
        "A folder into a store",
        "{images} images into a store, batches of {folder_batch}, {steps} steps. Rates are images a second once the "
        "first batch is done, and the network's own rate is that of its evaluations alone. Seconds of reading and "
        "writing are those of their threads, which work while the network runs.",
        "gpu.storing:cases",
        45,
    ),
    Section(
        "memory",
        "More than fits",
        "{many} images at once, 2 steps, and the same where a part of the memory is allowed.",
        "gpu.memory:cases",
        30,
    ),
    Section(
        "stable-diffusion",
        "A network of the size of Stable Diffusion 1.5, 512x512 pixels",
        "Random weights, one prompt, no guidance; ms of one evaluation.",
        "gpu.stable_diffusion:cases",
        40,
    ),
    Section(
        "training",
        "Training",
        "`ddim-edit train`'s recipe of faces64 in bfloat16 with accelerate, batches of {training_batch}.",
        "gpu.training:cases",
        120,
    ),
)
"""Those that time nothing come first and run beside one another; then each has the device for itself."""


def without_folders(text: str) -> str:
    """Return a text without the folders of this machine, as it may be published."""
    for folder, name in ((ROOT, "."), (Path(sys.prefix), "python"), (Path.home(), "~")):
        text = text.replace(str(folder), name)
    return text


def find_section(name: str) -> Section:
    """Return the section of that name.

    Raises:
        KeyError: no such section.
    """
    return {section.name: section for section in SECTIONS}[name]
