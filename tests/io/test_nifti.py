import errno
import os
import struct

import nibabel as nib
import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.io.nifti import find_nifti, has_nifti, read_header, read_volume, warn_if_affine_disagrees, write_volume

SHAPE = (7, 6, 5)
OBLIQUE = np.array([[0.9, -0.1, 0.05, -12.5], [0.1, 1.1, -0.2, 3.25], [-0.04, 0.21, 1.9, 40.0], [0, 0, 0, 1.0]])


def save(path, values, affine=OBLIQUE, dtype=np.float32, **header):
    image = nib.Nifti1Image(np.asarray(values).astype(dtype), affine)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


@pytest.fixture
def values():
    return np.random.default_rng(3).standard_normal(SHAPE).astype(np.float32)


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_read_returns_contiguous_float32_and_the_header(tmp_path, values, name):
    path = save(tmp_path / name, values)
    volume, info = read_volume(path, ndim=3)
    assert volume.dtype == torch.float32
    assert volume.is_contiguous()
    np.testing.assert_array_equal(volume.numpy(), values)
    np.testing.assert_allclose(info.voxel_size_mm, np.linalg.norm(OBLIQUE[:3, :3], axis=0), rtol=1e-6)
    np.testing.assert_allclose(info.affine, OBLIQUE, rtol=1e-6)
    assert info.shape == SHAPE
    assert info.path == path
    assert read_header(path).voxel_size_mm == info.voxel_size_mm
    assert torch.equal(read_volume(tmp_path / "v")[0], volume)


def test_scale_factors_are_applied(tmp_path):
    stored = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    path = save(tmp_path / "v.nii", stored, dtype=np.int16)
    content = bytearray(path.read_bytes())
    content[112:120] = struct.pack("<2f", 0.25, -3)  # scl_slope, scl_inter
    path.write_bytes(content)
    np.testing.assert_array_equal(read_volume(path)[0].numpy(), 0.25 * stored - 3)


@pytest.mark.parametrize(("code", "factor"), [(1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0), (7, 1.0)])
def test_spatial_units_of_the_header_count(tmp_path, values, code, factor):
    path = save(tmp_path / "v.nii", values, affine=np.diag([2, 3, 4, 1.0]), xyzt_units=code)
    np.testing.assert_allclose(read_header(path).voxel_size_mm, np.array([2, 3, 4]) * factor, rtol=1e-6)


def test_trailing_axes_of_length_one_are_dropped(tmp_path, values):
    path = save(tmp_path / "v.nii", values[..., None])
    assert tuple(read_volume(path, ndim=3)[0].shape) == SHAPE
    assert tuple(read_volume(path, ndim=4)[0].shape) == (*SHAPE, 1)


def test_either_suffix_is_found_but_not_both(tmp_path, values):
    save(tmp_path / "Mask.nii", values)
    assert find_nifti(tmp_path, "Mask") == tmp_path / "Mask.nii"
    assert has_nifti(tmp_path, "Mask")
    assert not has_nifti(tmp_path, "Phase")
    save(tmp_path / "Mask.nii.gz", values)
    with pytest.raises(InputError, match=r"both Mask\.nii and Mask\.nii\.gz"):
        find_nifti(tmp_path, "Mask")
    with pytest.raises(InputError, match=r"neither Phase\.nii nor Phase\.nii\.gz"):
        find_nifti(tmp_path, "Phase")
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        find_nifti(tmp_path / "nowhere", "Phase")


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.parametrize("kept", [0, 5, 200, 0.6, 0.98])
def test_truncated_files_are_named(tmp_path, values, name, kept):
    path = save(tmp_path / name, values)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(InputError, match=rf"{name}.*(empty|truncated)"):
        read_volume(path)


def test_damaged_compression_is_named(tmp_path, values):
    path = save(tmp_path / "v.nii.gz", values)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"v\.nii\.gz could not be read"):
        read_volume(path)


def test_header_that_promises_more_than_memory_holds_is_named(tmp_path, values):
    path = save(tmp_path / "v.nii", values)
    content = bytearray(path.read_bytes())
    content[40:56] = struct.pack("<8h", 3, 32767, 32767, 32767, 1, 1, 1, 1)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"v\.nii could not be read"):
        read_volume(path)


def test_what_is_no_nifti_is_named(tmp_path):
    (tmp_path / "text.nii").write_text("hello, this is no volume" * 50)
    (tmp_path / "plain.nii.gz").write_text("not compressed")
    (tmp_path / "volume.mgz").write_text("another format")
    for name in ("text.nii", "plain.nii.gz", "volume.mgz"):
        with pytest.raises(InputError, match=name):
            read_volume(tmp_path / name)
    with pytest.raises(InputError, match=r"missing\.nii does not exist"):
        read_volume(tmp_path / "missing.nii")
    with pytest.raises(InputError, match=r"is a folder"):
        read_volume(tmp_path)


def test_wrong_number_of_axes_says_found_and_needed(tmp_path, values):
    path = save(tmp_path / "v.nii", values)
    with pytest.raises(InputError, match=r"v\.nii is 3-D with the shape \(7, 6, 5\) where 4-D \(x, y, z, echo\) is needed"):
        read_volume(path, ndim=4)
    path = save(tmp_path / "w.nii", np.stack([values, values], -1))
    with pytest.raises(InputError, match=r"w\.nii is 4-D with the shape \(7, 6, 5, 2\) where 3-D"):
        read_volume(path, ndim=3)


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_complex_and_colour_values_are_refused(tmp_path, dtype):
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, dtype), np.eye(4)), tmp_path / "v.nii")
    with pytest.raises(InputError, match=r"v\.nii holds values of the type .*real numbers are needed"):
        read_volume(tmp_path / "v.nii")


def test_volume_without_voxels_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 0, 3), np.float32), np.eye(4)), tmp_path / "v.nii")
    with pytest.raises(InputError, match=r"v\.nii has the shape \(4, 0, 3\) and so holds no voxels"):
        read_volume(tmp_path / "v.nii")


def test_values_beyond_float32_become_infinite_without_a_warning(tmp_path):
    path = save(tmp_path / "v.nii", np.full(SHAPE, 1e300), dtype=np.float64)
    assert bool(torch.isinf(read_volume(path)[0]).all())


def test_affine_that_contradicts_pixdim_is_said_aloud(tmp_path, values, caplog):
    image = nib.Nifti1Image(values, np.diag([1, 1, 1, 1.0]))
    image.header.set_zooms((0.64, 0.64, 0.64))
    nib.save(image, tmp_path / "v.nii")
    warn_if_affine_disagrees(read_header(tmp_path / "v.nii"))
    assert "0.64 x 0.64 x 0.64" in caplog.text
    assert "1 x 1 x 1" in caplog.text
    caplog.clear()
    warn_if_affine_disagrees(read_header(save(tmp_path / "w.nii", values)))
    assert caplog.text == ""


GEOMETRY_BYTES = {"pixdim": (76, 92), "xyzt_units": (123, 124), "qform and sform with their codes": (252, 328)}


@pytest.mark.parametrize("codes", [(0, 2), (1, 1), (3, 0), (0, 0)])
@pytest.mark.parametrize("echoes", [None, 3])
def test_geometry_of_the_input_header_is_kept_byte_by_byte(tmp_path, values, codes, echoes):
    rotation = np.array([[0.96, -0.28, 0, -20.0], [0.28, 0.96, 0, 11.0], [0, 0, 1, 7.5], [0, 0, 0, 1]]) @ np.diag([0.8, 1.1, 2.0, 1])
    source = nib.Nifti1Image((values if echoes is None else np.stack([values] * echoes, -1)).astype(np.int16), rotation)
    source.header.set_xyzt_units("mm", "msec")
    source.header.set_slope_inter(0.01, 5)
    source.header["cal_max"], source.header["intent_code"] = 4095, 1002
    nib.save(source, tmp_path / "source.nii")
    content = bytearray((tmp_path / "source.nii").read_bytes())
    content[252:256] = struct.pack("<2h", *codes)
    (tmp_path / "source.nii").write_bytes(content)
    write_volume(tmp_path / "out.nii", torch.from_numpy(values), like=tmp_path / "source.nii")
    before, after = bytes(content[:348]), (tmp_path / "out.nii").read_bytes()[:348]
    for name, (start, stop) in GEOMETRY_BYTES.items():
        assert after[start:stop] == before[start:stop], name
    scl_slope, scl_inter = struct.unpack("<2f", after[112:120])
    assert (scl_slope, scl_inter) == (1.0, 0.0)
    header = nib.load(tmp_path / "out.nii").header
    assert header.get_data_dtype() == np.float32
    assert header["cal_max"] == 0
    assert header["intent_code"] == 0
    np.testing.assert_array_equal(read_volume(tmp_path / "out.nii", ndim=3)[0].numpy(), values)


def test_written_without_a_source_voxel_size_and_affine_agree(tmp_path, values):
    write_volume(tmp_path / "v.nii.gz", values, voxel_size_mm=(0.5, 1.0, 2.0))
    volume, info = read_volume(tmp_path / "v.nii.gz")
    np.testing.assert_array_equal(volume.numpy(), values)
    np.testing.assert_allclose(info.affine, np.diag([0.5, 1, 2, 1]))
    assert info.voxel_size_mm == (0.5, 1.0, 2.0)
    write_volume(tmp_path / "w.nii", values, affine=OBLIQUE, voxel_size_mm=tuple(np.linalg.norm(OBLIQUE[:3, :3], axis=0)))
    np.testing.assert_allclose(read_header(tmp_path / "w.nii").affine, OBLIQUE, rtol=1e-6)


def test_same_volume_same_bytes(tmp_path, values):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(tmp_path / name, values)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_write_refuses_what_it_cannot_write(tmp_path, values):
    with pytest.raises(InputError, match=r"v\.mgz ends neither"):
        write_volume(tmp_path / "v.mgz", values)
    with pytest.raises(InputError, match=r"shape \(6, 5\)"):
        write_volume(tmp_path / "v.nii", values[0])
    source = save(tmp_path / "source.nii", values[:-1])
    with pytest.raises(InputError, match=r"shape \(7, 6, 5\), but .*source\.nii.* has \(6, 6, 5\)"):
        write_volume(tmp_path / "v.nii", values, like=source)
    write_volume(tmp_path / "v.nii", values)
    with pytest.raises(InputError, match="--overwrite"):
        write_volume(tmp_path / "v.nii", values)


def test_full_disk_leaves_no_volume(tmp_path, values, monkeypatch):
    def no_space(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(InputError, match=r"v\.nii\.gz could not be written: No space left on device"):
        write_volume(tmp_path / "v.nii.gz", values)
    assert list(tmp_path.iterdir()) == []
