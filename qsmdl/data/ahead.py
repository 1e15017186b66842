"""Volumes made in a background thread, one ahead of what is asked for."""

import atexit
import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from qsmdl.errors import InputError

T = TypeVar("T")


class _Stopped(BaseException):
    """Ends the thread, from wherever it is."""


class _UntilStopped(TorchFunctionMode):
    """Raises _Stopped at the next call of torch once the event is set: a volume takes seconds, and nobody should wait for one that nobody wants."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self.stop = stop

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.stop.is_set():
            raise _Stopped
        return func(*args, **(kwargs or {}))


class Ahead(Generic[T]):
    """Calls a function with one number after the other, on a device, in a thread of its own that is one number ahead of the one last asked for.

    make: the function; it runs without gradients, with as many threads of torch as there are here, and its factories make tensors on `device`.
    numbers: endless and ascending; n_kept: how many results are kept, the latest ones.
    Calling an instance with a number returns its result, or raises what make raised. `close` ends the thread; so does the end of the interpreter.
    """

    def __init__(self, make: Callable[[int], T], numbers: Iterable[int], *, n_kept: int, device: torch.device) -> None:
        self._make, self._numbers, self._n_kept, self._device = make, numbers, n_kept, device
        self._kept: dict[int, T] = {}
        self._made: SimpleQueue[tuple[int, T] | BaseException] = SimpleQueue()
        self._failure: BaseException | None = None
        self._wanted, self._stop = threading.Semaphore(1), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(torch.get_num_threads(),), name="volumes ahead", daemon=True)
        atexit.register(self.close)
        self._thread.start()

    def __call__(self, number: int) -> T:
        """The result of a number. Raises InputError for one that is no longer kept."""
        if self._kept and number < min(self._kept):
            raise InputError(f"volume {number} is no longer kept; the oldest of {self._n_kept} is {min(self._kept)}. Ask in ascending order.")
        while number not in self._kept:
            if self._failure is None:
                found = self._made.get()
                if isinstance(found, BaseException):
                    self._failure = found
                else:
                    self._wanted.release()
                    self._kept[found[0]] = found[1]
                    if len(self._kept) > self._n_kept:
                        del self._kept[next(iter(self._kept))]
            if self._failure is not None:
                raise self._failure
        return self._kept[number]

    def close(self) -> None:
        """End the thread and forget the results."""
        atexit.unregister(self.close)
        self._stop.set()
        self._wanted.release()
        # Garbage is collected in whichever thread there is: in this one, too.
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._kept.clear()

    def _run(self, n_threads: int) -> None:
        # All three are settings of a thread: the one that trains has its own.
        torch.set_num_threads(n_threads)
        try:
            with torch.no_grad(), _UntilStopped(self._stop), self._device:
                for number in self._numbers:
                    self._wanted.acquire()
                    if self._stop.is_set():
                        return
                    self._made.put((number, self._make(number)))
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001
            self._made.put(error)
