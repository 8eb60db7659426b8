"""What files say about their colours without an ICC profile, against colour arithmetic in float64."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from ddim_edit.images import read
from ddim_edit.images.plugins import register_plugins

from .profiles import linear_grey, linear_rgb
from .test_colour_profiles import LEVELS, array, srgb_transfer

RAMP = np.linspace(0, 255, 16).round().astype(np.uint8)
COLOURS = np.stack(np.meshgrid(RAMP, RAMP[::3], RAMP[::3], indexing="ij"), axis=-1).reshape(24, 24, 3)
"""576 colours; some are outside sRGB."""

D65 = (0.3127, 0.3290)
BT709 = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
P3 = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
BT2020 = ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046))
WIDE = ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001))


def srgb_light(v: np.ndarray) -> np.ndarray:
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def bt709_light(v: np.ndarray) -> np.ndarray:
    return np.where(v < 0.0812428, v / 4.5, ((v + 0.0992968) / 1.0992968) ** (1 / 0.45))


def pq_light(v: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084 in the form of BT.2100, 203 cd/m2 as white."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    root = v ** (1 / m2)
    return 10_000 / 203 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def hlg_light(v: np.ndarray) -> np.ndarray:
    """BT.2100: inverse OETF, system gamma 1.2 and 1000 cd/m2, 203 cd/m2 as white."""
    scene = np.where(v <= 0.5, v**2 / 3, (np.exp((v - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    return 1000 / 203 * scene**1.2


def to_xyz(primaries: tuple, white: tuple[float, float]) -> np.ndarray:
    """Lindbloom's matrix from linear RGB to XYZ."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    target = np.array([white[0] / white[1], 1, (1 - white[0] - white[1]) / white[1]])
    return columns * np.linalg.solve(columns, target)


def expected(levels: np.ndarray, light: Callable, primaries: tuple = BT709, white: tuple = D65) -> np.ndarray:
    """The sRGB levels of colours [..., 3] or grey [...] in another encoding, clipped at each end."""
    linear = np.clip(light(levels / 255.0), 0, 1)
    if levels.ndim == 3:
        bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
        old, new = (bradford @ to_xyz(BT709, point).sum(axis=1) for point in (white, D65))
        adaptation = np.linalg.inv(bradford) @ np.diag(new / old) @ bradford
        linear = linear @ (np.linalg.inv(to_xyz(BT709, D65)) @ adaptation @ to_xyz(primaries, white)).T
    else:
        linear = linear[..., None].repeat(3, axis=-1)
    return 255 * srgb_transfer(np.clip(linear, 0, 1))


def chromaticities(primaries: tuple, white: tuple[float, float] = D65) -> bytes:
    return struct.pack(">8I", *(round(100_000 * value) for point in (white, *primaries) for value in point))


def gamma(exponent: float) -> bytes:
    return struct.pack(">I", round(100_000 * exponent))


@pytest.fixture
def png(tmp_path: Path) -> Callable[..., Path]:
    """Saves levels as a PNG with chunks behind its header."""

    def saved(levels: np.ndarray, *chunks: tuple[bytes, bytes], **options) -> Path:
        path = tmp_path / "a.png"
        Image.fromarray(levels).save(path, **options)
        content = path.read_bytes()
        body = b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
        path.write_bytes(content[:33] + body + content[33:])
        return path

    return saved


def error(path: Path, wanted: np.ndarray) -> float:
    return np.abs(array(read(path, wanted.shape[:2])) - wanted).max()


@pytest.mark.parametrize("levels", [COLOURS, LEVELS], ids=["colour", "grey"])
@pytest.mark.parametrize(
    ("points", "light", "primaries", "white"),
    [
        ((12, 13, 0, 1), srgb_light, P3, D65),
        ((9, 14, 0, 1), bt709_light, BT2020, D65),
        ((1, 1, 0, 1), bt709_light, BT709, D65),
        ((1, 4, 0, 1), lambda v: v**2.2, BT709, D65),
        ((1, 8, 0, 1), lambda v: v, BT709, D65),
        ((11, 17, 0, 1), lambda v: 52.37 / 48 * v**2.6, P3, (0.314, 0.351)),
        ((9, 16, 0, 1), pq_light, BT2020, D65),
        ((9, 18, 0, 1), hlg_light, BT2020, D65),
        ((12, 2, 0, 1), srgb_light, P3, D65),
        ((12, 13, 0, 0), lambda v: srgb_light(np.clip((255 * v - 16) / 219, 0, 1)), P3, D65),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple) else None,
)
def test_code_points(png, levels, points, light, primaries, white) -> None:
    path = png(levels, (b"cICP", bytes(points)))
    assert error(path, expected(levels, light, primaries, white)) <= 1.5


def test_a_high_dynamic_range_is_said_to_be_clipped(png) -> None:
    image = read(png(COLOURS, (b"cICP", bytes([9, 16, 0, 1]))), 24)
    note = "colours converted from BT.2020 with PQ (cICP), 203 cd/m2 as white and brighter light clipped to sRGB"
    assert image.notes == (note,)


@pytest.mark.parametrize("levels", [COLOURS, LEVELS], ids=["colour", "grey"])
@pytest.mark.parametrize(
    ("chunks", "light", "primaries", "white"),
    [
        ([(b"gAMA", gamma(1))], lambda v: v, BT709, D65),
        ([(b"gAMA", gamma(1 / 2.2))], lambda v: v ** (1 / 0.45455), BT709, D65),
        ([(b"gAMA", gamma(1 / 1.8))], lambda v: v ** (1 / 0.55556), BT709, D65),
        ([(b"cHRM", chromaticities(P3))], srgb_light, P3, D65),
        ([(b"cHRM", chromaticities(WIDE, (0.3457, 0.3585))), (b"gAMA", gamma(1 / 2.2))],
         lambda v: v ** (1 / 0.45455), WIDE, (0.3457, 0.3585)),
    ],
    ids=lambda value: "+".join(name.decode() for name, _ in value) if isinstance(value, list) else "",
)  # fmt: skip
def test_chromaticities_and_gamma(png, levels, chunks, light, primaries, white) -> None:
    assert error(png(levels, *chunks), expected(levels, light, primaries, white)) <= 1.5


def test_the_chunks_of_a_png_in_their_order_of_precedence(png) -> None:
    weakest = (b"gAMA", gamma(0.3))
    linear = expected(COLOURS, lambda v: v)
    assert error(png(COLOURS, weakest, (b"sRGB", b"\0")), COLOURS) == 0
    assert error(png(COLOURS, weakest, icc_profile=linear_rgb()), linear) <= 1.5
    assert error(png(COLOURS, (b"cICP", bytes([1, 13, 0, 1])), icc_profile=linear_rgb()), COLOURS) == 0
    assert error(png(COLOURS, weakest, (b"cICP", bytes([1, 8, 0, 1]))), linear) <= 1.5


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"cICP", bytes([1, 200, 0, 1]))],
        [(b"cICP", bytes([12, 13, 1, 1]))],
        [(b"cICP", b"\1")],
        [(b"cHRM", bytes(32))],
        [(b"cHRM", b"\1" * 32)],
        [(b"cHRM", b"\xff" * 32)],
        [(b"cHRM", chromaticities(((0.3, 0.3), (0.4, 0.4), (0.5, 0.5))))],
        [(b"gAMA", bytes(4))],
    ],
)
def test_chunks_that_mean_nothing_are_ignored(png, chunks) -> None:
    assert error(png(COLOURS, *chunks), COLOURS) == 0


def test_after_an_unusable_profile_comes_the_next_chunk(png) -> None:
    path = png(COLOURS, (b"gAMA", gamma(1)), icc_profile=b"rubbish")
    assert error(path, expected(COLOURS, lambda v: v)) <= 1.5


def camera(index: str | None = "R03", space: int | None = 0xFFFF) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "a camera"  # Pillow passes over a block with nothing but subdirectories
    if space is not None:
        exif.get_ifd(0x8769)[0xA001] = space
    if index is not None:
        exif.get_ifd(0x8769)[0xA005] = {1: index}
    return exif.tobytes()


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_adobe_rgb_of_cameras(save, name) -> None:
    exif = camera(None, 2) if name == "a.tif" else camera()  # Pillow writes no interoperability index into TIFF
    flat = np.full((64, 64, 3), (60, 170, 90), np.uint8)  # so that no codec adds an error of its own
    plain, tagged = save(flat, name, quality=100), save(flat, f"tagged-{name}", quality=100, exif=exif)
    stored = array(read(plain, 64))
    assert error(tagged, expected(stored, lambda v: v ** (563 / 256), ADOBE)) <= 1.5
    assert "colours converted from Adobe RGB (EXIF) to sRGB" in read(tagged, 64).notes


@pytest.mark.parametrize(
    ("exif", "is_adobe"),
    [
        (camera("R03", None), True),
        (camera(None, 2), True),
        (camera("R98", 0xFFFF), False),
        (camera(None, 0xFFFF), False),
        (camera("R03", 1), False),
        (camera("R98", 1), False),
    ],
)
def test_which_exif_blocks_mean_adobe_rgb(save, exif, is_adobe) -> None:
    image = read(save(COLOURS, exif=exif), 24)
    assert np.array_equal(array(image), COLOURS) is not is_adobe


def test_a_profile_is_believed_before_exif(save) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert error(save(COLOURS, icc_profile=srgb, exif=camera()), COLOURS) == 0


@pytest.mark.parametrize("name", ["a.avif", "a.heic"])
def test_code_points_of_iso_media(save, name) -> None:
    if name == "a.heic":
        pytest.importorskip("pillow_heif", minversion="1.4")  # older ones write no code points
    register_plugins()
    flat = np.full((64, 64, 3), (60, 170, 90), np.uint8)
    path = save(flat, name, quality=100)
    stored = array(read(path, 64))
    content = path.read_bytes()
    assert content.count(b"colrnclx\0\1\0\r") == 1  # what Pillow and its plugin write for sRGB
    path.write_bytes(content.replace(b"colrnclx\0\1\0\r", b"colrnclx\0\x0c\0\r"))
    assert error(path, expected(stored, srgb_light, P3)) <= 1.5
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path.write_bytes(content.replace(b"colrnclx\0\1\0\r", b"colrnclx\0\2\0\2"))
    assert error(path, stored) == 0
    with_profile = save(flat, f"profile-{name}", quality=100, icc_profile=profile)
    assert error(with_profile, stored) == 0


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16", "LA"])
def test_every_mode_and_strips_of_large_images(png, mode, monkeypatch) -> None:
    ramp = np.arange(64, dtype=np.uint8)[:, None].repeat(64, axis=1) * 4
    shown = Image.fromarray(ramp) if mode != "I;16" else Image.fromarray(ramp.astype(np.uint16) * 257)
    levels = shown if mode == "I;16" else shown.convert(mode)
    path = png(np.asarray(ramp), (b"sRGB", b"\0"))
    levels.save(path, pnginfo=_with(b"gAMA", gamma(1)))
    wanted = expected(ramp, lambda v: v)
    assert error(path, wanted) <= 1.5
    monkeypatch.setattr("ddim_edit.images.opening.LARGE", 1000)
    monkeypatch.setattr("ddim_edit.images.opening.STRIP", 400)
    assert error(path, wanted) <= 1.5
    assert len(set(read(path, 64).notes)) == len(read(path, 64).notes)


def _with(name: bytes, data: bytes) -> PngInfo:
    chunks = PngInfo()
    chunks.add(name, data)
    return chunks


def test_strips_of_a_camera_tiff(save, monkeypatch) -> None:
    path = save(np.full((64, 64, 3), (60, 170, 90), np.uint8), "a.tif", exif=camera(None, 2))
    whole = array(read(path, 16))
    monkeypatch.setattr("ddim_edit.images.opening.LARGE", 1000)
    monkeypatch.setattr("ddim_edit.images.opening.STRIP", 400)
    assert np.array_equal(array(read(path, 16)), whole)
    assert tuple(whole[0, 0]) != (60, 170, 90)


def test_grey_profile_and_grey_gamma_agree(png) -> None:
    by_profile = array(read(png(LEVELS, icc_profile=linear_grey()), 16))
    assert np.abs(array(read(png(LEVELS, (b"gAMA", gamma(1))), 16)) - by_profile).max() <= 1
