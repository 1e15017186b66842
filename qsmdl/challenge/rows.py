"""Rows from files are checked before anything is computed from them."""

import math
from collections.abc import Mapping
from typing import Any, cast

from qsmdl.challenge.protocol import KINDS, Row
from qsmdl.errors import InputError
from qsmdl.validation import did_you_mean

REQUIRED_KEYS = tuple(sorted(Row.__required_keys__))
_MAX_NAME = 200


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # JSON knows integers of any length
        return False


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_NAME and value.isprintable()


def _is_text(value: Any) -> bool:
    """JSON may hold halves of characters (\\ud800), which no file can."""
    return isinstance(value, str) and value.encode("utf-8", "replace").decode() == value


_RULES = {
    "method": (_is_name, f"a printable name of 1 to {_MAX_NAME} characters"),
    "scan": (_is_name, f"a printable name of 1 to {_MAX_NAME} characters"),
    "metrics": (lambda value: isinstance(value, dict), "an object of metrics"),
    "seconds": (lambda value: _is_number(value) and value >= 0, "a number that is not negative"),
    "peak_bytes": (lambda value: value is None or _is_number(value), "a number or null"),
    "seed": (lambda value: value is None or _is_count(value), "a whole number or null"),
    "stopped": (_is_text, "a text"),
    "dialect": (_is_name, "a name such as rc2"),
    "convention": (_is_name, "a name such as release"),
    "attested": (lambda value: value is None or isinstance(value, bool), "true, false or null"),
    "stage": (lambda value: _is_count(value) and value in (1, 2), "1 or 2"),
    "data": (_is_text, "a text"),
    "chosen": (_is_text, "a text"),
    "code": (_is_text, "a text"),
}


def _check_kind(kind: Any, where: str) -> None:
    if kind not in KINDS:
        guess = (did_you_mean(kind, KINDS) if isinstance(kind, str) else "") or "."
        raise InputError(f"{where} has the kind {kind!r}{guess} It must be one of {', '.join(KINDS)}: correct it, or leave kind out.")


def _check_metrics(metrics: Mapping[str, Any], where: str) -> None:
    for key, value in metrics.items():
        if not _is_name(key):
            raise InputError(f"{where} has a metric called {key[:60]!r}; names are printable, of 1 to {_MAX_NAME} characters. Correct the row.")
        if value is not None and not _is_number(value):
            raise InputError(f"{where} has {key} = {repr(value)[:60]}; a metric is a finite number, or null where it is undefined. Correct the row.")


def _check_row(row: Any, where: str) -> None:
    if not isinstance(row, dict):
        raise InputError(f"{where} is {type(row).__name__}, not an object with {', '.join(REQUIRED_KEYS)}. It does not hold rows of results.")
    missing = [key for key in REQUIRED_KEYS if key not in row]
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)}; rows of results have {', '.join(REQUIRED_KEYS)}. Name a rows.json.")
    for key, (is_right, rule) in _RULES.items():
        if key in row and not is_right(row[key]):
            raise InputError(f"{where} has {key} = {str(row[key])[:60]!r}, but it must be {rule}. Correct the row.")
    if row.get("kind") is not None:
        _check_kind(row["kind"], where)
    _check_metrics(row["metrics"], where)


def check_rows(content: Any, source: str) -> list[Row]:
    """What was read from JSON as rows; source (a file) is named in errors.

    Raises InputError: not a list, a row without one of the keys, a value of the wrong type, NaN, an unknown kind of algorithm.
    """
    if not isinstance(content, list):
        raise InputError(f"{source} does not hold rows of results: it is {type(content).__name__}, not a list. Name a rows.json.")
    for index, row in enumerate(content):
        _check_row(row, f"{source}: row {index + 1}")
    return cast(list[Row], content)
