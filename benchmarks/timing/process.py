"""Run fresh processes, and measure what they cost."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch


class Cost(NamedTuple):
    """Wall and CPU seconds of one process or several at once, from the first start to the last end; their output."""

    wall: float
    cpu: float
    output: str


def run(*commands: Sequence[object], threads: int | None = None, folder: Path | None = None) -> Cost:
    """Start Python on these arguments, all at once, and wait for all of them.

    Args:
        commands: the arguments of one process each.
        threads: of each; as many as torch uses here when left out.
        folder: where they run, if not here.

    Raises:
        CalledProcessError: one of them failed.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads or torch.get_num_threads())}
    running = []
    for command in commands:
        line, pipe = [sys.executable, *map(str, command)], subprocess.PIPE
        running.append(subprocess.Popen(line, env=environment, cwd=folder, stdout=pipe, stderr=pipe, text=True))
    outputs = [process.communicate() for process in running]
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    for process, (output, errors) in zip(running, outputs, strict=True):
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args, output, errors)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Cost(wall, cpu, "".join(output for output, _ in outputs))
