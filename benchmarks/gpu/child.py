"""One section in a process of its own: it emits rows to the watching process, as lines of JSON."""

import contextlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from gpu.plan import Case, Section, Setting, Skipped, without_folders

BROKEN = 3
"""Exit status of a process whose device computes no more, so that the cases left need another process."""
LONGEST = 6000
"""Characters that are kept of an error, its end."""
Emit = Callable[..., None]
"""Prints a message about a case: a row, a note, an error or an event."""


def run(section: Section, setting: Setting, skip: Collection[str]) -> int:
    """Measure all cases of a section but those to skip; one that fails ends nothing but itself.

    Returns:
        The exit status: 0, or `BROKEN`.
    """
    # Standard output is for rows alone: everything else that is printed goes to standard error.
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def emit(**fields: Any) -> None:
        print(json.dumps(fields), file=stream, flush=True)

    if not setting.model:
        from ddim_edit import packaged_models

        setting = replace(setting, model=str(packaged_models()["faces64"]))
    for case in section.cases(setting):
        if case.name in skip:
            continue
        if setting.left <= 0:
            emit(case=case.name, note="not measured: the time of the section is over")
            continue
        emit(case=case.name, event="begin")
        start = time.monotonic()
        failed = _measure(case, emit)
        emit(case=case.name, event="end", seconds=time.monotonic() - start)
        if failed and not _computes(setting.device):
            return BROKEN
    return 0


def _measure(case: Case, emit: Emit) -> bool:
    """Emit the rows of a case as they come; return whether it failed."""
    try:
        for row in case.measure():
            emit(case=case.name, row=dict(row))
    except Skipped as missing:
        emit(case=case.name, note=f"skipped: {missing}")
    except Exception:
        text = traceback.format_exc()
        error = sys.exc_info()[1]
        if isinstance(error, subprocess.CalledProcessError) and error.stderr:
            text += f"\n{error.stderr}"  # of a process that the case started
        emit(case=case.name, error=without_folders(text)[-LONGEST:])
        return True
    return False


def _computes(device: str) -> bool:
    """Return whether the device still computes; after an illegal access it refuses everything in this process."""
    import torch

    with contextlib.suppress(RuntimeError):
        return int(torch.ones(1, device=device).add(1).item()) == 2
    return False
