"""The calibration of uncertainties as a table."""

import math

from qsmdl.challenge.calibration import Calibration, CalibrationBin

_HEAD = (
    "| predicted (ppb) | voxels | mean predicted (ppb) | rms error (ppb) | within 1 std (%) | within 2 std (%) |",
    "|---|---|---|---|---|---|",
)


def _normal(n_std: float) -> float:
    """Share of normal errors within some standard deviations, in %."""
    return 100 * math.erf(n_std / math.sqrt(2))


def _line(name: str, one: CalibrationBin) -> str:
    cells = (f"{1000 * one.mean_predicted_ppm:.2f}", f"{1000 * one.rms_error_ppm:.2f}", f"{100 * one.coverage_1:.1f}", f"{100 * one.coverage_2:.1f}")
    return f"| {name} | {one.n_voxels} | {' | '.join(cells)} |"


def calibration_markdown(calibration: Calibration) -> str:
    """A Markdown table, one line per bin and one for all voxels, and a sentence with the factor that would make both columns agree on the whole."""
    lines = [_line(f"{1000 * one.low_ppm:.2f} to {1000 * one.high_ppm:.2f}", one) for one in calibration.bins]
    told = (
        f"Normal errors lie within one and two standard deviations in {_normal(1):.1f} % and {_normal(2):.1f} % of the voxels. On the whole the "
        f"errors are {calibration.factor:.2f} times as large as predicted (ratio of the root mean squares)."
    )
    return "\n".join([*_HEAD, *lines, _line("all", calibration.whole), "", told, ""])
