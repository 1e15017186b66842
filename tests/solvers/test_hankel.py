import pytest
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.solvers.hankel import HankelNorm, complete_planes


def random(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.complex128)


def hankel(plane: Tensor, window: int) -> Tensor:
    """The Hankel matrix of a plane, [window^2, samples], neighbourhood by neighbourhood."""
    n, m = plane.shape
    columns = [
        torch.stack([plane[(x + i) % n, (y + j) % m] for i in range(window) for j in range(window)]) for x in range(n) for y in range(m)
    ]
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize(("shape", "window"), [((6, 5), 3), ((4, 7), 2), ((5, 5), 5)])
def test_gram_and_norm_are_those_of_the_hankel_matrix(shape, window):
    planes = random((3, *shape))
    norm = HankelNorm(shape, window)
    eps = torch.tensor([0.0, 1e-3, 0.5], dtype=torch.float64)
    values, weight = norm.value_and_weight(planes, eps + 1e-12)
    for plane, gram, value, rho, e in zip(planes, norm.gram(planes), values, weight, eps, strict=True):
        matrix = hankel(plane, window)
        torch.testing.assert_close(gram, matrix @ matrix.mH)
        singular = torch.linalg.svdvals(matrix)
        torch.testing.assert_close(value, (singular.square() + e**2).sqrt().sum())
        other = random(shape, 7)
        u = torch.fft.ifft2(other, norm="ortho")
        values_, vectors = torch.linalg.eigh(gram)
        q = (vectors / (values_.clamp(min=0) + (e + 1e-12) ** 2).sqrt()) @ vectors.mH
        expected = torch.trace(q @ hankel(other, window) @ hankel(other, window).mH).real
        torch.testing.assert_close((rho * u.abs().square()).sum(), expected)


def test_a_plane_of_few_edges_has_a_low_rank():
    """The gradient of an image with three bright points has a Hankel matrix of rank three."""
    image = torch.zeros((12, 10), dtype=torch.complex128)
    image[2, 3], image[7, 8], image[10, 1] = 1.0, -2.0, 0.5
    values = torch.linalg.eigvalsh(HankelNorm((12, 10), 4).gram(torch.fft.fft2(image)[None])[0])
    assert int((values > 1e-9 * values.max()).sum()) == 3


def problem() -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Two 6 x 5 planes, of whose samples a third are next to lost."""
    kernel = torch.rand((2, 6, 5), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    kernel[kernel < 0.33] = 0.01
    weights = tuple(torch.exp(2j * torch.pi * torch.fft.fftfreq(n, dtype=torch.float64)) - 1 for n in (6, 5))
    return random((2, 6, 5), 2), kernel, (weights[0][:, None], weights[1][None])


def objective(x: Tensor, regularisation: float, eps: list[Tensor], window: int = 3) -> Tensor:
    data, kernel, weights = problem()
    total = (kernel * x - data).abs().square().sum() / 2
    for w, e in zip(weights, eps, strict=True):
        for plane, smooth in zip(w * x, e, strict=True):
            gram = hankel(plane, window) @ hankel(plane, window).mH
            total = total + regularisation * (torch.linalg.eigvalsh(gram).clamp(min=0) + smooth**2).sqrt().sum()
    return total


def test_completed_planes_minimise_the_objective():
    """Against descent on the objective by quasi-Newton steps, with gradients by autograd through dense Hankel matrices."""
    data, kernel, weights = problem()
    settings = {"window": 3, "regularisation": 0.05, "smoothing": 0.05}
    found = complete_planes(data, kernel, weights, n_iterations=60, cg_iterations=60, **settings)
    start = data * kernel / (kernel.square() + 0.01)
    eps = [0.05 * torch.linalg.vector_norm(w * start, dim=(-2, -1)) for w in weights]
    x = torch.view_as_real(start).clone().requires_grad_()
    optimiser = torch.optim.LBFGS([x], lr=1.0, max_iter=300, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = objective(torch.view_as_complex(x), 0.05, eps)
        value.backward()
        return value

    optimiser.step(closure)
    best = torch.view_as_complex(x.detach())
    assert found.values[-1] == pytest.approx(float(objective(found.planes, 0.05, eps)), rel=1e-9)
    assert found.values[-1] == pytest.approx(float(objective(best, 0.05, eps)), rel=1e-6)
    assert float((found.planes - best).norm()) < 1e-3 * float(best.norm())
    assert float((found.planes - start).norm()) > 0.05 * float(best.norm())


@pytest.mark.parametrize("cg_iterations", [1, 3, 20])
def test_the_objective_never_rises(cg_iterations: int):
    data, kernel, weights = problem()
    settings = {"window": 3, "regularisation": 0.1, "smoothing": 0.01}
    found = complete_planes(data, kernel, weights, n_iterations=12, cg_iterations=cg_iterations, **settings)
    assert len(found.values) == 13
    assert list(found.values) == sorted(found.values, reverse=True)
    assert found.values[-1] < 0.9 * found.values[0]


def test_lost_samples_follow_from_their_neighbours():
    """An image of a few bright points, its gradient's k-space with a fifth of the samples lost: they come back."""
    image = torch.zeros((14, 13), dtype=torch.complex128)
    image[3:9, 4:9], image[10, 2:5] = 1.0, -0.5
    plane = torch.fft.fft2(image, norm="ortho")[None]
    lost = torch.rand(plane.shape, generator=torch.Generator().manual_seed(3)) < 0.2
    lost[0, 0, 0] = False
    kernel = torch.where(lost, 0.0, 1.0).double()
    weights = tuple(torch.exp(2j * torch.pi * torch.fft.fftfreq(n, dtype=torch.float64)) - 1 for n in (14, 13))
    settings = {"window": 7, "regularisation": 1e-4, "smoothing": 1e-3}
    found = complete_planes(kernel * plane, kernel, (weights[0][:, None], weights[1][None]), n_iterations=30, cg_iterations=40, **settings).planes
    assert float((found - plane)[lost].norm()) < 0.35 * float(plane[lost].norm())
    assert float((found - plane)[~lost].norm()) < 0.02 * float(plane[~lost].norm())


def test_a_plane_of_zeros_stays_zero():
    weights = (torch.ones(6, 1, dtype=torch.complex128), torch.ones(1, 5, dtype=torch.complex128))
    zeros = torch.zeros((2, 6, 5), dtype=torch.complex128)
    found = complete_planes(
        zeros, torch.ones((2, 6, 5), dtype=torch.float64), weights, window=2, regularisation=0.1, smoothing=0.01, n_iterations=3, cg_iterations=3
    )
    assert float(found.planes.abs().max()) == 0
    assert found.change == 0


@pytest.mark.parametrize("window", [1, 6])
def test_windows_that_do_not_fit_are_refused(window: int):
    with pytest.raises(InputError, match="window"):
        HankelNorm((5, 7), window)
