"""`ddim-edit invert`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command import OptionGroup, command
from ..crops import CropOptions, crop_group
from ..files import LATENT, Job, find_images, open_destination, plan_jobs, read_jobs
from ..grids import settle_grid
from ..options import (
    AUTO,
    images_argument,
    inversion_groups,
    make_config,
    output_option,
    overwrite_option,
    recursive_group,
    session_options,
)
from ..session import Session
from ..stores import STORE, StoreOptions, adopt_settings, fill_store, store_group

if TYPE_CHECKING:
    from ddim_edit import Latents
    from ddim_edit.images import InputImage


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    return [
        OptionGroup("Output", [images_argument(), output_option("latent"), overwrite_option()]),
        recursive_group(),
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
    crop: CropOptions,
    store: StoreOptions,
    session: Session,
) -> None:
    """Invert images to latents. Each is written as DIR/NAME.latent.safetensors.

    A DIR whose name ends in .latents becomes a store: hundreds of latents per file, for folders of any size. A run that
    was interrupted continues where it stopped, new images are added, and several processes may share the work.
    """
    store.require_store(output)
    if output.suffix == STORE:
        adopt_settings(session, output, overwrite)
    if config["exact"]:
        session.prefer_dtype("fp32")  # rougher networks leave exact inversions short of their tolerance
    if output.suffix == STORE:
        crop.require_one(images)
        config = settle_grid(
            session, config, find_images(session, images, crop) if config["grid"] == AUTO else [], crop
        )
        fill_store(session, images, output, overwrite, store, config=make_config(config), crop=crop.make(session))
        session.finish()
        return
    destination = open_destination(session, output, LATENT, overwrite, files=[LATENT])
    files = find_images(session, images, crop)
    jobs = plan_jobs(session, files, destination)
    inversion_config = make_config(settle_grid(session, config, files, crop))

    def invert_batch(batch: "Sequence[tuple[Job, InputImage]]") -> "Latents":
        # As batches, of which an image that ends in NaN is refused by itself, when its latent is written.
        (latents,) = session.editor.invert_batches([[image for _, image in batch]], inversion_config)
        return latents

    passes = 3 if inversion_config.check or inversion_config.exact else 1
    for batch in read_jobs(session, jobs, crop, inversion_config.inversion_workload, passes):
        for (job, _), latent in session.run_batch(batch, invert_batch):
            with session.continue_on_error(job.source):
                latent.save(job.target)
                session.warn_if_unconverged(job.source, latent.report)
                session.emit({**job.to_json(), "t": latent.t, **latent.report}, job.target)
    session.finish()
