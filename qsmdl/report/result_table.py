"""The rows of an evaluation as a table for a page: texts to show, values to sort by."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qsmdl.challenge.dialects import DIALECTS, find_dialect, why_they_differ
from qsmdl.challenge.metrics import METRICS
from qsmdl.challenge.protocol import Basis, Row, average_rows, basis_of
from qsmdl.challenge.ranking import KNOWN_METRICS, display_names
from qsmdl.report.table import UNDEFINED, best_text, ended_text, value_text

_FURTHER = {
    "rmse_detrend_v0": ("dNRMSE v0", "dNRMSE with the truth fitted to the map; lower is better", "%"),
    "CalcMoment": ("Map's moment", "calcification moment of the map, no score", "ppm voxel"),
}


@dataclass(frozen=True, slots=True)
class Column:
    """title: short; unit: "" for pure numbers; explanation: shown on hovering and read aloud."""

    title: str
    unit: str = ""
    explanation: str = ""
    numeric: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """text: as shown; value: to sort by (None: undefined, sorted last); best: the best of those it compares with."""

    text: str
    value: float | str | None = None
    best: bool = False


@dataclass(frozen=True, slots=True)
class ResultTable:
    """columns, lines of cells, the scan of each line (for the filter), and notes to stand below."""

    columns: list[Column]
    lines: list[tuple[str, list[Cell]]]
    scans: list[str]
    notes: list[str]


def _metric_column(key: str) -> Column:
    if key in KNOWN_METRICS:
        metric = KNOWN_METRICS[key]
        better = "lower is better" if metric.lower_is_better else "higher is better"
        return Column(metric.short, "" if metric.unit == "1" else metric.unit, f"{metric.paper}; {better}", numeric=True)
    title, explanation, unit = _FURTHER.get(key, (key, f"{key}, unit as computed", ""))
    return Column(title, unit, explanation, numeric=True)


def _metric_cells(rows: Sequence[Row], key: str) -> list[Cell]:
    values = [row["metrics"].get(key) for row in rows]
    if key not in KNOWN_METRICS:
        return [Cell(UNDEFINED if v is None else f"{v:.4g}", v) for v in values]
    best = best_text(key, values)
    return [Cell(value_text(key, v), v, v is not None and value_text(key, v) == best) for v in values]


def _attested_cell(attested: bool | None) -> Cell:
    text = {True: "attested", False: "not attested", None: UNDEFINED}[attested]
    return Cell(text, None if attested is None else text)


def _seconds_cell(seconds: float) -> Cell:
    return Cell(f"{seconds:.1f}", seconds)


def _memory_cell(n_bytes: int | None) -> Cell:
    return Cell(UNDEFINED, None) if n_bytes is None else Cell(f"{n_bytes / 2**20:.0f}", n_bytes)


def _plain_cell(text: str) -> Cell:
    return Cell(text or UNDEFINED, text or None)


def _leading_cells(row: Row, name: str) -> list[Cell]:
    basis = basis_of(row)
    return [
        _plain_cell(name),
        _plain_cell(row["scan"]),
        _plain_cell(row.get("kind", "")),
        _attested_cell(row.get("attested")),
        _plain_cell(basis.dialect),
        _plain_cell(basis.convention),
    ]


def _trailing_cells(row: Row) -> list[Cell]:
    seed = row["seed"]
    seed_cell = Cell(UNDEFINED if seed is None else str(seed), seed)
    return [_seconds_cell(row["seconds"]), _memory_cell(row["peak_bytes"]), seed_cell, _plain_cell(ended_text(row))]


_LEADING = (
    Column("Method"),
    Column("Scan"),
    Column("Type", explanation="type of algorithm: direct, iterative or deep learning"),
    Column("Training", explanation="attested: the record of what a network was trained on is known and clean"),
    Column("Dialect", explanation="how the metrics were computed"),
    Column("Truth", explanation="which convention of the truth the metrics compare with"),
)
_TRAILING = (
    Column("Time", "s", "wall time of the reconstruction; of means, the mean", numeric=True),
    Column("Peak", "MiB", "peak memory; of means, the largest", numeric=True),
    Column("Seed", "", "seed of the run", numeric=True),
    Column("Ended", "", "how the method ended"),
)


def _notes(rows: Iterable[Row]) -> list[str]:
    dialects = list(dict.fromkeys(basis_of(row).dialect for row in rows))
    known = [name for name in dialects if name in DIALECTS]
    notes = [f"Dialect {name}: {find_dialect(name).summary}." for name in known]
    if len(known) > 1:
        notes.append(why_they_differ(tuple(known)))
    return notes


def make_result_table(rows: Sequence[Row]) -> ResultTable:
    """All rows, then the means over scans. Values compare, and the best is marked, among rows of one scan, stage, dialect and truth's convention.

    Raises InputError: a method, seed, scan and dialect twice.
    """
    everything = [*rows, *average_rows(rows)]
    names = display_names((row["method"], row["seed"]) for row in rows)
    present = dict.fromkeys(key for row in everything for key in row["metrics"])
    known = {**METRICS, **KNOWN_METRICS}
    keys = [key for key in known if key in METRICS or key in present] + [key for key in present if key not in known]
    groups: dict[tuple[str, Basis], list[Row]] = {}
    for row in everything:
        groups.setdefault((row["scan"], basis_of(row)), []).append(row)
    lines = []
    for (scan, _), group in groups.items():
        columns = [_metric_cells(group, key) for key in keys]
        for index, row in enumerate(group):
            cells = _leading_cells(row, names[row["method"], row["seed"]])
            lines.append((scan, [*cells, *(column[index] for column in columns), *_trailing_cells(row)]))
    return ResultTable([*_LEADING, *map(_metric_column, keys), *_TRAILING], lines, list(dict.fromkeys(scan for scan, _ in lines)), _notes(rows))
