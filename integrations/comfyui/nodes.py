"""The nodes. Each is a few lines around a function of ddim-edit, which has the mathematics and its documentation.

Types: DDIM_EDIT_LATENT is a `ddim_edit.Latents`, the x_T of one or several images, each with its recipe.
DDIM_EDIT_DIRECTION is a `ddim_edit.Direction`.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path

import folder_paths
import latent_preview

from ddim_edit import Direction, InversionConfig, Latent
from ddim_edit.diffusion.solvers.registry import SOLVER_ENTRIES
from ddim_edit.directions.direction import SUFFIX as DIRECTION_SUFFIX
from ddim_edit.directions.registry import ESTIMATORS
from ddim_edit.integrations import comfyui
from ddim_edit.latents.interpolation import INTERPOLATIONS
from ddim_edit.latents.latent import SUFFIX as LATENT_SUFFIX
from ddim_edit.latents.latent import Latents, combine, interpolate
from ddim_edit.metrics.latent_health import health

LATENTS, DIRECTION = "DDIM_EDIT_LATENT", "DDIM_EDIT_DIRECTION"
DEFAULT = InversionConfig()


def _model_inputs():
    return {
        "model": ("MODEL", {"tooltip": "The model, with its LoRAs."}),
        "positive": ("CONDITIONING", {"tooltip": "What the image shows."}),
    }


def _negative_input():
    return {"negative": ("CONDITIONING", {"tooltip": "What guidance leads away from. Not used at cfg 1."})}


def _guidance_input(default, tooltip, **more):
    return ("FLOAT", {"default": default, "min": 0.0, "max": 100.0, "step": 0.1, "tooltip": tooltip, **more})


def _latents_input(tooltip="From an inversion or a file."):
    return (LATENTS, {"tooltip": tooltip})


def _find_files(suffix):
    """Return the files of a kind in ComfyUI's folders for input and output, as its own loaders name them."""
    names = []
    for kind, folder in (
        ("input", folder_paths.get_input_directory()),
        ("output", folder_paths.get_output_directory()),
    ):
        for path in sorted(Path(folder).rglob(f"*{suffix}")):
            name = path.relative_to(folder).as_posix()
            names.append(name if kind == "input" else f"{name} [{kind}]")
    return names


def _digest_file(name):
    return hashlib.sha256(Path(folder_paths.get_annotated_filepath(name)).read_bytes()).hexdigest()


class Node:
    """What all nodes share."""

    CATEGORY = "ddim-edit"
    FUNCTION = "run"


class FileNode(Node):
    """A node that reads a file; it runs again when the content of the file has changed."""

    SUFFIX: str

    @classmethod
    def INPUT_TYPES(cls):
        """Return the files to choose from."""
        return {"required": {"file": (_find_files(cls.SUFFIX), {"tooltip": f"A *{cls.SUFFIX} in input or output."})}}

    @classmethod
    def IS_CHANGED(cls, file):
        """Return what changes with the content of the file."""
        return _digest_file(file)

    @classmethod
    def VALIDATE_INPUTS(cls, file):
        """Return whether the file is there, or a sentence about it."""
        return folder_paths.exists_annotated_filepath(file) or f"There is no file {file}. Choose another one."


class Invert(Node):
    """Image to x_T."""

    DESCRIPTION = (
        "Finds the noise x_T that the model decodes to an image. Give a LATENT, or an image and a VAE. DDIM Decode "
        "makes the image again."
    )
    SEARCH_ALIASES = ("ddim inversion", "inverse sampling", "unsampler", "flip sigmas", "image to noise")
    RETURN_TYPES = (LATENTS, "LATENT")
    RETURN_NAMES = ("latents", "x_T")
    OUTPUT_TOOLTIPS = (
        "x_T with the recipe that decodes it.",
        "x_T as a LATENT of numbers with standard deviation 1, for other nodes to change.",
    )

    @classmethod
    def INPUT_TYPES(cls):
        """Return the inputs."""
        return {
            "required": {
                **_model_inputs(),
                "steps": ("INT", {"default": DEFAULT.steps, "min": 1, "max": 10000}),
                "cfg": _guidance_input(
                    1.0,
                    "Guidance, for the inversion and for its decode. 1 is off. The stronger, the less exactly images "
                    "return.",
                ),
                "solver": (list(SOLVER_ENTRIES), {"default": DEFAULT.solver}),
                "grid": ("STRING", {"default": DEFAULT.grid, "tooltip": "The grid of timesteps.", "advanced": True}),
                "exact": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Iterate until what the VAE encoded comes back to within 0.0035; slow.",
                    },
                ),
            },
            "optional": {
                **_negative_input(),
                "samples": ("LATENT", {"tooltip": "What to invert, encoded."}),
                "pixels": ("IMAGE", {"tooltip": "What to invert, in place of samples."}),
                "vae": ("VAE", {"tooltip": "Encodes pixels."}),
            },
        }

    def run(self, model, positive, steps, cfg, solver, grid, exact, negative=None, samples=None, pixels=None, vae=None):
        """Invert."""
        if samples is None and (pixels is None or vae is None):
            raise ValueError("There is nothing to invert. Connect samples, or pixels and a vae.")
        encoded = vae.encode(pixels[..., :3]) if samples is None else samples["samples"]
        config = InversionConfig(solver, grid, steps, exact)
        callback = latent_preview.prepare_callback(model, steps)
        latents = comfyui.invert(model, positive, negative, encoded, config, cfg, callback)
        return latents, {"samples": latents.x.float()}


class Decode(Node):
    """x_T to image."""

    DESCRIPTION = (
        "Decodes x_T by its own recipe: the inverse of DDIM Invert. With another conditioning it edits the image."
    )
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("For VAE Decode.",)

    @classmethod
    def INPUT_TYPES(cls):
        """Return the inputs."""
        return {
            "required": {
                **_model_inputs(),
                "latents": _latents_input(),
                "cfg": _guidance_input(0.0, "Guidance; 0 is that of the inversion.", advanced=True),
                "force": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "Decode latents of another model all the same.", "advanced": True},
                ),
            },
            "optional": {
                **_negative_input(),
                "x_T": ("LATENT", {"tooltip": "x_T of the inversion, if another node has changed it."}),
            },
        }

    def run(self, model, positive, latents, cfg, force, negative=None, x_T=None):
        """Decode."""
        callback = latent_preview.prepare_callback(model, len(latents[0].recipe.times) - 1)
        samples = None if x_T is None else x_T["samples"]
        found = comfyui.decode(model, positive, negative, latents, samples, cfg or None, force, callback)
        return ({"samples": found},)


class Interpolate(Node):
    """From one x_T to another."""

    DESCRIPTION = "Interpolates between two x_T, by default along the sphere of Gaussian noise (slerp)."
    SEARCH_ALIASES = ("slerp", "lerp", "latent blend", "morph")
    RETURN_TYPES = (LATENTS,)
    RETURN_NAMES = ("latents",)

    @classmethod
    def INPUT_TYPES(cls):
        """Return the inputs."""
        return {
            "required": {
                "a": _latents_input(),
                "b": _latents_input("Inverted by the same model in the same way."),
                "interpolation": (list(INTERPOLATIONS),),
                "weight": (
                    "FLOAT",
                    {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": "0 is a, 1 is b."},
                ),
                "frames": (
                    "INT",
                    {"default": 1, "min": 1, "max": 1000, "tooltip": "More than 1: that many, evenly from a to b."},
                ),
            }
        }

    def run(self, a, b, interpolation, weight, frames):
        """Interpolate between the first latents of both."""
        weights = [weight] if frames == 1 else [frame / (frames - 1) for frame in range(frames)]
        return (Latents(interpolate(a[0], b[0], interpolation, each) for each in weights),)


class Combine(Node):
    """Weighted sums of x_T."""

    DESCRIPTION = "Mixes up to four x_T by weights, of which only the ratios count; negative ones subtract."
    RETURN_TYPES = (LATENTS,)
    RETURN_NAMES = ("latents",)

    @classmethod
    def INPUT_TYPES(cls):
        """Return the inputs."""
        weight = ("FLOAT", {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.05})
        return {
            "required": {
                "a": _latents_input(),
                "b": _latents_input(),
                **{f"weight_{name}": weight for name in "abcd"},
            },
            "optional": {"c": _latents_input(), "d": _latents_input()},
        }

    def run(self, a, b, weight_a, weight_b, weight_c, weight_d, c=None, d=None):
        """Mix the first latents of each."""
        pairs = [(a, weight_a), (b, weight_b), (c, weight_c), (d, weight_d)]
        given = [(latents[0], weight) for latents, weight in pairs if latents is not None]
        return (Latents([combine([latent for latent, _ in given], [weight for _, weight in given])]),)


class Batch(Node):
    """Several batches of x_T as one."""

    DESCRIPTION = "Joins two batches of x_T into one."
    RETURN_TYPES = (LATENTS,)
    RETURN_NAMES = ("latents",)

    @classmethod
    def INPUT_TYPES(cls):
        """Return the inputs."""
        return {"required": {"a": _latents_input(), "b": _latents_input()}}

    def run(self, a, b):
        """Join."""
        return (Latents([*a, *b]),)


class SaveLatents(Node):
    """x_T to files."""

    DESCRIPTION = f"Writes each x_T with its recipe into a *{LATENT_SUFFIX} file, which ddim-edit reads too."
    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        """Return the inputs."""
        return {
            "required": {
                "latents": _latents_input(),
                "filename_prefix": ("STRING", {"default": "latents/ddim-edit"}),
            }
        }

    def run(self, latents, filename_prefix):
        """Write the files."""
        folder, stem, number, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        written = []
        for index, latent in enumerate(latents, number):
            file = f"{stem}_{index:05}_{LATENT_SUFFIX}"
            latent.save(Path(folder) / file)
            written.append({"filename": file, "subfolder": subfolder, "type": "output"})
        return {"ui": {"latents": written}}


class LoadLatents(FileNode):
    """x_T from a file."""

    DESCRIPTION = f"Reads a *{LATENT_SUFFIX} file that DDIM Save Latents or ddim-edit wrote."
    SUFFIX = LATENT_SUFFIX
    RETURN_TYPES = (LATENTS,)
    RETURN_NAMES = ("latents",)

    def run(self, file):
        """Read the file."""
        return (Latents([Latent.load(folder_paths.get_annotated_filepath(file))]),)


class FitDirection(Node):
    """Two groups of x_T to a direction."""

    DESCRIPTION = (
        "Fits a direction from x_T of images that lack an attribute to those that have it, and saves it. A few dozen "
        "images of each are a good start."
    )
    RETURN_TYPES = (DIRECTION,)
    RETURN_NAMES = ("direction",)

    @classmethod
    def INPUT_TYPES(cls):
        """Return the inputs."""
        return {
            "required": {
                "having": _latents_input("Of images that have the attribute."),
                "lacking": _latents_input("Of images that lack it."),
                "name": ("STRING", {"default": "attribute", "tooltip": "Of the attribute and of its file."}),
                "estimator": (list(ESTIMATORS), {"default": "mean"}),
            }
        }

    def run(self, having, lacking, name, estimator):
        """Fit and save."""
        direction = comfyui.fit(name, having, lacking, estimator)
        folder, stem, number, _, _ = folder_paths.get_save_image_path(
            f"directions/{name}", folder_paths.get_output_directory()
        )
        direction.save(Path(folder) / f"{stem}_{number:05}_{DIRECTION_SUFFIX}")
        return (direction,)


class LoadDirection(FileNode):
    """A direction from a file."""

    DESCRIPTION = f"Reads a *{DIRECTION_SUFFIX} file, fitted to x_T of the same model."
    SUFFIX = DIRECTION_SUFFIX
    RETURN_TYPES = (DIRECTION,)
    RETURN_NAMES = ("direction",)

    def run(self, file):
        """Read the file."""
        return (Direction.load(folder_paths.get_annotated_filepath(file)),)


class ApplyDirection(Node):
    """x_T along a direction."""

    DESCRIPTION = "Moves x_T along a direction on its own sphere, by standard deviations of what it was fitted to."
    RETURN_TYPES = (LATENTS,)
    RETURN_NAMES = ("latents",)

    @classmethod
    def INPUT_TYPES(cls):
        """Return the inputs."""
        return {
            "required": {
                "latents": _latents_input(),
                "direction": (DIRECTION,),
                "strength": ("FLOAT", {"default": 2.0, "min": -100.0, "max": 100.0, "step": 0.1}),
            }
        }

    def run(self, latents, direction, strength):
        """Move."""
        return (comfyui.move(latents, direction, strength),)


class Health(Node):
    """How close x_T is to noise."""

    DESCRIPTION = (
        "Tells how close x_T is to white Gaussian noise. Above a deviation of 1, interpolations and directions are not "
        "to be relied on. Connect the text to Preview as Text."
    )
    RETURN_TYPES = ("STRING", "FLOAT")
    RETURN_NAMES = ("text", "deviation")

    @classmethod
    def INPUT_TYPES(cls):
        """Return the inputs."""
        return {"required": {"latents": _latents_input()}}

    def run(self, latents):
        """Measure."""
        figures = {name: values.tolist() for name, values in asdict(health(latents.x)).items()}
        lines = []
        for name, values in figures.items():
            lines.append(f"{name:<11}" + "".join(f"{value:>9.3f}" for value in values))
        return "\n".join(lines), max(figures["deviation"])


class ToNoise(Node):
    """x_T for ComfyUI's samplers."""

    DESCRIPTION = (
        "x_T as the noise of SamplerCustomAdvanced, whose latent_image must be an empty latent. Its own samplers then "
        "make an image like the inverted one, only as exactly as they integrate."
    )
    RETURN_TYPES = ("NOISE",)

    @classmethod
    def INPUT_TYPES(cls):
        """Return the inputs."""
        return {"required": {"latents": _latents_input()}}

    def run(self, latents):
        """Wrap."""
        return (comfyui.LatentNoise(latents),)


_NODES = {
    "DDIMEditInvert": (Invert, "DDIM Invert"),
    "DDIMEditDecode": (Decode, "DDIM Decode"),
    "DDIMEditInterpolate": (Interpolate, "DDIM Interpolate (slerp)"),
    "DDIMEditCombine": (Combine, "DDIM Combine by Weights"),
    "DDIMEditBatch": (Batch, "DDIM Batch Latents"),
    "DDIMEditSaveLatents": (SaveLatents, "DDIM Save Latents"),
    "DDIMEditLoadLatents": (LoadLatents, "DDIM Load Latents"),
    "DDIMEditFitDirection": (FitDirection, "DDIM Fit Direction"),
    "DDIMEditLoadDirection": (LoadDirection, "DDIM Load Direction"),
    "DDIMEditApplyDirection": (ApplyDirection, "DDIM Apply Direction"),
    "DDIMEditHealth": (Health, "DDIM Latent Health"),
    "DDIMEditToNoise": (ToNoise, "DDIM Latents to Noise"),
}
NODE_CLASS_MAPPINGS = {name: kind for name, (kind, _) in _NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS = {name: title for name, (_, title) in _NODES.items()}
