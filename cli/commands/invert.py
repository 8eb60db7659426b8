"""`ddim-edit invert`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..command import OptionGroup, command
from ..files import LATENT, Destination, read_jobs
from ..options import (
    CropChoice,
    crop_group,
    folder_option,
    images_argument,
    inversion_groups,
    make_config,
    make_crop,
    overwrite_option,
    session_options,
)
from ..session import Session
from ..stores import STORE, StoreOptions, fill_store, store_group


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    return [
        OptionGroup("Output", [images_argument(), folder_option(), overwrite_option()]),
        *inversion_groups(),
        crop_group(),
        store_group(),
        session_options(),
    ]


@command(
    "Invert and decode",
    1,
    option_groups,
    "ddim-edit invert portrait.jpg -o latents/ --exact",
    "ddim-edit invert photos/ -o photos.latents --level 0.4T",
)
def invert(
    images: Sequence[Path],
    output: Path,
    overwrite: bool,
    config: Mapping[str, Any],
    crop: CropChoice,
    store: StoreOptions,
    session: Session,
) -> None:
    """Invert images to latents. Each is written as DIR/NAME.latent.safetensors.

    A DIR whose name ends in .latents becomes a store: hundreds of latents per file, for folders of any size. A run that
    was interrupted continues where it stopped, new images are added, and several processes may share the work.
    """
    store.require_store(output)
    if config["exact"]:
        session.prefer_dtype("fp32")  # rougher networks leave exact inversions short of their tolerance
    if output.suffix == STORE:
        fill_store(session, images, output, overwrite, store, config=make_config(config), crop=make_crop(crop))
        session.finish()
        return
    for batch in read_jobs(session, images, Destination(output, LATENT, overwrite), crop):
        # As batches, of which an image that ends in NaN is refused by itself, when its latent is written.
        (latents,) = session.editor.invert_batches([[image for _, image in batch]], make_config(config))
        for (job, _), latent in zip(batch, latents, strict=True):
            with session.continue_on_error(job.source):
                latent.save(job.target)
                session.warn_if_unconverged(job.source, latent.report)
                session.emit({**job.to_json(), "t": latent.t, **latent.report}, job.target)
    session.finish()
