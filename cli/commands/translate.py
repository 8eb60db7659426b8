"""`ddim-edit translate`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command import Option, OptionGroup, command
from ..crops import CropOptions, crop_group
from ..files import Job, find_images, open_destination, plan_jobs, read_job_faces, run_on_faces
from ..options import (
    images_argument,
    inversion_groups,
    make_config,
    output_option,
    overwrite_option,
    recursive_group,
    session_options,
)
from ..results import ResultOptions, ResultWriter, result_group
from ..session import Session
from ..types import ModelName

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit import NoiseSchedule, Workload
    from ddim_edit.images import InputImage


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    to = Option(
        "--to",
        required=True,
        type=ModelName(),
        metavar="NAME|DIR|FILE|HUB-ID",
        help="Model of the domain that the images go to.",
    )
    output = [images_argument(), to, output_option(), overwrite_option()]
    inversion = inversion_groups("check", "level")
    groups = [OptionGroup("Output", output), result_group(), recursive_group()]
    return [*groups, *inversion, crop_group(all_faces=True), session_options()]


@command(
    "Edit and create", 5, option_groups, "ddim-edit translate photos/ --model ./photos64 --to ./paintings64 -o out/"
)
def translate(
    images: Sequence[Path],
    to: str,
    output: Path,
    overwrite: bool,
    result: ResultOptions,
    config: Mapping[str, Any],
    crop: CropOptions,
    session: Session,
) -> None:
    """Translate images to another model's domain. They pass through a shared x_T.

    They are written as DIR/NAME-translated.png, or whole photographs in their own format.

    --model is where the images come from, --to where they go: two models of one size and noise schedule.
    """
    from ddim_edit.latents.image_recipes import TranslationRecipe

    session.metadata = result.metadata
    if config["exact"]:
        session.prefer_dtype("fp32")
    destination = open_destination(session, output, result.suffix, overwrite, "-translated")
    jobs = plan_jobs(session, find_images(session, images, crop), destination)
    other = session.load(to)
    writer = ResultWriter(session, result)
    inversion_config = make_config(config).without_start()

    def translate_batch(batch: "Sequence[tuple[Job, list[InputImage]]]") -> "Iterator[list[Tensor]]":
        return run_on_faces(lambda faces: session.editor.translate(faces, other, inversion_config), batch)

    def workload(schedule: "NoiseSchedule") -> "Workload":
        return inversion_config.inversion_workload(schedule) + inversion_config.decoding_workload(
            schedule, to_clean=True
        )

    for batch in read_job_faces(session, jobs, crop, workload, 2):
        model = session.editor.model.name
        for (job, faces), translated in session.run_batch(batch, translate_batch):
            recipe = TranslationRecipe(other.model.name, model, faces[0].source, {"check": False, **config})
            with session.continue_on_error(job.source):
                if result.is_photo(faces[0]):
                    recipe = replace(recipe, frames=tuple(face.preprocessing for face in faces))
                writer.write(job.source, job.target, faces, translated, recipe)
                row = {**job.to_json(), **recipe.to_json()}
                del row["source"]
                session.emit(row, job.target)
    session.finish()
