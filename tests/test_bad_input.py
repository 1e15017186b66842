"""What cannot be a local field, a weight, a geometry or a setting is named, wherever it enters."""

import dataclasses
import gzip
import math
import struct

import numpy as np
import pytest
import torch

from qsmdl.about import about_of
from qsmdl.cli.build import method_from_command_line
from qsmdl.cli.catalogue import load_function, method_files
from qsmdl.cli.main import main
from qsmdl.errors import InputError
from qsmdl.io.field import read_field
from qsmdl.io.nifti import write_volume
from qsmdl.io.rc2 import read_scan, write_release
from qsmdl.physics.fieldmap import fit_field
from qsmdl.plausible import looks_wrapped
from qsmdl.scan import FieldMap, Geometry
from qsmdl.units import hz_per_ppm, rad_per_ppm

VOXEL_MM = (5.0, 5.0, 5.0)


def wrapped(field: FieldMap, rad: float = 200.0) -> torch.Tensor:
    """The phase of a field, wrapped."""
    phase = field.field_ppm * rad
    return torch.where(field.mask, torch.atan2(phase.sin(), phase.cos()), 0.0)


@pytest.fixture
def files(tmp_path, sample_field):
    write_volume(tmp_path / "mask.nii", sample_field.mask, voxel_size_mm=VOXEL_MM, dtype=np.uint8)

    def write(values: torch.Tensor, name: str = "field.nii"):
        write_volume(tmp_path / name, values, voxel_size_mm=VOXEL_MM, overwrite=True)
        return tmp_path / name, tmp_path / "mask.nii"

    return write


def test_what_looks_like_a_wrapped_phase():
    uniform = torch.linspace(-math.pi, math.pi, 1000)
    assert looks_wrapped(uniform)
    assert looks_wrapped(uniform.double() * 0.99)
    assert not looks_wrapped(uniform * 0.95)
    assert not looks_wrapped(uniform * 1.1)
    assert not looks_wrapped(uniform.abs())
    assert not looks_wrapped(torch.tensor([-math.pi, math.pi]))


@pytest.mark.parametrize("name", ["tkd", "tv", "unet"])
def test_fields_that_are_not_local_are_refused_by_every_kind_of_method(name, sample_field):
    method = method_from_command_line(name)
    phase = dataclasses.replace(sample_field, field_ppm=wrapped(sample_field))
    with pytest.raises(InputError, match="this looks like a wrapped phase in rad"):
        method(phase)
    hz = dataclasses.replace(sample_field, field_ppm=sample_field.field_ppm * hz_per_ppm(7.0))
    with pytest.raises(InputError, match=r"99\.9th percentile of \|field\| is .* ppm.*Hz or rad.*background"):
        method(hz)


@pytest.mark.parametrize("name", ["tkd", "tv"])
def test_solvers_called_by_themselves_refuse_them_too(name, sample_field):
    function = method_from_command_line(name).function
    with pytest.raises(InputError, match="total"):
        function(dataclasses.replace(sample_field, kind="total"))
    with pytest.raises(InputError, match="this looks like a wrapped phase in rad"):
        function(dataclasses.replace(sample_field, field_ppm=wrapped(sample_field)))


@pytest.mark.parametrize("units", ["ppm", "hz", "rad"])
def test_a_file_of_wrapped_phase_is_named(files, sample_field, units):
    path, mask = files(wrapped(sample_field))
    with pytest.raises(InputError, match=rf"field\.nii, read as {units}, .* looks like a wrapped phase in rad"):
        read_field(path, units, mask, b0_tesla=7.0, echo_time_s=0.02)
    unwrapped, mask = files(sample_field.field_ppm * rad_per_ppm(7.0, 0.02))
    found = read_field(unwrapped, "rad", mask, b0_tesla=7.0, echo_time_s=0.02)
    assert torch.allclose(found.field_ppm, sample_field.field_ppm, atol=1e-6)


def test_a_file_of_another_unit_is_named(files, sample_field, caplog):
    path, mask = files(sample_field.field_ppm * hz_per_ppm(7.0))
    with pytest.raises(InputError, match=r"field\.nii, read as ppm: .* If the file holds Hz, say so.* total field, remove the background first"):
        read_field(path, "ppm", mask, b0_tesla=7.0)
    largest = float(sample_field.field_ppm.abs().max())
    path, mask = files(sample_field.field_ppm * (4 / largest))
    read_field(path, "ppm", mask, b0_tesla=7.0)  # doubtful, not absurd
    assert "total field" in caplog.text


def test_weights_that_are_0(files, sample, sample_field):
    with pytest.raises(InputError, match="weight must be"):
        dataclasses.replace(sample_field, weight=torch.zeros_like(sample_field.weight))
    path, mask = files(sample_field.field_ppm)
    weight, _ = files(torch.zeros_like(sample_field.field_ppm), "weight.nii")
    with pytest.raises(InputError, match=r"weight\.nii has the smallest value 0 and the mean 0"):
        read_field(path, "ppm", mask, b0_tesla=7.0, weight_path=weight)
    scan = sample[0]
    with pytest.raises(InputError, match="magnitude is 0 everywhere inside the mask"):
        fit_field(dataclasses.replace(scan, magnitude=torch.zeros_like(scan.magnitude)))


def test_voxels_without_size(tmp_path, sample):
    with pytest.raises(InputError, match=r"voxel_size_mm is .* positive"):
        Geometry((4, 5, 6), (1.0, 0.0, 1.0))
    write_release(tmp_path / "Sim1", sample[0])
    (tmp_path / "Sim1" / "params.json").unlink()
    path = tmp_path / "Sim1" / "MaskBrainExtracted.nii.gz"
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[84:88] = struct.pack("<f", 0.0)  # pixdim[2], which nibabel would read as 1
    path.write_bytes(gzip.compress(bytes(raw)))
    with pytest.raises(InputError, match=r"MaskBrainExtracted.* gives voxels of .*5.* 0.* 5.* mm; every entry of pixdim must be positive"):
        read_scan(tmp_path / "Sim1")


def test_a_direction_that_is_no_unit_vector(files, sample_field, tmp_path, capsys):
    with pytest.raises(InputError, match=r"b0_direction is .* unit vector"):
        Geometry((4, 5, 6), b0_direction=(0.0, 0.0, 2.0))
    path, mask = files(sample_field.field_ppm)
    words = ["--field", str(path), "--units", "ppm", "--mask", str(mask), "--method", "tkd", "-o", str(tmp_path / "chi.nii")]
    for wrong in (["0", "0", "0"], ["0", "1", "1"]):
        with pytest.raises(SystemExit):
            main(["reconstruct", *words, "--b0-direction", *wrong])
        assert "unit vector" in capsys.readouterr().err


PARAMETERS = {name: about for name, path in method_files().items() if (about := about_of(load_function(path))).parameter}
# Several orientations may need no regularisation at all.
VALUES = ("-1.0", "0", ".nan", ".inf")
OUT_OF_RANGE = [(name, value) for name, about in PARAMETERS.items() for value in VALUES if about.input[0] != "s" or value != "0"]


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_parameters_out_of_range(name, value, sample, sample_field):
    parameter = PARAMETERS[name].parameter
    tilted = dataclasses.replace(sample_field, geometry=dataclasses.replace(sample_field.geometry, b0_direction=(0.0, 0.6, 0.8)))
    with pytest.raises(InputError, match=parameter):
        method_from_command_line(name, [f"{parameter}={value}"])(sample_field, sample[0], orientations=(tilted,))
