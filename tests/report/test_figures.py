import errno
import os

import numpy as np
import pytest
import torch
from matplotlib import image as mpl_image

from qsmdl.errors import InputError
from qsmdl.report.figures import View, montage

SHAPE = (21, 18, 12)
VOXEL_MM = (1.0, 1.2, 2.0)


@pytest.fixture
def head():
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    return mask, 0.1 * np.sin(3 * x + y) * mask


def brightness(path):
    return mpl_image.imread(path)[..., :3]


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_blind_scan_with_one_method(tmp_path, head, suffix):
    mask, chi = head
    montage(tmp_path / f"m.{suffix}", {"tkd": chi}, mask=mask, voxel_size_mm=VOXEL_MM)
    assert [p.name for p in tmp_path.iterdir()] == [f"m.{suffix}"]
    assert (tmp_path / f"m.{suffix}").stat().st_size > 3000


def test_truth_adds_a_column_and_a_block_of_errors(tmp_path, head):
    mask, chi = head
    montage(tmp_path / "blind.png", {"a": chi}, mask=mask, voxel_size_mm=VOXEL_MM)
    montage(tmp_path / "open.png", {"a": 0.8 * chi}, truth=chi, mask=mask, voxel_size_mm=VOXEL_MM)
    blind, full = brightness(tmp_path / "blind.png").shape, brightness(tmp_path / "open.png").shape
    assert full[1] > 1.4 * blind[1]
    assert full[0] > 1.7 * blind[0]


def test_tensors_long_names_dollars_and_a_method_called_truth(tmp_path, head):
    mask, chi = head
    maps = {"truth": torch.from_numpy(chi), "a very long name of a method that must be wrapped": chi, "$x_$ [b]": chi, "": chi}
    montage(tmp_path / "m.png", maps, truth=torch.from_numpy(chi), mask=torch.from_numpy(mask), voxel_size_mm=VOXEL_MM)
    montage(tmp_path / "n.png", {"one": chi}, truth=chi, mask=mask, voxel_size_mm=VOXEL_MM)
    # truth and four maps, the one that shares its name included
    assert brightness(tmp_path / "m.png").shape[1] > 2 * brightness(tmp_path / "n.png").shape[1]


def magenta(path):
    return int((np.abs(brightness(path) - np.array([1.0, 0.0, 1.0])).max(axis=-1) < 0.02).sum())


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_invalid_values_are_visible_inside_the_mask_and_harmless_outside(tmp_path, head, value):
    mask, chi = head
    montage(tmp_path / "outside.png", {"a": np.where(mask, chi, value)}, truth=chi, mask=mask, voxel_size_mm=VOXEL_MM)
    assert magenta(tmp_path / "outside.png") == 0
    spoiled = chi.copy()
    spoiled[10, 9, 6] = value
    montage(tmp_path / "inside.png", {"a": spoiled}, truth=chi, mask=mask, voxel_size_mm=VOXEL_MM, slices=(10, 9, 6))
    assert magenta(tmp_path / "inside.png") > 50
    montage(tmp_path / "all.png", {"a": np.full(SHAPE, value)}, truth=chi, mask=mask, voxel_size_mm=VOXEL_MM)


def test_the_window_clips(tmp_path, head):
    mask, _ = head
    for name, value in (("low", 0.5), ("high", 5.0)):
        montage(tmp_path / f"{name}.png", {"a": value * mask}, mask=mask, voxel_size_mm=VOXEL_MM, window_ppm=0.25)
    np.testing.assert_array_equal(brightness(tmp_path / "low.png"), brightness(tmp_path / "high.png"))


def views(mask, affine):
    return View(mask, VOXEL_MM, affine, (4, 12, 7))


def test_slices_are_radiological_and_in_proportion():
    full = np.ones(SHAPE, bool)
    x, y, z = np.meshgrid(*[np.arange(n, dtype=float) for n in SHAPE], indexing="ij")
    view = views(full, None)
    axial_x, axial_y = view.cut(x, 2), view.cut(y, 2)
    assert axial_x[0, 0] == SHAPE[0] - 1  # right, the high index, is on the left
    assert axial_y[0, 0] == SHAPE[1] - 1  # anterior is on top
    assert view.cut(z, 1)[0, 0] == SHAPE[2] - 1  # superior is on top
    assert view.cut(y, 0)[0, 0] == SHAPE[1] - 1  # anterior is on the left
    assert np.all(view.cut(z, 2) == 7)
    assert np.all(view.cut(y, 1) == 12)
    assert np.all(view.cut(x, 0) == 4)
    assert view.size_mm(2) == pytest.approx((21.0, 21.6))
    assert view.size_mm(1) == pytest.approx((21.0, 24.0))
    assert view.size_mm(0) == pytest.approx((21.6, 24.0))


def test_the_affine_decides_where_right_is():
    x, _, z = np.meshgrid(*[np.arange(n, dtype=float) for n in SHAPE], indexing="ij")
    full = np.ones(SHAPE, bool)
    left_handed = views(full, np.diag([-1, 1.2, 2, 1.0]))
    assert left_handed.cut(x, 2)[0, 0] == 0
    assert np.all(left_handed.cut(x, 0) == 4)
    sagittal_first = views(full, np.array([[0, 0, 2, 0], [1, 0, 0, 0], [0, 1.2, 0, 0], [0, 0, 0, 1.0]]))  # axes: anterior, superior, right
    assert np.all(sagittal_first.cut(z, 0) == 7)
    assert sagittal_first.size_mm(0) == pytest.approx((21.0, 21.6))
    assert sagittal_first.cut(x, 0)[0, 0] == SHAPE[0] - 1


def test_errors_name_what_is_wrong(tmp_path, head):
    mask, chi = head

    def draw(name="m.png", maps=None, **changes):
        settings = {"mask": mask, "voxel_size_mm": VOXEL_MM} | changes
        montage(tmp_path / name, {"a": chi} if maps is None else maps, **settings)

    with pytest.raises(InputError, match=r"m\.bmp does not end in"):
        draw("m.bmp")
    with pytest.raises(InputError, match="no maps"):
        draw(maps={})
    with pytest.raises(InputError, match=r"map 'b' has the shape \(20, 18, 12\)"):
        draw(maps={"b": chi[1:]})
    with pytest.raises(InputError, match=r"map 'truth' has the shape"):
        draw(truth=chi[1:])
    with pytest.raises(InputError, match="0 voxels inside"):
        draw(mask=np.zeros(SHAPE))
    with pytest.raises(InputError, match="window_ppm is 0"):
        draw(window_ppm=0)
    with pytest.raises(InputError, match="slices is"):
        draw(slices=(4, 18, 3))
    assert list(tmp_path.iterdir()) == []
    draw()
    with pytest.raises(InputError, match="--overwrite"):
        draw()
    draw(overwrite=True)


def test_full_disk_leaves_no_figure(tmp_path, head, monkeypatch):
    def no_space(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    mask, chi = head
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(InputError, match=r"m\.png could not be written: No space left"):
        montage(tmp_path / "m.png", {"a": chi}, mask=mask, voxel_size_mm=VOXEL_MM)
    assert list(tmp_path.iterdir()) == []
