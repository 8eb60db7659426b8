"""A scikit-learn transformer from images to latents, so that latents can feed any estimator."""

from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags

from ddim_edit.config import InversionConfig
from ddim_edit.diffusion.grids import STANDARD
from ddim_edit.editor import Editor
from ddim_edit.errors import ArgumentError
from ddim_edit.images import Crop
from ddim_edit.images.arrays import CHANNELS
from ddim_edit.latents.cache import LatentCache
from ddim_edit.models.loading import load_model
from ddim_edit.models.model import Model


class _SharedModel:
    """One loaded model, which an encoder and its clones share, and the widths of the tables that they made."""

    def __init__(self) -> None:
        self.widths: dict[tuple[object, ...], int] = {}
        self._lock = Lock()
        self._key: tuple[object, ...] = ()
        self._model: Model | None = None

    def get(self, model: str | Path | None, device: str, dtype: str) -> Model:
        """Return the model, loaded unless it is the one that was asked for last."""
        with self._lock:
            key = (model, device, dtype)
            if self._model is None or self._key != key:
                self._model, self._key = load_model(model, device, dtype), key
            return self._model


class LatentEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Transforms images to their latents at one level, float32 [n, d]; there is nothing to fit.

    Clones, as searches and cross-validation make them, use the network of the original, whichever of them loads it
    first. Copies in other processes load their own.

    Args:
        model: a packaged model's name, a diffusers folder or a hub id; faces64 when left out.
        level: a time (400), a part of T ("0.4T"), "xT", "h" or "h:LEVEL", as `Editor.latents_at` reads it.
        solver: a single-state solver.
        grid, steps, dequantise: as for `InversionConfig`.
        crop: what to keep of a file whose shape is not the model's; the centre square when left out.
        device: "auto", "cuda", "mps" or "cpu".
        dtype: as for `load_model`, or "auto".
        batch_size: how many images go through the network at once.
        cache: folder that keeps latents, one file each, for the next call or process.

    Raises:
        ArgumentError: when it transforms, a level, solver or grid that does not exist; ModelError: no such model.
        ImageError: a file that cannot be used.

    References:
        Preechakul, Chatthee, Wizadwongsa, Suwajanakorn, "Diffusion Autoencoders: Toward a Meaningful and Decodable
        Representation", CVPR 2022, arXiv:2111.15640, for latents as features.
        Kwon, Jeong, Uh, "Diffusion Models Already Have a Semantic Latent Space", ICLR 2023, arXiv:2210.10960, for h.

    Examples:
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.pipeline import make_pipeline
        >>> classifier = make_pipeline(LatentEncoder(level="0.2T"), LogisticRegression())
        >>> classifier.fit(["a.png", "b.png"], [0, 1])  # doctest: +SKIP
    """

    def __init__(  # noqa: PLR0913 - scikit-learn wants every choice as an argument of its own
        self,
        model: str | Path | None = None,
        level: str | float = "0.4T",
        *,
        solver: str = "dpm2m",
        grid: str = STANDARD,
        steps: int = 20,
        dequantise: int | None = 0,
        crop: Crop | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 8,
        cache: str | Path | None = None,
    ) -> None:
        self.model = model
        self.level = level
        self.solver = solver
        self.grid = grid
        self.steps = steps
        self.dequantise = dequantise
        self.crop = crop
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self.cache = cache

    def fit(self, X: Any, y: Any = None) -> Self:
        """Do nothing; scikit-learn wants it."""
        _ = self._shared  # so that transform changes no attribute
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Return latents [n, d] of images as `Editor.invert` takes them, or of floats [n, 3, H, W] in [-1, 1]."""
        config = InversionConfig(self.solver, self.grid, self.steps, dequantise=self.dequantise)
        cache = None if self.cache is None else LatentCache(self.cache)
        editor = Editor(self._shared.get(self.model, self.device, self.dtype), self.batch_size)
        (latents,) = editor.latents_at(_images(X), [self.level], config, crop=self.crop, cache=cache)
        rows = latents.values.flatten(1).numpy()
        self._shared.widths[self.model, self.level] = rows.shape[1]
        return rows

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Return the names of the columns, "latent0" to "latent{d - 1}", of the numbers of a latent in C order.

        Args:
            input_features: not used: an image has no named columns.

        Raises:
            NotFittedError: before the first `transform`, which tells how many there are.
        """
        width = self._shared.widths.get((self.model, self.level))
        if width is None:
            raise NotFittedError("The number of columns is known once images have been transformed. Transform some.")
        return np.array([f"latent{column}" for column in range(width)], dtype=object)

    @cached_property
    def _shared(self) -> _SharedModel:
        return _SharedModel()

    def __sklearn_clone__(self) -> Self:
        """Return a clone that shares the loaded network."""
        made: Self = super().__sklearn_clone__()
        made._shared = self._shared
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the network, which is loaded again where it is unpickled."""
        return {name: value for name, value in super().__getstate__().items() if name != "_shared"}

    def __sklearn_tags__(self) -> Tags:
        """Return scikit-learn's tags: takes images, not tables, returns float32, and needs no fit."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        tags.requires_fit = False
        return tags


def _images(X: Any) -> Any:
    """Return what scikit-learn passes on as what the editor takes: images in columns as lists, numbers as tensors."""
    if not isinstance(X, np.ndarray):
        return X
    if X.dtype.kind in "OU":
        return X.ravel().tolist()
    if X.dtype.kind == "S":  # names of files, as numpy keeps those of bytes
        return [name.decode() for name in X.ravel().tolist()]
    if X.ndim != 4:
        raise ArgumentError(
            f"X must be paths or images, an array of shape [n, H, W, C] or [n, 3, H, W], not of {X.shape}. Do not "
            "flatten images."
        )
    channels_first = X.shape[1] == 3 and X.shape[3] not in CHANNELS
    return torch.from_numpy(X) if channels_first else X
