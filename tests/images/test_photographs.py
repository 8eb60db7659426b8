"""Changes put in photographs: what does not change keeps every bit, whatever form the photograph has."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from ddim_edit.errors import ArgumentError, ImageError
from ddim_edit.images import Box, CentreSquare, Photograph, photograph_suffix, read, read_recipe
from ddim_edit.images.compositing import FrameChange, face_mask, region_mask

from .. import tiny
from .profiles import linear_rgb

SIZE = 16
FRAME = Box(20, 10, 64)


@pytest.fixture
def photograph(save):
    return save(tiny.pixels(0, 96, 120), "photo.png")


def brighter(frame, levels: float = 20) -> torch.Tensor:
    """The frame with its middle changed."""
    change = torch.zeros(3, SIZE, SIZE)
    change[:, 6:10, 6:10] = levels / 127.5
    return frame.tensor + change


def test_only_the_frame_changes(photograph: Path) -> None:
    frame = read(photograph, SIZE, FRAME)
    before = np.asarray(Photograph.open(photograph).to_pil()).astype(int)
    after = np.asarray(Photograph.open(photograph).paste(frame, brighter(frame)).to_pil()).astype(int)
    outside = np.ones((96, 120), bool)
    outside[10:74, 20:84] = False
    assert np.array_equal(before[outside], after[outside])
    # Four pixels of the photograph for one of the frame: the middle moves by all of the change.
    difference = (after - before)[40:44, 50:54]
    assert abs(difference[before[40:44, 50:54] < 230] - 20).max() <= 3


def test_no_change_returns_the_pixels(photograph: Path) -> None:
    frame = read(photograph, SIZE, FRAME)
    opened = Photograph.open(photograph)
    assert opened.paste(frame, frame.tensor) is opened
    noise = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 0.5 / 127.5
    assert np.array_equal(np.asarray(opened.paste(frame, frame.tensor + noise).to_pil()), np.asarray(opened.to_pil()))


def test_a_change_of_light_leaves_no_edge(save) -> None:
    path = save(np.full((240, 240, 3), 120, np.uint8))
    frame = read(path, SIZE, Box(88, 88, 64))
    lit = (frame.tensor + 1) * 1.3 - 1
    after = np.asarray(Photograph.open(path).paste(frame, lit).to_pil()).astype(int)[..., 0]
    assert after[120, 120] > 145
    assert abs(np.diff(after, axis=0)).max() <= 2
    assert abs(np.diff(after, axis=1)).max() <= 2


def test_mask_of_a_face_is_nothing_at_the_border() -> None:
    mask = face_mask((64, 64))
    assert mask[32, 32] == 1
    assert mask[[0, 1, -1], :].max() == 0
    assert mask[:, [0, 1, -1]].max() == 0
    assert mask.diff(dim=0).abs().max() < 0.25


def test_mask_fades_only_inside_the_photograph(photograph: Path) -> None:
    whole = read(photograph, SIZE)  # the centre square, as high as the photograph
    mask = region_mask((SIZE, SIZE), whole.alignment, (120, 96))
    assert mask[:, 8].min() == 1
    assert mask[8, 0] == mask[8, -1] == 0
    square = CentreSquare().place(96, 96, (SIZE, SIZE)).alignment((SIZE, SIZE))
    assert region_mask((SIZE, SIZE), square, (96, 96)).min() == 1


def test_light_and_detail_add_up() -> None:
    before = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    after = (before + 1) * 1.2 - 1
    change = FrameChange.between(before, after, torch.ones(64, 64, dtype=torch.float64), noise=0)
    old, new = ((x + 1) * 127.5 + 12 for x in (before, after))
    assert change.is_lit
    assert torch.allclose(old * change.gain[:, None, None] + change.detail, new)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "I;16", "P", "1"])
def test_modes_are_kept(save, mode: str) -> None:
    pixels = tiny.pixels(0, 96, 120)
    if mode == "I;16":
        image = Image.fromarray((pixels[..., 0] * 256.7).astype(np.uint16))
    elif mode in ("LA", "RGBA"):
        image = Image.fromarray(pixels).convert(mode)
        image.putalpha(Image.fromarray(pixels[..., 1]))
    else:
        image = Image.fromarray(pixels).convert(mode)
    path = save(image)
    frame = read(path, SIZE, FRAME)
    opened = Photograph.open(path)
    pasted = opened.paste(frame, brighter(frame, 60))
    before, after = np.asarray(opened.to_pil()), np.asarray(pasted.to_pil())
    assert before.dtype == after.dtype
    changed = before != after
    assert changed[40:44, 50:54].any()
    assert not changed[:10].any()
    if mode in ("LA", "RGBA"):
        assert not changed[..., -1].any()
    pasted.save(path.with_name("out.png"))
    assert np.array_equal(np.asarray(Photograph.open(path.with_name("out.png")).to_pil()), after)


def test_colours_of_another_space_change_as_they_are_shown(save) -> None:
    pixels = (tiny.pixels(0, 96, 120) // 2 + 60).astype(np.uint8)
    path = save(Image.fromarray(pixels), icc_profile=linear_rgb())
    frame = read(path, SIZE, FRAME)
    opened = Photograph.open(path)
    pasted = opened.paste(frame, brighter(frame))
    own, new = np.asarray(opened.to_pil()).astype(int), np.asarray(pasted.to_pil()).astype(int)
    assert np.array_equal(own[:10], new[:10])
    assert np.array_equal(own, pixels)
    pasted.save(path.with_name("out.png"))
    with Image.open(path.with_name("out.png")) as written:
        assert written.info["icc_profile"] == linear_rgb()
    shown = [read(name, 96, Box(0, 0, 96)).pixels.int() for name in (path, path.with_name("out.png"))]
    difference = (shown[1] - shown[0])[:, 40:44, 50:54]
    assert abs(difference.float().mean() - 20) < 1.5


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_files_keep_profile_exif_and_recipe(save, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = save(Image.fromarray(tiny.pixels(0, 96, 120)), f"photo{suffix}", exif=exif, icc_profile=profile)
    opened = Photograph.open(path)
    assert opened.image.size == (96, 120)
    out = path.with_name(f"out{suffix}")
    assert opened.save(out, {"kind": "a"}) == ()
    assert read_recipe(out) == {"kind": "a"}
    with Image.open(out) as written:
        assert written.info["icc_profile"] == profile
        assert written.getexif().get(0x010F) == "a camera"
        assert 0x0112 not in written.getexif()
        if suffix != ".jpg":
            assert np.array_equal(np.asarray(written.convert("RGB")), np.asarray(opened.to_pil()))
    opened.save(out, metadata=False)
    with Image.open(out) as written:
        assert 0x010F not in written.getexif()


def test_what_a_format_cannot_keep_is_said(save) -> None:
    image = Image.fromarray(tiny.pixels(0, 96, 120)).convert("RGBA")
    image.putalpha(Image.new("L", image.size, 100))
    opened = Photograph.open(save(image))
    assert opened.save(save(image).with_name("out.jpg")) == ("JPEG cannot keep transparency",)
    with pytest.raises(ImageError, match=r"photographs are written as \.png"):
        opened.save("out.bmp")


def test_a_frame_of_another_photograph(photograph: Path, save) -> None:
    frame = read(save(tiny.pixels(1, 50, 50), "other.png"), SIZE)
    with pytest.raises(ArgumentError, match="50x50 pixels, and the photograph has 120x96"):
        Photograph.open(photograph).paste(frame, frame.tensor)


def test_suffixes_of_edited_photographs() -> None:
    names = ["a.jpg", "a.JPEG", "a.png", "a.webp", "a.tif", "a.bmp", "a"]
    assert [photograph_suffix(name) for name in names] == [".jpg", ".jpg", ".png", ".webp", ".png", ".png", ".png"]


def test_the_portrait_is_returned_bit_by_bit() -> None:
    path = Path(str(resources.files("ddim_edit.assets"))) / "images" / "astronaut.png"
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(Photograph.open(path).to_pil()), np.asarray(image.convert("RGB")))
