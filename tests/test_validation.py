from pathlib import Path
from typing import Literal

import pytest

from qsmdl.errors import InputError
from qsmdl.validation import check_settings, did_you_mean


def function(
    a: float,
    *,
    n: int = 1,
    name: str | None = None,
    flag: bool = False,
    size: tuple[int, int] = (1, 1),
    many: tuple[float, ...] = (),
    kind: Literal["x", "y"] = "x",
    path: Path | None = None,
) -> None:
    """A target with every kind of annotation."""


def test_good_settings_pass():
    check_settings("f", function, {"a": 1, "n": 2, "name": None, "flag": True, "size": [1, 2], "many": [0.5], "kind": "y", "path": "p"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"a": "0.1"}, r"f\.a is '0.1' \(str\), but must be float"),
        ({"a": True}, "bool"),
        ({"n": 1.5}, "must be int"),
        ({"flag": 1}, "must be bool"),
        ({"name": 3}, "str"),
        ({"size": [1, 2, 3]}, "tuple"),
        ({"size": 3}, "tuple"),
        ({"many": ["x"]}, "tuple"),
        ({"kind": "z"}, "Literal"),
        ({"nmae": "x"}, "did you mean 'name'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        check_settings("f", function, settings)


def test_no_suggestion_for_nonsense():
    assert did_you_mean("qqqq", ["tkd"]) == ""
