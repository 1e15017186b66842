"""Checks settings from outside (YAML, command line, cards) against the annotations of what they are for."""

import dataclasses
import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from qsmdl.errors import InputError

T = TypeVar("T")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?' or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _fits(value: Any, annotation: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any or isinstance(annotation, str | typing.TypeVar):
        return True
    if annotation is None or annotation is type(None):
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, a) for a in arguments)
    if origin is typing.Literal:
        return value in arguments
    if annotation is bool:
        return isinstance(value, bool)
    if annotation in (int, float):
        return isinstance(value, int if annotation is int else int | float) and not isinstance(value, bool)
    if annotation is str:
        return isinstance(value, str)
    if annotation is Path:
        return isinstance(value, str | Path)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        if arguments and arguments[-1] is Ellipsis:
            return all(_fits(v, arguments[0]) for v in value)
        return len(value) == len(arguments) and all(_fits(v, a) for v, a in zip(value, arguments, strict=True))
    return True  # objects that were built before check themselves


def _wording(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
    return text.replace("typing.", "").replace("pathlib.", "")


def check_settings(name: str, function: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Raises InputError for a setting that `function` does not have, or whose value does not fit its annotation: numbers as text, a float for a
    count, a list of the wrong length. `name` is what the message calls the function.
    """
    target = function.__init__ if inspect.isclass(function) else function
    parameters = inspect.signature(function).parameters
    hints = typing.get_type_hints(target)
    for key, value in settings.items():
        if key not in parameters:
            raise InputError(f"{name} has no setting {key!r}{did_you_mean(key, parameters)} It has: {', '.join(parameters)}.")
        if key in hints and not _fits(value, hints[key]):
            raise InputError(f"{name}.{key} is {value!r} ({type(value).__name__}), but must be {_wording(hints[key])}.")


def check_positive(**settings: float) -> None:
    """Raises InputError for a setting that is not a positive finite number."""
    for name, value in settings.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; it must be positive and finite.")


def check_not_negative(**settings: float) -> None:
    """Raises InputError for a setting that is negative or not finite."""
    for name, value in settings.items():
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} is {value}; it must be at least 0 and finite.")


def from_settings(name: str, kind: type[T], settings: Mapping[str, Any]) -> T:
    """A dataclass of settings from plain nested values: a mapping for a field that is a dataclass itself becomes one of that kind.

    Settings not named keep their defaults, those of a nested dataclass the defaults it has there. Raises InputError for unknown names and for values
    that do not fit, and names the dataclass where that refuses a value itself.
    """
    usual = {f.name: _default(f) for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    made = {}
    for key, value in settings.items():
        base = usual.get(key)
        if isinstance(value, Mapping) and dataclasses.is_dataclass(base) and not isinstance(base, type):
            whole = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
            value = from_settings(f"{name}.{key}", type(base), {**whole, **value})
        made[key] = value
    check_settings(name, kind, made)
    try:
        return kind(**made)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
