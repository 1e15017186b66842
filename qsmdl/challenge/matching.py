"""Does a volume hold the same head as a truth? Search over the 48 orientations, shifts and scales, then refinement, of the details' correlation.

Thresholds come from measured distributions of copies and of different heads: docs/truth-guard.md.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.fft import next_fast_len
from scipy.optimize import minimize

from qsmdl.io.fingerprint import GRID_MM, Mask, Signature, Triple, Volume, apply_rows, detail_of, outline_of

FINE_GRID_MM, SEARCH_GRID_MM = 3.0, 6.0
SCALES = tuple(float(np.exp(0.06 * k)) for k in range(-2, 3))
"""Tried sizes of the truth relative to the volume: 0.89 to 1.13, each refined by 5 % either way."""
N_SCREENED, N_REFINED = 16, 3
"""Alignments of the coarse search that are looked at on the fine grid, and those of them that are refined."""
MIN_SHARE = 0.3
"""Share of the smaller support that must overlap."""
OUTLINE_THRESHOLD = 0.96
_SURE, _PROMISING = 0.9, 0.5
"""Correlations that end the search, and that are worth refining before other scales are tried."""
_OUTLINE_BAND = 0.7

Numbers = NDArray[np.floating[Any]]
Orientation = tuple[tuple[int, int, int], tuple[int, int, int]]
_PERMUTATIONS = tuple((p[0], p[1], p[2]) for p in itertools.permutations(range(3)))
_SIGNS = tuple((s[0], s[1], s[2]) for s in itertools.product((1, -1), repeat=3))
ORIENTATIONS: tuple[Orientation, ...] = tuple((p, s) for p in _PERMUTATIONS for s in _SIGNS)


def detail_threshold(overlap_l: float) -> float:
    """The correlation of details above which an overlap of so many litres is a hit: chance reaches higher in smaller overlaps."""
    return min(0.20 + 0.28 / math.sqrt(max(overlap_l, 1e-3)), 0.85)


@dataclass(frozen=True, slots=True)
class Match:
    """The best agreement found: correlation of the details (absolute value) and its threshold; overlap in litres; likewise for the outlines."""

    correlation: float
    overlap_l: float
    outline: float

    @property
    def is_detail_hit(self) -> bool:
        """The volume's content is a transformed copy."""
        return self.correlation > detail_threshold(self.overlap_l)

    @property
    def is_outline_hit(self) -> bool:
        """The volume's region is that of the mask."""
        return self.outline > OUTLINE_THRESHOLD


def oriented(volume: NDArray[np.generic], orientation: Orientation) -> NDArray[np.generic]:
    """A permutation of axes, then flips."""
    permutation, signs = orientation
    return volume.transpose(permutation)[tuple(slice(None, None, s) for s in signs)]


def _centres(n: int, size_mm: float) -> Numbers:
    centres: Numbers = (np.arange(n) - (n - 1) / 2) * size_mm
    return centres


def _linear_rows(n_in: int, size_in_mm: float, positions_mm: Numbers) -> Volume:
    """The matrix that reads an axis at positions relative to its centre, linearly, 0 outside."""
    index = positions_mm / size_in_mm + (n_in - 1) / 2
    rows: Volume = np.maximum(0, 1 - np.abs(index[:, None] - np.arange(n_in)[None])).astype(np.float32)
    return rows


def _resampled(volume: Volume, size_in_mm: float, shape: tuple[int, ...], size_out_mm: float) -> Volume:
    return apply_rows(volume, [_linear_rows(n, size_in_mm, _centres(m, size_out_mm)) for n, m in zip(volume.shape, shape, strict=True)])


def _coarse(detail: Volume, size_mm: float) -> Volume:
    shape = tuple(int(np.ceil(n * size_mm / SEARCH_GRID_MM)) for n in detail.shape)
    return _resampled(detail, size_mm, shape, SEARCH_GRID_MM)


@dataclass(eq=False)
class Reference:
    """A truth to compare volumes with; what the comparisons share is computed once.

    chi_ppm [x, y, z]; mask [x, y, z] bool: of the brain; voxel_size_mm; other_mask: another one whose outline is looked for.
    """

    chi_ppm: Volume
    mask: Mask
    voxel_size_mm: Triple
    other_mask: Mask | None = None
    _details: dict[float, tuple[Volume, Mask]] = field(default_factory=dict)
    _outlines: list[Volume] = field(default_factory=list)

    def detail(self, scale: float) -> tuple[Volume, Mask]:
        """Detail and support on FINE_GRID_MM of the truth enlarged by a scale; empty support for a truth without texture."""
        if scale not in self._details:
            x, y, z = (v * scale for v in self.voxel_size_mm)
            found = detail_of(self.chi_ppm, self.mask, (x, y, z), grid_mm=FINE_GRID_MM)
            self._details[scale] = found or (np.zeros((1, 1, 1), np.float32), np.zeros((1, 1, 1), dtype=bool))
        return self._details[scale]

    def outlines(self) -> list[Volume]:
        """The outlines of the masks in their 48 orientations, ready to be correlated."""
        if not self._outlines:
            cubes = [outline_of(mask) for mask in (self.mask, self.other_mask) if mask is not None]
            self._outlines = [_normalised_edges(np.ascontiguousarray(oriented(cube, o))) for cube in cubes for o in ORIENTATIONS]
        return self._outlines


def _normalised_edges(cube: Volume) -> Volume:
    """Where the outline bends more finely than all heads do, with mean 0 and norm 1."""
    edges = cube - ndimage.gaussian_filter(cube, _OUTLINE_BAND, mode="constant")
    edges = edges - edges.mean()
    unit: Volume = (edges / max(float(np.linalg.norm(edges)), 1e-12)).astype(np.float32)
    return unit


def outline_correlation(reference: Reference, signature: Signature) -> float:
    """The largest correlation of the two outlines' edges over the 48 orientations; 0 where the volume has no background."""
    if signature.outline is None:
        return 0.0
    edges = _normalised_edges(signature.outline)
    return max(float((edges * other).sum()) for other in reference.outlines())


@dataclass(frozen=True, slots=True)
class _Start:
    """Where refinement begins: peak of the search, scale, orientation, shift in mm of the truth's centre from the volume's centre."""

    peak: float
    scale: float
    orientation: Orientation
    shift_mm: Triple


def _peaks(volume: Volume, truth: Volume, scale: float) -> Iterator[_Start]:
    """The best shift for each orientation, by FFT. A truth flipped along all axes costs one inverse transform only: its spectrum is conjugate."""
    n = next_fast_len(int(0.8 * (max(volume.shape) + max(truth.shape))), real=True)
    n = max(n, *volume.shape, *truth.shape)
    size = (n, n, n)
    spectrum = torch.fft.rfftn(torch.from_numpy(volume), s=size)
    norm = float(np.linalg.norm(truth)) + 1e-12
    for permutation in _PERMUTATIONS:
        for signs in _SIGNS[:4]:
            turned = np.ascontiguousarray(oriented(truth, (permutation, signs)))
            other = torch.fft.rfftn(torch.from_numpy(turned), s=size)
            for flipped, product in ((False, spectrum * other.conj()), (True, spectrum * other)):
                value, index = torch.fft.irfftn(product, s=size).abs().flatten().max(0)
                place = np.unravel_index(int(index), size)
                start = [int(p) - (m - 1 if flipped else 0) for p, m in zip(place, turned.shape, strict=True)]
                yield _Start(
                    float(value) / norm,
                    scale,
                    (permutation, (-signs[0], -signs[1], -signs[2]) if flipped else signs),
                    _shift(start, turned.shape, volume.shape, n),
                )


def _shift(start: list[int], truth_shape: tuple[int, ...], shape: tuple[int, ...], n: int) -> Triple:
    """From the first voxel's place (modulo n) to the distance of the centres; of places that are the same modulo n, the one nearest the middle."""
    x, y, z = ((s + (t - 1) / 2 - (m - 1) / 2 + n / 2) % n - n / 2 for s, t, m in zip(start, truth_shape, shape, strict=True))
    return x * SEARCH_GRID_MM, y * SEARCH_GRID_MM, z * SEARCH_GRID_MM


class _Alignment:
    """Correlation of a volume's detail with a truth's as a function of shift and scale along each axis."""

    def __init__(self, signature: Signature, reference: Reference, start: _Start) -> None:
        assert signature.detail is not None
        assert signature.support is not None
        detail, support = reference.detail(start.scale)
        self.shift_mm = np.array(start.shift_mm)
        self.truth = np.ascontiguousarray(oriented(detail, start.orientation))
        self.truth_support = np.ascontiguousarray(oriented(support, start.orientation)).astype(np.float32)
        self.volume, self.support = signature.detail, signature.support
        truth_voxels = self.truth_support.sum() * (FINE_GRID_MM / GRID_MM) ** 3
        self.n_needed = MIN_SHARE * min(float(self.support.sum()), float(truth_voxels))

    def at(self, shift_mm: Numbers, scale: Numbers) -> tuple[float, int]:
        """Correlation and number of overlapping voxels; (0, n) where too few overlap."""
        rows = [
            _linear_rows(n, FINE_GRID_MM, (_centres(m, GRID_MM) - d) / s)
            for n, m, d, s in zip(self.truth.shape, self.volume.shape, shift_mm, scale, strict=True)
        ]
        common = (apply_rows(self.truth_support, rows) > 0.9) & self.support
        n = int(common.sum())
        if n < max(self.n_needed, 30):
            return 0.0, n
        a, b = self.volume[common], apply_rows(self.truth, rows)[common]
        a, b = a - a.mean(), b - b.mean()
        return float((a * b).sum() / np.sqrt(max(float((a * a).sum() * (b * b).sum()), 1e-12))), n

    def at_start(self) -> tuple[float, int]:
        """The correlation before refinement."""
        return self.at(self.shift_mm, np.ones(3))

    def refined(self) -> tuple[float, int]:
        """The best correlation near a start, by Powell's method (Comput J 1964;7:155): shifts within 8 mm, scales within 5 %."""

        def loss(x: Numbers) -> float:
            return -abs(self.at(x[:3] * GRID_MM, np.exp(x[3:]))[0])

        start = np.array([*(self.shift_mm / GRID_MM), 0.0, 0.0, 0.0])
        reach = np.array([2.0] * 3 + [0.05] * 3)
        bounds = list(zip(start - reach, start + reach, strict=True))
        found = minimize(loss, start, method="Powell", bounds=bounds, options={"maxfev": 100, "xtol": 0.02, "ftol": 0.002})
        return self.at(found.x[:3] * GRID_MM, np.exp(found.x[3:]))


def _starts(reference: Reference, signature: Signature, scales: tuple[float, ...]) -> list[_Alignment]:
    """The alignments that the coarse search finds best, in the order of their correlation on the fine grid."""
    assert signature.detail is not None
    volume = _coarse(signature.detail, GRID_MM)
    known = [scale for scale in scales if reference.detail(scale)[1].any()]
    peaks = [start for scale in known for start in _peaks(volume, _coarse(reference.detail(scale)[0], FINE_GRID_MM), scale)]
    alignments = [_Alignment(signature, reference, start) for start in sorted(peaks, key=lambda p: -p.peak)[:N_SCREENED]]
    return sorted(alignments, key=lambda a: -abs(a.at_start()[0]))


def _candidates(reference: Reference, signature: Signature) -> Iterator[_Alignment]:
    """What to refine: an unscaled copy that shows itself at once, then the best of the whole search."""
    first = _starts(reference, signature, (1.0,))[:1]
    yield from (alignment for alignment in first if abs(alignment.at_start()[0]) > _PROMISING)
    yield from _starts(reference, signature, SCALES)[:N_REFINED]


def detail_correlation(reference: Reference, signature: Signature) -> tuple[float, float]:
    """The largest absolute correlation of the details over orientations, shifts and scales, and the overlap in litres it was found on."""
    best, overlap = 0.0, 0
    for alignment in _candidates(reference, signature) if signature.detail is not None else ():
        value, n = alignment.refined()
        if abs(value) > best:
            best, overlap = abs(value), n
        if best > _SURE:
            break
    return best, overlap * GRID_MM**3 / 1e6


def match(reference: Reference, signature: Signature) -> Match:
    """How far a volume agrees with a truth."""
    correlation, overlap_l = detail_correlation(reference, signature)
    return Match(correlation, overlap_l, outline_correlation(reference, signature))
