"""Diffusers-format folders of pixel-space models, packaged, on disk or on the hub, as a `Model`."""

import hashlib
import json
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ddim_edit.backends.placed import PRECISIONS, Placed, dtype_name, find_device, state_device
from ddim_edit.backends.unet import WEIGHTS, UNet, load_unet
from ddim_edit.codec import codec_for
from ddim_edit.denoise import READINGS, NetworkDenoiser
from ddim_edit.errors import ModelError
from ddim_edit.model import Model
from ddim_edit.schedule import NoiseSchedule

DEFAULT_MODEL = "faces64"
# All of them say how the same variance-preserving process was discretised in training; others mean other processes.
_SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
)


def packaged_models() -> dict[str, Path]:
    """The models that come with the package, by name."""
    shelf = Path(str(resources.files("ddim_edit.assets"))) / "models"
    return {folder.name: folder for folder in sorted(shelf.iterdir()) if folder.is_dir()}


def load_model(name_or_path: str | Path | None = None, device: str = "cpu", dtype: str = "float32") -> Model:
    """Load a pixel-space diffusers model (`UNet2DModel`); no latent-diffusion or text-conditioned ones.

    Args:
        name_or_path: a packaged model's name, a folder, or a hub id such as google/ddpm-cifar10-32, which is
            downloaded; faces64 when left out.
        device: "auto", "cuda", "mps" or "cpu".
        dtype: "float32", "tf32", "bfloat16" or "float16".

    Raises:
        ModelError: no such model, or one that cannot be run as it claims.
        ArgumentError: a device or dtype that this machine does not have.
    """
    name = str(name_or_path or DEFAULT_MODEL)
    folder = _of_pixels(_locate(name))
    place, dtype = find_device(device), dtype_name(dtype)
    schedule, prediction = read_scheduler(folder)
    weights = _part(folder, "unet")
    unet = _unconditional(load_unet(weights))
    network = Placed(unet.to(place, PRECISIONS[dtype].dtype), place, PRECISIONS[dtype])
    return Model(
        denoiser=NetworkDenoiser(network, READINGS[prediction]),
        codec=codec_for(unet.config.in_channels),
        schedule=schedule,
        shape=_shape(unet),
        name=folder.resolve().name if Path(name).is_dir() else name,
        weights=hashlib.sha256((weights / WEIGHTS).read_bytes()).hexdigest(),
        prediction=prediction,
        dtype=dtype,
        device=place,
        state_device=state_device(place),
    )


def _of_pixels(folder: Path) -> Path:
    for autoencoder in ("vae", "vqvae"):
        if (folder / autoencoder).is_dir():
            remedy = "use another one: its network does not see pixels"
            raise ModelError("a pixel-space model", f"one with an autoencoder ({autoencoder})", remedy)
    return folder


def _unconditional(unet: UNet) -> UNet:
    if unet.class_embedding is not None:
        raise ModelError("an unconditional model", "a class-conditional one", "use `load_unet` and your own denoiser")
    return unet


def _shape(unet: UNet) -> tuple[int, int, int]:
    size, channels = unet.config.sample_size, unet.config.in_channels
    if size is None or channels != unet.config.out_channels:
        given = f"sample_size {size} and {channels} channels in, {unet.config.out_channels} out"
        raise ModelError("a model with a fixed size that answers in its own channels", given, "use another one")
    height, width = (size, size) if isinstance(size, int) else size
    return channels, height, width


def read_scheduler(folder: Path) -> tuple[NoiseSchedule, str]:
    """The noise schedule and the prediction type of a diffusers folder.

    Raises:
        ModelError: no scheduler_config.json, or one whose process is not supported.
    """
    path = _part(folder, "scheduler") / "scheduler_config.json"
    config = _read_json(path)
    if (kind := config.get("_class_name", "DDPMScheduler")) not in _SCHEDULERS:
        raise ModelError(f"a scheduler out of {', '.join(_SCHEDULERS)}", f"{kind!r}", "use another model")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in READINGS:
        raise ModelError(f"a prediction_type out of {', '.join(READINGS)}", f"{prediction!r}", "use another model")
    if config.get("rescale_betas_zero_snr"):
        raise ModelError(
            "a schedule that keeps some signal at T",
            "rescale_betas_zero_snr",
            "its x_T holds no image to invert",
        )
    return _schedule(config), prediction


def _schedule(config: Mapping[str, Any]) -> NoiseSchedule:
    if config.get("trained_betas") is not None:
        return NoiseSchedule(np.asarray(config["trained_betas"], dtype=np.float64))
    kind, T = config.get("beta_schedule", "linear"), config.get("num_train_timesteps", 1000)
    ends = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    makers: Mapping[str, Callable[[], NoiseSchedule]] = {
        "linear": lambda: NoiseSchedule.linear(*ends, T),
        "scaled_linear": lambda: NoiseSchedule.scaled_linear(*ends, T),
        "squaredcos_cap_v2": lambda: NoiseSchedule.cosine(T),
    }
    if kind not in makers:
        raise ModelError(f"a beta_schedule out of {', '.join(makers)}", f"{kind!r}", "give its trained_betas")
    return makers[kind]()


def _part(folder: Path, name: str) -> Path:
    """A component's folder; old checkpoints such as google/ddpm-* keep everything in one."""
    return folder / name if (folder / name).is_dir() else folder


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        given = f"{path.parent.name}/{path.name}, which cannot be read"
        raise ModelError("a diffusers folder with a scheduler_config.json", given, "check the folder") from error
    if not isinstance(config, dict):
        raise ModelError("a JSON object", f"something else in {path.name}", "check the folder")
    return config


def _locate(name: str) -> Path:
    packaged = packaged_models()
    if name in packaged:
        return packaged[name]
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _download(name)
    wanted = f"a model folder, a hub id or one of {', '.join(packaged)}"
    raise ModelError(wanted, name, "check the spelling; see `ddim-edit models`")


def _download(name: str) -> Path:
    """Fetch a checkpoint that the user named from the hub, into the hub's own cache; configs and safetensors only."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        remedy = "pip install 'ddim-edit[diffusers]', or check the path"
        raise ModelError("a model folder, or huggingface_hub to download with", name, remedy) from error
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # the hub's errors have no common base below Exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError("a folder or a checkpoint on the hub", f"{name} ({reason})", "check the name") from error
