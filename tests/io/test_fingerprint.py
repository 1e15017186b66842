import gzip

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from qsmdl.errors import InputError
from qsmdl.io.fingerprint import GRID_MM, Signature, content_hash, find_support, fingerprint_file, fingerprint_folder, volume_signature
from qsmdl.io.nifti import write_volume

SHAPE = (24, 27, 30)
SIZE = (3.0, 3.0, 2.5)


def textured(seed=0):
    values = np.zeros(SHAPE, np.float32)
    values[3:20, 4:23, 5:25] = np.random.default_rng(seed).normal(0, 0.05, (17, 19, 20)).round(4)
    return values


def test_the_type_of_the_file_makes_no_difference(tmp_path):
    """int16 with a slope, float64, compressed or not: what decodes to the same values has one hash."""
    steps = np.random.default_rng(1).integers(-300, 300, SHAPE).astype(np.int16)
    image = nib.Nifti1Image(steps, np.eye(4))
    image.header.set_slope_inter(2.0**-10, 0)
    values = steps.astype(np.float64) * 2.0**-10
    nib.save(image, tmp_path / "a.nii")
    nib.save(image, tmp_path / "b.nii.gz")
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "c.nii.gz")
    with gzip.GzipFile(tmp_path / "d.nii.gz", "wb", mtime=12345) as file:
        file.write((tmp_path / "a.nii").read_bytes())
    found = fingerprint_folder(tmp_path)
    assert [f.name for f in found] == ["a.nii", "b.nii.gz", "c.nii.gz", "d.nii.gz"]
    assert {f.content for f in found} == {content_hash(values)}


def test_the_hash_depends_on_values_and_shape_only():
    values = textured()
    assert content_hash(torch.from_numpy(values)) == content_hash(values.astype(np.float64)) == content_hash(np.asfortranarray(values))
    assert content_hash(values * -0.0) == content_hash(np.zeros(SHAPE))
    assert content_hash(values.ravel()) != content_hash(values)
    changed = values.copy()
    changed[0, 0, 0] = 1e-6
    assert content_hash(changed) != content_hash(values)
    holes = np.where(values == 0, np.nan, values)
    assert content_hash(holes) == content_hash(np.where(values == 0, -np.nan, values))


def test_a_signature_survives_its_encoding():
    signature = volume_signature(textured(), SIZE)
    again = Signature.decode(signature.encode())
    np.testing.assert_array_equal(again.support, signature.support)
    np.testing.assert_allclose(again.detail, signature.detail, atol=0.126)
    np.testing.assert_allclose(again.outline, signature.outline, atol=0.01)


def test_a_signature_has_no_units_and_no_offset():
    """The offset of the whole volume moves the background along."""
    reference = volume_signature(textured(), SIZE)
    for changed in (textured() * 298.0, textured() + 5.0):
        found = volume_signature(changed, SIZE)
        np.testing.assert_allclose(found.detail, reference.detail, atol=0.01)
        np.testing.assert_allclose(found.outline, reference.outline, atol=1e-6)


def test_masks_and_patches():
    mask = volume_signature((textured() != 0).astype(np.uint8), SIZE)
    assert mask.detail is None
    assert mask.outline is not None
    inside = volume_signature(np.random.default_rng(0).normal(size=SHAPE), SIZE)
    assert inside.outline is None
    assert inside.detail.shape == tuple(int(np.ceil(n * v / GRID_MM)) for n, v in zip(SHAPE, SIZE, strict=True))
    empty = volume_signature(np.zeros(SHAPE), SIZE)
    assert (empty.detail, empty.outline) == (None, None)


def test_a_region_raised_over_noise_is_its_support():
    generator = np.random.default_rng(3)
    inside = textured() != 0
    found = find_support((inside * 0.5 + generator.normal(0, 0.05, SHAPE)).astype(np.float32))
    assert found is not None
    assert (found == inside).mean() > 0.9
    assert find_support(generator.normal(0, 0.05, SHAPE).astype(np.float32)) is None


@pytest.mark.parametrize(
    "damage",
    [
        {"grid_mm": 5.0},
        {"detail": {"shape": [4, 4, 4], "data": "AAAA"}},
        {"detail": {"shape": [10**6, 10**6, 10**6], "data": "eJw="}},
        {"detail": {"shape": [4, 4]}},
        {"outline": "not base64!"},
        {"outline": 3},
    ],
)
def test_damaged_signatures_are_refused(damage):
    with pytest.raises(InputError, match="Fingerprint the volume again"):
        Signature.decode(volume_signature(textured(), SIZE).encode() | damage)


def test_a_bomb_is_not_unpacked():
    """A text that would unpack to far more than its shape says is refused at the first byte too many."""
    encoded = volume_signature(textured(), SIZE).encode()
    small = encoded | {"detail": {"shape": [2, 2, 2], "data": encoded["outline"]}}
    with pytest.raises(InputError, match="do not fill the shape"):
        Signature.decode(small)


def test_series_are_taken_apart(tmp_path):
    write_volume(tmp_path / "s.nii", np.stack([textured(0), textured(1)], axis=-1), voxel_size_mm=SIZE)
    found = fingerprint_file(tmp_path / "s.nii")
    assert [f.name for f in found] == [f"{tmp_path / 's.nii'}[0]", f"{tmp_path / 's.nii'}[1]"]
    assert found[1].content == content_hash(textured(1))


def test_volumes_that_nothing_could_be_compared_with_are_refused(tmp_path):
    """Thumb-sized patches of a truth would otherwise pass as volumes of one's own."""
    write_volume(tmp_path / "patch.nii", np.random.default_rng(0).normal(size=(9, 8, 7)))
    with pytest.raises(InputError, match=r"patch\.nii \(9, 8, 7\) is constant, or too small"):
        fingerprint_folder(tmp_path)
    write_volume(tmp_path / "patch.nii", np.full(SHAPE, 2.0), overwrite=True)
    with pytest.raises(InputError, match="is constant"):
        fingerprint_folder(tmp_path)


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1e30])
def test_the_unit_may_be_any(factor):
    noisy = np.pad(textured(), 5)
    noisy = noisy + np.random.default_rng(2).normal(0, 1e-5, noisy.shape)
    reference, found = volume_signature(noisy, SIZE), volume_signature(noisy * factor, SIZE)
    np.testing.assert_allclose(found.detail, reference.detail, atol=0.05)
    np.testing.assert_allclose(found.outline, reference.outline, atol=0.01)


def in_a_ball(values):
    """Ripples that died away before the faces, as those of splines do at full size: what is left of them does not fill a box."""
    distance = np.sqrt(sum(((i - n / 2) / n) ** 2 for i, n in zip(np.indices(values.shape), values.shape, strict=True)))
    return values + np.where(distance < 0.6, np.random.default_rng(4).normal(0, 1e-6, values.shape), 0)


@pytest.mark.parametrize(
    "disguise", [lambda v: v + np.random.default_rng(4).normal(0, 1e-6, v.shape), lambda v: ndimage.shift(v, 0.01), in_a_ball, lambda v: v]
)
def test_a_background_may_be_almost_constant(disguise):
    """Weak noise or the ripples of an interpolation, also where zeros surround them."""
    inside = np.pad(textured() != 0, 9)
    found = find_support(np.pad(disguise(np.pad(textured(), 6)), 3).astype(np.float32))
    assert found[inside].all()
    assert found.sum() < 2 * inside.sum()


def test_folders_are_read_with_their_sub_folders(tmp_path):
    (tmp_path / "deep").mkdir()
    write_volume(tmp_path / "deep" / "a.nii.gz", textured())
    assert [f.name for f in fingerprint_folder(tmp_path)] == ["deep/a.nii.gz"]


def test_bad_folders_and_files_are_named(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        fingerprint_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no \.nii"):
        fingerprint_folder(tmp_path)
    (tmp_path / "a.nii").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.nii is empty"):
        fingerprint_folder(tmp_path)
    with pytest.raises(InputError, match="three axes"):
        volume_signature(np.zeros((3, 3)), SIZE)
    with pytest.raises(InputError, match="no head"):
        volume_signature(textured(), (100.0, 100.0, 100.0))
