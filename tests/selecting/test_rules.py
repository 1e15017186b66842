"""Rules on curves whose corner, inflection, balance and noise are known."""

import dataclasses
import math

import numpy as np
import pytest

from qsmdl.errors import InputError
from qsmdl.selecting.costs import Costs
from qsmdl.selecting.rules import choose, curvature, doubt
from qsmdl.selecting.sweep import candidates_between, check_candidates

ALPHA = np.geomspace(1e-6, 1e-2, 33)


def costs(misfit, roughness, *, bands=(1.0, 1.0, 1.0), whitened=math.nan):
    n = len(misfit)
    bands = np.broadcast_to(bands, (n, 3))
    whitened = np.broadcast_to(whitened, n)
    return [Costs(float(m), float(r), tuple(b), float(w)) for m, r, b, w in zip(misfit, roughness, bands, whitened, strict=True)]


def test_the_curvature_of_a_circle_is_one_over_its_radius():
    """ln misfit^2 and ln roughness^2 run along a quarter of a circle; from weak to strong the curve turns left, as at the corner of an L."""
    angle = np.linspace(0.1, math.pi / 2 - 0.1, 33)
    radius = 2.5
    rho, eta = radius * (1 - np.cos(angle)), radius * (1 - np.sin(angle))
    found = curvature(np.exp(angle * 5), np.exp(rho / 2), np.exp(eta / 2))
    # Twice the curvature in these coordinates, by the convention of squared norms.
    assert found[2:-2] == pytest.approx(2 / radius, rel=0.01)


def hyperbola(corner):
    """The L-curve eta = 1 / rho in the logarithms, whose corner lies where both are 1."""
    t = np.log(ALPHA / corner)
    return np.exp(np.exp(t / 3) / 2), np.exp(np.exp(-t / 3) / 2)


@pytest.mark.parametrize("corner", [3e-5, 1e-4, 3e-4])
def test_the_corner_of_a_hyperbola(corner):
    found, kappa = choose("lcurve", ALPHA, costs(*hyperbola(corner)))
    assert abs(math.log10(ALPHA[found] / corner)) <= 1 / 8 + 1e-9
    assert max(kappa) == kappa[found] > 0


def test_a_setting_that_counts_the_other_way_has_the_same_corner():
    """As a number of iterations, or a factor on the data term: the misfit falls as it grows."""
    misfit, roughness = hyperbola(1e-4)
    forward = choose("lcurve", ALPHA, costs(misfit, roughness))[0]
    backward = choose("lcurve", ALPHA, costs(misfit[::-1], roughness[::-1]))[0]
    assert backward == len(ALPHA) - 1 - forward
    whitened = (misfit / misfit[10]) ** 2
    assert choose("discrepancy", ALPHA, costs(misfit[::-1], roughness[::-1], whitened=whitened[::-1]))[0] == len(ALPHA) - 1 - 10


def test_zero_is_the_first_inflection_from_the_strong_end():
    """A straight line plus an arctangent, which is convex before its middle and concave after it."""
    t = np.log(ALPHA / 1e-4)
    misfit, roughness = np.exp(t / 4), np.exp(np.arctan(t / 2) - 0.5 * t)
    found, kappa = choose("zero", ALPHA, costs(misfit, roughness))
    assert pytest.approx(1e-4) == ALPHA[found]
    assert abs(kappa[found]) < 0.02 * max(abs(k) for k in kappa)


def test_zero_takes_the_straightest_part_where_there_is_no_inflection():
    found, kappa = choose("zero", ALPHA, costs(*hyperbola(1e-4)))
    assert min(kappa) > 0
    assert kappa[found] == min(kappa)
    assert "changes its sign nowhere" in doubt("zero", found, kappa)


def test_ends_are_doubtful():
    assert "an end of the candidates" in doubt("lcurve", 0, (3.0, 2.0, 1.0))
    assert "an end of the candidates" in doubt("zero", 2, (-3.0, -2.0, 0.1))
    assert "to within its noise" in doubt("discrepancy", 1, (3.0, 2.0, 4.0))
    assert doubt("frequency", 1, (3.0, 2.0, 4.0)) == ""


def test_frequency_balances_the_bands():
    e2 = 2e-5 * (ALPHA / 1e-4) ** -0.5
    bands = np.stack([np.ones_like(e2), e2, np.full_like(e2, 2e-5)], axis=1)
    found, zeta = choose("frequency", ALPHA, costs(*hyperbola(1e-5), bands=bands))
    assert pytest.approx(1e-4) == ALPHA[found]
    assert zeta[found] == pytest.approx(0.0, abs=1e-12)


def test_discrepancy_takes_the_strongest_within_the_noise():
    misfit, roughness = hyperbola(1e-4)
    whitened = (misfit / misfit[20]) ** 2
    assert choose("discrepancy", ALPHA, costs(misfit, roughness, whitened=whitened))[0] == 20
    # where none explains the field to within the noise, the closest
    assert choose("discrepancy", ALPHA, costs(misfit, roughness, whitened=whitened + 5))[0] == int(np.argmin(whitened))


def test_what_a_rule_cannot_do_is_said():
    misfit, roughness = hyperbola(1e-4)
    with pytest.raises(InputError, match="did you mean 'lcurve'"):
        choose("lcurv", ALPHA, costs(misfit, roughness))
    with pytest.raises(InputError, match="noise of the field map is not known"):
        choose("discrepancy", ALPHA, costs(misfit, roughness))
    with pytest.raises(InputError, match="at least 5"):
        choose("lcurve", ALPHA[:4], costs(misfit[:4], roughness[:4]))
    flat = costs(misfit, roughness)
    flat[3] = dataclasses.replace(flat[3], roughness_ppm_per_mm=0.0)
    with pytest.raises(InputError, match="no gradient at all"):
        choose("zero", ALPHA, flat)


def test_candidates():
    found = candidates_between(1e-5, 1e-3)
    assert (found[0], found[-1], len(found)) == (1e-5, 1e-3, 9)
    assert np.diff(np.log(found)) == pytest.approx(math.log(10) / 4, rel=0.01)
    assert len(candidates_between(1e-6, 1e-2)) == 17
    assert candidates_between(2, 200, whole=True) == (2, 4, 6, 11, 20, 36, 63, 112, 200)
    assert check_candidates([3, 1, 2, 5, 4]) == (1, 2, 3, 4, 5)
    for low, high in ((0.0, 1.0), (1.0, 1.0), (1.0, math.inf)):
        with pytest.raises(InputError, match="must be positive and finite, and ascend"):
            candidates_between(low, high)
    for wrong in ([1, 2, 3, 4], [1, 2, 3, 4, 4], [0, 1, 2, 3, 4], [1, 2, 3, 4, math.inf]):
        with pytest.raises(InputError, match="at least 5 different positive values"):
            check_candidates(wrong)
