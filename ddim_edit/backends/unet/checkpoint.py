"""From a diffusers `unet` folder to a network that runs; safetensors and JSON only."""

from pathlib import Path

from ddim_edit.backends.component import WEIGHTS, read_json, read_weights
from ddim_edit.backends.unet.config import UNetConfig
from ddim_edit.backends.unet.network import UNet
from ddim_edit.backends.weights import fill


def load_unet(folder: Path) -> UNet:
    """The network in a diffusers `unet` folder, ready to run on the CPU; reads no pickles and no shards.

    It is float32 whatever the file holds, channels_last, in eval mode, and its weights ask for no gradients.
    The attention names of old checkpoints are understood.

    Errors: ModelError for a file that is missing, broken, sharded or a pickle, for a config that is not
    implemented, and for tensors that are missing, unknown or of another shape.
    """
    config = UNetConfig.from_dict(read_json(folder / "config.json"))
    weights = read_weights(folder / WEIGHTS)
    return fill(lambda: UNet(config), weights, str(folder / WEIGHTS))
