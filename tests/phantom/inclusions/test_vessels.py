"""Blood by oxygenation, vessel trees for any mask, and the style of a head's veins."""

import json
import math
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.phantom.anatomy.cortex import Folding, make_folding
from qsmdl.phantom.anatomy.envelope import Envelope, make_envelope
from qsmdl.phantom.anatomy.params import HeadParams, draw_head
from qsmdl.phantom.anatomy.veins import VeinStyle, VeinStyleRanges, draw_vein_style, grow_vessels
from qsmdl.phantom.drawing.sampling import Axes
from qsmdl.phantom.inclusions.overlay import lay
from qsmdl.phantom.inclusions.trees import VesselParams, VesselRanges, draw_vessels, grow_tree, vessel_layers
from qsmdl.phantom.inclusions.tubes import Tubes
from qsmdl.phantom.tissue.blood import CHI_DO_PPM, BloodParams, BloodRanges, blood_chi_ppm, blood_r2star_per_s, draw_blood
from qsmdl.phantom.tissue.maps import Maps
from qsmdl.validation import from_settings

BLOOD = BloodParams(0.65, 0.98, 0.42, CHI_DO_PPM, 0.5, 1.1, 1.0)


def test_susceptibility_of_blood_against_published_values() -> None:
    """Jain et al. 2012: 0.273 ppm (cgs) between deoxygenated and oxygenated red cells, -0.008 ppm between oxygenated ones and water."""
    assert blood_chi_ppm(0.0, 1.0) - blood_chi_ppm(1.0, 1.0) == pytest.approx(4 * math.pi * 0.273)
    assert blood_chi_ppm(0.65, 0.4) == pytest.approx(4 * math.pi * 0.4 * (0.273 * 0.35 - 0.008))
    assert 0.4 < blood_chi_ppm(0.65, 0.4) < 0.46
    assert blood_chi_ppm(0.7, 0.4, 4 * math.pi * 0.18) == pytest.approx(0.231, abs=0.002)  # Weisskoff and Kiihne 1992
    assert -0.04 < blood_chi_ppm(0.98, 0.42) < 0


def test_relaxation_of_blood_follows_oxygenation_and_field() -> None:
    assert blood_r2star_per_s(0.6, 0.44, 3.0) == pytest.approx(14.9 * 0.44 + 14.7 + (302.1 * 0.44 + 41.8) * 0.16)
    rates = [blood_r2star_per_s(0.65, 0.42, tesla) for tesla in (1.5, 3.0, 7.0)]
    assert rates == sorted(rates)
    assert 1000 / rates[2] == pytest.approx(10, abs=1.0)
    for tesla in (1.5, 7.0):
        venous, arterial = (BLOOD.tissue(tesla, arterial=a, m0=0.7) for a in (False, True))
        assert arterial.r2star_per_s < venous.r2star_per_s
        assert arterial.chi_ppm < 0 < venous.chi_ppm
        assert venous.m0 == pytest.approx(0.77)


def test_blood_is_drawn_within_its_ranges_or_not_at_all() -> None:
    assert all(draw_blood(BloodRanges(), np.random.default_rng(seed)) is None for seed in range(5))
    ranges = BloodRanges(probability=1.0)
    drawn = [draw_blood(ranges, np.random.default_rng(seed)) for seed in range(200)]
    for name in BloodParams.__dataclass_fields__:
        low, high = getattr(ranges, name)
        values = [getattr(blood, name) for blood in drawn]
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high
    chi = [blood.tissue(7.0).chi_ppm for blood in drawn if blood]
    assert 0.1 < min(chi) < 0.19
    assert 0.45 < max(chi) < 0.7


def _axes(extent_mm: float, voxel_mm: float) -> Axes:
    n = round(extent_mm / voxel_mm)
    axis = (torch.arange(n) - n / 2) * voxel_mm
    return axis, axis, axis


def _egg(axes: Axes) -> Tensor:
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return (x / 30) ** 2 + (y / 36) ** 2 + (z / 27) ** 2 < 1


@cache
def _params(seed: int = 1) -> VesselParams:
    params = draw_vessels(VesselRanges(probability=1.0, count=(6, 8), generations=(4, 4)), np.random.default_rng(seed))
    assert params is not None
    return params


@cache
def _tree(seed: int = 1, voxel_mm: float = 2.0) -> list[Tubes]:
    axes = _axes(80, voxel_mm)
    return grow_tree(_params(seed), _egg(axes), axes)


def test_murrays_law_at_every_fork() -> None:
    tubes = _tree()
    assert [len(t.radii_mm) for t in tubes] == [len(_params().places) * 2**g for g in range(5)]
    for parents, children in pairwise(tubes):
        cubes = children.radii_mm[:, 0] ** 3
        assert torch.allclose(cubes[0::2] + cubes[1::2], parents.radii_mm[:, -1] ** 3, rtol=1e-4)
        assert bool((cubes[0::2] >= cubes[1::2] * 0.999).all())
        for side in (0, 1):
            assert torch.equal(children.points_mm[side::2, 0], parents.points_mm[:, -1])


def test_branches_leave_by_the_angles_of_least_work() -> None:
    """Murray 1926, for equal branches: cos(angle) = (r0^4 + r1^4 - r2^4) / (2 r0^2 r1^2) = 0.794, 37.5 degrees."""
    params = replace(_params(), asymmetry=0.5, tortuosity_rad=0.0, generations=1, places=((0.5, 0.5, 0.5),), radius_mm=(0.5,), arterial=(False,))
    axes = _axes(80, 2.0)
    root, pair = grow_tree(params, torch.ones(40, 40, 40, dtype=torch.bool), axes)
    ahead = torch.nn.functional.normalize(root.points_mm[0, -1] - root.points_mm[0, -2], dim=0)
    away = torch.nn.functional.normalize(pair.points_mm[:, 1] - pair.points_mm[:, 0], dim=1)
    assert torch.allclose(away @ ahead, torch.full((2,), 2 ** (-1 / 3)), atol=1e-3)


def test_trees_stay_inside_and_branches_have_their_length() -> None:
    tubes, params = _tree(), _params()
    points = torch.cat([t.points_mm.reshape(-1, 3) for t in tubes])
    level = (points / torch.tensor([30.0, 36.0, 27.0])).square().sum(1)
    assert float((level < 1).float().mean()) > 0.98
    assert float(level.max()) < 1.2
    root = tubes[0]
    lengths = (root.points_mm[:, 1:] - root.points_mm[:, :-1]).norm(dim=-1).sum(1)
    ratio = lengths / root.radii_mm[:, 0] / params.length_ratio
    assert 0.4 < float(ratio.min()) < float(ratio.max()) < 1.6


def test_trees_are_the_same_in_mm_on_every_grid() -> None:
    fine, coarse = (torch.cat([t.points_mm.reshape(-1, 3) for t in _tree(1, voxel_mm)]) for voxel_mm in (1.0, 2.0))
    # The middle and the spread of the mask, from which places follow, change by hundredths of a millimetre with its voxels; walks carry that on.
    assert float((fine - coarse).norm(dim=-1).median()) < 0.5


def test_tortuosity_bends() -> None:
    axes = _axes(80, 2.0)
    bends = []
    for tortuosity in (0.0, 0.1, 0.3):
        root = grow_tree(replace(_params(), tortuosity_rad=tortuosity, generations=0), torch.ones(40, 40, 40, dtype=torch.bool), axes)[0]
        chord = (root.points_mm[:, -1] - root.points_mm[:, 0]).norm(dim=-1)
        bends.append(float(((root.points_mm[:, 1:] - root.points_mm[:, :-1]).norm(dim=-1).sum(1) / chord).mean()))
    assert bends[0] < bends[1] < bends[2]


def test_layers_hold_the_volume_of_the_trees_and_arteries_hold_arterial_blood() -> None:
    axes = _axes(80, 1.0)
    mask = _egg(axes)
    params = replace(_params(), bulb_share=0.0, arterial=tuple(i % 2 == 1 for i in range(len(_params().places))))
    layers = vessel_layers(params, axes, mask, b0_tesla=3.0)
    assert [layer.tissue for layer in layers] == [params.blood.tissue(3.0, arterial=a, m0=0.7) for a in (False, True)]
    tubes = grow_tree(params, mask, axes)
    for odd, layer in enumerate(layers):
        volume = 0.0
        for t in tubes:
            rows = torch.arange(len(params.places)).repeat_interleave(len(t.radii_mm) // len(params.places)) % 2 == odd
            lengths = (t.points_mm[rows, 1:] - t.points_mm[rows, :-1]).norm(dim=-1).sum(1)
            volume += float((math.pi * t.radii_mm[rows, 0] ** 2 * lengths).sum())
        # Where branches leave, and where walks cross, they share some volume.
        assert float(layer.fraction.double().sum()) == pytest.approx(volume, rel=0.05)
    maps = Maps(*(torch.zeros(mask.shape) for _ in range(4)))
    lay(maps, torch.zeros(mask.shape, dtype=torch.uint8), layers, mask)
    assert float(maps.chi_ppm.max()) == pytest.approx(layers[0].tissue.chi_ppm, rel=0.02)
    assert float(maps.chi_ppm[~mask].abs().max()) == 0


def test_bulbs_swell_the_tips() -> None:
    axes = _axes(80, 1.0)
    mask = _egg(axes)
    sizes = []
    for share in (0.0, 1.0):
        params = replace(_params(), bulb_share=share, bulb_factor=3.0)
        sizes.append(sum(float(layer.fraction.sum()) for layer in vessel_layers(params, axes, mask, b0_tesla=3.0)))
    assert sizes[1] > 1.01 * sizes[0]


def test_drawn_trees_cover_their_ranges_and_travel_as_plain_numbers() -> None:
    assert draw_vessels(VesselRanges(), np.random.default_rng(0)) is None
    ranges = VesselRanges(probability=1.0)
    drawn = [params for seed in range(150) if (params := draw_vessels(ranges, np.random.default_rng(seed)))]
    for name in ("generations", "asymmetry", "length_ratio", "tortuosity_rad", "bulb_share", "bulb_factor"):
        low, high = getattr(ranges, name)
        values = [getattr(params, name) for params in drawn]
        assert low <= min(values) <= low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) <= max(values) <= high
    counts = [len(params.places) for params in drawn]
    assert (min(counts), max(counts)) == ranges.count
    radii = [radius for params in drawn for radius in params.radius_mm]
    assert 0.4 <= min(radii) < 0.41
    assert 1.47 < max(radii) <= 1.5
    assert 0.1 < sum(a for params in drawn for a in params.arterial) / len(radii) < 0.3
    assert VesselParams.from_dict(json.loads(json.dumps(drawn[0].as_dict()))) == drawn[0]
    assert drawn[0] == draw_vessels(ranges, np.random.default_rng(0)) != drawn[1]


def test_same_seed_same_bits() -> None:
    axes = _axes(80, 2.0)
    again = grow_tree(_params(), _egg(axes), axes)
    assert all(torch.equal(a.points_mm, b.points_mm) for a, b in zip(again, _tree(), strict=True))
    other = grow_tree(replace(_params(), seed=5), _egg(axes), axes)
    assert not torch.equal(other[0].points_mm, again[0].points_mm)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("probability", 2.0),
        ("count", (0, 3)),
        ("radius_mm", (0.0, 1.0)),
        ("generations", (2, 12)),
        ("asymmetry", (0.2, 0.8)),
        ("length_ratio", (30.0, 20.0)),
        ("tortuosity_rad", (-0.1, 0.1)),
        ("bulb_share", (0.0, 1.5)),
        ("bulb_factor", (0.5, 2.0)),
        ("artery_share", (0.5, 0.2)),
    ],
)
def test_bad_tree_settings_are_named(setting: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"vessels\.{setting}"):
        VesselRanges(**{setting: value})  # type: ignore[arg-type]


def test_bad_blood_and_masks_are_refused() -> None:
    for name in ("oxygenation", "arterial_oxygenation", "haematocrit", "chi_do_ppm", "r1_per_s", "m0", "r2star_factor"):
        with pytest.raises(InputError, match=rf"blood\.{name}"):
            BloodRanges(**{name: (-0.5, 0.5)})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"blood\.probability"):
        BloodRanges(probability=-1)
    with pytest.raises(InputError, match="veins must not hold more oxygen than arteries"):
        BloodRanges(oxygenation=(0.6, 0.97))
    with pytest.raises(InputError, match="has no setting 'colour'"):
        from_settings("vessels", VesselRanges, {"blood": {"colour": 1}})
    assert from_settings("vessels", VesselRanges, {"blood": {"haematocrit": [0.3, 0.4]}}).blood.haematocrit == (0.3, 0.4)
    axes = _axes(20, 2.0)
    with pytest.raises(InputError, match="mask is empty"):
        grow_tree(_params(), torch.zeros(10, 10, 10, dtype=torch.bool), axes)


@cache
def _head() -> tuple[HeadParams, Envelope, Folding]:
    params = replace(draw_head(3, contrast="sim1"), n_cortical_veins=6, n_deep_veins=5)
    envelope = make_envelope(params)
    return params, envelope, make_folding(params, envelope)


def test_the_usual_style_changes_no_bit_of_a_heads_veins() -> None:
    plain, styled = grow_vessels(*_head()), grow_vessels(*_head(), style=VeinStyle())
    assert len(plain) == len(styled)
    assert all(torch.equal(a.points_mm, b.points_mm) and torch.equal(a.radii_mm, b.radii_mm) for a, b in zip(plain, styled, strict=True))
    assert [draw_vein_style(VeinStyleRanges(), np.random.default_rng(seed)) for seed in range(3)] == [None] * 3


def test_a_style_changes_number_radii_winding_and_tips() -> None:
    plain = grow_vessels(*_head())
    more = grow_vessels(*_head(), style=VeinStyle(count_factor=2.0))
    assert len(more[-4].points_mm) == 2 * len(plain[-4].points_mm)
    wide = grow_vessels(*_head(), style=VeinStyle(radius_factor=1.5))
    assert all(torch.allclose(w.radii_mm, 1.5 * p.radii_mm) and torch.equal(w.points_mm, p.points_mm) for w, p in zip(wide, plain, strict=True))
    straight, winding = (grow_vessels(*_head(), style=VeinStyle(tortuosity_factor=f))[-1].points_mm for f in (0.1, 3.0))
    chord = [float((points[:, -1] - points[:, 0]).norm(dim=-1).mean()) for points in (straight, winding)]
    assert chord[0] > 1.02 * chord[1]
    swollen = grow_vessels(*_head(), style=VeinStyle(bulb_share=1.0, bulb_factor=2.0))
    assert torch.allclose(swollen[-1].radii_mm[:, -1], 2 * plain[-1].radii_mm[:, -1])
    assert torch.equal(swollen[-1].radii_mm[:, :-1], plain[-1].radii_mm[:, :-1])


def test_vein_styles_are_drawn_within_their_ranges_and_checked() -> None:
    ranges = VeinStyleRanges(probability=1.0)
    drawn = [draw_vein_style(ranges, np.random.default_rng(seed)) for seed in range(150)]
    for name in VeinStyle.__dataclass_fields__:
        low, high = getattr(ranges, name)
        values = [getattr(style, name) for style in drawn]
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    for name in VeinStyle.__dataclass_fields__:
        with pytest.raises(InputError, match=rf"veins\.{name}"):
            VeinStyleRanges(**{name: (2.0, 1.0)})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="radius_factor is 0"):
        VeinStyle(radius_factor=0.0)
