"""Runs methods on scans, measures time and memory, and scores what comes out."""

import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from qsmdl.challenge.metrics import score
from qsmdl.challenge.protocol import Row
from qsmdl.methods import Method
from qsmdl.scan import ChiMap, FieldMap, Scan, Truth

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, eq=False)
class Case:
    """One scan to reconstruct: its field map, its echoes if there are any, and the truth if it is known. header_source: the file whose header maps
    keep.
    """

    name: str
    field: FieldMap
    scan: Scan | None = None
    truth: Truth | None = None
    header_source: Path | None = None


class PeakMemory:
    """Largest resident memory of the process, in bytes, since it was made; on a CUDA device the largest memory allocated there.

    On Linux the high-water mark is reset first; elsewhere it is that of the whole run so far, an upper bound.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            _RESET.write_text("5")
        except OSError:  # not Linux, or forbidden in this container: the bound stays valid
            return

    @property
    def n_bytes(self) -> int:
        """The peak so far."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        if _STATUS.exists():
            line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
            return int(line.split()[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run_method(
    method: Method, case: Case, *, seed: int, on_step: Callable[[int, float], None] | None = None, state_path: Path | None = None
) -> tuple[ChiMap, Row]:
    """One method on one case: the map and its row; metrics are empty where the truth is not known. The truth is read only after the map is made."""
    torch.manual_seed(seed)
    memory, started = PeakMemory(case.field.field_ppm.device), time.perf_counter()
    chi = method(case.field, case.scan, on_step=on_step, state_path=state_path)
    if chi.chi_ppm.is_cuda:
        torch.cuda.synchronize()
    seconds, peak = time.perf_counter() - started, memory.n_bytes
    metrics = {}
    if case.truth is not None:
        arrays = (chi.chi_ppm, case.truth.chi_ppm, case.truth.mask, case.truth.labels)
        metrics = score(*(a.detach().cpu().numpy() for a in arrays))
    row: Row = {
        "method": method.name,
        "scan": case.name,
        "metrics": metrics,
        "seconds": seconds,
        "peak_bytes": peak,
        "seed": seed,
        "stopped": chi.outcome.stopped,
    }
    return chi, row


def run_all(
    methods: Sequence[Method],
    cases: Iterable[Case],
    *,
    seed: int,
    on_step: Callable[[str, str, int, float], None] | None = None,
    on_row: Callable[[ChiMap, Row, Case], None] | None = None,
    state_folder: Path | None = None,
) -> list[Row]:
    """Every method on every case, in the order given; `on_row` sees each result as it comes, so that nothing is lost if a later one fails.

    state_folder: where an interrupted FINE leaves its state as SCAN_METHOD.fine_state.safetensors, and finds it when run again.
    """
    rows = []
    for case in cases:
        for method in methods:

            def report(step: int, value: float, names: tuple[str, str] = (method.name, case.name)) -> None:
                if on_step is not None:
                    on_step(*names, step, value)

            state_path = None if state_folder is None else state_folder / f"{case.name}_{method.name}.fine_state.safetensors"
            chi, row = run_method(method, case, seed=seed, on_step=report, state_path=state_path)
            rows.append(row)
            if on_row is not None:
                on_row(chi, row, case)
    return rows
