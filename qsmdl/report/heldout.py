"""The page of a held-out study in Markdown: the verdict, then every number behind it."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from qsmdl.challenge.heldout import ANISOTROPIC, OBLIQUE
from qsmdl.challenge.heldout_results import CRITERION_METRICS, Results
from qsmdl.challenge.heldout_verdict import HIGH_SNR, LOW_SNR, METRIC_NAMES, Sentence, judge_all
from qsmdl.challenge.metrics import METRICS
from qsmdl.challenge.paired import Comparison
from qsmdl.report.table import UNATTESTED_NOTE, UNDEFINED, marked_name, seconds_text, value_text

FIGURE = "heldout"
_UNIT = """The phantom is the unit: a value is the mean over its peak SNRs, except where one SNR is named. Errors are those of the challenge
([metrics.md](metrics.md)) in %, lower is better. *NAME+unring* is the very same map after the removal of ringing ([unring.md](unring.md)).
Differences are candidate minus other, negative where the candidate is better; p are one-sided, of a signed-rank test (Wilcoxon) and of a paired t
test."""
_CALCIFICATION = {"CalcStreak": 4, "DeviationFromCalcMoment": 2}
"""Metric -> decimals of a comparison."""
_COMPARED = ("n", "candidate", "other", "difference", "95 % CI", "p (Wilcoxon)", "p (t)", "wins")


def _table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    rows = [headings, ["---"] * len(headings), *lines]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows] + [""]


def _slope_text(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.3f}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _compared(found: Comparison | None, digits: int = 2) -> list[str]:
    if found is None:
        return ["0", *[UNDEFINED] * (len(_COMPARED) - 1)]
    interval = f"{found.low:+.{digits}f} to {found.high:+.{digits}f}" if math.isfinite(found.low) else UNDEFINED
    tests = [_p(found.p_wilcoxon), _p(found.p_t)]
    values = [f"{found.first:.{digits}f}", f"{found.second:.{digits}f}", f"{found.difference:+.{digits}f}"]
    return [str(found.n), *values, interval, *tests, f"{found.wins} of {found.n}"]


def _names(results: Results) -> dict[str, str]:
    attested = {row["method"]: row.get("attested") for row in results.rows}
    return {name: marked_name(name, attested[name]) for name in results.methods}


def _means(results: Results) -> list[str]:
    headings = ["method", *(f"{METRICS[key].short} (%)" for key in CRITERION_METRICS), "slope, deep grey", "slope, all voxels", "time"]
    lines = []
    for name, told in _names(results).items():
        values = [value_text(key, results.mean(name, key)) for key in CRITERION_METRICS]
        slopes = [_slope_text(results.mean(name, key)) for key in ("deep_grey", "mask")]
        shown = f"**{told}**" if name == results.candidate else told
        lines.append([shown, *values, *slopes, seconds_text(results.seconds(name))])
    note = [UNATTESTED_NOTE, ""] if any(row.get("attested") is False for row in results.rows) else []
    return ["## Means over all scans", "", *_table(headings, lines), *note]


def _against_each(results: Results) -> list[str]:
    lines = ["## The candidate against each classical method", ""]
    for key in CRITERION_METRICS:
        best, ordered = results.best_classical(key), sorted(results.classical, key=lambda name: results.mean(name, key) or math.inf)
        rows = [[f"**{name}** (best)" if name == best else name, *_compared(results.compare(name, key))] for name in ordered]
        lines += [f"### {METRICS[key].paper}", "", *_table(["other", *_COMPARED], rows)]
    return lines


def _by_snr(results: Results) -> list[str]:
    lines = ["## At each SNR", ""]
    headings = ["method", *(f"SNR {snr:g}" for snr in results.peak_snrs)]
    for key in CRITERION_METRICS:
        means = [[name, *(value_text(key, results.mean(name, key, peak_snrs=(snr,))) for snr in results.peak_snrs)] for name in results.methods]
        lines += [f"### {METRICS[key].paper} (%)", "", *_table(headings, means)]
        best = results.best_classical(key)
        if best is not None and results.has_candidate:
            rows = [[f"SNR {snr:g}", *_compared(results.compare(best, key, peak_snrs=(snr,)))] for snr in results.peak_snrs]
            lines += [f"Against {best}:", "", *_table(["SNR", *_COMPARED], rows)]
    return lines


def _slopes_by_snr(results: Results) -> list[str]:
    headings = ["method", *(f"SNR {snr:g}" for snr in results.peak_snrs)]
    rows = [[name, *(_slope_text(results.mean(name, "deep_grey", peak_snrs=(snr,))) for snr in results.peak_snrs)] for name in results.methods]
    return ["### Slope through the deep grey matter (1 is right)", "", *_table(headings, rows)]


def _snr_gain(results: Results) -> list[str]:
    if not {LOW_SNR, HIGH_SNR} <= set(results.peak_snrs):
        return []
    headings = ["method", *(f"SNR {HIGH_SNR:g}" if h == "candidate" else f"SNR {LOW_SNR:g}" if h == "other" else h for h in _COMPARED)]
    rows = [[name, *_compared(results.compare_snrs(name, "rmse", HIGH_SNR, LOW_SNR))] for name in results.methods]
    return [f"## NRMSE at SNR {HIGH_SNR:g} against SNR {LOW_SNR:g}", "", *_table(headings, rows)]


def _calcification(results: Results) -> list[str]:
    n_with = len({number for name in results.methods for key in _CALCIFICATION for number in results.by_phantom(name, key)})
    if not n_with:
        return []
    headings = ["method", *(f"{METRICS[key].short} ({METRICS[key].unit})" for key in _CALCIFICATION)]
    means = [[name, *(value_text(key, results.mean(name, key)) for key in _CALCIFICATION)] for name in results.methods]
    lines = ["## Calcification", "", f"Means over the {n_with} phantoms that have one.", "", *_table(headings, means)]
    best = {key: results.best_classical(key) for key in _CALCIFICATION}
    rows = [
        [f"{METRICS[key].short}, against {name}", *_compared(results.compare(name, key), digits=_CALCIFICATION[key])]
        for key, name in best.items()
        if name is not None and results.has_candidate
    ]
    return lines + (_table(["metric", *_COMPARED], rows) if rows else [])


def _geometries(results: Results) -> list[str]:
    best = results.best_classical("rmse")
    if best is None or not results.has_candidate:
        return []
    groups = {trait: results.phantoms_with(trait) for trait in (ANISOTROPIC, OBLIQUE)}
    plain = tuple(number for number in results.phantoms if not results.traits(number))
    rows = [[name, *_compared(results.compare(best, "rmse", phantoms=numbers))] for name, numbers in {"neither": plain, **groups}.items() if numbers]
    return [f"## NRMSE by geometry, against {best}", "", *_table(["phantoms", *_COMPARED], rows)]


def _verdict(results: Results, sentences: Sequence[Sentence]) -> list[str]:
    n_held = sum(sentence.holds for sentence in sentences)
    whole = "**The criterion holds.**" if n_held == len(sentences) else "**The criterion does not hold.**"
    best = {name: results.best_classical(key) for key, name in METRIC_NAMES.items()}
    chosen = ", ".join(f"{name}: {method or UNDEFINED}" for name, method in best.items())
    rows = [[sentence.text, f"**{sentence.verdict}**", sentence.numbers] for sentence in sentences]
    intro = f"{whole} {n_held} of {len(sentences)} sentences hold. Candidate: {results.candidate}. Best classical method in {chosen}."
    return ["## Verdict", "", intro, "", *_table(["sentence", "verdict", "numbers"], rows)]


def _codes(results: Results) -> list[str]:
    counts = Counter(row.get("code") for row in results.rows)
    if not counts:
        return []
    if len(counts) == 1 and None not in counts:
        return [f"All rows were made by one state of qsmdl's code ({next(iter(counts))})."]
    told = ", ".join(f"{name or 'not recorded'} {n}" for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0] or "")))
    return [f"Not all rows are known to be of one state of qsmdl's code; rows by state: {told}."]


def heldout_page(results: Results, *, command: str, data: str) -> str:
    """The page, without a date: the same results give the same page. command: that makes it; data: what the scans are, in words."""
    lines = ["# Held-out study", "", data, "", "```bash", command, "```", "", _UNIT, "", *_verdict(results, judge_all(results))]
    if results.has_candidate and results.best_classical("rmse") is not None:
        lines += [f"![Candidate against the best classical method]({FIGURE}.png)", ""]
    if results.rows:
        lines += _means(results)
        lines += _against_each(results) if results.has_candidate else []
        lines += [*_by_snr(results), *_slopes_by_snr(results), *_calcification(results), *_snr_gain(results), *_geometries(results)]
    if results.left_out:
        lines += ["Left out of every comparison:", "", *(f"- {name}: {reason}" for name, reason in results.left_out), ""]
    lines += _codes(results)
    return "\n".join(lines).rstrip("\n") + "\n"
