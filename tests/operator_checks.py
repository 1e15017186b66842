"""The four checks that every linear operator must pass: linearity, adjointness, autograd, and agreement with its dense matrix."""

from collections.abc import Callable

import torch
from torch import Tensor

from qsmdl.physics.linop import LinearOperator

TOLERANCE = 1e-10


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Real inner product Re sum conj(a) b."""
    return (a.conj() * b).sum().real


def _random(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, generator=torch.Generator().manual_seed(seed))


def check_linear(operator: LinearOperator, x: Tensor) -> None:
    y = _random(x, 1)
    combined, apart = operator(2.5 * x - 0.3 * y), 2.5 * operator(x) - 0.3 * operator(y)
    assert (combined - apart).abs().max() <= TOLERANCE * apart.abs().max()


def check_adjoint(operator: LinearOperator, x: Tensor) -> None:
    image = operator(x)
    y = _random(image, 2)
    left, right = inner(operator(x), y), inner(x, operator.H(y))
    assert (left - right).abs() <= TOLERANCE * image.norm() * y.norm()
    assert operator.H.H(x).shape == image.shape


def check_vjp(operator: LinearOperator, x: Tensor) -> None:
    variable = x.clone().requires_grad_()
    y = _random(operator(x), 3)
    inner(y, operator(variable)).backward()
    assert variable.grad is not None
    assert (variable.grad - operator.H(y)).abs().max() <= TOLERANCE * (1 + variable.grad.abs().max())


def dense(operator: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """The matrix whose columns are the images of the unit volumes."""
    n = int(torch.tensor(shape).prod())
    units = torch.eye(n, dtype=torch.float64).reshape(n, *shape)
    return torch.stack([operator(u).flatten() for u in units], dim=1)


def check_dense(operator: LinearOperator, x: Tensor, oracle: Tensor) -> None:
    """oracle: the matrix made by other means."""
    expected = (oracle @ x.flatten().to(oracle.dtype)).reshape(operator(x).shape)
    assert (operator(x) - expected).abs().max() <= 1e-9 * expected.abs().max()
    back = operator.H(operator(x)).flatten()
    real_back = (oracle.conj().T @ expected.flatten()).real
    assert (back - real_back).abs().max() <= 1e-9 * real_back.abs().max()


def check_operator(operator: LinearOperator, x: Tensor, oracle: Tensor) -> None:
    check_linear(operator, x)
    check_adjoint(operator, x)
    check_vjp(operator, x)
    check_dense(operator, x, oracle)
