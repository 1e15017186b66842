"""Scans as datasets of QSM-CI."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from qsm_ci.qsm_eval import score_arrays
from qsm_ci.stages import ARTIFACT_FILE, STAGES

from qsmdl.challenge.truth import find_truth, read_truth
from qsmdl.errors import InputError
from qsmdl.io.layouts import header_source, layout_of, read_scan, scan_name
from qsmdl.io.nifti import read_volume, write_volume
from qsmdl.io.qsm_ci import has_field_only, read_local_field, write_qsm_ci
from qsmdl.io.rc2 import write_release
from qsmdl.scan import Geometry, Truth

SHAPE = (9, 8, 7)
VOXEL_MM = (0.8, 1.0, 1.5)
TIMES_S = (0.005, 0.011, 0.02)


@pytest.fixture
def truth(scan, mask):
    chi = 0.1 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)) * mask
    labels = torch.randint(1, 17, SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    return Truth(scan.geometry, chi, labels, mask)


@pytest.fixture
def field():
    return 0.05 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def dataset(tmp_path, scan, truth, field):
    write_qsm_ci(tmp_path / "head7", scan, truth, local_field_ppm=field, recipe={"seed": 3})
    return tmp_path / "head7"


def test_files_are_those_of_the_contract(dataset, mask, field):
    """As the package qsm-ci itself names them: an end-to-end method's inputs, and what the stages produce."""
    wanted = {ARTIFACT_FILE[name] for name in STAGES["end-to-end"]["consumes"]}
    assert {path.name for path in (dataset / "inputs").iterdir()} == wanted
    produced = {ARTIFACT_FILE[name] for stage in ("field-mapping", "bfr", "dipole") for name in STAGES[stage]["produces"]}
    assert {path.name for path in (dataset / "groundtruth").iterdir()} == produced | {"dseg.nii.gz"}
    assert json.loads((dataset / "recipe.json").read_text()) == {"seed": 3}
    params = json.loads((dataset / "inputs" / "params.json").read_text())
    assert set(params) == {"TE", "B0", "B0_dir", "voxel_size"}
    assert params["TE"] == list(TIMES_S)
    assert params["voxel_size"] == list(VOXEL_MM)
    images = {path.name: nib.load(path) for path in dataset.rglob("*.nii.gz")}
    assert images["mask.nii.gz"].get_data_dtype() == np.uint8
    assert images["phase.nii.gz"].shape == images["magnitude.nii.gz"].shape == (*SHAPE, 3)
    for image in images.values():
        np.testing.assert_array_equal(image.affine, images["mask.nii.gz"].affine)
    for stem in ("localfield", "totalfield"):
        assert torch.equal(read_volume(dataset / "groundtruth" / stem)[0], torch.where(mask, field, 0.0))


@pytest.mark.parametrize("sub", ["", "inputs"])
def test_what_is_written_is_read_again(dataset, sub, scan, truth, caplog):
    folder = dataset / sub
    again, known = read_scan(folder), read_truth(folder)
    for name in ("magnitude", "phase_rad", "mask"):
        assert torch.equal(getattr(again, name), getattr(scan, name)), name
    assert again.frequency_ppm is None  # the true field is truth, and is not among the inputs
    assert again.echo_times_s == TIMES_S
    assert again.name == scan_name(folder) == "head7"
    assert again.geometry.voxel_size_mm == VOXEL_MM
    np.testing.assert_allclose(again.geometry.b0_direction, scan.geometry.b0_direction)
    np.testing.assert_allclose(again.geometry.affine, scan.geometry.affine)
    assert torch.equal(known.chi_ppm, truth.chi_ppm)
    assert torch.equal(known.labels, truth.labels)
    assert layout_of(folder) == "qsm-ci"
    assert header_source(folder).name == "mask.nii.gz"
    assert caplog.text == ""


def test_qsm_ci_scores_the_truth_without_error(dataset):
    truth, mask = (nib.load(dataset / name).get_fdata() for name in ("groundtruth/chimap.nii.gz", "inputs/mask.nii.gz"))
    metrics, _ = score_arrays(truth, truth, mask, "chi")
    assert metrics["nrmse"] == 0
    assert metrics["coverage"] == 1


def test_a_single_echo_may_be_three_dimensional(dataset, scan):
    for stem in ("phase", "magnitude"):
        volume, _ = read_volume(dataset / "inputs" / stem)
        write_volume(dataset / "inputs" / f"{stem}.nii.gz", volume[..., 0], voxel_size_mm=VOXEL_MM, overwrite=True)
    params = json.loads((dataset / "inputs" / "params.json").read_text()) | {"TE": [0.005]}
    (dataset / "inputs" / "params.json").write_text(json.dumps(params))
    assert torch.equal(read_scan(dataset).phase_rad, scan.phase_rad[:1])


def test_a_field_among_the_inputs_is_the_field_handed_out(dataset, field, mask):
    shutil.copy(dataset / "groundtruth" / "localfield.nii.gz", dataset / "inputs")
    assert not has_field_only(dataset)
    assert torch.equal(read_scan(dataset).frequency_ppm, torch.where(mask, field, 0.0))


def test_inputs_of_the_stage_dipole_are_a_field_map(dataset, field, mask, tmp_path):
    mounted = tmp_path / "input"
    mounted.mkdir()
    for source in ("groundtruth/localfield.nii.gz", "inputs/mask.nii.gz", "inputs/params.json"):
        shutil.copy(dataset / source, mounted)
    assert layout_of(mounted) == "qsm-ci"
    assert has_field_only(mounted)
    found = read_local_field(mounted)
    assert torch.equal(found.field_ppm, torch.where(mask, field, 0.0))
    assert found.name == "input"
    assert found.geometry.voxel_size_mm == VOXEL_MM
    assert found.geometry.b0_tesla == 3.0
    np.testing.assert_allclose(found.geometry.b0_direction, read_scan(dataset).geometry.b0_direction)


def test_reading_a_scan_opens_no_truth(dataset):
    (dataset / "groundtruth" / "chimap.nii.gz").write_bytes(b"no volume")
    read_scan(dataset)
    with pytest.raises(InputError, match="chimap"):
        read_truth(dataset)
    shutil.rmtree(dataset / "groundtruth")
    assert find_truth(dataset) is None
    with pytest.raises(InputError, match="has no truth"):
        read_truth(dataset)


def test_a_misspelt_release_is_no_dataset(tmp_path, scan):
    """The release's own check must find it and say so."""
    write_release(tmp_path / "Sim1", scan)
    for stem in ("Phase", "Magnitude"):
        (tmp_path / "Sim1" / f"{stem}.nii.gz").rename(tmp_path / "Sim1" / f"{stem.lower()}.nii.gz")
    assert layout_of(tmp_path / "Sim1") == "rc2"


DAMAGE = {
    "no phase": (lambda d: (d / "inputs/phase.nii.gz").unlink(), "phase"),
    "no mask": (lambda d: (d / "inputs/mask.nii.gz").unlink(), "mask"),
    "no params": (lambda d: (d / "inputs/params.json").unlink(), "has no params.json"),
    "echoes and times": (lambda d: (d / "inputs/params.json").write_text('{"TE": [0.01], "B0": 3}'), "1 echo times"),
    "times in ms": (lambda d: (d / "inputs/params.json").write_text('{"TE": [5, 11, 20], "B0": 3}'), "are ms"),
    "another grid": (
        lambda d: write_volume(d / "inputs/magnitude.nii.gz", torch.ones(9, 8, 6, 3), voxel_size_mm=VOXEL_MM, overwrite=True),
        r"magnitude.*\(9, 8, 6, 3\)",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(dataset, what):
    damage, message = DAMAGE[what]
    damage(dataset)
    with pytest.raises(InputError, match=message):
        read_scan(dataset)


def test_a_dataset_is_replaced_only_when_asked(dataset, scan, truth):
    with pytest.raises(InputError, match="--overwrite"):
        write_qsm_ci(dataset, scan, truth)
    write_qsm_ci(dataset, scan, overwrite=True)
    assert {path.name for path in dataset.iterdir()} == {"inputs"}
    small = Truth(Geometry((9, 8, 6)), truth.chi_ppm[..., :6], truth.labels[..., :6], truth.mask[..., :6])
    with pytest.raises(InputError, match=r"\(9, 8, 6\)"):
        write_qsm_ci(dataset.with_name("other"), scan, small)
