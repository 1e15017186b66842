"""Plug-and-play with denoisers whose proximal maps are known in closed form."""

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.plug_and_play import noise_levels, plug_and_play
from qsmdl.solvers.problem import Problem

SHAPE, VOXEL, B0 = (10, 9, 8), (1.0, 1.2, 1.5), (0.36, 0.48, 0.8)
NOISE = 0.01


def problem(padding=None):
    """Of a periodic grid without a mask, in float64, with a small field, so that the cosine is quadratic."""
    generator = torch.Generator().manual_seed(0)
    chi = 0.002 * torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    field = Dipole(SHAPE, VOXEL, B0, fft_shape=SHAPE, dtype=torch.float64)(chi)
    field = field + 0.0005 * torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    ones = torch.ones(SHAPE, dtype=torch.float64)
    return Problem.of(FieldMap(Geometry(SHAPE, VOXEL, B0), field, ones > 0, ones), padding=padding)


def run(made, denoise, **changed):
    settings = {"field_noise_ppm": NOISE, "levels_ppm": [0.03] * 60, "strength": 1.0, "data_penalty": 1.0, "n_inner": 4, "rad_per_ppm": 5.6}
    return plug_and_play(made, denoise, **{**settings, **changed})


def test_with_the_denoiser_of_a_gaussian_prior_it_is_tikhonov():
    """z = x / (1 + sigma^2 / s^2) is the denoiser of a Gaussian of standard deviation s, whose penalty adds noise^2 / s^2 ||chi||^2. Splitting
    without duals adds the harmonic mean: 1 / (s^2 + sigma^2) in the place of 1 / s^2, at the fixed point of one level.
    """
    made, spread, level = problem(), 0.02, 0.03
    found = run(made, lambda x, sigma: x / (1 + sigma**2 / spread**2))
    x = found.x * (1 + level**2 / spread**2)  # what was denoised last
    dipole = made.dipole
    gradient = dipole(dipole(x) - made.data) + NOISE**2 / (spread**2 + level**2) * x
    assert float(gradient.norm()) < 1e-4 * float(dipole(made.data).norm())
    assert found.n_steps == 60
    assert found.residual < 1e-4


def test_a_denoiser_that_knows_the_answer_gives_it():
    made = problem()
    answer = torch.full(SHAPE, 0.003, dtype=torch.float64)
    assert torch.equal(run(made, lambda x, sigma: answer, levels_ppm=[0.02]).x, answer)


def test_levels_are_handed_on_and_weigh_the_data():
    made, told = problem(), []

    def denoise(x, sigma):
        told.append((sigma, float(x.norm())))
        return torch.zeros_like(x)

    levels = noise_levels(0.05, 0.002, 5)
    run(made, denoise, levels_ppm=levels, n_inner=12)
    assert [sigma for sigma, _ in told] == levels
    assert levels[0] == 0.05
    assert levels[-1] == pytest.approx(0.002)
    norms = [norm for _, norm in told]
    assert norms == sorted(norms, reverse=True)  # less noise is expected of x: it stays closer to the last map, 0


def test_padding_stays_empty():
    made = problem(padding=1.5)
    seen = []
    found = run(made, lambda x, sigma: seen.append(x.shape) or x + 1.0, levels_ppm=[0.02, 0.02])
    assert made.grid.shape != SHAPE
    assert set(seen) == {torch.Size(SHAPE)}
    outside = found.x.clone()
    outside[made.grid.inner] = 0
    assert float(outside.abs().max()) == 0


def test_steps_are_told():
    steps = []
    run(problem(), lambda x, sigma: x, levels_ppm=[0.03, 0.02], on_step=lambda step, change: steps.append(step))
    assert steps == [1, 2]


@pytest.mark.parametrize(
    ("levels", "message"), [((0.01, 0.02, 3), "the first the larger"), ((0.01, 0.0, 3), "positive"), ((0.02, 0.01, 0), "n_iterations is 0")]
)
def test_levels_that_cannot_be(levels, message):
    with pytest.raises(InputError, match=message):
        noise_levels(*levels)


def test_a_denoiser_that_breaks_is_named():
    with pytest.raises(InputError, match="denoiser's weights"):
        run(problem(), lambda x, sigma: x * float("nan"), levels_ppm=[0.02])
