"""Videos, decoded again by PyAV alone."""

import sys
from fractions import Fraction
from importlib import resources
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from ddim_edit.errors import ImageError, MissingExtraError
from ddim_edit.images import enlarge, read, read_recipe, write_animation

RECIPE = {"seed": [1, 2], "model": "faces64", "é": {"t": 0.1}, "a": None, "long": ["x" * 1000] * 100}
NAMES = ["a.mp4", "a.webm"]


@pytest.fixture(scope="module")
def frames() -> Tensor:
    """Faces that blend into each other, uint8 [6, 3, 128, 128]."""
    folder = resources.files("ddim_edit.assets") / "images"
    a, b = (read(str(folder / f"seed-00{number}.png"), 64).pixels.float() for number in (14, 18))
    return enlarge(torch.stack([torch.lerp(a, b, i / 5).round().to(torch.uint8) for i in range(6)]), 2)


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as video:
        # PyAV before 17 converts by BT.709, which the file is tagged with, only if it is given two colour spaces.
        spaces = {"src_colorspace": "itu709", "dst_colorspace": "itu601"}
        return np.stack([frame.to_ndarray(format="rgb24", **spaces) for frame in video.decode(video=0)])


def psnr(a: np.ndarray, b: Tensor) -> float:
    return float(10 * np.log10(255**2 / np.square(a - b.permute(0, 2, 3, 1).numpy().astype(float)).mean()))


@pytest.mark.parametrize("name", NAMES)
def test_frames_are_close(tmp_path: Path, frames: Tensor, name: str) -> None:
    assert write_animation(tmp_path / name, frames, 12) == ()
    assert psnr(decoded(tmp_path / name), frames) > 40
    # Grey frames are closer: most of the error is due to colours at half the resolution.
    grey = frames[:, :1].expand(-1, 3, -1, -1)
    write_animation(tmp_path / name, grey, 12)
    assert psnr(decoded(tmp_path / name), grey) > 42


@pytest.mark.parametrize("name", NAMES)
def test_flat_colours_are_kept(tmp_path: Path, name: str) -> None:
    """Within the rounding of 8-bit luma and chroma: matrix and range are those that the file names."""
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (255, 255, 255), (0, 0, 0), (200, 150, 120)):
        flat = torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 32, 32)
        write_animation(tmp_path / name, flat, 12)
        assert abs(decoded(tmp_path / name) - np.array(colour)).max() <= 3
    with av.open(str(tmp_path / name)) as video:
        context = video.streams.video[0].codec_context
        assert (context.color_range, context.colorspace) == (1, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fps", [1, 2.5, 30])
def test_frame_times(tmp_path: Path, frames: Tensor, name: str, fps: float) -> None:
    write_animation(tmp_path / name, frames[..., :32, :32], fps)
    with av.open(str(tmp_path / name)) as video:
        assert video.streams.video[0].average_rate == Fraction(fps)
        times = [frame.time for frame in video.decode(video=0)]
    assert times == pytest.approx([i / fps for i in range(len(frames))], abs=0.00051)


@pytest.mark.parametrize("name", NAMES)
def test_recipe(tmp_path: Path, frames: Tensor, name: str) -> None:
    write_animation(tmp_path / name, frames[..., :16, :16], 12, RECIPE)
    assert read_recipe(tmp_path / name) == RECIPE
    told = decoded(tmp_path / name)
    write_animation(tmp_path / name, frames[..., :16, :16], 12)
    assert np.array_equal(decoded(tmp_path / name), told)
    content = (tmp_path / name).read_bytes()
    assert b"ddim" not in content
    assert b"comment" not in content.lower()
    assert read_recipe(tmp_path / name) is None


@pytest.mark.parametrize("name", NAMES)
def test_files_are_reproducible(tmp_path: Path, frames: Tensor, name: str) -> None:
    for folder in ("one", "two"):
        write_animation(tmp_path / folder / name, frames[..., :16, :16], 12, RECIPE)
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_odd_sides_are_padded(tmp_path: Path, frames: Tensor, name: str) -> None:
    odd = frames[..., :33, :47]
    notes = write_animation(tmp_path / name, odd, 12)
    assert notes == ("padded from 47x33 to 48x34 with edge pixels, for the video",)
    shown = decoded(tmp_path / name)
    assert shown.shape[1:] == (34, 48, 3)
    assert psnr(shown[:, :33, :47], odd) > 38


@pytest.mark.parametrize("name", NAMES)
def test_truncated_videos_and_videos_as_images(tmp_path: Path, frames: Tensor, name: str) -> None:
    write_animation(tmp_path / name, frames[..., :16, :16], 12, RECIPE)
    whole = (tmp_path / name).read_bytes()
    for length in (5, 12, 40, 200):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(ImageError, match=r"truncated or damaged|there is no video in it|this is not a PNG"):
            read_recipe(tmp_path / name)
    (tmp_path / name).write_bytes(whole)
    with pytest.raises(ImageError, match="this is not a PNG"):
        read(tmp_path / name, 16)


def test_playlists_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(ImageError, match="this is not a PNG"):
        read_recipe(tmp_path / "a.mp4")


def test_missing_pyav(tmp_path: Path, frames: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    write_animation(tmp_path / "there.mp4", frames[..., :16, :16], 12)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"ddim-edit\[video\]"):
        write_animation(tmp_path / "a.mp4", frames, 12)
    with pytest.raises(MissingExtraError, match=r"ddim-edit\[video\]"):
        read_recipe(tmp_path / "there.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["there.mp4"]
