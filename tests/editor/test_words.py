"""Words as directions, on a tiny Stable Diffusion 2 with random weights, and a DiT for classes."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from ddim_edit import (
    ArgumentError,
    Condition,
    DirectionError,
    Editor,
    InversionConfig,
    Latent,
    WordDirection,
    load_model,
)
from ddim_edit.directions import WordEdit, make_edits, resolve_direction
from ddim_edit.images import to_uint8

from .. import pipelines, tiny
from .attributes import made
from .measures import max_error

MAN = Condition("a photo of the man")
GUIDED = Condition("a photo of the man", "young", guidance_scale=3.0)
SMILING, OLD = WordDirection("smiling"), WordDirection("a photo of the old man", "a photo of the man")
EMBEDDED = WordDirection("a photo of the old man", "a photo of the man", "embedding")
CONFIG = InversionConfig(grid="karras:14", steps=4, condition=MAN)
SENTENCE = r"^[^\n]+$"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    words = tmp_path_factory.mktemp("words")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        made = pipelines.stable_diffusion(words, "v_prediction")
        for weight in pipelines.last_layer(made).parameters():
            weight *= 0.3
        # The text moves this network little; more of it makes the effect of words more than rounding.
        for name, weight in made.unet.named_parameters():
            if "attn2.to_v" in name or "attn2.to_out" in name:
                weight *= 4
    return made


@pytest.fixture(scope="module")
def painter(pipe: Any) -> Editor:
    return Editor.from_pipeline(pipe, size=pipelines.SIZE)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    folder = tmp_path_factory.mktemp("classes")
    return Editor(load_model(pipelines.save(partial(pipelines.dit, folder / "words"), folder / "dit")))


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("portraits")
    return [tiny.save_picture(folder / f"{seed}.png", seed, 32, 32) for seed in range(2)]


@pytest.fixture(scope="module")
def latent(painter: Editor) -> Latent:
    return painter.noise([3], CONFIG)[0]


@pytest.mark.parametrize("condition", [MAN, GUIDED])
@pytest.mark.parametrize("direction", [SMILING, OLD, EMBEDDED, replace(SMILING, mask_quantile=0.5, warm_up=0.2)])
def test_strength_0_is_the_plain_decode_to_the_bit(
    painter: Editor, latent: Latent, condition: Condition, direction: WordDirection
) -> None:
    latent = latent.with_condition(condition)
    plain = painter.decode(latent)
    for strength in (0.0, -0.0):
        assert torch.equal(painter.edit(latent, {direction: strength}), plain)
    assert max_error(painter.edit(latent, {direction: 2.0}), plain) > 1e-4


@pytest.mark.parametrize("exact", [False, True])
def test_strength_0_returns_the_photograph(painter: Editor, portraits: list[Path], exact: bool) -> None:
    originals = torch.stack([torch.as_tensor(image) for image in painter.reconstruct(portraits, CONFIG).originals])
    still, moved = painter.edits(portraits, [{OLD: 0.0}, {OLD: 1.0}], config=CONFIG, exact=exact).unbind(1)
    assert torch.equal(to_uint8(still), to_uint8(originals))
    assert max_error(moved, originals) > 1e-4


@pytest.mark.parametrize("direction", [OLD, EMBEDDED])
def test_the_whole_way_decodes_as_under_the_other_prompt(
    painter: Editor, latent: Latent, direction: WordDirection
) -> None:
    other = painter.decode(latent.with_condition(Condition(str(OLD.to))))
    assert max_error(painter.edit(latent, {direction: 1.0}), other) < 1e-4 * float(other.abs().max())
    assert max_error(painter.edit(latent, {direction: 0.5}), other) > 1e-3 * float(other.abs().max())


def test_a_name_is_words_unless_it_is_a_direction(
    painter: Editor, latent: Latent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smiling").mkdir()
    assert torch.equal(painter.edit(latent, {"smiling": 2.0}), painter.edit(latent, {SMILING: 2.0}))
    for name in ("nosuch.direction.safetensors", Path("nosuch")):
        with pytest.raises(DirectionError, match="nosuch"):
            painter.edit(latent, {name: 1.0})
    fitted = made(painter, "old", 1, "xT", CONFIG)
    fitted.save(tmp_path / "smiling.direction.safetensors")
    found = resolve_direction("smiling.direction.safetensors", painter.model)
    assert (found.name, type(found)) == ("old", type(fitted))


def guided(editor: Editor, direction: WordDirection, condition: Condition = MAN, **options: Any) -> Any:
    (edit,) = make_edits(editor.model, {direction: 1.0}, **options)
    assert isinstance(edit, WordEdit)
    return edit.guide(editor.model.conditioned_on(condition), condition)


def test_kept_words_are_taken_off_what_changes(painter: Editor, latent: Latent) -> None:
    young = WordDirection("young", "old")
    x, level = latent.x[None], painter.model.schedule.level(700)
    own = painter.model.conditioned_on(MAN)(x, level).eps
    change = guided(painter, OLD, keep=[young])(x, level).eps - own
    along = [painter.model.conditioned_on(Condition(words))(x, level).eps for words in ("young", "old")]
    kept = along[0] - along[1]
    assert change.norm() > 1e-4
    assert float((change * kept).sum().abs()) < 1e-6 * float(change.norm() * kept.norm())
    free = guided(painter, OLD)(x, level).eps - own
    assert float((free * kept).sum().abs()) > 1e-3 * float(free.norm() * kept.norm())


def test_several_words_and_fitted_directions_add_up(painter: Editor, latent: Latent) -> None:
    x, level = latent.x[None], painter.model.schedule.level(700)
    (edit,) = make_edits(painter.model, {OLD: 1.0, SMILING: -2.0})
    own = painter.model.conditioned_on(MAN)(x, level).eps
    each = [guided(painter, direction)(x, level).eps - own for direction in (OLD, SMILING)]
    both = edit.guide(painter.model.conditioned_on(MAN), MAN)(x, level).eps - own
    torch.testing.assert_close(both, each[0] - 2 * each[1], atol=1e-5, rtol=0)

    fitted = made(painter, "a", 1, "xT", CONFIG)
    together = painter.edit(latent, {fitted: 2.0, OLD: 1.0})
    assert max_error(together, painter.edit(latent, {fitted: 2.0})) > 1e-4
    assert max_error(together, painter.edit(latent, {OLD: 1.0})) > 1e-4
    assert max_error(painter.edit(latent, {fitted: 2.0, OLD: 0.0}), painter.edit(latent, {fitted: 2.0})) == 0


def test_conditional_words_move_without_each_other(painter: Editor, latent: Latent) -> None:
    alone = painter.edit(latent, {OLD: 1.0}, keep=[SMILING])
    assert max_error(painter.edit(latent, {OLD: 1.0, SMILING: 0.0}, conditional=True), alone) == 0


def test_an_embedding_is_added_to_the_prompt_of_the_latent(painter: Editor, latent: Latent) -> None:
    encoder = painter.model.conditioner.encoder
    e = {words: encoder.positive(Condition(words))["encoder_hidden_states"] for words in ("young", "old", MAN.prompt)}
    direction = WordDirection("young", "old", "embedding")
    (edit,) = make_edits(painter.model, {direction: 3.0})
    shifted = edit.guide(painter.model.conditioned_on(MAN), MAN).network.conditioning["encoder_hidden_states"]
    torch.testing.assert_close(shifted, e[MAN.prompt] + 3 * (e["young"] - e["old"]))


def test_directions_lead_away_from_the_negative_prompt_by_default(painter: Editor, latent: Latent) -> None:
    named = painter.edit(latent.with_condition(GUIDED), {WordDirection("smiling", "young"): 2.0})
    assert max_error(painter.edit(latent.with_condition(GUIDED), {SMILING: 2.0}), named) < 1e-5
    empty = painter.edit(latent, {WordDirection("smiling", ""): 2.0})
    assert max_error(painter.edit(latent, {SMILING: 2.0}), empty) < 1e-5


def test_latents_of_several_prompts_are_each_moved_from_their_own(painter: Editor, latent: Latent) -> None:
    pair = [latent, latent.with_condition(GUIDED)]
    together = painter.edit(pair, {SMILING: 2.0})
    for image, one in zip(together, pair, strict=True):
        assert max_error(image, painter.edit(one, {SMILING: 2.0})) < 1e-5


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_step_is_that_of_sega(pipe: Any, painter: Editor, latent: Latent) -> None:
    """Without its mask, which is hard, its momentum and its warm-up."""
    library: Any = diffusers
    parts = {name: each for name, each in pipe.components.items() if name != "image_encoder"}
    sega = library.SemanticStableDiffusionPipeline(**parts, requires_safety_checker=False)
    sega.set_progress_bar_config(disable=True)
    states: list[Tensor] = []
    sega(
        "a photo of the man",
        negative_prompt="young",
        height=pipelines.SIZE,
        width=pipelines.SIZE,
        num_inference_steps=4,
        guidance_scale=3.0,
        latents=latent.x[None].float(),
        output_type="latent",
        editing_prompt=["smiling", "old"],
        edit_guidance_scale=[5.0, 2.0],
        reverse_editing_direction=[False, True],
        edit_warmup_steps=0,
        edit_threshold=0.0,
        edit_momentum_scale=0.0,
        callback=lambda step, t, x: states.append(x.double()),
    )
    (edit,) = make_edits(painter.model, {SMILING: 5.0, WordDirection("old"): -2.0})
    schedule = painter.model.schedule
    first, second = schedule.level(752), schedule.level(502)
    x0, eps = edit.guide(painter.model.conditioned_on(GUIDED), GUIDED)(latent.x[None].float().double(), first)
    ours = second.alpha * x0 + second.sigma * eps
    torch.testing.assert_close(ours, states[0], atol=1e-4, rtol=0)


def test_classes_are_words_for_models_of_classes(classes: Editor) -> None:
    latent = classes.noise([1], InversionConfig(steps=4, condition=Condition(label=3)))[0]
    other = classes.decode(latent.with_condition(Condition(label=5)))
    for words in (WordDirection(5, 3), WordDirection("5", "3")):
        assert max_error(classes.edit(latent, {words: 1.0}), other) < 1e-4 * float(other.abs().max())
    assert torch.equal(classes.edit(latent, {"5": 2.0}), classes.edit(latent, {WordDirection(5): 2.0}))
    for words, told in [
        (WordDirection("a dog"), "dit follows classes from 0 to 999, not words"),
        (WordDirection(1000), "The class 1000 does not exist"),
        (WordDirection(5, 3, "embedding"), "dit follows classes, which have no embeddings"),
    ]:
        with pytest.raises(ArgumentError, match=told):
            classes.edit(latent, {words: 1.0})


def test_words_that_mean_nothing_are_refused_before_anything_is_inverted(
    editor: Editor, painter: Editor, portraits: list[Path]
) -> None:
    spent: list[int] = []
    counting = Editor(painter.model, on_evaluation=spent.append)
    fitted = made(painter, "fitted", 1, "xT", CONFIG)
    refusals: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (ArgumentError, "tiny is unconditional: it follows no words", lambda: editor.edit(portraits, {OLD: 1.0})),
        (DirectionError, "Words are for models that follow prompts", lambda: editor.edit(portraits, {"smiling": 1.0})),
        (ArgumentError, "follows prompts, not classes", lambda: counting.edit(portraits, {WordDirection(3): 1.0})),
        (ArgumentError, "to change and to stay", lambda: counting.edit(portraits, {OLD: 1.0}, keep=[OLD])),
        (ArgumentError, "finite", lambda: counting.edit(portraits, {OLD: float("nan")})),
        (ArgumentError, "words keep words", lambda: counting.edit(portraits, {OLD: 1.0}, keep=[fitted])),
        (ArgumentError, "words keep words", lambda: counting.edit(portraits, {fitted: 1.0}, keep=[OLD])),
        (ArgumentError, "as fitted was fitted", lambda: counting.edit(portraits, {fitted: 1.0, OLD: 1.0}, steps=9)),
    ]
    for kind, told, refused in refusals:
        with pytest.raises(kind, match=SENTENCE) as caught:
            refused()
        assert told in str(caught.value)
    assert not spent
    in_h = made(painter, "h", 1, "h", CONFIG)
    with pytest.raises(ArgumentError, match="cannot be combined"):
        painter.edit(painter.invert(portraits[0], CONFIG), {in_h: 1.0, EMBEDDED: 1.0})


@pytest.mark.parametrize(
    "options",
    [
        {"to": " "},
        {"to": "a", "from_": "a"},
        {"to": "a", "form": "attention"},
        {"to": "a", "mask_quantile": 1.0},
        {"to": "a", "warm_up": -0.1},
        {"to": "a", "form": "embedding", "warm_up": 0.1},
    ],
)
def test_words_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=SENTENCE):
        WordDirection(**options)
