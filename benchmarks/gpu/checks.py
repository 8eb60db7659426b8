"""Check that what a device computes is right: tests, `make demo`, certificates, and the same bits twice."""

import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timing.sample_images import IMAGES_FOLDER

from ddim_edit import Editor, InversionConfig, Latent, Latents, images
from ddim_edit.cli import main
from gpu.material import relative
from gpu.plan import ROOT, Case, Row, Setting

MAKEFILE = ROOT / "Makefile"
OUTCOME = re.compile(r"^(?P<test>\S+::.+?) (?P<outcome>PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
LATENT = ".latent.safetensors"
DTYPES = {"fp32": "float32", "tf32": "tf32", "bf16": "bfloat16", "fp16": "float16"}
"""By the name that the command line takes."""
METHODS: Mapping[str, tuple[str, InversionConfig]] = {
    "exact-dpm2m": ("fp32", InversionConfig(exact=True)),
    "exact-ddim": ("fp32", InversionConfig("ddim", steps=50, exact=True)),
    "exact-heun": ("fp32", InversionConfig("heun", exact=True)),
    "exact-midpoint": ("fp32", InversionConfig("midpoint", exact=True)),
    "lossless-bdia": ("fp32", InversionConfig("bdia")),
    "lossless-belm": ("fp32", InversionConfig("belm")),
    "lossless-bdia-tf32": ("tf32", InversionConfig("bdia")),
    "lossless-bdia-bf16": ("bf16", InversionConfig("bdia")),
    "lossless-bdia-fp16": ("fp16", InversionConfig("bdia")),
}
"""The dtype, and how to invert."""


def tests(setting: Setting) -> list[Case]:
    """Return the one case that runs pytest."""
    return [Case("pytest -m gpu", partial(_tests, setting))]


def _tests(setting: Setting) -> Iterator[Row]:
    """Yield the outcome of each test; only files with the mark are collected, because others need more packages."""
    marked = [file for file in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in file.read_text()]
    names = [str(file.relative_to(ROOT)) for file in marked]
    words = [sys.executable, "-P", "-m", "pytest", "-m", "gpu", "-v", "--tb=short", "--continue-on-collection-errors"]
    words += ["-p", "no:cacheprovider", "-o", "filterwarnings=default", *names]
    lines = []
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if found := OUTCOME.match(line):
                yield {"test": found["test"], "outcome": found["outcome"].lower()}
    if process.returncode not in (0, 5):  # 5: no test was chosen
        raise RuntimeError("".join(lines)[-5000:])


def demo_commands(folder: Path) -> list[list[str]]:
    """Return the arguments of the commands of `make demo`, writing to a folder in place of out/."""
    text = MAKEFILE.read_text(encoding="utf-8")
    faces = re.search(r"^FACES\s*:=\s*(\S+)", text, re.MULTILINE)
    recipe = text[text.index("\ndemo:") :].partition("\n\n")[0]
    lines = [line.partition("ddim-edit ")[2] for line in recipe.splitlines() if line.startswith("\t$(BIN)/ddim-edit ")]
    if faces is None or not lines:
        raise LookupError("the Makefile names no FACES, or no commands for `make demo`")
    commands = []
    for line in lines:
        words = []
        for word in shlex.split(line):
            if word == "out" or word.startswith("out/"):
                words.append(str(folder / word.removeprefix("out").lstrip("/")))
            else:
                words.append(word.replace("$(FACES)", str(ROOT / faces[1])))
        commands.append(words)
    return commands


def demo(setting: Setting) -> list[Case]:
    """Return a case for each dtype, behind the one that makes the reference."""
    dtypes = {"bf16": "bfloat16"} if setting.tiny else DTYPES
    reference = Case("float32 on the CPU", partial(_demo, setting, "cpu", "fp32"))
    return [reference, *(Case(name, partial(_demo, setting, setting.device, dtype)) for dtype, name in dtypes.items())]


def _demo(setting: Setting, device: str, dtype: str) -> Iterator[Row]:
    folder = setting.folder("demo") / f"{device}-{dtype}"
    start = monotonic()
    options = ["--device", device, "--dtype", dtype]
    failures = []
    for words in demo_commands(folder):
        failure = _run_here([*words, *options])
        if failure is not None:
            failures.append(failure)
    row: dict[str, object] = {"dtype": DTYPES[dtype], "on": device, "seconds": monotonic() - start}
    # Decoded once more without rounding to 8 bit.
    latents = Latents(Latent.load(file) for file in sorted(folder.glob(f"*{LATENT}")))
    torch.save(Editor.from_pretrained(device=device, dtype=dtype).decode(latents), folder / "decoded.pt")
    reference = setting.folder("demo") / "cpu-fp32"
    yield row if folder == reference else {**row, **_compare(folder, reference)}
    if failures:
        raise RuntimeError("\n".join(failures))


def _run_here(words: list[str]) -> str | None:
    """Run `ddim-edit` with these words in this process; return its standard error if it fails."""
    errors = StringIO()
    try:
        with redirect_stderr(errors):
            main(words)
    except SystemExit as end:
        return f"ddim-edit {shlex.join(words)} ended with status {end.code}: {errors.getvalue()}" if end.code else None
    except Exception:
        return f"ddim-edit {shlex.join(words)} failed: {errors.getvalue()}{traceback.format_exc()}"
    return None


def _run_command(words: list[str]) -> None:
    """Run `ddim-edit` with these words in a process of its own."""
    subprocess.run([sys.executable, "-m", "ddim_edit", *words, "-q"], check=True, capture_output=True, text=True)


def _compare(folder: Path, reference: Path) -> Row:
    """Return how far the latents, their images and the written files are from the reference's."""
    latent_errors = []
    for file in reference.glob(f"*{LATENT}"):
        latent_errors.append(relative(Latent.load(folder / file.name).x, Latent.load(file).x))
    own, other = (torch.load(each / "decoded.pt") for each in (folder, reference))
    same, differences = list[float](), list[int]()
    for file in sorted(reference.rglob("*.png")):
        counterpart = folder / file.relative_to(reference)
        if counterpart.exists():
            a, b = pixels(counterpart), pixels(file)
            same.append(float((a == b).mean()))
            differences.append(int(np.abs(a.astype(int) - b.astype(int)).max()))
    return {
        "latents": max(latent_errors),
        "images": max(relative(mine, theirs) for mine, theirs in zip(own, other, strict=True)),
        "same 8-bit values": min(same),
        "largest difference": max(differences),
        "files": len(same),
    }


def pixels(file: Path) -> NDArray[np.uint8]:
    """Return the 8-bit values of an image file."""
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def certificates(setting: Setting) -> list[Case]:
    """Return a case for each way to invert exactly, and the one that decodes them all in other processes."""
    names = ["lossless-bdia"] if setting.tiny else list(METHODS)
    made = [Case(name, partial(_certificate, setting, name)) for name in names]
    return [*made, Case("decoded anew", partial(_decoded_anew, setting))]


def _certificate(setting: Setting, name: str) -> Iterator[Row]:
    """Invert the images of the package, and keep their latents by names that no other method has."""
    dtype, method = METHODS[name]
    files = images.find([IMAGES_FOLDER])[: 2 if setting.tiny else None]
    editor = Editor.from_pretrained(device=setting.device, dtype=dtype)
    start = monotonic()
    latents = editor.invert(files, method, crop=images.CentreSquare())  # as `images.read` reads the originals
    spent = monotonic() - start
    folder = setting.folder("certificates") / dtype
    folder.mkdir(exist_ok=True)
    for file, latent in zip(files, latents, strict=True):
        latent.save(folder / f"{name}--{file.stem}{LATENT}")
    converged = sum(bool(latent.report["converged"]) for latent in latents)
    nfe = sum(latent.report["nfe"] for latent in latents) / len(latents)
    yield {
        "method": name,
        "images": len(latents),
        "certified": converged,
        "evaluations": nfe,
        "seconds": spent,
    }


def _decoded_anew(setting: Setting) -> Iterator[Row]:
    """Decode every latent that was written, by `ddim-edit decode`, and compare with the images in 8 bit."""
    size = Editor.from_pretrained(device="cpu").model.size
    originals = {file.stem: images.read(file, size).pixels for file in images.find([IMAGES_FOLDER])}
    for folder in sorted(setting.folder("certificates").iterdir()):
        back = setting.folder("decoded-anew") / folder.name
        latents = sorted(folder.glob(f"*{LATENT}"))
        options = ["--device", setting.device, "--dtype", folder.name, "--overwrite"]
        _run_command(["decode", *map(str, latents), "-o", str(back), *options])
        for method in dict.fromkeys(latent.name.partition("--")[0] for latent in latents):
            certified = identical = wrong_pixels = broken = 0
            files = list(folder.glob(f"{method}--*"))
            for file in files:
                stem = file.name.partition("--")[2].removesuffix(LATENT)
                decoded = torch.from_numpy(pixels(back / f"{method}--{stem}.png").copy()).permute(2, 0, 1)
                wrong = int((decoded != originals[stem]).any(0).sum())
                wrong_pixels += wrong
                if not wrong:
                    identical += 1
                if Latent.load(file).report["converged"]:
                    certified += 1
                    if wrong:
                        broken += 1
            yield {
                "method": f"{method}, decoded anew",
                "images": len(files),
                "certified": certified,
                "identical": identical,
                "wrong pixels": wrong_pixels,
                "holds": "yes" if certified and not broken else "NO",
            }


def determinism(setting: Setting) -> list[Case]:
    """Return the cases: the same images inverted twice, here and in two processes at once."""
    dtypes = ["fp32"] if setting.tiny else list(DTYPES)
    here = [Case(f"one process, {DTYPES[dtype]}", partial(_twice_here, setting, dtype)) for dtype in dtypes]
    return [*here, Case("two processes", partial(_twice_apart, setting))]


def _twice_here(setting: Setting, dtype: str) -> Iterator[Row]:
    """Compare the latents of one editor, of the same again, and of another one on the model loaded anew."""
    method = InversionConfig(steps=setting.scale.steps)
    files = images.find([IMAGES_FOLDER])
    editors = [Editor.from_pretrained(setting.model, setting.device, dtype) for _ in range(2)]
    first, again, anew = (editor.invert(files, method) for editor in (editors[0], *editors))
    for name, other in (("the same model again", again), ("the model loaded anew", anew)):
        same = all(torch.equal(a.x, b.x) for a, b in zip(first, other, strict=True))
        worst = max(relative(b.x, a.x) for a, b in zip(first, other, strict=True))
        row = {"what": name, "dtype": DTYPES[dtype], "images": len(first), "largest relative difference": worst}
        # On a CPU, memory that is aligned otherwise may give other last bits.
        yield {**row, "same bits": "yes" if same else "NO"}


def _twice_apart(setting: Setting) -> Iterator[Row]:
    """Compare the bytes that two processes of `ddim-edit invert` write, one after the other."""
    made = []
    for name in ("one", "other"):
        folder = setting.folder("determinism") / name
        options = ["--device", setting.device, "--dtype", "fp32", "--steps", str(setting.scale.steps), "--overwrite"]
        _run_command(["invert", str(IMAGES_FOLDER), "-o", str(folder), *options])
        made.append({file.name: file.read_bytes() for file in sorted(folder.glob(f"*{LATENT}"))})
    same = made[0] == made[1]
    yield {
        "what": "two processes",
        "dtype": "float32",
        "images": len(made[0]),
        "same bits": "yes" if same else "NO",
    }
