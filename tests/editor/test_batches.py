"""Batches one after another: what each needs besides the network is made while the one before is in it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddim_edit import ArgumentError, Editor, ImageError, Model, batching
from ddim_edit.diffusion.denoisers import Denoiser, Prediction
from ddim_edit.diffusion.noise import NoiseMix, begin_drawing
from ddim_edit.diffusion.schedules import Level

from .measures import QUICK


def test_batches_have_the_codes_that_they_have_alone(editor: Editor, files: list[Path]) -> None:
    batches = [files[:2], [], files[2:], [files[0]]]
    found = list(editor.invert_batches(iter(batches), QUICK))
    assert [len(latents) for latents in found] == [2, 0, 3, 1]
    for batch, latents in zip(batches, found, strict=True):
        if batch:
            wanted = editor.invert(batch, QUICK)
            torch.testing.assert_close(latents.x, wanted.x, rtol=0, atol=1e-12)
            assert [latent.recipe for latent in latents] == [latent.recipe for latent in wanted]


def test_no_batches_have_no_codes(editor: Editor) -> None:
    assert list(editor.invert_batches([], QUICK)) == []


def test_noise_is_drawn_and_pictures_are_read_beside_the_thread_that_asks_the_network(
    editor: Editor, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def begun(mixes: Sequence[NoiseMix], shape: Sequence[int]) -> Callable[[], Tensor]:
        threads.append(threading.current_thread())
        return begin_drawing(mixes, shape)

    monkeypatch.setattr(batching, "begin_drawing", begun)
    Editor(editor.model, batch_size=2).invert(files, QUICK)
    list(editor.invert_batches([files[:2], files[2:]], QUICK))
    assert len(threads) == 3 + 2
    assert threading.current_thread() not in threads


def test_batches_are_drawn_one_ahead(editor: Editor, files: list[Path]) -> None:
    drawn = 0

    def batches() -> Iterator[list[Path]]:
        nonlocal drawn
        for file in files:
            drawn += 1
            yield [file]

    for index, _ in enumerate(editor.invert_batches(batches(), QUICK)):
        assert drawn == min(index + 2, len(files))


class Narrow:
    """A denoiser without the memory for more than two pictures."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.sizes = denoiser, list[int]()

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        self.sizes.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.denoiser(x, level)


@pytest.fixture
def narrow(model: Model) -> Narrow:
    return Narrow(model.denoiser)


def test_a_batch_that_does_not_fit_is_halved_with_all_that_was_made_ready(
    model: Model, files: list[Path], narrow: Narrow
) -> None:
    wanted = Editor(model, batch_size=2).invert(files, QUICK)
    editor = Editor(replace(model, denoiser=narrow), batch_size=5)
    (found,) = editor.invert_batches([files], QUICK)
    assert max(narrow.sizes) == 5
    torch.testing.assert_close(found.x, wanted.x, rtol=0, atol=1e-5)
    assert [latent.recipe for latent in found] == [latent.recipe for latent in wanted]
    done = Editor(replace(model, denoiser=narrow), batch_size=5).reconstruct(files, QUICK)
    assert len(done.scores) == len(done.decoded) == 5


def test_an_error_of_a_batch_is_told(editor: Editor, files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="missing"):
        list(editor.invert_batches([files[:1], [tmp_path / "missing.png"]], QUICK))
    with pytest.raises(ArgumentError, match="steps"):
        list(editor.invert_batches([files[:1]], replace(QUICK, steps=0)))


def test_memory_that_makes_no_difference_is_left_alone(model: Model) -> None:
    x = torch.zeros(2)
    assert model.pinned(x) is x
    assert model.to_state_device(x) is x
