from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddim_edit import Editor, InversionConfig, LatentMismatchError, metrics
from ddim_edit.diffusion.solvers.registry import SOLVERS
from ddim_edit.images import to_uint8

from .measures import QUICK, as_tensor, max_error


@pytest.mark.parametrize("solver", SOLVERS)
def test_exact_is_exact(editor: Editor, files: list[Path], solver: str) -> None:
    trip = editor.reconstruct(files, InversionConfig(solver, steps=10, exact=True))
    assert torch.equal(to_uint8(trip.decoded), to_uint8(trip.originals))
    assert torch.equal(to_uint8(editor.decode(trip.latents)), to_uint8(trip.originals))
    assert all(score["converged"] and score["identical_pixels"] == 1 for score in trip.scores)


@pytest.mark.parametrize("solver", ["belm", "bdia"])
@pytest.mark.parametrize("dequantise", [0, None])
def test_lossless_is_lossless(editor: Editor, files: list[Path], solver: str, dequantise: int | None) -> None:
    trip = editor.reconstruct(files, InversionConfig(solver, dequantise=dequantise))
    assert max_error(trip.decoded, trip.originals) <= 1e-12
    assert all(score["nfe_in"] == 20 for score in trip.scores)


def test_bare_noise_and_a_pair_are_decoded_together(editor: Editor, files: list[Path]) -> None:
    method = InversionConfig("bdia", "uniform", 10)
    latents = [*editor.noise([3], method), *editor.invert(files[:1], method)]
    together = editor.decode(latents)
    assert max_error(together, torch.cat([editor.decode([latent]) for latent in latents])) < 1e-5


def test_decoding_keeps_the_order_of_mixed_walks(editor: Editor, files: list[Path]) -> None:
    methods = [QUICK, InversionConfig("ddim", steps=5), QUICK, InversionConfig("heun", "quad", 3), QUICK]
    latents = [editor.invert(path, method) for path, method in zip(files, methods, strict=True)]
    together = editor.decode(latents)
    alone = torch.cat([editor.decode([latent]) for latent in latents])
    assert max_error(together, alone) < 1e-5


def test_scores_are_those_of_the_metrics(editor: Editor, files: list[Path]) -> None:
    trip = editor.reconstruct(files, QUICK)
    pair = trip.originals, trip.decoded
    assert torch.equal(trip.originals, as_tensor(files).double())
    assert max_error(trip.decoded, editor.decode(trip.latents)) < 1e-12
    for name, metric in {"mse": metrics.mse, "psnr": metrics.psnr, "ssim": metrics.ssim}.items():
        assert [score[name] for score in trip.scores] == pytest.approx(metric(*pair).tolist(), rel=1e-12)
    assert [score["lpips"] for score in trip.scores] == pytest.approx(metrics.LPIPS()(*pair).tolist(), rel=1e-5)
    same = (to_uint8(pair[0]) == to_uint8(pair[1])).all(1).flatten(1).double().mean(1)
    assert [score["identical_pixels"] for score in trip.scores] == same.tolist()


def test_latents_of_others_are_refused(editor: Editor, files: list[Path]) -> None:
    latent = editor.invert(files[0], QUICK)
    foreign = {
        "components": replace(latent.recipe, components={"process": "0" * 16}),
        "dtype": replace(latent.recipe, dtype="bfloat16"),
        "schedule": replace(latent.recipe, schedule={"kind": "cosine"}),
        "prediction": replace(latent.recipe, prediction="epsilon"),
    }
    for name, recipe in foreign.items():
        theirs = replace(latent, recipe=recipe)
        with pytest.raises(LatentMismatchError) as caught:
            editor.decode([latent, theirs])
        if name == "components":
            assert "one network less and another noise schedule or parametrization" in str(caught.value)
        else:
            assert str(getattr(recipe, name))[:8] in str(caught.value)
            assert str(getattr(latent.recipe, name))[:8] in str(caught.value)
        assert max_error(editor.decode([theirs], force=True), editor.decode([latent])) < 1e-5
    narrow = replace(latent, x=latent.x[..., :8])
    with pytest.raises(LatentMismatchError, match=r"\[3, 16, 8\]"):
        editor.decode([narrow], force=True)
