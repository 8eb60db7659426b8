"""How far apart two pictures of a face are for a face-recognition network that no part of the package knows.

    pip install dlib-bin face_recognition_models "setuptools<81"

dlib's ResNet gives 128 numbers for a face; pictures of one person are mostly less than 0.6 apart. It was trained on
photographs of 150x150 pixels, so pictures of 64x64 are enlarged first, and the five landmarks of an edited picture are
those of its source: a landmark that moves with the edit would count as a change of the person.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

ENLARGED = 256
FACE = (28, 28, 228, 228)
"""Left, top, right and bottom of the face in an enlarged picture, as the pictures of UTKFace are cropped."""


class IdentityJudge:
    """Embeds pictures of faces, and compares them with a first set of pictures.

    Args:
        sources: pictures [B, 3, 64, 64] in [-1, 1] to compare with.
    """

    def __init__(self, sources: Tensor) -> None:
        import dlib
        import face_recognition_models

        self._network = dlib.face_recognition_model_v1(face_recognition_models.face_recognition_model_location())
        landmarks = dlib.shape_predictor(face_recognition_models.pose_predictor_five_point_model_location())
        self._shapes = [landmarks(picture, dlib.rectangle(*FACE)) for picture in _enlarged(sources)]
        self._sources = self._embed(sources)

    def distances(self, pictures: Tensor) -> Tensor:
        """Return the Euclidean distance [B] of each picture's embedding from that of its source."""
        distances: Tensor = torch.linalg.vector_norm(self._embed(pictures) - self._sources, dim=1)
        return distances

    def _embed(self, pictures: Tensor) -> Tensor:
        rows = []
        for picture, shape in zip(_enlarged(pictures), self._shapes, strict=True):
            rows.append(np.array(self._network.compute_face_descriptor(picture, shape)))
        return torch.from_numpy(np.stack(rows))


def _enlarged(pictures: Tensor) -> list[Any]:
    """Return pictures [B, 3, H, W] in [-1, 1] as arrays [256, 256, 3] of uint8."""
    large = F.interpolate(pictures.float().clamp(-1, 1), size=(ENLARGED, ENLARGED), mode="bicubic").clamp(-1, 1)
    return list(((large + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy())
