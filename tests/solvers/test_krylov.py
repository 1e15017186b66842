import itertools
import math

import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.solvers.krylov import cg, cgls, inner


def system(n: int = 12, condition: float = 100.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A symmetric positive definite matrix and a right-hand side."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    matrix = basis @ torch.diag(torch.logspace(0, math.log10(condition), n, dtype=torch.float64)) @ basis.T
    return matrix, torch.randn(n, generator=generator, dtype=torch.float64)


def test_cg_solves_a_dense_system_in_as_many_steps_as_unknowns():
    matrix, b = system()
    found = cg(lambda x: matrix @ x, b, n_iterations=30, tolerance=1e-12)
    torch.testing.assert_close(found.x, torch.linalg.solve(matrix, b), rtol=1e-9, atol=1e-10)
    assert found.n_steps <= 16  # 12, and what rounding adds, which depends on the processor
    assert found.stopped == "tolerance reached"
    assert found.residual == found.curve[-1] <= 1e-12
    assert len(found.curve) == found.n_steps + 1


def test_cg_takes_the_textbook_steps():
    """x_k minimises 1/2 x^T A x - b^T x over the Krylov space of b and A of dimension k."""
    matrix, b = system(seed=1)
    for k in (1, 2, 4):
        krylov = torch.linalg.qr(torch.stack([torch.linalg.matrix_power(matrix, i) @ b for i in range(k)], 1)).Q
        expected = krylov @ torch.linalg.solve(krylov.T @ matrix @ krylov, krylov.T @ b)
        torch.testing.assert_close(cg(lambda x: matrix @ x, b, n_iterations=k, tolerance=0.0).x, expected)


def test_a_preconditioner_changes_the_way_but_not_the_end():
    matrix, b = system(condition=1e4, seed=2)
    scale = torch.logspace(-3, 3, 12, dtype=torch.float64)
    stretched = scale[:, None] * matrix * scale
    plain = cg(lambda x: stretched @ x, b, n_iterations=60, tolerance=1e-10)
    helped = cg(lambda x: stretched @ x, b, n_iterations=60, tolerance=1e-10, precondition=lambda r: r / scale**2)
    assert helped.n_steps < plain.n_steps
    torch.testing.assert_close(helped.x, torch.linalg.solve(stretched, b), rtol=1e-6, atol=1e-12)
    # CG preconditioned by P^2 is CG for y with x = P y.
    split = cg(lambda y: (stretched @ (y / scale)) / scale, b / scale, n_iterations=3, tolerance=0.0)
    three = cg(lambda x: stretched @ x, b, n_iterations=3, tolerance=0.0, precondition=lambda r: r / scale**2)
    torch.testing.assert_close(three.x, split.x / scale, rtol=1e-9, atol=0)


def test_cg_goes_on_from_a_start_without_touching_it():
    matrix, b = system(seed=3)
    exact = torch.linalg.solve(matrix, b)
    start = exact + 1e-3
    before = start.clone()
    found = cg(lambda x: matrix @ x, b, n_iterations=40, tolerance=1e-11, start=start)
    torch.testing.assert_close(found.x, exact)
    assert torch.equal(start, before)
    assert found.curve[0] == pytest.approx(float((b - matrix @ start).norm() / b.norm()))
    assert cg(lambda x: matrix @ x, b, n_iterations=40, tolerance=1e-6, start=exact).n_steps == 0


def test_cg_on_complex_volumes_counts_real_and_imaginary_parts():
    scale = torch.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=torch.float64)
    b = torch.tensor([[1 + 2j, -1j], [2 - 1j, 3]], dtype=torch.complex128)
    torch.testing.assert_close(cg(lambda x: scale * x, b, n_iterations=10, tolerance=1e-12).x, b / scale)
    assert inner(b, 1j * b) == pytest.approx(0)
    assert inner(b, b) == pytest.approx(float(b.abs().square().sum()))


def test_cg_ends_where_no_solution_is_left_to_find():
    assert cg(torch.clone, torch.zeros(3), n_iterations=5, tolerance=0.1).n_steps == 0
    flat = cg(lambda x: x * torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), n_iterations=5, tolerance=0.0)
    assert flat.stopped == "no curvature left"
    assert cg(lambda x: 2 * x + 1e-3 * x.sum(), torch.ones(4), n_iterations=1, tolerance=0.0).stopped == "max steps"


def test_cg_reports_steps_and_refuses_what_is_not_finite():
    matrix, b = system()
    seen: list[tuple[int, float]] = []
    found = cg(lambda x: matrix @ x, b, n_iterations=3, tolerance=0.0, on_step=lambda step, residual: seen.append((step, residual)))
    assert seen == list(enumerate(found.curve[1:], start=1))
    with pytest.raises(InputError, match="not finite"):
        cg(lambda x: x * math.nan, b, n_iterations=3, tolerance=0.0)
    with pytest.raises(InputError, match="n_iterations"):
        cg(lambda x: x, b, n_iterations=0, tolerance=0.0)
    with pytest.raises(InputError, match="tolerance"):
        cg(lambda x: x, b, n_iterations=1, tolerance=1.5)


def test_cgls_minimises_least_squares_and_its_residual_never_rises():
    generator = torch.Generator().manual_seed(4)
    matrix, b = torch.randn(20, 7, generator=generator, dtype=torch.float64), torch.randn(20, generator=generator, dtype=torch.float64)
    found = cgls(lambda x: matrix @ x, lambda y: matrix.T @ y, b, n_iterations=50, tolerance=1e-10)
    expected = np.linalg.lstsq(matrix.numpy(), b.numpy(), rcond=None)[0]
    np.testing.assert_allclose(found.x.numpy(), expected, atol=1e-9)
    assert found.stopped == "tolerance reached"
    assert all(later <= earlier + 1e-14 for earlier, later in itertools.pairwise(found.curve))
    assert found.residual == pytest.approx(float((b - matrix @ found.x).norm() / b.norm()))


def test_cgls_takes_the_steps_of_cg_on_the_normal_equations():
    generator = torch.Generator().manual_seed(6)
    matrix, b = torch.randn(9, 9, generator=generator, dtype=torch.float64), torch.randn(9, generator=generator, dtype=torch.float64)
    normal = cg(lambda x: matrix.T @ (matrix @ x), matrix.T @ b, n_iterations=4, tolerance=0.0)
    torch.testing.assert_close(cgls(lambda x: matrix @ x, lambda y: matrix.T @ y, b, n_iterations=4, tolerance=0.0).x, normal.x)


def test_cgls_of_a_singular_system_finds_the_shortest_solution():
    matrix = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64)
    found = cgls(lambda x: matrix @ x, lambda y: matrix.T @ y, torch.tensor([2.0, 4.0], dtype=torch.float64), n_iterations=10, tolerance=1e-12)
    torch.testing.assert_close(found.x, torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64))
    assert cgls(lambda x: matrix @ x, lambda y: matrix.T @ y, torch.zeros(2, dtype=torch.float64), n_iterations=3, tolerance=0.1).residual == 0
    first = torch.tensor([1.0, 0.0])
    unseen = cgls(lambda x: x * first, lambda y: y * first, torch.tensor([0.0, 1.0]), n_iterations=3, tolerance=0.1)
    assert (unseen.n_steps, unseen.residual) == (0, 1.0)
    with pytest.raises(InputError, match="not finite"):
        cgls(lambda x: x * math.inf, lambda y: y, torch.ones(2), n_iterations=3, tolerance=0.0)
