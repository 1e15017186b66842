"""What a held-out study measured, by method, phantom and peak SNR."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from qsmdl.challenge.heldout_rows import HeldOutRow, base_of
from qsmdl.challenge.paired import Comparison, compare_paired
from qsmdl.errors import InputError

CRITERION_METRICS = ("rmse", "rmse_detrend_Tissue", "rmse_detrend_Blood", "rmse_detrend_DGM")
"""NRMSE, tissue, blood and deep grey: what the candidate has to be lower in."""
DEEP_LEARNING = "deep learning"


@dataclass(frozen=True)
class Results:
    """The rows of the methods that have one of every scan.

    candidate: the name of the rows to be judged; phantoms: numbers; peak_snrs: ascending; voxel_size_mm: in the plane; left_out: method -> why it has
    no row of some scan.
    """

    rows: tuple[HeldOutRow, ...]
    candidate: str
    phantoms: tuple[int, ...]
    peak_snrs: tuple[float, ...]
    voxel_size_mm: float
    left_out: tuple[tuple[str, str], ...] = ()

    @cached_property
    def _rows(self) -> dict[tuple[str, int, float], HeldOutRow]:
        return {(row["method"], row["phantom"], row["peak_snr"]): row for row in self.rows}

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Names of rows, of removed ringing too: lowest mean NRMSE first."""
        means = {name: self.mean(name, "rmse") for name in dict.fromkeys(row["method"] for row in self.rows)}
        return tuple(sorted(means, key=lambda name: (math.inf if (mean := means[name]) is None else mean, name)))

    @cached_property
    def classical(self) -> tuple[str, ...]:
        """The methods without a network, of removed ringing too, that the candidate has to beat: all but itself."""
        kinds = {row["method"]: row.get("kind") for row in self.rows}
        return tuple(name for name in self.methods if kinds[name] != DEEP_LEARNING and base_of(name) != base_of(self.candidate))

    @property
    def has_candidate(self) -> bool:
        """Whether the candidate has rows of every scan."""
        return self.candidate in self.methods

    def traits(self, phantom: int) -> tuple[str, ...]:
        """What a phantom's scans have beside isotropic voxels and B0 along z (`HeldOutHead.traits`)."""
        return next(tuple(row["traits"]) for row in self.rows if row["phantom"] == phantom)

    def phantoms_with(self, trait: str) -> tuple[int, ...]:
        """The phantoms of a trait."""
        return tuple(number for number in self.phantoms if trait in self.traits(number)) if self.rows else ()

    def value(self, method: str, key: str, phantom: int, peak_snr: float) -> float | None:
        """A metric, or a slope where the key is "deep_grey" or "mask"; None where it is undefined."""
        row = self._rows[method, phantom, peak_snr]
        return row["slopes"][key] if key in row["slopes"] else row["metrics"].get(key)

    def by_phantom(self, method: str, key: str, *, peak_snrs: Sequence[float] = (), phantoms: Iterable[int] | None = None) -> dict[int, float]:
        """Phantom -> mean over its peak SNRs (all where none are given): the phantom is the unit, since the scans of one head are no independent
        ones. Phantoms without a value at one of them are left out.
        """
        means = {}
        for number in self.phantoms if phantoms is None else phantoms:
            values = [self.value(method, key, number, peak_snr) for peak_snr in peak_snrs or self.peak_snrs]
            defined = [value for value in values if value is not None]
            if len(defined) == len(values):
                means[number] = statistics.fmean(defined)
        return means

    def mean(self, method: str, key: str, *, peak_snrs: Sequence[float] = (), phantoms: Iterable[int] | None = None) -> float | None:
        """The mean over the phantoms of `by_phantom`; None where there are none."""
        values = self.by_phantom(method, key, peak_snrs=peak_snrs, phantoms=phantoms)
        return statistics.fmean(values.values()) if values else None

    def seconds(self, method: str) -> float:
        """Mean time of a scan."""
        return statistics.fmean(row["seconds"] for row in self.rows if row["method"] == method)

    def best_classical(self, key: str) -> str | None:
        """The classical method of the lowest mean of a metric over all scans, ringing removed or not; None where none has one."""
        means = {name: self.mean(name, key) for name in self.classical}
        defined = {name: mean for name, mean in means.items() if mean is not None}
        return min(defined, key=lambda name: (defined[name], name)) if defined else None

    def compare(self, other: str, key: str, *, peak_snrs: Sequence[float] = (), phantoms: Sequence[int] | None = None) -> Comparison | None:
        """The candidate against another, paired by phantom; None where they share no value."""
        values = [self.by_phantom(name, key, peak_snrs=peak_snrs, phantoms=phantoms) for name in (self.candidate, other)]
        return compare_paired(*values) if set(values[0]) & set(values[1]) else None

    def compare_snrs(self, method: str, key: str, high: float, low: float) -> Comparison | None:
        """A method at a high peak SNR against itself at a low one, paired by phantom; None where one is not in the study or nothing is defined."""
        if not {high, low} <= set(self.peak_snrs):
            return None
        values = [self.by_phantom(method, key, peak_snrs=(peak_snr,)) for peak_snr in (high, low)]
        return compare_paired(*values) if set(values[0]) & set(values[1]) else None


def gather(
    rows: Iterable[HeldOutRow],
    *,
    candidate: str,
    phantoms: Sequence[int],
    peak_snrs: Sequence[float],
    voxel_size_mm: float,
    failures: dict[str, str] | None = None,
) -> Results:
    """The results of complete methods; those that lack a scan are left out, with the reason that `failures` gives. Raises InputError: two rows of one
    method and scan.
    """
    wanted = {(number, snr) for number in phantoms for snr in peak_snrs}
    found: dict[str, dict[tuple[int, float], HeldOutRow]] = {}
    for row in rows:
        scans = found.setdefault(row["method"], {})
        if (row["phantom"], row["peak_snr"]) in scans:
            raise InputError(f"There are two rows of {row['method']} on {row['scan']}. Remove one.")
        scans[row["phantom"], row["peak_snr"]] = row
    complete = [name for name, scans in found.items() if wanted <= set(scans)]
    reasons = {name: f"{len(wanted - set(scans))} of {len(wanted)} scans lack a row" for name, scans in found.items() if name not in complete}
    kept = tuple(found[name][scan] for name in complete for scan in sorted(wanted))
    told = tuple(sorted((reasons | (failures or {})).items()))
    return Results(kept, candidate, tuple(phantoms), tuple(peak_snrs), voxel_size_mm, told)
