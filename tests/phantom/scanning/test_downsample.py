"""Labels on coarser grids, and what training leaves out of a scan."""

import pytest
import torch

from qsmdl.phantom.anatomy.head import draw_head, render_head
from qsmdl.phantom.scanning.acquire import Acquisition, _support, acquire
from qsmdl.phantom.scanning.downsample import coarse_geometry, coarse_labels, coarse_mask, nearest_labels, overlap_matrix
from qsmdl.scan import LABELS, Geometry

FINE, SHAPE = (31, 40, 36), (20, 25, 24)


def patches(generator):
    """Random labels in blocks, so that majorities exist."""
    coarse = torch.randint(1, 17, (8, 10, 9), generator=generator, dtype=torch.uint8)
    return coarse.repeat_interleave(4, 0).repeat_interleave(4, 1).repeat_interleave(4, 2)[: FINE[0], : FINE[1], : FINE[2]]


def test_majorities_against_every_share(generator):
    labels = patches(generator)
    x, y, z = (overlap_matrix(n, m).double() for n, m in zip(FINE, SHAPE, strict=True))
    favoured = torch.ones(17, dtype=torch.float64)
    favoured[LABELS["blood"]], favoured[LABELS["calcification"]] = 1.6, 1.2
    each = torch.stack([(labels == label).double() for label in range(17)])
    shares = torch.einsum("ai,bj,ck,lijk->labc", x, y, z, each) * favoured[:, None, None, None]
    first, second = shares.topk(2, dim=0).values
    clear = first - second > 1e-6
    assert float(clear.float().mean()) > 0.7
    assert torch.equal(coarse_labels(labels, SHAPE)[clear], shares.argmax(0).to(torch.uint8)[clear])


def test_nearest_labels_lie_where_the_voxels_do(generator):
    labels = patches(generator)
    assert torch.equal(nearest_labels(labels, FINE), labels)
    found = nearest_labels(labels, SHAPE)
    for i, j, k in ((0, 0, 0), (7, 13, 20), (19, 24, 23)):
        at = tuple(round(index * n / m) for index, n, m in zip((i, j, k), FINE, SHAPE, strict=True))
        assert found[i, j, k] == labels[at]


def test_training_leaves_out_what_it_does_not_look_at():
    phantom = render_head(draw_head(3, contrast="sim2"), Geometry((48, 60, 59), (3.42, 3.42, 3.48)))
    acquisition = Acquisition(peak_snr=100.0)
    whole, known = acquire(phantom, acquisition, torch.Generator().manual_seed(1))
    bare, target = acquire(phantom, acquisition, torch.Generator().manual_seed(1), complete=False)
    assert torch.equal(whole.phase_rad, bare.phase_rad)
    assert torch.equal(known.chi_ppm, target.chi_ppm)
    assert whole.frequency_ppm is not None
    assert bare.frequency_ppm is None
    assert 0.7 < float((known.labels == target.labels)[known.mask].float().mean()) < 1


def test_the_support_is_the_mask_grown_by_a_cube(generator):
    mask = torch.rand((9, 11, 8), generator=generator) > 0.985
    grown = torch.nn.functional.max_pool3d(mask[None, None].float(), 5, stride=1, padding=2)[0, 0] > 0
    assert bool(grown.any())
    assert torch.equal(_support(mask), grown)


def test_coarse_masks_and_labels() -> None:
    shares = overlap_matrix(10, 4)
    assert torch.allclose(shares.sum(1), torch.ones(4))
    assert torch.allclose(shares[1], torch.tensor([0, 0.1, 0.4, 0.4, 0.1, 0, 0, 0, 0, 0]), atol=1e-6)
    labels = torch.full((12, 10, 14), LABELS["white_matter"], dtype=torch.uint8)
    labels[6:] = LABELS["grey_matter"]
    labels[:, 5, 7] = LABELS["calcification"]
    labels[:, 3:5] = LABELS["blood"]
    coarse = coarse_labels(labels, (6, 5, 7))
    assert set(coarse.unique().tolist()) == {LABELS["white_matter"], LABELS["grey_matter"], LABELS["blood"]}
    assert int((coarse == LABELS["blood"]).sum()) >= 6 * 7
    mask = coarse_mask(labels == LABELS["white_matter"], (6, 5, 7))
    assert mask.dtype == torch.bool
    assert bool(mask[0, 0].all())
    assert not bool(mask[4:].any())


def test_coarse_geometry_keeps_field_of_view_and_direction() -> None:
    import numpy as np

    affine = np.array([[0, 2.0, 0, 5], [1.0, 0, 0, 6], [0, 0, 3.0, 7], [0, 0, 0, 1]])
    fine = Geometry((10, 12, 14), (1.0, 2.0, 3.0), (0.6, 0.0, 0.8), 3.0, affine)
    coarse = coarse_geometry(fine, (5, 6, 10))
    assert coarse.field_of_view_mm == pytest.approx(fine.field_of_view_mm)
    assert coarse.b0_direction == fine.b0_direction
    assert coarse.b0_tesla == 3.0
    assert coarse.affine is not None
    assert np.allclose(np.linalg.norm(coarse.affine[:3, :3], axis=0), coarse.voxel_size_mm)
    assert np.allclose(coarse.affine[:3, 3], affine[:3, 3])
