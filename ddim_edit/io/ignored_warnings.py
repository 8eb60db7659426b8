"""Ignore warnings of other packages, in any number of threads at once."""

import threading
import warnings


class _IgnoredWarnings:
    """A context in which warnings are ignored for as long as any thread is inside.

    Python has one list of filters for all threads, so that two overlapping `catch_warnings` restore each other's
    filters: one of them would show warnings again, or the other ignore them for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._caught.__exit__(None, None, None)


ignored_warnings = _IgnoredWarnings()
