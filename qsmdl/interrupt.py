"""Ctrl-C and SIGTERM that wait for a safe place to stop, and processes that do not outlive the one that started them."""

import ctypes
import signal
import sys
import threading
from types import FrameType, TracebackType

EXIT_INTERRUPTED = 130
"""Exit status of a command that was stopped by Ctrl-C and saved its state (128 + SIGINT, as shells report it)."""


def end_with_parent() -> None:
    """On Linux, has the kernel kill this process when the one that started it ends, however that happens; elsewhere nothing.

    A process that waits for gradients of one that is gone would otherwise wait until the transport's time limit (half an hour).
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGKILL), 0, 0, 0)


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
