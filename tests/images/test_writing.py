import io
import json
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest
import torch
from PIL import Image

from ddim_edit.errors import ArgumentError, ImageError
from ddim_edit.images import (
    STILL_FORMATS,
    StillFormat,
    find_still_format,
    read,
    read_recipe,
    still_suffixes,
    write,
    write_animation,
)
from ddim_edit.images.recipe import text_to_exif

PIXELS = torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SMOOTH = torch.stack([torch.arange(0, 256, 4, dtype=torch.uint8).expand(64, 64)] * 3)
FRAMES = torch.stack([SMOOTH.roll(shift, -1) for shift in (0, 5, 9, 20, 33)])
RECIPE = {"seed": [1, 2], "model": "faces64", "é": {"t": 0.1}, "a": None}


def opened(path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def decoded(path) -> list[np.ndarray]:
    image = opened(path)
    frames = []
    for index in range(getattr(image, "n_frames", 1)):
        image.seek(index)
        frames.append(np.asarray(image.convert("RGB")).astype(int))
    return frames


def as_array(pixels: torch.Tensor) -> np.ndarray:
    return pixels.permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("name", [f"a{suffix}" for suffix in STILL_FORMATS] + ["A.PNG"])
def test_pixels_of_stills(tmp_path, name) -> None:
    write(tmp_path / name, SMOOTH, RECIPE)
    error = abs(as_array(read(tmp_path / name, 64).pixels) - as_array(SMOOTH))
    assert error.max() <= (0 if find_still_format(name).lossless else 3)


@pytest.mark.parametrize("name", [f"a{suffix}" for suffix in STILL_FORMATS])
def test_recipe_of_stills(tmp_path, name) -> None:
    write(tmp_path / name, PIXELS, RECIPE)
    assert read_recipe(tmp_path / name) == RECIPE
    told = decoded(tmp_path / name)
    write(tmp_path / name, PIXELS)
    assert np.array_equal(decoded(tmp_path / name), told)
    assert read_recipe(tmp_path / name) is None
    assert read(tmp_path / name, (24, 32)).notes == ()


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_recipe_of_animations(tmp_path, name) -> None:
    write_animation(tmp_path / name, FRAMES, 10, RECIPE)
    assert read_recipe(tmp_path / name) == RECIPE
    told = decoded(tmp_path / name)
    write_animation(tmp_path / name, FRAMES, 10)
    assert np.array_equal(decoded(tmp_path / name), told)
    assert read_recipe(tmp_path / name) is None


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg"])
def test_files_are_reproducible(tmp_path, name) -> None:
    write(tmp_path / name, PIXELS, RECIPE)
    first = (tmp_path / name).read_bytes()
    write(tmp_path / name, PIXELS, dict(reversed(RECIPE.items())))
    assert (tmp_path / name).read_bytes() == first
    assert json.dumps(RECIPE, sort_keys=True).encode() in first


@pytest.mark.parametrize("text", ["[1]", "not json"])
def test_foreign_text_is_no_recipe(tmp_path, text) -> None:
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_text("ddim-edit", text)
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png", pnginfo=chunks)
    assert read_recipe(tmp_path / "a.png") is None


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_frames_of_few_colours_are_lossless(tmp_path, name) -> None:
    write_animation(tmp_path / name, FRAMES, 10)
    frames = decoded(tmp_path / name)
    assert len(frames) == len(FRAMES)
    assert all(np.array_equal(frame, as_array(pixels)) for frame, pixels in zip(frames, FRAMES, strict=True))


def test_gif_of_a_face_is_close(tmp_path) -> None:
    pixels = read(str(resources.files("ddim_edit.assets") / "images" / "seed-0014.png"), 64).pixels
    write_animation(tmp_path / "a.gif", pixels[None], 10)
    error = abs(decoded(tmp_path / "a.gif")[0] - as_array(pixels))
    assert np.square(error).mean() < 255**2 / 1e4
    assert error.max() <= 12


@pytest.fixture(scope="module")
def moving_square() -> torch.Tensor:
    """Frames [6, 3, 64, 64] of a face over which a square of noise moves."""
    face = read(str(resources.files("ddim_edit.assets") / "images" / "seed-0014.png"), 64).pixels
    frames = face.repeat(6, 1, 1, 1)
    noise = torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for index in range(6):
        frames[index, :, 8 * index : 8 * index + 16, 20:36] = noise[index]
    return frames


def test_what_stands_still_does_not_flicker_in_a_gif(tmp_path, moving_square) -> None:
    write_animation(tmp_path / "a.gif", moving_square, 10)
    frames = np.stack(decoded(tmp_path / "a.gif")).astype(int)
    wanted = np.stack([as_array(frame) for frame in moving_square]).astype(int)
    still = (wanted[1:] == wanted[:-1]).all(axis=-1)
    assert still.mean() > 0.8
    assert np.array_equal(frames[1:][still], frames[:-1][still])
    assert np.square(frames - wanted).mean() < 255**2 / 10**3.5  # 35 dB, with noise in it


def test_a_gif_may_stand_still_and_go_on(tmp_path, moving_square) -> None:
    order = [0, 0, 0, 1, 1, 2, 0]
    write_animation(tmp_path / "a.gif", moving_square[order], 10)
    image = opened(tmp_path / "a.gif")
    shown = []
    for index in range(image.n_frames):
        image.seek(index)
        image.load()
        shown += [np.asarray(image.convert("RGB"))] * round(image.info["duration"] / 100)
    assert len(shown) == len(order)
    for frame, index in zip(shown, order, strict=True):
        assert np.square(frame.astype(int) - as_array(moving_square[index])).mean() < 255**2 / 10**3


@pytest.mark.parametrize("fps", [0.5, 24, 30])
@pytest.mark.parametrize(("name", "tick"), [("a.gif", 10), ("a.webp", 1)])
def test_frame_times(tmp_path, name, tick, fps) -> None:
    write_animation(tmp_path / name, FRAMES, fps)
    image = opened(tmp_path / name)
    end = 0.0
    for index in range(len(FRAMES)):
        image.seek(index)
        image.load()
        end += image.info["duration"]
        assert abs(end - 1000 * (index + 1) / fps) <= tick / 2


@pytest.mark.parametrize(("name", "once"), [("a.gif", None), ("a.webp", 1)])
def test_loop(tmp_path, name, once) -> None:
    write_animation(tmp_path / name, FRAMES, 10)
    assert opened(tmp_path / name).info["loop"] == 0
    write_animation(tmp_path / name, FRAMES, 10, loop=False)
    assert opened(tmp_path / name).info.get("loop") == once


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_single_frame(tmp_path, name) -> None:
    write_animation(tmp_path / name, FRAMES[:1], 10)
    assert np.array_equal(decoded(tmp_path / name)[0], as_array(FRAMES[0]))


@pytest.mark.parametrize("fps", [0, 51, float("nan")])
def test_impossible_rates(tmp_path, fps) -> None:
    with pytest.raises(ArgumentError, match="fps must be above 0 and at most 50"):
        write_animation(tmp_path / "a.gif", FRAMES, fps)


@pytest.mark.parametrize("frames", [FRAMES[:0], FRAMES[0]])
def test_impossible_frames(tmp_path, frames) -> None:
    with pytest.raises(ArgumentError, match=r"frames must have shape \[N, 3, H, W\]"):
        write_animation(tmp_path / "a.gif", frames, 10)


@pytest.mark.parametrize("pixels", [PIXELS.float(), PIXELS[None], PIXELS[:1], PIXELS[:, :0]])
def test_impossible_pixels(tmp_path, pixels) -> None:
    with pytest.raises(ArgumentError, match=r"must be uint8 \[3, H, W\]"):
        write(tmp_path / "a.png", pixels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.bmp", "a", "a.gif"])
def test_unknown_suffixes_of_stills(tmp_path, name) -> None:
    with pytest.raises(ImageError, match=r"are written as \.png, \.webp, \.jpg or \.jpeg\."):
        write(tmp_path / name, PIXELS)


@pytest.mark.parametrize("name", ["a.png", "a.avi"])
def test_unknown_suffixes_of_animations(tmp_path, name) -> None:
    with pytest.raises(ImageError, match=r"are written as \.webp, \.gif, \.mp4 or \.webm\."):
        write_animation(tmp_path / name, FRAMES, 10)


def test_missing_folders_are_created(tmp_path) -> None:
    write(tmp_path / "new" / "deeper" / "a.png", PIXELS)
    assert [path.name for path in (tmp_path / "new" / "deeper").iterdir()] == ["a.png"]


def test_files_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="Choose another place"):
        write(tmp_path / "file" / "a.png", PIXELS)
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ImageError, match="Choose another place"):
        write(tmp_path / "a.png", PIXELS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "file"]


def test_recipe_too_large_for_the_format(tmp_path) -> None:
    with pytest.raises(ImageError, match=r"a\.jpg: cannot write: .* Choose another place or format\."):
        write(tmp_path / "a.jpg", PIXELS, {"long": "x" * 70_000})
    assert not list(tmp_path.iterdir())


def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch) -> None:
    write(tmp_path / "a.png", PIXELS, RECIPE)

    def fill(self, path, *_, **__):
        path.write_bytes(b"half a pic")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fill)
    with pytest.raises(ImageError, match="cannot write: No space left on device"):
        write(tmp_path / "a.png", PIXELS)
    with pytest.raises(ImageError, match="cannot write: No space left on device"):
        write_animation(tmp_path / "b.gif", FRAMES, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert read_recipe(tmp_path / "a.png") == RECIPE


def test_formats_are_listed_without_torch_or_pillow() -> None:
    code = (
        "import sys; from ddim_edit.images import animation_suffixes, still_suffixes; "
        "assert still_suffixes() and animation_suffixes(); "
        "assert not {'torch', 'PIL', 'av'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_new_format_is_one_entry(tmp_path, monkeypatch) -> None:
    def save_tiff(image, path, text) -> None:
        image.save(path, "TIFF", exif=text_to_exif(text))

    monkeypatch.setitem(STILL_FORMATS, ".tif", StillFormat("TIFF", (".tif",), "lossless", True, save_tiff))
    assert ".tif" in still_suffixes()
    write(tmp_path / "a.tif", PIXELS, RECIPE)
    assert torch.equal(read(tmp_path / "a.tif", (24, 32)).pixels, PIXELS)
    assert read_recipe(tmp_path / "a.tif") == RECIPE
