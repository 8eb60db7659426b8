"""One section in a process of its own: rows to the process that watches, as lines of JSON."""

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
"""Exit status of a process whose device answers no more, so that the cases left need another process."""
LONGEST = 6000
"""Characters that are kept of an error, its end."""
Say = Callable[..., None]


def run(section: Section, setting: Setting, skip: Collection[str]) -> int:
    """Measure all cases of a section but those to skip; one that fails ends nothing but itself.

    Returns:
        The exit status: 0, or `BROKEN`.
    """
    say = _own_output()
    if not setting.model:
        from ddim_edit import packaged_models

        setting = replace(setting, model=str(packaged_models()["faces64"]))
    for case in section.cases(setting):
        if case.name in skip:
            continue
        if setting.left <= 0:
            say(case=case.name, note="not measured: the time of the section is over")
            continue
        say(case=case.name, event="begin")
        start = time.monotonic()
        failed = _measured(case, say)
        say(case=case.name, event="end", seconds=time.monotonic() - start)
        if failed and not _answers(setting.device):
            return BROKEN
    return 0


def _own_output() -> Say:
    """Reserve standard output for rows: everything else that is printed goes to standard error."""
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(**fields: Any) -> None:
        print(json.dumps(fields), file=stream, flush=True)

    return say


def _measured(case: Case, say: Say) -> bool:
    """Tell the rows of a case as they come; return whether it failed."""
    try:
        for row in case.measure():
            say(case=case.name, row=dict(row))
    except Skipped as missing:
        say(case=case.name, note=f"skipped: {missing}")
    except Exception:
        say(case=case.name, error=without_folders(traceback.format_exc() + _said())[-LONGEST:])
        return True
    return False


def _said() -> str:
    """Return the standard error of a process that the failed case started."""
    error = sys.exc_info()[1]
    return f"\n{error.stderr}" if isinstance(error, subprocess.CalledProcessError) and error.stderr else ""


def _answers(device: str) -> bool:
    """Whether the device still computes; after an illegal access it refuses everything in this process."""
    import torch

    with contextlib.suppress(RuntimeError):
        return int(torch.ones(1, device=device).add(1).item()) == 2
    return False
