import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.aloha import aloha
from qsmdl.solvers.direct import tkd

SMALL = {"window": 2, "padding": None}


def test_the_objective_never_rises_and_is_that_of_the_planes(tiny):
    """From full transforms and dense Hankel matrices of all planes of half of k-space, with the rounding of the first map."""
    field = tiny()
    found = aloha(field, regularisation=2e-2, n_iterations=5, cg_iterations=20, **SMALL)
    assert len(found.outcome.curve) == 6
    assert list(found.outcome.curve) == sorted(found.outcome.curve, reverse=True)
    shape, size, b0 = field.geometry.shape, field.geometry.voxel_size_mm, np.array(field.geometry.b0_direction)
    k = np.stack(np.meshgrid(*(np.fft.fftfreq(n, h) for n, h in zip(shape, size, strict=True)), indexing="ij"))
    with np.errstate(invalid="ignore"):
        kernels = [1 / 3 - (b0 @ q.reshape(3, -1)).reshape(shape) ** 2 / (q**2).sum(0) for q in (k, np.where(np.abs(k) == 0, 0, -k))]
    data = np.fft.fftn(field.field_ppm.numpy()) / math.sqrt(math.prod(shape))
    total = 0.0
    mirrored = np.nan_to_num(kernels[0])
    mirrored = (mirrored + np.roll(mirrored[::-1, ::-1, ::-1], (1, 1, 1), (0, 1, 2))) / 2
    start = data * mirrored / (mirrored**2 + 1e-2)
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        for index in range(shape[axis] // 2 + 1):
            plane, d, f = (np.take(v, index, axis) for v in (start, mirrored, data))
            total += 0.5 * np.sum(np.abs(d * plane - f) ** 2)
            for i, a in enumerate(others):
                e = (np.exp(2j * np.pi * np.fft.fftfreq(shape[a])) - 1) / size[a]
                weighted = plane * (e[:, None] if i == 0 else e[None])
                matrix = np.stack([np.roll(weighted, (-p, -q), (0, 1)).ravel() for p in range(2) for q in range(2)])
                total += 2e-2 * np.sum(np.sqrt(np.linalg.svd(matrix, compute_uv=False) ** 2 + (0.01 * np.linalg.norm(weighted)) ** 2))
    assert found.outcome.curve[0] == pytest.approx(total, rel=1e-6)


def test_streaks_are_fewer_than_with_truncation(check_phantom, nrmse):
    """No published figure is known; truncated division leaves 43.3 on this phantom."""
    field, chi = check_phantom
    error, slope = nrmse(aloha(field, regularisation=1e-4, window=9, padding=None), chi)
    assert error < 30
    assert slope == pytest.approx(0.9, abs=0.05)


def test_a_noise_free_map_keeps_its_amplitude(nrmse):
    geometry = Geometry((21, 24, 19), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    chi = torch.where((x - 0.1) ** 2 + (y + 0.2) ** 2 + z**2 < 0.2, 0.1, 0.0)
    field = FieldMap(geometry, Dipole.of(geometry, 2.0)(chi) * mask, mask, mask.float())
    error, slope = nrmse(aloha(field, regularisation=1e-5, window=7, padding=1.5), chi)
    assert slope == pytest.approx(0.95, abs=0.05)
    assert error < 0.8 * nrmse(tkd(field, padding=1.5), chi)[0]


def test_the_axes_are_treated_alike(tiny):
    """Turning the volume with B0 turns the map."""
    field = tiny()
    geometry = field.geometry
    turned = Geometry(*(tuple(v[a] for a in (2, 0, 1)) for v in (geometry.shape, geometry.voxel_size_mm, geometry.b0_direction)))
    other = FieldMap(turned, *(v.permute(2, 0, 1).contiguous() for v in (field.field_ppm, field.mask, field.weight)))
    settings = {"regularisation": 1e-2, "n_iterations": 20, "cg_iterations": 60, **SMALL}
    one, two = aloha(field, **settings).chi_ppm, aloha(other, **settings).chi_ppm
    torch.testing.assert_close(two, one.permute(2, 0, 1), atol=1e-5 * float(one.abs().max()), rtol=0)


def test_the_map_scales_with_the_field_and_not_with_b0(tiny):
    one, ten = (aloha(tiny(scale=s), regularisation=1e-3 * s, **SMALL).chi_ppm for s in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * one)
    torch.testing.assert_close(aloha(tiny(b0_tesla=3.0), regularisation=1e-3, **SMALL).chi_ppm, one)


def test_zero_fields_masks_and_means(tiny):
    assert float(aloha(tiny(scale=0.0), **SMALL).chi_ppm.abs().max()) == 0
    assert abs(float(aloha(tiny(), **SMALL).chi_ppm.mean())) < 1e-15
    field = tiny()
    mask = field.mask.clone()
    mask[0], mask[:, :, 3] = False, False
    found = aloha(FieldMap(field.geometry, field.field_ppm, mask, field.weight * mask), window=2)
    assert float(found.chi_ppm[~mask].abs().max()) == 0
    assert float(found.chi_ppm[mask].abs().max()) > 0


def test_axes_are_reported_as_they_are_done(tiny):
    seen: list[int] = []
    found = aloha(tiny(), n_iterations=4, on_step=lambda step, _: seen.append(step), **SMALL)
    assert seen == [1, 2, 3]
    assert (found.outcome.n_steps, found.outcome.stopped) == (4, "max steps")


@pytest.mark.parametrize(
    ("name", "value"),
    [("regularisation", 0.0), ("regularisation", float("nan")), ("smoothing", -1.0), ("window", 1), ("window", 4), ("n_iterations", 0)],
)
def test_settings_out_of_range_are_refused(name: str, value: float, tiny):
    with pytest.raises(InputError, match=name):
        aloha(tiny(), **{**SMALL, name: value})


def test_a_total_field_is_refused(tiny):
    with pytest.raises(InputError, match="total-field method"):
        aloha(replace(tiny(), kind="total"))
