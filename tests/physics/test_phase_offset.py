import math
from dataclasses import replace

import pytest
import torch

from qsmdl.cli.reconstruct import doubts_of_offset
from qsmdl.errors import InputError
from qsmdl.physics.fieldmap import fit_field
from qsmdl.physics.phase_offset import find_phase_offset, take_off_phase_offset
from qsmdl.scan import Scan


def coil(scan: Scan) -> torch.Tensor:
    """A phase that turns by more than half a turn over the head, [x, y, z] in rad."""
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in scan.geometry.shape), indexing="ij")
    return 2.4 + 0.9 * x - 0.6 * y * z + 0.7 * z**2


def turned(scan: Scan, offset_rad: torch.Tensor) -> Scan:
    return replace(scan, phase_rad=torch.angle(torch.polar(torch.ones_like(scan.phase_rad), scan.phase_rad + offset_rad)))


def error_ppm(scan: Scan, clean: Scan) -> float:
    """Root mean square difference of the fields of two scans."""
    return float((fit_field(scan).field_ppm - fit_field(clean).field_ppm)[clean.mask].square().mean().sqrt())


def test_a_coils_phase_is_found_and_taken_off(sample):
    clean = sample[0]
    scan = turned(clean, coil(clean))
    found = find_phase_offset(scan)
    left = torch.angle(torch.polar(torch.ones_like(found), found - coil(clean)))[clean.mask]
    assert left.square().mean().sqrt() < 0.05
    assert (found[~clean.mask] == 0).all()
    corrected = take_off_phase_offset(scan, found)
    assert error_ppm(scan, clean) > 0.05
    assert error_ppm(corrected, clean) < 0.002
    assert torch.equal(corrected.phase_rad[:, ~clean.mask], scan.phase_rad[:, ~clean.mask])
    assert corrected.phase_rad.abs().max() <= math.pi + 1e-6


def test_the_field_is_better_than_that_of_a_fit_with_offset(sample):
    """A smooth phase is known from many voxels, that of a fit from one: half of the noise (`fit_field`)."""
    clean = sample[0]
    scan = turned(clean, coil(clean))
    smooth, fitted = fit_field(take_off_phase_offset(scan, find_phase_offset(scan))), fit_field(scan, offset=True)
    assert smooth.noise_ppm is not None
    assert fitted.noise_ppm is not None
    assert smooth.noise_ppm[clean.mask].median() < 0.6 * fitted.noise_ppm[clean.mask].median()


@pytest.mark.parametrize("constant", [-3.0, -0.3, 1.0, math.pi])
def test_a_constant_is_found_whatever_its_turn(sample, constant):
    clean = sample[0]
    scan = turned(clean, torch.full(clean.geometry.shape, constant))
    assert error_ppm(take_off_phase_offset(scan, find_phase_offset(scan)), clean) < 0.002


def test_two_echoes_are_enough_and_one_is_not(sample):
    clean = sample[0]
    two = replace(clean, echo_times_s=clean.echo_times_s[:2], magnitude=clean.magnitude[:2], phase_rad=clean.phase_rad[:2])
    scan = turned(two, coil(clean))
    assert (find_phase_offset(scan) - find_phase_offset(turned(clean, coil(clean))))[clean.mask].abs().median() < 0.05
    one = replace(clean, echo_times_s=clean.echo_times_s[:1], magnitude=clean.magnitude[:1], phase_rad=clean.phase_rad[:1])
    assert doubts_of_offset(one) == ()
    with pytest.raises(InputError, match="1 echo"):
        find_phase_offset(one)


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan])
def test_a_width_must_be_positive(sample, width):
    with pytest.raises(InputError, match="smoothing_mm"):
        find_phase_offset(sample[0], smoothing_mm=width)


def test_the_doubt_names_size_and_remedy(sample):
    clean = sample[0]
    assert doubts_of_offset(clean) == ()
    (doubt,) = doubts_of_offset(turned(clean, torch.full(clean.geometry.shape, 0.2)))
    assert "0.20 rad" in doubt
    assert "--remove-offset" in doubt
