"""Share one model among the jobs of several tabs, so that short jobs pass long ones."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition

ProgressCallback = Callable[[float], object]
"""Called with how much of a job is done, from 0 to 1. What it raises ends the job."""
PATIENCE = 0.2
"""Seconds between two calls of the callback of a job that waits."""


def ignore_progress(share: float) -> None:
    """Do nothing."""


class _Job:
    """A job, and how many evaluations of the network it still takes."""

    def __init__(self, evaluations: int, callback: ProgressCallback) -> None:
        self.expected = max(evaluations, 1)
        self.done = 0
        self.callback = callback

    @property
    def left(self) -> int:
        return self.expected - self.done

    @property
    def share(self) -> float:
        return min(self.done / self.expected, 1.0)


class ModelQueue:
    """Lets one job at a time run the model: the one with the fewest evaluations left.

    It is the `on_evaluation` of an editor, and interrupts a job after an evaluation of the network: an edit in one tab,
    of ten evaluations, does not wait for hundreds of them in another.

    Examples:
        >>> queue = ModelQueue()
        >>> with queue.job(2, print):
        ...     queue(1)
        ...     queue(1)
        0.5
        1.0
    """

    def __init__(self) -> None:
        self._condition = Condition()
        self._jobs: list[_Job] = []
        self._running: _Job | None = None

    def __call__(self, images: int) -> None:
        """Count an evaluation on this many images for the job that runs, and let a shorter one pass."""
        job = self._running
        if job is None:
            return
        job.done += images
        job.callback(job.share)
        with self._condition:
            if self._shortest() is not job:
                self._running = None
                self._condition.notify_all()
                self._wait_for_turn(job)

    @contextmanager
    def job(self, evaluations: int, on_progress: ProgressCallback) -> Iterator[None]:
        """Wait for the turn of a job, and report its progress until it ends.

        Args:
            evaluations: of the network on one image, as many as are expected.
            on_progress: called in the thread of the job after every evaluation, and again and again while it waits.
        """
        job = _Job(evaluations, on_progress)
        with self._condition:
            self._jobs.append(job)
        try:
            with self._condition:
                self._wait_for_turn(job)
            yield
        finally:
            with self._condition:
                self._jobs.remove(job)
                if self._running is job:
                    self._running = None
                self._condition.notify_all()

    def _shortest(self) -> _Job:
        return min(self._jobs, key=lambda job: job.left)  # of equal ones the first that came

    def _wait_for_turn(self, job: _Job) -> None:
        while self._running is not None or self._shortest() is not job:
            self._condition.wait(PATIENCE)
            job.callback(job.share)
        self._running = job
