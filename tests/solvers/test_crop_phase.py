"""The phase that cropping k-space adds to that of the cropped field, found and taken off."""

import dataclasses
import gc
import logging
import weakref

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.methods import Method
from qsmdl.physics.dipole import Dipole
from qsmdl.physics.fieldmap import fit_field
from qsmdl.physics.fourier import crop_kspace
from qsmdl.scan import Geometry, Scan
from qsmdl.solvers import crop_phase as module
from qsmdl.solvers import large_scales
from qsmdl.solvers.crop_phase import crop_phase, without_crop_phase
from qsmdl.solvers.direct import l2
from qsmdl.units import rad_per_ppm

TIMES_S = (0.004, 0.012, 0.02)
SHAPE = (32, 36, 32)


@pytest.fixture(scope="module")
def measured():
    """A scan, cropped from twice as many voxels, of a head with two dark nuclei of strong susceptibility; its cropped chi and its field."""
    fine = Geometry(tuple(2 * n for n in SHAPE), (0.5, 0.5, 0.5))
    x, y, z = torch.meshgrid(*(torch.arange(float(n)) - n / 2 for n in fine.shape), indexing="ij")
    head = x**2 + y**2 + z**2 < 26**2
    nuclei = ((x.abs() - 11.3) ** 2 / 30 + (y - 3.2) ** 2 / 70 + (z + 1.6) ** 2 / 50) < 1
    chi = torch.where(nuclei, 0.15, 0.0)
    field = Dipole.of(fine, 1.5)(chi)
    bright, rate = torch.where(nuclei, 0.8, 1.0) * head, torch.where(nuclei, 70.0, 20.0)
    waves = [torch.polar(bright * torch.exp(-t * rate), field * rad_per_ppm(7.0, t)) for t in TIMES_S]
    signal = torch.stack([crop_kspace(wave, SHAPE) for wave in waves])
    mask = crop_kspace(head.float(), SHAPE).real > 0.5
    scan = Scan(Geometry(SHAPE, (1.0, 1.0, 1.0)), TIMES_S, signal.abs(), signal.angle(), mask, name="nuclei")
    return scan, crop_kspace(chi, SHAPE).real * mask, crop_kspace(field, SHAPE).real * mask


def fit(scan):
    return fit_field(scan, sigma=1e-3)


def left_over(field, cropped):
    """Root mean square in ppb of what is not the cropped field, away from the border of the mask."""
    inside = torch.nn.functional.avg_pool3d(field.mask[None, None].float(), 5, 1, 2)[0, 0] > 0.99
    return 1e3 * float((field.field_ppm - cropped)[inside].square().mean().sqrt())


def test_a_good_part_of_the_phase_is_told_from_the_cropped_chi(measured):
    scan, chi, cropped = measured
    found = crop_phase(chi, scan)
    assert found.shape == scan.phase_rad.shape
    assert not found[:, ~scan.mask].any()
    turns = torch.tensor([rad_per_ppm(7.0, t) for t in TIMES_S])[:, None, None, None]
    true = torch.remainder(scan.phase_rad - turns * cropped + torch.pi, 2 * torch.pi) - torch.pi
    inside = torch.nn.functional.avg_pool3d(scan.mask[None, None].float(), 5, 1, 2)[0, 0] > 0.99
    for of_found, of_true, magnitude in zip(found, true, scan.magnitude, strict=True):
        # as a fit of the field weighs them
        of_found, of_true = (values[inside] * magnitude[inside] for values in (of_found, of_true))
        assert (of_found - of_true).norm() < 0.7 * of_true.norm()
        assert torch.corrcoef(torch.stack([of_found, of_true]))[0, 1] > 0.75


def test_a_magnitude_without_contrast_has_no_such_phase_of_first_order(measured):
    """Then the voxel's phase is that of the cropped field, but for the little that phases within a voxel differ from being linear."""
    scan, chi, _ = measured
    even = dataclasses.replace(scan, magnitude=torch.ones_like(scan.magnitude))
    assert crop_phase(chi, even)[0].norm() < 0.1 * crop_phase(chi, scan)[0].norm()


def test_the_field_comes_closer_to_that_of_a_map(measured, monkeypatch):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", float("inf"))
    scan, _, cropped = measured
    field = fit(scan)
    found = without_crop_phase(field, scan)
    assert found.doubts == ()
    assert left_over(field, cropped) > 0.3
    assert left_over(found.field, cropped) < 0.75 * left_over(field, cropped)
    # Field and echoes still tell the same.
    assert (fit(found.scan).field_ppm - found.field.field_ppm)[scan.mask].abs().max() < 2e-5
    assert torch.equal(found.scan.magnitude, scan.magnitude)
    assert torch.equal(found.field.noise_ppm, field.noise_ppm)


def test_methods_that_are_compared_have_it_found_once(measured, monkeypatch):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", float("inf"))
    scan, _, _ = measured
    calls, real = [], crop_phase
    monkeypatch.setattr(module, "crop_phase", lambda *given: calls.append(1) or real(*given))
    own, field = dataclasses.replace(scan), fit(scan)
    first, again = (Method("l2", l2, crop_phase=True)(field, own).chi_ppm for _ in range(2))
    assert torch.equal(first, again)
    assert len(calls) == 1
    other = dataclasses.replace(field, field_ppm=field.field_ppm * 1.01)
    assert not torch.equal(Method("l2", l2, crop_phase=True)(other, own).chi_ppm, first)
    assert len(calls) == 2
    without_crop_phase(field, dataclasses.replace(own))
    assert len(calls) == 3
    held = weakref.ref(module._found[own][1].phase_rad)
    del own
    gc.collect()
    assert held() is None


def test_every_method_can_have_it(measured, monkeypatch):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", float("inf"))
    scan, _, _ = measured
    field = fit(scan)
    seen = []

    def looks(field, *, scan=None, regularisation=0.01):
        seen.append(scan)
        return l2(field, regularisation=regularisation)

    method = Method("looks", looks, crop_phase=True)
    corrected = without_crop_phase(field, scan)
    assert torch.equal(method(field, scan).chi_ppm, l2(corrected.field, regularisation=0.01).chi_ppm)
    assert torch.equal(seen[0].phase_rad, corrected.scan.phase_rad)
    assert method.solve_key is None
    assert method.with_settings({"crop_phase": False}).solve_key is not None


def test_without_echoes_or_with_an_offset_everything_stays_as_it_is(measured, caplog):
    scan, _, _ = measured
    field = fit(scan)
    offset = dataclasses.replace(scan, phase_rad=scan.phase_rad + 2.0)
    for given, why in ((None, "needs the scan's echoes"), (offset, "do not follow the field map")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = without_crop_phase(field, given)
        assert found.field is field
        assert found.scan is given
        assert len(found.doubts) == 1
        assert why in found.doubts[0]
        assert why in caplog.text
    chi = Method("l2", l2, crop_phase=True)(field)
    assert torch.equal(chi.chi_ppm, l2(field).chi_ppm)
    assert any("needs the scan's echoes" in doubt for doubt in chi.outcome.doubts)


def test_a_field_with_sources_outside_stays_as_it_is(measured, monkeypatch):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", 0.0)
    monkeypatch.setattr(module, "crop_phase", None)
    scan, _, _ = measured
    field = fit(scan)
    found = without_crop_phase(field, scan)
    assert found.field is field
    assert "not that of sources inside the mask" in found.doubts[0]


def test_another_grid_is_refused(measured):
    scan, chi, _ = measured
    with pytest.raises(InputError, match="Give both on one grid"):
        crop_phase(chi[1:], scan)
