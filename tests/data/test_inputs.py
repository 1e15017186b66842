"""What networks are fed: the starts of `Prior` and the magnitude's maps."""

import dataclasses
import inspect
import math

import pytest
import torch

from qsmdl.data.inputs import N_ECHOES, Prior, echo_maps, magnitude_maps, paste, prepare_inputs
from qsmdl.data.recipe import Recipe
from qsmdl.data.stream import PhantomStream, training_volume
from qsmdl.errors import InputError
from qsmdl.networks.build import build_network
from qsmdl.phantom.anatomy.head import draw_head, render_head
from qsmdl.phantom.scanning.acquire import Acquisition, acquire
from qsmdl.physics.dipole import Dipole
from qsmdl.physics.fieldmap import fit_field
from qsmdl.physics.unring import unring
from qsmdl.scan import Geometry
from qsmdl.solvers import large_scales
from qsmdl.solvers.direct import l2
from qsmdl.solvers.fine_scales import fine_correction
from qsmdl.solvers.large_scales import explain_large_scales
from qsmdl.solvers.tv import nltv, noise_scaled_regularisation

TV = Prior((0.05, 0.006), start="tv", magnitude=True)
NETWORK = {
    "architecture": "unet",
    "adapter": {"channels": ["prior", "weight", "mask", "magnitude"], "n_priors": 5},
    "keywords": {"width": 4, "depth": 1, "zero_head": True},
}


@pytest.fixture(scope="module")
def scanned():
    """A head at 5 mm: scan, truth and fitted field."""
    phantom = render_head(draw_head(3, contrast="sim1"), Geometry((50, 62, 62), (3.2, 3.2, 3.2), (0.0, 0.0, 1.0)))
    scan, truth = acquire(phantom, Acquisition(peak_snr=100.0, shape=(32, 40, 40)), torch.Generator().manual_seed(1))
    return scan, truth, fit_field(scan)


def test_the_start_is_the_classical_map_and_the_rest_what_it_leaves_open(scanned):
    _, _, field = scanned
    start, ringing, rest, strong, weak = TV(field)
    raw = nltv(field).chi_ppm
    assert torch.equal(start, unring(raw) * field.mask)
    torch.testing.assert_close(start + ringing, raw)
    explained = Dipole(field.geometry.shape, field.geometry.voxel_size_mm, field.geometry.b0_direction)(raw)
    torch.testing.assert_close(rest, (field.field_ppm - explained) * field.mask, atol=3e-5, rtol=1e-3)  # grids padded by different factors
    assert 0 < float(rest.norm()) < 0.5 * float(field.field_ppm.norm())
    squared_mm = math.prod(field.geometry.voxel_size_mm) ** (2 / 3)
    for found, regularisation in ((strong, 0.05), (weak, 0.006)):
        expected = l2(dataclasses.replace(field, field_ppm=rest), regularisation=regularisation * squared_mm).chi_ppm
        torch.testing.assert_close(found, expected)
    assert TV.n_maps == 5
    assert Prior().n_maps == 3


def test_the_start_follows_the_noise_where_it_is_asked_to(scanned):
    """The same regularisation as ever for little noise, or where nobody knows; more for more, in proportion."""
    _, _, field = scanned
    usual = inspect.signature(nltv).parameters["regularisation"].default
    scaled = dataclasses.replace(TV, noise_scaled=True)
    for noise, factor in ((None, 1.0), (1e-5, 1.0), (8e-4, 1.0), (2.4e-3, 3.0)):
        noisy = dataclasses.replace(field, noise_ppm=None if noise is None else torch.full(field.geometry.shape, noise))
        assert noise_scaled_regularisation(noisy) == pytest.approx(factor * usual)
        start, ringing = scaled(noisy)[:2]
        torch.testing.assert_close(start + ringing, nltv(noisy, regularisation=factor * usual).chi_ppm)
        assert torch.equal(start, TV(noisy)[0]) == (factor == 1)


def test_the_large_scales_of_the_start_explain_the_field_where_they_are_asked_to(scanned, monkeypatch):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", float("inf"))  # a head of 5 mm
    _, _, field = scanned
    (plain, ringing, before), (start, same, after) = (dataclasses.replace(TV, large_scales=on)(field)[:3] for on in (False, True))
    assert torch.equal(ringing, same)
    assert torch.equal(start, explain_large_scales(plain, field, ringing_ppm=ringing).chi_ppm)
    assert float((after * field.weight).norm()) < 0.95 * float((before * field.weight).norm())
    explained = Dipole(field.geometry.shape, field.geometry.voxel_size_mm, field.geometry.b0_direction)(start + ringing)
    torch.testing.assert_close(after, (field.field_ppm - explained) * field.mask, atol=3e-5, rtol=1e-3)


def test_so_do_its_fine_scales_and_nothing_rings_that_was_not_told(scanned, monkeypatch):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", float("inf"))
    _, _, field = scanned
    coarse = dataclasses.replace(TV, large_scales=True)
    fine = dataclasses.replace(coarse, fine_scales=True)
    quiet = dataclasses.replace(field, noise_ppm=torch.full_like(field.field_ppm, 2e-4))
    (plain, ringing, before), (start, rings, after) = (prior(quiet)[:3] for prior in (coarse, fine))
    whole = plain + ringing + fine_correction(plain + ringing, quiet)
    assert torch.equal(start, unring(whole) * field.mask)
    torch.testing.assert_close(start + rings, whole)
    assert float((after * field.weight).norm()) < 0.9 * float((before * field.weight).norm())
    loud = dataclasses.replace(field, noise_ppm=torch.full_like(field.field_ppm, 3e-3))
    assert all(torch.equal(a, b) for a, b in zip(fine(loud), coarse(loud), strict=True))


def test_doubtful_scans_start_without_fine_scales(scanned, monkeypatch):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", 0.0)
    _, _, field = scanned
    quiet = dataclasses.replace(field, noise_ppm=torch.full_like(field.field_ppm, 2e-4))
    assert torch.equal(dataclasses.replace(TV, large_scales=True, fine_scales=True)(quiet), TV(quiet))


def test_training_volumes_without_the_phase_of_the_crop(scanned, monkeypatch):
    """Field, start and echoes are those that a network of this prior is fed at test time; what takes long is asked for by name."""
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", float("inf"))
    scan, truth, field = scanned
    prior, names = Prior(crop_phase=True, echoes=True), []
    volumes = training_volume(scan, truth, prior, keep=lambda name, compute: names.append(name) or compute())
    corrected = prior.corrected(field, scan)
    assert corrected.doubts == ()
    assert float((corrected.field.field_ppm - field.field_ppm).abs().max()) > 1e-4
    assert torch.equal(volumes["field_ppm"][0], corrected.field.field_ppm * scan.mask)
    assert torch.equal(volumes["echo_phase_rad"], echo_maps(corrected.scan, corrected.field)[2])
    inputs = prepare_inputs(corrected.field, prior, corrected.scan)
    assert torch.equal(volumes["prior_ppm"][:, *inputs.box], inputs.prior_ppm[0])
    assert len(set(names)) == 2
    assert prior.digest in names
    assert prior.digest != dataclasses.replace(prior, crop_phase=False).digest
    unchanged = training_volume(scan, truth, dataclasses.replace(prior, crop_phase=False), keep=lambda name, compute: names.append(name) or compute())
    assert torch.equal(unchanged["field_ppm"][0], field.field_ppm * scan.mask)
    assert len(names) == 2  # two closed forms are not worth it


def test_where_that_phase_cannot_be_told_training_volumes_are_as_they_are(scanned, monkeypatch):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", 0.0)
    scan, truth, field = scanned
    volumes, plain = (training_volume(scan, truth, Prior(crop_phase=on)) for on in (True, False))
    assert all(torch.equal(volumes[name], plain[name]) for name in plain)
    assert len(Prior(crop_phase=True).corrected(field, scan).doubts) == 1


def test_an_untrained_network_returns_the_classical_map(scanned):
    scan, _, field = scanned
    network = build_network(NETWORK).eval()
    inputs = prepare_inputs(field, TV, scan)
    assert inputs.magnitude is not None
    with torch.no_grad():
        found = paste(network(*inputs.arguments), inputs, field)
    assert torch.equal(found, TV(field)[0])


def test_the_magnitude_may_be_missing(scanned):
    scan, _, field = scanned
    torch.manual_seed(0)
    network = build_network({**NETWORK, "keywords": {"width": 4, "depth": 1}}).eval()
    known, unknown = prepare_inputs(field, TV, scan), prepare_inputs(field, TV)
    assert unknown.magnitude is None
    with torch.no_grad():
        without = network(*unknown.arguments)
        assert torch.equal(without, network(*known.arguments[:4], torch.zeros_like(known.magnitude)))
        assert not torch.equal(without, network(*known.arguments))


def test_magnitude_maps(scanned):
    scan, _, _ = scanned
    first, last, rate = magnitude_maps(scan)
    inside = scan.mask
    assert float((first[inside] > 1).float().mean()) == pytest.approx(0.1, abs=0.01)
    ratio = scan.magnitude[-1][inside] / scan.magnitude[0][inside]
    torch.testing.assert_close(last[inside] / first[inside], ratio)
    assert 0.3 < float(rate[inside].median()) < 1.5  # 15 to 75 / s
    louder = dataclasses.replace(scan, magnitude=scan.magnitude * 40)
    torch.testing.assert_close(magnitude_maps(louder), magnitude_maps(scan))
    assert float(magnitude_maps(scan)[:, ~inside].abs().max()) == 0
    one = dataclasses.replace(scan, magnitude=scan.magnitude[:1], phase_rad=scan.phase_rad[:1], echo_times_s=scan.echo_times_s[:1])
    assert float(magnitude_maps(one)[2].abs().max()) == 0
    torch.testing.assert_close(magnitude_maps(one)[0], first)


def test_training_volumes_hold_the_magnitude_where_it_is_asked_for(scanned):
    scan, truth, _ = scanned
    told = torch.ones((5, *scan.geometry.shape))
    volumes = training_volume(scan, truth, TV, keep=lambda name, compute: told)
    assert torch.equal(volumes["magnitude"], magnitude_maps(scan))
    assert torch.equal(volumes["prior_ppm"], told * scan.mask)
    assert "magnitude" not in training_volume(scan, truth, Prior())


@pytest.mark.parametrize("start", ["l2", "noise"])
def test_networks_are_not_asked_for_the_constant_that_no_field_tells(scanned, start):
    scan, truth, _ = scanned
    inside = scan.mask
    shifted = dataclasses.replace(truth, chi_ppm=(truth.chi_ppm + 0.3) * inside)
    first, second = (training_volume(scan, t, Prior(start=start)) for t in (truth, shifted))
    torch.testing.assert_close(first["chi_ppm"], second["chi_ppm"], atol=1e-6, rtol=1e-5)
    found, wanted = first["chi_ppm"][0], truth.chi_ppm
    torch.testing.assert_close((found - wanted)[inside], (found - wanted)[inside].mean().expand(int(inside.sum())), atol=1e-6, rtol=1e-5)
    mean = 0.0 if start == "noise" else float(first["prior_ppm"][0][inside].mean())
    assert float(found[inside].mean()) == pytest.approx(mean, abs=1e-6)
    assert float(found[~inside].abs().max()) == 0


def test_the_magnitude_is_dropped_now_and_then(scanned):
    scan, truth, _ = scanned
    volumes = training_volume(scan, truth, dataclasses.replace(TV, start="l2"))
    stream = PhantomStream(Recipe(), TV, patch_size=(9, 9, 9), batch_size=8, batches_per_volume=1, n_lanes=1, seed=0, p_drop_weight=0.3)
    batch = stream.batch(0, lambda index: (volumes, (5.0,) * 3, (0.0, 0.0, 1.0), scan.mask.nonzero()))
    dropped = [float(m.abs().max()) == 0 for m in batch["magnitude"]]
    assert 0 < sum(dropped) < 8


def test_echoes_beyond_the_field_map(scanned):
    """Shares are those of the information, and the weighted mean of what the echoes have beyond the least-squares field is 0."""
    scan, _, field = scanned
    rates, shares, phases = echo_maps(scan, field)
    assert shares.shape == phases.shape == (N_ECHOES, *scan.geometry.shape)
    assert rates[:4].tolist() == pytest.approx([2 * math.pi * 42.577 * 7 * te for te in scan.echo_times_s])
    inside = scan.mask
    torch.testing.assert_close(shares.sum(0)[inside], torch.ones(int(inside.sum())))
    assert float(shares[:, ~inside].abs().max()) == float(phases[:, ~inside].abs().max()) == float(shares[4:].abs().max()) == 0
    expected = (rates[1] * scan.magnitude[1]).square() / sum((rates[j] * scan.magnitude[j]).square() for j in range(4))
    torch.testing.assert_close(shares[1][inside], expected[inside])
    turned = torch.polar(torch.ones_like(phases[3]), phases[3] + rates[3] * field.field_ppm - scan.phase_rad[3])
    assert float((turned - 1).abs()[inside].max()) < 1e-4
    beyond = (shares[:4] * phases[:4] / rates[:4, None, None, None]).sum(0)[inside]
    calm = (phases[:4].abs() < 2).all(0)[inside]
    assert float((beyond[calm].abs() < 1e-5).float().mean()) > 0.99  # but for turns that the unwrapping of the fit counts otherwise
    assert float(calm.float().mean()) > 0.9


def test_a_scan_of_many_echoes_keeps_those_that_tell_most(scanned):
    scan, _, field = scanned
    times = tuple(0.002 + 0.002 * i for i in range(12))
    rates = torch.tensor([2 * math.pi * 42.577 * 7 * te for te in times]).reshape(-1, 1, 1, 1)
    many = dataclasses.replace(
        scan,
        magnitude=scan.magnitude[:1].repeat(12, 1, 1, 1),
        phase_rad=torch.remainder(rates * field.field_ppm + math.pi, 2 * math.pi) - math.pi,
        echo_times_s=times,
    )
    found, shares, phases = echo_maps(many, field)
    assert found.tolist() == pytest.approx(rates.flatten()[4:].tolist())
    assert float(phases.abs().max()) < 1e-3
    assert bool((shares[1:] >= shares[:-1])[:, scan.mask].all())


@pytest.mark.parametrize("why", ["no scan", "offset", "other phases"])
def test_without_echoes_of_its_own_the_map_stands_for_one(scanned, why):
    scan, _, field = scanned
    opposite = torch.remainder(scan.phase_rad, 2 * math.pi) - math.pi
    given = {"no scan": None, "offset": scan, "other phases": dataclasses.replace(scan, phase_rad=opposite)}[why]
    rates, shares, phases = echo_maps(given, field, with_offset=why == "offset")
    assert torch.equal(shares[0], field.mask.float())
    assert float(shares[1:].abs().max()) == float(phases.abs().max()) == 0
    assert float(rates[0]) == pytest.approx(2 * math.pi * 42.577 * 7 * 0.004)


def test_patches_carry_the_echoes(scanned):
    scan, truth, _ = scanned
    prior = Prior(echoes=True)
    volumes = training_volume(scan, truth, prior)
    stream = PhantomStream(Recipe(), prior, patch_size=(9, 9, 9), batch_size=6, batches_per_volume=1, n_lanes=1, seed=0)
    batch = stream.batch(0, lambda index: (volumes, (5.0,) * 3, (0.6, 0.0, 0.8), scan.mask.nonzero()))
    assert batch["echo_share"].shape == batch["echo_phase_rad"].shape == (6, N_ECHOES, 9, 9, 9)
    assert torch.equal(batch["rad_per_ppm"], volumes["rad_per_ppm"].expand(6, N_ECHOES))
    torch.testing.assert_close(batch["echo_share"].sum(1, keepdim=True), batch["mask"].float(), atol=1e-5, rtol=0)
    # mirrored with everything else: the share of the first echo is a function of the magnitude, which other voxels do not have
    everywhere = zip(volumes["field_ppm"][0][scan.mask], volumes["echo_share"][0][scan.mask], strict=True)
    whole = {(round(float(f), 7), round(float(s), 6)) for f, s in everywhere}
    pairs = zip(batch["field_ppm"][batch["mask"]], batch["echo_share"][:, :1][batch["mask"]], strict=True)
    assert all((round(float(f), 7), round(float(s), 6)) in whole for f, s in pairs)


def test_networks_with_data_steps_get_the_physics_at_test_time(scanned):
    scan, _, field = scanned
    inputs = prepare_inputs(field, Prior(echoes=True), scan)
    assert inputs.physics.voxel_size_mm.tolist() == [pytest.approx(scan.geometry.voxel_size_mm)]
    assert inputs.physics.b0_direction.tolist() == [list(scan.geometry.b0_direction)]
    assert inputs.physics.echo_share.shape[2:] == inputs.field_ppm.shape[2:]
    made = {"architecture": "unrolled", "adapter": {"n_priors": 3, "rest": None, "residual": False}, "keywords": {
        "n_steps": 2, "misfit": "echoes", "width": 4, "depth": 1}}  # fmt: skip
    chi = build_network(made)(*inputs.arguments)
    assert chi.shape == inputs.field_ppm.shape


def test_digests_follow_the_maps():
    assert Prior().digest == Prior(magnitude=True).digest
    mended = dataclasses.replace(TV, large_scales=True)
    changed = (dataclasses.replace(TV, noise_scaled=True), mended, *(dataclasses.replace(mended, **{k: True}) for k in ("fine_scales", "crop_phase")))
    assert len({prior.digest for prior in (Prior(), Prior((0.1,)), TV, *changed)}) == 7
    assert TV.digest == "3533d06ecafacd0f"  # of sets that were made before there were these two


def test_starts_that_cannot_be():
    with pytest.raises(InputError, match="'tgv'"):
        Prior(start="tgv")
    for wrong in ({"noise_scaled": True}, {"start": "noise", "large_scales": True}, {"fine_scales": True}):
        with pytest.raises(InputError, match="are of the start 'tv'"):
            Prior(**wrong)
    with pytest.raises(InputError, match=r"fine_scales is true, but its large_scales.*Set both"):
        Prior(start="tv", fine_scales=True)
    with pytest.raises(InputError, match="no field is looked at"):
        Prior(start="noise", crop_phase=True)
