"""What is kept of each input image: the options --crop, --face and --template, and crops behind file names."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddim_edit.errors import ArgumentError

from .command import OptionGroup, SharedOption
from .session import Session
from .types import Text

if TYPE_CHECKING:
    from ddim_edit.images import Crop, FaceTemplate

CropText = tuple[int, int, int] | str
"""A box (x, y, size), or "auto", "face", "face:N", "centre" or "fit"."""
ALL = "all"
FORMS = "auto, face, face:N, centre, fit or X,Y,SIZE in pixels"


def parse_crop(text: str) -> CropText:
    """Return what a text says to keep of an image.

    Raises:
        ValueError: another text.
    """
    if re.fullmatch(r"auto|face(:[1-9]\d{0,3})?|centre|fit", text):
        return text
    if text == "center":
        return "centre"
    if not re.fullmatch(r"\d{1,9},\d{1,9},[1-9]\d{0,8}", text):
        raise ValueError(f"{text!r} is not {FORMS}, as in 120,80,512.")
    x, y, size = map(int, text.split(","))
    return x, y, size


def parse_face(text: str) -> int | str:
    """Return the number of a face, "largest" or "all".

    Raises:
        ValueError: another text.
    """
    if text in ("largest", ALL):
        return text
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise ValueError(f"{text!r} is not largest, all or the number of a face, from 1.")
    return int(text)


def split_crop(path: Path) -> tuple[Path, CropText | None]:
    """Return an input without the crop behind its name, as in a.jpg@120,80,512, and that crop.

    A file whose own name is like that is taken as it is.
    """
    name, at, text = path.name.rpartition("@")
    if not at or not name or path.exists():
        return path, None
    try:
        return path.with_name(name), parse_crop(text)
    except ValueError:
        return path, None


@dataclass(frozen=True)
class CropOptions:
    """What the options say of crops.

    Attributes:
        crops: none, one for all inputs, or one for each, in order.
        face: "largest", the number of a face or "all"; None if it was not given.
        template: name or file of a face template in place of the model's.
    """

    crops: tuple[CropText, ...] = ()
    face: int | str | None = None
    template: str | None = None

    @property
    def all_faces(self) -> bool:
        """Whether every face of an image is meant."""
        return self.face == ALL

    def for_inputs(self, count: int) -> Sequence[CropText | None]:
        """Return the own crop of each of the inputs of a command line; None where the first crop is for all.

        Raises:
            UsageError: another number of crops.
        """
        if len(self.crops) < 2:
            return [None] * count
        if len(self.crops) != count:
            raise click.UsageError(f"There are {count} inputs and {len(self.crops)} --crop. Give one, or one for each.")
        return self.crops

    def require_one(self, paths: Iterable[Path]) -> None:
        """Refuse crops of single inputs, where there is one for all.

        Raises:
            UsageError: there are some.
        """
        if len(self.crops) > 1 or any(split_crop(path)[1] is not None for path in paths):
            raise click.UsageError("A store has one crop for all its images. Give --crop once.")

    def make(self, session: Session, own: CropText | None = None, face_required: bool = False) -> "Crop":
        """Return the crop of an input.

        Args:
            session: of the command; its model may have a face template.
            own: the crop of this input, if it has one of its own.
            face_required: whether an image without a face is refused, unless a crop was asked for.

        Raises:
            ArgumentError: a face is asked for, and there is no template.
            MissingExtraError: a face is asked for, and OpenCV is not installed.
        """
        from ddim_edit.images import AutoCrop, Box, CentreSquare, FaceCrop, Fit

        text = own or (self.crops[0] if self.crops else "auto")
        if isinstance(text, tuple):
            return Box(*text)
        if text in ("centre", "fit"):
            return CentreSquare() if text == "centre" else Fit()
        which = self.face or "largest"
        if text.startswith("face:"):
            which = int(text.removeprefix("face:"))
        is_free = text == "auto" and self.face is None and self.template is None
        if is_free and not session.can_align(session.face_template):
            return CentreSquare()
        template = self.require_template(session)
        if text == "auto":
            required = face_required and own is None and not self.crops
            return AutoCrop(template, which, required)
        return FaceCrop(template, which)

    def require_template(self, session: Session) -> "FaceTemplate":
        """Return the template that was named, else that of the model, where faces can be looked for.

        Raises:
            ArgumentError, ImageError: no template, none of that name, or a file that is none.
            MissingExtraError: OpenCV is not installed.
        """
        from ddim_edit.images import FaceTemplate, require_face_detector

        require_face_detector()
        if self.template is None:
            if session.face_template is None:
                raise ArgumentError(
                    f"{session.model} has no face template. Name one that it was trained on with --template, such as "
                    "ffhq, or use --crop centre."
                )
            return session.face_template
        is_file = self.template not in FaceTemplate.names() and Path(self.template).exists()
        return FaceTemplate.load(self.template) if is_file else FaceTemplate.named(self.template)


def crop_group(all_faces: bool = False) -> OptionGroup:
    """Return the options of what is kept of images, which become the command's `crop`.

    Args:
        all_faces: whether the command can work on every face of an image.
    """
    others = ", its number in `ddim-edit faces`, or all" if all_faces else ", or its number in `ddim-edit faces`"
    options = [
        SharedOption(
            "--crop",
            argument="crops",
            multiple=True,
            type=Text(parse_crop),
            metavar="auto|face|centre|fit|X,Y,SIZE",
            help="What to keep of an image: its face, aligned; the largest square in the centre; all of it, with its "
            "edges continued; or a square in pixels. auto is the face if the model has a face template and the image "
            "is not of the model's size, else the centre. Repeated, one for each input; or FILE@CROP. [default: auto]",
        ),
        SharedOption(
            "--face",
            type=Text(parse_face if all_faces else _parse_one_face),
            metavar="largest|N|all" if all_faces else "largest|N",
            help=f"Which face: the largest{others}. [default: largest]",
        ),
        SharedOption(
            "--template",
            metavar="NAME|FILE",
            help="Face template of the model, if it has none of its own: ffhq, celeba or a JSON file.",
        ),
    ]
    return OptionGroup("Crop", options, "crop", _combine_crop)


def _parse_one_face(text: str) -> int | str:
    if text == ALL:
        raise ValueError("all is for commands that write one photograph with all its faces, such as edit.")
    return parse_face(text)


def _combine_crop(crops: Sequence[CropText], **values: Any) -> CropOptions:
    options = CropOptions(crops=tuple(crops), **values)
    for text in crops:
        if options.face is not None and text not in ("auto", "face"):
            raise click.UsageError("--face goes with --crop auto or face, which look for faces.")
        if options.template is not None and (isinstance(text, tuple) or text in ("centre", "fit")):
            raise click.UsageError("--template goes with --crop auto or face, which look for faces.")
    return options
