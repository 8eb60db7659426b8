"""Faces of the astronaut's portrait: found, measured and aligned alike however the photograph was taken."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from ddim_edit.errors import ArgumentError, ImageError, MissingExtraError, ModelError
from ddim_edit.images import (
    AutoCrop,
    CentreSquare,
    FaceCrop,
    FaceTemplate,
    Similarity,
    default_crop,
    detect_faces,
    draw_faces,
    read,
    read_faces,
    read_recorded,
)

pytest.importorskip("cv2")

IMAGES = Path(str(resources.files("ddim_edit.assets"))) / "images"
PORTRAIT = IMAGES / "astronaut.png"
TEMPLATE = FaceTemplate.named("faces64")
SWAPPED = (1, 0, 2, 4, 3)


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    with Image.open(PORTRAIT) as image:
        return image.convert("RGB")


@pytest.fixture(scope="module")
def landmarks() -> np.ndarray:
    (face,) = detect_faces(PORTRAIT)
    return np.array(face.landmarks)


def side_of(landmarks: np.ndarray) -> float:
    """The side of the square that faces64 sees of a face: its size."""
    return 64 / TEMPLATE.align(landmarks.tolist(), (64, 64)).scale


@pytest.mark.parametrize("degrees", [-30, -12, 20, 30])
def test_landmarks_of_a_turned_photograph(save, portrait: Image.Image, landmarks: np.ndarray, degrees: float) -> None:
    turned = portrait.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))
    (face,) = detect_faces(save(turned))
    turn = np.exp(-1j * np.radians(degrees))
    middle = 256 + 256j
    expected = middle + ((landmarks @ [1, 1j]) - middle) * turn
    assert abs(np.array(face.landmarks) @ [1, 1j] - expected).max() < 0.03 * side_of(landmarks)


def test_landmarks_of_mirrored_dark_and_small_photographs(save, portrait: Image.Image, landmarks: np.ndarray) -> None:
    limit = 0.03 * side_of(landmarks)
    (mirrored,) = detect_faces(save(ImageOps.mirror(portrait)))
    found = np.array([mirrored.landmarks[index] for index in SWAPPED])
    assert np.hypot(512 - found[:, 0] - landmarks[:, 0], found[:, 1] - landmarks[:, 1]).max() < limit
    (dark,) = detect_faces(save(ImageEnhance.Brightness(portrait).enhance(0.35)))
    assert np.hypot(*(np.array(dark.landmarks) - landmarks).T).max() < limit
    (small,) = detect_faces(save(portrait.resize((256, 256), Image.Resampling.LANCZOS)))
    assert np.hypot(*(2 * np.array(small.landmarks) - landmarks).T).max() < limit


def test_faces_are_turned_upright_by_their_exif_tag(save, portrait: Image.Image, landmarks: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(portrait.transpose(Image.Transpose.ROTATE_90), "turned.jpg", exif=exif, quality=98)
    (face,) = detect_faces(path)
    assert np.hypot(*(np.array(face.landmarks) - landmarks).T).max() < 0.03 * side_of(landmarks)


def test_a_face_is_aligned_to_the_template(landmarks: np.ndarray) -> None:
    image = read(PORTRAIT, 64, FaceCrop(TEMPLATE))
    assert image.alignment == TEMPLATE.align(landmarks.tolist(), (64, 64))
    moved = np.array(image.alignment(landmarks.tolist()))
    # The residual of a similarity: faces differ in shape.
    assert np.hypot(*(moved - np.array(TEMPLATE.landmarks)).T).max() < 3
    assert image.preprocessing["crop"] == {"kind": "face", "template": "faces64"}
    assert Similarity.from_list(image.preprocessing["transform"]) == image.alignment
    assert image.face is not None
    assert image.notes[-1].startswith("face aligned, turned by -")


def test_a_turned_photograph_gives_the_same_frame(save, portrait: Image.Image) -> None:
    upright = read(PORTRAIT, 64, FaceCrop(TEMPLATE)).pixels.int()
    turned = read(save(portrait.rotate(25, Image.Resampling.BICUBIC)), 64, FaceCrop(TEMPLATE)).pixels.int()
    # Inside the face; one pixel of the frame is two of the photograph.
    assert (upright - turned)[:, 12:52, 12:52].abs().float().mean() < 10


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory, portrait: Image.Image) -> Path:
    """A large, a small and a middle face side by side."""
    picture = Image.new("RGB", (900, 420), (90, 110, 130))
    face = portrait.crop((90, 0, 360, 270))
    for left, side in ((10, 400), (440, 150), (640, 250)):
        picture.paste(face.resize((side, side), Image.Resampling.LANCZOS), (left, 100 if side < 400 else 10))
    path = tmp_path_factory.mktemp("group") / "group.png"
    picture.save(path)
    return path


def test_faces_are_numbered_from_the_largest(group: Path) -> None:
    faces = detect_faces(group)
    assert [round(face.landmarks[2][0], -2) for face in faces] == [200, 800, 500]
    assert "face 2 of 3" in read(group, 64, FaceCrop(TEMPLATE, 2)).notes[-1]
    images = read_faces(group, 64, TEMPLATE)
    assert [image.face for image in images] == faces
    with pytest.raises(ImageError, match="no face 4: 3 faces were found"):
        read(group, 64, FaceCrop(TEMPLATE, 4))
    assert list(draw_faces(group, faces).shape) == [3, 420, 900]


def test_large_photographs_are_decoded_small(tmp_path: Path, portrait: Image.Image, landmarks: np.ndarray) -> None:
    whole = portrait.resize((2600, 2600), Image.Resampling.BICUBIC)
    whole.save(tmp_path / "large.jpg", quality=95)
    image = read(tmp_path / "large.jpg", 64, FaceCrop(TEMPLATE))
    assert image.preprocessing["original_width"] == 2600
    found = np.array(image.preprocessing["landmarks"]) * 512 / 2600
    assert np.hypot(*(found - landmarks).T).max() < 0.03 * side_of(landmarks)
    assert (image.pixels.int() - read(PORTRAIT, 64, FaceCrop(TEMPLATE)).pixels.int()).abs().float().mean() < 4


def test_a_recorded_frame_is_read_again_without_a_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    image = read(PORTRAIT, 64, FaceCrop(TEMPLATE))
    monkeypatch.setattr("ddim_edit.images.reading.find_faces", None)
    again = read_recorded(PORTRAIT, 64, image.preprocessing)
    assert again.pixels.equal(image.pixels)
    assert (again.alignment, again.preprocessing) == (image.alignment, image.preprocessing)
    with pytest.raises(ImageError, match="another size"):
        read_recorded(IMAGES / "astronaut_face.png", 64, image.preprocessing)
    with pytest.raises(ArgumentError, match="does not say which part"):
        read_recorded(PORTRAIT, 64, {"crop": {"kind": "face"}})


def test_without_a_face(save, coordinates) -> None:
    path = save(coordinates(90, 70))
    image = read(path, 64, AutoCrop(TEMPLATE))
    centre = read(path, 64)
    assert image.pixels.equal(centre.pixels)
    assert image.preprocessing == centre.preprocessing
    assert image.face_missing
    assert "no face was found" in (image.caution or "")
    for crop in (FaceCrop(TEMPLATE), AutoCrop(TEMPLATE, face_required=True)):
        with pytest.raises(ImageError, match=r"image\.png: no face was found"):
            read(path, 64, crop)


def test_an_image_of_the_models_size_is_aligned_already() -> None:
    image = read(IMAGES / "seed-0028.png", 64, AutoCrop(TEMPLATE))
    assert image.notes == ()
    assert image.preprocessing == read(IMAGES / "seed-0028.png", 64).preprocessing
    assert image.pixels.equal(read(IMAGES / "seed-0028.png", 64).pixels)


def test_a_failing_detector_is_not_taken_for_a_damaged_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddim_edit.images.faces._detectors", __import__("threading").local())
    monkeypatch.setattr("cv2.FaceDetectorYN", None)  # as in builds of OpenCV without it
    with pytest.raises(ModelError, match=r"^The face detector fails with OpenCV .* \('NoneType' object"):
        read(PORTRAIT, 64, FaceCrop(TEMPLATE))


def test_neither_is_an_opencv_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr("ddim_edit.images.faces._detectors", __import__("threading").local())
    monkeypatch.setattr("ddim_edit.images.faces.import_module", fail)
    with pytest.raises(ModelError, match=r"^The face detector fails with OpenCV .* \(libGL\.so\.1: cannot open"):
        read(PORTRAIT, 64, FaceCrop(TEMPLATE))


def test_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_crop(TEMPLATE) == AutoCrop(TEMPLATE)
    assert default_crop(None) == CentreSquare()
    monkeypatch.setattr("ddim_edit.images.crop.can_find_faces", lambda: False)
    monkeypatch.setattr("ddim_edit.images.faces.can_find_faces", lambda: False)
    monkeypatch.setattr("ddim_edit.images.faces._detectors", __import__("threading").local())
    assert default_crop(TEMPLATE) == CentreSquare()
    with pytest.raises(MissingExtraError, match="Finding faces needs opencv-python-headless"):
        read(PORTRAIT, 64, FaceCrop(TEMPLATE))


@pytest.mark.parametrize("which", [0, -1, True, "smallest"])
def test_impossible_choices_of_faces(which) -> None:
    with pytest.raises(ArgumentError, match="'largest' or the number of a face"):
        FaceCrop(TEMPLATE, which)
