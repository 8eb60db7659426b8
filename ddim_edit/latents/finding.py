"""Find latent files: by their paths, in a folder, and on the hub."""

from pathlib import Path

from ddim_edit.errors import LatentError
from ddim_edit.latents.latent import SUFFIX, Latent, Latents
from ddim_edit.models.hub_files import HubId, find_files


def load_latents(path_or_id: str | Path, offline: bool = False) -> Latents:
    """Return the latents of a file, of a folder, or of a repository on the hub, in the order of their names.

    Args:
        path_or_id: in this order a file, a folder of `*.latent.safetensors` files, or a hub id: "owner/name", or
            "owner/name/latent" for one of several, both also with "@revision". It is downloaded if it is not in the
            hub's cache.
        offline: whether a hub id may come from the cache only; HF_HUB_OFFLINE=1 has the same effect.

    Raises:
        LatentError: no such file, folder or repository, none in it, or a file that cannot be read.
        MissingExtraError: a hub id, and huggingface_hub is not installed.

    Examples:
        >>> from ddim_edit import Editor
        >>> Editor.from_pretrained().noise([7])[0].save("seed-7.latent.safetensors")
        >>> load_latents("seed-7.latent.safetensors")[0].recipe.origin.seed
        7
        >>> latents = load_latents("someone/faces")  # doctest: +SKIP
    """
    path = Path(path_or_id)
    hub_id = HubId.parse(str(path_or_id))
    if path.is_dir():
        files = sorted(path.glob(f"*{SUFFIX}"))
        if not files:
            raise LatentError(f"{path}: the folder has no *{SUFFIX} file. Write some with `ddim-edit invert`.")
    elif hub_id is None or path.exists() or path.name.endswith(SUFFIX):
        files = [path]
    else:
        files = list(find_files(hub_id, SUFFIX, LatentError, offline).values())
    return Latents(map(Latent.load, files))
