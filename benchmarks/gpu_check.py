"""Check and measure everything on a GPU in less than nine minutes, the most important first.

    python benchmarks/gpu_check.py --out OUT                                 on a GPU
    python benchmarks/gpu_check.py --out OUT --device cpu --tiny             a rehearsal on any processor
    python benchmarks/gpu_check.py --out OUT --only speed,store --budget speed=60,store=40

Each section is a process of its own, which is stopped when its time is over. Whatever it finds is printed and added to
OUT/results-gpu.jsonl at once, and OUT/results-gpu.md is written anew from that, so that what is finished stays when the
time runs out. Needs the checkout, torch and what the package needs; without diffusers its networks are left out.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from gpu.child import run
from gpu.page import Results
from gpu.plan import ROOT, SECTIONS, Section, Setting, find_section
from gpu.watching import in_groups, run_group

SECONDS = 520.0
"""In all; starting and ending take some more."""
PATIENCE = 8
"""So many times as long may everything take in a rehearsal, on a processor that may be slow and busy."""
NAMES = [section.name for section in SECTIONS]


def main(words: Sequence[str] | None = None) -> int:
    """Run the sections and write their results; return the exit status."""
    arguments = _arguments(words)
    if arguments.child is not None:
        name, setting, begun = arguments.child
        return run(find_section(name), Setting.from_text(setting), json.loads(begun))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no section outlives this process
    patience = PATIENCE if arguments.tiny else 1
    deadline = time.monotonic() + (arguments.seconds or patience * SECONDS)
    results = Results(arguments.out, arguments.tiny)

    def on_message(section: Section, message: dict[str, object]) -> None:
        print(results.add(section.name, message), flush=True)

    chosen = [replace(each, seconds=arguments.budget.get(each.name, patience * each.seconds)) for each in SECTIONS]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            installed = find_spec("ddim_edit.cli") is not None
        except ModuleNotFoundError:
            installed = False
        if not installed:  # in the checkout alone, where packages lie elsewhere than their names say
            _link_packages(Path(scratch) / "packages")
        model = str(arguments.model.resolve()) if arguments.model else ""
        setting = Setting(arguments.device, arguments.tiny, model, scratch, deadline, arguments.batches)
        for group in in_groups([section for section in chosen if section.name in arguments.only]):
            if setting.left > 0:
                run_group(group, setting, Path(__file__).resolve(), on_message)
                continue
            for section in group:
                on_message(section, {"note": "not measured: the time was over"})
    print(f"\n{results.text()}\n{results.targets()}", flush=True)  # the targets last, where they are seen
    return 0


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/gpu-check"), help="folder to write to")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal")
    parser.add_argument("--tiny", action="store_true", help="little of everything, to see that it runs")
    parser.add_argument("--seconds", type=float, help=f"for all sections together; {SECONDS:g} when left out")
    parser.add_argument("--budget", type=_budget, default={}, help="seconds of sections, as in speed=60,store=40")
    parser.add_argument("--only", type=_names, default=NAMES, help=f"sections out of {','.join(NAMES)}")
    parser.add_argument("--batches", type=_batches, default=(), help="images at once where times are taken, as in 64,1")
    parser.add_argument("--model", type=Path, help="a diffusers folder of a pixel UNet; faces64 when left out")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)  # a section, its setting and the cases to leave out
    return parser.parse_args(words)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in NAMES]:
        raise argparse.ArgumentTypeError(f"there is no section {unknown[0]!r}; choose out of {', '.join(NAMES)}")
    return names


def _batches(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def _budget(text: str) -> dict[str, float]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    _names(",".join(name for name, _, _ in pairs))
    return {name: float(seconds) for name, _, seconds in pairs}


def _link_packages(folder: Path) -> None:
    """Lay out the packages of the checkout by links, as pyproject.toml says, where all further processes find them."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package, path in sorted(tomllib.loads(text)["tool"]["setuptools"]["package-dir"].items()):
        target = folder.joinpath(*package.split("."))
        if "." in package:
            target.symlink_to(ROOT / path)
            continue
        target.mkdir(parents=True)
        for entry in (ROOT / path).iterdir():
            (target / entry.name).symlink_to(entry)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])


if __name__ == "__main__":
    raise SystemExit(main())
