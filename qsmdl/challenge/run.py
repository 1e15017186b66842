"""Runs methods on scans, measures time and memory, and scores what comes out."""

import hashlib
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from qsmdl.challenge.dialects import find_dialect
from qsmdl.challenge.metrics import score
from qsmdl.challenge.protocol import Row
from qsmdl.methods import Method
from qsmdl.scan import ChiMap, FieldMap, Scan, Truth

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, eq=False)
class Case:
    """One scan to reconstruct: its field map, its echoes if there are any, and the truth if it is known. header_source: the file whose header maps
    keep; orientations: field maps of the same head at other orientations to B0, on the same grid.
    """

    name: str
    field: FieldMap
    scan: Scan | None = None
    truth: Truth | None = None
    header_source: Path | None = None
    orientations: tuple[FieldMap, ...] = ()

    def to(self, device: torch.device | str) -> "Case":
        """The same case on a device; the truth, which no method sees, stays where it is."""
        scan, others = None if self.scan is None else self.scan.to(device), tuple(other.to(device) for other in self.orientations)
        return replace(self, field=self.field.to(device), scan=scan, orientations=others)


@dataclass(frozen=True)
class Scoring:
    """How maps are scored. dialect: of `metrics.score`; additional: the additional metrics too; convention: which truth it is (`protocol.Row`)."""

    dialect: str = "rc2"
    additional: bool = False
    convention: str = "release"

    def __post_init__(self) -> None:
        find_dialect(self.dialect)


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


Solved = tuple[ChiMap, Row]


def reconstruct(
    method: Method,
    case: Case,
    *,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
    state_path: Path | None = None,
    solved: Solved | None = None,
) -> Solved:
    """One method on one case: the map and its row, without metrics. No truth is looked at.

    solved: what this returned, on the same case and seed, for a method of the same `solve_key` without steps around it. Its time counts.
    """
    torch.manual_seed(seed)
    memory, started = PeakMemory(case.field.field_ppm.device), time.perf_counter()
    chi = method(case.field, case.scan, orientations=case.orientations, on_step=on_step, state_path=state_path, solved=solved and solved[0])
    if chi.chi_ppm.is_cuda:
        torch.cuda.synchronize()
    row: Row = {
        "method": method.name,
        "scan": case.name,
        "metrics": {},
        "seconds": time.perf_counter() - started + (solved[1]["seconds"] if solved else 0.0),
        "peak_bytes": max(memory.n_bytes, (solved[1]["peak_bytes"] or 0) if solved else 0),
        "seed": seed,
        "stopped": chi.outcome.stopped,
        "kind": method.kind,
        "attested": None,
    }
    if chi.outcome.choice is not None:
        row["chosen"] = str(chi.outcome.choice)
    return chi, row


def scored(row: Row, chi_ppm: Any, truth: Truth, scoring: Scoring) -> Row:
    """The row with the metrics of its map [x, y, z] against a truth, and what they were computed with. data: the truth's fingerprint."""
    arrays = [_array(volume) for volume in (chi_ppm, truth.chi_ppm, truth.mask, truth.labels)]
    voxel_size_mm, b0_direction = truth.geometry.voxel_size_mm, truth.geometry.b0_direction
    dialect, additional = scoring.dialect, scoring.additional
    metrics = score(*arrays, dialect=dialect, additional=additional, voxel_size_mm=voxel_size_mm, b0_direction=b0_direction)
    said: Row = {**row, "metrics": metrics, "dialect": scoring.dialect, "convention": scoring.convention, "data": digest_of(truth.chi_ppm)}
    return said


def _array(volume: Any) -> Any:
    return volume.detach().cpu().numpy() if isinstance(volume, torch.Tensor) else volume


def digest_of(*tensors: torch.Tensor) -> str:
    """A short hash of the shapes and values of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def run_method(
    method: Method,
    case: Case,
    *,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
    state_path: Path | None = None,
    scoring: Scoring | None = None,
) -> tuple[ChiMap, Row]:
    """One method on one case: the map and its row; metrics are empty where the truth is not known. The truth is read only after the map is made."""
    chi, row = reconstruct(method, case, seed=seed, on_step=on_step, state_path=state_path)
    return chi, row if case.truth is None else scored(row, chi.chi_ppm, case.truth, scoring or Scoring())


def run_all(
    methods: Sequence[Method],
    cases: Iterable[Case],
    *,
    seed: int,
    on_step: Callable[[str, str, int, float], None] | None = None,
    on_row: Callable[[ChiMap, Row, Case], None] | None = None,
    state_folder: Path | None = None,
    scoring: Scoring | None = None,
    attested: Mapping[str, bool] | None = None,
) -> list[Row]:
    """Every method on every case, in the order given; `on_row` sees each result as it comes, so that nothing is lost if a later one fails.

    state_folder: where an interrupted FINE leaves its state as SCAN_METHOD.fine_state.safetensors, and finds it when run again. attested: of each
    network by name, whether the record of its training is known and clean.
    """
    rows = []
    for case in cases:
        for method in methods:

            def report(step: int, value: float, names: tuple[str, str] = (method.name, case.name)) -> None:
                if on_step is not None:
                    on_step(*names, step, value)

            state_path = None if state_folder is None else state_folder / f"{case.name}_{method.name}.fine_state.safetensors"
            chi, row = run_method(method, case, seed=seed, on_step=report, state_path=state_path, scoring=scoring)
            row["attested"] = (attested or {}).get(method.name)
            rows.append(row)
            if on_row is not None:
                on_row(chi, row, case)
    return rows
