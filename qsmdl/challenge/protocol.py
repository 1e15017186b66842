"""Rows of results and how the challenge averages them.

Source: QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255: scores are means over Sim1 and Sim2 (and, in stage 2, both
noise levels),
except the two calcification metrics, which come from Sim2 alone.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NotRequired, TypedDict

from qsmdl.challenge.metrics import METRICS, Scores
from qsmdl.errors import InputError


MethodKind = Literal["direct", "iterative", "deep learning"]


class Row(TypedDict):
    """One method on one scan: metrics as `metrics.score` returns them (empty for a blind scan), wall time, peak memory, seed, and how the method
    ended.

    dialect: how the metrics were computed ("rc2" where absent); convention: which truth they compare with ("release" where absent: the one handed
    out with the scan); kind: type of algorithm; attested: whether the training record of a network is known and clean (None: not a network).
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


_SIM2_ONLY = {key for key, metric in METRICS.items() if metric.sim2_only} | {"CalcMoment"}
_CHALLENGE_SCAN = re.compile(r"sim([12])(?!\d)", re.IGNORECASE)


def _counts(key: str, scan: str) -> bool:
    """Whether a scan enters the average of a metric; scans outside the challenge count wherever the metric is defined."""
    match = _CHALLENGE_SCAN.match(scan)
    return key not in _SIM2_ONLY or match is None or match[1] == "2"


def _mean_metric(key: str, rows: Sequence[Row]) -> float | None:
    values = [row["metrics"].get(key) for row in rows if _counts(key, row["scan"])]
    defined = [value for value in values if value is not None]
    # a mean over fewer scans than the other methods' would not compare; calcifications alone are allowed to be absent
    if not defined or (len(defined) < len(values) and key not in _SIM2_ONLY):
        return None
    return sum(defined) / len(defined)


def _average(rows: Sequence[Row]) -> Row:
    keys = dict.fromkeys(key for row in rows for key in row["metrics"])
    peaks = [row["peak_bytes"] for row in rows if row["peak_bytes"] is not None]
    return {
        "method": rows[0]["method"],
        "scan": "mean of " + ", ".join(sorted(row["scan"] for row in rows)),
        "metrics": {key: _mean_metric(key, rows) for key in keys},
        "seconds": sum(row["seconds"] for row in rows) / len(rows),
        "peak_bytes": max(peaks, default=None),
        "seed": rows[0]["seed"],
        "stopped": "; ".join(dict.fromkeys(row["stopped"] for row in rows)),
    }


def average_rows(rows: Iterable[Row]) -> list[Row]:
    """One row per method and seed with at least two scans, in the order of first appearance: means of the metrics and of the time, largest peak
    memory.

    The two calcification metrics (and CalcMoment) come from Sim2 alone; other scans' count where they are defined. Any other metric that is
    undefined on one
    of the scans is undefined in the average. To report noise levels apart, pass the rows of one level.
    Raises InputError: one method, seed and scan twice.
    """
    groups: dict[tuple[str, int | None], dict[str, Row]] = {}
    for row in rows:
        scans = groups.setdefault((row["method"], row["seed"]), {})
        if row["scan"] in scans:
            raise InputError(f"There are two rows of {row['method']} (seed {row['seed']}) on {row['scan']}. Give the two settings different names.")
        scans[row["scan"]] = row
    return [_average(list(scans.values())) for scans in groups.values() if len(scans) > 1]
