"""How results are written: as the photograph with its change, or as the model's own image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .command import OptionGroup, SharedOption
from .options import Suffix, metadata_option, upscale_option
from .session import Session

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit import Recipe
    from ddim_edit.images import InputImage
    from ddim_edit.latents.image_recipes import ImageRecipe

PHOTO, MODEL = "photo", "model"


@dataclass(frozen=True)
class ResultOptions:
    """What the options say of results.

    Attributes:
        output_size: "photo" or "model"; None is the photograph's, where it is larger than the model's.
        upscale: how many times an image of the model's size is enlarged; None leaves it as it is.
        suffix: of the files; None is that of the input.
        metadata: whether recipes are embedded, and the metadata of photographs kept.
    """

    output_size: str | None = None
    upscale: int | None = None
    suffix: str | None = None
    metadata: bool = True

    @property
    def may_be_photo(self) -> bool:
        """Whether a result is its whole photograph, if there is one that is larger."""
        return self.output_size != MODEL and self.upscale is None

    def is_photo(self, image: "InputImage") -> bool:
        """Return whether the result of an image is its whole photograph."""
        if self.output_size is not None or self.upscale is not None:
            return self.output_size == PHOTO
        return image.is_reduced


def result_group() -> OptionGroup:
    """Return the options of written results, which become the command's `result`."""
    from ddim_edit.images import still_suffixes

    formats = [suffix.removeprefix(".") for suffix in still_suffixes()]
    options = [
        SharedOption(
            "--output-size",
            type=click.Choice([PHOTO, MODEL]),
            help="Write the whole photograph, in which only the part that the model sees changes, or the model's own "
            "image. [default: photo for images larger than the model's]",
        ),
        upscale_option("Enlarge images of the model's size (Lanczos)."),
        SharedOption(
            "--format",
            argument="suffix",
            type=Suffix(formats),
            help="Format of the images. [default: that of the input, as far as it can be written, else png]",
        ),
        metadata_option(),
    ]
    return OptionGroup("Output", options, "result", _combine_results)


def _combine_results(**values: Any) -> ResultOptions:
    if values["upscale"] is not None and values["output_size"] == PHOTO:
        raise click.UsageError("--upscale is for images of the model's size. Leave it or --output-size photo out.")
    return ResultOptions(**values)


class ResultWriter:
    """Writes the results of one command.

    Args:
        session: of the command.
        options: how to write.
        noise: levels of 255 below which a change of a photograph is taken for noise; None is the default.
    """

    def __init__(self, session: Session, options: ResultOptions, noise: float | None = None) -> None:
        self._session = session
        self._options = options
        self._noise = {} if noise is None else {"noise": noise}

    def write(
        self,
        source: Path,
        target: Path,
        images: "Sequence[InputImage]",
        results: "Sequence[Tensor]",
        recipe: "Recipe | ImageRecipe",
    ) -> None:
        """Write the result of one input.

        Args:
            source: the photograph.
            target: the file to write.
            images: the frames of the photograph that the model saw.
            results: what became of them, floats [3, H, W] in [-1, 1].
            recipe: of the result.
        """
        if not self._options.is_photo(images[0]):
            self.write_model_size(target, results[0], recipe)
            return
        from ddim_edit.images import Photograph

        photograph = Photograph.open(source)
        for image, result in zip(images, results, strict=True):
            photograph = photograph.paste(image, result, **self._noise)
        lost = photograph.save(target, self._session.recipe_json(recipe), self._options.metadata)
        notes = [*photograph.notes, *lost]
        if notes:
            self._session.note(f"{target.name}: {', '.join(notes)}")

    def write_model_size(self, target: Path, result: "Tensor", recipe: "Recipe | ImageRecipe") -> None:
        """Write an image [3, H, W] of the model's size, floats in [-1, 1] or uint8, enlarged as the options say."""
        from ddim_edit.images import to_uint8, upscale

        pixels = to_uint8(result) if result.is_floating_point() else result
        self._session.save_image(target, upscale(pixels, self._options.upscale or 1), recipe)
