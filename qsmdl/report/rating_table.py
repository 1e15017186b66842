"""Visual ratings as tables for a page."""

from collections.abc import Sequence
from dataclasses import dataclass

from qsmdl.challenge.ratings import DISCREPANCIES, SCALES, Correlations, Rating, mean_by_category, mean_visual, rater_correlations
from qsmdl.report.table import UNDEFINED


@dataclass(frozen=True, slots=True)
class RatingTable:
    """columns; lines: (submission, cells), best mean first; raters; correlations as texts; n_shared: items both raters rated."""

    columns: list[str]
    lines: list[tuple[str, list[str]]]
    raters: tuple[str, ...]
    correlations: list[list[str]]
    n_shared: tuple[tuple[int, ...], ...]


def _correlation_texts(correlations: Correlations) -> list[list[str]]:
    return [[UNDEFINED if value is None else f"{value:.2f}" for value in line] for line in correlations.matrix]


def make_rating_table(ratings: Sequence[Rating]) -> RatingTable | None:
    """Means over the raters, best first, and how far raters agree; None without ratings."""
    if not ratings:
        return None
    means, visual = mean_by_category(ratings), mean_visual(ratings)
    order = sorted(means, key=lambda name: (name not in visual, visual.get(name, 0.0), name))
    lines = []
    for name in order:
        own = means[name]
        texts = [f"{own[scale]:.2f}" if scale in own else UNDEFINED for scale in SCALES]
        texts.append(f"{visual[name]:.2f}" if name in visual else UNDEFINED)
        texts += [f"{100 * own[region]:.0f}" if region in own else UNDEFINED for region in DISCREPANCIES]
        lines.append((name, texts))
    columns = [f"{scale} (0 to {worst})" for scale, worst in SCALES.items()] + ["mean (0 to 3)"]
    columns += [f"discrepancy, {where} (% of raters)" for where in DISCREPANCIES.values()]
    correlations = rater_correlations(ratings)
    return RatingTable(columns, lines, correlations.raters, _correlation_texts(correlations), correlations.n_shared)
