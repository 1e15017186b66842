"""The background: the field of outer sources, harmonic in the brain, shimmed, and removed as far as was drawn."""

import dataclasses
import math
from functools import cache

import numpy as np
import pytest
import torch
from analytic import positions, sphere_field

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.sampling import grid_axes
from qsmdl.phantom.scanning.acquire import Acquisition, acquire
from qsmdl.phantom.scanning.background import (
    BackgroundParams,
    BackgroundRanges,
    Source,
    draw_background,
    has_skull,
    label_field,
    render_background,
    shimmed,
    source_grid,
    sphere_centres,
)
from qsmdl.phantom.scanning.effects import Effects
from qsmdl.physics.fieldmap import fit_field
from qsmdl.scan import LABELS, Geometry, Phantom

OBLIQUE = (0.36, 0.48, 0.8)
GRID = Geometry((40, 36, 44), (2.1, 2.2, 2.0), OBLIQUE, 3.0)
OUTER = Source((0.6, 0.0, 0.8), 6.0, 8.0, 3.0)
PARAMS = BackgroundParams(9.4, -2.1, 0.6, (OUTER, Source((-1.0, 0.0, 0.0), 4.0, 5.0, -2.0)), 0, 0.0, 0.0, (Source((0.0, 1.0, 0.0), 5.0, 6.0, 1.0),))


def _radius(geometry: Geometry, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> torch.Tensor:
    x, y, z = (a - c for a, c in zip(grid_axes(geometry, torch.device("cpu")), centre, strict=True))
    return (x[:, None, None] ** 2 + y[:, None] ** 2 + z**2).sqrt()


@cache
def ball_phantom(*, skull: bool = False, geometry: Geometry = GRID) -> Phantom:
    """A brain of 22 mm radius without susceptibility, with or without bone, scalp, air and a sinus around it."""
    radius, ones = _radius(geometry), torch.ones(geometry.shape)
    labels = torch.full(geometry.shape, LABELS["white_matter"], dtype=torch.uint8)
    if skull:
        labels[radius > 24] = LABELS["bone"]
        labels[radius > 29] = LABELS["fat"]
        labels[radius > 33] = LABELS["air"]
        labels[_radius(geometry, (0.0, 22.0, -18.0)) < 4] = LABELS["air"]
    return Phantom(geometry, 0 * ones, ones, ones, 20 * ones, labels, radius < 22)


def laplacian(field: torch.Tensor, geometry: Geometry) -> tuple[torch.Tensor, torch.Tensor]:
    """Laplacian and the norm of the unmixed second derivatives (differences of sixth order), three voxels inside the grid."""
    second = []
    for axis, size in enumerate(geometry.voxel_size_mm):
        inner = field.movedim(axis, 0)
        n = len(inner) - 6
        weights = (1 / 90, -3 / 20, 3 / 2, -49 / 18, 3 / 2, -3 / 20, 1 / 90)
        line = sum((w * inner[i : i + n] for i, w in enumerate(weights)), torch.zeros(()))
        second.append((line[:, 3:-3, 3:-3] / size**2).movedim(0, axis))
    stack = torch.stack(second)
    return stack.sum(0), stack.square().sum(0).sqrt()


@pytest.mark.parametrize("skull", [False, True])
@pytest.mark.parametrize("what", ["total_ppm", "removed_ppm"])
def test_the_background_is_harmonic_inside_the_brain(skull: bool, what: str) -> None:
    phantom = ball_phantom(skull=skull)
    params = dataclasses.replace(PARAMS, removed=0.7, residual_rms_ppm=0.02, shim_order=2)
    background = render_background(params, phantom)
    assert has_skull(phantom) == skull
    inside = (_radius(background.geometry) < 16)[3:-3, 3:-3, 3:-3]
    zero, size = laplacian(getattr(background, what), background.geometry)
    assert float(size[inside].mean()) > 1e-6
    assert float(zero[inside].square().mean().sqrt() / size[inside].square().mean().sqrt()) < 0.05


def test_outer_spheres_have_the_field_of_spheres() -> None:
    phantom = ball_phantom()
    background = render_background(dataclasses.replace(PARAMS, sources=(OUTER,)), phantom)
    centre = sphere_centres((OUTER,), GRID, phantom.mask.float())[0]
    voxel = (centre + torch.tensor(GRID.field_of_view_mm) / 2) / torch.tensor(GRID.voxel_size_mm)
    expected = 3.0 * sphere_field(positions(GRID.shape, GRID.voxel_size_mm, tuple(voxel.tolist())), 8.0, OBLIQUE).float()
    difference = (background.total_ppm - expected)[phantom.mask]
    assert float((difference - difference.mean()).abs().max()) < 1e-4 * float(expected[phantom.mask].abs().max())
    assert abs(float(background.total_ppm[phantom.mask].mean())) < 1e-6  # the centre frequency is adjusted


@pytest.mark.parametrize("radii_mm", [(22.0, 22.0, 22.0), (30.0, 12.0, 20.0)])
def test_outer_spheres_lie_outside_the_mask(radii_mm: tuple[float, float, float]) -> None:
    axes = grid_axes(GRID, torch.device("cpu"))
    shapes = [(-1, 1, 1), (1, -1, 1), (1, 1, -1)]
    mask = sum(((a / r).square().reshape(s) for a, r, s in zip(axes, radii_mm, shapes, strict=True)), torch.zeros(())) < 1
    rng = np.random.default_rng(0)
    drawn = [draw_background(BackgroundRanges(probability=1.0, source_gap_mm=(4.0, 4.0)), rng) for _ in range(8)]
    sources = tuple(s for d in drawn if d is not None for s in d.sources)
    place = torch.stack([a[i] for a, i in zip(axes, mask.nonzero().T, strict=True)], -1)
    distance = torch.cdist(sphere_centres(sources, GRID, mask.float()), place).amin(1) - torch.tensor([s.radius_mm for s in sources])
    assert len(sources) > 40
    assert 1.0 < float(distance.min()) < float(distance.max()) < 12.0


def test_air_around_a_spherical_head_has_no_field_and_a_sinus_that_of_a_sphere() -> None:
    """Inside a uniform shell the field is 0, so what is left is the sinus."""
    geometry = Geometry((48, 46, 50), (2.0, 2.1, 2.0), OBLIQUE, 3.0)
    radius, sinus_mm = _radius(geometry), (0.0, 4.0, -30.0)
    labels = torch.full(geometry.shape, LABELS["white_matter"], dtype=torch.uint8)
    labels[radius > 42] = LABELS["air"]
    ones = torch.ones(geometry.shape)
    quiet = Phantom(geometry, 0 * ones, ones, ones, ones, labels, radius < 18)
    noisy = labels.clone()
    sinus = _radius(geometry, sinus_mm) < 6
    noisy[sinus] = LABELS["air"]
    inside = radius < 16
    shell = label_field(quiet, geometry, 9.4, -2.1, 0.6)
    assert float(shell[inside].std()) < 0.02
    field = label_field(dataclasses.replace(quiet, labels=noisy), geometry, 9.4, -2.1, 0.6) - shell
    equal_mm = (float(sinus.sum()) * math.prod(geometry.voxel_size_mm) * 3 / (4 * math.pi)) ** (1 / 3)
    centre = sinus.nonzero().double().mean(0).tolist()
    expected = 9.4 * sphere_field(positions(geometry.shape, geometry.voxel_size_mm, tuple(centre)), equal_mm, OBLIQUE).float()
    error = (field - expected)[inside]
    assert float(error.std()) < 0.05 * float(expected[inside].std())


def test_the_shim_takes_solid_harmonics_and_nothing_higher() -> None:
    x, y, z = (a / 40 for a in grid_axes(GRID, torch.device("cpu")))
    inside = _radius(GRID) < 22
    second = 0.3 + 0.1 * x[:, None, None] - 0.2 * y[:, None] * z + 0.4 * (2 * z**2 - x[:, None, None] ** 2 - y[:, None] ** 2)
    assert float(shimmed(second, GRID, inside, 2).abs().max()) < 1e-5
    assert float(shimmed(second, GRID, inside, 1)[inside].std()) > 0.01
    third = (x**3)[:, None, None] - 3 * x[:, None, None] * (y**2)[:, None] + 0 * z
    left = shimmed(third, GRID, inside, 2)
    assert float(left[inside].std()) > 0.5 * float(third[inside].std())
    assert float(left[inside].double().mean().abs()) < 1e-6


def test_it_is_a_field_of_position_not_of_the_grid() -> None:
    coarse, fine = (Geometry(shape, (84 / shape[0], 79.2 / shape[1], 88 / shape[2]), OBLIQUE, 3.0) for shape in ((56, 54, 60), (112, 108, 120)))
    fields = []
    for geometry in (coarse, fine):
        x, y, z = (slice(0, n) for n in geometry.shape)
        fields.append(render_background(PARAMS, ball_phantom(geometry=geometry)).total(geometry, (x, y, z)))
    assert source_grid(fine).shape == source_grid(coarse).shape
    inside = _radius(coarse) < 20
    there, here = fields[1][::2, ::2, ::2], fields[0]
    assert float((there - here)[inside].std()) < 0.05 * float(here[inside].std())


def _fitted(params: BackgroundParams) -> tuple[torch.Tensor, torch.Tensor]:
    """Field fitted to a scan of the phantom without susceptibility, and its magnitude."""
    acquisition = Acquisition(peak_snr=math.inf, shape=GRID.shape, echo_times_s=(0.003, 0.007))
    scan, _ = acquire(ball_phantom(), acquisition, torch.Generator(), effects=Effects(background=params), truth="crop", complete=False)
    return fit_field(scan, kind="total").field_ppm, scan.magnitude


def test_the_phase_holds_the_background_and_its_removal_takes_it_out_again() -> None:
    """A scan without susceptibility: what is fitted is the background, then the part that the removal leaves; the dephasing stays."""
    mask = ball_phantom().mask
    expected = render_background(PARAMS, ball_phantom()).total_ppm[mask]
    whole, signal = _fitted(PARAMS)
    assert float((whole[mask] - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    part, same = _fitted(dataclasses.replace(PARAMS, removed=0.8))
    assert float((part[mask] - 0.2 * expected).abs().max()) < 1e-4 * float(expected.abs().max())
    assert torch.allclose(signal, same, atol=1e-6)


def test_what_has_dephased_stays_dephased() -> None:
    """On coarser voxels the background costs signal, and its removal does not bring that back."""
    acquisition = Acquisition(peak_snr=math.inf, shape=(16, 15, 18), echo_times_s=(0.03,), repetition_time_s=0.05)
    near = dataclasses.replace(PARAMS, sources=(Source((0.6, 0.0, 0.8), 4.0, 16.0, 9.0),))
    effects = [Effects(), Effects(background=near), Effects(background=dataclasses.replace(near, removed=1.0))]
    quiet, whole, removed = (acquire(ball_phantom(), acquisition, torch.Generator(), effects=e, truth="crop")[0] for e in effects)
    assert torch.allclose(whole.magnitude, removed.magnitude, atol=1e-6)
    assert float((whole.magnitude / quiet.magnitude)[0][quiet.mask].min()) < 0.8


def test_the_residual_has_the_drawn_rms() -> None:
    params = dataclasses.replace(PARAMS, removed=1.0, residual_rms_ppm=0.015)
    background = render_background(params, ball_phantom())
    left = (background.total_ppm - background.removed_ppm)[ball_phantom().mask]
    assert float(left.square().mean().sqrt()) == pytest.approx(0.015, rel=1e-3)
    assert abs(float(left.mean())) < 1e-4


def test_draws_lie_in_their_ranges() -> None:
    ranges = BackgroundRanges(probability=1.0, removal_probability=0.5, n_sources=(2, 5))
    drawn = [draw_background(ranges, np.random.default_rng(i)) for i in range(200)]
    some = [d for d in drawn if d is not None]
    assert len(some) == 200
    assert {len(d.sources) for d in some} == {2, 3, 4, 5}
    assert all(math.hypot(*s.direction) == pytest.approx(1) and -3 <= s.chi_ppm <= 9.4 and 4 <= s.gap_mm <= 30 for d in some for s in d.sources)
    removed = [d for d in some if d.removed]
    assert len(removed) == pytest.approx(100, abs=25)
    assert all(0.95 <= d.removed <= 1 and 0 <= d.residual_rms_ppm <= 0.01 for d in removed)
    assert all(d.residual_rms_ppm == 0 for d in some if not d.removed)
    assert draw_background(ranges, np.random.default_rng(3)) == draw_background(ranges, np.random.default_rng(3))
    assert draw_background(BackgroundRanges(), np.random.default_rng(0)) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"air_ppm": (9, 20)}, "background.air_ppm is"),
        ({"shim_order": (0, 3)}, "background.shim_order is"),
        ({"shim_order": (0, 1.5)}, "whole numbers"),
        ({"removed": (0.5, 1.5)}, "background.removed is"),
        ({"residual_rms_ppm": (-0.1, 0)}, "background.residual_rms_ppm is"),
        ({"source_gap_mm": (1, 5)}, "background.source_gap_mm is"),
        ({"removal_probability": 3}, "background.removal_probability is 3"),
    ],
)
def test_bad_ranges_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BackgroundRanges(**settings)  # type: ignore[arg-type]
