from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves a Pillow image or an array under a name and returns the path."""

    def saved(content: Image.Image | np.ndarray, name: str = "image.png", **options: Any) -> Path:
        image = content if isinstance(content, Image.Image) else Image.fromarray(content)
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return saved


@pytest.fixture
def coordinates() -> Callable[[int, int], np.ndarray]:
    """An image [H, W, 3] whose pixel at (x, y) is (x, y, 7), so that every pixel tells its place."""

    def image(width: int, height: int) -> np.ndarray:
        y, x = np.mgrid[:height, :width]
        return np.stack([x, y, np.full_like(x, 7)], axis=-1).astype(np.uint8)

    return image
