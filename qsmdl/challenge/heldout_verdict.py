"""Whether a candidate beats the best classical method: the criterion, sentence by sentence, each with its numbers.

The candidate has to stand every sentence, so no p is corrected for their number. The best classical method is chosen for each metric from the very
same scans, ringing removed or not, which favours the classical side.
"""

import math
from dataclasses import dataclass

from qsmdl.challenge.heldout import ANISOTROPIC, OBLIQUE
from qsmdl.challenge.heldout_results import CRITERION_METRICS, Results
from qsmdl.challenge.metrics import METRICS
from qsmdl.challenge.paired import Comparison

MAX_P = 0.01
MIN_PHANTOMS, FULL_SIZE_MM = 20, 1.0
PEAK_SNRS = (30.0, 100.0, 300.0, 1000.0)
LOW_SNR, HIGH_SNR = 100.0, 1000.0
SLOPE_RANGE = (0.97, 1.03)
METRIC_NAMES = {"rmse": "NRMSE", "rmse_detrend_Tissue": "tissue error", "rmse_detrend_Blood": "blood error", "rmse_detrend_DGM": "deep-grey error"}


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of the criterion, whether it holds, and the numbers that say so."""

    text: str
    holds: bool
    numbers: str

    @property
    def verdict(self) -> str:
        """In words."""
        return "holds" if self.holds else "does not hold"


def p_text(p: float) -> str:
    """A p as it is told."""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.4f}"


def comparison_text(found: Comparison, unit: str = "%") -> str:
    """Means, difference with its interval, both p and wins of a comparison."""
    space = f" {unit}" if unit else ""
    interval = "" if not math.isfinite(found.low) else f" (95 % CI {found.low:+.2f} to {found.high:+.2f})"
    tests = f"Wilcoxon {p_text(found.p_wilcoxon)}, t {p_text(found.p_t)}"
    return f"{found.first:.2f} against {found.second:.2f}{space}, difference {found.difference:+.2f}{interval}, {tests}, {found.wins} of {found.n}"


def _is_lower(found: Comparison) -> bool:
    return found.difference < 0 and found.p < MAX_P


def judge_data(results: Results) -> Sentence:
    """Whether the scans are those that the criterion asks for."""
    n, snrs = len(results.phantoms), ", ".join(f"{snr:g}" for snr in results.peak_snrs)
    shares = {trait: len(results.phantoms_with(trait)) for trait in (ANISOTROPIC, OBLIQUE)}
    wanted = ", ".join(f"{snr:g}" for snr in PEAK_SNRS)
    text = f"At least {MIN_PHANTOMS} held-out phantoms at {FULL_SIZE_MM:g} mm, peak SNR {wanted}, anisotropic voxels and oblique B0 included."
    asked = n >= MIN_PHANTOMS and results.voxel_size_mm == FULL_SIZE_MM and set(PEAK_SNRS) <= set(results.peak_snrs)
    holds = asked and all(shares.values()) and results.has_candidate
    told = ", ".join(f"{count} {trait}" for trait, count in shares.items())
    missing = "" if results.has_candidate else f"; {results.candidate} lacks rows"
    return Sentence(text, holds, f"{n} phantoms at {results.voxel_size_mm:g} mm, peak SNR {snrs}; {told}{missing}")


def judge_metric(results: Results, key: str) -> Sentence:
    """Whether the candidate's mean of a metric is below the best classical method's."""
    text = f"{results.candidate} beats the best classical method in {METRIC_NAMES[key]}, p < {MAX_P}."
    best = results.best_classical(key)
    found = None if best is None or not results.has_candidate else results.compare(best, key)
    if found is None:
        return Sentence(text, False, f"cannot be told: {_why_none(results, key)}")
    short = f" (only {found.n} of {len(results.phantoms)} phantoms have it)" if found.n < len(results.phantoms) else ""
    return Sentence(text, _is_lower(found) and not short, f"best is {best}: {comparison_text(found)}{short}")


def _why_none(results: Results, key: str) -> str:
    if not results.has_candidate:
        return f"{results.candidate} lacks rows"
    return f"{METRICS[key].paper} is defined on no phantom" if results.classical else "no classical method has a row of every scan"


def judge_snr(results: Results) -> Sentence:
    """Whether the candidate gains from a better scan."""
    text = f"{results.candidate} has a lower NRMSE at SNR {HIGH_SNR:g} than at SNR {LOW_SNR:g}, p < {MAX_P}."
    found = results.compare_snrs(results.candidate, "rmse", HIGH_SNR, LOW_SNR) if results.has_candidate else None
    if found is None:
        reason = f"{results.candidate} lacks rows" if not results.has_candidate else "the study does not hold both"
        return Sentence(text, False, f"cannot be told: {reason}")
    return Sentence(text, _is_lower(found), comparison_text(found))


def judge_slope(results: Results) -> Sentence:
    """Whether the slope through the deep grey matter is right, over all scans and at every peak SNR."""
    low, high = SLOPE_RANGE
    text = f"The mean slope of {results.candidate} through the deep grey matter lies within {low} to {high}, over all scans and at every SNR."
    if not results.has_candidate:
        return Sentence(text, False, f"cannot be told: {results.candidate} lacks rows")
    name, whole = results.candidate, results.mean(results.candidate, "deep_grey")
    means = {f"SNR {snr:g}": results.mean(name, "deep_grey", peak_snrs=(snr,)) for snr in results.peak_snrs}
    told = [value for value in (whole, *means.values()) if value is not None]
    if whole is None or len(told) <= len(means):
        return Sentence(text, False, "cannot be told: a deep grey region is missing on every phantom")
    n, n_all = len(results.by_phantom(name, "deep_grey")), len(results.phantoms)
    short = f" (only {n} of {n_all} phantoms have all six regions)" if n < n_all else ""
    numbers = ", ".join([f"{whole:.3f} over all", *(f"{value:.3f} at {snr}" for snr, value in means.items())])
    holds = not short and all(low <= value <= high for value in told)
    return Sentence(text, holds, f"{numbers}{short}; all voxels: {results.mean(name, 'mask'):.3f}")


def judge_trait(results: Results, trait: str) -> Sentence:
    """Whether the candidate has the lower mean NRMSE on a kind of geometry too, against the method that is best over all; few phantoms have it, so
    no p is asked.
    """
    text = f"On the {trait} phantoms alone {results.candidate} has the lower mean NRMSE, too."
    phantoms, best = results.phantoms_with(trait), results.best_classical("rmse")
    found = results.compare(best, "rmse", phantoms=phantoms) if best is not None and results.has_candidate and phantoms else None
    if found is None:
        return Sentence(text, False, f"cannot be told: {'no phantom is ' + trait if not phantoms else _why_none(results, 'rmse')}")
    return Sentence(text, found.difference < 0, f"best is {best}: {comparison_text(found)}")


def judge_all(results: Results) -> list[Sentence]:
    """The criterion, sentence by sentence."""
    metrics = [judge_metric(results, key) for key in CRITERION_METRICS]
    traits = [judge_trait(results, trait) for trait in (ANISOTROPIC, OBLIQUE)]
    return [judge_data(results), *metrics, judge_snr(results), judge_slope(results), *traits]
