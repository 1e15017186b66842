"""The data term inside networks against complex signals, dense matrices and whole volumes."""

import math

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.networks.data_term import DataTerm, Physics, conjugate_gradients
from qsmdl.physics.dipole import Dipole

SHAPE, VOXEL, B0 = (7, 8, 9), (1.0, 1.3, 2.0), (0.36, 0.48, 0.8)
SCALE = torch.tensor(20.0, dtype=torch.float64)
C = torch.tensor([7.5, 22.5, 52.0], dtype=torch.float64)


def random(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def term(misfit="linear", *, spread_ppm=0.02, physics=True):
    """Of two samples with geometries of their own, in float64 (the operator is float32 inside, so it is replaced)."""
    directions = torch.tensor([B0, (0.0, 0.0, 1.0)], dtype=torch.float64)
    sizes = torch.tensor([VOXEL, (1.0, 1.0, 1.0)], dtype=torch.float64)
    share = torch.rand(2, 3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    phase = random(2, 3, *SHAPE, seed=2)
    known = Physics(sizes, directions, C.expand(2, 3), share / share.sum(1, keepdim=True), phase)
    mask = random(2, 1, *SHAPE, seed=3) > -1
    weight = 1 + 0.3 * random(2, 1, *SHAPE, seed=4).abs()
    rest = SCALE * spread_ppm * random(2, 1, *SHAPE, seed=5)
    made = DataTerm.of(rest, mask, weight, SCALE, known if physics else None, misfit=misfit, rad_per_ppm=20.0)
    exact = Dipole(SHAPE, sizes, directions, dtype=torch.float64)
    return DataTerm(exact, made.rest, made.mask, made.squared_weight.double(), SCALE, made.misfit, made.rad_per_ppm, known)


def objective(found, x):
    """From complex signals, in units of the network, summed over everything."""
    error = found.dipole(x * found.mask) * found.mask - found.rest
    if found.misfit == "linear":
        return 0.5 * (found.squared_weight * error.square()).sum()
    if found.misfit == "field":
        turned = torch.polar(torch.ones_like(error), found.rad_per_ppm * error / found.scale)
        return (found.squared_weight * 0.5 * (turned - 1).abs().square()).sum() * (found.scale / found.rad_per_ppm) ** 2
    c = C.reshape(1, 3, 1, 1, 1)
    angle = c * error / found.scale
    distance = (torch.polar(torch.ones_like(angle), angle) - torch.polar(torch.ones_like(angle), found.physics.echo_phase_rad)).abs().square()
    return (found.squared_weight * found.physics.echo_share * 0.5 * distance * (found.scale / c) ** 2).sum()


@pytest.mark.parametrize("misfit", ["linear", "field", "echoes"])
def test_the_gradient_is_that_of_the_complex_misfit(misfit):
    found = term(misfit, spread_ppm=0.004)
    found.physics.echo_phase_rad.mul_(0.3)  # within half a turn, where nothing is bounded
    x = (0.02 * random(2, 1, *SHAPE, seed=6)).requires_grad_()
    (expected,) = torch.autograd.grad(objective(found, x), x)
    torch.testing.assert_close(found.gradient(found.residual(x.detach())), expected, rtol=1e-8, atol=1e-10)


def test_a_misfit_beyond_half_a_turn_pulls_no_more():
    found = term("field")
    residual = torch.full((2, 1, *SHAPE), 1.01 * math.pi / 20.0 * 20.0, dtype=torch.float64)
    assert float(found.slope(residual).abs().max()) < 1e-12
    assert float(found.slope(residual / 2.02).abs().max()) > 0.9


def test_small_misfits_are_linear_in_every_form():
    linear, field, echoes = (term(m) for m in ("linear", "field", "echoes"))
    echoes.physics.echo_phase_rad.zero_()
    small = 1e-4 * random(2, 1, *SHAPE, seed=7)
    for found in (field, echoes):
        torch.testing.assert_close(found.slope(small), linear.slope(small), rtol=1e-4, atol=1e-12)


def test_conjugate_gradients_solve_each_sample_by_itself():
    found, damping = term(), torch.tensor(0.05, dtype=torch.float64)
    target = found.mask * random(2, 1, *SHAPE, seed=8)
    solved = conjugate_gradients(found, target, torch.zeros_like(target), damping, 60)
    n = math.prod(SHAPE)
    for sample in range(2):
        units = torch.zeros(n, 2, 1, *SHAPE, dtype=torch.float64)
        units[:, sample, 0] = torch.eye(n, dtype=torch.float64).reshape(n, *SHAPE)
        matrix = torch.stack([found.normal(u)[sample].flatten() for u in units], 1) + 0.05 * torch.eye(n, dtype=torch.float64)
        torch.testing.assert_close(matrix, matrix.T, atol=1e-12, rtol=0)
        expected = torch.linalg.solve(matrix, target[sample].flatten())
        torch.testing.assert_close(solved[sample].flatten(), expected, atol=1e-7, rtol=1e-6)


def test_a_patch_sees_the_field_of_what_changes_inside_it_and_the_start_outside():
    """Whole volume and patch agree where the iterate differs from the start inside the patch alone."""
    whole, box = (40, 38, 36), (slice(8, 34), slice(7, 33), slice(6, 31))
    operator = Dipole(whole, VOXEL, B0, fft_shape=(80, 75, 72))
    start, measured = (0.1 * random(1, 1, *whole, seed=s).float() for s in (1, 2))
    places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in whole), indexing="ij"))
    far = ((places - torch.tensor([21, 20, 18]).reshape(3, 1, 1, 1)) / 1.5).square().sum(0)
    change = 0.05 * torch.exp(-far / 2)[None, None]
    whole_maps = (measured - operator(start), operator(start + change) - measured, operator(change))
    rest, expected, field = (v[..., box[0], box[1], box[2]] for v in whole_maps)
    mask = torch.ones(rest.shape, dtype=torch.bool)
    physics = Physics(torch.tensor([VOXEL]), torch.tensor([B0]))
    patch = DataTerm.of(rest, mask, mask.float(), torch.tensor(1.0), physics, misfit="linear", rad_per_ppm=7.5)
    found = patch.residual(change[..., box[0], box[1], box[2]])
    assert float((found - expected).norm() / field.norm()) < 0.04  # grids padded by different factors
    assert float(field.norm() / change.norm()) > 0.1


def test_what_is_missing_is_named():
    with pytest.raises(InputError, match="voxel size and the direction of B0"):
        term(physics=False)
    without = Physics(torch.tensor([VOXEL]), torch.tensor([B0]))
    with pytest.raises(InputError, match=r"data\.prior\.echoes=true"):
        DataTerm.of(torch.zeros(1, 1, *SHAPE), torch.ones(1, 1, *SHAPE), torch.ones(1, 1, *SHAPE), SCALE, without, misfit="echoes", rad_per_ppm=7.5)
