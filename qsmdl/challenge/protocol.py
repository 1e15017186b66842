"""Rows of results, what makes two of them comparable, and how the challenge averages them.

Source: QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255: scores are means over Sim1 and Sim2 (and, in stage 2, both
noise levels), except the two calcification metrics, which come from Sim2 alone.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, NotRequired, TypedDict, get_args

from qsmdl.challenge.metrics import METRICS, Scores
from qsmdl.errors import InputError

MethodKind = Literal["direct", "iterative", "deep learning"]
KINDS: tuple[MethodKind, ...] = get_args(MethodKind)


class Row(TypedDict):
    """One method on one scan: metrics as `metrics.score` returns them (empty for a blind scan), wall time, peak memory, seed, and how the method
    ended.

    dialect: how the metrics were computed ("rc2" where absent); convention: which truth they compare with ("release" where absent: the one handed
    out with the scan); kind: type of algorithm; attested: whether the training record of a network is known and clean (None: not a network);
    stage: of the challenge's protocol, 1 or 2 (where absent, the scan's name tells: `stage_of`); data: any text that identifies the scan, such as
    a fingerprint of its truth, so that two scans of one name are not mistaken for each other; chosen: the setting that was chosen without truth for
    this scan, and by which rule.
    """

    method: str
    scan: str
    metrics: Scores
    seconds: float
    peak_bytes: int | None
    seed: int | None
    stopped: str
    dialect: NotRequired[str]
    convention: NotRequired[str]
    kind: NotRequired[MethodKind]
    attested: NotRequired[bool | None]
    stage: NotRequired[int]
    data: NotRequired[str]
    chosen: NotRequired[str]


class ScanName(NamedTuple):
    """What the name of a scan tells: `Sim2Snr1` is simulation 2 at noise level 1. None where the name does not follow the challenge."""

    simulation: int | None
    snr_level: int | None


class Basis(NamedTuple):
    """What rows must share before their numbers may be averaged or compared."""

    dialect: str
    convention: str
    stage: int | None

    def __str__(self) -> str:
        return f"dialect {self.dialect}, truth: {self.convention}"


_SIM2_ONLY = {key for key, metric in METRICS.items() if metric.sim2_only} | {"CalcMoment"}
_CHALLENGE_SCAN = re.compile(r"sim([12])(?!\d)(?:snr(\d+))?", re.IGNORECASE)


def parse_scan(scan: str) -> ScanName:
    """The simulation and the noise level that a scan's name tells (`Sim1`, `Sim2Snr1`, `Sim2_3`)."""
    match = _CHALLENGE_SCAN.match(scan)
    if match is None:
        return ScanName(None, None)
    return ScanName(int(match[1]), None if match[2] is None else int(match[2]))


def stage_of_scan(scan: str) -> int | None:
    """The stage that a scan's name tells: Sim1 is of stage 1, Sim1Snr2 of stage 2, others of none."""
    simulation, snr_level = parse_scan(scan)
    if simulation is None:
        return None
    return 1 if snr_level is None else 2


def stage_of(row: Row) -> int | None:
    """The stage a row belongs to: as it says, or else as its scan's name tells (`stage_of_scan`)."""
    return row["stage"] if "stage" in row else stage_of_scan(row["scan"])


def basis_of(row: Row) -> Basis:
    """Dialect, convention of the truth, and stage of a row, with the defaults of rows that do not say."""
    return Basis(row.get("dialect", "rc2"), row.get("convention", "release"), stage_of(row))


def _counts(key: str, scan: str) -> bool:
    """Whether a scan enters the average of a metric; scans outside the challenge count wherever the metric is defined."""
    return key not in _SIM2_ONLY or parse_scan(scan).simulation in (None, 2)


def _mean_metric(key: str, rows: Sequence[Row]) -> float | None:
    counted = [row for row in rows if _counts(key, row["scan"])]
    defined = [(row["scan"], value) for row in counted if (value := row["metrics"].get(key)) is not None]
    # A mean over fewer scans than the other methods' would not compare. Only calcifications may be absent, and not in Sim2, which always has one:
    # there a map that lost it has no streaking, and must not be judged by its other noise level alone.
    lost = {row["scan"] for row in counted} - {scan for scan, _ in defined}
    if not defined or any(key not in _SIM2_ONLY or parse_scan(scan).simulation == 2 for scan in lost):
        return None
    return sum(value for _, value in defined) / len(defined)


def _attested(rows: Sequence[Row]) -> bool | None:
    """A mean is attested only where every part of it is."""
    said = [row.get("attested") for row in rows]
    return False if False in said else (True if True in said else None)


def mean_row(rows: Sequence[Row]) -> Row:
    """The mean of one method's rows, which must share their basis: means of the metrics and of the time, largest peak memory."""
    keys = dict.fromkeys(key for row in rows for key in row["metrics"])
    peaks = [row["peak_bytes"] for row in rows if row["peak_bytes"] is not None]
    first = rows[0]
    mean: Row = {
        "method": first["method"],
        "scan": "mean of " + ", ".join(sorted(row["scan"] for row in rows)),
        "metrics": {key: _mean_metric(key, rows) for key in keys},
        "seconds": sum(row["seconds"] for row in rows) / len(rows),
        "peak_bytes": max(peaks, default=None),
        "seed": first["seed"],
        "stopped": "; ".join(dict.fromkeys(row["stopped"] for row in rows)),
        "dialect": basis_of(first).dialect,
        "convention": basis_of(first).convention,
        "attested": _attested(rows),
    }
    if "kind" in first:
        mean["kind"] = first["kind"]
    if any("chosen" in row for row in rows):
        mean["chosen"] = "; ".join(dict.fromkeys(row["chosen"] for row in rows if "chosen" in row))
    stage = stage_of(first)
    if stage is not None:
        mean["stage"] = stage
    return mean


def group_rows(rows: Iterable[Row]) -> dict[tuple[str, int | None, Basis], list[Row]]:
    """The rows of each method, seed and basis, in the order of first appearance.

    Raises InputError: one method, seed, basis and scan twice.
    """
    groups: dict[tuple[str, int | None, Basis], dict[str, Row]] = {}
    for row in rows:
        basis = basis_of(row)
        scans = groups.setdefault((row["method"], row["seed"], basis), {})
        if row["scan"] in scans:
            raise InputError(
                f"There are two rows of {row['method']} (seed {row['seed']}) on {row['scan']} ({basis}). "
                "Give the two settings different names, or pass each file once."
            )
        scans[row["scan"]] = row
    return {key: list(scans.values()) for key, scans in groups.items()}


def average_rows(rows: Iterable[Row]) -> list[Row]:
    """One row per method, seed and basis with at least two scans, in the order of first appearance: `mean_row`.

    Rows of different dialects, conventions of the truth or stages are never averaged together. The two calcification metrics (and CalcMoment) come
    from Sim2 alone, where both noise levels must have them; those of scans outside the challenge count where they are defined. Any other metric that
    is undefined on one of the scans is undefined in the average.
    To report noise levels apart, pass the rows of one level.
    Raises InputError: one method, seed, basis and scan twice.
    """
    return [mean_row(group) for group in group_rows(rows).values() if len(group) > 1]
