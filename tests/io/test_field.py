import math

import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.io.field import read_field
from qsmdl.io.nifti import write_volume
from qsmdl.units import hz_per_ppm

SHAPE = (9, 8, 7)
VOXEL_MM = (0.8, 1.0, 1.5)
OBLIQUE_B0 = (0.0, math.sin(0.3), math.cos(0.3))
"""As in conftest.py."""


@pytest.fixture
def field_files(tmp_path, scan, mask):
    write_volume(tmp_path / "ppm.nii.gz", scan.frequency_ppm, voxel_size_mm=VOXEL_MM)
    write_volume(tmp_path / "hz.nii.gz", scan.frequency_ppm * hz_per_ppm(3.0), voxel_size_mm=VOXEL_MM)
    write_volume(tmp_path / "rad.nii.gz", scan.frequency_ppm * hz_per_ppm(3.0) * 2 * math.pi * 0.02, voxel_size_mm=VOXEL_MM)
    write_volume(tmp_path / "mask.nii.gz", mask, voxel_size_mm=VOXEL_MM, dtype=np.uint8)
    return tmp_path


@pytest.mark.parametrize("units", ["ppm", "hz", "rad"])
def test_field_in_each_unit(field_files, units, scan, mask, caplog):
    found = read_field(field_files / f"{units}.nii.gz", units, field_files / "mask", b0_tesla=3.0, echo_time_s=0.02, b0_direction=OBLIQUE_B0)
    torch.testing.assert_close(found.field_ppm, scan.frequency_ppm * mask)
    assert torch.equal(found.weight, mask.float())
    np.testing.assert_allclose(found.geometry.voxel_size_mm, VOXEL_MM, rtol=1e-6)
    assert found.kind == "local"
    assert found.name == units
    assert caplog.text == ""


@pytest.mark.parametrize("units", ["hz", "rad"])
def test_field_with_another_gamma(field_files, units, scan, mask):
    found = read_field(field_files / f"{units}.nii.gz", units, field_files / "mask", b0_tesla=3.0, echo_time_s=0.02, gamma_mhz_per_tesla=42.7747892)
    torch.testing.assert_close(found.field_ppm, scan.frequency_ppm * mask * (42.577 / 42.7747892))


def test_field_in_the_wrong_unit_is_said_with_numbers(field_files, caplog):
    with pytest.raises(InputError, match=r"hz\.nii\.gz, read as ppm.*127\.73 Hz"):
        read_field(field_files / "hz.nii.gz", "ppm", field_files / "mask", b0_tesla=3.0)
    read_field(field_files / "ppm.nii.gz", "hz", field_files / "mask", b0_tesla=3.0)
    assert "is only" in caplog.text
    caplog.clear()
    read_field(field_files / "hz.nii.gz", "ppm", field_files / "mask", b0_tesla=3.0, kind="total")
    assert caplog.text == ""


def test_weight_has_mean_one_inside_the_mask(field_files, scan, mask):
    write_volume(field_files / "weight.nii", scan.magnitude[0], voxel_size_mm=VOXEL_MM)
    found = read_field(field_files / "ppm", "ppm", field_files / "mask", b0_tesla=3.0, weight_path=field_files / "weight.nii")
    assert math.isclose(float(found.weight[mask].mean()), 1, rel_tol=1e-5)
    assert float(found.weight[~mask].abs().max()) == 0
    write_volume(field_files / "negative.nii", -scan.magnitude[0], voxel_size_mm=VOXEL_MM)
    with pytest.raises(InputError, match=r"The weight .*negative\.nii has the smallest value -"):
        read_field(field_files / "ppm", "ppm", field_files / "mask", b0_tesla=3.0, weight_path=field_files / "negative.nii")


def test_field_errors_name_value_and_file(field_files, scan):
    place = field_files
    with pytest.raises(InputError, match="'tesla'; they must be one of ppm, hz, rad"):
        read_field(place / "ppm", "tesla", place / "mask", b0_tesla=3.0)
    with pytest.raises(InputError, match="needs the echo time"):
        read_field(place / "rad", "rad", place / "mask", b0_tesla=3.0)
    write_volume(place / "small.nii", scan.frequency_ppm[1:])
    with pytest.raises(InputError, match=r"small\.nii has the shape \(8, 8, 7\), but .*mask\.nii\.gz"):
        read_field(place / "small.nii", "ppm", place / "mask", b0_tesla=3.0)
    write_volume(place / "nothing.nii", torch.zeros(SHAPE))
    with pytest.raises(InputError, match=r"mask .*nothing\.nii is empty"):
        read_field(place / "ppm", "ppm", place / "nothing.nii", b0_tesla=3.0)
    spoiled = scan.frequency_ppm.clone()
    spoiled[4, 4, 4] = math.nan
    write_volume(place / "spoiled.nii", spoiled)
    with pytest.raises(InputError, match=r"spoiled\.nii holds 1 NaN"):
        read_field(place / "spoiled.nii", "ppm", place / "mask", b0_tesla=3.0)
