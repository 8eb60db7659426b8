"""Run command lines on spoiled inputs in one process, under limits: `python -m tests.fuzz.hostile FOLDER`.

FOLDER holds good files. Prints as JSON how many inputs that are made of them were tried, and what went wrong.
"""

import io
import json
import random
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from ddim_edit.cli import main

SECONDS = 300
"""After which a command line hangs: one took over 20 s on a busy processor without vector units."""
BYTES = 1 << 30
PER_FILE = 15
"""Spoiled versions of each good file."""

LINES: dict[str, list[str]] = {
    "a.png": ["reconstruct", "FILE", "-o", "OUT", "--steps", "2"],
    "a.jpg": ["invert", "FILE", "-o", "OUT", "--steps", "2"],
    "a.webp": ["invert", "FILE", "-o", "OUT", "--steps", "2"],
    "a.gif": ["invert", "FILE", "-o", "OUT", "--steps", "2"],
    "a.bmp": ["invert", "FILE", "-o", "OUT", "--steps", "2"],
    "a.tiff": ["invert", "FILE", "-o", "OUT", "--steps", "2"],
    "a.avif": ["invert", "FILE", "-o", "OUT", "--steps", "2"],
    "a.jp2": ["invert", "FILE", "-o", "OUT", "--steps", "2"],
    "shown.png": ["show", "FILE"],
    "a.latent.safetensors": ["decode", "FILE", "-o", "OUT"],
    "b.latent.safetensors": ["show", "FILE"],
    "c.latent.safetensors": ["export", "FILE", "--to", "npy", "-o", "OUT"],
    "d.latent.safetensors": ["interpolate", "FILE", "GOOD/a.latent.safetensors", "-o", "OUT/x.png", "--frames", "2"],
    "old.direction.safetensors": ["edit", "GOOD/a.png", "--set", "FILE=1", "-o", "OUT"],
    "new.direction.safetensors": ["show", "FILE"],
    "s.latents/shard-00000.safetensors": ["decode", "FOLDER", "-o", "OUT"],
    "s.latents/store.json": ["invert", "GOOD/a.png", "-o", "FOLDER", "--steps", "2"],
    "s.latents/model.json": ["invert", "GOOD/a.png", "-o", "FOLDER", "--steps", "2"],
    "s.latents/pictures.jsonl": ["decode", "FOLDER", "-o", "OUT"],
    "labels.csv": [
        *("fit", "x", "--images", "GOOD/faces", "--labels", "FILE", "--column", "old", "--steps", "2"),
        *("-o", "OUT/x.direction.safetensors"),
    ],
    "run.toml": ["--config", "FILE", "sample", "-o", "OUT"],
    "x.npy": ["import", "FILE", "-o", "OUT", "--steps", "2"],
    "x.safetensors": ["import", "FILE", "-o", "OUT", "--steps", "2"],
    "x.latent": ["import", "FILE", "--from", "comfy", "-o", "OUT", "--steps", "2"],
    "model/unet/config.json": ["sample", "--model", "FOLDER/..", "--steps", "2", "-o", "OUT"],
    "model/scheduler/scheduler_config.json": ["sample", "--model", "FOLDER/..", "--steps", "2", "-o", "OUT"],
    "model/unet/diffusion_pytorch_model.safetensors": ["sample", "--model", "FOLDER/..", "--steps", "2", "-o", "OUT"],
}
"""What reads each of the good files; FOLDER is the one that the spoiled file is in."""
WITHOUT_MODEL = ("show", "--config")


def spoiled(content: bytes, others: list[bytes], random: random.Random) -> Iterator[bytes]:
    """Spoiled versions of a file: cut, flipped, of other types, and with the contents of others."""
    yield b""
    yield content[: len(content) // 2]
    yield content[:-1]
    yield content + b"\0" * 1000
    yield random.choice(others)
    yield bytes(len(content))
    is_text = b"\0" not in content
    for _ in range(PER_FILE - 6):
        changed = bytearray(content)
        if is_text and random.random() < 0.6:  # another value of another type
            words = [b"null", b"-1", b"1e999", b'"x"', b"[]", b"{}", b"99999999999999999999", b"true", b"NaN"]
            at = [i for i in range(len(changed)) if changed[i : i + 1].isdigit()] or [0]
            place = random.choice(at)
            changed[place : place + 1] = random.choice(words)
        else:
            for _ in range(random.choice([1, 1, 4, 40])):
                # Half of them at the beginning, where formats keep what they trust.
                end = min(len(changed), random.choice([64, 2000, len(changed)]))
                changed[random.randrange(end)] ^= 1 << random.randrange(8)
        yield bytes(changed)


def cases(good: Path) -> Iterator[tuple[str, int, bytes]]:
    """All inputs: the name of the file, a number, and the content in its place."""
    contents = {name: (good / name).read_bytes() for name in LINES}
    for name, content in contents.items():
        others = [other for each, other in contents.items() if each != name]
        for number, changed in enumerate(spoiled(content, others, random.Random(name))):
            yield name, number, changed


def command_line(name: str, content: bytes, good: Path, work: Path) -> list[str]:
    """Put a spoiled file where it belongs, and return what reads it."""
    file = work / name
    if "/" in name:
        top = name.partition("/")[0]
        shutil.copytree(good / top, work / top)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    words = {"FILE": str(file), "OUT": str(work / "out"), "FOLDER": str(file.parent), "GOOD": str(good)}
    line = []
    for part in LINES[name]:
        for word, value in words.items():
            part = part.replace(word, value)
        line.append(part)
    if "--model" not in line and line[0] not in WITHOUT_MODEL:
        line += ["--model", str(good / "model")]
    return line


class OutOfTime(BaseException):
    """No Exception, and above all no TimeoutError, which is an OSError: what is tried may catch these."""


def try_line(line: list[str]) -> str | None:
    """Run a command line, and return what is wrong with how it ended, or None."""

    def stop(*_: object) -> None:
        raise OutOfTime(f"over {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    err = io.StringIO()
    try:
        with redirect_stdout(io.TextIOWrapper(io.BytesIO())), redirect_stderr(err):
            main(line)
    except SystemExit as ended:
        if ended.code not in (0, 1, 2):
            return f"ended with {ended.code}"
        if ended.code and "rror: " not in err.getvalue():
            return f"ended with {ended.code} and said {err.getvalue()[-200:]!r}"
        return "a traceback is printed" if "Traceback" in err.getvalue() else None
    except BaseException:
        return traceback.format_exc()[-1500:]
    finally:
        signal.alarm(0)
    return "did not exit"


def refused_outputs(out: Path) -> Iterator[str]:
    """What the tool itself refuses of what it has written."""
    from ddim_edit import Direction, Latent
    from ddim_edit.images import read

    readers: dict[str, Callable[[Path], object]] = {
        ".latent.safetensors": Latent.load,
        ".direction.safetensors": Direction.load,
        ".png": lambda path: read(path, 16),
    }
    for path in out.rglob("*"):
        for suffix, reader in readers.items():
            if path.name.endswith(suffix):
                try:
                    reader(path)
                except Exception as error:  # whatever it is
                    yield f"wrote {path.name}, and refuses it: {error}"
        if path.name.startswith(".ddim-edit-"):
            yield f"left {path.name}"


def run(good: Path) -> tuple[int, list[str]]:
    """Try all inputs; return how many these were, and what went wrong."""
    import diffusers.models.unets  # noqa: F401  # what one of them would take seconds to import
    import torch

    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wrong = []
    tried = 0
    for position, (name, number, content) in enumerate(cases(good)):
        tried += 1
        work = good.parent / f"work-{position}"
        work.mkdir()
        problems = [try_line(command_line(name, content, good, work)), *refused_outputs(work / "out")]
        wrong += [f"{name} {number}: {problem}" for problem in problems if problem]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if (peak - before) * 1024 > BYTES:
            wrong.append(f"{name} {number}: took {(peak - before) // 1024} MB")
            before = peak
        shutil.rmtree(work)
    return tried, wrong


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]))))
