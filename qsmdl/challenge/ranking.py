"""Who stands where: combined scores, ranks per metric, top-five counts and the challenge's two categories.

Source: QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255: algorithms compete for the lowest NRMSE and for robustness, which
is the number of metrics in which an algorithm is among the best five. Only rows that were computed alike are ranked together.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from qsmdl.challenge.metrics import ADDITIONAL_METRICS, METRICS, Metric, Scores
from qsmdl.challenge.protocol import MethodKind, Row, basis_of, group_rows, mean_row, parse_scan, stage_of
from qsmdl.errors import InputError

N_BEST = 5
KNOWN_METRICS: dict[str, Metric] = METRICS | ADDITIONAL_METRICS
VisualScores = Mapping[int | None, Mapping[str, float]]
"""Stage -> method -> mean visual score, 0 (best) to 3."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One algorithm in a standing.

    metrics: combined over the scans; by_scan: the same of each scan; ranks: per metric, 1 is best, None where the metric is undefined;
    n_top_five: in how many of the official metrics the rank is at most five; visual: mean visual score, 0 (best) to 3, or None.
    """

    name: str
    method: str
    seed: int | None
    kind: MethodKind | None
    attested: bool | None
    metrics: Scores
    by_scan: dict[str, Scores]
    seconds: float
    ranks: dict[str, int | None]
    n_top_five: int
    visual: float | None = None

    @property
    def nrmse(self) -> float | None:
        """The combined NRMSE in %."""
        return self.metrics.get("rmse")


@dataclass(frozen=True, slots=True)
class Standing:
    """Algorithms that compare with each other, lowest NRMSE first.

    stage: 1, 2, or None for scans outside the challenge; snr_level: None where all noise levels are combined; scans: what every entry was combined
    from; left_out: (name, reason) of those that could not be compared.
    """

    stage: int | None
    snr_level: int | None
    dialect: str
    convention: str
    scans: tuple[str, ...]
    entries: tuple[Entry, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """What is compared, in words."""
        stage = "Scans outside the challenge" if self.stage is None else f"Stage {self.stage}"
        level = "" if self.snr_level is None else f", SNR{self.snr_level}"
        return f"{stage}{level}: mean of {', '.join(self.scans)}" if len(self.scans) > 1 else f"{stage}{level}: {self.scans[0]}"

    @property
    def basis(self) -> str:
        """How the numbers were computed."""
        return f"dialect {self.dialect}, truth: {self.convention}"

    @property
    def is_combined(self) -> bool:
        """Whether this is the standing of a whole stage, not of one noise level of several."""
        return self.snr_level is None

    def eligible(self) -> list[Entry]:
        """Entries that may win a category: a network without a clean training record is ranked, but wins nothing."""
        return [entry for entry in self.entries if entry.attested is not False]

    def lowest_nrmse(self) -> list[Entry]:
        """The winner of the category "lowest NRMSE"; several where they are equal, none where nobody has an NRMSE."""
        values = [entry.nrmse for entry in self.eligible() if entry.nrmse is not None]
        return [entry for entry in self.eligible() if values and entry.nrmse == min(values)]

    def most_robust(self) -> list[Entry]:
        """The winners of the category "robustness"; none among five or fewer algorithms, where everybody is among the best five."""
        if len(self.entries) <= N_BEST:
            return []
        most = max((entry.n_top_five for entry in self.eligible()), default=0)
        return [entry for entry in self.eligible() if most and entry.n_top_five == most]


def rank_values(values: Sequence[float | None], *, lower_is_better: bool = True) -> list[int | None]:
    """Ranks from 1 (best), equal values sharing the better rank (1, 2, 2, 4); an undefined value has no rank and pushes nobody back."""
    sign = 1 if lower_is_better else -1
    defined = sorted(sign * value for value in values if value is not None)
    first: dict[float, int] = {}
    for position, value in enumerate(defined):
        first.setdefault(value, position + 1)
    return [None if value is None else first[sign * value] for value in values]


def _said(values: Iterable[str]) -> str:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return ", ".join(f"{value} ({n} rows)" for value, n in counts.items())


def _selected(rows: Sequence[Row], what: str, wanted: str | None) -> list[Row]:
    values = [getattr(basis_of(row), what) for row in rows]
    if wanted is not None:
        kept = [row for row, value in zip(rows, values, strict=True) if value == wanted]
        if not kept:
            raise InputError(f"No row has the {what} {wanted!r}; the rows have {_said(values)}. Choose one of these with --{what}.")
        return kept
    if len(set(values)) > 1:
        raise InputError(f"The rows mix the {what}s {_said(values)}, whose numbers do not compare. Choose one with --{what}.")
    return list(rows)


def select_rows(rows: Sequence[Row], *, dialect: str | None = None, convention: str | None = None) -> list[Row]:
    """The rows of one dialect and one convention of the truth; None takes the only one there is.

    Raises InputError: no rows, several dialects or conventions and no choice, or a choice that no row meets.
    """
    if not rows:
        raise InputError("There are no results to rank: the rows are empty. Run at least one method on one scan with a truth.")
    return _selected(_selected(rows, "dialect", dialect), "convention", convention)


def check_same_data(rows: Iterable[Row]) -> None:
    """Raises InputError where two rows on scans of one name and stage say that these are different data."""
    seen: dict[tuple[int | None, str], Row] = {}
    for row in rows:
        if "data" not in row:
            continue
        other = seen.setdefault((stage_of(row), row["scan"]), row)
        if other["data"] != row["data"]:
            raise InputError(
                f"{row['scan']} of {row['method']} is not the {row['scan']} of {other['method']} ({row['data']} against {other['data']}): scores on "
                "different data do not compare. Pass rows of one data set, or rename the scans."
            )


def undeclared_data(rows: Sequence[Row]) -> str | None:
    """A note where some rows do not say which data they are on, so that nothing but their word tells that they compare; None where all do."""
    silent = list(dict.fromkeys(row["method"] for row in rows if "data" not in row and row["metrics"]))
    if not silent or len({row["method"] for row in rows}) < 2:
        return None
    return f"rows of {', '.join(silent)} do not say which data they are on (data): that all are on the same scans is taken on trust"


def display_names(rows: Iterable[tuple[str, int | None]]) -> dict[tuple[str, int | None], str]:
    """How (method, seed) is called: the method, with its seed where a method was run with several."""
    seeds: dict[str, set[int | None]] = {}
    keys = list(rows)
    for method, seed in keys:
        seeds.setdefault(method, set()).add(seed)
    return {(method, seed): method if len(seeds[method]) == 1 else f"{method} (seed {seed})" for method, seed in keys}


def _kind_of(name: str, rows: Sequence[Row]) -> MethodKind | None:
    kinds = list(dict.fromkeys(kind for row in rows if (kind := row.get("kind")) is not None))
    if len(kinds) > 1:
        raise InputError(f"{name} is called {' and '.join(kinds)} in different rows. An algorithm has one kind: correct the rows.")
    return kinds[0] if kinds else None


def _reason_to_leave_out(rows: Sequence[Row], scans: Sequence[str]) -> str | None:
    missing = [scan for scan in scans if scan not in {row["scan"] for row in rows}]
    if missing:
        return f"no row on {', '.join(missing)}: a mean over fewer scans would not compare"
    blind = [row["scan"] for row in rows if not row["metrics"]]
    return f"no metrics on {', '.join(blind)} (a blind scan)" if blind else None


def _ranked(entries: Sequence[Entry], keys: Iterable[str]) -> list[Entry]:
    ranks: list[dict[str, int | None]] = [{} for _ in entries]
    for key in keys:
        column = rank_values([entry.metrics.get(key) for entry in entries], lower_is_better=KNOWN_METRICS[key].lower_is_better)
        for own, rank in zip(ranks, column, strict=True):
            own[key] = rank
    counts = [sum(rank is not None and rank <= N_BEST for key, rank in own.items() if key in METRICS) for own in ranks]
    return [replace(entry, ranks=own, n_top_five=n) for entry, own, n in zip(entries, ranks, counts, strict=True)]


def _entry(group: Sequence[Row], name: str, visual: float | None) -> Entry:
    mean, first = mean_row(group), group[0]
    return Entry(
        name=name,
        method=first["method"],
        seed=first["seed"],
        kind=_kind_of(name, group),
        attested=mean.get("attested"),
        metrics=mean["metrics"],
        by_scan={row["scan"]: row["metrics"] for row in group},
        seconds=mean["seconds"],
        ranks={},
        n_top_five=0,
        visual=visual,
    )


def _standing(rows: Sequence[Row], snr_level: int | None, visual: VisualScores) -> Standing:
    dialect, convention, stage = basis_of(rows[0])
    seen = visual.get(stage, {})
    scans = tuple(sorted({row["scan"] for row in rows}))
    groups = group_rows(rows)
    names = display_names((method, seed) for method, seed, _ in groups)
    entries, left_out = [], []
    for (method, seed, _), group in groups.items():
        name, reason = names[method, seed], _reason_to_leave_out(group, scans)
        if reason:
            left_out.append((name, reason))
        else:
            entries.append(_entry(group, name, seen.get(method)))
    keys = [key for key in KNOWN_METRICS if key in METRICS or any(entry.metrics.get(key) is not None for entry in entries)]
    ordered = sorted(_ranked(entries, keys), key=lambda entry: (entry.nrmse is None, entry.nrmse or 0.0, entry.name))
    return Standing(stage, snr_level, dialect, convention, scans, tuple(ordered), tuple(left_out))


def make_standings(rows: Sequence[Row], *, visual: VisualScores | None = None) -> list[Standing]:
    """The standings of each stage, and within a stage of several noise levels also that of each level: stage 1, 2, then scans outside the challenge.

    rows: of one dialect and convention (`select_rows`); visual: mean visual scores, shown beside the metrics but not counted
    among them, as they depend on who rated.
    Raises InputError: no rows, several dialects or conventions, a method, seed and scan twice, scans of one name with different data, an algorithm
    of two kinds, or nobody with scores on all scans.
    """
    rows = select_rows(rows)
    check_same_data(rows)
    stages: dict[int | None, list[Row]] = {}
    for row in rows:
        stages.setdefault(stage_of(row), []).append(row)
    standings = []
    for stage in sorted(stages, key=lambda stage: stage or 3):
        of_stage = stages[stage]
        levels = sorted({level for row in of_stage if (level := parse_scan(row["scan"]).snr_level) is not None})
        standings.append(_standing(of_stage, levels[0] if len(levels) == 1 else None, visual or {}))
        if len(levels) > 1:
            standings += [_standing([row for row in of_stage if parse_scan(row["scan"]).snr_level == n], n, visual or {}) for n in levels]
    if not any(standing.entries for standing in standings):
        name, reason = standings[0].left_out[0]
        raise InputError(f"No algorithm has scores on all scans of a stage, so nothing can be ranked; {name}: {reason}. Add the missing rows.")
    return standings


def find_standing(standings: Iterable[Standing], stage: int | None, snr_level: int | None = None) -> Standing | None:
    """The standing of a stage and noise level, if it is there."""
    return next((s for s in standings if s.stage == stage and s.snr_level == snr_level and s.entries), None)


def change_of_stage(first: Standing, second: Standing) -> list[tuple[Entry, Entry]]:
    """(entry of stage 1, entry of stage 2) of the algorithms in both: those of one method and seed, or of one method where it has one seed each."""
    pairs = []
    for entry in second.entries:
        same = [other for other in first.entries if other.method == entry.method]
        exact = [other for other in same if other.seed == entry.seed]
        alone = len(same) == 1 and sum(other.method == entry.method for other in second.entries) == 1
        if exact or alone:
            pairs.append(((exact or same)[0], entry))
    return pairs
