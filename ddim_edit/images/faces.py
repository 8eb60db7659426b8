"""Find faces and their landmarks, with OpenCV, which the extra `faces` installs.

Face models are trained on aligned faces: eyes, nose and mouth stand at fixed places. A photograph is brought into that
frame by the similarity that takes five landmarks of its face to those of the model's template.

References:
    Wei Wu, Hanyang Peng, Shiqi Yu. YuNet: a tiny millisecond-level face detector. Machine Intelligence Research 20,
    2023.
"""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module, resources
from typing import Any

import numpy as np
from PIL import Image

from ddim_edit.errors import MissingExtraError, ModelError, first_line
from ddim_edit.images.alignment import Point, Similarity, warp_roughly
from ddim_edit.images.face_templates import LANDMARKS
from ddim_edit.io.extras import is_installed

DETECTED_AT = 416
"""Longest side, in pixels, of the copy in which faces are looked for: faces from a fortieth of it are found."""
REFINED_AT = 128
"""Side of the upright crop in which the landmarks of a found face are measured again."""
REFINEMENTS = 2
CONFIDENT = 0.6
"""Score from which a detection counts as a face."""
OVERLAP = 0.3
"""Share of overlap above which two detections are one face."""
MOST_FACES = 50
UPRIGHT: tuple[Point, ...] = ((0.38, 0.40), (0.62, 0.40), (0.50, 0.53), (0.40, 0.65), (0.60, 0.65))
"""Landmarks of that crop, in shares of its side."""

_detectors = threading.local()
_importing = threading.Lock()


@dataclass(frozen=True)
class Face:
    """A face in an image, in pixels from the upper left corner.

    Attributes:
        box: left, top, width and height.
        landmarks: (x, y) of the eye on the left of the image, the other eye, the tip of the nose, and the corners of
            the mouth from left to right.
        score: the detector's confidence, from 0 to 1.
    """

    box: tuple[float, float, float, float]
    landmarks: tuple[Point, ...]
    score: float

    @property
    def degrees(self) -> float:
        """Angle by which the face is tilted clockwise, seen in the image."""
        upright = Similarity.fit(self.landmarks, UPRIGHT)
        return -upright.degrees

    def to_json(self) -> dict[str, Any]:
        """Return the face as JSON types."""
        landmarks = zip(LANDMARKS, map(list, self.landmarks), strict=True)
        return {"box": list(self.box), "landmarks": dict(landmarks), "score": self.score}

    def scaled(self, across: float, down: float) -> "Face":
        """Return the face in an image enlarged by these factors.

        It is rounded to a hundredth of a pixel, so that processors which round differently align a photograph alike.
        """
        left, top, width, height = self.box
        box = (round(left * across, 2), round(top * down, 2), round(width * across, 2), round(height * down, 2))
        landmarks = tuple((round(x * across, 2), round(y * down, 2)) for x, y in self.landmarks)
        return Face(box, landmarks, round(self.score, 4))


def can_find_faces() -> bool:
    """Return whether OpenCV is installed; it is not imported."""
    return is_installed("cv2")


def require_face_detector() -> None:
    """Refuse to look for faces without OpenCV.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    if not can_find_faces():
        raise MissingExtraError("opencv-python-headless", "faces", "Finding faces")


def find_faces(image: Image.Image) -> list[Face]:
    """Return the faces in an upright RGB image, the largest first, as a first look at a shrunken copy finds them.

    Raises:
        MissingExtraError: OpenCV is not installed.
        ModelError: it fails.
    """
    scale = min(1.0, DETECTED_AT / max(image.size))
    small = image
    if scale < 1:
        # Reducing by whole pixels first is as good and much faster for a photograph of many megapixels.
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        small = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    across, down = image.width / small.width, image.height / small.height
    faces = [face.scaled(across, down) for face in _detect(np.asarray(small))]
    return sorted(faces, key=lambda face: face.box[2] * face.box[3], reverse=True)


def refine_face(image: Image.Image, face: Face) -> Face:
    """Return a face with its landmarks measured again, in a frame in which every face looks alike.

    A detector's landmarks depend on where the face lies on its grid, on its size and its tilt: copies of two portraits,
    turned by up to 30 degrees, mirrored, darkened, shrunk and enlarged, had them up to 9 % of the face apart. Measured
    twice more in an upright frame, and there as the mean with the mirrored frame, they are 0.8 % apart on average and
    2.4 % at most.
    """
    landmarks = face.landmarks
    for _ in range(REFINEMENTS):
        upright = Similarity.fit(landmarks, [(x * REFINED_AT, y * REFINED_AT) for x, y in UPRIGHT])
        pixels = np.asarray(warp_roughly(image, upright, (REFINED_AT, REFINED_AT)))
        plain = _central_landmarks(_detect(pixels))
        mirrored = _central_landmarks(_detect(pixels[:, ::-1]))
        if plain is None or mirrored is None:
            break
        # Mirrored, left and right change places.
        swapped = [(REFINED_AT - x, y) for x, y in (mirrored[1], mirrored[0], mirrored[2], mirrored[4], mirrored[3])]
        mean = [((x + u) / 2, (y + v) / 2) for (x, y), (u, v) in zip(plain, swapped, strict=True)]
        landmarks = tuple(upright.inverse(mean))
    return replace(face, landmarks=landmarks)


def _central_landmarks(faces: Sequence[Face]) -> tuple[Point, ...] | None:
    middle = complex(REFINED_AT, REFINED_AT) / 2
    nearest = min(faces, key=lambda face: abs(complex(*face.landmarks[2]) - middle), default=None)
    return None if nearest is None else nearest.landmarks


def _detect(pixels: np.ndarray[Any, Any]) -> list[Face]:
    """Return the faces in uint8 [H, W, 3].

    Raises:
        MissingExtraError: OpenCV is not installed.
        ModelError: it fails.
    """
    try:
        detector = getattr(_detectors, "detector", None)
        if detector is None:
            detector = _detectors.detector = _make_detector()
        detector.setInputSize((pixels.shape[1], pixels.shape[0]))
        _, rows = detector.detect(np.ascontiguousarray(pixels[..., ::-1]))  # OpenCV's channels are blue, green, red
    except MissingExtraError:
        raise
    except Exception as error:  # is no fault of the image, for which whoever reads it would take it
        version = getattr(sys.modules.get("cv2"), "__version__", "as it is installed")
        raise ModelError(
            f"The face detector fails with OpenCV {version} ({first_line(error)}). Install another version of "
            "opencv-python-headless, or choose a crop that needs no faces."
        ) from error
    faces = []
    for row in [] if rows is None else rows.tolist():
        # The detector counts from the centre of the first pixel.
        landmarks = tuple((row[at] + 0.5, row[at + 1] + 0.5) for at in range(4, 14, 2))
        faces.append(Face((row[0] + 0.5, row[1] + 0.5, row[2], row[3]), landmarks, row[14]))
    return faces


def _make_detector() -> Any:
    """Return a detector for this thread: it keeps the size of its input."""
    require_face_detector()
    with _importing:  # a second thread would be given half of it
        cv2 = import_module("cv2")
    network = resources.files("ddim_edit.assets") / "faces" / "yunet_n_640_640.onnx"
    # Version 5 warns, at every start, of settings that nobody made; version 4.10 has no such setting.
    if hasattr(cv2.utils, "logging"):
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    return cv2.FaceDetectorYN.create(str(network), "", (320, 320), CONFIDENT, OVERLAP, MOST_FACES)
