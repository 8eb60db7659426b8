"""`load_model`: a checkpoint of any family, by whatever name users have for it, as a `Model`."""

from importlib import resources
from pathlib import Path

from ddim_edit.errors import ModelError
from ddim_edit.models.assembly import CheckpointBundle, LoadOptions, assemble, fingerprint
from ddim_edit.models.blocks import require_blocks
from ddim_edit.models.codec.pixels import codec_for
from ddim_edit.models.folder import load_folder
from ddim_edit.models.hub import fetch
from ddim_edit.models.model import Model
from ddim_edit.models.placement import dtype_name, find_device
from ddim_edit.models.single_file.loading import SUFFIXES, load_single_file

DEFAULT_MODEL = "faces64"


def packaged_models() -> dict[str, Path]:
    """The models that come with the package, by name."""
    shelf = Path(str(resources.files("ddim_edit.assets"))) / "models"
    return {folder.name: folder for folder in sorted(shelf.iterdir()) if folder.is_dir()}


def load_model(
    name_or_path: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    size: int | tuple[int, int] | None = None,
    offline: bool = False,
    compiled: bool = False,
    blocks: str = "eager",
) -> Model:
    """Load a checkpoint of any family in docs/models.md; what it is is read from its files.

    Args:
        name_or_path: a packaged model's name, a diffusers folder, a checkpoint file, or a hub id such as
            google/ddpm-cifar10-32, which is downloaded if it is not in the hub's cache; faces64 when left out.
        device: "auto", "cuda", "mps" or "cpu".
        dtype: of the network, "float32", "tf32", "bfloat16", "float16" or "mixed", float32 and below s = 1 bfloat16;
            autoencoders and text encoders stay float32.
        size: height and width of the pictures, or one number for both; as trained when left out.
        offline: whether a hub id may come from the cache only; HF_HUB_OFFLINE=1 says so too.
        compiled: whether TorchInductor compiles the network, which takes a minute for every batch size.
        blocks: how the blocks of a pixel-space UNet run: "eager"; "fused", with Triton kernels for group norm,
            embedding and SiLU on CUDA devices where these work, and as "eager" elsewhere; or "compiled" one by one by
            TorchInductor. Networks of diffusers run as they are.

    Raises:
        ModelError: no such model, or one that cannot be run as it claims.
        ArgumentError: a device, dtype or size that cannot be had, an unknown `blocks`, or both ways of compiling.
    """
    require_blocks(blocks, compiled)
    pair = (size, size) if isinstance(size, int) else size
    options = LoadOptions(find_device(device), dtype_name(dtype), pair, compiled, blocks)
    return load_with_options(str(name_or_path or DEFAULT_MODEL), options, offline)


def load_with_options(name: str, wish: LoadOptions, offline: bool = False) -> Model:
    """Load a checkpoint as `load_model` does, with all that `LoadOptions` can ask for."""
    path = _locate(name, offline)
    title = path.resolve().stem if path.is_file() else path.resolve().name if Path(name).is_dir() else name
    loaded = _load_file(path) if path.is_file() else load_folder(path, title, wish)
    return assemble(title, loaded, wish)


def _load_file(path: Path) -> CheckpointBundle:
    checkpoint = load_single_file(path)
    return CheckpointBundle(checkpoint, codec_for(checkpoint.channels), fingerprint([path]))


def _locate(name: str, offline: bool) -> Path:
    packaged = packaged_models()
    if name in packaged:
        return packaged[name]
    if (path := Path(name)).exists():
        return path
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and path.suffix not in SUFFIXES:
        return fetch(name, offline)
    wanted = f"a model folder or file, a hub id or one of {', '.join(packaged)}"
    raise ModelError(wanted, name, "check the spelling; see `ddim-edit models`")
