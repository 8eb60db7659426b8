"""Templates of face models: where in its frame a model expects the landmarks of a face."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim_edit.errors import ArgumentError, ImageError
from ddim_edit.io import schema

if TYPE_CHECKING:
    from ddim_edit.images.alignment import Point, Similarity

FORMAT = 1
"""Version of the files of templates."""
TEMPLATE_FILE = "face_template.json"
"""Name of the template in a model's folder, and how the name of the one beside a checkpoint file ends."""
LANDMARKS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
"""The landmarks of a face in order; left and right are those of the image."""

_POINT = schema.list_of(schema.number, 2)
_SCHEMA: schema.Schema = {
    "format": schema.one_of(FORMAT),
    "name": schema.text,
    "width": schema.positive_number,
    "height": schema.positive_number,
    "landmarks": schema.table_of(dict.fromkeys(LANDMARKS, _POINT), closed=True),
}


@dataclass(frozen=True)
class FaceTemplate:
    """Where a model expects the landmarks of a face.

    Attributes:
        name: what to call it; for a model's own template the name of the model.
        width, height: of the frame that the landmarks are in, in pixels.
        landmarks: of the eye on the left of the image, the other eye, the tip of the nose, and the corners of the mouth
            from left to right: (x, y) from the upper left corner.

    Examples:
        >>> template = FaceTemplate.named("ffhq")
        >>> template.width, template.landmarks[0]
        (512, (192.98, 239.95))
        >>> FaceTemplate.names()
        ('celeba', 'faces64', 'ffhq')
    """

    name: str
    width: float
    height: float
    landmarks: "tuple[Point, ...]"

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "FaceTemplate":
        """Return the template in a JSON file.

        Raises:
            ImageError: a file that cannot be read or is no template.
        """
        path = Path(path)
        record = schema.validate(schema.read_json(path, ImageError), _SCHEMA, str(path), ImageError)
        if missing := [name for name in LANDMARKS if name not in record["landmarks"]]:
            raise ImageError(f"{path}: the template has no {missing[0]}. It needs {', '.join(LANDMARKS)}.")
        points = [record["landmarks"][name] for name in LANDMARKS]
        if len({tuple(point) for point in points}) < len(points):
            raise ImageError(f"{path}: two landmarks of the template are at one place. Measure them again.")
        return cls(record["name"], record["width"], record["height"], tuple((x, y) for x, y in points))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the packaged templates."""
        return tuple(sorted(_packaged_files()))

    @classmethod
    def named(cls, name: str) -> "FaceTemplate":
        """Return a packaged template.

        Raises:
            ArgumentError: there is none of that name.
        """
        files = _packaged_files()
        if name not in files:
            raise ArgumentError(f"There is no face template {name!r}. Choose one of {', '.join(sorted(files))}.")
        return cls.load(files[name])

    def align(self, landmarks: "Sequence[Point]", size: tuple[int, int]) -> "Similarity":
        """Return the map from a photograph with these landmarks into a frame of `size` (width, height) pixels.

        A frame of another shape is the largest centred one of the template's.
        """
        from ddim_edit.images.alignment import Similarity

        scale = max(size[0] / self.width, size[1] / self.height)
        right, down = (size[0] - scale * self.width) / 2, (size[1] - scale * self.height) / 2
        return Similarity.fit(landmarks, [(x * scale + right, y * scale + down) for x, y in self.landmarks])

    def as_dict(self) -> dict[str, Any]:
        """Return the template as settings of stores record it."""
        points = [list(point) for point in self.landmarks]
        return {"name": self.name, "width": self.width, "height": self.height, "landmarks": points}


def _packaged_files() -> dict[str, Path]:
    assets = Path(str(resources.files("ddim_edit.assets")))
    files = {file.stem: file for file in (assets / "faces" / "templates").glob("*.json")}
    for file in (assets / "models").glob(f"*/{TEMPLATE_FILE}"):
        files[file.parent.name] = file
    return files
