"""What any method may have done around it: `select`, `unring` and `large_scales`."""

import math
from dataclasses import replace

import pytest
import torch

from qsmdl.about import about
from qsmdl.errors import InputError
from qsmdl.methods import Method, unet
from qsmdl.physics.dipole import Dipole
from qsmdl.physics.unring import unring
from qsmdl.scan import ChiMap, FieldMap, Geometry, Outcome
from qsmdl.solvers import large_scales
from qsmdl.solvers.direct import tkd
from qsmdl.solvers.fine_scales import fine_correction
from qsmdl.solvers.large_scales import explain_large_scales
from qsmdl.solvers.strong_sources import strong_source_correction
from qsmdl.solvers.structures import structure_correction
from qsmdl.solvers.tv import tv

GEOMETRY = Geometry((12, 10, 9))
TRUE = torch.randn(GEOMETRY.shape, generator=torch.Generator().manual_seed(0))
ROUGH = torch.randn(GEOMETRY.shape, generator=torch.Generator().manual_seed(1))
CORNER = 3e-3


@about(parameter="strength")
def made_up(field: FieldMap, *, strength: float = 2e-3, n_echoes: int = 1) -> ChiMap:
    """A map whose L-curve has its corner at CORNER: it misses the truth by strength and is rough by CORNER^2 / strength."""
    if strength > 0.9:
        raise InputError(f"strength is {strength}; it must be below 0.9.")
    chi = TRUE * strength + ROUGH * CORNER**2 / strength
    return ChiMap(field.geometry, torch.where(field.mask, chi, 0.0), field.mask, Outcome(7, "made up", 0.5, (1.0, 0.5)))


@pytest.fixture
def field() -> FieldMap:
    """The field of the rough part, so that the misfit is that of the true part alone where it is large."""
    mask = torch.ones(GEOMETRY.shape, dtype=torch.bool)
    operator = Dipole(GEOMETRY.shape, GEOMETRY.voxel_size_mm, GEOMETRY.b0_direction, fft_shape=(16, 16, 16))
    return FieldMap(GEOMETRY, operator(ROUGH * 1e-4), mask, torch.ones(GEOMETRY.shape), torch.full(GEOMETRY.shape, 2e-3))


def test_a_setting_is_chosen_and_told(field):
    seen = []

    @about(parameter="strength")
    def watched(field: FieldMap, *, strength: float = 2e-3) -> ChiMap:
        seen.append(strength)
        return made_up(field, strength=strength)

    chi = Method("watched", watched, strength=2e-3, select="discrepancy")(field)
    choice = chi.outcome.choice
    assert seen == list(choice.candidates)
    assert (seen[0], seen[-1], len(seen)) == (2e-4, 2e-2, 9)
    assert (choice.parameter, choice.rule) == ("strength", "discrepancy")
    assert torch.equal(chi.chi_ppm, made_up(field, strength=choice.value).chi_ppm)
    explained = [value for value, whitened in zip(choice.candidates, choice.criterion, strict=True) if whitened <= 1]
    assert choice.value == max(explained) < 2e-2
    assert (chi.outcome.n_steps, chi.outcome.curve) == (7, (1.0, 0.5))
    assert str(choice) == f"strength = {choice.value:.3g} (discrepancy)"


def test_doubts_are_told(field, caplog):
    chi = Method("made_up", made_up, strength=2e-3, select="discrepancy")(replace(field, noise_ppm=torch.full(GEOMETRY.shape, 1e-7)))
    assert "no candidate explains the field to within its noise" in chi.outcome.choice.doubt
    assert "no candidate explains" in caplog.text


def test_candidates_may_be_given(field):
    method = Method("made_up", made_up, select="lcurve", select_candidates=[0.1, 0.01, 1e-3, 1e-4, 1e-5])
    assert method(field).outcome.choice.candidates == (1e-5, 1e-4, 1e-3, 0.01, 0.1)
    assert method.with_settings({"select": None, "select_candidates": None})(field).outcome.choice is None
    with pytest.raises(InputError, match=r"strength = 1, a candidate of select: strength is 1\.0; it must be below 0\.9.*Give select_candidates"):
        Method("made_up", made_up, select="lcurve", select_candidates=[1e-3, 1e-2, 0.1, 0.2, 1.0])(field)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"select": "lcurv"}, "did you mean 'lcurve'"),
        ({"select": 3}, "select is 3"),
        ({"select": "zero", "select_candidates": [1, 2, 3]}, "at least 5 different positive values"),
        ({"select": "zero", "select_candidates": ["a", "b", "c", "d", "e"]}, "select_candidates is"),
        ({"select_candidates": [1.0, 2.0, 3.0, 4.0, 5.0]}, "select is null"),
        ({"unring": "yes"}, r"made_up\.unring is 'yes' \(str\), but must be bool"),
        ({"strenth": 1.0}, "did you mean 'strength'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        Method("made_up", made_up, **settings)


def test_a_method_without_a_parameter_cannot_choose_one():
    with pytest.raises(InputError, match=r"unet has no parameter that balances data and regularisation"):
        Method("unet", unet, select="zero")


def test_candidates_fit_the_setting():
    @about(parameter="n")
    def counting(field: FieldMap, *, n: int = 20) -> ChiMap:
        return made_up(field, strength=1 / n)

    with pytest.raises(InputError, match=r"counting\.select_candidates\.n is 1\.5"):
        Method("counting", counting, select="lcurve", select_candidates=[1.5, 2, 3, 4, 5])


def test_a_keyword_of_that_name_is_refused():
    def mine(field: FieldMap, *, unring: int = 3) -> ChiMap:
        return made_up(field)

    with pytest.raises(InputError, match="keyword 'unring', which is a setting of every method"):
        Method("mine", mine)


def test_a_parameter_that_is_no_keyword_is_named():
    @about(parameter="alpha")
    def mine(field: FieldMap, *, lam: float = 1.0) -> ChiMap:
        return made_up(field)

    with pytest.raises(InputError, match="parameter 'alpha', but its function has no such keyword"):
        Method("mine", mine)


def test_ringing_is_removed_as_from_the_truth(field):
    """The truth's own routine on the whole grid along all axes, and the mask again."""
    mask = torch.zeros(GEOMETRY.shape, dtype=torch.bool)
    mask[2:10, 1:9, 1:8] = True
    small = replace(field, mask=mask)
    plain, unrung = (Method("made_up", made_up, unring=on)(small) for on in (False, True))
    assert torch.equal(unrung.chi_ppm, torch.where(mask, unring(plain.chi_ppm), 0.0))
    assert not torch.equal(unrung.chi_ppm, plain.chi_ppm)
    assert float(unrung.chi_ppm[~mask].abs().max()) == 0
    assert unrung.outcome == plain.outcome


def test_large_scales_come_last_and_know_what_was_removed(field, monkeypatch):
    """Smooth, within the mask: a map that has lost its ringing does not get it back."""
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", float("inf"))
    settings = ({}, {"unring": True}, {"large_scales": True}, {"unring": True, "large_scales": True})
    plain, clean, explained, both = (Method("made_up", made_up, **s)(field).chi_ppm for s in settings)
    assert torch.equal(explained, explain_large_scales(plain, field).chi_ppm)
    assert torch.equal(both, explain_large_scales(clean, field, ringing_ppm=plain - clean).chi_ppm)
    assert not torch.equal(explained, plain)
    assert not torch.equal(both, explain_large_scales(clean, field).chi_ppm)


def test_large_scales_that_explain_too_little_are_told(field, monkeypatch, caplog):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", 0.0)
    plain, told = (Method("made_up", made_up, large_scales=on)(field) for on in (False, True))
    assert torch.equal(told.chi_ppm, plain.chi_ppm)
    assert told.outcome.doubts[0] in caplog.text
    assert plain.outcome.doubts == ()


def test_fine_scales_are_corrected_before_ringing_is_removed(field, monkeypatch):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", float("inf"))
    noisy, field = field, replace(field, noise_ppm=torch.full(GEOMETRY.shape, 1e-3))
    both = {"large_scales": True, "fine_scales": True}
    settings = ({}, {"large_scales": True}, {"unring": True}, {"unring": True, "large_scales": True}, both, {"unring": True, **both})
    plain, mended, clean, clean_mended, fine, all_steps = (Method("made_up", made_up, **s)(field).chi_ppm for s in settings)
    assert torch.equal(fine, mended + fine_correction(mended, field))
    raw = clean_mended + plain - clean
    torch.testing.assert_close(all_steps, unring(raw + fine_correction(raw, field)), atol=1e-7, rtol=1e-5)
    assert not torch.equal(fine, mended)
    # with a standard deviation of 2 ppb, nothing is to be gained
    hidden, mended = (Method("made_up", made_up, unring=True, large_scales=True, fine_scales=on)(noisy).chi_ppm for on in (True, False))
    assert torch.equal(hidden, mended)


def test_fine_scales_stay_where_the_large_ones_cannot_be_explained(field, monkeypatch):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", 0.0)
    plain, told = (Method("made_up", made_up, large_scales=on, fine_scales=on)(field) for on in (False, True))
    assert torch.equal(told.chi_ppm, plain.chi_ppm)
    assert len(told.outcome.doubts) == 1


@pytest.mark.parametrize("others", [{}, {"unring": True}, {"unring": True, "fine_scales": True}])
def test_structures_are_corrected_last(field, others, monkeypatch):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", float("inf"))
    field = replace(field, noise_ppm=torch.full(GEOMETRY.shape, 1e-3))
    raw = made_up(field).chi_ppm
    ringing = raw - unring(raw) * field.mask if others else torch.zeros_like(raw)
    before, after = (Method("made_up", made_up, large_scales=True, structures=on, **others)(field).chi_ppm for on in (False, True))
    assert torch.equal(after, before + structure_correction(before, field, ringing_ppm=ringing))
    assert not torch.equal(after, before)


def test_structures_stay_where_the_large_scales_cannot_be_explained(field, monkeypatch):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", 0.0)
    plain, told = (Method("made_up", made_up, large_scales=on, structures=on)(field) for on in (False, True))
    assert torch.equal(told.chi_ppm, plain.chi_ppm)
    assert len(told.outcome.doubts) == 1


@pytest.mark.parametrize("unringing", [False, True])
def test_strong_sources_are_corrected_before_the_large_scales(field, unringing, monkeypatch):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", float("inf"))
    raw = made_up(field, strength=0.5).chi_ppm
    start = unring(raw) if unringing else raw
    ringing = raw - start
    mended = start + strong_source_correction(start, field, ringing_ppm=ringing)
    found = Method("made_up", made_up, strength=0.5, unring=unringing, strong_sources=True, large_scales=True)(field).chi_ppm
    assert torch.equal(found, explain_large_scales(mended, field, ringing_ppm=ringing).chi_ppm)
    assert float((mended - start).abs().max()) > 0.1


def test_strong_sources_stay_where_the_large_scales_cannot_be_explained(field, monkeypatch):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", 0.0)
    plain, told = (Method("made_up", made_up, strength=0.5, large_scales=on, strong_sources=on)(field) for on in (False, True))
    assert torch.equal(told.chi_ppm, plain.chi_ppm)
    assert len(told.outcome.doubts) == 1


@pytest.mark.parametrize("step", ["strong_sources", "fine_scales", "structures"])
def test_corrections_without_the_large_scales_are_refused(step):
    with pytest.raises(InputError, match=rf"mine\.{step} is true, but mine\.large_scales is false"):
        Method("mine", made_up, **{step: True})


def test_unring_follows_select(field):
    chosen = Method("made_up", made_up, select="lcurve")(field)
    both = Method("made_up", made_up, select="lcurve", unring=True)(field)
    assert both.outcome.choice == chosen.outcome.choice
    assert torch.equal(both.chi_ppm, unring(chosen.chi_ppm))


def test_an_axis_too_short_to_unring_is_named(field):
    flat = FieldMap(Geometry((12, 10, 4)), field.field_ppm[..., :4], field.mask[..., :4], field.weight[..., :4])
    with pytest.raises(InputError, match="at least 8 voxels"):
        Method("tkd", tkd, unring=True)(flat)


@pytest.mark.parametrize("rule", ["lcurve", "zero", "frequency", "discrepancy"])
def test_tv_on_a_head(sample_field, rule):
    """Every rule on a head at 5 mm; stronger regularisation fits less and is smoother, and the rule's own optimum is chosen."""
    grid = [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
    chi = Method("tv", tv, n_iterations=40, select=rule, select_candidates=grid)(sample_field)
    choice = chi.outcome.choice
    assert list(choice.roughness_ppm_per_mm) == sorted(choice.roughness_ppm_per_mm, reverse=True)
    assert list(choice.misfit_ppm[2:]) == sorted(choice.misfit_ppm[2:])
    chosen = choice.candidates.index(choice.value)
    expected = {
        "lcurve": max(range(7), key=lambda i: choice.criterion[i]),
        "frequency": min(range(7), key=lambda i: choice.criterion[i]),
        "discrepancy": max((i for i in range(7) if choice.criterion[i] <= 1), default=min(range(7), key=lambda i: choice.criterion[i])),
    }
    assert chosen == expected.get(rule, chosen)
    if rule == "zero":
        k = choice.criterion
        assert any(k[i] * k[chosen] <= 0 for i in (chosen - 1, chosen + 1) if 0 <= i < 7)
    assert math.isfinite(choice.criterion[0])
