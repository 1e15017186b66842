"""Samples of simple bodies: shares of voxels against brute force and volumes, what is drawn, and what paints what."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.phantom.abstract.bodies import BODY_KINDS, Body
from qsmdl.phantom.abstract.geometric import PaintedBody, ShapeParams, ShapeRanges, draw_shapes, render_shapes
from qsmdl.phantom.abstract.outline import OutlineParams, OutlineRanges, draw_outline, draw_rotation, render_outline
from qsmdl.phantom.drawing.sampling import grid_axes
from qsmdl.phantom.drawing.shapes import rotation
from qsmdl.phantom.scanning.downsample import cell_average
from qsmdl.scan import LABELS, Geometry

VIEW = (70.0, 66.0, 72.0)
COARSE = Geometry((28, 24, 30), (2.5, 2.75, 2.4))
TURN = (25.0, -40.0, 70.0)


def drawn(seed: int, **settings: object) -> ShapeParams:
    return draw_shapes(ShapeRanges(**settings), np.random.default_rng(seed), VIEW)  # type: ignore[arg-type]


def test_a_finer_grid_shows_the_same_sample() -> None:
    params = drawn(3, size_mm=(6.0, 30.0))
    fine = Geometry((56, 48, 60), (1.25, 1.375, 1.2))
    once, twice = render_shapes(params, COARSE), render_shapes(params, fine)
    core = torch.nn.functional.avg_pool3d(once.mask[None, None].float(), 3, 1, 1)[0, 0] > 0.99
    for name in ("chi_ppm", "r2star_per_s"):
        a, b = getattr(once, name)[core], cell_average(getattr(twice, name), COARSE.shape)[core]
        assert float(torch.corrcoef(torch.stack((a, b)))[0, 1]) > 0.985
        assert float(a.mean() - b.mean()) == pytest.approx(0, abs=0.03 * float(a.std()))
    assert float(once.mask.float().mean()) == pytest.approx(float(twice.mask.float().mean()), rel=0.01)


def test_smaller_bodies_lie_on_larger_ones_and_keep_their_values() -> None:
    outline = OutlineParams(0, (30.0, 30.0, 30.0))
    large, small = (
        PaintedBody(Body("sphere", (2.0, 1.0, 0.0), (d, d, d)), chi, 40.0, 1.0, m0) for d, chi, m0 in ((40.0, 0.3, 0.6), (14.0, -0.2, 0.9))
    )
    phantom = render_shapes(ShapeParams((large, small), outline, 20.0, 0.7, 0.5), COARSE)
    x, y, z = grid_axes(COARSE)
    distance = ((x[:, None, None] - 2) ** 2 + (y[:, None] - 1) ** 2 + z**2).sqrt()
    for where, chi, m0, rate in ((distance < 5, -0.2, 0.9, 40.0), ((distance > 9) & (distance < 18), 0.3, 0.6, 40.0)):
        assert torch.allclose(phantom.chi_ppm[where], torch.tensor(chi))
        assert torch.allclose(phantom.m0[where], torch.tensor(m0))
        assert torch.allclose(phantom.r2star_per_s[where], torch.tensor(rate))
    free = (distance > 23) & phantom.mask
    assert float(phantom.chi_ppm[free].abs().max()) == 0
    assert torch.allclose(phantom.r1_per_s[free], torch.tensor(0.7))
    volumes = [p.body.volume_mm3 for p in drawn(1).bodies]
    assert volumes == sorted(volumes, reverse=True)


def test_labels_and_mask() -> None:
    phantom = render_shapes(drawn(4), COARSE)
    assert phantom.labels[phantom.mask].unique().tolist() == [LABELS["white_matter"]]
    assert phantom.labels[~phantom.mask].unique().tolist() == [LABELS["csf"]]
    assert float(phantom.chi_ppm[~phantom.mask].abs().max()) == 0
    assert float(phantom.chi_ppm.abs().max()) > 0
    assert all(float(m.min()) > 0 for m in (phantom.m0, phantom.r1_per_s, phantom.r2star_per_s))


def test_what_is_drawn_fills_its_ranges() -> None:
    ranges, bodies, counts, spreads = ShapeRanges(), [], [], []
    for seed in range(25):
        params = drawn(seed)
        counts.append(len(params.bodies))
        spreads.append(float(np.std([p.chi_ppm for p in params.bodies])))
        bodies += params.bodies
    assert ranges.n_shapes[0] <= min(counts) < 130 < 270 < max(counts) <= ranges.n_shapes[1]
    assert min(spreads) < 0.03
    assert 0.25 < max(spreads) < 0.65
    largest = np.array([max(p.body.size_mm) for p in bodies])
    assert 1.0 <= largest.min() < 1.1
    assert 36 < largest.max() <= 40.0
    # Log-uniform: as many below the geometric mean as above.
    assert np.mean(largest < math.sqrt(40)) == pytest.approx(0.5, abs=0.04)
    assert min(min(p.body.size_mm) for p in bodies) >= 1.0
    for name in ("r2star_per_s", "r1_per_s", "m0"):
        values, (low, high) = np.array([getattr(p, name) for p in bodies]), getattr(ranges, name)
        assert low <= values.min() < low * 1.1
        assert high / 1.1 < values.max() <= high
    assert {p.body.kind for p in bodies} == set(BODY_KINDS)
    shares = [np.mean([p.shows_in == way for p in bodies]) for way in ("chi", "magnitude", "both")]
    assert shares == pytest.approx([0.2, 0.2, 0.6], abs=0.05)


def test_rates_follow_chi_only_as_far_as_asked() -> None:
    many = {"n_shapes": (1500, 1500), "only_chi": 0.0, "only_magnitude": 0.0}
    for wanted in (0.0, 0.5, 0.9):
        params = drawn(7, correlation=(wanted, wanted), **many)
        chi = np.array([p.chi_ppm for p in params.bodies])
        for name in ("r2star_per_s", "r1_per_s", "m0"):
            ranks = [np.argsort(np.argsort(v)) for v in (chi, np.array([getattr(p, name) for p in params.bodies]))]
            # Spearman's coefficient of two normal scores is 6 / pi asin(r / 2).
            expected = 6 / math.pi * math.asin(wanted / 2)
            assert abs(np.corrcoef(*ranks)[0, 1]) == pytest.approx(expected, abs=0.08)
    signs = {np.sign(np.corrcoef([[p.chi_ppm, p.m0] for p in drawn(s, correlation=(0.8, 0.8)).bodies], rowvar=False)[0, 1]) for s in range(8)}
    assert signs == {-1.0, 1.0}


def test_bodies_may_show_in_one_of_both_only() -> None:
    hidden = render_shapes(drawn(2, only_chi=1.0, only_magnitude=0.0), COARSE)
    assert float(hidden.chi_ppm.std()) > 0
    assert float(hidden.r2star_per_s.max() - hidden.r2star_per_s.min()) < 1e-4
    bright = render_shapes(drawn(2, only_chi=0.0, only_magnitude=1.0), COARSE)
    assert float(bright.chi_ppm.abs().max()) == 0
    assert float(bright.r2star_per_s.std()) > 1


def test_same_seed_same_bits_and_parameters_survive_json() -> None:
    params = drawn(5)
    assert params == drawn(5)
    assert params != drawn(6)
    again = ShapeParams.from_dict(json.loads(json.dumps(params.as_dict())))
    assert again == params
    first, second = render_shapes(params, COARSE), render_shapes(again, COARSE)
    assert torch.equal(first.chi_ppm, second.chi_ppm)
    assert torch.equal(first.m0, second.m0)
    assert first.params["bodies"][0]["chi_ppm"] == params.bodies[0].chi_ppm


def test_rotations_are_uniform() -> None:
    """The mean of the third axis is 0, of its square 1/3 along every direction; the two are those of the sphere."""
    rng = np.random.default_rng(0)
    turns = np.array([rotation(draw_rotation(rng)) for _ in range(4000)])
    assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3), atol=1e-9)
    for column in turns.transpose(2, 0, 1):
        assert np.abs(column.mean(0)).max() < 0.04
        assert np.allclose((column**2).mean(0), 1 / 3, atol=0.02)


def test_an_outline_has_its_volume_and_stays_in_the_field_of_view() -> None:
    smooth = OutlineParams(0, (30.0, 20.0, 25.0), TURN, (1.0, -2.0, 0.5))
    volume = float(render_outline(smooth, COARSE).sum()) * math.prod(COARSE.voxel_size_mm)
    assert volume == pytest.approx(4 / 3 * math.pi * 30 * 20 * 25, rel=0.02)
    for seed in range(12):
        outline = draw_outline(OutlineRanges(bump_mm=(4.0, 4.0)), np.random.default_rng(seed), VIEW)
        mask = render_outline(outline, COARSE)
        for axis, (positions, centre, reach, view) in enumerate(zip(grid_axes(COARSE), outline.centre_mm, outline.reach_mm, VIEW, strict=True)):
            touched = positions[mask.amax([a for a in range(3) if a != axis])]
            assert float((touched - centre).abs().max()) <= reach + 1e-3
            assert abs(centre) + reach < 0.49 * view
        assert float(mask.float().mean()) > 0.1
    flat = render_outline(replace(outline, bump_mm=0.0), COARSE)
    assert 0.02 < float((mask ^ flat).sum() / flat.sum()) < 0.5
    wide = draw_outline(OutlineRanges(), np.random.default_rng(0), (300.0, 300.0, 300.0))
    assert all(50 <= a <= 90 for a in wide.semi_axes_mm)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_shapes": (0, 5)}, "n_shapes is"),
        ({"size_mm": (40, 1)}, "size_mm is"),
        ({"size_mm": (0, 1)}, "size_mm is"),
        ({"aspect": (0.5, 1.5)}, "aspect is"),
        ({"tube_aspect": (0.1, 0.9)}, "tube_aspect is"),
        ({"bend_deg": (0, 90)}, "bend_deg is"),
        ({"chi_spread_ppm": (0, 0.5)}, "chi_spread_ppm is"),
        ({"correlation": (0.2, 1.2)}, "correlation is"),
        ({"r2star_per_s": (-5, 20)}, "r2star_per_s is"),
        ({"r1_per_s": (0.5, math.nan)}, "r1_per_s is"),
        ({"m0": (0.0, 1.0)}, "m0 is"),
        ({"only_chi": 0.7, "only_magnitude": 0.5}, "only_chi 0.7"),
        ({"only_chi": -0.1}, "only_chi -0.1"),
    ],
)
def test_bad_ranges_are_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ShapeRanges(**setting)  # type: ignore[arg-type]


def test_bad_bodies_outlines_and_fields_of_view_are_refused() -> None:
    good = Body("sphere", (0.0, 0.0, 0.0), (5.0, 5.0, 5.0))
    with pytest.raises(InputError, match="kind is 'cone'"):
        replace(good, kind="cone")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="size_mm is"):
        replace(good, size_mm=(1.0, 0.0, 1.0))
    with pytest.raises(InputError, match="bend_deg is 0"):
        replace(good, kind="tube")
    with pytest.raises(InputError, match="shows_in is 'field'"):
        PaintedBody(good, 0.1, 20.0, 1.0, 1.0, "field")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="r2star_per_s is -1"):
        PaintedBody(good, 0.1, -1.0, 1.0, 1.0)
    with pytest.raises(InputError, match="must be at least 0"):
        ShapeParams((), OutlineParams(0, (5.0, 5.0, 5.0)), -1.0, 1.0, 1.0)
    for setting in ({"semi_axis_mm": (90, 50)}, {"bump_mm": (-1, 2)}, {"tilt_deg": (-200, 0)}, {"bump_scale_mm": (0, 9)}):
        with pytest.raises(InputError, match=f"{next(iter(setting))} is"):
            OutlineRanges(**setting)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must be positive"):
        OutlineParams(0, (5.0, 0.0, 5.0))
    with pytest.raises(InputError, match="field_of_view_mm is"):
        draw_shapes(ShapeRanges(), np.random.default_rng(0), (100.0, 0.0, 100.0))
    with pytest.raises(InputError, match="no voxel of"):
        render_outline(OutlineParams(0, (0.2, 0.2, 0.2), centre_mm=(1.0, 1.0, 1.0)), COARSE)
