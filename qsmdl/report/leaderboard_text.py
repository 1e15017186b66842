"""A leaderboard in Markdown."""

import re
from collections.abc import Sequence

from qsmdl.challenge.metrics import METRICS
from qsmdl.challenge.published import ORIGIN, Published
from qsmdl.challenge.ranking import N_BEST, Entry, Standing
from qsmdl.challenge.ratings import Correlations
from qsmdl.report.gallery import Gallery
from qsmdl.report.table import UNATTESTED_NOTE, UNDEFINED, best_text, marked_name, value_text

_READING = (
    f"Lower is better everywhere; the best values are bold. Scores are means over the scans named, calcification (Streak, Moment) from Sim2 alone. "
    f"Top 5: in how many of the {len(METRICS)} official metrics an algorithm is among the best {N_BEST} (robustness); an undefined value has no rank."
)
_PUBLISHED = (
    "Table 1 of QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255: "
    f"{ORIGIN}. For reference only: these scores take no part in the ranks above."
)


def escaped(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#&!~])", r"\\\1", " ".join(text.split()))


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], n_left: int = 1) -> str:
    """n_left: how many columns are aligned to the left; numbers are to the right."""
    rule = ["---" if index < n_left else "---:" for index in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def _metric_head(key: str) -> str:
    metric = METRICS[key]
    return metric.short if metric.unit == "1" else f"{metric.short} ({metric.unit})"


def _visual(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.2f}"


def _standing_table(standing: Standing) -> str:
    rated = any(entry.visual is not None for entry in standing.entries)
    head = ["Algorithm", "Kind", *map(_metric_head, METRICS), "Top 5", *(["Visual (0 to 3)"] if rated else [])]
    best = {key: best_text(key, [entry.metrics.get(key) for entry in standing.entries]) for key in METRICS}

    def value(entry: Entry, key: str) -> str:
        text = value_text(key, entry.metrics.get(key))
        return f"**{text}**" if text == best[key] else text

    lines = [
        [
            escaped(marked_name(entry.name, entry.attested)),
            entry.kind or UNDEFINED,
            *(value(entry, key) for key in METRICS),
            str(entry.n_top_five),
            *([_visual(entry.visual)] if rated else []),
        ]
        for entry in standing.entries
    ]
    return _table(head, lines, 2)


def _names(entries: Sequence[Entry]) -> str:
    return ", ".join(escaped(entry.name) for entry in entries) or "nobody"


def _categories(standing: Standing) -> str:
    few = f" ({N_BEST} or fewer algorithms are all among the best five)" if len(standing.entries) <= N_BEST else ""
    return f"Lowest NRMSE: **{_names(standing.lowest_nrmse())}**. Robustness: **{_names(standing.most_robust())}**{few}."


def _standing_part(standing: Standing) -> list[str]:
    part = [f"## {escaped(standing.title)}", f"How computed: {escaped(standing.basis)}."]
    if standing.entries:
        part += [_categories(standing), _standing_table(standing)]
    if any(entry.attested is False for entry in standing.entries):
        part.append(f"{UNATTESTED_NOTE} It is ranked, but wins no category.")
    if standing.left_out:
        part.append("Left out:\n\n" + "\n".join(f"- {escaped(name)}: {escaped(reason)}" for name, reason in standing.left_out))
    return part


def _published_part(published: Sequence[Published]) -> list[str]:
    if not published:
        return []
    keys = ("rmse", "rmse_detrend_Blood", "CalcStreak", "DeviationFromCalcMoment")
    head = ["Submission", "Kind", "Stage", *map(_metric_head, keys), "Top 5", "Visual (0 to 3)"]
    lines = [
        [
            escaped(row.name),
            row.kind,
            str(row.stage),
            *(value_text(key, row.metrics[key]) for key in keys),
            str(row.n_top_five),
            _visual(row.mean_visual),
        ]
        for row in published
    ]
    return ["## Published scores", _PUBLISHED, _table(head, lines, 2)]


def _raters_part(raters: Correlations | None) -> list[str]:
    if raters is None:
        return []
    lines = []
    for index, name in enumerate(raters.raters):
        values = [UNDEFINED if value is None else f"{value:.2f} ({n})" for value, n in zip(raters.matrix[index], raters.n_shared[index], strict=True)]
        lines.append([escaped(name), *values])
    told = "Pearson's correlation between raters over the items both rated (their number in brackets)."
    return ["## Agreement of the raters", told, _table(["Rater", *map(escaped, raters.raters)], lines)]


def _figures_part(gallery: Gallery, folder: str) -> list[str]:
    part = ["## Figures"] if gallery.drawn or gallery.left_out else []
    for drawn in gallery.drawn:
        part += [f"![{escaped(drawn.caption)}]({folder}/{drawn.paths[0].name})", escaped(drawn.caption)]
    if gallery.left_out:
        part.append("Not drawn:\n\n" + "\n".join(f"- {name}: {escaped(reason)}" for name, reason in gallery.left_out))
    return part


def markdown(
    standings: Sequence[Standing],
    published: Sequence[Published],
    raters: Correlations | None,
    notes: Sequence[str],
    gallery: Gallery,
    *,
    figures_folder: str,
) -> str:
    """The page: a table per standing with its categories and who was left out, published scores apart, raters, figures, notes."""
    parts = ["# Leaderboard", _READING]
    for standing in standings:
        parts += _standing_part(standing)
    parts += [*_published_part(published), *_raters_part(raters), *_figures_part(gallery, figures_folder)]
    if notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {escaped(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"
