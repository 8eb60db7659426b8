"""Run as a program: runs of the command that are killed in their middle, each followed by one that is not.

Standard input is JSON: the arguments, and trials {"batches": n, "delay": seconds}, killed so long after so much is on
disk, or {"rename": n, "after": bool}, which kills itself before or after its n-th rename. Standard output is a JSON
list: how the killed one ended, what it left, and how the one after it ended. Children are forked from a process that
did all of it once, so that what they spend their time on is the work and not loading torch.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import torch

from ddim_edit.cli import main


def run(arguments: list[str], prepare: Callable[[], object] = lambda: None, wait: Callable[[int], object] = int) -> int:
    """The exit status of a child, negative for a signal; `wait` is called with its number meanwhile."""
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        prepare()
        main(arguments)
    wait(child)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(store: Path, batches: int, delay: float, child: int) -> None:
    """Kill a child so many seconds after so many batches of two are on disk, alone or in a shard."""
    ended = os.WNOHANG | os.WEXITED | os.WNOWAIT
    while batches_in(store) < batches and os.waitid(os.P_PID, child, ended) is None:
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)


def batches_in(store: Path) -> int:
    try:
        return 2 * len(list(store.glob("shard-*"))) + len(list(store.glob("parts/*/batch-*")))
    except FileNotFoundError:  # the child has just removed the parts of a shard
        return batches_in(store)


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


def attempt(arguments: list[str], number: int, trial: dict[str, Any]) -> dict[str, Any]:
    store = f"trial-{number}.latents"
    line = [*arguments, "-o", store]
    if "rename" in trial:
        killed = run(line, lambda: die_at(**trial))
    else:
        killed = run(line, wait=lambda child: kill_at(Path(store), **trial, child=child))
    left = sorted(str(path.relative_to(store)) for path in Path(store).rglob("*") if path.is_file())
    return {"killed": killed, "left": left, "then": run(line)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    asked = json.load(sys.stdin)
    with suppress(SystemExit), redirect_stdout(sys.stderr):
        main([*asked["arguments"], "-o", "first.latents"])
    whole = run([*asked["arguments"], "-o", "whole.latents"])
    results = [attempt(asked["arguments"], number, trial) for number, trial in enumerate(asked["trials"])]
    print(json.dumps({"whole": whole, "results": results}))
