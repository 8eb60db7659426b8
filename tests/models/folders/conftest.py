"""Folders of every family, written by diffusers once for all tests, and the models in them."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import diffusers
import pytest

from ddim_edit import Editor, Model, load_model

from ... import pipelines
from .originals import ORIGINALS, epsilon

Diffusers: Any = diffusers  # its types are hidden from mypy
Folders = Callable[..., Path]
Models = Callable[..., Model]
Editors = Callable[[str], Editor]
TAME, EPS_TAME = 0.02, 0.002
"""So much of a network's answer is left where a walk must be a mild one; x_T divides an eps by alpha_T."""


@pytest.fixture(scope="package")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The folder of a family by name, with a share of its last layer; not to be changed."""
    shelf = tmp_path_factory.mktemp("folders")

    @cache
    def folder(family: str, share: float = 1.0) -> Path:
        latent = pipelines.LATENTS.get(family)
        make = pipelines.PIXELS[family] if latent is None else partial(latent, shelf / "tokens")
        return pipelines.save(make, shelf / f"{family} {share:g}", share=share)

    return folder


@pytest.fixture(scope="package")
def models(folders: Folders) -> Models:
    """Flux alone has no size of its own that is small."""
    return cache(lambda family, share=1.0: load_model(folders(family, share), size=pipelines.SIZE))


@pytest.fixture(scope="package")
def editors(models: Models) -> Editors:
    """Editors on tame models."""

    def tame(family: str) -> Editor:
        return Editor(models(family, EPS_TAME if ORIGINALS[family].said is epsilon else TAME))

    return cache(tame)


@pytest.fixture(scope="package")
def pipe_of(folders: Folders) -> Callable[[str], Any]:
    """A family's pipeline as diffusers loads it, afresh."""

    def load(family: str) -> Any:
        absent = {"text_encoder_3": None, "tokenizer_3": None} if family == "stable diffusion 3" else {}
        pipe = Diffusers.DiffusionPipeline.from_pretrained(folders(family), local_files_only=True, **absent)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return load


@pytest.fixture(autouse=True)
def silent() -> None:
    """Diffusers' bars would fill the reports of failures."""
    Diffusers.utils.logging.disable_progress_bar()
