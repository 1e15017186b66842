"""Decompression with an upper limit, whatever the compressed data declare.

Source of the formats: RFC 1951 (deflate) and RFC 1952 (gzip).
"""

import zlib
from collections.abc import Iterable, Iterator

from qsmdl.errors import InputError

CHUNK = 1 << 20
MAX_RATIO = 100
"""Largest expansion of compressed data beyond the first mebibyte. A float32 map that is zero outside the brain expands about six times, one of
scaled 16-bit integers about twelve; bombs reach deflate's limit of 1032."""
_REMEDY = "Pack the maps with `qsmdl submit`."


def check_ratio(name: str, n_packed: int, n_bytes: int) -> None:
    """Raises InputError where more than a mebibyte came out of less than a hundredth of it."""
    if n_bytes > CHUNK and n_bytes > MAX_RATIO * n_packed:
        raise InputError(
            f"{name} expands from {n_packed} to at least {n_bytes} bytes, more than {MAX_RATIO} times: "
            "a decompression bomb, or a map that is constant. Send a real map."
        )


def inflate(chunks: Iterable[bytes], *, name: str, wbits: int, max_bytes: int) -> Iterator[bytes]:
    """Decompresses a stream piece by piece (wbits -15: deflate, 31: gzip) and stops where it becomes larger than max_bytes or expands too much.

    Raises InputError too for a damaged or cut-off stream, and for bytes after its end.
    """
    inflater = zlib.decompressobj(wbits)
    n_packed = n_bytes = 0
    for chunk in filter(None, chunks):
        if inflater.eof:
            raise InputError(f"bytes follow the end of the compressed data in {name}. {_REMEDY}")
        n_packed += len(chunk)
        pending, piece = chunk, b"-"
        while not inflater.eof and (pending or piece):
            try:
                piece = inflater.decompress(pending, CHUNK)
            except zlib.error as error:
                raise InputError(f"the compressed data of {name} are damaged ({error}). Send the archive again.") from error
            pending = inflater.unconsumed_tail
            n_bytes += len(piece)
            if n_bytes > max_bytes:
                raise InputError(f"{name} expands to more than the {max_bytes} bytes that it declares or that a map of this grid has. {_REMEDY}")
            check_ratio(name, n_packed, n_bytes)
            if piece:
                yield piece
        if inflater.unused_data:
            raise InputError(f"bytes follow the end of the compressed data in {name}. {_REMEDY}")
    if not inflater.eof:
        raise InputError(f"the compressed data of {name} end too early, after {n_bytes} bytes. The file is truncated: send it again.")
