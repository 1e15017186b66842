import base64
import gzip

import nibabel as nib
import numpy as np
import pytest

from qsmdl.errors import InputError
from qsmdl.report.volumes import STEP_PPM, crop_to, embed_labels, embed_map
from qsmdl.scan import Geometry

AFFINE = np.array([[-2.0, 0, 0, 90], [0, 1.5, 0, -70], [0, 0, 3.0, -40], [0, 0, 0, 1]])


def decoded(volume):
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(volume.text, validate=True)))


@pytest.fixture
def case():
    """A mask off the middle of a grid that is no cube."""
    mask = np.zeros((17, 13, 11), dtype=bool)
    mask[4:12, 3:11, 5:10] = True
    mask[5, 4, 6] = False
    return mask, Geometry(mask.shape, (2.0, 1.5, 3.0), affine=AFFINE)


def test_decoding_gives_back_the_map_to_half_a_step_where_it_was(case):
    mask, geometry = case
    chi = np.random.default_rng(1).normal(0, 0.3, mask.shape).astype(np.float32)
    volume = embed_map(chi, mask, geometry)
    image, box = decoded(volume), crop_to(mask)
    assert volume.step_ppm == pytest.approx(STEP_PPM)
    assert image.get_data_dtype() == np.int16
    values = image.get_fdata()
    np.testing.assert_allclose(values, np.where(mask, chi, 0)[box], atol=STEP_PPM / 2 * 1.001, rtol=1e-6)
    assert (values[~mask[box]] == 0).all()
    start = [s.start for s in box]
    np.testing.assert_allclose(image.affine @ [0, 0, 0, 1], AFFINE @ [*start, 1])
    np.testing.assert_allclose(image.header.get_zooms(), (2.0, 1.5, 3.0))


def test_maps_beyond_int16_get_a_coarser_step(case):
    mask, geometry = case
    chi = np.linspace(-40, 90, mask.size).reshape(mask.shape)
    volume = embed_map(chi, mask, geometry)
    assert volume.step_ppm > STEP_PPM
    np.testing.assert_allclose(decoded(volume).get_fdata(), np.where(mask, chi, 0)[crop_to(mask)], atol=volume.step_ppm / 2 * 1.001)


def test_invalid_voxels_become_zero_and_are_counted(case):
    mask, geometry = case
    chi = np.full(mask.shape, 0.05)
    chi[6, 6, 7], chi[7, 7, 7], chi[0, 0, 0] = np.nan, np.inf, np.nan
    volume = embed_map(chi, mask, geometry)
    assert volume.n_invalid == 2
    assert np.isfinite(decoded(volume).get_fdata()).all()


def test_labels_are_kept_inside_the_mask_alone(case):
    mask, geometry = case
    labels = (np.arange(mask.size) % 17).reshape(mask.shape)
    image = decoded(embed_labels(labels, mask, geometry))
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.where(mask, labels, 0)[crop_to(mask)])


def test_the_same_map_gives_the_same_text(case):
    mask, geometry = case
    assert embed_map(np.ones(mask.shape), mask, geometry).text == embed_map(np.ones(mask.shape), mask, geometry).text


def test_a_mask_at_the_rim_is_not_cropped_beyond_it():
    mask = np.zeros((5, 6, 7), dtype=bool)
    mask[0, 0, 0] = mask[4, 5, 6] = True
    assert crop_to(mask) == (slice(0, 5), slice(0, 6), slice(0, 7))


def test_errors(case):
    mask, geometry = case
    with pytest.raises(InputError, match="one grid"):
        embed_map(np.zeros((3, 4, 5)), mask, geometry)
    with pytest.raises(InputError, match="one grid"):
        embed_labels(np.zeros((3, 4, 5)), mask, geometry)
    with pytest.raises(InputError, match="0 voxels inside"):
        embed_map(np.zeros(mask.shape), np.zeros_like(mask), geometry)
    with pytest.raises(InputError, match="no inverse"):
        embed_map(np.zeros(mask.shape), mask, Geometry(mask.shape, affine=np.diag([0.0, 1, 1, 1])))
