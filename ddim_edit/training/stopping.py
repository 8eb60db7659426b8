"""Being asked to stop, without being torn out of a step."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import torch

_ASKED = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """While inside, Ctrl-C and SIGTERM are noted and no more; the second one ends the process as it always does.

    Threads other than the main one cannot be asked, so that outside of it nothing is noted.
    """

    def __init__(self) -> None:
        self._noted = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._note) for each in _ASKED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True
        self._give_back()

    def _give_back(self) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def asked(self, accelerator: Any) -> bool:
        """Whether any process was asked to stop; all of them must ask this together."""
        if accelerator.num_processes == 1:
            return self._noted
        noted = torch.tensor(float(self._noted), device=accelerator.device)
        return bool(accelerator.reduce(noted, "sum").item())
