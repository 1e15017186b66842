"""Two tissues in one voxel: shares, order of painting, and heads made of them."""

from functools import cache

import pytest
import torch

from qsmdl.phantom.anatomy.head import draw_head, render_head
from qsmdl.phantom.scanning.downsample import cell_average
from qsmdl.phantom.tissue.mosaic import Mosaic
from qsmdl.scan import LABELS, Geometry

SHAPE = (1, 1, 9)


def depth_of_half_space(edge):
    """Voxels 0 ... 8 of 2 mm; inside beyond the edge (mm)."""
    return (torch.arange(9) * 2.0 - edge).reshape(SHAPE)


def empty(partial_volume=True):
    return Mosaic.of(torch.full(SHAPE, 3, dtype=torch.uint8), 2.0, partial_volume=partial_volume)


def test_a_border_through_a_voxel_gives_its_share():
    mosaic = empty()
    mosaic.write(depth_of_half_space(7.5), 5)  # the cell of voxel 4 reaches from 7 to 9 mm: three quarters lie inside
    assert mosaic.share is not None
    assert mosaic.share.flatten().tolist() == [0, 0, 0, 0, 0.75, 0, 0, 0, 0]
    assert mosaic.below.flatten().tolist() == [3, 3, 3, 3, 3, 5, 5, 5, 5]
    assert mosaic.settle().flatten().tolist() == [3, 3, 3, 3, 5, 5, 5, 5, 5]


def test_a_third_tissue_drives_out_the_smaller_of_two():
    mosaic = empty()
    mosaic.write(depth_of_half_space(7.5), 5)
    mosaic.write(depth_of_half_space(8.0), 6)
    assert mosaic.share is not None
    assert mosaic.above is not None
    assert (mosaic.below[0, 0, 4], mosaic.above[0, 0, 4], mosaic.share[0, 0, 4]) == (5, 6, 0.5)


def test_hard_borders_and_permission():
    hard = empty(partial_volume=False)
    allowed = torch.ones(SHAPE, dtype=torch.bool)
    allowed[..., 8] = False
    hard.write(depth_of_half_space(7.5), 5, allowed)
    assert hard.settle().flatten().tolist() == [3, 3, 3, 3, 5, 5, 5, 5, 3]
    soft = empty()
    soft.write(depth_of_half_space(7.5), 5, allowed)
    assert soft.settle().flatten().tolist() == [3, 3, 3, 3, 5, 5, 5, 5, 3]


@pytest.mark.parametrize("partial_volume", [False, True])
def test_a_part_writes_through(partial_volume):
    mosaic = empty(partial_volume)
    mosaic.within((slice(None), slice(None), slice(4, 9))).write(depth_of_half_space(7.5)[..., 4:], 5)
    assert mosaic.settle().flatten().tolist() == [3, 3, 3, 3, 5, 5, 5, 5, 5]


COARSE, FINE = Geometry((48, 60, 59), (3.42, 3.42, 3.48)), Geometry((96, 120, 118), (1.71, 1.71, 1.74))


@cache
def plain_head(geometry, partial_volume):
    return render_head(draw_head(3, contrast="sim2"), geometry, surroundings=False, partial_volume=partial_volume)


def test_shares_come_closer_to_the_finer_head_than_hard_labels():
    """Proton density of a head twice as fine, averaged over the cells of the coarse grid (voxel 0 of both at one place)."""
    fine = plain_head(FINE, True)
    inside = plain_head(COARSE, True).mask
    expected = cell_average(fine.m0 * fine.mask, COARSE.shape)
    deep = inside & (cell_average(fine.mask, COARSE.shape) > 0.999)
    errors = {kind: float((plain_head(COARSE, kind).m0 - expected)[deep].square().mean()) for kind in (False, True)}
    assert errors[True] < 0.8 * errors[False]


def test_without_surroundings_the_brain_is_the_same():
    whole = render_head(draw_head(3, contrast="sim2"), COARSE)
    bare = plain_head(COARSE, False)
    assert torch.equal(whole.mask, bare.mask)
    assert torch.equal(whole.labels[whole.mask], bare.labels[bare.mask])
    assert set(bare.labels[~bare.mask].unique().tolist()) <= {LABELS["air"], LABELS["csf"]}
    # Softened borders see what lies around the brain; deep inside there is no difference.
    eroded = -torch.nn.functional.max_pool3d(-whole.mask[None, None].float(), 5, 1, 2)[0, 0] > 0
    assert float((whole.chi_ppm - bare.chi_ppm)[eroded].abs().max()) < 1e-6


def test_the_scalp_is_not_forgotten():
    bare = plain_head(COARSE, True)
    contrast = draw_head(3, contrast="sim2").contrast
    fat = LABELS["fat"]
    assert bare.brightest == (contrast.m0[fat], contrast.r1_per_s[fat], contrast.r2star_per_s[fat])
    assert render_head(draw_head(3, contrast="sim2"), COARSE).brightest is None
