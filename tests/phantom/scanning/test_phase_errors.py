"""Phase at TE = 0, flow, voxels without signal, noisy slabs and leftover wraps, each against its definition."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.phantom.scanning.acquire import Acquisition, acquire
from qsmdl.phantom.scanning.downsample import cell_average
from qsmdl.phantom.scanning.effects import Effects
from qsmdl.phantom.scanning.ellipsoids import Ellipsoid
from qsmdl.phantom.scanning.offset import OffsetParams, OffsetRanges, draw_offset, render_offset
from qsmdl.phantom.scanning.phase_errors import (
    DropoutParams,
    DropoutRanges,
    FlowParams,
    FlowRanges,
    SlabParams,
    SlabRanges,
    WrapParams,
    WrapRanges,
    draw_dropouts,
    draw_flow,
    draw_slab,
    draw_wraps,
    leave_wraps,
    leftover_turns,
)
from qsmdl.physics.fieldmap import fit_field
from qsmdl.scan import LABELS, Geometry, Phantom, Scan
from qsmdl.units import rad_per_ppm

TIMES = (0.004, 0.011, 0.018)
GRID = Geometry((26, 30, 28), (1.2, 1.0, 1.1), (0.36, 0.48, 0.8), 3.0)
CPU = torch.device("cpu")


def phantom(geometry: Geometry = GRID) -> Phantom:
    """Uniform tissue with a thick vessel along z, a weak blob of susceptibility, and room around the mask."""
    x, y, z = (torch.arange(n) * v - n * v / 2 for n, v in zip(geometry.shape, geometry.voxel_size_mm, strict=True))
    radius = (x[:, None, None] ** 2 + y[:, None] ** 2 + z**2).sqrt()
    ones = torch.ones(geometry.shape)
    labels = torch.full(geometry.shape, LABELS["white_matter"], dtype=torch.uint8)
    labels[(((x - 4)[:, None] ** 2 + y**2) < 9)[:, :, None].expand(geometry.shape)] = LABELS["blood"]
    return Phantom(geometry, 0.01 * torch.exp(-((radius / 5) ** 2)), ones, ones, 20 * ones, labels, radius < 12)


def scan(effects: Effects, peak_snr: float = math.inf, *, complete: bool = False) -> Scan:
    acquisition = Acquisition(echo_times_s=TIMES, peak_snr=peak_snr, shape=GRID.shape)
    return acquire(phantom(), acquisition, torch.Generator().manual_seed(3), effects=effects, truth="crop", complete=complete)[0]


def wrapped(phase: torch.Tensor) -> torch.Tensor:
    return torch.remainder(phase + math.pi, 2 * math.pi) - math.pi


def test_a_smooth_offset_has_the_drawn_amplitude_and_degree() -> None:
    ranges = OffsetRanges(probability=1.0, smooth_share=1.0, amplitude_rad=(2.0, 2.0), order=(2, 2))
    params = draw_offset(ranges, np.random.default_rng(1))
    assert params is not None
    assert max(sum(power) for power, _ in params.terms) == 2
    whole = render_offset(params, GRID, tuple(slice(0, n) for n in GRID.shape), CPU)  # type: ignore[arg-type]
    assert float(whole.max() - whole.min()) / 2 == pytest.approx(2.0, rel=0.1)
    # Third differences of a quadratic are 0, second differences are not.
    assert float(torch.diff(whole.double(), n=3, dim=0).abs().max()) < 1e-5
    assert float(torch.diff(whole.double(), n=2, dim=0).abs().max()) > 1e-4


def test_an_offset_is_a_function_of_position() -> None:
    params = draw_offset(OffsetRanges(probability=1.0, smooth_share=1.0), np.random.default_rng(2))
    assert params is not None
    finer = Geometry((52, 60, 56), (0.6, 0.5, 0.55))
    fine = render_offset(params, finer, tuple(slice(0, n) for n in finer.shape), CPU)  # type: ignore[arg-type]
    part = render_offset(params, GRID, (slice(3, 9), slice(4, 20), slice(5, 8)), CPU)
    assert torch.allclose(fine[6:18:2, 8:40:2, 10:16:2], part, atol=1e-5)


@pytest.mark.parametrize("smooth_share", [0.0, 1.0])
def test_the_offset_is_the_phase_at_te_0(smooth_share: float) -> None:
    params = draw_offset(OffsetRanges(probability=1.0, smooth_share=smooth_share), np.random.default_rng(5))
    assert params is not None
    assert bool(params.terms) == bool(smooth_share)
    result, quiet = scan(Effects(offset=params)), scan(Effects())
    expected = render_offset(params, GRID, tuple(slice(0, n) for n in GRID.shape), CPU)  # type: ignore[arg-type]
    for echo in range(3):
        difference = wrapped(result.phase_rad[echo] - quiet.phase_rad[echo] - expected)
        assert float(difference[result.mask].abs().max()) < 1e-4
    assert torch.allclose(result.magnitude, quiet.magnitude, atol=1e-6)


def test_flow_adds_a_phase_linear_in_te_in_blood_alone() -> None:
    result, quiet = scan(Effects(flow=FlowParams(40.0, 10.0, 3))), scan(Effects())
    extra = wrapped(result.phase_rad - quiet.phase_rad)
    blood = (phantom().labels == LABELS["blood"]) & result.mask
    assert float(extra[:, result.mask & ~blood].abs().max()) < 1e-4
    rate = extra[:, blood] / torch.tensor(TIMES)[:, None]
    assert torch.allclose(rate[0], rate[1], atol=0.05)
    assert torch.allclose(rate[0], rate[2], atol=0.05)
    assert 5 < float(rate[0].square().mean().sqrt()) < 120
    other = scan(Effects(flow=FlowParams(80.0, 10.0, 3)))
    double = wrapped(other.phase_rad - quiet.phase_rad)[0, blood] / TIMES[0]
    assert torch.allclose(double, 2 * rate[0], atol=0.1)


def test_flow_has_the_drawn_standard_deviation_on_average() -> None:
    square = []
    for seed in range(12):
        result = scan(Effects(flow=FlowParams(40.0, 10.0, seed)))
        blood = (phantom().labels == LABELS["blood"]) & result.mask
        square.append(float((wrapped(result.phase_rad - scan(Effects()).phase_rad)[0, blood] / TIMES[0]).square().mean()))
    assert math.sqrt(np.mean(square)) == pytest.approx(40, rel=0.35)


def test_dropouts_take_the_signal_of_an_ellipsoid() -> None:
    params = DropoutParams((Ellipsoid((0.5, 0.5, 0.5), (3.0, 4.0, 3.5)),), (0.1,))
    result, quiet = scan(Effects(dropouts=params)), scan(Effects())
    ratio = (result.magnitude / quiet.magnitude)[0][result.mask]
    assert float(ratio.min()) == pytest.approx(0.1, abs=1e-3)
    lost_mm3 = float((1 - ratio).sum()) * math.prod(GRID.voxel_size_mm) / 0.9
    assert lost_mm3 == pytest.approx(4 / 3 * math.pi * 42, rel=0.05)
    whole = wrapped(result.phase_rad - quiet.phase_rad)[:, result.mask]
    assert float(whole.abs().max()) < 1e-3


def test_dropouts_are_the_same_on_a_finer_grid() -> None:
    finer = Geometry((52, 60, 56), (0.6, 0.5, 0.55), GRID.b0_direction, 3.0)
    params = DropoutParams((Ellipsoid((0.4, 0.6, 0.5), (3.0, 4.0, 3.5)), Ellipsoid((0.3, 0.2, 0.5), (2.0, 2.5, 2.0), on_surface=True)), (0.0, 0.0))
    lost = []
    for geometry in (GRID, finer):
        acquisition = Acquisition(echo_times_s=(0.004,), peak_snr=math.inf, shape=geometry.shape)
        pair = [acquire(phantom(geometry), acquisition, torch.Generator(), effects=e, truth="crop")[0] for e in (Effects(dropouts=params), Effects())]
        lost.append(cell_average(pair[1].magnitude[0] - pair[0].magnitude[0], GRID.shape))
    inner = phantom().mask
    assert float((lost[0] - lost[1])[inner].abs().mean()) < 0.1 * float(lost[0][inner].abs().mean())


def test_a_slab_is_noisier_and_the_rest_keeps_its_bits() -> None:
    params = SlabParams(1, 0.5, 6.0, 4.0, 9)
    clean, usual, noisy = scan(Effects()), scan(Effects(), 50.0), scan(Effects(slab=params), 50.0)
    inside = torch.zeros(GRID.shape, dtype=torch.bool)
    inside[:, 13:17] = True  # the mask's extent is centred on y = 0, voxel 15
    outside = torch.zeros(GRID.shape, dtype=torch.bool)
    outside[:, :11] = outside[:, 20:] = True
    assert torch.equal(usual.magnitude[:, outside], noisy.magnitude[:, outside])

    def noise(one: Scan, where: torch.Tensor) -> float:
        difference = torch.polar(one.magnitude, one.phase_rad) - torch.polar(clean.magnitude, clean.phase_rad)
        return float(torch.view_as_real(difference[:, where & clean.mask]).std())

    assert noise(noisy, inside) == pytest.approx(4 * noise(usual, inside), rel=0.05)
    assert torch.equal(scan(Effects(slab=params), 50.0).phase_rad, noisy.phase_rad)


WRAPS = WrapParams((Ellipsoid((0.5, 0.5, 0.4), (3.0, 3.0, 4.0)), Ellipsoid((0.3, 0.6, 0.5), (2.0, 2.0, 2.0))), (0.99, 0.0), (1, -1))


def test_turns_are_whole_and_lie_in_single_echoes() -> None:
    mask = phantom().mask
    turns = leftover_turns(WRAPS, mask, GRID, 3)
    assert set(turns.unique().tolist()) == {-1.0, 0.0, 1.0}
    first, second, third = (float(t.sum()) * math.prod(GRID.voxel_size_mm) for t in turns)
    assert first == pytest.approx(-4 / 3 * math.pi * 8, rel=0.3)
    assert second == 0
    assert third == pytest.approx(4 / 3 * math.pi * 36, rel=0.1)
    assert float(turns[:, ~mask].abs().max()) == 0


@pytest.mark.parametrize("offset", [False, True])
def test_leftover_wraps_shift_the_fitted_field_as_a_refit_does(offset: bool) -> None:
    """Weighted least squares of the phases with the turns added, voxel by voxel in float64."""
    result = scan(Effects())
    field = leave_wraps(fit_field(result, offset=offset, sigma=1e-6), result, WRAPS, offset=offset)
    turns = leftover_turns(WRAPS, result.mask, GRID, 3)
    times = np.array(TIMES)
    checked = 0
    for index in turns.abs().amax(0).nonzero()[::40].tolist():
        x, y, z = index
        phase = result.phase_rad[:, x, y, z].double().numpy() + 2 * math.pi * turns[:, x, y, z].double().numpy()
        root = result.magnitude[:, x, y, z].double().numpy()
        columns = np.stack([times, np.ones(3)], 1) if offset else times[:, None]
        slope = np.linalg.lstsq(columns * root[:, None], phase * root, rcond=None)[0][0]
        assert float(field.field_ppm[x, y, z]) == pytest.approx(slope / rad_per_ppm(3.0, 1.0), abs=2e-4)
        checked += 1
    assert checked > 3
    untouched = (turns == 0).all(0)
    assert torch.equal(field.field_ppm[untouched], fit_field(result, offset=offset, sigma=1e-6).field_ppm[untouched])


def test_leftover_wraps_show_in_the_field_handed_out() -> None:
    """Weighted mean of differences to the first echo (Robinson et al. 2017), by hand for one voxel of each region; phases stay as they are."""
    quiet, result = scan(Effects(), complete=True), scan(Effects(wraps=WRAPS), complete=True)
    assert torch.equal(quiet.phase_rad, result.phase_rad)
    turns = leftover_turns(WRAPS, result.mask, GRID, 3)
    assert quiet.frequency_ppm is not None
    assert result.frequency_ppm is not None
    error = result.frequency_ppm - quiet.frequency_ppm
    for echo in (0, 2):
        x, y, z = turns[echo].nonzero()[5].tolist()
        m = result.magnitude[:, x, y, z].double().tolist()
        n = turns[:, x, y, z].tolist()
        weight = [(m[0] * m[k]) ** 2 * (TIMES[k] - TIMES[0]) ** 2 / (m[0] ** 2 + m[k] ** 2) for k in (1, 2)]
        slopes = [2 * math.pi * (n[k] - n[0]) / (TIMES[k] - TIMES[0]) for k in (1, 2)]
        expected = sum(w * s for w, s in zip(weight, slopes, strict=True)) / sum(weight) / rad_per_ppm(3.0, 1.0)
        assert float(error[x, y, z]) == pytest.approx(expected, rel=1e-3)
    assert float(error[(turns == 0).all(0)].abs().max()) == 0


def test_wraps_of_another_grid_are_refused() -> None:
    result = scan(Effects())
    field = fit_field(result, sigma=1.0)
    maps = {name: getattr(field, name)[1:] for name in ("field_ppm", "mask", "weight", "noise_ppm")}
    small = replace(field, geometry=replace(GRID, shape=(25, 30, 28)), **maps)
    with pytest.raises(InputError, match="both on one grid"):
        leave_wraps(small, result, WRAPS)


def test_draws_lie_in_their_ranges_and_off_means_none() -> None:
    rng = np.random.default_rng
    offsets = [o for o in (draw_offset(OffsetRanges(probability=0.5), rng(i)) for i in range(80)) if o is not None]
    assert len(offsets) == pytest.approx(40, abs=15)
    assert sum(bool(o.terms) for o in offsets) / len(offsets) == pytest.approx(0.7, abs=0.2)
    flows = [draw_flow(FlowRanges(probability=1.0), rng(i)) for i in range(200)]
    rates = [f.rate_rad_per_s for f in flows if f is not None]
    assert 5 <= min(rates) < 10 < 75 < max(rates) <= 80
    slabs = [s for s in (draw_slab(SlabRanges(probability=1.0), rng(i)) for i in range(200)) if s is not None]
    assert {s.axis for s in slabs} == {0, 1, 2}
    assert 1.5 <= min(s.factor for s in slabs) < 1.7 < 5.5 < max(s.factor for s in slabs) <= 6
    drops = [d for d in (draw_dropouts(DropoutRanges(probability=1.0), rng(i)) for i in range(100)) if d is not None]
    assert {len(d.blobs) for d in drops} == {1, 2, 3, 4, 5}
    assert all(0 <= r <= 0.1 for d in drops for r in d.remainder)
    wraps = [w for w in (draw_wraps(WrapRanges(probability=1.0), rng(i)) for i in range(100)) if w is not None]
    assert {t for w in wraps for t in w.turns} == {-1, 1}
    assert draw_wraps(WrapRanges(probability=1.0), rng(4)) == draw_wraps(WrapRanges(probability=1.0), rng(4))
    for draw, ranges in ((draw_offset, OffsetRanges()), (draw_flow, FlowRanges()), (draw_slab, SlabRanges()), (draw_dropouts, DropoutRanges())):
        assert draw(ranges, rng(0)) is None  # type: ignore[operator]
    assert OffsetParams(0.3).terms == ()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (OffsetRanges, {"order": (1, 9)}, "offset.order is"),
        (OffsetRanges, {"order": (1, 2.5)}, "whole numbers"),
        (OffsetRanges, {"smooth_share": 1.5}, "offset.smooth_share is 1.5"),
        (OffsetRanges, {"amplitude_rad": (2, 1)}, "offset.amplitude_rad is"),
        (FlowRanges, {"rate_rad_per_s": (-1, 3)}, "flow.rate_rad_per_s is"),
        (FlowRanges, {"scale_mm": (1, 3)}, "flow.scale_mm is"),
        (DropoutRanges, {"count": (0, 3)}, "dropouts.count is"),
        (DropoutRanges, {"count": (1, 2.5)}, "dropouts.count is .* whole numbers"),
        (DropoutRanges, {"remainder": (0, 2)}, "dropouts.remainder is"),
        (DropoutRanges, {"surface_share": -0.1}, "dropouts.surface_share is"),
        (SlabRanges, {"factor": (0.5, 2)}, "slab.factor is"),
        (SlabRanges, {"probability": -0.1}, "slab.probability is"),
        (WrapRanges, {"radius_mm": (1, 100)}, "wraps.radius_mm is"),
        (WrapRanges, {"count": (1, 2.5)}, "wraps.count is .* whole numbers"),
        (WrapRanges, {"surface_share": 1.1}, "wraps.surface_share is"),
    ],
)
def test_bad_ranges_are_refused(kind: type, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**settings)
