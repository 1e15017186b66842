"""Conversions between ppm, Hz and rad. Nothing else in qsmdl converts units.

Susceptibility and field are in ppm everywhere inside the package; radians appear in `Scan.phase_rad` and inside the losses that need them,
Hz in files only. The sign convention is phase = +2 pi gamma B0 TE field.
"""

import math
from typing import TypeVar

from torch import Tensor

GAMMA_MHZ_PER_TESLA = 42.577
"""Proton gyromagnetic ratio / 2 pi. 1 ppm is 127.73 Hz at 3 T and 298.04 Hz at 7 T. Some scripts written for the RC2 release use 42.7747892
(0.46 % more): pass `gamma_mhz_per_tesla` where such data are read."""

Value = TypeVar("Value", float, Tensor)


def hz_per_ppm(b0_tesla: float, gamma_mhz_per_tesla: float = GAMMA_MHZ_PER_TESLA) -> float:
    """Larmor frequency shift in Hz of a field of 1 ppm."""
    return gamma_mhz_per_tesla * b0_tesla


def rad_per_ppm(b0_tesla: float, echo_time_s: float) -> float:
    """Phase in rad that a field of 1 ppm gains until the echo time: 7.49 at 7 T and 4 ms."""
    return 2 * math.pi * hz_per_ppm(b0_tesla) * echo_time_s


def hz_from_ppm(field_ppm: Value, b0_tesla: float, gamma_mhz_per_tesla: float = GAMMA_MHZ_PER_TESLA) -> Value:
    """Field in Hz from a field in ppm of B0."""
    return field_ppm * hz_per_ppm(b0_tesla, gamma_mhz_per_tesla)


def ppm_from_hz(field_hz: Value, b0_tesla: float, gamma_mhz_per_tesla: float = GAMMA_MHZ_PER_TESLA) -> Value:
    """Field in ppm of B0 from a field in Hz."""
    return field_hz / hz_per_ppm(b0_tesla, gamma_mhz_per_tesla)


def rad_from_ppm(field_ppm: Value, b0_tesla: float, echo_time_s: float) -> Value:
    """Phase in rad at the echo time from a field in ppm."""
    return field_ppm * rad_per_ppm(b0_tesla, echo_time_s)


def ppm_from_rad(phase_rad: Value, b0_tesla: float, echo_time_s: float) -> Value:
    """Field in ppm from an unwrapped phase in rad at the echo time."""
    return phase_rad / rad_per_ppm(b0_tesla, echo_time_s)
