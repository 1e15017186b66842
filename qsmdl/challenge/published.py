"""The published scores of the challenge, as reference rows.

Source: QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255, Table 1 (`published.csv` beside this file). They were obtained on
the challenge's own data with its released evaluation code, so they rank among themselves only and are shown apart from any other result.
"""

import csv
import functools
from dataclasses import dataclass
from importlib import resources
from typing import cast, get_args

from qsmdl.challenge.metrics import Scores
from qsmdl.challenge.protocol import MethodKind

ORIGIN = "published, on the challenge's own data"
_COLUMNS = {"NRMSE": "rmse", "dNRMSE_Blood": "rmse_detrend_Blood", "CalcStreak": "CalcStreak", "CalcError": "DeviationFromCalcMoment"}


@dataclass(frozen=True, slots=True)
class Published:
    """One submission of the challenge: metrics as far as Table 1 gives them, mean visual score (0 best, 3 worst; stage 1 only) and top-five count."""

    stage: int
    identifier: str
    acronym: str
    kind: MethodKind
    metrics: Scores
    mean_visual: float | None
    n_top_five: int
    origin: str = ORIGIN

    @property
    def name(self) -> str:
        """The acronym with the identifier, since several submissions share an acronym."""
        return f"{self.acronym} [{self.identifier}]"


def _published(line: dict[str, str]) -> Published:
    kind = line["type"]
    if kind not in get_args(MethodKind):
        raise AssertionError(f"published.csv names an unknown type {kind!r}")
    return Published(
        stage=int(line["stage"]),
        identifier=line["identifier"],
        acronym=line["acronym"],
        kind=cast(MethodKind, kind),
        metrics={key: float(line[column]) for column, key in _COLUMNS.items()},
        mean_visual=float(line["MeanVisual"]) if line["MeanVisual"] else None,
        n_top_five=int(line["TopFives"]),
    )


@functools.cache
def published_scores() -> tuple[Published, ...]:
    """Table 1: the top ten of stage 1, then of stage 2, in the order of the paper (by NRMSE)."""
    text = (resources.files("qsmdl.challenge") / "published.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(_published(line) for line in csv.DictReader(lines))
