"""What text encoders make of a text is kept on disk, by the content of the text encoders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddim_edit import Condition, load_model
from ddim_edit.models import embedding_cache
from ddim_edit.models.conditioning import Conditioner
from ddim_edit.models.embedding_cache import CachedEncoding
from ddim_edit.models.prompts import PipelineEncoding

from .. import pipelines
from ..rounding import assert_alike


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ddim-edit" / "embeddings"


class Encoder:
    """Counts the texts that it encodes."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str) -> Mapping[str, Tensor]:
        self.texts.append(text)
        states = torch.full((1, 4), float(len(text)))
        return {"states": states, "first": states[:, :1]}


def test_a_text_is_encoded_once_by_all_processes_with_the_same_encoder(kept: Path) -> None:
    encoder = Encoder()
    for text in ("a man", "a \udcff man", "a man", "a \udcff man"):
        found = CachedEncoding(encoder, ("clip 1",))(text)
        assert torch.equal(found["states"], torch.full((1, 4), float(len(text))))
        assert found["first"].shape == (1, 1)
    CachedEncoding(encoder, ("clip 2",))("a man")
    assert encoder.texts == ["a man", "a \udcff man", "a man"]
    assert len(list(kept.iterdir())) == 3
    assert not any("man" in file.name or b"man" in file.read_bytes() for file in kept.iterdir())


def test_what_is_damaged_is_made_again(kept: Path) -> None:
    encoder = Encoder()
    encode = CachedEncoding(encoder, ())
    wanted = encode("a man")
    (file,) = kept.iterdir()
    for damage in (b"", b"{", file.read_bytes()[:-3]):
        file.write_bytes(damage)
        assert torch.equal(encode("a man")["states"], wanted["states"])
    assert len(encoder.texts) == 4


@pytest.mark.parametrize("place", ["/proc/nowhere", "relative"])
def test_a_cache_that_cannot_be_written_is_no_matter(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    assert CachedEncoding(Encoder(), ())("a man")["states"].shape == (1, 4)


def test_the_oldest_are_forgotten(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder()
    encode = CachedEncoding(encoder, ())
    encode("a")
    size = sum(file.stat().st_size for file in kept.iterdir())
    monkeypatch.setattr(embedding_cache, "_MOST", 2 * size)
    for text in ("b", "a", "c", "a", "b"):
        encode(text)
    assert encoder.texts == ["a", "b", "c", "b"]


def test_a_large_text_encoder_runs_once_for_all_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: Path
) -> None:
    folder = pipelines.save(lambda: pipelines.stable_diffusion(tmp_path / "tokens"), tmp_path / "model")
    texts: list[str] = []
    encode = PipelineEncoding.__call__

    def spy(self: PipelineEncoding, text: str) -> Any:
        texts.append(text)
        return encode(self, text)

    monkeypatch.setattr(PipelineEncoding, "__call__", spy)

    def states(**options: Any) -> Tensor:
        conditioner = load_model(folder, **options).conditioner
        assert isinstance(conditioner, Conditioner)
        return conditioner.encoder.positive(Condition("a man"))["encoder_hidden_states"]

    small = states(), states()
    assert not kept.exists()
    monkeypatch.setattr(embedding_cache, "_SMALLEST", 0)
    large = states(), states()
    assert torch.equal(*large)
    assert_alike(large[0], small[0])
    assert texts == ["", "a man"] * 3
    assert states(encoder_dtype="bf16").dtype == torch.bfloat16
    assert texts == ["", "a man"] * 4
