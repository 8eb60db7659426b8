"""How far a command is: what is loaded, evaluations done of those expected, and the time left.

A terminal gets a bar. Elsewhere a line is written now and then, by a thread, since one evaluation may take minutes.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self

    from ddim_edit import Workload

LIBRARY = logging.getLogger("ddim_edit")
SHORTEST_SILENCE = 10.0
"""Seconds between two lines; in long runs there are fewer."""
LONGEST_SILENCE = 60.0
REFRESH = 0.1
"""Seconds between two states of the bar."""
BAR = "{percentage:3.0f}%|{bar}| {desc}"
CODEC_STAGES = ("encoding", "refining", "decoding")
"""What the autoencoder does with one image after another."""


class Progress:
    """Shows how far a command is, from `with` to its end.

    Evaluations are counted; one is for one image. How many there will be is expected at first, and where a tolerance
    decides, known better once some images are done.

    Args:
        write: prints a line.
        quiet: whether nothing is shown.
    """

    def __init__(self, write: Callable[[str], object], quiet: bool) -> None:
        self._write = write
        self._quiet = quiet
        self._terminal = not quiet and _has_terminal()
        self._bar: Any = None
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._handler = _LineHandler(self.announce)
        self._start = self._stage_start = self._last_line = time.monotonic()
        self._stage = "loading the model"
        self._images = self._finished_images = 0
        self._workload: Workload | None = None
        self._evaluations = self._evaluations_of_finished = 0
        self._codec_passes = 0
        self._runs: dict[str, int] = {}
        self._seconds: dict[str, float] = {}

    def __enter__(self) -> "Self":
        if not self._quiet:
            LIBRARY.addHandler(self._handler)
            self._level = LIBRARY.level
            LIBRARY.setLevel(logging.INFO)
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._ended.set()
            if self._bar is not None:
                self._bar.close()
        if not self._quiet:
            LIBRARY.removeHandler(self._handler)
            LIBRARY.setLevel(self._level)

    def announce(self, text: str) -> None:
        """Print what is being done now, such as that a component is being loaded."""
        with self._lock:
            self._begin(text)
            self._print(text)

    def expect(self, images: int, workload: "Workload | None", codec_passes: int = 0) -> None:
        """Begin to count evaluations.

        Args:
            images: that they are for.
            workload: of all of these; None where it is not known.
            codec_passes: how many times the autoencoder is to encode or decode an image.
        """
        with self._lock:
            self._images = images
            self._workload = workload
            self._codec_passes = codec_passes * images
            self._begin("")
            self._start = time.monotonic()
            if self._terminal:
                from tqdm import tqdm

                if self._bar is not None:
                    self._bar.close()
                form = BAR if workload else "{desc}"
                self._bar = tqdm(total=self._total, bar_format=form, leave=False, dynamic_ncols=True)
                self._last_line -= REFRESH  # so that the bar says at once what it shows
                self._show()

    def begin(self, stage: str) -> None:
        """Begin a stage: one image in the autoencoder, or a batch in the network."""
        with self._lock:
            self._begin(stage)
            self._runs[stage] = self._runs.get(stage, 0) + 1

    def count(self, evaluations: int) -> None:
        """Count evaluations that are done."""
        with self._lock:
            self._evaluations += evaluations
            self._show()

    def finish_images(self, images: int, evaluations: int = 0) -> None:
        """Count images that are done, and evaluations that were not counted one by one."""
        with self._lock:
            self._finished_images += images
            self._evaluations_of_finished = self._evaluations + evaluations
            self.count(evaluations)

    def clear(self) -> None:
        """Make room for a line of text."""
        if self._bar is not None:
            self._bar.clear()

    @property
    def _total(self) -> int | None:
        """The evaluations of all images, as far as that is known by now."""
        if self._workload is None:
            return None
        expected = self._workload.expected
        if not self._workload.known and self._evaluations_of_finished:
            expected = round(self._evaluations_of_finished * self._images / self._finished_images)
        return max(expected, self._evaluations)

    def _begin(self, stage: str) -> None:
        now = time.monotonic()
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._stage_start
        self._stage, self._stage_start = stage, now

    def _left(self) -> float | None:
        """Return the seconds that the rest will take, or None before there is anything to tell by."""
        total = self._total
        if not total or not self._evaluations:
            return None
        now = time.monotonic()
        elapsed = now - self._start
        codec = sum(self._seconds.get(stage, 0.0) for stage in CODEC_STAGES)
        if self._stage in CODEC_STAGES:
            codec += now - self._stage_start
        left = (elapsed - codec) * (total - self._evaluations) / self._evaluations
        passes = sum(self._runs.get(stage, 0) for stage in CODEC_STAGES)
        return left + codec * max(self._codec_passes - passes, 0) / max(passes, 1)

    def _tick(self) -> None:
        """Show the state again and again, so that the clock of the bar runs and no silence is long."""
        while not self._ended.wait(1.0):
            with self._lock:
                if not self._ended.is_set():
                    self._show()

    def _show(self) -> None:
        now = time.monotonic()
        silence = now - self._last_line
        if self._bar is not None:
            if silence >= REFRESH:
                self._last_line = now
                self._bar.total = self._total
                self._bar.n = self._evaluations
                self._bar.set_description_str(self.describe())  # which refreshes the bar
            return
        longest = min(max((now - self._start) / 10, SHORTEST_SILENCE), LONGEST_SILENCE)
        if silence >= longest and not self._quiet and not self._terminal:
            self._print(self.describe())

    def describe(self) -> str:
        """Return a line on what is being done, how much of it is done, and how long the rest will take."""
        if not self._images:
            return f"{self._stage}: {format_duration(time.monotonic() - self._stage_start)}"
        parts: list[str] = []
        if self._stage in CODEC_STAGES:
            parts.append(f"{self._stage} image {self._runs[self._stage]:,}")
        total, workload = self._total, self._workload
        if total is None or workload is None:
            parts.append(f"{self._evaluations:,} evaluations in {format_duration(time.monotonic() - self._start)}")
        elif workload.known:
            parts.append(f"{self._evaluations:,} of {total:,} evaluations")
        else:
            bound = f", at most {workload.most:,}" if workload.most is not None and not self._finished_images else ""
            parts.append(f"{self._evaluations:,} of about {total:,} evaluations{bound}")
        left = self._left()
        if left is not None:
            parts.append(f"about {format_duration(left)} left")
        return ", ".join(parts)

    def _print(self, text: str) -> None:
        self._last_line = time.monotonic()
        self.clear()
        self._write(text)


def _has_terminal() -> bool:
    """Return whether standard error is a terminal that knows its width, without which there is no bar."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        return False


class _LineHandler(logging.Handler):
    """Hands what the library logs to a function, line by line."""

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__(logging.INFO)
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        self._write(record.getMessage())


def format_duration(seconds: float) -> str:
    """Return a time for people.

    Examples:
        >>> format_duration(75), format_duration(7384)
        ('1:15', '2:03:04')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
