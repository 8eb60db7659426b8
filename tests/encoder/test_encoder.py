import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ddim_edit import ArgumentError, Editor, ImageError, InversionConfig, LatentEncoder, load_model
from ddim_edit.images import Box, read, to_float
from ddim_edit.models.devices import DeviceNetwork

from .. import rounding, tiny

STEPS = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    return [tiny.save_picture(folder / f"{seed}.png", seed) for seed in range(4)]


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures every evaluation of a network is for."""
    seen: list[int] = []
    answer = DeviceNetwork.__call__

    def counted(network: DeviceNetwork, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return answer(network, x, index)

    monkeypatch.setattr(DeviceNetwork, "__call__", counted)
    return seen


def assert_alike(found: np.ndarray, wanted: np.ndarray | torch.Tensor) -> None:
    """Fail unless two loads of the model made both."""
    rounding.assert_alike(torch.as_tensor(found), torch.as_tensor(wanted))


def as_tensor(files: list[Path]) -> torch.Tensor:
    return torch.stack([to_float(read(path, tiny.SIZE).pixels) for path in files])


@pytest.mark.parametrize("level", ["0.4T", 700, "xT", "h", "h:0.2T"])
def test_transform_returns_editor_latents_as_rows(model: Path, files: list[Path], level: str | float) -> None:
    (codes,) = Editor(load_model(model)).latents_at(files, [level], InversionConfig("ddim", "uniform", 6, dequantise=3))
    options = {"solver": "ddim", "grid": "uniform", "steps": 6, "dequantise": 3}
    rows = LatentEncoder(model, level, **options).fit_transform(files)
    assert rows.dtype == np.float32
    assert_alike(rows, codes.values.flatten(1))


def test_files_arrays_and_tensors_agree(model: Path, files: list[Path]) -> None:
    """Without the noise, whose seed is a picture's fingerprint, which a file and a tensor do not share."""
    encoder, x = LatentEncoder(model, steps=STEPS, dequantise=None), as_tensor(files)
    wanted = encoder.transform(files)
    names = [str(path) for path in files]
    for images in (
        names,
        tuple(files),
        np.array(names),
        np.array(names, dtype=object),
        np.array(names)[:, None],
        np.array([name.encode() for name in names]),
        np.array(files),
        [read(path, tiny.SIZE) for path in files],
        files[0].parent,
        x,
        x.double(),
        x.numpy(),
        x.double().numpy(),
    ):
        assert_alike(encoder.transform(images), wanted)


def test_crop_parameter_is_used(model: Path, tmp_path: Path) -> None:
    wide = tiny.save_picture(tmp_path / "wide.png", 3, 20, 30)
    centre = LatentEncoder(model, steps=STEPS, dequantise=None).transform([wide])
    corner = LatentEncoder(model, steps=STEPS, dequantise=None, crop=Box(0, 0, 16)).transform([wide])
    cut = torch.from_numpy(tiny.pixels(3, 20, 30)[:16, :16]).permute(2, 0, 1)[None] / 127.5 - 1
    assert not np.allclose(centre, corner)
    assert np.allclose(corner, LatentEncoder(model, steps=STEPS, dequantise=None).transform(cut), atol=1e-4)


def test_clone_set_params_and_pickle(model: Path, files: list[Path]) -> None:
    encoder = LatentEncoder(model, "xT", steps=STEPS, crop=Box(1, 2, 3), cache="somewhere")
    assert clone(encoder).get_params() == encoder.get_params()
    assert set(encoder.get_params()) == {
        *("model", "level", "solver", "grid", "steps", "dequantise", "crop", "device", "dtype", "batch_size", "cache")
    }
    encoder.set_params(crop=None, cache=None)
    rows = encoder.transform(files)
    frozen = pickle.dumps(encoder)
    assert len(frozen) < 2000
    assert_alike(pickle.loads(frozen).transform(files), rows)
    assert_alike(clone(encoder).transform(files), rows)


def test_setting_another_model_loads_it(model: Path, files: list[Path], tmp_path: Path) -> None:
    encoder, other = LatentEncoder(model, steps=STEPS), tiny.save_model(tmp_path / "other", seed=1)
    own = encoder.transform(files)
    theirs = encoder.set_params(model=other).transform(files)
    assert_alike(theirs, LatentEncoder(other, steps=STEPS).transform(files))
    assert not np.allclose(theirs, own, atol=1e-2)
    assert_alike(encoder.set_params(model=model).transform(files), own)


def test_defaults_equal_library_defaults() -> None:
    encoder, method = LatentEncoder(), InversionConfig()
    assert (encoder.solver, encoder.grid, encoder.steps, encoder.dequantise) == (
        *(method.solver, method.grid, method.steps, method.dequantise),
    )


def test_cache_is_shared_by_instances_and_saves_all_evaluations(
    model: Path, files: list[Path], tmp_path: Path, evaluations: list[int]
) -> None:
    encoder = LatentEncoder(model, steps=STEPS, cache=tmp_path)
    first = encoder.transform(files)
    assert sum(evaluations) > 0
    evaluations.clear()
    assert np.array_equal(pickle.loads(pickle.dumps(encoder)).transform(files), first)
    assert np.array_equal(clone(encoder).transform(files[::-1]), first[::-1])
    assert not evaluations
    clone(encoder).set_params(level="xT").transform(files)
    assert sum(evaluations) > 0


def test_pipeline_learns_attribute_from_files(model: Path, tmp_path: Path) -> None:
    """Brighter above than below or the other way round, under waves that say nothing; chance is a half."""
    labels = np.arange(40) % 2
    files = []
    for seed, label in enumerate(labels):
        light = np.linspace(60, -60, tiny.SIZE)[:, None, None] * (1 if label else -1)
        picture = (0.5 * tiny.pixels(seed) + 64 + light).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{seed:02}.png")
        files.append(tmp_path / f"{seed:02}.png")
    encoder = LatentEncoder(model, steps=STEPS, cache=tmp_path / "cache")
    classifier = make_pipeline(encoder, StandardScaler(), LogisticRegression())
    assert cross_val_score(classifier, files, labels, cv=4).mean() > 0.9
    shuffled = np.random.default_rng(0).permutation(labels)
    assert 0.2 < cross_val_score(classifier, files, shuffled, cv=4).mean() < 0.8


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 768)),
        np.zeros((2, 3, 16, 16), dtype=np.uint8),
        np.zeros((2, 3, 8, 8)),
        [],
        np.zeros((0, 3, 16, 16)),
    ],
    ids=["flat", "whole numbers", "another size", "none", "no rows"],
)
def test_non_image_input_is_refused(model: Path, images: object) -> None:
    with pytest.raises(ArgumentError, match=r"^[^\n]+$"):
        LatentEncoder(model, steps=STEPS).transform(images)


@pytest.mark.parametrize(
    "choice", [{"level": "high"}, {"solver": "rk45"}, {"solver": "bdia"}, {"grid": "zigzag"}], ids=str
)
def test_invalid_parameters_are_refused_in_transform(model: Path, files: list[Path], choice: dict[str, str]) -> None:
    encoder = LatentEncoder(model, **choice).fit(files)
    with pytest.raises(ArgumentError, match=r"^[^\n]+$"):
        encoder.transform(files)


def test_missing_file_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"missing\.png"):
        LatentEncoder(model, steps=STEPS).transform([tmp_path / "missing.png"])
