"""The terms that Gauss-Newton inversions are made of, and their preconditioners, against dense matrices."""

import numpy as np
import pytest
import torch
from tiny_scans import neumann_gradient

from qsmdl.errors import InputError
from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.csf import Uniformity, csf_mask
from qsmdl.solvers.echoes import FieldMisfit
from qsmdl.solvers.krylov import inner
from qsmdl.solvers.objective import DipoleMisfit, FourierCoordinates, SmoothedVariation, inverse_mean_curvature
from qsmdl.solvers.preconditioner import preconditioner, strength_by_r2star, strength_by_threshold
from qsmdl.solvers.problem import Problem

SHAPES = [(5, 3, 4), (4, 6, 5), (3, 3, 3), (2, 4, 6)]


def volume(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_fourier_coordinates_keep_inner_products(shape: tuple[int, int, int]):
    coordinates = FourierCoordinates(shape, volume(shape))
    a, b = volume(shape, 1), volume(shape, 2)
    assert inner(coordinates.pack(a), coordinates.pack(b)) == pytest.approx(float((a * b).sum()), rel=1e-12)
    torch.testing.assert_close(coordinates.unpack(coordinates.pack(a)), a)
    torch.testing.assert_close(coordinates.density(coordinates.pack(a)), torch.fft.rfftn(a).abs())
    kernel = torch.fft.rfftn(a).abs()
    torch.testing.assert_close(coordinates.unpack(coordinates.pack(b), kernel), torch.fft.irfftn(torch.fft.rfftn(b) * kernel, s=shape))
    torch.testing.assert_close(coordinates.unpack(coordinates.filter(b, kernel)), torch.fft.irfftn(torch.fft.rfftn(b) * kernel, s=shape))


def matrix_of(apply, coordinates: FourierCoordinates) -> np.ndarray:
    """An operator in Fourier coordinates as a matrix of volumes."""
    units = torch.eye(int(np.prod(coordinates.shape)), dtype=torch.float64).reshape(-1, *coordinates.shape)
    return np.stack([coordinates.unpack(apply(coordinates.pack(u))).numpy().ravel() for u in units], axis=1)


def test_the_data_term_against_its_matrix(tiny, dense):
    field = tiny()
    problem = Problem.of(field, padding=None)
    coordinates = FourierCoordinates(problem.grid.shape, problem.data)
    data = DipoleMisfit(problem, FieldMisfit.of(problem, 0.004), coordinates)
    dipole, _ = dense(field)
    x, weight, c = volume(field.geometry.shape, 3).mul_(0.1), problem.weight.numpy().ravel(), problem.radians(0.004)
    z = dipole @ x.numpy().ravel()
    misfit = z - problem.data.numpy().ravel()
    angle = (c * misfit).clip(-np.pi, np.pi)
    model = data.linearise(coordinates.pack(x))
    assert model.value == data.value(coordinates.pack(x)) == pytest.approx((weight**2 / c**2 * (1 - np.cos(angle))).sum())
    gradient = dipole.T @ (weight**2 / c * np.sin(angle))
    for found in (model.gradient, data.gradient(coordinates.pack(x))):
        np.testing.assert_allclose(coordinates.unpack(found).numpy().ravel(), gradient, atol=1e-13)
    np.testing.assert_allclose(matrix_of(model.curvature, coordinates), dipole.T @ np.diag(weight**2) @ dipole, atol=1e-12)
    assert data.mean_curvature() == pytest.approx((weight**2).mean())


@pytest.mark.parametrize("masked", [False, True])
def test_the_smoothed_variation_against_its_matrix(masked: bool, tiny):
    field, alpha, eps = tiny(), 2e-3, 0.01
    problem = Problem.of(field, padding=None)
    coordinates = FourierCoordinates(problem.grid.shape, problem.data)
    mask = (volume((3, *field.geometry.shape), 5) > -0.5).double() if masked else None
    variation = SmoothedVariation(problem, coordinates, alpha, eps, mask)
    gradient = neumann_gradient(field)
    if mask is not None:
        gradient = gradient * mask.numpy().reshape(-1, 1)
    x = volume(field.geometry.shape, 3).mul_(0.1)
    edges = gradient @ x.numpy().ravel()
    length = np.sqrt(edges**2 + eps**2)
    model = variation.linearise(coordinates.pack(x))
    assert model.value == pytest.approx(alpha * (length - eps).sum())
    assert variation.value(coordinates.pack(x)) == pytest.approx(model.value)
    np.testing.assert_allclose(coordinates.unpack(model.gradient).numpy().ravel(), alpha * gradient.T @ (edges / length), atol=1e-14)
    np.testing.assert_allclose(matrix_of(model.curvature, coordinates), alpha * gradient.T @ (gradient / length[:, None]), atol=1e-13)
    kept = 1.0 if mask is None else mask.numpy().ravel()
    assert variation.mean_strength() == pytest.approx((alpha * kept / length).mean())


def test_the_lagged_model_lies_above_the_objective(tiny):
    """What makes every whole step a descent: touching at x, the quadratic model is nowhere below."""
    problem = Problem.of(tiny(), padding=None)
    coordinates = FourierCoordinates(problem.grid.shape, problem.data)
    for term in (SmoothedVariation(problem, coordinates, 1e-2, 1e-3), DipoleMisfit(problem, FieldMisfit.of(problem, 0.004), coordinates)):
        x = coordinates.pack(volume(problem.grid.shape, 6) * 0.1)
        model = term.linearise(x)
        for seed in range(10):
            d = coordinates.pack(volume(problem.grid.shape, 10 + seed) * 0.2)
            assert term.value(x + d) <= model.value + inner(model.gradient, d) + 0.5 * inner(d, model.curvature(d)) + 1e-12


def test_uniformity_is_the_spread_of_a_region(tiny):
    field = tiny()
    coordinates = FourierCoordinates(field.geometry.shape, field.field_ppm)
    region = volume(field.geometry.shape, 4) > 0.3
    inside = region.numpy().ravel()
    centring = np.diag(inside.astype(float)) - np.outer(inside, inside) / inside.sum()
    term, x = Uniformity(region, coordinates, 0.3), volume(field.geometry.shape, 3)
    values = x.numpy().ravel()
    model = term.linearise(coordinates.pack(x))
    assert model.value == term.value(coordinates.pack(x)) == pytest.approx(0.15 * inside.sum() * np.var(values[inside]))
    np.testing.assert_allclose(coordinates.unpack(model.gradient).numpy().ravel(), 0.3 * centring @ values, atol=1e-13)
    np.testing.assert_allclose(matrix_of(model.curvature, coordinates), 0.3 * centring, atol=1e-13)


def test_the_mean_curvature_is_inverted_exactly(tiny, dense):
    """Where all weights are equal and the gradient periodic, the preconditioner is the inverse of the curvature."""
    field = tiny(uniform=True)
    problem = Problem.of(field, padding=None)
    coordinates = FourierCoordinates(problem.grid.shape, problem.data)
    data, variation = DipoleMisfit(problem, FieldMisfit.of(problem, 0.004), coordinates), SmoothedVariation(problem, coordinates, 2e-3, 0.1)
    variation.linearise(torch.zeros_like(coordinates.pack(problem.data)))
    kernel = inverse_mean_curvature(problem, data, variation)
    dipole, gradient = dense(field)
    curvature = dipole.T @ dipole + 0.02 * gradient.T @ gradient
    found = matrix_of(preconditioner(kernel, coordinates), coordinates)
    np.testing.assert_allclose(found, np.linalg.pinv(curvature, rcond=1e-10), atol=1e-9)
    assert float(kernel[0, 0, 0]) == 0


def test_a_strength_enters_the_preconditioner_squared(tiny):
    field = tiny()
    coordinates = FourierCoordinates(field.geometry.shape, field.field_ppm)
    strength = 1 + volume(field.geometry.shape, 8).abs()
    ones = torch.ones_like(torch.fft.rfftn(strength).abs())
    found = matrix_of(preconditioner(ones, coordinates, strength), coordinates)
    np.testing.assert_allclose(found, np.diag(strength.numpy().ravel() ** 2), atol=1e-12)
    kernel = ones + torch.fft.rfftn(volume(field.geometry.shape, 9)).abs()
    both = matrix_of(preconditioner(kernel, coordinates, strength), coordinates)
    np.testing.assert_allclose(both, both.T, atol=1e-12)
    assert float(np.linalg.eigvalsh(both).min()) > 0
    alone = matrix_of(preconditioner(kernel, coordinates), coordinates)
    np.testing.assert_allclose(matrix_of(preconditioner(kernel, coordinates, torch.ones_like(strength)), coordinates), alone, atol=1e-12)


def test_the_strength_follows_a_threshold_inside_the_mask():
    rate, mask = torch.tensor([10.0, 80.0, 90.0]), torch.tensor([True, True, False])
    assert strength_by_threshold(rate, mask, threshold_per_s=70.0, strength=30.0).tolist() == [1.0, 30.0, 1.0]


def test_the_strength_follows_the_logistic_behind_the_data():
    generator = torch.Generator().manual_seed(0)
    shape = (30, 25, 20)
    rate = 150 * torch.rand(shape, generator=generator, dtype=torch.float64)
    sigma = 0.02 + 0.18 / (1 + torch.exp(-(rate - 70) / 8))
    chi = sigma * torch.randn(shape, generator=generator, dtype=torch.float64)
    mask = torch.rand(shape, generator=generator) > 0.2
    found = strength_by_r2star(rate, chi, mask, largest=30.0)
    expected = sigma / (0.02 + 0.18 / (1 + np.exp(70 / 8)))
    assert float((found / expected - 1)[mask].abs().max()) < 0.15
    assert float((found[~mask] - 1).abs().max()) == 0
    capped = strength_by_r2star(rate, chi, mask, largest=5.0)
    assert float(capped.max()) == 5
    assert float(capped.min()) >= 1
    flat = strength_by_r2star(rate, torch.full_like(chi, 0.05), mask, largest=30.0)
    assert float((flat - 1).abs().max()) == 0


def test_a_strength_needs_a_spread_of_rates():
    with pytest.raises(InputError, match="bins of R2"):
        strength_by_r2star(torch.full((4, 5, 6), 20.0), torch.randn(4, 5, 6), torch.ones(4, 5, 6, dtype=torch.bool), largest=30.0)


def test_csf_is_what_decays_slowly_near_the_centre():
    geometry = Geometry((40, 36, 30), (1.0, 1.2, 1.5))
    rate, mask = torch.full(geometry.shape, 20.0), torch.zeros(geometry.shape, dtype=torch.bool)
    mask[2:38, 2:34, 2:28] = True
    expected = torch.zeros_like(mask)
    expected[18:24, 16:22, 14:18], expected[12:15, 16:19, 14:17], expected[26:29, 16:19, 14:17] = True, True, True
    rate[expected] = 2.0
    rate[20, 25, 15] = 2.0
    rate[3:6, 3:6, 3:6] = 2.0
    found = csf_mask(rate, mask, geometry, radius_mm=15.0)
    assert torch.equal(found, expected)
    with pytest.raises(InputError, match="No CSF was found"):
        csf_mask(rate + 100, mask, geometry)


def test_float32_stays_float32(tiny):
    field = tiny()
    single = FieldMap(field.geometry, field.field_ppm.float(), field.mask, field.weight.float())
    problem = Problem.of(single, padding=None)
    coordinates = FourierCoordinates(problem.grid.shape, problem.data)
    data, variation = DipoleMisfit(problem, FieldMisfit.of(problem, 0.004), coordinates), SmoothedVariation(problem, coordinates, 2e-3, 0.1)
    x = coordinates.pack(problem.data)
    for term in (data, variation):
        model = term.linearise(x)
        assert model.gradient.dtype == model.curvature(x).dtype == torch.complex64
    assert inverse_mean_curvature(problem, data, variation).dtype == torch.float32
