"""Inputs of commands that mix latents: latent files, and images that are inverted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .crops import CropOptions, CropText, split_crop
from .files import LATENT, InputFile, load_latents, read_batches
from .grids import settle_grid
from .options import make_config
from .session import Session

if TYPE_CHECKING:
    from ddim_edit import Latent, Latents
    from ddim_edit.images import InputImage


class _Input(NamedTuple):
    """An input, and its own crop, if it has one."""

    file: Path
    crop: CropText | None = None


def load_or_invert(
    session: Session, inputs: Sequence[Path], config: Mapping[str, Any], crop: CropOptions
) -> "list[Latent]":
    """Return the latent of every input; images are inverted together. The command ends if one of them fails."""
    of_latents = [path for path in inputs if path.name.endswith(LATENT) or _is_latent(session, path)]
    latents: dict[_Input, Latent] = {}
    for path, latent in load_latents(session, of_latents).items():
        latents[_Input(path)] = latent
    cropped: list[_Input] = []
    for path, crop_of_input in zip(inputs, crop.for_inputs(len(inputs)), strict=True):
        file, own = split_crop(path)
        cropped.append(_Input(path) if path in of_latents else _Input(file, own or crop_of_input))
    # An input that comes twice is inverted once, unless it is cropped differently.
    to_invert = list(dict.fromkeys(each for each in cropped if each.file not in of_latents))
    crops = [crop.make(session, each.crop) for each in to_invert]
    config = settle_grid(session, config, [InputFile(each.file, "", each.crop) for each in to_invert], crop)
    inversion_config = make_config(config)

    def invert_batch(batch: "Sequence[tuple[_Input, InputImage]]") -> "Latents":
        return session.editor.invert([image for _, image in batch], inversion_config)

    passes = 3 if inversion_config.exact else 1
    files = [each.file for each in to_invert]
    for batch in read_batches(session, to_invert, files, crops, inversion_config.inversion_workload, passes):
        for (each, _), latent in session.run_batch(batch, invert_batch):
            session.warn_if_unconverged(each.file, latent.report)
            latents[each] = latent
    session.finish()  # a mixture needs all of its inputs
    return [latents[each] for each in cropped]


def _is_latent(session: Session, path: Path) -> bool:
    """Return whether standard input, which has no name, holds a latent."""
    from ddim_edit.io import content

    return path == session.streams.input and content.describe_file(path) == content.LATENT
