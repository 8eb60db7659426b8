"""How far a long command is: evaluations done of those expected, as a bar on a terminal, or a line now and then."""

import sys
import time
from collections.abc import Callable
from typing import Any

LONGEST_SILENCE = 30.0
"""Seconds without a line after which one is written, where standard error is no terminal."""
SHORTEST_SILENCE = 10.0
"""Seconds after which a line is written for another tenth of the evaluations."""


class Progress:
    """Counts network evaluations, of which one is for one image.

    How many an image takes is expected at first, and known once some images are done.

    Args:
        images: number of images in all.
        each: evaluations that one is expected to take, or None.
        quiet: whether nothing is shown.
        write: prints a line.
    """

    def __init__(self, images: int, each: int | None, quiet: bool, write: Callable[[str], object]) -> None:
        self._images = images
        self._each: float | None = each
        self._finished_images = 0
        self._finished = 0
        self._write = write
        self._start = self._last = time.monotonic()
        self._last_share = 0.0
        self._quiet = quiet
        self._bar: Any = None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, unit=" evaluations", leave=False)

    @property
    def _total(self) -> int | None:
        return None if self._each is None else max(round(self._images * self._each), self._finished)

    def count(self, evaluations: int) -> None:
        """Count evaluations that are done."""
        self._finished += evaluations
        if self._bar is not None:
            self._bar.total = self._total
            self._bar.update(evaluations)
        elif not self._quiet:
            self._write_now_and_then()

    def finish_images(self, images: int) -> None:
        """Count images that are done."""
        self._finished_images += images
        if self._finished:
            self._each = self._finished / self._finished_images

    def clear(self) -> None:
        """Make room for a line of text."""
        if self._bar is not None:
            self._bar.clear()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    def _write_now_and_then(self) -> None:
        now = time.monotonic()
        total = self._total
        share = self._finished / total if total else 0.0
        silence = now - self._last
        if silence < LONGEST_SILENCE and (silence < SHORTEST_SILENCE or share - self._last_share < 0.1):
            return
        self._last, self._last_share = now, share
        if total is None:
            self._write(f"{self._finished:,} evaluations in {_duration(now - self._start)}")
        else:
            left = (now - self._start) * (total - self._finished) / self._finished
            self._write(f"{self._finished:,} of {total:,} evaluations, about {_duration(left)} left")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
