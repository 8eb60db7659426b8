"""Images that every user has: those of the package, and faces that the model samples."""

from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from ddim_edit import Editor, images, load_model
from timing.place import Place

IMAGES_FOLDER = Path(str(resources.files("ddim_edit.assets"))) / "images"
WITHOUT_FACE = ("astronaut.png",)
"""A whole photograph, unlike anything that the model was trained on."""
FIRST_SEED = 1000


def gather(folder: Path, place: Place, count: int) -> Tensor:
    """Return images [count, 3, H, W] in [-1, 1], of 8 bits as in a file; the packaged ones come first."""
    model = load_model(folder, place.name)
    files = [file for file in images.find([IMAGES_FOLDER]) if file.name not in WITHOUT_FACE][:count]
    shown = torch.stack([images.read(file, model.size).tensor for file in files]).float()
    missing = count - len(files)
    if not missing:
        return shown
    sampled = Editor(model, batch_size=min(missing, 64)).sample(missing, seed=FIRST_SEED)
    return torch.cat([shown, images.to_float(images.to_uint8(sampled))])


def fill(folder: Path, originals: Tensor, count: int) -> None:
    """Write `count` image files: the given ones again and again, each time shifted so that no two are the same."""
    side = originals.shape[-1]
    for index in range(count):
        turn, row = divmod(index, len(originals))
        shifted = originals[row].roll(turn % side, -1)
        images.write(folder / f"picture-{index:05d}.png", images.to_uint8(shifted))
