"""The building blocks: proximal maps, weights, the working grid, ADMM."""

import math

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.admm import Term, admm, relative_change
from qsmdl.solvers.grid import WorkingGrid
from qsmdl.solvers.prox import soft_threshold, weighted_cosine, weighted_quadratic
from qsmdl.solvers.weights import data_weight

V = torch.tensor([-2.0, -0.4, 0.0, 0.3, 1.7], dtype=torch.float64)
DATA = torch.tensor([-1.2, 0.5, 0.3, 0.1, 1.0], dtype=torch.float64)
SQUARED = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0], dtype=torch.float64)
FINE = torch.linspace(-3, 3, 60001, dtype=torch.float64)


def by_search(g: torch.Tensor, penalty: float) -> torch.Tensor:
    """argmin of g(z) + penalty / 2 (z - v)^2 over a fine grid, g [voxel, grid]."""
    return FINE[(g + penalty / 2 * (FINE - V[:, None]) ** 2).argmin(1)]


def test_soft_threshold_minimises_its_term():
    torch.testing.assert_close(soft_threshold(V, 0.35), by_search(0.7 * FINE.abs().expand(5, -1), 2.0), atol=2e-4, rtol=0)


def test_weighted_quadratic_minimises_its_term():
    g = 0.5 * SQUARED[:, None] * (FINE - DATA[:, None]) ** 2
    torch.testing.assert_close(weighted_quadratic(V, DATA, SQUARED, 1.3), by_search(g, 1.3), atol=2e-4, rtol=0)


def test_weighted_cosine_minimises_its_term():
    g = SQUARED[:, None] / 1.5**2 * (1 - torch.cos((1.5 * (FINE - DATA[:, None])).clamp(-math.pi, math.pi)))
    torch.testing.assert_close(weighted_cosine(V, DATA, SQUARED, 1.3, 1.5, n_newton=30), by_search(g, 1.3), atol=2e-4, rtol=0)
    torch.testing.assert_close(weighted_cosine(V, DATA, SQUARED, 1.3, 1.5), by_search(g, 1.3), atol=0.02, rtol=0)


@pytest.mark.parametrize("n_newton", [1, 2, 4, 9])
def test_weighted_cosine_lets_distant_data_go_and_never_overshoots(n_newton: int):
    far = torch.linspace(-50, 50, 1001, dtype=torch.float64)
    ones = torch.ones_like(far)
    z = weighted_cosine(far, 0 * far, 3 * ones, 1.0, 1.0, n_newton=n_newton)
    quadratic = weighted_quadratic(far, 0 * far, 3 * ones, 1.0)
    assert bool((z.abs() <= far.abs() + 1e-12).all())
    assert bool((z.abs() >= quadratic.abs() - 1e-12).all())
    beyond = far.abs() > 4 * math.pi
    torch.testing.assert_close(z[beyond], far[beyond])


def test_weights_have_the_mean_1_in_the_mask(tiny):
    field = tiny()
    mask = field.mask.clone()
    mask[2] = False
    field = FieldMap(field.geometry, field.field_ppm, mask, field.weight)
    for weighting in ("noise", "uniform"):
        weight = data_weight(field, weighting)
        assert float(weight[mask].mean()) == pytest.approx(1)
        assert float(weight[~mask].abs().max()) == 0
    assert float(data_weight(field, "uniform")[mask].std()) == 0
    ratio = data_weight(field)[mask] / field.weight[mask]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    with pytest.raises(InputError, match="'noise' or 'uniform'"):
        data_weight(field, "magnitude")


def test_volumes_go_to_the_working_grid_and_back():
    geometry = Geometry((11, 9, 14), affine=None)
    mask = torch.zeros(geometry.shape, dtype=torch.bool)
    mask[2:9, 3:8, 5:13] = True
    mask[4, 4, 6] = False
    volume = torch.randn(geometry.shape, generator=torch.Generator().manual_seed(0))
    field = FieldMap(geometry, volume, mask, mask.float())
    grid = WorkingGrid.of(field, 1.5)
    placed = grid.place(volume)
    assert placed.shape == grid.shape
    assert all(n >= 1.5 * m for n, m in zip(grid.shape, (7, 5, 8), strict=True))
    assert float(placed.square().sum()) == pytest.approx(float(volume[mask].square().sum()))
    assert torch.equal(grid.chi_map(placed, None).chi_ppm, volume * mask)
    assert WorkingGrid.of(field, None).shape == geometry.shape


def lasso(b: torch.Tensor, alpha: float) -> list[Term]:
    """alpha ||x||_1 + 1/2 ||x - b||^2, split twice."""
    return [
        Term(torch.clone, lambda v: soft_threshold(v, alpha), torch.zeros_like(b)),
        Term(torch.clone, lambda v: weighted_quadratic(v, b, torch.ones_like(b), 1.0), torch.zeros_like(b)),
    ]


def test_admm_solves_a_problem_with_a_known_answer():
    b = torch.randn(50, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    steps: list[int] = []
    found = admm(lambda t: (t[0] + t[1]) / 2, lasso(b, 0.5), n_iterations=500, tolerance=1e-9, on_step=lambda step, _: steps.append(step))
    torch.testing.assert_close(found.x, soft_threshold(b, 0.5), atol=1e-7, rtol=0)
    assert found.stopped == "tolerance reached"
    assert found.n_steps == len(found.curve) == len(steps) < 500
    assert found.outcome.residual == found.residual < 1e-9


def test_admm_stops_when_the_steps_are_used_up_or_the_map_explodes():
    b = torch.ones(3)
    assert admm(lambda t: (t[0] + t[1]) / 2, lasso(b, 0.1), n_iterations=3, tolerance=0.0).stopped == "max steps"
    with pytest.raises(InputError, match="no longer finite after 2 steps"):
        admm(lambda t: t[0] + math.nan if float(t[1].abs().sum()) > 0 else t[0], lasso(b, 0.1), n_iterations=5, tolerance=0.0)
    with pytest.raises(InputError, match="n_iterations"):
        admm(lambda t: t[0], lasso(b, 0.1), n_iterations=0, tolerance=0.0)
    with pytest.raises(InputError, match="tolerance"):
        admm(lambda t: t[0], lasso(b, 0.1), n_iterations=1, tolerance=2.0)


def test_the_relative_change():
    x = torch.tensor([3.0, 4.0])
    assert relative_change(x, x + torch.tensor([0.0, 1.0])) == pytest.approx(0.2)
    assert relative_change(x, None) == 1
    assert relative_change(0 * x, None) == 1
    assert relative_change(0 * x, 0 * x) == 0
