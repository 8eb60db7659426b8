"""Where the components of a checkpoint are: in one folder, or beside and above a checkpoint of a training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim_edit.models.pretrained import read_config

INDEX = "model_index.json"
NETWORKS = ("transformer", "unet")
"""What the network of a checkpoint is called, in folders and in pipelines."""
AUTOENCODERS = ("vae", "vqvae")
"""What its autoencoder is called."""
_AVERAGED = ("unet_ema", "transformer_ema")


@dataclass(frozen=True)
class FolderLayout:
    """The folders of a checkpoint.

    Args:
        network: has the network.
        rest: has the components of the rest, each in a folder of its own, or all in one.
    """

    network: Path
    rest: Path

    @property
    def index(self) -> dict[str, Any]:
        """What model_index.json says, if there is one."""
        return read_config(self.rest / INDEX) if (self.rest / INDEX).is_file() else {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what is not where a checkpoint has it."""
        if self.network.parent in (self.rest, self.rest.resolve()) or self.network == self.rest:
            return ()
        return (f"the network is that of {self.network.parent.name}/{self.network.name}, the rest of {self.rest.name}",)

    @property
    def autoencoder(self) -> Path | None:
        """The folder of the autoencoder, if there is one."""
        return autoencoder_folder(self.rest)


def autoencoder_folder(folder: Path) -> Path | None:
    """Return the folder of the autoencoder in that of a checkpoint, if there is one."""
    return next((folder / name for name in AUTOENCODERS if (folder / name).is_dir()), None)


def find_layout(folder: Path) -> FolderLayout:
    """Return where the components of a checkpoint are.

    Scripts of diffusers save `checkpoint-500/unet` and, where they average weights, `checkpoint-500/unet_ema` beside
    it, which comes first. Autoencoder, text encoders and scheduler are in the folder above, once it is written.

    Args:
        folder: a checkpoint, or such a `checkpoint-500` or a part of it.
    """
    if (folder / INDEX).is_file():
        names: tuple[str, ...] = NETWORKS
        above: list[Path] = []
    else:
        names = (*_AVERAGED, *NETWORKS)
        above = [folder.resolve().parent]
        if folder.name in names:
            above.append(above[0].parent)
    network = next((folder / name for name in names if (folder / name).is_dir()), folder)
    for each in (folder, *above):
        if (each / INDEX).is_file() or (each / "scheduler").is_dir():
            return FolderLayout(network, each)
    return FolderLayout(network, folder)
