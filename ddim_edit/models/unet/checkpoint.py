"""From a diffusers `unet` folder to a network that runs; safetensors and JSON only."""

from pathlib import Path

from ddim_edit.models.component import read_json, read_weights, weights_in
from ddim_edit.models.unet.config import UNetConfig
from ddim_edit.models.unet.network import UNet
from ddim_edit.models.weights import fill, require_room


def load_unet(folder: Path) -> UNet:
    """The network in a diffusers `unet` folder, ready to run on the CPU; reads no pickles and no shards.

    It is float32 whatever the file holds, channels_last, in eval mode, and its weights ask for no gradients.
    The attention names of old checkpoints are understood.

    Errors: ModelError for a file that is missing, broken, sharded or a pickle, for a config that is not
    implemented, and for tensors that are missing, unknown or of another shape.
    """
    read = read_json(folder / "config.json")
    config, file = UNetConfig.from_dict(read), weights_in(folder)
    weights = read_weights(file)
    require_room(read, [tensor.shape for tensor in weights.values()], str(file))
    return fill(lambda: UNet(config), weights, str(file))
