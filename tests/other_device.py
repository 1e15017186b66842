"""A second device for machines that have none: tensors that live on the CPU but may not meet those that do.

Inside `other_device()`, factories called under `torch.device(OTHER)` make `OtherTensor`s: wrappers with the device `OTHER` around tensors of the CPU.
Operations on them run on the CPU. One that mixes them with a CPU tensor of one or more dimensions raises `MixedDevicesError`, as on a GPU; only
copies (`to`, `copy_`) go from one device to the other. `numpy` and random numbers of a generator of the other device raise, too. A few operations
refuse even a single number from the CPU.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

OTHER = torch.device("lazy", 0)
CPU = torch.device("cpu")
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
NO_SCALARS = {torch.ops.aten.cat, torch.ops.aten.stack, torch.ops.aten.searchsorted, torch.ops.aten.bucketize, torch.ops.aten.lerp_}


class MixedDevicesError(RuntimeError):
    """An operation got tensors of two devices."""


class OtherTensor(Tensor):
    """A tensor of the other device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OtherTensor":
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=OTHER
        )
        made.inner = inner
        return made

    def __repr__(self) -> str:
        return f"OtherTensor({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def numpy(self, *, force: bool = False) -> Any:
        raise MixedDevicesError("numpy() of a tensor of the other device; call cpu() first.")

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.inner.tolist()


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation of ATen, on the CPU, with the device of its results told by its arguments."""
    tensors = [t for value in (*args, *kwargs.values()) for t in (value if isinstance(value, list | tuple) else (value,)) if isinstance(t, Tensor)]
    others = [t for t in tensors if isinstance(t, OtherTensor)]
    strict = func.overloadpacket in NO_SCALARS
    if others and func not in COPIES and any(not isinstance(t, OtherTensor) and (t.ndim or strict) for t in tensors):
        given = ", ".join(f"{t.device} {tuple(t.shape)}" for t in tensors)
        raise MixedDevicesError(f"{func} mixes tensors of two devices: {given}.")
    there = bool(others)
    asked = kwargs.get("device")
    if asked is not None:
        there = torch.device(asked).type == OTHER.type
        kwargs = {**kwargs, "device": CPU}
    if func is torch.ops.aten.copy_.default:
        there = isinstance(args[0], OtherTensor)
    result = func(*(_inner(value) for value in args), **{name: _inner(value) for name, value in kwargs.items()})
    return _outer(result, others) if there else result


def _inner(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_inner(one) for one in value]
    return value.inner if isinstance(value, OtherTensor) else value


def _outer(value: Any, given: list[OtherTensor]) -> Any:
    """Results wrapped; one that was written in place has its wrapper already."""
    if isinstance(value, list | tuple):
        return type(value)(_outer(one, given) for one in value)
    if not isinstance(value, Tensor):
        return value
    for other in given:
        if other.inner is value:
            return other
    return OtherTensor(value)


class OtherGenerator(torch.Generator):
    """A generator of the other device."""

    def __new__(cls, device: Any = "cpu") -> Any:
        if torch.device(device).type != OTHER.type:
            return _Generator(device)
        return super().__new__(cls, "cpu")

    @property
    def device(self) -> torch.device:
        return OTHER


def _autocast(device_type: str, **settings: Any) -> Any:
    return _Autocast("cpu" if device_type == OTHER.type else device_type, **settings)


_Generator, _Autocast = torch.Generator, torch.autocast


class _Dispatch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.called: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called.add(func)
        return run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if generator is not None:
            target = torch.device(kwargs.get("device") or (args[0].device if args and isinstance(args[0], Tensor) else CPU))
            if target.type != generator.device.type:
                raise MixedDevicesError(f"{func} on {target} with a generator on {generator.device}.")
        if func is Tensor.new_tensor and isinstance(args[0], OtherTensor):
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(OTHER)
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or CPU).type == OTHER.type:
            # These would ask the device for memory past the modes.
            made = args[0] if isinstance(args[0], Tensor) else func(*args, **{**kwargs, "device": CPU})
            return made.to(OTHER, kwargs.get("dtype") or made.dtype)
        return func(*args, **kwargs)


@contextlib.contextmanager
def other_device() -> Iterator[set[Any]]:
    """Makes the other device; yields the set of operations, filled as they are called."""
    torch.Generator, torch.autocast = OtherGenerator, _autocast  # type: ignore[misc, assignment]
    try:
        with _Dispatch() as operations, _Functions():
            yield operations.called
    finally:
        torch.Generator, torch.autocast = _Generator, _Autocast  # type: ignore[misc]
