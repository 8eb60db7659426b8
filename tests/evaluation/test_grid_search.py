"""`tune_grid`: what it tries, how it scores, and what is kept of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddim_edit import (
    ArgumentError,
    Editor,
    GridSearch,
    InputWarning,
    InversionConfig,
    Level,
    NoiseSchedule,
    NonFiniteError,
    Prediction,
    tune_grid,
)
from ddim_edit.evaluation import grid_file, load_grid, save_grid, search_workload
from ddim_edit.evaluation.grid_search import start_of
from ddim_edit.images import read

CONFIG = InversionConfig(steps=4)


@pytest.fixture(scope="module")
def found(editor: Editor, files: list[Path]) -> GridSearch:
    return tune_grid(editor, files[:3], CONFIG)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ddim-edit" / "grids"


def test_of_five_grids_the_first_from_above_near_the_best_is_chosen(found: GridSearch, editor: Editor) -> None:
    assert len({trial.grid for trial in found.trials}) == 5
    assert found.trials[0].grid == "karras:14@0.16T"  # which Brent's method need not come near
    assert all(trial.grid.startswith("karras:") and trial.grid.endswith("@0.16T") for trial in found.trials)
    best = max(trial.psnr for trial in found.trials)
    near = [trial for trial in found.trials if trial.psnr > best - 2]
    assert found.chosen == max(near, key=lambda trial: 1 / float(trial.grid[len("karras:") : -len("@0.16T")]))
    assert (found.images, found.steps, found.evaluations) == (3, 4, 5 * 2 * 4)
    assert search_workload(CONFIG, editor.model.schedule).expected == found.evaluations


def test_score_is_of_the_squared_error_of_decoded_latents(found: GridSearch, editor: Editor, files: list[Path]) -> None:
    trial = found.trials[1]
    decoded = editor.decode(editor.invert(files[:3], CONFIG, grid=trial.grid))
    originals = torch.stack([read(file, editor.model.size).tensor for file in files[:3]])
    errors = (decoded - originals).square().flatten(1).mean(1)
    assert trial.psnr == pytest.approx(float(10 * (4 / errors.mean()).log10()), abs=0.01)
    assert trial.worst == pytest.approx(float(10 * (4 / errors.max()).log10()), abs=0.01)


def test_search_is_deterministic(found: GridSearch, editor: Editor, files: list[Path]) -> None:
    assert tune_grid(editor, files[:3], replace(CONFIG, exact=True)) == found


@pytest.mark.parametrize(("steps", "evaluations"), [(10, 100), (20, 200), (50, 200)])
def test_trials_take_at_most_20_steps(steps: int, evaluations: int, editor: Editor) -> None:
    assert search_workload(InversionConfig(steps=steps), editor.model.schedule).expected == evaluations


STARTS = {"0.16T": NoiseSchedule.linear(), "0.357T": NoiseSchedule.flow(), "1": NoiseSchedule.continuous(0.6, 80)}


@pytest.mark.parametrize("start", STARTS)
def test_grids_start_at_the_noise_of_the_default(start: str) -> None:
    assert start_of(STARTS[start]) == start
    if start != "1":
        assert STARTS[start].s(float(start[:-1]) * 1000) == pytest.approx(NoiseSchedule.linear().s(160), rel=0.01)


def test_what_cannot_be_searched_is_refused(editor: Editor, files: list[Path]) -> None:
    with pytest.raises(ArgumentError, match="bdia returns every image on any grid"):
        tune_grid(editor, files, replace(CONFIG, solver="bdia"))
    with pytest.raises(ArgumentError, match="no images"):
        tune_grid(editor, [], CONFIG)


def test_grids_are_kept_by_model_solver_and_steps(found: GridSearch, editor: Editor, cache: Path) -> None:
    model = editor.model
    assert load_grid(model, CONFIG) is None
    assert save_grid(found, model, CONFIG) == grid_file(model, CONFIG)
    assert load_grid(model, CONFIG) == found
    assert load_grid(replace(model, name="another name"), CONFIG) == found
    assert load_grid(replace(model, components={"network": "0" * 16}), CONFIG) is None
    for others in ({"steps": 5}, {"solver": "ddim"}):
        assert load_grid(model, replace(CONFIG, **others)) is None
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("content", ["", "[]", "{", '{"grid": "karras:14"}', "\udcff"])
def test_damaged_files_count_as_absent(found: GridSearch, editor: Editor, cache: Path, content: str) -> None:
    file = save_grid(found, editor.model, CONFIG)
    assert file is not None
    file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.warns(InputWarning, match=r"\.json: is damaged, so the grid is searched again"):
        assert load_grid(editor.model, CONFIG) is None


def test_what_cannot_be_kept_is_no_error(found: GridSearch, editor: Editor, cache: Path) -> None:
    cache.parent.mkdir()
    cache.touch()
    assert save_grid(found, editor.model, CONFIG) is None


def test_network_that_returns_nan_is_named(editor: Editor, files: list[Path]) -> None:
    def fails(x: torch.Tensor, level: Level) -> Prediction:
        return Prediction(x * torch.nan, x)

    broken = Editor(replace(editor.model, denoiser=fails))
    with pytest.raises(NonFiniteError, match="tiny returned NaN or infinity on every grid"):
        tune_grid(broken, files[0], CONFIG)
