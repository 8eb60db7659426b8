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
        if not self._is_training:
            return ()
        own = [self.network.name, *sorted(each.name for each in self.network.parent.glob("text_encoder*"))]
        names = " and ".join(f"{self.network.parent.name}/{each}" for each in own)
        return (f"the network is that of {names}, the rest of {self.rest.name}",)

    @property
    def _is_training(self) -> bool:
        return self.network.parent not in (self.rest, self.rest.resolve()) and self.network != self.rest

    def text_encoder(self, name: str) -> Path:
        """Return the folder of a text encoder, which scripts save beside the network where they train it too."""
        own = self.network.parent / name
        return own if self._is_training and own.is_dir() else self.rest / name

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
    it, which comes first, and text encoders if they are trained too. Everything else is in the folder above, once it is
    written.

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
