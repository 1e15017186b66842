"""Phantoms of label maps: places, shares and values against what is known, deformations that never fold, and what is drawn."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.io.label_table import LabelEntry, read_label_table
from qsmdl.phantom.anatomy.deformation import Deformation, DeformationRanges
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas, closest_label
from qsmdl.phantom.anatomy.label_maps import LabelMapParams, LabelMapRanges, LabelRow, draw_label_map, render_label_map
from qsmdl.phantom.drawing.sampling import grid_axes
from qsmdl.phantom.scanning.downsample import cell_average
from qsmdl.scan import LABELS, Geometry, Phantom

STILL = DeformationRanges(flip_probability=0, rotation_deg=(0, 0), scale=(1, 1), offset_mm=(0, 0), warp_probability=0)
GRID = Geometry((36, 40, 38), (1.0, 1.0, 1.0))
FINE = Geometry((72, 80, 76), (0.5, 0.5, 0.5))
OWN = LabelEntry("", "own", chi_ppm=(-0.4, -0.2), r1_per_s=(0.5, 0.6), r2star_per_s=(20.0, 30.0), m0=(0.7, 0.8))


@cache
def atlas() -> LabelAtlas:
    """An ellipsoidal brain of white matter in cortex in CSF, bone around it, and nuclei on the right only."""
    x, y, z = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in (30, 34, 32)), indexing="ij")
    radius = ((x / 11) ** 2 + (y / 13) ** 2 + (z / 12) ** 2).sqrt()
    labels = torch.zeros(x.shape, dtype=torch.int16)
    for number, limit in ((165, 1.2), (24, 1.0), (42, 0.9), (41, 0.72)):
        labels[radius < limit] = number
    labels[((x - 4) ** 2 + y**2 + z**2).sqrt() < 3] = 51
    labels[((x - 4) ** 2 + (y - 6) ** 2 + z**2).sqrt() < 2.5] = 99
    return LabelAtlas(labels, (1.0, 1.0, 1.0), {**read_label_table("freesurfer"), 99: OWN}, "test.nii")


def blocks(voxel_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> LabelAtlas:
    """Two blocks of brain side by side along x, indices 8 to 15 and 16 to 23, in background."""
    labels = torch.zeros((32, 30, 28), dtype=torch.uint8)
    labels[8:16, 6:24, 6:22] = 1
    labels[16:24, 6:24, 6:22] = 2
    return LabelAtlas(labels, voxel_mm, {0: LabelEntry("background"), 1: OWN, 2: OWN}, "blocks")


def row(number: int, chi: float, **settings: float) -> LabelRow:
    return LabelRow(number, LABELS["white_matter"], True, **{"chi_ppm": chi, "r1_per_s": 0.8, "r2star_per_s": 30.0, "m0": 0.7, **settings})


def flat(deformation: Deformation | None = None, *chi: float) -> LabelMapParams:
    """Parameters of `blocks` without texture."""
    values = chi or (0.1, -0.1)
    rows = tuple(row(i + 1, c, r2star_per_s=20.0 + 20 * i) for i, c in enumerate(values))
    return LabelMapParams(0, rows, deformation or Deformation(), texture_spacing_mm=3.0)


def drawn(seed: int = 0, **settings: object) -> LabelMapParams:
    params = draw_label_map(LabelMapRanges(**settings), np.random.default_rng(seed), atlas())  # type: ignore[arg-type]
    return replace(params, texture_spacing_mm=2.0)


def centroid(weight: torch.Tensor, geometry: Geometry) -> np.ndarray:
    sums = [float((weight.sum([a for a in range(3) if a != i]) * p).sum()) for i, p in enumerate(grid_axes(geometry))]
    return np.asarray(sums) / float(weight.sum())


@cache
def head(seed: int = 1) -> Phantom:
    return render_label_map(atlas(), drawn(seed), GRID)


def test_a_border_is_a_ramp_one_voxel_wide_in_its_place() -> None:
    """The border between the blocks lies in the middle of the field of view, that to the background 8 mm from it."""
    for geometry in (GRID, FINE, Geometry((40, 44, 40), (0.8, 0.9, 1.0))):
        phantom = render_label_map(blocks(), flat(), geometry)
        _, y, z = (len(a) // 2 for a in grid_axes(geometry))
        position, profile = grid_axes(geometry)[0], phantom.chi_ppm[:, y, z]
        inner = position.abs() < 6
        share = (profile[inner] + 0.1) / 0.2
        voxel = geometry.voxel_size_mm[0]
        assert float(share.sum() * voxel) == pytest.approx(float((position[inner] < 0).sum() + 0.5) * voxel, abs=0.02)
        middle = int((position.abs()).argmin())
        assert float(profile[middle]) == pytest.approx(0, abs=2e-3)
        slope = float(profile[middle - 1] - profile[middle + 1]) / 2 / 0.2
        assert 0.3 < slope < 0.5  # of a linear ramp one voxel wide: 0.5
        assert float(profile[position.abs() > 8 + voxel].abs().max()) == 0
        away = (position.abs() > 2) & (position.abs() < 6)
        assert float((profile[away].abs() - 0.1).abs().max()) < 2e-3


def test_shares_add_up_and_keep_volumes() -> None:
    """With M0 of 1 in both blocks, M0 is the share of brain; its sum and that of each block are their volumes."""
    labels = blocks((1.1, 0.9, 1.3))
    params = flat()
    params = replace(params, rows=tuple(replace(r, m0=1.0) for r in params.rows))
    phantom = render_label_map(labels, params, GRID)
    volume = 1.1 * 0.9 * 1.3 * 8 * 18 * 16
    assert float(phantom.m0.max()) <= 1 + 1e-5
    assert float(phantom.m0[17:20, 17:22, 17:22].min()) > 1 - 1e-4
    # Corners of the blocks are rounded.
    assert float(phantom.m0.sum()) == pytest.approx(2 * volume, rel=0.02)
    assert float(phantom.mask.sum()) == pytest.approx(2 * volume, rel=0.06)
    one = render_label_map(labels, replace(params, rows=(params.rows[0], replace(params.rows[1], m0=0.0))), GRID)
    assert float(one.m0.sum()) == pytest.approx(volume, rel=0.02)


def test_a_finer_grid_shows_the_same_head() -> None:
    fine = render_label_map(atlas(), drawn(1), FINE)
    core = torch.nn.functional.avg_pool3d(head().mask[None, None].float(), 3, 1, 1)[0, 0] > 0.99
    for name in ("chi_ppm", "r2star_per_s", "m0"):
        a, b = getattr(head(), name)[core], cell_average(getattr(fine, name), GRID.shape)[core]
        assert float(torch.corrcoef(torch.stack((a, b)))[0, 1]) > 0.99
        assert float((a - b).square().mean().sqrt()) < 0.12 * float(a.std())
    assert float(fine.mask.float().mean()) == pytest.approx(float(head().mask.float().mean()), rel=0.02)


def test_maps_lie_between_the_values_of_their_labels() -> None:
    params = replace(drawn(2), rows=tuple(replace(r, r2star_spread=0.0, r1_spread=0.0) for r in drawn(2).rows))
    phantom = render_label_map(atlas(), params, GRID)
    brain = [r for r in params.rows if r.is_brain]
    assert min(0, *(r.chi_ppm for r in brain)) - 1e-5 <= float(phantom.chi_ppm.min())
    assert float(phantom.chi_ppm.max()) <= max(0, *(r.chi_ppm for r in brain)) + 1e-5
    core = torch.nn.functional.max_pool3d((phantom.labels != LABELS["white_matter"])[None, None].float(), 5, 1, 2)[0, 0] == 0
    white = next(r for r in params.rows if r.number == 41)
    assert int(core.sum()) > 100
    for name in ("chi_ppm", "m0", "r1_per_s", "r2star_per_s"):
        assert float((getattr(phantom, name)[core] / getattr(white, name) - 1).abs().max()) < 0.02


def test_texture_follows_the_rates_as_in_the_challenge() -> None:
    """chi = chi_ref + a (R2* - mean R2*) + b (R1 - mean R1) inside a label."""
    slopes = {"r2star_slope": 0.001, "r1_slope": -0.05, "r2star_spread": 0.2, "r1_spread": 0.1}
    params = replace(flat(), rows=(row(1, 0.1, **slopes), row(2, 0.1, **slopes)), texture_exponent=2.0, texture_correlation=0.5)
    phantom = render_label_map(blocks(), params, GRID)
    core = torch.nn.functional.avg_pool3d(phantom.mask[None, None].float(), 5, 1, 2)[0, 0] > 0.99
    left = core & (torch.arange(36) < 15)[:, None, None]
    r2star, r1, chi = (getattr(phantom, name)[left] for name in ("r2star_per_s", "r1_per_s", "chi_ppm"))
    rest = chi - 0.001 * r2star + 0.05 * r1
    assert float(rest.std()) < 1e-5
    assert float(rest.mean()) == pytest.approx(0.1 - 0.001 * 30 + 0.05 * 0.8, abs=3e-3)
    assert float(r2star.std() / r2star.mean()) == pytest.approx(0.2, rel=0.3)
    assert 0.2 < float(torch.corrcoef(torch.stack((r2star, r1)))[0, 1]) < 0.8


def test_flip_rotation_scale_and_offset_do_what_they_say() -> None:
    still = render_label_map(blocks(), flat(), GRID)
    flipped = render_label_map(blocks(), flat(Deformation(is_flipped=True)), GRID)
    # Voxel 0 lies at -FOV / 2, so that x and -x are n - i and i.
    assert torch.allclose(flipped.chi_ppm[1:], still.chi_ppm[1:].flip(0), atol=1e-5)
    turned = render_label_map(blocks(), flat(Deformation(rotation_deg=(0.0, 0.0, 90.0))), Geometry((36, 36, 38)))
    square = render_label_map(blocks(), flat(), Geometry((36, 36, 38)))
    # A quarter turn about z takes +x to +y: chi'(-y, x) = chi(x, y).
    assert torch.allclose(turned.chi_ppm[1:, 1:], square.chi_ppm[1:, 1:].transpose(0, 1).flip(0), atol=1e-4)
    large = render_label_map(blocks(), flat(Deformation(scale=(1.1, 0.9, 1.2))), GRID)
    assert float(large.m0.sum() / still.m0.sum()) == pytest.approx(1.1 * 0.9 * 1.2, rel=0.01)
    for geometry, tolerance_mm in ((GRID, 0.06), (FINE, 0.02)):
        start = centroid(render_label_map(blocks(), flat(), geometry).m0, geometry)
        moved = render_label_map(blocks(), flat(Deformation(offset_mm=(1.3, -0.4, 2.25))), geometry)
        assert centroid(moved.m0, geometry) - start == pytest.approx(np.array([1.3, -0.4, 2.25]), abs=tolerance_mm)


def test_a_small_field_of_view_holds_a_small_head() -> None:
    small = Geometry((54, 58, 54), (0.35, 0.35, 0.35))
    phantom = render_label_map(atlas(), drawn(1), small)
    assert not any(bool(phantom.mask.select(axis, end).any()) for axis in range(3) for end in (0, -1))
    full = render_label_map(atlas(), drawn(1, deformation=STILL), small)
    assert float(full.mask.float().mean()) > 0.25
    assert not any(bool(full.mask.select(axis, end).any()) for axis in range(3) for end in (0, -1))


def test_labels_and_mask_follow_the_table() -> None:
    phantom = render_label_map(atlas(), drawn(0, deformation=STILL), GRID)
    names = {LABELS[n] for n in ("bone", "csf", "grey_matter", "white_matter", "putamen", "air")}
    assert names <= set(phantom.labels.unique().tolist())
    outside = torch.isin(phantom.labels, torch.tensor([LABELS["bone"], LABELS["air"]]))
    assert float((outside == ~phantom.mask).float().mean()) > 0.99
    assert float(phantom.chi_ppm[~phantom.mask].abs().max()) == 0
    assert float(phantom.m0[0, 0, 0]) == 0
    assert float(phantom.r2star_per_s.min()) > 0
    # The nuclei lie to the right.
    assert centroid((phantom.labels == LABELS["putamen"]).float(), GRID)[0] == pytest.approx(4, abs=0.2)


def test_values_are_drawn_from_the_ranges() -> None:
    rows = [r for seed in range(60) for r in drawn(seed, contrast="sim1", label_spread=0.1).rows]
    own = [r for r in rows if r.number == 99]
    for name in ("chi_ppm", "r1_per_s", "r2star_per_s", "m0"):
        low, high = getattr(OWN, name)
        values = [getattr(r, name) for r in own]
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    assert all(r.chi_ppm == 0 and not r.is_brain for r in rows if r.number == 165)
    putamen = np.array([r.chi_ppm for r in rows if r.number == 51])
    assert 0.038 * 0.88 * 0.9 <= putamen.min() < putamen.max() <= 0.038 * 1.12 * 1.1
    random = np.array([next(r.chi_ppm for r in drawn(s).rows if r.number == 51) for s in range(60)])
    assert random.std() > 4 * putamen.std()
    deformations = [drawn(s).deformation for s in range(60)]
    assert 15 < sum(d.is_flipped for d in deformations) < 45
    for name, low, high in (("rotation_deg", -15, 15), ("scale", 0.85, 1.15), ("offset_mm", -5, 5)):
        drawn_values = np.array([getattr(d, name) for d in deformations])
        assert low <= drawn_values.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < drawn_values.max() <= high


def test_labels_of_one_tissue_differ_a_little() -> None:
    labels = atlas().labels.clone()
    labels[:15][labels[:15] == 41] = 2
    both = LabelAtlas(labels, (1.0, 1.0, 1.0), atlas().table)
    params = draw_label_map(LabelMapRanges(label_spread=0.1), np.random.default_rng(0), both)
    left, right = (next(r for r in params.rows if r.number == n) for n in (2, 41))
    assert left.label == right.label == LABELS["white_matter"]
    assert 0 < abs(left.r1_per_s / right.r1_per_s - 1) < 0.25


def test_same_seed_same_bits_and_parameters_survive_json() -> None:
    params = drawn(1)
    again = LabelMapParams.from_dict(json.loads(json.dumps(params.as_dict())))
    assert again == params == drawn(1)
    assert params != drawn(2)
    phantom = render_label_map(atlas(), again, GRID)
    for name in ("chi_ppm", "m0", "r1_per_s", "r2star_per_s", "labels"):
        assert torch.equal(getattr(phantom, name), getattr(head(), name))
    assert not torch.equal(phantom.chi_ppm, head(2).chi_ppm)
    assert phantom.params["label_map"] == "test.nii"
    assert phantom.params["rows"][0]["number"] == 24


def test_ranges_without_a_tissue_get_the_label_they_are_closest_to() -> None:
    assert closest_label(LabelEntry("putamen")) == LABELS["putamen"]
    assert closest_label(LabelEntry("outside_brain")) == LABELS["muscle"]
    fluid = {"chi_ppm": (0.0, 0.02), "r1_per_s": (0.2, 0.3), "r2star_per_s": (5.0, 9.0), "m0": (1.0, 1.0)}
    assert closest_label(LabelEntry(**fluid)) == LABELS["csf"]
    assert closest_label(LabelEntry(**fluid, brain=False)) == LABELS["muscle"]
    stone = {"chi_ppm": (-3.0, -2.0), "r1_per_s": (0.9, 0.9), "r2star_per_s": (150.0, 200.0), "m0": (0.2, 0.3)}
    assert closest_label(LabelEntry(**stone)) == LABELS["calcification"]


def test_bad_label_maps_are_refused() -> None:
    table = read_label_table("freesurfer")
    labels = torch.full((6, 6, 6), 2, dtype=torch.int32)
    labels[0, 0, :3], labels[1, 1, 1] = 9999, 7777
    with pytest.raises(InputError, match=r"brain.nii holds labels without an entry in its table: 9999 \(3 voxels\), 7777 \(1 voxel\)"):
        LabelAtlas(labels, (1.0, 1.0, 1.0), table, "brain.nii")
    with pytest.raises(InputError, match="has the shape"):
        LabelAtlas(labels[0], (1.0, 1.0, 1.0), table)
    with pytest.raises(InputError, match=r"the type torch\.float32"):
        LabelAtlas(labels.float(), (1.0, 1.0, 1.0), table)
    with pytest.raises(InputError, match="voxel_size_mm of"):
        LabelAtlas(labels, (1.0, 0.0, 1.0), table)
    with pytest.raises(InputError, match="no label of the brain"):
        LabelAtlas(torch.full((6, 6, 6), 165), (1.0, 1.0, 1.0), table)
    with pytest.raises(InputError, match=r"no row for the labels \[2\] of blocks"):
        render_label_map(blocks(), flat(None, 0.1), GRID)
    with pytest.raises(InputError, match="no voxel of"):
        render_label_map(blocks(), replace(flat(), rows=tuple(replace(r, is_brain=False) for r in flat().rows)), GRID)


@pytest.mark.parametrize(
    ("kind", "setting", "message"),
    [
        (LabelMapRanges, {"contrast": "sim3"}, "contrast is 'sim3'"),
        (LabelMapRanges, {"label_spread": 1.0}, "label_spread is"),
        (LabelMapRanges, {"texture_exponent": (4, 1)}, "texture_exponent is"),
        (LabelMapRanges, {"texture_correlation": (0, 2)}, "texture_correlation is"),
        (DeformationRanges, {"flip_probability": 1.5}, "flip_probability is"),
        (DeformationRanges, {"warp_probability": -1}, "warp_probability is"),
        (DeformationRanges, {"rotation_deg": (10, -10)}, "rotation_deg is"),
        (DeformationRanges, {"scale": (0, 1)}, "scale is"),
        (DeformationRanges, {"offset_mm": (0, 90)}, "offset_mm is"),
        (DeformationRanges, {"warp_mm": (-2, 8)}, "warp_mm is"),
        (DeformationRanges, {"warp_scale_mm": (0, 8)}, "warp_scale_mm is"),
        (Deformation, {"scale": (1, 0, 1)}, "must be positive"),
        (LabelMapParams, {"seed": -1, "rows": ()}, "seed -1"),
    ],
)
def test_bad_settings_are_refused(kind: type, setting: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**setting)


def test_bad_rows_are_refused() -> None:
    with pytest.raises(InputError, match="label 7: r1_per_s, r2star_per_s and m0 must not be negative"):
        row(7, 0.1, r2star_per_s=-1.0)
    with pytest.raises(InputError, match="label 7: r2star_spread"):
        row(7, 0.1, r2star_spread=0.6)
