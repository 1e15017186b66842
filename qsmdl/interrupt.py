"""Ctrl-C and SIGTERM that wait for a safe place to stop."""

import signal
import threading
from types import FrameType, TracebackType

EXIT_INTERRUPTED = 130
"""Exit status of a command that was stopped by Ctrl-C and saved its state (128 + SIGINT, as shells report it)."""


class DeferredInterrupt:
    """Context that turns the first Ctrl-C (or SIGTERM, which SLURM sends before its time limit) into the flag `requested`, to be read between steps.

    A second Ctrl-C interrupts at once. Outside the main thread signals cannot be caught; there the flag never rises and Python's default holds.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __enter__(self) -> "DeferredInterrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()
