"""Whether a scan lies within what a network was trained on, as its card tells (`Recipe.envelope`)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qsmdl.scan import FieldMap, Scan
from qsmdl.units import rad_per_ppm

_SLACK = (0.01, 0.01)
"""By how much of its value a number may pass the lower and the upper bound: headers round voxel sizes."""
_CHI_SLACK = (0.2, 0.2)
"""The same for susceptibilities: texture and noise come on top of what is drawn."""
_SNR_SLACK = (0.6, 0.2)
"""The same for the peak SNR: its peak is that of the whole head, and a brain without its scalp is less than half as bright."""
_TILT_SLACK_DEG = 1.0
_EXTREME_SHARE = 1e-5
"""Of the voxels that a map's extremes leave out at either end: single voxels at a mask's edge say nothing of a network."""


def peak_snr(field: FieldMap, scan: Scan | None) -> float | None:
    """The largest magnitude of the first echo, as far as it was not masked away, over the noise of the signal, which follows from the field map's own
    noise; None where nobody knows it.

    sigma = noise_ppm sqrt(sum_j (c_j M_j)^2) is the same in every voxel, with c_j = 2 pi gamma B0 TE_j; its median over the mask is taken.
    """
    if scan is None or field.noise_ppm is None:
        return None
    c = [rad_per_ppm(scan.geometry.b0_tesla, te) for te in scan.echo_times_s]
    signal = sum(((cj * m[field.mask]) ** 2 for cj, m in zip(c, scan.magnitude, strict=True)), torch.zeros(())).sqrt()
    sigma = float((field.noise_ppm[field.mask] * signal).median())
    return float(scan.magnitude[0].max()) / sigma if sigma > 0 else math.inf


def extremes(chi_ppm: Tensor, mask: Tensor) -> tuple[float, float]:
    """The lowest and highest value of a map in a mask, but for one voxel in 100,000 at either end."""
    inside = chi_ppm[mask]
    k = max(1, math.ceil(_EXTREME_SHARE * inside.numel()))
    return float(inside.kthvalue(k).values), float(inside.kthvalue(inside.numel() - k + 1).values)


def _range_of(value: Any) -> tuple[float, float] | None:
    """A card's entry as a range; None for one that is no number or range, since cards come from anywhere."""
    ends = value if isinstance(value, list | tuple) else (value, value)
    if len(ends) != 2 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in ends):
        return None
    return float(ends[0]), float(ends[1])


def _outside(
    what: str, values: tuple[float, ...], bounds: tuple[float, float] | None, unit: str = "", slack: tuple[float, float] = _SLACK
) -> str | None:
    if bounds is None:
        return None
    low, high = bounds[0] - slack[0] * abs(bounds[0]), bounds[1] + slack[1] * abs(bounds[1])
    wrong = dict.fromkeys(f"{v:.4g}" for v in values if not low <= v <= high)
    if not wrong:
        return None
    trained = f"{bounds[0]:g}{unit} only" if bounds[0] == bounds[1] else f"{bounds[0]:g} to {bounds[1]:g}{unit}"
    return f"{what} {', '.join(wrong)}{unit}, but the network was trained with {trained}"


def _tilt_deg(direction: tuple[float, float, float]) -> float:
    """Angle between B0, which has no sign, and the z axis."""
    return math.degrees(math.acos(min(1.0, abs(direction[2]))))


def outside_envelope(envelope: Mapping[str, Any], field: FieldMap, scan: Scan | None, chi_ppm: Tensor | None = None) -> tuple[str, ...]:
    """In what a scan, and the map [x, y, z] in ppm made of it, lie outside of what a network was trained on: one sentence each, naming the value and
    the range. What the envelope does not name, as those of older cards, or what is not known of the scan, is not judged.
    """
    geometry, found = field.geometry, peak_snr(field, scan)
    edges = geometry.voxel_size_mm
    limit = _range_of(envelope.get("max_tilt_deg"))
    checks = [
        _outside("voxels have edges of", edges, _range_of(envelope.get("voxel_size_mm")), " mm"),
        _outside("the longest over the shortest edge is", (max(edges) / min(edges),), _range_of(envelope.get("anisotropy"))),
        _outside("B0 is", (geometry.b0_tesla,), _range_of(envelope.get("b0_tesla")), " T"),
        _outside("the number of echoes is", () if scan is None else (len(scan.echo_times_s),), _range_of(envelope.get("n_echoes"))),
        _outside("the peak SNR is about", () if found is None else (found,), _range_of(envelope.get("peak_snr")), slack=_SNR_SLACK),
        None
        if limit is None or (tilt := _tilt_deg(geometry.b0_direction)) <= limit[1] + _TILT_SLACK_DEG
        else f"B0 is tilted by {tilt:.1f} degrees from the z axis, but the network was trained with up to {limit[1]:g}",
    ]
    if chi_ppm is not None:
        bounds = _range_of(envelope.get("chi_ppm"))
        checks.append(_outside("the map reaches", extremes(chi_ppm, field.mask), bounds, " ppm", _CHI_SLACK))
    return tuple(check for check in checks if check is not None)
