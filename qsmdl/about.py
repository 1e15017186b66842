"""What a method says of itself, for tables and the command line."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from qsmdl.errors import InputError

MethodKind = Literal["direct", "iterative", "deep learning"]
"""The challenge's types of algorithm."""
ShippedNetwork = Literal["quick", "flagship", "denoiser"]
"""The networks that come with the package, or may come to."""
MethodInput = Literal["local field", "local field, magnitude", "all echoes", "wrapped phase", "several orientations"]


@dataclass(frozen=True)
class About:
    """What a method is.

    kind: the challenge's type of algorithm; input: what it works from; reference: paper and year; checked: the published or reference figure that a
    test compares it with, in words ("" where there is none); from_description: built from a paper's words, since the authors' code or details are
    not public; parameter: the setting that balances data and regularisation, which `select` and stage 2 vary ("" where there is none);
    weights: which shipped network runs where a method that takes a checkpoint is given none.
    """

    kind: MethodKind = "iterative"
    input: MethodInput = "local field"
    reference: str = ""
    checked: str = ""
    from_description: bool = False
    parameter: str = ""
    weights: ShippedNetwork = "quick"

    def __post_init__(self) -> None:
        for name, kinds in (("kind", MethodKind), ("input", MethodInput), ("weights", ShippedNetwork)):
            value, known = getattr(self, name), get_args(kinds)
            if value not in known:
                raise InputError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, known))}.")


Function = TypeVar("Function", bound=Callable[..., Any])


def about(
    *,
    kind: MethodKind = "iterative",
    input: MethodInput = "local field",  # noqa: A002 - the word of the table's column
    reference: str = "",
    checked: str = "",
    from_description: bool = False,
    parameter: str = "",
    weights: ShippedNetwork = "quick",
) -> Callable[[Function], Function]:
    """Decorator that tells what a method is (`About`); the function itself stays as it is."""
    note = About(kind, input, reference, checked, from_description, parameter, weights)

    def attach(function: Function) -> Function:
        setattr(function, "about", note)  # noqa: B010 - functions have no such attribute for the type checker
        return function

    return attach


def about_of(function: Callable[..., Any]) -> About:
    """What a function says of itself; without a word, an iterative method of the local field, or a network where it takes a checkpoint."""
    note = getattr(function, "about", None)
    if isinstance(note, About):
        return note
    code = getattr(function, "__code__", None)
    takes_checkpoint = code is not None and "checkpoint" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return About(kind="deep learning" if takes_checkpoint else "iterative")
