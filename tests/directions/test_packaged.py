"""The directions that come with faces64: they fit it, are what their cards say, and do what their names promise."""

from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddim_edit import Direction, Editor, InversionConfig, images
from ddim_edit.directions import packaged_directions

ASSETS = Path(str(resources.files("ddim_edit.assets")))
PACKAGED = packaged_directions("faces64")
FACE = ASSETS / "images" / "astronaut_face.png"


@pytest.fixture(scope="module")
def editor() -> Editor:
    return Editor.from_pretrained(device="cpu")


def test_documented_directions_are_packaged() -> None:
    straight = {"old", "baby", "female", "age", "light", "warm"}
    assert PACKAGED.keys() == straight | {"old-guided", "baby-guided", "female-guided"}
    assert packaged_directions("another model") == {}


@pytest.mark.parametrize("name", PACKAGED)
def test_each_belongs_to_faces64_and_its_own_grid(editor: Editor, name: str) -> None:
    direction = Direction.load(PACKAGED[name])
    guided = name.endswith("-guided")
    config = InversionConfig(level="guided:0.2T") if guided else InversionConfig(grid="karras:14", level=400)
    direction.require_fits(editor._runner.recipe(config, config.make_grid(editor.model.schedule)))
    direction.require_level("guided:0.2T" if guided else "0.4T")
    assert direction.name == name
    assert direction.vector.shape == ((1, 256, 8, 8) if guided else editor.model.shape)


@pytest.mark.parametrize("name", PACKAGED)
def test_each_beats_shuffled_labels(name: str) -> None:
    report = Direction.load(PACKAGED[name]).report
    assert report["auc"] - report["permuted_auc"] > 5 * max(report["permuted_sd"], report["auc_sd"])
    assert abs(report["permuted_auc"] - 0.5) < 0.05


@pytest.mark.parametrize("name", PACKAGED)
def test_each_has_card_with_figures(name: str) -> None:
    direction, card = Direction.load(PACKAGED[name]), PACKAGED[name].with_name(f"{name}.md").read_text()
    assert f"# The direction `{name}` of faces64" in card
    assert f"| AUC | {direction.report['auc']:.3f} " in card
    assert f"| unit of strength | {direction.sd:.3f}," in card


def luma(pictures: Tensor) -> Tensor:
    return torch.einsum("nchw,c->n", pictures, torch.tensor((0.299, 0.587, 0.114), dtype=pictures.dtype)) / 64**2


@pytest.mark.slow
def test_directions_move_portrait_and_0_is_identity(editor: Editor) -> None:
    """Light and warmth are read off the picture; of age and gender the other directions at the same level know."""
    settings = [{"light": 0}, {"light": 1}, {"light": -1}, {"warm": 1.5}, {"old": 6}]
    same, lighter, darker, warmer, older = editor.edits([FACE], settings).unbind(1)
    aligned = images.read(FACE, (64, 64), images.default_crop(editor.model.face_template))
    assert torch.equal(images.to_uint8(same)[0], aligned.pixels)
    assert luma(darker) + 0.1 < luma(same) < luma(lighter) - 0.1
    assert (warmer - same)[:, 0].mean() > (warmer - same)[:, 2].mean() + 0.1
    code, moved = (editor.invert(x.clamp(-1, 1), editor.direction("old").config).x for x in (same, older))
    age, light = editor.direction("age"), editor.direction("light")
    assert age.score(moved) > age.score(code) + 2
    assert (light.score(moved) - light.score(code)).abs() < 0.5


def test_guided_directions_reach_the_scores_that_they_were_sent_to(editor: Editor) -> None:
    """And what another direction, fitted to other latents, knows of age moves too, whatever the noise at the start."""
    direction = editor.direction("old-guided")
    same, older = editor.edits([FACE], [{direction: 0}, {direction: 2}]).unbind(1)
    scores = []
    for pictures in (same, older):
        (latents,) = editor.latents_at(pictures.clamp(-1, 1), ["guided:0.2T"])
        scores.append(direction.score(latents.values))
    # The score is that of the latent before decoding; of the decoded image it is found again but for what is lost.
    assert 1 < float(scores[1] - scores[0]) < 3
    age = editor.direction("age")
    gains = []
    for seed in range(8):  # the score of one noise may move by 0.3 either way
        config = replace(age.config, dequantise=seed)
        code, moved = (editor.invert(x.clamp(-1, 1), config).x for x in (same, older))
        gains.append(float(age.score(moved) - age.score(code)))
    assert sum(gains) / len(gains) > 0.15
