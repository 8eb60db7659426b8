"""From a checkpoint file to its network, whichever code base it is of."""

from pathlib import Path

from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.models.checkpoint import Checkpoint, State
from ddim_edit.models.single_file.denoising_diffusion import DENOISING_DIFFUSION
from ddim_edit.models.single_file.edm import EDM
from ddim_edit.models.single_file.ermongroup import ERMONGROUP
from ddim_edit.models.single_file.family import Family, Settings
from ddim_edit.models.single_file.guided_diffusion import GUIDED_DIFFUSION
from ddim_edit.models.single_file.reading import SUFFIXES, read_settings, read_states

__all__ = ["FAMILIES", "SUFFIXES", "load_single_file"]
FAMILIES = (GUIDED_DIFFUSION, ERMONGROUP, DENOISING_DIFFUSION, EDM)


def load_single_file(path: Path) -> Checkpoint:
    """The checkpoint in a .pt, .pth, .ckpt, .bin or .safetensors file of a family in `FAMILIES`; runs no pickled code.

    What the weights do not tell is read from NAME.json beside the file, under the family's own flag names, or assumed
    as in its released checkpoints.

    Raises:
        ModelError: a file that cannot be read, that is of no family known here, or that lacks something.
    """
    state = read_states(path)
    for family in FAMILIES:
        if family.matches(state):
            return _built(family, state, read_settings(path, family.settings), path)
    names = ", ".join(list(state)[:3])
    wanted = f"a checkpoint of {', '.join(family.name for family in FAMILIES)}"
    raise ModelError(wanted, f"{path.name} with the tensors {names} and so on", "convert it to a diffusers folder")


def _built(family: Family, state: State, settings: Settings, path: Path) -> Checkpoint:
    """The checkpoint; names and shapes that contradict one another fail wherever a family first meets them."""
    try:
        return family.build(state, settings)
    except ArgumentError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
        given = f"{path.name}, whose tensors do not fit together ({type(error).__name__})"
        raise ModelError(f"a whole checkpoint of {family.name}", given, "fetch the file again") from error
