"""Install every extra alone in a virtual environment of its own, and run a command there that needs it.

    python tests/extras.py            all of them: a minute and 1 to 2 GB of disk each, one after another
    python tests/extras.py ui heic    some of them; "base" is the installation without extras

`make test-extras` calls it. Nothing but the extra itself may make the command work, so each environment is removed
before the next one is made. Needs only the standard library.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FACES = ROOT / "assets" / "images"
PORTRAIT, FACE, OTHER_FACE = FACES / "astronaut.png", FACES / "astronaut_face.png", FACES / "seed-0028.png"
PIPELINE = """
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
network = UNet2DModel(sample_size=32, block_out_channels=(8, 8), norm_num_groups=4, attention_head_dim=4,
                      down_block_types=("DownBlock2D", "ResnetDownsampleBlock2D"),
                      up_block_types=("ResnetUpsampleBlock2D", "UpBlock2D"))
DDPMPipeline(network, DDPMScheduler()).save_pretrained("pipeline")
from ddim_edit import Editor
editor = Editor.from_pipeline(DDPMPipeline.from_pretrained("pipeline"))
"""
CONVERT = "import {plugin}; from PIL import Image; {register}; Image.open(r'{face}').save('face.{suffix}')"


class Environment:
    """A virtual environment with the package and at most one extra, and an empty folder to work in.

    Args:
        folder: where both are made.
        extra: the extra, or "base" for none.
    """

    def __init__(self, folder: Path, extra: str) -> None:
        self.work = folder / "work"
        self.work.mkdir()
        venv.create(folder / "venv", with_pip=True)
        self.programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        wanted = str(ROOT) if extra == "base" else f"{ROOT}[{extra}]"
        self.run("python", "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", wanted)

    def run(self, program: str, *words: object) -> str:
        """Run a program of the environment; return what it prints, or exit with all of it if it fails."""
        command = [str(self.programs / program), *map(str, words)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\nended with status {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def edit(self, *words: object) -> None:
        """Run ddim-edit."""
        self.run("ddim-edit", *words)


def base(here: Environment) -> None:
    """Invert, and edit."""
    here.edit("reconstruct", FACE, "-o", "out", "--steps", 4)
    here.edit("edit", FACE, "--set", "old=+2", "-o", "older")


def diffusers(here: Environment) -> None:
    """Use a folder and a pipeline of a network that is not one of our own."""
    here.run("python", "-W", "ignore", "-c", PIPELINE)
    here.edit("reconstruct", FACE, "-o", "out", "--model", "pipeline", "--steps", 2)


def evaluation(here: Environment) -> None:
    """Draw the curves."""
    here.edit("evaluate", FACE, "-o", "out", "--steps", "2,4", "--solvers", "ddim")
    require(here.work / "out" / "evaluation.png")


def faces(here: Environment) -> None:
    """Find the face of a portrait."""
    here.edit("edit", PORTRAIT, "--set", "old=+2", "-o", "out", "--crop", "face")


def heic(here: Environment) -> None:
    """Read a photograph of a telephone."""
    register = "pillow_heif.register_heif_opener()"
    here.run("python", "-c", CONVERT.format(plugin="pillow_heif", register=register, face=FACE, suffix="heic"))
    here.edit("invert", "face.heic", "-o", "out", "--steps", 2)


def hub(here: Environment) -> None:
    """Look for a direction in the hub's cache, which has none."""
    words = ["edit", str(FACE), "--set", "nobody/nothing=+1", "-o", "out", "--offline"]
    code = (
        f"import subprocess, sys; print(subprocess.run([sys.argv[1], *{words}], capture_output=True, text=True).stderr)"
    )
    printed = here.run("python", "-c", code, here.programs / "ddim-edit")
    if "nobody/nothing" not in printed or "pip install" in printed:
        sys.exit(f"hub: {printed}")


def jxl(here: Environment) -> None:
    """Read a JPEG XL."""
    here.run("python", "-c", CONVERT.format(plugin="pillow_jxl", register="pass", face=FACE, suffix="jxl"))
    here.edit("invert", "face.jxl", "-o", "out", "--steps", 2)


def onnx(here: Environment) -> None:
    """Compute by ONNX Runtime."""
    here.edit("reconstruct", FACE, "-o", "out", "--steps", 2, "--runtime", "onnx")


def openvino(here: Environment) -> None:
    """Compute by OpenVINO."""
    here.edit("reconstruct", FACE, "-o", "out", "--steps", 2, "--runtime", "openvino")


def ray(here: Environment) -> None:
    """Fill a store on a cluster of this machine."""
    here.edit("invert", FACES, "-o", "faces.latents", "--engine", "ray", "--workers", 1, "--steps", 2)


def ui(here: Environment) -> None:
    """Open the page."""
    words = [str(here.programs / "ddim-edit"), "ui", "--port", "0", "--no-browser"]
    visitor = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())  # the page knows who may see it by one
    with subprocess.Popen(words, cwd=here.work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        printed = ""
        try:
            for line in process.stdout:
                printed += line
                if line.startswith("http://"):
                    visitor.open(line.strip(), timeout=60).close()
                    return
        finally:
            process.terminate()
    sys.exit(f"ui: {printed}")


def video(here: Environment) -> None:
    """Write an MP4."""
    here.edit("interpolate", FACE, OTHER_FACE, "-o", "walk.mp4", "--frames", 5, "--steps", 2)
    require(here.work / "walk.mp4")


def require(file: Path) -> None:
    """Exit unless a file is there."""
    if not file.is_file():
        sys.exit(f"{file.name} was not written")


TRIALS: dict[str, Callable[[Environment], None]] = {
    "base": base,
    "diffusers": diffusers,
    "eval": evaluation,
    "faces": faces,
    "heic": heic,
    "hub": hub,
    "jxl": jxl,
    "onnx": onnx,
    "openvino": openvino,
    "ray": ray,
    "ui": ui,
    "video": video,
}


def main() -> None:
    """Try the extras of the command line, or all."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if missing := set(pyproject["project"]["optional-dependencies"]) - set(TRIALS):
        sys.exit(f"Nothing tries {', '.join(sorted(missing))}. Add a function to {Path(__file__).name}.")
    for extra in sys.argv[1:] or TRIALS:
        with tempfile.TemporaryDirectory() as folder:
            TRIALS[extra](Environment(Path(folder), extra))
        print(f"{extra}: works", flush=True)


if __name__ == "__main__":
    main()
