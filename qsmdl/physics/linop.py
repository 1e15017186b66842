"""Linear operators that compose, know their adjoint, and differentiate through it."""

from typing import Any

import torch
from torch import Tensor, nn


class _Apply(torch.autograd.Function):
    """Applies an operator; the backward pass applies its adjoint, so autograd never stores or re-derives the steps inside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: "LinearOperator", adjoint: bool) -> Tensor:
        ctx.operator, ctx.adjoint = operator, adjoint
        return operator.apply_adjoint(x) if adjoint else operator.apply_forward(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        grad: Tensor = _Apply.apply(grad_outputs[0], ctx.operator, not ctx.adjoint)  # type: ignore[no-untyped-call]
        return grad, None, None


class LinearOperator(nn.Module):
    """A linear map A: `A(x)`, its adjoint `A.H`, and products `A @ B`.

    Subclasses define `apply_forward` and `apply_adjoint`. Adjoint means <A x, y> = <x, A.H y> for the real inner product Re sum(conj(a) b), which
    for complex arrays is the ordinary adjoint. Both must return new tensors. Kernels are non-persistent buffers: they move with `.to` and never
    enter a checkpoint. The interface follows mrpro and sigpy.
    """

    def apply_forward(self, x: Tensor) -> Tensor:
        """A x."""
        raise TypeError(f"{type(self).__name__} does not define apply_forward")

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """A^H y."""
        raise TypeError(f"{type(self).__name__} does not define apply_adjoint")

    def forward(self, x: Tensor) -> Tensor:
        """A x, differentiable."""
        result: Tensor = _Apply.apply(x, self, False)  # type: ignore[no-untyped-call]
        return result

    @property
    def H(self) -> "LinearOperator":  # noqa: N802 - the field's name for the adjoint
        """The adjoint operator."""
        return _Adjoint(self)

    def __matmul__(self, other: "LinearOperator") -> "LinearOperator":
        return _Product(self, other)


class _Adjoint(LinearOperator):
    def __init__(self, operator: LinearOperator) -> None:
        super().__init__()
        self.operator = operator

    def apply_forward(self, x: Tensor) -> Tensor:
        return self.operator.apply_adjoint(x)

    def apply_adjoint(self, y: Tensor) -> Tensor:
        return self.operator.apply_forward(y)

    @property
    def H(self) -> LinearOperator:  # noqa: N802
        return self.operator


class _Product(LinearOperator):
    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        super().__init__()
        self.left, self.right = left, right

    def apply_forward(self, x: Tensor) -> Tensor:
        return self.left.apply_forward(self.right.apply_forward(x))

    def apply_adjoint(self, y: Tensor) -> Tensor:
        return self.right.apply_adjoint(self.left.apply_adjoint(y))
