"""Lesions: drawn within their ranges, kept in volume and moment on every grid, one switch for each kind."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.sampling import Axes
from qsmdl.phantom.inclusions.blobs import blob_centres, blob_layers, lesion_layers
from qsmdl.phantom.inclusions.lesions import IRON_R2STAR_PER_PPM, Blob, BlobRanges, LesionParams, LesionRanges, draw_lesions, laden_with_iron
from qsmdl.phantom.inclusions.overlay import Layer, lay
from qsmdl.phantom.tissue.contrast import base_contrast
from qsmdl.phantom.tissue.maps import Maps
from qsmdl.scan import LABELS
from qsmdl.validation import from_settings

KINDS = ("calcification", "haemorrhage", "microbleed")


def _axes(extent_mm: float, voxel_mm: float) -> Axes:
    n = round(extent_mm / voxel_mm)
    axis = (torch.arange(n) - n / 2) * voxel_mm
    return axis, axis, axis


def _egg(axes: Axes) -> Tensor:
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return (x / 15) ** 2 + (y / 18) ** 2 + (z / 14) ** 2 < 1


def _ranges(*on: str) -> LesionRanges:
    return from_settings("lesions", LesionRanges, {kind: {"probability": 1.0} for kind in on})


def _ball(radius_mm: float = 3.0, **changes: object) -> Blob:
    lobe, stretch, turn = (0.0, 0.0, 0.0, radius_mm), (1.25, 0.8, 1.0), (20.0, -35.0, 50.0)
    blob = Blob("haemorrhage", (0.5, 0.5, 0.5), "anywhere", 4, (lobe,), stretch, turn, 0.0, 1.5, 0.8, 300.0, 0.2)
    return replace(blob, **changes)  # type: ignore[arg-type]


def _moment(layers: list[Layer], axes: Axes) -> float:
    """Integral of chi over what is laid into nothing, in ppm mm^3."""
    shape = (len(axes[0]), len(axes[1]), len(axes[2]))
    maps = Maps(*(torch.zeros(shape) for _ in range(4)))
    lay(maps, torch.zeros(shape, dtype=torch.uint8), layers)
    return float(maps.chi_ppm.double().sum()) * math.prod(float(a[1] - a[0]) for a in axes)


@pytest.mark.parametrize("radius_mm", [0.5, 1.5, 6.0])
@pytest.mark.parametrize("voxel_mm", [0.5, 1.0, 2.0])
def test_a_stretched_ball_has_the_moment_of_its_volume(radius_mm: float, voxel_mm: float) -> None:
    axes = _axes(24, voxel_mm)
    for centre in ((0.0, 0.0, 0.0), (0.27, -0.41, 0.73)):
        moment = _moment(blob_layers(_ball(radius_mm), centre, axes, 0.7), axes)
        assert moment == pytest.approx(1.5 * 4 / 3 * math.pi * radius_mm**3, rel=0.01), centre


def test_a_rim_is_a_shell_of_its_own_chi() -> None:
    axes = _axes(20, 0.5)
    blob = _ball(5.0, stretch=(1.0, 1.0, 1.0), rim_mm=1.5, rim_chi_ppm=3.0)
    ball, core = (4 / 3 * math.pi * r**3 for r in (5.0, 3.5))
    assert _moment(blob_layers(blob, (0.0, 0.0, 0.0), axes, 0.7), axes) == pytest.approx(3.0 * (ball - core) + 1.5 * core, rel=0.01)


def test_lobulated_rough_lesions_are_the_same_on_every_grid() -> None:
    for seed in range(3):
        params = draw_lesions(_ranges(*KINDS), np.random.default_rng(seed))
        assert params is not None
        blobs = [replace(blob, site="anywhere") for blob in params.blobs]
        fine, coarse = _axes(64, 0.5), _axes(64, 1.0)
        for blob in sorted(blobs, key=lambda b: b.lobes[0][3])[-3:]:
            moments = [_moment(blob_layers(blob, (0.4, -0.3, 0.2), axes, 0.7), axes) for axes in (fine, coarse)]
            assert moments[0] == pytest.approx(moments[1], rel=0.01)
        # Voxel for voxel, on grids whose voxels nest.
        shares = []
        for voxel_mm in (0.5, 1.0):
            n = round(64 / voxel_mm)
            axis = (torch.arange(n) + 0.5) * voxel_mm - 32
            layer, *_ = blob_layers(blobs[0], (0.4, -0.3, 0.2), (axis, axis, axis), 0.7)
            volume = torch.zeros(n, n, n)
            volume[layer.box] = layer.fraction
            shares.append(volume.reshape(64, n // 64, 64, n // 64, 64, n // 64).mean((1, 3, 5)))
        assert float((shares[0] - shares[1]).abs().max()) < 0.03


def test_roughness_and_lobes_change_the_shape() -> None:
    axes = _axes(16, 0.5)
    plain, rough, other = (
        blob_layers(blob, (0.0, 0.0, 0.0), axes, 0.7)[0] for blob in (_ball(), _ball(roughness=0.2), _ball(roughness=0.2, seed=5))
    )
    sizes = [float(layer.fraction.sum()) for layer in (plain, rough, other)]
    assert len({round(s, 1) for s in sizes}) == 3
    lobed = blob_layers(_ball(lobes=((0.0, 0.0, 0.0, 3.0), (2.5, 0.0, 0.0, 2.0))), (0.0, 0.0, 0.0), axes, 0.7)[0]
    assert float(lobed.fraction.sum()) > 1.1 * sizes[0]


def test_lesions_lie_in_the_mask_dark_and_labelled() -> None:
    axes = _axes(40, 1.0)
    mask = _egg(axes)
    params = draw_lesions(_ranges(*KINDS), np.random.default_rng(3))
    assert params is not None
    maps = Maps(torch.zeros(mask.shape), torch.ones(mask.shape), torch.full(mask.shape, 40.0), torch.full(mask.shape, 0.7))
    labels = torch.full(mask.shape, LABELS["white_matter"], dtype=torch.uint8)
    lay(maps, labels, lesion_layers(params, axes, mask), mask)
    assert float(maps.chi_ppm[~mask].abs().max()) == 0
    core = (labels == LABELS["blood"]) & (maps.chi_ppm > 0.25)
    assert bool(core.any())
    assert float(maps.m0[maps.r2star_per_s > 150].min()) <= 0.3 * 0.7
    assert {LABELS["blood"], LABELS["calcification"]} <= set(labels.unique().tolist())


def test_places_do_not_depend_on_the_grid() -> None:
    params = draw_lesions(_ranges("microbleed"), np.random.default_rng(11))
    assert params is not None
    centres = [torch.tensor(blob_centres(params, axes, _egg(axes))) for axes in (_axes(40, 0.5), _axes(40, 1.0))]
    assert float((centres[0] - centres[1]).norm(dim=-1).median()) < 0.05


def test_sites_are_sought_in_their_labels() -> None:
    axes = _axes(40, 1.0)
    mask = _egg(axes)
    labels = torch.full(mask.shape, LABELS["white_matter"], dtype=torch.uint8)
    labels[10:14, 18:22, 20:24] = LABELS["putamen"]
    params = LesionParams(tuple(_ball(site="deep", place=(0.1 * i, 0.05 * i, 0.07 * i)) for i in range(9)))
    for x, y, z in blob_centres(params, axes, mask, labels):
        assert labels[round(x + 20), round(y + 20), round(z + 20)] == LABELS["putamen"]
    # Nothing of the kind: anywhere in the mask.
    assert blob_centres(params, axes, mask, torch.zeros_like(labels)) == blob_centres(params, axes, mask)


def test_drawn_values_cover_their_ranges() -> None:
    ranges = _ranges(*KINDS)
    drawn = [params for seed in range(150) if (params := draw_lesions(ranges, np.random.default_rng(seed)))]
    for kind in KINDS:
        wanted: BlobRanges = getattr(ranges, kind)
        counts = [sum(blob.kind == kind for blob in params.blobs) for params in drawn]
        blobs = [blob for params in drawn for blob in params.blobs if blob.kind == kind]
        assert (min(counts), max(counts)) == wanted.count
        # Of the mild and the ordinary.
        chi = [blob.chi_ppm for blob in blobs if wanted.chi_ppm[0] <= blob.chi_ppm <= wanted.chi_ppm[1]]
        mild = [blob.chi_ppm for blob in blobs if wanted.mild_chi_ppm[0] <= blob.chi_ppm <= wanted.mild_chi_ppm[1]]
        assert len(chi) + len(mild) == len(blobs)
        assert len(mild) / len(blobs) == pytest.approx(wanted.mild_share, abs=0.1)
        assert sum(blob.rim_mm > 0 for blob in blobs) / len(blobs) == pytest.approx(wanted.rim_share, abs=0.1)
        for values, (low, high) in (
            (chi, wanted.chi_ppm),
            ([blob.lobes[0][3] for blob in blobs], wanted.radius_mm),
            ([blob.m0 for blob in blobs], wanted.m0),
            ([blob.r2star_per_s for blob in blobs], wanted.r2star_per_s),
            ([blob.roughness for blob in blobs], wanted.roughness),
        ):
            assert low <= min(values) < low + 0.1 * (high - low)
            assert high - 0.1 * (high - low) < max(values) <= high
        assert {blob.site for blob in blobs} == set(wanted.sites)
        assert all(math.prod(blob.stretch) == pytest.approx(1) for blob in blobs)


def test_one_switch_for_each_kind_and_none_by_default() -> None:
    assert draw_lesions(LesionRanges(), np.random.default_rng(0)) is None
    every = draw_lesions(_ranges(*KINDS, "iron"), np.random.default_rng(5))
    assert every is not None
    assert len(every.iron_factor) == 7
    assert all(1 <= factor <= 2 for factor in every.iron_factor)
    for kind in KINDS:
        one = draw_lesions(_ranges(kind), np.random.default_rng(5))
        assert one is not None
        assert one.iron_factor == ()
        assert one.blobs == tuple(blob for blob in every.blobs if blob.kind == kind)
    seldom = from_settings("lesions", LesionRanges, {"microbleed": {"probability": 0.3}})
    often = [draw_lesions(seldom, np.random.default_rng(s)) is not None for s in range(200)]
    assert 0.2 < sum(often) / 200 < 0.4


def test_same_seed_same_lesions_and_they_travel_as_plain_numbers() -> None:
    ranges = _ranges(*KINDS, "iron")
    first, again, other = (draw_lesions(ranges, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first is not None
    assert first == again != other
    assert LesionParams.from_dict(json.loads(json.dumps(first.as_dict()))) == first
    axes = _axes(40, 2.0)
    one, two = (lesion_layers(params, axes, _egg(axes)) for params in (first, again) if params)
    assert all(torch.equal(a.fraction, b.fraction) and a.tissue == b.tissue for a, b in zip(one, two, strict=True))


def test_iron_raises_chi_and_r2star_of_the_nuclei_only() -> None:
    table = base_contrast("sim1")
    laden = laden_with_iron(table, (2.0, 1.0, 1.5, 1.0, 1.0, 1.0, 1.0))
    caudate, putamen = LABELS["caudate"], LABELS["putamen"]
    assert laden.chi_ppm[caudate] == pytest.approx(2 * table.chi_ppm[caudate])
    assert laden.chi_ppm[putamen] == pytest.approx(1.5 * table.chi_ppm[putamen])
    assert laden.r2star_per_s[caudate] == pytest.approx(table.r2star_per_s[caudate] + IRON_R2STAR_PER_PPM * table.chi_ppm[caudate])
    others = [label for label in range(17) if label not in (caudate, putamen)]
    assert all(laden.chi_ppm[i] == table.chi_ppm[i] and laden.r2star_per_s[i] == table.r2star_per_s[i] for i in others)
    assert laden_with_iron(table, (1.0,) * 7) == table


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [
        ("calcification", "probability", 1.5),
        ("calcification", "count", (0, 3)),
        ("haemorrhage", "radius_mm", (5, 2)),
        ("haemorrhage", "lobes", (0, 1)),
        ("microbleed", "stretch", (0.5, 1)),
        ("microbleed", "roughness", (0, 0.9)),
        ("calcification", "chi_ppm", (-30, -1)),
        ("calcification", "mild_chi_ppm", (float("nan"), 0)),
        ("calcification", "mild_share", -0.1),
        ("haemorrhage", "r1_per_s", (0, 1)),
        ("haemorrhage", "r2star_per_s", (-5, 100)),
        ("haemorrhage", "m0", (-0.1, 0.3)),
        ("haemorrhage", "rim_share", 2),
        ("haemorrhage", "rim_mm", (-1, 1)),
        ("haemorrhage", "rim_factor", (2, 1)),
        ("microbleed", "sites", ("moon",)),
        ("microbleed", "sites", ()),
        ("microbleed", "colour", "red"),
        ("iron", "factor", (-1, 2)),
        ("iron", "probability", -1),
    ],
)
def test_bad_settings_are_named(kind: str, setting: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"lesions\.{kind}.*{setting}"):
        from_settings("lesions", LesionRanges, {kind: {setting: value}})


def test_bad_requests_are_refused() -> None:
    axes = _axes(8, 1.0)
    params = LesionParams((_ball(),))
    with pytest.raises(InputError, match="mask is empty"):
        lesion_layers(params, axes, torch.zeros(8, 8, 8, dtype=torch.bool))
    with pytest.raises(InputError, match="m0 is -1"):
        lesion_layers(params, axes, torch.ones(8, 8, 8, dtype=torch.bool), m0=-1.0)
    with pytest.raises(InputError, match="iron_factor has 2 entries"):
        laden_with_iron(base_contrast("sim1"), (1.0, 2.0))
