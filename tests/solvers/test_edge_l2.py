from dataclasses import replace

import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.derivatives import Gradient
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Geometry, Scan
from qsmdl.solvers.direct import l2
from qsmdl.solvers.edge_l2 import edge_l2
from qsmdl.solvers.weights import edge_mask

SETTINGS = {"regularisation": 0.02, "edge_share": 0.25, "padding": None}


def system_of(field, dense):
    """The normal equations of min ||D x - f||^2 + b ||M G x||^2, and M as a vector."""
    dipole, gradient = dense(field)
    kept = edge_mask(field.weight, field.mask, Gradient(field.geometry.voxel_size_mm), share=SETTINGS["edge_share"]).numpy().reshape(-1)
    return dipole, gradient, kept


def cost(x, field, dense):
    dipole, gradient, kept = system_of(field, dense)
    x = x.numpy().ravel()
    misfit = dipole @ x - field.field_ppm.numpy().ravel()
    return float(misfit @ misfit + SETTINGS["regularisation"] * np.square(kept * (gradient @ x)).sum())


def test_many_passes_reach_the_minimum(tiny, dense):
    field = tiny()
    dipole, gradient, kept = system_of(field, dense)
    normal = dipole.T @ dipole + SETTINGS["regularisation"] * gradient.T @ (kept[:, None] * gradient)
    expected = np.linalg.lstsq(normal, dipole.T @ field.field_ppm.numpy().ravel(), rcond=1e-12)[0]
    found = edge_l2(field, n_iterations=3000, tolerance=0.0, **SETTINGS).chi_ppm.numpy().ravel()
    np.testing.assert_allclose(found, expected - expected.mean(), atol=1e-3 * np.abs(expected).max())


def test_the_objective_falls_from_pass_to_pass_and_starts_at_l2(tiny, dense):
    field = tiny(1)
    costs = [cost(edge_l2(field, n_iterations=n, tolerance=0.0, **SETTINGS).chi_ppm, field, dense) for n in range(1, 8)]
    start = cost(l2(field, regularisation=SETTINGS["regularisation"], padding=None).chi_ppm, field, dense)
    assert all(later < earlier for earlier, later in zip([start, *costs], costs, strict=False))


def test_without_edges_it_is_l2(tiny):
    field = tiny(2)
    torch.testing.assert_close(edge_l2(field, regularisation=0.02, edge_share=0.0).chi_ppm, l2(field, regularisation=0.02).chi_ppm)


def test_edges_come_from_the_magnitude_of_the_scan(tiny):
    field = tiny(3)
    generator = torch.Generator().manual_seed(0)
    magnitude = torch.rand((2, *field.geometry.shape), generator=generator, dtype=torch.float64)
    scan = Scan(field.geometry, (0.004, 0.012), magnitude, torch.zeros_like(magnitude), field.mask)
    found = edge_l2(field, scan=scan, **SETTINGS).chi_ppm
    by_hand = edge_l2(replace(field, weight=magnitude.square().sum(0).sqrt()), **SETTINGS).chi_ppm
    torch.testing.assert_close(found, by_hand)
    assert not torch.allclose(found, edge_l2(field, **SETTINGS).chi_ppm)


def test_an_edge_that_the_magnitude_shows_stays_sharp():
    """Half the grid lies 0.1 ppm above the other: with the edge spared, the step keeps its height."""
    geometry = Geometry((16, 12, 10))
    chi = torch.zeros(geometry.shape, dtype=torch.float64)
    chi[:8] = 0.1
    data = Dipole(geometry.shape, (1, 1, 1), (0, 0, 1), fft_shape=geometry.shape, dtype=torch.float64)(chi)
    field = FieldMap(geometry, data, torch.ones(geometry.shape, dtype=torch.bool), 1 + chi)
    share = 2 * 12 * 10 / (3 * chi.numel())
    settings = {"regularisation": 0.5, "n_iterations": 500, "tolerance": 0.0, "padding": None}
    spared, blurred = (edge_l2(field, edge_share=s, **settings).chi_ppm for s in (share, 0.0))
    assert float(spared[7, 5, 5] - spared[8, 5, 5]) == pytest.approx(0.1, rel=0.01)
    assert float(blurred[7, 5, 5] - blurred[8, 5, 5]) < 0.05


def test_the_map_scales_with_the_field_at_any_field_strength(tiny):
    one, ten = (edge_l2(tiny(scale=s), **SETTINGS).chi_ppm for s in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * one)
    torch.testing.assert_close(edge_l2(tiny(b0_tesla=3.0), **SETTINGS).chi_ppm, one)
    assert float(edge_l2(tiny(scale=0.0), **SETTINGS).chi_ppm.abs().max()) == 0


@pytest.mark.parametrize(
    ("name", "value"), [("regularisation", -1.0), ("edge_share", 1.0), ("edge_share", -0.1), ("n_iterations", 0), ("tolerance", 2)]
)
def test_settings_out_of_range_are_refused(name: str, value: float, tiny):
    with pytest.raises(InputError, match=name.removeprefix("edge_")):
        edge_l2(tiny(), **{name: value})


def test_a_total_field_is_refused(tiny):
    with pytest.raises(InputError, match="total-field method"):
        edge_l2(replace(tiny(), kind="total"))
