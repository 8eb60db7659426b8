"""Sections as processes: started, stopped when their time is over, and begun again after the case that broke."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpu.plan import Section, Setting, without_folders

OnMessage = Callable[[Section, dict[str, Any]], None]
"""Takes a message of a section: a case with a row, a note or an error, and last how many seconds it took."""
START = 8.0
"""Seconds that starting a process once more takes at least."""
GRACE = 3.0
"""Seconds that a section may take behind its deadline, to end what it has begun."""
TAIL = 4000
"""Characters of standard error that are reported of a process that ended with an error."""


def in_groups(sections: Sequence[Section]) -> Iterator[list[Section]]:
    """Yield the sections that may run at once: those that need the device alone one by one, others together."""
    beside = [section for section in sections if not section.alone]
    if beside:
        yield beside
    yield from ([section] for section in sections if section.alone)


def run_group(sections: Sequence[Section], setting: Setting, script: Path, on_message: OnMessage) -> None:
    """Run sections at once and return when all have ended or were stopped.

    Args:
        sections: what to run.
        setting: what each gets; its deadline is that of all sections together.
        script: the program that runs one section.
        on_message: called with every message as it comes.
    """
    messages: queue.Queue[tuple[_Run, str | None]] = queue.Queue()
    # Beside one another they share the processor, but most of the time most of them wait for the device.
    shared = max(1, 2 * (os.cpu_count() or 1) // len(sections)) if len(sections) > 1 else None
    threads = 1 if setting.tiny else shared
    running = {_started(section, setting, script, messages, threads) for section in sections}
    try:
        while running:
            for run in running:
                if not run.stopped and time.monotonic() > run.setting.deadline + GRACE:
                    run.stop()
            with contextlib.suppress(queue.Empty):
                run, line = messages.get(timeout=0.2)
                if line is not None:
                    run.receive(line, on_message)
                    continue
                running.remove(run)
                if run.finish(on_message):
                    running.add(_started(run.section, run.setting, script, messages, threads, run.begun))
    finally:
        for run in running:
            run.stop()


@dataclass(eq=False)
class _Run:
    """A process that runs a section.

    Attributes:
        section, setting: what it runs, and how.
        process: the process.
        errors: the file of its standard error.
        begun: names of the cases that it, or one before it, has begun.
        case: the case that is running.
        fresh: how many cases it has begun itself.
        stopped: whether its time was over.
        start: when it was started.
    """

    section: Section
    setting: Setting
    process: "subprocess.Popen[str]"
    errors: Path
    begun: list[str] = field(default_factory=list)
    case: str | None = None
    fresh: int = 0
    stopped: bool = False
    start: float = field(default_factory=time.monotonic)

    def receive(self, line: str, on_message: OnMessage) -> None:
        """Take in a line of its standard output."""
        message = json.loads(line)
        event = message.get("event")
        if event == "begin":
            self.begun.append(message["case"])
            self.case, self.fresh = message["case"], self.fresh + 1
        elif event == "end":
            self.case = None
        else:
            on_message(self.section, message)

    def stop(self) -> None:
        """End it and all that it has started."""
        self.stopped = True
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def finish(self, on_message: OnMessage) -> bool:
        """Report how it ended, if not well; return whether another process should go on after the broken case."""
        status = self.process.wait()
        on_message(self.section, {"took": time.monotonic() - self.start})
        tail = without_folders(self.errors.read_text(encoding="utf-8", errors="replace"))[-TAIL:]
        if self.stopped:
            case = {"case": self.case} if self.case else {}
            on_message(self.section, {**case, "note": "stopped: the time of the section was over"})
            return False
        if status and self.case:
            on_message(self.section, {"case": self.case, "error": f"the process ended with status {status}\n{tail}"})
        elif status and not self.fresh:
            on_message(self.section, {"error": f"the process ended with status {status} before its first case\n{tail}"})
        return bool(status and self.fresh and self.setting.left > START)


def _started(
    section: Section,
    setting: Setting,
    script: Path,
    messages: "queue.Queue[tuple[_Run, str | None]]",
    threads: int | None,
    begun: Sequence[str] = (),
) -> _Run:
    deadline = min(setting.deadline, time.monotonic() + section.seconds)
    own = replace(setting, deadline=deadline)
    words = [sys.executable, str(script), "--child", section.name, own.as_text(), json.dumps(list(begun))]
    environment = os.environ if threads is None else os.environ | {"OMP_NUM_THREADS": str(threads)}
    options: dict[str, Any] = {"env": environment, "cwd": setting.scratch, "start_new_session": True, "text": True}
    errors = Path(setting.scratch) / f"{section.name}.log"
    with errors.open("a") as log:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, **options)
    run = _Run(section, own, process, errors, list(begun))
    threading.Thread(target=_listen, args=(run, messages), daemon=True).start()
    return run


def _listen(run: _Run, messages: "queue.Queue[tuple[_Run, str | None]]") -> None:
    assert run.process.stdout is not None
    with run.process.stdout as output:
        for line in output:
            messages.put((run, line))
    messages.put((run, None))
