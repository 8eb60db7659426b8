"""Words as directions, for a model of any family that follows prompts."""

import contextlib

import torch

from ddim_edit import ArgumentError, Condition, Model, WordDirection
from ddim_edit.directions import WordEdit, make_edits

from .originals import PROMPT

MAN = "a photo of the man"


def assert_words_are_directions(model: Model) -> None:
    """The whole way from the latent's own prompt is the other prompt, whatever is an input of the network.

    Embeddings of different lengths are refused.
    """
    x = torch.randn((1, *model.shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    level = model.schedule.level(0.6 * model.schedule.T)
    for scale in (1.0, 3.0):
        source = Condition(MAN, guidance_scale=scale)
        own = model.conditioned_on(source)
        # Guidance moves the prediction from what it is; a scale that the network gets counts for both prompts.
        whole = scale == 1 or model.conditioner.encoder.distilled  # type: ignore[union-attr]
        other = model.conditioned_on(Condition(PROMPT, guidance_scale=scale))
        for words in (WordDirection(PROMPT, MAN), WordDirection(PROMPT), WordDirection(PROMPT, MAN, "embedding")):
            (edit,) = make_edits(model, {words: 1.0})
            assert isinstance(edit, WordEdit)
            with contextlib.suppress(ArgumentError) if words.form == "embedding" else contextlib.nullcontext():
                found = edit.guide(own, source)(x, level)
                assert torch.isfinite(found.eps).all()
                if words.from_ is not None and (whole or words.form == "embedding"):
                    wanted = other(x, level)
                    change = (wanted.x0 - own(x, level).x0).abs().max()
                    assert (found.x0 - wanted.x0).abs().max() < 0.02 * change + 1e-5
