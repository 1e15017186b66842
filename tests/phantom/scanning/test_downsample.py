"""Labels on coarser grids, and what training leaves out of a scan."""

import torch

from qsmdl.phantom.anatomy.head import draw_head, render_head
from qsmdl.phantom.scanning.acquire import Acquisition, _support, acquire
from qsmdl.phantom.scanning.downsample import coarse_labels, nearest_labels, overlap_matrix
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
