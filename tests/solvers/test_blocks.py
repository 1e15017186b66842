"""The building blocks: proximal maps, weights, the working grid, ADMM."""

import math

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.derivatives import Gradient
from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.admm import Term, admm, relative_change
from qsmdl.solvers.grid import WorkingGrid
from qsmdl.solvers.prox import PhaseSplit, box, shrink_vectors, soft_threshold, weighted_absolute, weighted_cosine, weighted_quadratic
from qsmdl.solvers.weights import data_weight, edge_mask, reject_outliers, soft_edge_weight

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
    torch.testing.assert_close(weighted_cosine(V, DATA, SQUARED, 1.3, 1.5), by_search(g, 1.3), atol=2e-4, rtol=0)


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


def test_weighted_absolute_minimises_its_term():
    g = SQUARED[:, None] * (FINE - DATA[:, None]).abs()
    torch.testing.assert_close(weighted_absolute(V, DATA, SQUARED, 1.3), by_search(g, 1.3), atol=2e-4, rtol=0)


def test_box_minimises_its_term():
    g = torch.where((FINE >= -0.5) & (FINE <= 1.2), 0.0, math.inf).expand(5, -1)
    torch.testing.assert_close(box(V, -0.5, 1.2), by_search(g, 2.0), atol=2e-4, rtol=0)


def test_shrink_vectors_minimises_its_term():
    """Against a search over the plane: 0.7 |z|_2 + |z - v|^2, threshold 0.35; a vector shorter than the threshold vanishes."""
    v = torch.tensor([[1.0, -0.1, 0.0, -0.6], [0.5, 0.2, 0.0, -0.8]], dtype=torch.float64)
    axis = torch.linspace(-1.2, 1.2, 1201, dtype=torch.float64)
    plane = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).reshape(2, -1)
    best = [plane[:, (0.7 * plane.norm(dim=0) + (plane - u[:, None]).square().sum(0)).argmin()] for u in v.T]
    found = shrink_vectors(v, 0.35)
    torch.testing.assert_close(found, torch.stack(best, dim=1), atol=3e-3, rtol=0)
    assert float(found[:, 1:3].abs().max()) == 0
    torch.testing.assert_close(shrink_vectors(v.T, torch.full((4, 1), 0.35), dim=1), found.T)


@pytest.mark.parametrize("phase_penalty", [1.0, 4.0])
def test_the_phase_split_ends_at_the_minimum_of_its_term(phase_penalty: float):
    """Called again and again with one v; the term is 2 w / c |sin(c (z - data) / 2)|."""
    c, penalty = 1.5, 2.0
    v = DATA + torch.tensor([0.9, -0.3, 0.7, 0.05, 1.5], dtype=torch.float64)
    weight = torch.tensor([0.5, 1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    split = PhaseSplit(DATA, weight, penalty, phase_penalty, c)
    passes = [split(v) for _ in range(400)]
    g = 2 * weight[:, None] / c * torch.sin((c / 2 * (FINE - DATA[:, None])).clamp(-math.pi / 2, math.pi / 2)).abs()
    expected = FINE[(g + penalty / 2 * (FINE - v[:, None]) ** 2).argmin(1)]
    torch.testing.assert_close(passes[-1], expected, atol=2e-4, rtol=0)
    assert float((passes[0] - expected).abs().max()) > 0.01


def test_the_phase_split_lets_data_beyond_half_a_turn_go():
    data, far = torch.zeros(1, dtype=torch.float64), torch.full((1,), 2 * math.pi, dtype=torch.float64)
    split = PhaseSplit(data, torch.ones_like(data), 1.0, 1.0, 1.0)
    for _ in range(50):
        z = split(far)
    torch.testing.assert_close(z, far)


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


def step_and_ramp() -> tuple[torch.Tensor, torch.Tensor]:
    """A volume with a step of 1 along x between 3 and 4 and a slope of 0.1 along z, and a mask a voxel smaller than the grid."""
    x, _, z = torch.meshgrid(torch.arange(8.0), torch.arange(7.0), torch.arange(6.0), indexing="ij")
    mask = torch.zeros(8, 7, 6, dtype=torch.bool)
    mask[1:-1, 1:-1, 1:-1] = True
    return (x > 3).float() + 0.1 * z + 1, mask


def test_the_edge_mask_marks_the_strongest_share():
    volume, mask = torch.rand(8, 7, 6, generator=torch.Generator().manual_seed(1)), torch.ones(8, 7, 6, dtype=torch.bool)
    gradient = Gradient((1.0, 2.0, 0.5))
    kept, strength = edge_mask(volume, mask, gradient, share=0.2), gradient(volume).abs()
    assert int((kept == 0).sum()) == round(0.2 * 3 * volume.numel())
    assert float(strength[kept == 0].min()) > float(strength[kept == 1].max())
    assert bool((edge_mask(volume, mask, gradient, share=0.0) == 1).all())
    with pytest.raises(InputError, match="share"):
        edge_mask(volume, mask, gradient, share=1.0)


def test_the_soft_edge_weight_is_small_at_edges_and_1_in_flat_parts():
    volume, mask = step_and_ramp()
    gradient = Gradient()
    weight = soft_edge_weight(volume, mask, gradient)
    strength = gradient(volume * mask).abs()
    mean = float(strength[:, mask].mean())
    torch.testing.assert_close(weight[0, 3, 2:5, 2:4], 0.5 * mean / strength[0, 3, 2:5, 2:4])
    assert float(weight[0, 3, 3, 3]) < 0.5 < float(weight[0, 2, 3, 3]) == 1
    assert float(weight.max()) == 1
    assert float(weight[:, ~mask].min()) == 1
    torch.testing.assert_close(soft_edge_weight(7 * volume, mask, gradient), weight)
    sharper = soft_edge_weight(volume, mask, gradient, floor=0.1)
    torch.testing.assert_close(sharper[0, 3, 3, 3], weight[0, 3, 3, 3] / 5)
    with pytest.raises(InputError, match="floor"):
        soft_edge_weight(volume, mask, gradient, floor=0.0)


@pytest.mark.parametrize("imaginary", [False, True])
def test_outliers_are_rejected_by_their_misfit(imaginary: bool):
    generator = torch.Generator().manual_seed(2)
    weight, residual = torch.rand(400, generator=generator) + 0.5, torch.randn(400, generator=generator)
    residual[7], residual[300] = 40.0, -90.0
    values = residual * (1j if imaginary else 1)
    tuned = reject_outliers(weight, values, factor=2.0, power=3.0)
    q = (values - values.mean()).abs() / (2 * values.sub(values.mean()).abs().square().mean().sqrt())
    expected = torch.where(q > 1, weight / q**3, weight)
    torch.testing.assert_close(tuned, expected * weight.mean() / expected.mean())
    assert float(tuned.mean()) == pytest.approx(float(weight.mean()))
    ratio = tuned / weight
    assert set(ratio.sort().indices[:2].tolist()) == {7, 300}
    assert float(ratio[300]) < float(ratio[7]) < 0.9 * float(ratio.median())


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


def test_admm_starts_from_a_map():
    b = torch.randn(50, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    answer = soft_threshold(b, 0.5)
    changes: list[float] = []
    found = admm(
        lambda t: (t[0] + t[1]) / 2, lasso(b, 0.5), n_iterations=2, tolerance=0.0, start=answer, on_step=lambda _, change: changes.append(change)
    )
    # One pass from the answer, by hand: the targets are 2 prox(x) - x, with duals of 0.
    first = (2 * soft_threshold(answer, 0.5) - answer + 2 * weighted_quadratic(answer, b, torch.ones_like(b), 1.0) - answer) / 2
    assert changes[0] == pytest.approx(float((first - answer).norm() / first.norm()))
    assert found.n_steps == len(changes) == 2
    more = admm(lambda t: (t[0] + t[1]) / 2, lasso(b, 0.5), n_iterations=500, tolerance=1e-9, start=answer)
    torch.testing.assert_close(more.x, answer, atol=1e-7, rtol=0)


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
