"""Which images are typical for a model: closed forms, files, and the packaged model on faces and on other things."""

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ddim_edit import ArgumentError, Editor, InputWarning, MixtureDenoiser, Model, ModelError, Typicality, load_model
from ddim_edit.diffusion.noise import SeededNoise
from ddim_edit.images import CentreSquare
from ddim_edit.models.typicality import FAINT, FEWEST, LEVELS, QUANTILE, SCALES, typicality_features

from .. import tiny

ASSETS = Path(str(resources.files("ddim_edit.assets"))) / "images"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tiny.save_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    """Of 400 made-up images: errors that follow from five figures of their detail, and these."""
    normal = torch.randn(400, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    detail = normal[:, 2:] @ torch.tril(torch.full((5, 5), 0.3, dtype=torch.float64)) - 3
    errors = 0.5 * detail[:, [0, 3]] - 2 + 0.1 * normal[:, :2]
    return torch.cat([errors, detail], dim=1)


def test_errors_are_those_of_the_ideal_denoiser(model: Model) -> None:
    width = 0.4
    gaussian = MixtureDenoiser(torch.zeros(1, *model.shape), torch.tensor([width]), torch.ones(1))
    x0 = torch.randn(3, *model.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = typicality_features(replace(model, denoiser=gaussian), x0)
    for seed, s in enumerate(LEVELS):
        noise = SeededNoise([seed]).draw(model.shape)
        wanted = (s * (x0 + s * noise) / (width**2 + s**2) - noise).square().mean(dim=(1, 2, 3))
        assert found[:, seed].exp() == pytest.approx(wanted, rel=1e-4)


def test_detail_is_that_of_each_scale(model: Model) -> None:
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    stripes = (0.5 * (-1) ** (x // 2)).expand(1, *model.shape).double()  # two pixels wide
    ramp = (0.05 * (x + 2 * y)).expand(1, *model.shape).double()
    of_stripes = typicality_features(model, stripes)[0, 2:].exp() - FAINT
    of_ramp = typicality_features(model, ramp)[0, 2:].exp() - FAINT
    # Seven of fifteen neighbours differ by 1, and all of them once the stripes are one pixel wide.
    assert of_stripes == pytest.approx([7 / 15, 1, 0, 0, 0.25])
    assert of_ramp == pytest.approx([0.0125 * scale**2 for scale in SCALES] + [ramp.var(correction=0).item()])


def test_an_image_has_one_score_in_every_batch(model: Model) -> None:
    x0 = torch.rand(4, *model.shape, dtype=torch.float64)
    alone = torch.cat([typicality_features(model, row[None]) for row in x0])
    assert torch.allclose(typicality_features(model, x0), alone, rtol=1e-5)


def test_scores_are_the_sum_of_two_distances(model: Model, features: torch.Tensor) -> None:
    found = Typicality.fit(features, model)
    errors, detail = np.split(features.numpy(), [2], axis=1)
    design = np.column_stack([np.ones(len(detail)), detail])
    rest = errors - design @ np.linalg.lstsq(design, errors)[0]
    excess = (rest / rest.std(axis=0, ddof=1)).sum(axis=1)
    relative = detail[:, :4] - detail[:, 4:]
    offsets = relative - relative.mean(axis=0)
    distance = np.sqrt(np.einsum("nj,jk,nk->n", offsets, np.linalg.inv(np.cov(relative.T)), offsets))
    wanted = np.maximum(excess, 0) + distance
    assert found.limit == pytest.approx(np.quantile(wanted, QUANTILE))
    assert found.score(features) == pytest.approx(wanted / found.limit, rel=1e-9)


def test_what_makes_an_image_strange(model: Model, features: torch.Tensor) -> None:
    found = Typicality.fit(features, model)
    usual = features.mean(dim=0)
    harder, easier, finer, darker = usual.repeat(4, 1)
    harder[:2] += 1
    easier[:2] -= 1
    finer[2] += 3
    darker[2:] -= 2  # less contrast at all scales, and denoised accordingly
    darker[:2] -= 1
    assert found.score(torch.stack([harder, easier, finer, darker]))[[0, 2]].min() > 1.5
    assert found.score(torch.stack([harder, easier, finer, darker]))[[1, 3]].max() < 0.5


def test_scores_that_are_not_finite_are_not_warned_of(model: Model, features: torch.Tensor) -> None:
    found = Typicality.fit(features, model, advice="Crop to a face.")
    assert found.describe(None, "faces") is None
    assert found.describe(math.nan, "faces") is None
    assert found.describe(1.0, "faces") is None
    wanted = "(score 9.10, typical up to 1). Edits will be poor. Crop to a face."
    assert found.describe(9.1, "faces") == f"does not look like the images that faces was trained on {wanted}"


@pytest.mark.parametrize(
    "bad",
    [torch.ones(FEWEST - 1, 7), torch.ones(FEWEST, 7), torch.full((FEWEST, 7), torch.nan)],
    ids=["few", "equal", "nan"],
)
def test_what_no_range_can_be_measured_on(model: Model, bad: torch.Tensor) -> None:
    with pytest.raises(ArgumentError, match=r"at least 50 images, not 49|do not differ, or are not"):
        Typicality.fit(bad, model)


def test_files_read_back_and_are_found_beside_the_weights(tmp_path: Path, features: torch.Tensor) -> None:
    folder = tiny.save_model(tmp_path / "tiny")
    model = load_model(folder)
    assert model.typicality is None
    found = Typicality.fit(features, model)
    found.save(folder / "typicality.json")
    assert load_model(folder).typicality == found
    assert load_model(folder, size=32).typicality is None  # measured at another size
    tiny.save_model(folder, seed=1)
    with pytest.raises(ModelError, match=r"typicality\.json: it was measured with other weights"):
        load_model(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("limit"),
        lambda record: record.update(limit="far"),
        lambda record: record.update(spread=[1.0]),
        lambda record: record.update(precision=[[1.0], [1.0]]),
        lambda record: record.update(levels=[0.5, -1]),
    ],
)
def test_broken_files_are_refused(
    tmp_path: Path, model: Model, features: torch.Tensor, change: Callable[[dict[str, Any]], object]
) -> None:
    file = tmp_path / "typicality.json"
    Typicality.fit(features, model).save(file)
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"typicality\.json: .* or remove the file\."):
        Typicality.load(file)


@pytest.fixture(scope="module")
def editor() -> Editor:
    return Editor.from_pretrained("faces64", dtype="float32")


def strange(kind: str) -> Image.Image:
    from skimage import data
    from sklearn.datasets import load_sample_image

    if kind in ("china.jpg", "flower.jpg"):
        return Image.fromarray(load_sample_image(kind))
    return Image.fromarray(getattr(data, kind)())


@pytest.mark.parametrize("kind", ["china.jpg", "flower.jpg", "coffee", "page"])
def test_other_things_are_strange_to_faces64(editor: Editor, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{Path(kind).stem}.png"
    strange(kind).save(path)
    with pytest.warns(InputWarning, match=rf"^{path.stem}: does not look like the images that faces64 was trained on"):
        latent = editor.invert(path, steps=2, crop=CentreSquare())
    assert latent.report["atypicality"] > 1


def test_faces_are_typical_of_faces64(editor: Editor) -> None:
    faces = ["astronaut_face.png", "seed-0014.png", "seed-0018.png", "seed-0026.png", "seed-0028.png"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        latents = editor.invert([ASSETS / name for name in faces], steps=2, crop=CentreSquare())
    assert all(latent.report["nfe"] == 2 for latent in latents)
