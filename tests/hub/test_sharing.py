"""Directions, latents and models on a hub: what is written there, what comes back, and when anything is asked."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ddim_edit import (
    ArgumentError,
    Direction,
    DirectionError,
    Editor,
    Latent,
    LatentError,
    MissingExtraError,
    ModelError,
    WordDirection,
    find_direction,
    load_latents,
    load_model,
    save_to_hub,
)
from ddim_edit.cli import main
from ddim_edit.directions import resolve_direction
from ddim_edit.models.hub_files import HubId

from .. import tiny
from .conftest import use
from .server import TOKEN, FakeHub

# huggingface_hub 2.4 passes its HTTP library a file as `data`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
ONE_LINE = r"^[^\n]+$"


def card(hub: FakeHub, repo: str) -> tuple[dict[str, Any], str]:
    """Front matter and text of the card of a repository."""
    _, front, text = hub.repos[repo]["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(front), text


# Writing.


def test_a_direction_comes_back_from_the_hub(hub: FakeHub, editor: Editor, warm: Direction) -> None:
    assert save_to_hub(warm, "me/warm", license="mit") == f"{hub.endpoint}/me/warm"
    found = find_direction("me/warm", "tiny")
    assert torch.equal(found.vector.float(), warm.vector.float())
    assert (found.recipe, found.sd, found.report) == (warm.recipe, warm.sd, warm.report)
    wanted, edited = editor.edit(tiny.pixels(0), {warm: 2}), editor.edit(tiny.pixels(0), {"me/warm": 2})
    assert (edited - wanted).abs().max() < 1e-4  # vectors are float32 in files


def test_the_card_of_directions_says_how_they_were_fitted_and_where_they_belong(
    hub: FakeHub, warm: Direction, cold: Direction
) -> None:
    save_to_hub([warm, cold], "me/light", license="cc-by-4.0", description="Fitted to two pictures.")
    front, text = card(hub, "me/light")
    assert (front["license"], front["library_name"]) == ("cc-by-4.0", "ddim-edit")
    assert "ddim-edit" in front["tags"]
    for said in (
        "Fitted to two pictures.",
        warm.recipe.components["network"],
        warm.recipe.components["process"],
        warm.recipe.grid,
        warm.level,
        str(warm.report["method"]),
        "ddim-edit edit portrait.jpg --set me/light/warm=+0.84 -o out/ --model tiny",
    ):
        assert said in text


def test_latents_come_back_from_the_hub(hub: FakeHub, editor: Editor, latent: Latent) -> None:
    other = editor.noise([7])[0]
    save_to_hub([latent, other], "me/faces", license="mit")
    found = load_latents("me/faces")
    assert [torch.equal(a.x, b.x) for a, b in zip(found, [latent, other], strict=True)] == [True, True]
    assert torch.equal(load_latents("me/faces/0001")[0].x, other.x)
    assert torch.equal(editor.decode(found[0]), editor.decode(latent))
    _, text = card(hub, "me/faces")
    assert latent.recipe.components["network"] in text
    assert 'load_latents("me/faces")' in text


def test_a_model_comes_back_from_the_hub_without_what_is_not_read(
    hub: FakeHub, editor: Editor, model_folder: Path
) -> None:
    save_to_hub(model_folder, "me/model", license="mit")
    assert set(hub.repos["me/model"]) == {
        "README.md",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    front, text = card(hub, "me/model")
    assert front["library_name"] == "diffusers"
    assert editor.model.components["network"] in text
    assert load_model("me/model").components == editor.model.components


def test_the_card_of_a_model_keeps_what_its_own_says(hub: FakeHub, model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    for path in model_folder.rglob("*.*"):
        target = folder / path.relative_to(model_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (folder / "README.md").write_text("---\nlicense: other\n---\n# Waves\n\nTrained on waves.\n")
    save_to_hub(folder, "me/waves", license="mit")
    front, text = card(hub, "me/waves")
    assert front["license"] == "mit"
    assert text.strip().startswith("# Waves\n\nTrained on waves.\n\n## What it is")


def test_a_second_push_adds_to_the_repository(hub: FakeHub, warm: Direction, cold: Direction, tmp_path: Path) -> None:
    save_to_hub(warm, "me/light", license="mit", private=True)
    file = tmp_path / "blue.direction.safetensors"
    cold.save(file)
    save_to_hub(file, "me/light", license="mit")
    assert hub.private == {"me/light"}
    assert {"warm.direction.safetensors", "blue.direction.safetensors"} <= set(hub.repos["me/light"])
    assert hub.repos["me/light"]["blue.direction.safetensors"] == file.read_bytes()


@pytest.mark.parametrize(
    ("things", "repo", "terms", "sentence"),
    [
        ([], "me/warm", "mit", "A repository holds directions, latents, or one model"),
        (["a.direction.safetensors", "a.latent.safetensors"], "me/warm", "mit", "one of these kinds"),
        (["a.direction.safetensors"], "warm", "mit", "'warm' is no hub id such as owner/name"),
        (["a.direction.safetensors"], "me/warm/a", "mit", "is no hub id such as owner/name"),
        (["a.direction.safetensors"], "me/warm", "mit\nx: y", "is no license as the hub spells them"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_is_asked(
    hub: FakeHub, things: list[str], repo: str, terms: str, sentence: str
) -> None:
    with pytest.raises(ArgumentError, match=sentence):
        save_to_hub(things, repo, license=terms)
    assert not hub.requests


def test_things_of_two_models_are_refused(hub: FakeHub, warm: Direction, cold: Direction) -> None:
    other = replace(cold, recipe=replace(cold.recipe, components={"network": "0-0-0", "process": "0"}))
    with pytest.raises(ArgumentError, match="warm and cold are of two models"):
        save_to_hub([warm, other], "me/light", license="mit")
    with pytest.raises(ArgumentError, match="Two of these are called warm"):
        save_to_hub([warm, warm], "me/light", license="mit")
    assert not hub.requests


def test_a_folder_that_could_not_be_loaded_from_the_hub_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is no diffusers folder: it has no model_index\.json"):
        save_to_hub(tiny.save_model(tmp_path / "plain"), "me/model", license="mit")
    assert not hub.requests


def test_without_a_login_one_sentence_says_how_to_get_one(
    hub: FakeHub, warm: Direction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        DirectionError, match=r"^You are not logged in to the hub\. Run `hf auth login`, or set HF_TOKEN\.$"
    ):
        save_to_hub(warm, "me/warm", license="mit")
    assert not hub.requests


def test_a_token_that_is_refused_is_not_shown(hub: FakeHub, warm: Direction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrongButSecret")
    with pytest.raises(DirectionError, match=ONE_LINE) as refused:
        save_to_hub(warm, "me/warm", license="mit")
    assert str(refused.value) == "me/warm: the hub refused the token. Log in with one that may do this."
    assert not hub.repos


# Reading.


def test_nothing_is_asked_for_what_is_in_the_cache(hub: FakeHub, warm: Direction) -> None:
    save_to_hub(warm, "me/warm", license="mit")
    find_direction("me/warm", "tiny")
    asked = len(hub.requests)
    assert find_direction("me/warm", "tiny").name == find_direction("me/warm", "tiny", offline=True).name == "warm"
    assert find_direction(f"me/warm@{hub.sha('me/warm')}", "tiny").name == "warm"
    assert len(hub.requests) == asked


@pytest.mark.parametrize("offline", ["argument", "environment"])
@pytest.mark.usefixtures("unplugged")
def test_offline_what_is_not_cached_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: str) -> None:
    use("http://127.0.0.1:9", tmp_path, monkeypatch)
    if offline == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = r"^me/warm is not in the cache of the hub, and we are offline\. Fetch it once with a connection"
    with pytest.raises(DirectionError, match=said):
        find_direction("me/warm", "tiny", offline=offline == "argument")
    with pytest.raises(LatentError, match=said):
        load_latents("me/warm", offline=offline == "argument")


@pytest.mark.usefixtures("unplugged")
def test_an_editor_that_was_loaded_offline_stays_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    use("http://127.0.0.1:9", tmp_path, monkeypatch)
    editor = Editor.from_pretrained(model_folder, offline=True)
    for ask in (editor.direction, lambda name: editor.edit(tiny.pixels(0), {name: 1})):
        with pytest.raises(DirectionError, match="and we are offline"):
            ask("me/warm")


@pytest.mark.usefixtures("unplugged")
def test_files_and_packaged_names_come_before_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: Direction, latent: Latent
) -> None:
    use("http://127.0.0.1:9", tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me").mkdir()
    warm.save("me/warm")
    assert find_direction("me/warm", "tiny").name == "warm"
    with pytest.raises(DirectionError, match="no such file"):
        find_direction("me/nothing.direction.safetensors", "tiny")
    (tmp_path / "me" / "faces").mkdir()
    latent.save("me/faces/a.latent.safetensors")
    assert len(load_latents("me/faces")) == len(load_latents("me/faces/a.latent.safetensors")) == 1


def test_one_of_several_directions_is_named(hub: FakeHub, warm: Direction, cold: Direction) -> None:
    save_to_hub([warm, cold], "me/light", license="mit")
    assert find_direction("me/light/cold", "tiny").name == "cold"
    with pytest.raises(
        DirectionError, match=r"has the directions cold, warm\. Name one of them, as in me/light/cold\."
    ):
        find_direction("me/light", "tiny")
    with pytest.raises(DirectionError, match=r"me/light has no old\.direction\.safetensors\. It has cold, warm\."):
        find_direction("me/light/old", "tiny")


def test_answers_of_the_hub_are_understood(hub: FakeHub, latent: Latent) -> None:
    save_to_hub(latent, "me/faces", license="mit")
    for name, sentence in {
        "no/where": "no/where: the hub does not know it. Check the spelling, or log in to see it.",
        "me/faces@nowhere": "me/faces@nowhere: the hub does not know this revision. Check what follows the @.",
        "me/faces": "me/faces has no *.direction.safetensors file. Check the spelling.",
    }.items():
        with pytest.raises(DirectionError, match=ONE_LINE) as refused:
            find_direction(name, "tiny")
        assert str(refused.value) == sentence


def test_a_hub_that_is_not_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: FakeHub, warm: Direction
) -> None:
    use("http://127.0.0.1:9", tmp_path, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(DirectionError, match=r"^me/warm: cannot connect to the hub \([^\n]+\)\. Check the connection"):
        find_direction("me/warm", "tiny")


@pytest.mark.parametrize(
    "text", ["old", "./old", "a/b/c/d", "a b/c", "../a/b", "/a/b", "a/b@", "~/old", "a--b/c", "a/..", "smiling, old"]
)
def test_paths_and_words_are_no_hub_ids(text: str) -> None:
    assert HubId.parse(text) is None


def test_without_huggingface_hub_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, warm: Direction) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for ask in (lambda: find_direction("me/warm", "tiny"), lambda: save_to_hub(warm, "me/warm", license="mit")):
        with pytest.raises(MissingExtraError, match=r"pip install 'ddim-edit\[hub\]'"):
            ask()


# Words.


def test_for_models_that_follow_words_only_the_cache_makes_a_hub_id(
    hub: FakeHub, editor: Editor, warm: Direction
) -> None:
    from ddim_edit.models.conditioning import ClassLabels, Conditioner

    denoiser = editor.model.denoiser
    conditioner = Conditioner(denoiser, denoiser.network, ClassLabels("tiny", 3))
    model = replace(editor.model, conditioner=conditioner)
    save_to_hub(warm, "man/woman", license="mit")
    asked = len(hub.requests)
    assert isinstance(resolve_direction("man/woman", model), WordDirection)
    assert len(hub.requests) == asked
    find_direction("man/woman", "tiny")
    assert isinstance(resolve_direction("man/woman", model), Direction)


# The command line.


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out, said.err


def test_a_direction_is_pushed_and_edits_by_its_id(
    hub: FakeHub, warm: Direction, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, photo = tmp_path / "warm.direction.safetensors", tiny.save_picture(tmp_path / "photo.png")
    warm.save(file)
    pushed = run(capsys, "push", file, "me/warm", "--license", "mit", "--description", "Waves.")
    assert pushed == (0, f"{hub.endpoint}/me/warm\n", "")
    assert "Waves." in card(hub, "me/warm")[1]
    edit = ("edit", photo, "--set", "me/warm=+2", "--model", model_folder, "--dtype", "fp32", "--json")
    offline = run(capsys, *edit, "-o", tmp_path / "out", "--offline")
    assert offline[0] == 1
    assert "me/warm is not in the cache of the hub, and we are offline" in offline[2]
    code, out, _ = run(capsys, *edit, "-o", tmp_path / "out")
    assert code == 0
    assert json.loads(out)["set"] == {"me/warm": 2.0}


def test_the_command_line_never_shows_the_token(
    hub: FakeHub, warm: Direction, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrongButSecret")
    warm.save(tmp_path / "warm.direction.safetensors")
    code, out, err = run(capsys, "push", tmp_path / "warm.direction.safetensors", "me/warm", "--license", "mit")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"error: me/warm: the hub refused the token\. [^\n]+\n", err)
