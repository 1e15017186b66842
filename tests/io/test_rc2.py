import errno
import json
import math
import os

import nibabel as nib
import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.io.nifti import read_header, read_volume, write_volume
from qsmdl.io.rc2 import header_source, read_scan, write_release
from qsmdl.scan import Geometry, Scan, Truth
from qsmdl.units import hz_per_ppm

SHAPE = (9, 8, 7)
VOXEL_MM = (0.8, 1.0, 1.5)
TIMES_S = (0.005, 0.011, 0.02)
OBLIQUE_B0 = (0.0, math.sin(0.3), math.cos(0.3))
"""As in conftest.py."""


@pytest.fixture
def release(tmp_path, scan):
    write_release(tmp_path / "Sim1", scan)
    return tmp_path / "Sim1"


def rewrite(folder, stem, change):
    path = folder / f"{stem}.nii.gz"
    volume, _ = read_volume(path)
    write_volume(path, change(volume), voxel_size_mm=VOXEL_MM, overwrite=True)


def set_params(folder, **changes):
    params = json.loads((folder / "params.json").read_text()) | changes
    (folder / "params.json").write_text(json.dumps({key: value for key, value in params.items() if value != "absent"}))


def test_what_is_written_is_read_again(release, scan, caplog):
    again = read_scan(release)
    for name in ("magnitude", "phase_rad", "mask"):
        assert torch.equal(getattr(again, name), getattr(scan, name)), name
        assert getattr(again, name).is_contiguous()
    torch.testing.assert_close(again.frequency_ppm, scan.frequency_ppm)
    assert again.echo_times_s == TIMES_S
    assert again.name == "Sim1"
    assert again.geometry.voxel_size_mm == VOXEL_MM
    assert again.geometry.b0_tesla == 3.0
    np.testing.assert_allclose(again.geometry.b0_direction, OBLIQUE_B0)
    np.testing.assert_allclose(again.geometry.affine, scan.geometry.affine)
    assert caplog.text == ""


def test_files_follow_the_release(release, scan, mask):
    assert sorted(p.name for p in release.iterdir()) == [
        "Frequency.nii.gz", "Magnitude.nii.gz", "MaskBrainExtracted.nii.gz", "Phase.nii.gz", "params.json"]  # fmt: skip
    frequency_hz, _ = read_volume(release / "Frequency")
    torch.testing.assert_close(frequency_hz, scan.frequency_ppm * 3 * 42.577)
    phase = nib.load(release / "Phase.nii.gz")
    assert phase.shape == (*SHAPE, 3)
    np.testing.assert_array_equal(phase.get_fdata()[..., 1], scan.phase_rad[1].numpy())
    assert json.loads((release / "params.json").read_text())["TE"] == list(TIMES_S)
    assert header_source(release).name == "MaskBrainExtracted.nii.gz"


def test_truth_and_recipe_are_written_beside(tmp_path, scan, mask):
    labels = torch.full(SHAPE, 16, dtype=torch.uint8)
    truth = Truth(scan.geometry, torch.linspace(-1, 1, mask.numel()).reshape(SHAPE), labels, mask)
    write_release(tmp_path / "out", scan, truth, recipe={"seed": 3})
    assert torch.equal(read_volume(tmp_path / "out" / "GT" / "Chi")[0], truth.chi_ppm)
    assert nib.load(tmp_path / "out" / "GT" / "Segmentation.nii.gz").get_data_dtype() == np.uint8
    assert json.loads((tmp_path / "out" / "recipe.json").read_text()) == {"seed": 3}
    other = Geometry((9, 8, 6))
    cut = Truth(other, truth.chi_ppm[..., :6], labels[..., :6], mask[..., :6])
    with pytest.raises(InputError, match=r"\(9, 8, 6\).*\(9, 8, 7\)"):
        write_release(tmp_path / "other", scan, cut)


def test_release_is_replaced_only_when_asked_and_never_with_foreign_files(release, scan):
    with pytest.raises(InputError, match="--overwrite"):
        write_release(release, scan)
    write_release(release, scan, overwrite=True)
    (release / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt"):
        write_release(release, scan, overwrite=True)


def test_full_disk_leaves_no_release(tmp_path, scan, monkeypatch):
    def no_space(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(InputError, match="No space left on device"):
        write_release(tmp_path / "Sim1", scan)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stem", ["Magnitude", "Phase", "MaskBrainExtracted", "Frequency"])
def test_uncompressed_volumes_are_read_alike(release, stem, scan):
    nib.save(nib.load(release / f"{stem}.nii.gz"), release / f"{stem}.nii")
    (release / f"{stem}.nii.gz").unlink()
    assert torch.equal(read_scan(release).phase_rad, scan.phase_rad)


def test_scan_without_frequency(release):
    (release / "Frequency.nii.gz").unlink()
    assert read_scan(release).frequency_ppm is None


def test_gamma_is_a_setting_of_the_reader(release, scan):
    other = read_scan(release, gamma_mhz_per_tesla=42.7747892).frequency_ppm
    torch.testing.assert_close(other, scan.frequency_ppm * (42.577 / 42.7747892))


def test_integers_with_a_scale_are_read_as_phase(release, scan):
    image = nib.Nifti1Image(scan.phase_rad.permute(1, 2, 3, 0).numpy(), np.diag([*VOXEL_MM, 1.0]))
    image.set_data_dtype(np.int16)  # nibabel finds the scale factor
    nib.save(image, release / "Phase.nii.gz")
    assert nib.load(release / "Phase.nii.gz").dataobj.slope < 1e-3
    torch.testing.assert_close(read_scan(release).phase_rad, scan.phase_rad, atol=1e-4, rtol=0)


def test_nonsense_outside_the_mask_becomes_zero(release, mask):
    def spoil(volume):
        volume[~mask] = math.nan
        return volume

    for stem in ("Magnitude", "Phase", "Frequency"):
        rewrite(release, stem, spoil)
    scan = read_scan(release)
    for volume in (scan.magnitude, scan.phase_rad, scan.frequency_ppm):
        assert float(volume[..., ~mask].abs().max()) == 0
        assert bool(volume[..., mask].any())


@pytest.mark.parametrize("stem", ["Magnitude", "Phase", "Frequency"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nonsense_inside_the_mask_names_the_file(release, stem, value):
    def spoil(volume):
        volume[3, 4, 5] = value
        return volume

    rewrite(release, stem, spoil)
    with pytest.raises(InputError, match=rf"{stem}\.nii\.gz holds \d NaN or infinite values inside the mask.*3, 4, 5"):
        read_scan(release)


@pytest.mark.parametrize("stem", ["Magnitude", "Phase", "Frequency"])
def test_grids_that_differ_name_both_files_and_shapes(release, stem):
    rewrite(release, stem, lambda volume: volume[:-1])
    with pytest.raises(InputError, match=rf"{stem}\.nii\.gz has the shape \(8, 8, 7.*MaskBrainExtracted\.nii\.gz has \(9, 8, 7\)"):
        read_scan(release)


def test_single_volumes_where_echoes_are_needed(release):
    rewrite(release, "Magnitude", lambda volume: volume[..., 0])
    with pytest.raises(InputError, match=r"Magnitude\.nii\.gz is 3-D .* where 4-D \(x, y, z, echo\) is needed"):
        read_scan(release)


@pytest.mark.parametrize("stem", ["Magnitude", "Phase", "MaskBrainExtracted"])
def test_missing_and_truncated_files_are_named(release, stem):
    path = release / f"{stem}.nii.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match=rf"{stem}\.nii\.gz could not be read"):
        read_scan(release)
    path.unlink()
    with pytest.raises(InputError, match=rf"neither {stem}\.nii nor {stem}\.nii\.gz"):
        read_scan(release)
    with pytest.raises(InputError, match="nowhere does not exist"):
        read_scan(release / "nowhere")


def test_empty_mask_is_named(release):
    rewrite(release, "MaskBrainExtracted", torch.zeros_like)
    with pytest.raises(InputError, match=r"The mask .*MaskBrainExtracted\.nii\.gz is empty"):
        read_scan(release)


def test_number_of_echo_times_must_fit(release):
    set_params(release, TE=[0.004, 0.012])
    with pytest.raises(InputError, match=r"Magnitude\.nii\.gz has 3 echoes .* 2 echo times .*params\.json"):
        read_scan(release)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"TE": [5, 11, 20]}, r"TE is \[5\.0, 11\.0, 20\.0\].*write \[0\.005, 0\.011, 0\.02\]"),
        ({"TE": "absent"}, r"no entry TE .*echo times in s are missing"),
        ({"TE": None}, "no entry TE"),
        ({"TE": []}, r"TE is \[\]"),
        ({"TE": ["a", 0.1, 0.2]}, "finite numbers"),
        ({"TE": [0.02, 0.011, 0.005]}, "ascend"),
        ({"TE": [-0.02, 0.011, 0.05]}, "positive"),
        ({"B0": "absent"}, "no entry B0"),
        ({"B0": 298.0}, r"B0 is 298\.0.*tesla"),
        ({"B0": [7.0, 7.0]}, "one field strength"),
        ({"B0": True}, "finite numbers"),
        ({"B0_dir": [0, 1]}, "three numbers"),
        ({"B0_dir": [0, 1, 1]}, "unit vector"),
        ({"voxel_size": [1, 1]}, "three numbers"),
        ({"voxel_size": [1, 0, 1]}, "positive"),
    ],
)
def test_bad_params_name_file_entry_and_remedy(release, changes, message):
    set_params(release, **changes)
    with pytest.raises(InputError, match=r"params\.json.*" + message):
        read_scan(release)


@pytest.mark.parametrize("text", ["{", "[1, 2]", "NaN"])
def test_params_that_are_no_object(release, text):
    (release / "params.json").write_text(text)
    with pytest.raises(InputError, match=r"params\.json"):
        read_scan(release)


def test_rounded_directions_become_unit_vectors_and_missing_ones_are_said(release, caplog):
    set_params(release, B0_dir=[0.0, 0.2955, 0.955])
    assert math.isclose(math.hypot(*read_scan(release).geometry.b0_direction), 1, abs_tol=1e-12)
    set_params(release, B0_dir="absent")
    assert read_scan(release).geometry.b0_direction == (0, 0, 1)
    assert "has no B0_dir" in caplog.text


def test_voxel_size_that_contradicts_the_header_is_said_with_both(release, caplog):
    set_params(release, voxel_size=[0.8, 1.0, 1.2])
    assert read_scan(release).geometry.voxel_size_mm == (0.8, 1.0, 1.2)
    assert "1.2" in caplog.text
    assert "1.5" in caplog.text
    assert "params.json is used" in caplog.text


def test_voxel_size_of_the_header_serves_where_params_has_none(release):
    set_params(release, voxel_size="absent")
    np.testing.assert_allclose(read_scan(release).geometry.voxel_size_mm, VOXEL_MM, rtol=1e-6)


def test_without_params_the_challenge_values_hold_and_are_said(tmp_path, scan, caplog):
    four = torch.cat([scan.phase_rad, scan.phase_rad[:1]])
    challenge = Scan(scan.geometry, (0.004, 0.012, 0.020, 0.028), four.abs(), four, scan.mask, None)
    write_release(tmp_path / "Sim2", challenge)
    (tmp_path / "Sim2" / "params.json").unlink()
    again = read_scan(tmp_path / "Sim2")
    assert again.echo_times_s == (0.004, 0.012, 0.020, 0.028)
    assert again.geometry.b0_tesla == 7.0
    np.testing.assert_allclose(again.geometry.voxel_size_mm, VOXEL_MM, rtol=1e-6)
    assert "7 T, echo times 4, 12, 20, 28 ms" in caplog.text


def test_without_params_another_number_of_echoes_asks_for_them(release):
    (release / "params.json").unlink()
    with pytest.raises(InputError, match=r"3 echoes .* 4 echo times \(from challenge defaults\).*Write params\.json"):
        read_scan(release)


@pytest.mark.parametrize("change", [lambda p: p * 4096 / math.pi, lambda p: p + math.pi, lambda p: 3 * p])
def test_phase_that_is_not_wrapped_rad_is_refused_with_its_range(release, change, mask):
    rewrite(release, "Phase", change)
    low = float(change(read_volume(release / "Phase")[0]).min())
    assert math.isfinite(low)
    with pytest.raises(InputError, match=r"Phase\.nii\.gz ranges from .* between -pi and pi.*4096"):
        read_scan(release)


def test_phase_outside_the_mask_may_be_anything(release, mask):
    def spoil(volume):
        volume[~mask] = 4095
        return volume

    rewrite(release, "Phase", spoil)
    assert read_scan(release).phase_rad.max() == 4095


def test_frequency_in_the_wrong_unit_is_said(release, caplog):
    rewrite(release, "Frequency", lambda hz: hz / hz_per_ppm(3.0))
    read_scan(release)
    assert "Frequency.nii.gz, read as Hz" in caplog.text
    assert "127.73 Hz" in caplog.text


def test_outputs_take_the_mask_header(release, scan, tmp_path):
    write_volume(tmp_path / "chi.nii.gz", scan.frequency_ppm, like=header_source(release))
    np.testing.assert_allclose(read_header(tmp_path / "chi.nii.gz").affine, scan.geometry.affine)
