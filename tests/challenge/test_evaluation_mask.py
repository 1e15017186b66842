"""The mask of the official evaluation, which FilestructureForEval.mat names."""

import logging

import pytest
import torch
from scipy.io import savemat

from qsmdl.challenge.truth import read_truth
from qsmdl.errors import InputError
from qsmdl.io.nifti import write_volume
from qsmdl.io.rc2 import write_release
from qsmdl.scan import Geometry, Scan, Truth

SHAPE = (7, 6, 5)


@pytest.fixture
def folder(tmp_path):
    """DatasetsStep2/Sim2Snr1 with its truth."""
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[1:6, 1:5, 1:4] = True
    truth = Truth(Geometry(SHAPE), 0.1 * torch.randn(SHAPE), torch.ones(SHAPE, dtype=torch.uint8), mask)
    echoes = torch.ones(4, *SHAPE)
    place = tmp_path / "release" / "DatasetsStep2" / "Sim2Snr1"
    write_release(place, Scan(truth.geometry, (0.004, 0.012, 0.020, 0.028), echoes, echoes, mask), truth)
    return place


@pytest.fixture
def eroded():
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[2:5, 2:4, 2:3] = True
    return mask


def evaluation_file(folder, entry):
    savemat(folder / "GT" / "FilestructureForEval.mat", {"filesstructure": {"maskEroded": entry, "CalcMoment": -50.0}})


def test_an_array(folder, eroded):
    evaluation_file(folder, eroded.numpy())
    truth = read_truth(folder)
    assert torch.equal(truth.mask, eroded)
    assert truth.mask_source == "maskEroded"


@pytest.mark.parametrize(
    "text", ["GT/maskEroded.nii", "Sim2Snr1/GT/maskEroded.nii", "DatasetsStep2\\Sim2Snr1\\GT\\maskEroded.nii", "/data/x/maskEroded.nii"]
)
def test_a_path_inside_the_release(folder, eroded, text):
    write_volume(folder / "GT" / "maskEroded.nii", eroded, dtype="uint8")
    evaluation_file(folder, text)
    assert torch.equal(read_truth(folder).mask, eroded)


def test_without_it_the_brain_mask_is_said_aloud(folder, caplog):
    caplog.set_level(logging.INFO)
    truth = read_truth(folder)
    assert truth.mask_source == "MaskBrainExtracted"
    assert "Sim2Snr1: no FilestructureForEval.mat, so the metrics are computed in MaskBrainExtracted" in caplog.text
    evaluation_file(folder, "Sim9/mask.nii")
    assert read_truth(folder).mask_source == "MaskBrainExtracted"
    assert "names Sim9/mask.nii, which is not there" in caplog.text
    savemat(folder / "GT" / "FilestructureForEval.mat", {"other": 1.0})
    assert read_truth(folder).mask_source == "MaskBrainExtracted"
    assert "has no usable entry maskEroded" in caplog.text


@pytest.mark.parametrize("text", ["../../../secret.nii", "..\\secret.nii", "GT/Chi.mat", "/etc/passwd", ""])
def test_paths_that_leave_the_release_are_refused(folder, eroded, text):
    write_volume(folder.parents[2] / "secret.nii", eroded, dtype="uint8")
    evaluation_file(folder, text)
    with pytest.raises(InputError, match="a path of a NIfTI file inside the release is needed"):
        read_truth(folder)


def test_a_link_out_of_the_release_is_not_followed(folder, eroded):
    write_volume(folder.parents[2] / "secret.nii", eroded, dtype="uint8")
    (folder / "GT" / "maskEroded.nii").symlink_to(folder.parents[2] / "secret.nii")
    evaluation_file(folder, "GT/maskEroded.nii")
    assert read_truth(folder).mask_source == "MaskBrainExtracted"


def test_masks_that_do_not_fit_are_named(folder, eroded):
    evaluation_file(folder, eroded[1:].numpy())
    with pytest.raises(InputError, match=r"FilestructureForEval\.mat has the shape \(6, 6, 5\)"):
        read_truth(folder)
    evaluation_file(folder, torch.zeros(SHAPE).numpy())
    with pytest.raises(InputError, match=r"FilestructureForEval\.mat is empty"):
        read_truth(folder)
    (folder / "GT" / "FilestructureForEval.mat").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"FilestructureForEval\.mat could not be read"):
        read_truth(folder)
