"""Edits along gradients of the bottleneck: scores arrive where they were sent, and held ones stay."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from ddim_edit import ArgumentError, Direction, DirectionMismatchError, Editor, InversionConfig, Latents, fit_direction
from ddim_edit.directions import GuidedEdit, make_edit, make_edits
from ddim_edit.errors import NonFiniteError
from ddim_edit.models.differentiation import BottleneckJacobian

from .. import tiny
from .homes import of_x, randn

LEVEL = "guided:0.2T"
STEPS = 8


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    folder = tiny.save_model(tmp_path_factory.mktemp("models") / "tiny")
    return Editor.from_pretrained(folder, device="cpu", dtype="float32", batch_size=2)


@pytest.fixture(scope="module")
def pictures(editor: Editor) -> Tensor:
    return torch.tanh(randn(6, *editor.model.shape))


@pytest.fixture(scope="module")
def directions(editor: Editor, pictures: Tensor) -> Sequence[Direction]:
    (latents,) = editor.latents_at(pictures, [LEVEL], steps=STEPS)
    found = []
    for name, labels in {"first": [0, 0, 0, 1, 1, 1], "second": [0, 1, 0, 1, 0, 1]}.items():
        found.append(fit_direction(name, latents, np.array(labels), "mean", folds=0, permutations=0))
    return found


@pytest.fixture(scope="module")
def latents(editor: Editor, pictures: Tensor, directions: Sequence[Direction]) -> Latents:
    found = editor.invert(pictures, directions[0].config)
    assert isinstance(found, Latents)
    return found


def scores(editor: Editor, direction: Direction, latents: Latents) -> Tensor:
    """In standard deviations of the training scores."""
    jacobian = BottleneckJacobian(editor.model.denoiser, editor.model.schedule.level(direction.t))
    found, _ = jacobian.scores(latents.x, direction.vector)
    return found[:, 0].double() / direction.sd


def move(editor: Editor, latents: Latents, *arguments: object, steps: int = 8) -> Latents:
    edit = GuidedEdit(editor.model, *arguments, steps=steps)  # type: ignore[arg-type]
    return edit(latents, editor.model.denoiser)[0]


def test_its_latents_stand_at_the_time_of_the_bottleneck(directions: Sequence[Direction]) -> None:
    direction = directions[0]
    assert direction.guided
    assert direction.times == direction.recipe.times[-1:]
    assert direction.level == f"guided:{direction.t:g}"
    direction.require_level(LEVEL)
    for other in ("h:0.2T", "0.2T", "guided:0.5T"):
        with pytest.raises(DirectionMismatchError, match=rf"is of level guided:[^ ]+, not {other}\."):
            direction.require_level(other)


def test_files_keep_the_kind(directions: Sequence[Direction], tmp_path: object) -> None:
    path = f"{tmp_path}/a.direction.safetensors"
    directions[0].save(path)
    assert Direction.load(path).guided
    assert Direction.read_summary(path)["level"] == directions[0].level


def test_scores_change_by_their_strengths_and_held_ones_by_nothing(
    editor: Editor, directions: Sequence[Direction], latents: Latents
) -> None:
    first, second = directions
    before = [scores(editor, each, latents) for each in directions]
    both = move(editor, latents, {first: 0.5, second: -0.25})
    held = move(editor, latents, {first: 0.5}, [second])
    for moved, changes in ((both, (0.5, -0.25)), (held, (0.5, 0.0))):
        for direction, start, change in zip(directions, before, changes, strict=True):
            arrived = scores(editor, direction, moved) - start
            torch.testing.assert_close(arrived, torch.full_like(arrived, change), rtol=0, atol=0.01)
        lengths = [each.x.flatten(1).norm(dim=1) for each in (moved, latents)]
        torch.testing.assert_close(*lengths, rtol=1e-9, atol=0)


def test_one_small_step_goes_along_the_gradient(
    editor: Editor, directions: Sequence[Direction], latents: Latents
) -> None:
    """The shortest way that changes the score, but for its part along x, which the shell does not have."""
    moved = move(editor, latents, {directions[0]: 1e-3}, steps=1)
    jacobian = BottleneckJacobian(editor.model.denoiser, editor.model.schedule.level(directions[0].t))
    x = latents.x.flatten(1)
    gradient = jacobian.transposed_times(latents.x, directions[0].vector.expand(len(x), -1, -1, -1)).double().flatten(1)
    gradient = gradient - (gradient * x).sum(1, keepdim=True) / (x * x).sum(1, keepdim=True) * x
    cosine = torch.cosine_similarity(moved.x.flatten(1) - x, gradient)
    torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=0, atol=1e-5)


def test_batches_change_nothing(editor: Editor, directions: Sequence[Direction], pictures: Tensor) -> None:
    together = Editor(editor.model, batch_size=6).edits(pictures, [{directions[0]: 1.0}])
    apart = editor.edits(pictures, [{directions[0]: 1.0}])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)


def test_strength_0_returns_the_image(editor: Editor, directions: Sequence[Direction], pictures: Tensor) -> None:
    same = editor.edit(pictures, {directions[0]: 0.0})
    torch.testing.assert_close(torch.Tensor(same), pictures, rtol=0, atol=1e-12)


def test_evaluations_are_reported(editor: Editor, directions: Sequence[Direction], pictures: Tensor) -> None:
    rows: list[int] = []
    watched = Editor(editor.model, batch_size=6, on_evaluation=rows.append)
    config = directions[0].config
    workload = config.edits_workload(editor.model.schedule, [True, False], directions[0].evaluations)
    watched.edits(pictures, [{directions[0]: 1.0}, {directions[0]: 0.0}])
    assert sum(rows) == len(pictures) * workload.expected


def test_kinds_do_not_mix(editor: Editor, directions: Sequence[Direction]) -> None:
    with pytest.raises(ArgumentError, match="Directions of several kinds cannot be combined: "):
        make_edits(editor.model, {directions[0]: 1.0, of_x(): 1.0})
    with pytest.raises(ArgumentError, match="first is guided by the network"):
        make_edit({directions[0]: 1.0})


def test_latents_of_another_place_or_size_are_refused(editor: Editor, directions: Sequence[Direction]) -> None:
    elsewhere = editor.invert(torch.zeros(1, *editor.model.shape), InversionConfig(steps=4))
    with pytest.raises(DirectionMismatchError, match="Invert the image there"):
        move(editor, elsewhere, {directions[0]: 1.0})
    jacobian = BottleneckJacobian(editor.model.denoiser, editor.model.schedule.level(200))
    with pytest.raises(ArgumentError, match="Fit it again at this size"):
        jacobian.scores(torch.zeros(1, 3, 32, 32), directions[0].vector)


def test_gradients_that_are_not_finite_are_refused(
    editor: Editor, directions: Sequence[Direction], latents: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowed(self: BottleneckJacobian, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(x), len(vectors)), torch.full((len(x), len(vectors), *x.shape[1:]), torch.nan)

    monkeypatch.setattr(BottleneckJacobian, "scores", overflowed)
    with pytest.raises(NonFiniteError, match="Load the model in float32"):
        move(editor, latents, {directions[0]: 1.0})
