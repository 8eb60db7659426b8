"""Stop between two steps after Ctrl-C or SIGTERM."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import torch

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptGuard:
    """Context in which the first Ctrl-C or SIGTERM is only noted; the second one ends the process as usual.

    Python handles signals in the main thread alone; in others nothing is noted.
    """

    def __init__(self) -> None:
        self._interrupted = False
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():

            def note_interrupt(number: int, frame: FrameType | None) -> None:
                self._interrupted = True
                self._restore_handlers()

            self._handlers = {each: signal.signal(each, note_interrupt) for each in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for each, handler in self._handlers.items():
            signal.signal(each, handler)

    def is_interrupted(self, accelerator: Any) -> bool:
        """Return whether any process was interrupted; all processes must call it together."""
        if accelerator.num_processes == 1:
            return self._interrupted
        # A signal may reach one process alone, but all of them must stop after the same step.
        interrupted = torch.tensor(float(self._interrupted), device=accelerator.device)
        return bool(accelerator.reduce(interrupted, "sum").item())
