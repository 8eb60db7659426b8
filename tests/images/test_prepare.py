import hashlib
from pathlib import Path

import pytest
import torch

from ddim_edit.errors import ArgumentError, ImageError, InputWarning
from ddim_edit.images import Box, CentreSquare, Crop, Fit, InputImage, read, to_float
from ddim_edit.images.prepare import READ_AHEAD, Images, PreparedImage, prepare_images, read_all

from .. import tiny

SIZE = (8, 12)


def prepared(images: Images, size: tuple[int, int], crop: Crop) -> list[PreparedImage]:
    return list(prepare_images(images, size, crop))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [tiny.save_picture(tmp_path / f"{seed}.png", seed, *SIZE) for seed in range(3)]


def assert_same(found: list[PreparedImage], wanted: list[PreparedImage]) -> None:
    assert [source.origin for source in found] == [source.origin for source in wanted]
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a.pixels, b.pixels)


def test_file_is_prepared_with_its_hash(files: list[Path]) -> None:
    (source,) = prepared(files[1], SIZE, CentreSquare())
    assert source.pixels.dtype == torch.float64
    assert torch.equal(source.pixels, to_float(torch.from_numpy(tiny.pixels(1, *SIZE)).permute(2, 0, 1)).double())
    assert source.origin["source"] == hashlib.sha256(files[1].read_bytes()).hexdigest()
    assert source.origin["preprocessing"] == read(files[1], SIZE).preprocessing


def test_files_folders_and_input_images_are_equivalent(files: list[Path]) -> None:
    wanted = prepared(files, SIZE, CentreSquare())
    images = [read(path, SIZE) for path in files]
    for given in (str(files[0].parent), files[0].parent, [files[0].parent], [str(path) for path in files], images):
        assert_same(prepared(given, SIZE, CentreSquare()), wanted)
    assert_same(prepared(images[1], SIZE, CentreSquare()), wanted[1:2])
    assert_same(prepared([images[2], str(files[0]), files[1]], SIZE, CentreSquare()), [wanted[i] for i in (2, 0, 1)])
    assert_same(prepared((path for path in files), SIZE, CentreSquare()), wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize("crop", [CentreSquare(), Box(1, 2, 9), Fit()], ids=str)
def test_crop_applies_to_files_only(tmp_path: Path, crop: CentreSquare | Box | Fit) -> None:
    path = tiny.save_picture(tmp_path / "large.png", 0, 21, 33)
    (source,) = prepared(path, SIZE, crop)
    assert torch.equal(source.pixels, read(path, SIZE, crop).tensor.double())
    image = read(path, SIZE)
    assert torch.equal(prepared(image, SIZE, crop)[0].pixels, image.tensor.double())


def test_tensors_are_identified_by_content() -> None:
    x = 2 * torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0)) - 1
    one, two = prepared(x, SIZE, CentreSquare())
    assert one.origin["source"] != two.origin["source"]
    assert torch.equal(torch.stack([one.pixels, two.pixels]), x.double())
    assert_same(prepared(x[0], SIZE, CentreSquare()), [one])
    assert_same(prepared(x.double(), SIZE, CentreSquare()), [one, two])
    assert_same(prepared(x.mT.contiguous().mT, SIZE, CentreSquare()), [one, two])
    assert_same(prepared(x.clone().requires_grad_(), SIZE, CentreSquare()), [one, two])


@pytest.mark.parametrize("shape", [(3, 12, 8), (1, 3, 8, 11), (8, 12), (2, 1, 8, 12), (1, 2, 3, 8, 12), ()], ids=str)
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"must have shape \[3, 8, 12\], not \["):
        prepared(torch.zeros(shape), SIZE, CentreSquare())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_integer_tensor(dtype: torch.dtype) -> None:
    with pytest.raises(ArgumentError, match="must be floats in"):
        prepared(torch.zeros(3, *SIZE, dtype=dtype), SIZE, CentreSquare())


def test_bad_files_raise(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for bad in (tmp_path / "missing.png", tmp_path / "empty"):
        with pytest.raises(ImageError, match=bad.name):
            prepared([files[0], bad], SIZE, CentreSquare())


def test_origin_holds_no_file_name(files: list[Path], tmp_path: Path) -> None:
    assert str(tmp_path) not in str(prepared(files, SIZE, CentreSquare())[0].origin)
    assert files[0].stem + ".png" not in str(prepared(files, SIZE, CentreSquare())[0].origin)


def test_files_are_read_a_few_ahead(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Path] = []

    def noting(path: Path, size: tuple[int, int], crop: Crop) -> InputImage:
        begun.append(path)
        return read(path, size, crop)

    monkeypatch.setattr("ddim_edit.images.prepare.read", noting)
    stream = prepare_images(files * 20, SIZE, CentreSquare())
    assert not begun
    for taken in range(1, 21):
        next(stream)
        assert len(begun) <= taken + READ_AHEAD


def test_missing_file_raises_before_any_is_read(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="missing"):
        prepare_images([*files, tmp_path / "missing.png"], SIZE, CentreSquare())


def test_unreadable_files_are_reported_in_order(files: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("not an image")
    failed: list[tuple[Path, str]] = []
    found = list(
        read_all([files[0], bad, files[1]], SIZE, on_error=lambda file, error: failed.append((file, str(error))))
    )
    assert [(file, image is None) for file, image in found] == [(files[0], False), (bad, True), (files[1], False)]
    assert [file for file, _ in failed] == [bad]
    assert failed[0][1].startswith(f"{bad}: this is not a PNG")
    with pytest.raises(ImageError, match="this is not a PNG"):
        list(read_all([files[0], bad], SIZE))


def test_read_all_draws_from_a_generator_lazily(files: list[Path]) -> None:
    drawn: list[Path] = []

    def endless():
        while True:
            drawn.append(files[0])
            yield files[0]

    stream = read_all(endless(), SIZE, Box(0, 0, 4), ahead=2)
    assert drawn == []
    assert torch.equal(next(stream)[1].pixels, read(files[0], SIZE, Box(0, 0, 4)).pixels)
    assert len(drawn) == 3


@pytest.mark.parametrize("side", [1, 3])
def test_images_far_smaller_than_the_network_are_warned_of(tmp_path: Path, side: int) -> None:
    path = tiny.save_picture(tmp_path / "small.png", 0, side, side)
    with pytest.warns(InputWarning, match=rf"small\.png: an image of {side}x{side} pixels was enlarged .* times for a"):
        prepared(path, (64, 64), CentreSquare())


def test_images_of_an_eighth_are_not_warned_of(tmp_path: Path) -> None:
    path = tiny.save_picture(tmp_path / "small.png", 0, 8, 8)
    assert read(path, 64).enlargement == 8
    assert read(path, 64).caution is None
    assert read(path, 4).enlargement == 0.5
    assert read(path, 64, Box(0, 0, 2)).caution is not None
