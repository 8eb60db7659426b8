"""A hub on this machine that huggingface_hub takes for the only one, with an empty cache, and things to share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_api
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

from ddim_edit import Direction, Editor, Latent, load_model

from .. import tiny
from .server import TOKEN, FakeHub, serving


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub, to which one is logged in."""
    with serving() as hub:
        use(hub.endpoint, tmp_path, monkeypatch)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        disable_progress_bars()  # as the command line does for itself, in a process that has not imported the hub
        yield hub
        enable_progress_bars()


def use(endpoint: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have huggingface_hub use this hub, whose environment it read when it was imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(hf_api.api, "endpoint", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(folder / "tokens"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="package")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.save_model(tmp_path_factory.mktemp("models") / "tiny")
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    tiny.write_json(folder / "model_index.json", {**index, "scheduler": ["diffusers", "DDPMScheduler"]})
    (folder / "optimizer.pt").write_bytes(b"not to be shared")
    return folder


@pytest.fixture(scope="package")
def editor(model_folder: Path) -> Editor:
    return Editor(load_model(model_folder))


@pytest.fixture(scope="package")
def warm(editor: Editor) -> Direction:
    return editor.attribute_from(tiny.pixels(1), tiny.pixels(2), "warm", steps=6)


@pytest.fixture(scope="package")
def cold(editor: Editor) -> Direction:
    return editor.attribute_from(tiny.pixels(2), tiny.pixels(1), "cold", steps=6)


@pytest.fixture(scope="package")
def latent(editor: Editor) -> Latent:
    return editor.invert(tiny.pixels(3), steps=4)
