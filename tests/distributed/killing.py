"""Run as a program: runs of the command that are killed in their middle, each followed by one that is not.

Standard input is JSON: the arguments, and trials {"share": s}, which kills itself after that share of all calls of
functions that a whole run makes once its settings are on disk, or {"rename": n, "after": bool}, before or after its
n-th rename. Standard output is a JSON list: how the killed one ended, what it left, and how the one after it ended.
Children are forked from a process that did all of it once, and end without the interpreter's tidying up, so that what
they spend their time on is the work and not torch.
"""

import itertools
import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import torch

from ddim_edit.cli import main

SETTINGS = 3
"""Renames before the first of a batch: store.json, the plan and model.json."""


def run(
    arguments: list[str], prepare: Callable[[], object] = lambda: None, finish: Callable[[], object] = lambda: None
) -> int:
    """The exit status of a child, negative for a signal, which does these before and after."""
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        prepare()
        status = 70
        try:
            main(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
            finish()
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def count_calls(calls: Iterator[int], most: float) -> None:
    """Have this process killed at so many calls after its settings are on disk; clocks would tell of others' work too.

    Args:
        calls: counts them from 1 on.
        most: calls.
    """
    renames, replace = itertools.count(1), Path.replace

    def watch(frame: object, event: str, argument: object) -> None:
        if event == "call" and next(calls) >= most:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(self: Path, target: Path) -> Path:
        if next(renames) == SETTINGS:
            threading.setprofile(watch)
            sys.setprofile(watch)
        return replace(self, target)

    Path.replace = counted  # type: ignore[assignment, method-assign]


def die_at(rename: int, after: bool) -> None:
    """Have this process killed at one of its renames."""
    count, replace = 0, Path.replace

    def fatal(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == rename and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        moved = replace(self, target)
        if count == rename:
            os.kill(os.getpid(), signal.SIGKILL)
        return moved

    Path.replace = fatal  # type: ignore[assignment]


def attempt(arguments: list[str], number: int, trial: dict[str, Any], calls: int) -> dict[str, Any]:
    store = f"trial-{number}.latents"
    line = [*arguments, "-o", store]
    print(f"trial {number}: {trial}", file=sys.stderr, flush=True)
    killed = run(
        line, lambda: die_at(**trial) if "rename" in trial else count_calls(itertools.count(1), trial["share"] * calls)
    )
    left = sorted(str(path.relative_to(store)) for path in Path(store).rglob("*") if path.is_file())
    return {"killed": killed, "left": left, "then": run(line)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    asked = json.load(sys.stdin)
    with suppress(SystemExit), redirect_stdout(sys.stderr):
        main([*asked["arguments"], "-o", "first.latents"])
    told, counted = Path("calls").absolute(), itertools.count(1)
    whole = run(
        [*asked["arguments"], "-o", "whole.latents"],
        lambda: count_calls(counted, math.inf),
        lambda: told.write_text(str(next(counted))),
    )
    calls = int(told.read_text())
    results = [attempt(asked["arguments"], number, trial, calls) for number, trial in enumerate(asked["trials"])]
    print(json.dumps({"whole": whole, "results": results}))
