"""What a user sees while something runs."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

console = Console(stderr=True, soft_wrap=True)
"""Progress goes to standard error; results (tables, JSON) to standard output."""


class StepLine:
    """Shows the steps of a running method: on a terminal one line that is rewritten, elsewhere a line every ten seconds."""

    def __init__(self, every_s: float = 10.0) -> None:
        self.terminal = sys.stderr.isatty()
        self.every_s = 0.2 if self.terminal else every_s
        self._last = -math.inf  # the first step is shown at once
        self._written = False

    def __call__(self, method: str, scan: str, step: int, value: float) -> None:
        """One step of a method on a scan; value is the method's own measure (relative change of a solver, whitened residual variance of FINE)."""
        if time.monotonic() - self._last < self.every_s:
            return
        self._last = time.monotonic()
        text = f"  {method} on {scan}: step {step}, {value:.4g}"
        sys.stderr.write(f"\r{text:<70}" if self.terminal else text + "\n")
        sys.stderr.flush()
        self._written = self.terminal

    def clear(self) -> None:
        """Leave a clean line behind."""
        if self._written:
            sys.stderr.write("\r" + " " * 70 + "\r")
            self._written = False


@contextmanager
def stage(text: str) -> Iterator[None]:
    """Says what begins, and how long it took."""
    console.print(f"[bold]{text}[/bold] ...")
    begun = time.monotonic()
    yield
    console.print(f"  done in {time.monotonic() - begun:.1f} s")


def timed_lines(name: str, scan: str) -> tuple[StepLine, Callable[[int, float], None]]:
    """A step line and the `on_step` function that feeds it."""
    line = StepLine()
    return line, lambda step, value: line(name, scan, step, value)
