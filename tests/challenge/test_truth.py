import shutil

import numpy as np
import pytest
import torch

from qsmdl.challenge.truth import find_truth, read_truth
from qsmdl.errors import InputError
from qsmdl.io.nifti import write_volume
from qsmdl.io.rc2 import write_release
from qsmdl.scan import Geometry, Scan, Truth

SHAPE = (7, 6, 5)


@pytest.fixture
def truth():
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[1:6, 1:5, 1:4] = True
    labels = torch.randint(1, 17, SHAPE, generator=generator, dtype=torch.uint8)
    return Truth(Geometry(SHAPE, (1.0, 1.2, 1.5)), 0.1 * torch.randn(SHAPE, generator=generator), labels, mask)


@pytest.fixture
def release(tmp_path, truth):
    echoes = torch.ones(4, *SHAPE)
    scan = Scan(truth.geometry, (0.004, 0.012, 0.020, 0.028), echoes, echoes, truth.mask, None)
    write_release(tmp_path / "Sim2Snr1", scan, truth)
    return tmp_path / "Sim2Snr1"


def check(found, truth):
    assert torch.equal(found.chi_ppm, truth.chi_ppm)
    assert torch.equal(found.labels, truth.labels)
    assert found.labels.dtype == torch.uint8
    assert torch.equal(found.mask, truth.mask)
    assert found.geometry.voxel_size_mm == truth.geometry.voxel_size_mm


def test_first_form(release, truth):
    check(read_truth(release), truth)
    assert find_truth(release) == release.resolve() / "GT"


@pytest.mark.parametrize("sibling", ["Sim2GT", "Sim2Snr1GT"])
def test_second_form(release, truth, sibling):
    shutil.move(release / "GT", release.parent / sibling)
    check(read_truth(release), truth)


def test_blind_scan(release):
    shutil.rmtree(release / "GT")
    assert find_truth(release) is None
    with pytest.raises(InputError, match=r"has no truth: none of .*GT/Chi.*Sim2GT/Chi"):
        read_truth(release)


def rewrite(release, stem, volume):
    (release / "GT" / f"{stem}.nii.gz").unlink()
    write_volume(release / "GT" / f"{stem}.nii.gz", volume)


def test_bad_truths_are_named(release, truth):
    rewrite(release, "Segmentation", truth.labels + 0.4)
    with pytest.raises(InputError, match=r"Segmentation\.nii\.gz ranges from .* no labels"):
        read_truth(release)
    rewrite(release, "Segmentation", truth.labels[1:])
    with pytest.raises(InputError, match=r"Segmentation\.nii\.gz has the shape"):
        read_truth(release)
    rewrite(release, "Chi", truth.chi_ppm[1:])
    with pytest.raises(InputError, match=r"Chi\.nii\.gz has the shape"):
        read_truth(release)
    rewrite(release, "Segmentation", truth.labels)
    rewrite(release, "Chi", torch.full(SHAPE, np.nan))
    with pytest.raises(InputError, match=r"Chi\.nii\.gz holds 60 NaN"):
        read_truth(release)
    (release / "GT" / "Segmentation.nii.gz").unlink()
    rewrite(release, "Chi", truth.chi_ppm)
    with pytest.raises(InputError, match=r"neither Segmentation\.nii nor"):
        read_truth(release)
