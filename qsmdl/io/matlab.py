"""Plain values from MATLAB files (version 5, as `save` writes them by default).

The files are not trusted, and scipy's reader, which is compiled, crashes on some damaged ones. This one is plain Python on bounded slices. It knows
texts, real numeric arrays and one struct of them, and passes over everything else. Format: MathWorks, "MAT-File Format", level 5.
"""

import itertools
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsmdl.errors import InputError

MAX_BYTES = 512 * 2**20
"""Of one file, decompressed. A mask of 164 x 205 x 205 as double takes 55 MB."""
_HEADER_BYTES, _ENDIANNESS = 128, {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_STRUCT, _CHAR, _NUMERIC = 2, 4, range(6, 16)
_COMPLEX = 0x08
_MAX_DIMENSIONS, _MAX_FIELDS, _MAX_VARIABLES = 8, 1000, 1000


class _DamagedError(ValueError):
    """The bytes do not follow the format."""


class _TooLargeError(ValueError):
    """More bytes than `MAX_BYTES`."""


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """(type, content) of the data elements in a piece of a file."""
    position = 0
    while position + 8 <= len(data):
        kind, n_bytes = struct.unpack_from(f"{order}II", data, position)
        small, begin = kind >> 16, position + 8
        if small:  # up to four bytes stand in the tag itself
            kind, n_bytes, begin = kind & 0xFFFF, small, position + 4
        if (small and small > 4) or begin + n_bytes > len(data):
            raise _DamagedError("an element is longer than what holds it")
        yield kind, data[begin : begin + n_bytes]
        padding = 0 if small or kind == _COMPRESSED else -n_bytes % 8
        position = position + 8 if small else begin + n_bytes + padding


def _take(elements: Iterator[tuple[int, memoryview]], what: str) -> tuple[int, memoryview]:
    element = next(elements, None)
    if element is None:
        raise _DamagedError(f"an array has no {what}")
    return element


def _expand(data: memoryview, left: int) -> memoryview:
    """A compressed element's content, of at most `left` bytes."""
    decompressor = zlib.decompressobj()
    content = decompressor.decompress(data, left + 1)
    if len(content) > left:
        raise _TooLargeError
    if not decompressor.eof:
        raise _DamagedError("a compressed element is cut off")
    return memoryview(content)


def _numbers(kind: int, data: memoryview, order: str) -> NDArray[Any]:
    if kind not in _NUMBERS or len(data) % np.dtype(_NUMBERS[kind]).itemsize:
        raise _DamagedError(f"numbers of the type {kind}")
    return np.frombuffer(data, dtype=order + _NUMBERS[kind])


def _text(kind: int, data: memoryview, order: str) -> str:
    """A text of one line; type 4 holds 16-bit codes."""
    encodings = {1: "utf-8", 2: "utf-8", 16: "utf-8", 4: "utf-16", 17: "utf-16", 18: "utf-32"}
    if kind not in encodings:
        raise _DamagedError(f"a text of the type {kind}")
    suffix = "" if encodings[kind] == "utf-8" else {"<": "-le", ">": "-be"}[order]
    return bytes(data).decode(encodings[kind] + suffix)


def _array(data: memoryview, order: str, depth: int = 0) -> tuple[str, Any]:
    """(name, value) of an array: a text, a numeric array, a dict of the fields of a struct, or None for what is not read."""
    elements = _elements(data, order)
    flags = int(_numbers(*_take(elements, "flags"), order)[:1].sum())
    dimensions = [int(n) for n in _numbers(*_take(elements, "dimensions"), order)]
    name = bytes(_take(elements, "name")[1]).decode("ascii")
    if len(dimensions) > _MAX_DIMENSIONS or any(n < 0 for n in dimensions):
        raise _DamagedError(f"dimensions {dimensions[:9]}")
    kind, size = flags & 0xFF, math.prod(dimensions)
    if kind == _STRUCT and depth == 0 and size == 1:
        return name, _fields(elements, order)
    if kind == _CHAR and max(dimensions, default=0) == size:
        return name, _text(*_take(elements, "text"), order) if size else ""
    if kind in _NUMERIC and not flags >> 8 & _COMPLEX:
        values = _numbers(*_take(elements, "values"), order)
        if values.size != size:
            raise _DamagedError(f"{values.size} values for the dimensions {dimensions}")
        return name, values.reshape(dimensions, order="F")
    return name, None


def _fields(elements: Iterator[tuple[int, memoryview]], order: str) -> dict[str, Any]:
    length = int(_numbers(*_take(elements, "length of field names"), order)[:1].sum())
    names = bytes(_take(elements, "field names")[1])
    if length < 1 or len(names) % length or len(names) // length > _MAX_FIELDS:
        raise _DamagedError(f"field names of the length {length}")
    fields = {}
    for begin in range(0, len(names), length):
        kind, content = _take(elements, "field")
        if kind != _MATRIX:
            raise _DamagedError(f"a field of the type {kind}")
        fields[names[begin : begin + length].split(b"\0")[0].decode("ascii")] = _array(content, order, depth=1)[1] if len(content) else None
    return fields


def _values(data: memoryview, limit: int) -> dict[str, Any]:
    if len(data) > limit:
        raise _TooLargeError
    order = _ENDIANNESS.get(bytes(data[124:_HEADER_BYTES]))
    if order is None:
        raise _DamagedError("it has no header of version 5")
    found: dict[str, Any] = {}
    left = limit
    for kind, content in itertools.islice(_elements(data[_HEADER_BYTES:], order), _MAX_VARIABLES):
        if kind == _COMPRESSED:
            expanded = _expand(content, left)
            left -= len(expanded)
            kind, content = _take(_elements(expanded, order), "tag")
        if kind == _MATRIX:
            name, value = _array(content, order)
            found |= value if isinstance(value, dict) else {name: value}
    return {name: value for name, value in found.items() if value is not None}


def read_matlab(path: Path | str) -> dict[str, Any]:
    """Texts and real numeric arrays in a MATLAB file by name; a struct's fields stand beside the variables. Everything else is left out.

    Raises InputError naming the file: missing, not a MATLAB file of version 5, damaged, or larger than `MAX_BYTES` when decompressed.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        return _values(memoryview(data), MAX_BYTES)
    except _TooLargeError as error:
        raise InputError(
            f"{path} holds more than {MAX_BYTES // 2**20} MiB of values, far more than a mask needs, and is not read. Remove it."
        ) from error
    except (OSError, _DamagedError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(
            f"{path} could not be read as a MATLAB file of version 5 ({error}). It is damaged or of another version: save "
            "it with -v7, or remove it to score in MaskBrainExtracted."
        ) from error
