"""Protocols as they vary between scanners: field strength, echoes, repetition, flip angle, noise, voxel size and the direction of B0."""

from dataclasses import dataclass

import numpy as np

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.ranges import Range, Triple, as_range, check_probability, draw_count, draw_direction, draw_log_uniform, draw_uniform
from qsmdl.phantom.scanning.acquire import Acquisition
from qsmdl.phantom.scanning.switches import checked_count
from qsmdl.scan import Geometry

DEAD_TIME_S = 0.002
"""Least time between the last echo and the next excitation, for the rest of the readout and the spoiler."""


@dataclass(frozen=True)
class ProtocolRanges:
    """Ranges of the protocols of simulated scans; the defaults are the QSM challenge 2.0's one protocol.

    b0_tesla: range of the field strength, or b0_choices_tesla: the field strengths to choose from; relaxation_follows_field: whether R1 and R2* are
    those of the drawn field strength instead of those of 7 T (`field_strength`).
    n_echoes: 1 to 8; first_echo_s and last_echo_s: first and last echo time, the others evenly between them, with echo_spacing_s apart; a single echo
    is drawn from last_echo_s. repetition_time_s: a drawn time too short for the last echo is made just long enough. flip_angle_deg. peak_snr:
    log-uniform.
    voxel_size_mm: voxel size; anisotropy_probability: share of the scans whose voxels are longer along one random axis, by a factor drawn from
    anisotropy, but at most longest_edge_mm.
    tilt_probability: share of the scans whose B0 is not along z, but uniform on the sphere within max_tilt_deg of it.

    Raises InputError for values outside their limits and for ranges that contradict each other.
    """

    b0_tesla: Range = (7.0, 7.0)
    b0_choices_tesla: tuple[float, ...] = ()
    relaxation_follows_field: bool = False
    n_echoes: Range = (4, 4)
    first_echo_s: Range = (0.004, 0.004)
    last_echo_s: Range = (0.028, 0.028)
    echo_spacing_s: Range = (0.001, 0.05)
    repetition_time_s: Range = (0.05, 0.05)
    flip_angle_deg: Range = (15.0, 15.0)
    peak_snr: Range = (30.0, 1500.0)
    voxel_size_mm: Range = (1.0, 1.0)
    anisotropy_probability: float = 0.0
    anisotropy: Range = (1.0, 3.0)
    longest_edge_mm: float = 4.0
    tilt_probability: float = 0.0
    max_tilt_deg: float = 180.0

    def __post_init__(self) -> None:
        limits = {
            "b0_tesla": (0.3, 14.0, "T"),
            "n_echoes": (1, 8, ""),
            "first_echo_s": (0.0005, 0.1, "s"),
            "last_echo_s": (0.0005, 0.1, "s"),
            "echo_spacing_s": (0.0005, 0.1, "s"),
            "repetition_time_s": (0.001, 1.0, "s"),
            "flip_angle_deg": (1.0, 90.0, "degrees"),
            "peak_snr": (1.0, 1e9, ""),
            "voxel_size_mm": (0.2, 6.0, "mm"),
            "anisotropy": (1.0, 6.0, ""),
        }
        for name, (low, high, unit) in limits.items():
            object.__setattr__(self, name, as_range(name, getattr(self, name), low=low, high=high, unit=unit))
        checked_count("n_echoes", self.n_echoes)
        choices = tuple(float(v) for v in self.b0_choices_tesla)
        object.__setattr__(self, "b0_choices_tesla", choices)
        if any(not 0.3 <= v <= 14 for v in choices):
            raise InputError(f"b0_choices_tesla is {list(choices)}; every field strength must lie between 0.3 and 14 T.")
        for name in ("anisotropy_probability", "tilt_probability"):
            check_probability(name, getattr(self, name))
        if not 0 < self.max_tilt_deg <= 180:
            raise InputError(f"max_tilt_deg is {self.max_tilt_deg}; it must lie above 0 and up to 180 degrees (the whole sphere).")
        self._check_times()
        if self.anisotropy_probability and self.voxel_size_mm[1] * self.anisotropy[0] > self.longest_edge_mm:
            raise InputError(
                f"longest_edge_mm is {self.longest_edge_mm}, but a voxel_size_mm of {self.voxel_size_mm[1]} times an anisotropy of "
                f"{self.anisotropy[0]} is longer. Raise longest_edge_mm or lower one of the others."
            )

    def _check_times(self) -> None:
        first, last, gap = self.first_echo_s, self.last_echo_s, self.echo_spacing_s
        if self.n_echoes[1] > 1 and last[0] <= first[1]:
            raise InputError(f"last_echo_s is {list(last)} s, but first_echo_s {list(first)} s reaches it; the last echo must come after the first.")
        if self.repetition_time_s[1] < last[1] + DEAD_TIME_S:
            raise InputError(
                f"repetition_time_s is {list(self.repetition_time_s)} s, but last_echo_s reaches {last[1]} s; its upper end must be at least "
                f"{DEAD_TIME_S} s after the last echo."
            )
        for n in range(max(2, int(self.n_echoes[0])), int(self.n_echoes[1]) + 1):
            if first[0] + (n - 1) * gap[1] < last[0] or first[1] + (n - 1) * gap[0] > last[1]:
                raise InputError(
                    f"echo_spacing_s is {list(gap)} s: {n} echoes from first_echo_s {list(first)} s on cannot always end within last_echo_s "
                    f"{list(last)} s. Widen last_echo_s or echo_spacing_s, or change n_echoes."
                )


@dataclass(frozen=True, slots=True)
class ProtocolParams:
    """One protocol: plain numbers, see `ProtocolRanges`."""

    b0_tesla: float
    echo_times_s: tuple[float, ...]
    repetition_time_s: float
    flip_angle_deg: float
    peak_snr: float
    voxel_size_mm: Triple
    b0_direction: Triple
    relaxation_follows_field: bool = False

    def geometry(self, field_of_view_mm: Triple) -> Geometry:
        """The scan's grid over a field of view, at least 8 voxels along each axis; the voxel size is kept, the field of view rounded."""
        x, y, z = (max(8, round(length / size)) for length, size in zip(field_of_view_mm, self.voxel_size_mm, strict=True))
        return Geometry((x, y, z), self.voxel_size_mm, self.b0_direction, self.b0_tesla)

    def acquisition(self, shape: tuple[int, int, int]) -> Acquisition:
        """How a phantom is scanned to the grid `shape`; its geometry must have this protocol's b0_tesla and b0_direction."""
        return Acquisition(
            echo_times_s=self.echo_times_s,
            repetition_time_s=self.repetition_time_s,
            flip_angle_deg=self.flip_angle_deg,
            peak_snr=self.peak_snr,
            shape=shape,
            relaxation_follows_field=self.relaxation_follows_field,
        )


def _draw_echoes(ranges: ProtocolRanges, rng: np.random.Generator) -> tuple[float, ...]:
    n = draw_count(rng, ranges.n_echoes)
    if n == 1:
        return (draw_uniform(rng, ranges.last_echo_s),)
    first = draw_uniform(rng, ranges.first_echo_s)
    low, high = (first + (n - 1) * gap for gap in ranges.echo_spacing_s)
    last = draw_uniform(rng, (max(low, ranges.last_echo_s[0]), min(high, ranges.last_echo_s[1])))
    return tuple(first + (last - first) * echo / (n - 1) for echo in range(n))


def _draw_voxel(ranges: ProtocolRanges, rng: np.random.Generator) -> Triple:
    size = draw_uniform(rng, ranges.voxel_size_mm)
    edges = [size, size, size]
    if rng.random() < ranges.anisotropy_probability:
        longest = min(ranges.anisotropy[1], ranges.longest_edge_mm / size)
        edges[int(rng.integers(3))] *= draw_uniform(rng, (ranges.anisotropy[0], longest))
    return edges[0], edges[1], edges[2]


def draw_protocol(ranges: ProtocolRanges, rng: np.random.Generator) -> ProtocolParams:
    """Draw one protocol; echo times ascend and the last one is before the end of the repetition time."""
    choices = ranges.b0_choices_tesla
    b0_tesla = choices[int(rng.integers(len(choices)))] if choices else draw_uniform(rng, ranges.b0_tesla)
    times = _draw_echoes(ranges, rng)
    low, high = ranges.repetition_time_s
    repetition = draw_uniform(rng, (max(low, times[-1] + DEAD_TIME_S), max(high, times[-1] + DEAD_TIME_S)))
    return ProtocolParams(
        b0_tesla=b0_tesla,
        echo_times_s=times,
        repetition_time_s=repetition,
        flip_angle_deg=draw_uniform(rng, ranges.flip_angle_deg),
        peak_snr=draw_log_uniform(rng, ranges.peak_snr),
        voxel_size_mm=_draw_voxel(ranges, rng),
        b0_direction=draw_direction(rng, ranges.max_tilt_deg) if rng.random() < ranges.tilt_probability else (0.0, 0.0, 1.0),
        relaxation_follows_field=ranges.relaxation_follows_field,
    )
