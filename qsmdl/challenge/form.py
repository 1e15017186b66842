"""The form that goes with a submission, apart from its maps: what the method is and how it was run.

The challenge collected these details in a separate form so that maps could be scored blindly (QSM Challenge 2.0 Organization Committee, Magn Reson
Med 2021;86:1241-1255). Here it is a small JSON file; forms come from strangers too, so every entry is checked before it reaches a table.
"""

import re
import secrets
import stat
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from qsmdl.challenge.protocol import KINDS, MethodKind
from qsmdl.errors import InputError
from qsmdl.io.files import read_json
from qsmdl.validation import did_you_mean

IDENTIFIER_LENGTH = 10
_ALPHABET = string.ascii_uppercase + string.digits
_IDENTIFIER = re.compile(r"[A-Za-z0-9]{10}")
_ACRONYM = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+/-]{0,39}")

InputUsed = Literal["frequency map", "all echoes", "other"]
INPUTS_USED: tuple[InputUsed, ...] = get_args(InputUsed)
LARGEST_FORM_BYTES = 65536
_MAX_NAME, _MAX_TEXT, _MAX_SEEDS, _MAX_RUNTIME_S = 100, 500, 1000, 1e8


@dataclass(frozen=True, slots=True)
class Form:
    """What the submitter says about a method.

    identifier: that of the maps; stage: 1 or 2; name, acronym: of the method; kind: type of algorithm (`type` in the file); input_used: the supplied
    frequency map or the phase of all echoes; magnitude_used: whether the magnitude weights or guides the inversion; regularisation: terms and how
    their weights were chosen, "none" where there are none; seeds: of everything random, training included, empty where nothing is; runtime_s: wall
    time of one map in s; institution: optional.
    """

    identifier: str
    stage: int
    name: str
    acronym: str
    kind: MethodKind
    input_used: InputUsed
    magnitude_used: bool
    regularisation: str
    seeds: tuple[int, ...]
    runtime_s: float
    institution: str | None = None

    def to_plain(self) -> dict[str, Any]:
        """The content of the JSON file."""
        return {("type" if name == "kind" else name): _plain(getattr(self, name)) for name in self.__dataclass_fields__}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


KEYS = tuple("type" if name == "kind" else name for name in Form.__dataclass_fields__)
"""The entries of a form's JSON file."""


def new_identifier() -> str:
    """Ten random capital letters and digits from the operating system's cryptographic generator: it tells nothing about who drew it."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(IDENTIFIER_LENGTH))


def check_identifier(text: str) -> str:
    """The identifier itself. Raises InputError unless it has ten ASCII letters or digits."""
    if not _IDENTIFIER.fullmatch(text):
        raise InputError(
            f"The identifier {text[:80]!a} is not made of {IDENTIFIER_LENGTH} letters (A-Z, "
            "a-z) and digits. Leave it out to have one drawn."
        )
    return text


def _text(content: Mapping[str, Any], key: str, max_length: int) -> str:
    value = content[key]
    if not isinstance(value, str) or not 0 < len(value) <= max_length or not value.isprintable() or not value[0].isalnum():
        raise InputError(
            f"{key} is {ascii(value)[:80]}, but must be a text of 1 to {max_length} printable characters "
            "on one line that begins with a letter or digit."
        )
    return value


def _acronym(content: Mapping[str, Any]) -> str:
    """Tables, files and spreadsheets show it, and parentheses are kept for telling methods of one acronym apart."""
    value = content["acronym"]
    if not isinstance(value, str) or not _ACRONYM.fullmatch(value):
        raise InputError(f"acronym is {ascii(value)[:80]}, but must be 1 to 40 letters, digits, blanks or ._+/- that begin with a letter or digit.")
    return value


def _choice(content: Mapping[str, Any], key: str, known: tuple[str, ...]) -> Any:
    value = content[key]
    if value not in known or not isinstance(value, str):
        guess = did_you_mean(value, known) if isinstance(value, str) else ""
        raise InputError(f"{key} is {ascii(value)[:80]}, but must be one of {', '.join(known)}{guess or '.'}")
    return value


def _seeds(content: Mapping[str, Any]) -> tuple[int, ...]:
    value = content["seeds"]
    if not isinstance(value, list | tuple) or len(value) > _MAX_SEEDS or not all(type(v) is int and 0 <= v < 2**64 for v in value):
        raise InputError(
            f"seeds is {ascii(value)[:80]}, but must be a list of at most {_MAX_SEEDS} whole "
            "numbers from 0 on; [] where nothing is random."
        )
    return tuple(value)


def _runtime_s(content: Mapping[str, Any]) -> float:
    value = content["runtime_s"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_RUNTIME_S:
        raise InputError(f"runtime_s is {ascii(value)[:80]}, but must be the wall time of one map in s, a number from 0 to {_MAX_RUNTIME_S:g}.")
    return float(value)


def _check_keys(content: Any) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise InputError(f"It holds a {type(content).__name__}, but must be one JSON object with {', '.join(KEYS)}.")
    for key in content:
        if key not in KEYS:
            raise InputError(
                f"It has an entry {ascii(key)[:80]}, which forms do not "
                f"have{did_you_mean(key, KEYS) or '.'} They have {', '.join(KEYS)}."
            )
    missing = [key for key in KEYS if key not in content and key != "institution"]
    if missing:
        raise InputError(f"It lacks {', '.join(missing)}. Forms have {', '.join(KEYS)}; only institution may be left out.")
    return content


def form_from(content: Any) -> Form:
    """A form from plain values. Raises InputError naming the entry: unknown, missing, or of another kind than `Form` says."""
    content = _check_keys(content)
    if type(content["stage"]) is not int or content["stage"] not in (1, 2):
        raise InputError(f"stage is {ascii(content['stage'])[:80]}, but must be 1 or 2.")
    if type(content["magnitude_used"]) is not bool:
        raise InputError(f"magnitude_used is {ascii(content['magnitude_used'])[:80]}, but must be true or false.")
    return Form(
        identifier=check_identifier(str(content["identifier"])),
        stage=content["stage"],
        name=_text(content, "name", _MAX_NAME),
        acronym=_acronym(content),
        kind=_choice(content, "type", KINDS),
        input_used=_choice(content, "input_used", INPUTS_USED),
        magnitude_used=content["magnitude_used"],
        regularisation=_text(content, "regularisation", _MAX_TEXT),
        seeds=_seeds(content),
        runtime_s=_runtime_s(content),
        institution=None if content.get("institution") is None else _text(content, "institution", _MAX_NAME),
    )


def read_form(path: Path | str) -> Form:
    """Reads a form. Raises InputError naming the file: missing, a link, too large, not JSON, or as `form_from`."""
    path = Path(path)
    try:
        status = path.lstat()
    except OSError as error:
        raise InputError(f"The form {path} could not be read: {error.strerror}. Forms are files named IDENTIFIER.json.") from error
    if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_FORM_BYTES:
        raise InputError(
            f"The form {path} is no plain file of at most {LARGEST_FORM_BYTES} bytes (it has "
            f"{status.st_size}). Write it with `qsmdl submit`."
        )
    try:
        return form_from(read_json(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
