"""Zip archives from strangers, read so strictly that nothing but plain members can be meant.

An archive of maps needs very little of what the zip format can do. Only that little is understood here; everything else is refused with a reason:
links, folders, paths, encryption, odd compression, comments, bytes that belong to no member, local headers that contradict the directory,
overlapping members, more members or bytes than were asked for. Nothing is ever extracted under a name that the archive chose: members are streams of
bytes with an upper limit, counted while they flow, whatever the archive declares.

Source of the format: PKWARE, APPNOTE.TXT, .ZIP File Format Specification, version 6.3.10 (2022), and RFC 1951/1952 (deflate, gzip).
"""

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from qsmdl.challenge.inflating import CHUNK, check_ratio, inflate
from qsmdl.errors import InputError

MAX_MEMBERS = 64
_MAX_NAME, _MAX_EXTRA = 255, 1024
_REMEDY = "Pack the maps with `qsmdl submit`, or zip just the files, without folders, passwords or comments."

_END = struct.Struct("<4s4H2LH")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_DESCRIPTOR = 0x0008
_KNOWN_FLAGS = 0x0002 | 0x0004 | _DESCRIPTOR | 0x0800
_STORED, _DEFLATED = 0, 8
_HARMLESS_EXTRA = {0x000A, 0x5455, 0x5855, 0x7855, 0x7875}
"""Times and owners. Other extra fields can carry link targets (0x000d, 0x756e), second names (0x7075) or second sizes (0x0001)."""


class Member(NamedTuple):
    """One file of an archive: its name, where its data begin, bytes there, bytes they expand to, their CRC-32, whether they are deflated."""

    name: str
    offset: int
    packed_bytes: int
    n_bytes: int
    crc: int
    deflated: bool


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of the central directory."""

    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed_bytes: int
    n_bytes: int
    header_offset: int
    attributes: int
    extra: bytes
    comment: bytes

    @property
    def shown(self) -> str:
        return shown(self.raw_name.decode("ascii", errors="backslashreplace"))


def shown(name: str) -> str:
    """A name from outside as it may be printed: quoted, in ASCII (no terminal codes, no look-alike letters), cut to 80 characters."""
    return ascii(name if len(name) <= 80 else name[:77] + "...")


def _read_at(file: BinaryIO, offset: int, n_bytes: int, what: str) -> bytes:
    file.seek(offset)
    data = file.read(n_bytes)
    if len(data) < n_bytes:
        raise InputError(
            f"it ends within {what}: {len(data)} bytes from {offset} on, but {n_bytes} are "
            "needed. The archive is truncated: send it again."
        )
    return data


def _find_end(file: BinaryIO) -> tuple[int, int, int]:
    """Where the directory lies, its length, and the number of entries."""
    n_bytes = file.seek(0, 2)
    if n_bytes < _END.size:
        raise InputError(f"it has {n_bytes} bytes, fewer than the {_END.size} of an empty zip archive. Send it again.")
    position = n_bytes - _END.size
    signature, disk, first_disk, n_here, n_all, length, offset, n_comment = _END.unpack(_read_at(file, position, _END.size, "the end record"))
    if signature != b"PK\x05\x06" or n_comment:
        raise InputError(
            "its last 22 bytes are not the end record of a zip archive: it is truncated, not a zip archive, or carries a comment or bytes "
            f"after its end. {_REMEDY}"
        )
    if n_here == 0xFFFF or offset == 0xFFFFFFFF or length == 0xFFFFFFFF:
        raise InputError(f"it is a zip64 archive, for members above 4 GiB; maps are far smaller. {_REMEDY}")
    if disk or first_disk or n_here != n_all:
        raise InputError(f"it is one part of a split archive (disk {disk} of several). {_REMEDY}")
    if not 0 < n_all <= MAX_MEMBERS:
        raise InputError(f"it declares {n_all} members; 1 to {MAX_MEMBERS} are read at most, and a submission has two or four. {_REMEDY}")
    if offset + length != position or length > n_all * (_CENTRAL.size + _MAX_NAME + _MAX_EXTRA):
        raise InputError(
            f"its directory should be {length} bytes at {offset}, directly before the end record at {position}, and of moderate size: "
            f"bytes were put before, between or after the parts. {_REMEDY}"
        )
    return offset, length, n_all


def _parse_directory(data: bytes, n_entries: int) -> list[_Entry]:
    entries, position = [], 0
    for _ in range(n_entries):
        if position + _CENTRAL.size > len(data):
            raise InputError(f"its directory ends before the {n_entries} entries it declares. It is damaged: send it again.")
        fields = _CENTRAL.unpack_from(data, position)
        signature, _, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment, _, _, attributes, offset = fields
        begin = position + _CENTRAL.size
        position = begin + n_name + n_extra + n_comment
        if signature != b"PK\x01\x02" or position > len(data):
            raise InputError("its directory holds something that is no entry. It is damaged: send it again.")
        name, extra = data[begin : begin + n_name], data[begin + n_name : begin + n_name + n_extra]
        comment = data[begin + n_name + n_extra : position]
        entries.append(_Entry(name, flags, method, crc, packed, size, offset, attributes, extra, comment))
    if position != len(data):
        raise InputError(f"its directory holds {len(data) - position} bytes after its last entry. {_REMEDY}")
    return entries


def _check_name(entry: _Entry) -> str:
    """The name as text. Only plain ASCII file names pass; what they must be is the caller's business."""
    raw = entry.raw_name
    if not raw or len(raw) > _MAX_NAME or any(byte < 0x20 or byte > 0x7E for byte in raw):
        raise InputError(f"the member name {entry.shown} is empty, too long, or holds control or non-ASCII characters. {_REMEDY}")
    name = raw.decode("ascii")
    if "/" in name or "\\" in name or ":" in name or name.startswith("."):
        raise InputError(
            f"the member {entry.shown} has a path, a drive or a hidden name, but members must be plain file names "
            f"(a path could lead out of the folder it is meant for). {_REMEDY}"
        )
    return name


def _check_extra(entry: _Entry, extra: bytes) -> None:
    position = 0
    while position < len(extra):
        if position + 4 > len(extra):
            raise InputError(f"an extra field of {entry.shown} is cut off. {_REMEDY}")
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4 + length
        if kind not in _HARMLESS_EXTRA or position > len(extra):
            raise InputError(
                f"the member {entry.shown} has an extra field of the kind 0x{kind:04x}; only times and owners are understood, as others "
                f"can hold the target of a link, a second name or a second size. {_REMEDY}"
            )


def _check_kind(entry: _Entry) -> None:
    kind = stat.S_IFMT(entry.attributes >> 16)
    if kind not in (0, stat.S_IFREG) or entry.attributes & 0x10:
        word = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder"}.get(kind, "a folder" if entry.attributes & 0x10 else "a special file")
        raise InputError(f"the member {entry.shown} is {word}, not a file. {_REMEDY}")
    if entry.flags & _ENCRYPTED:
        raise InputError(f"the member {entry.shown} is encrypted. {_REMEDY}")
    if entry.flags & ~_KNOWN_FLAGS:
        raise InputError(f"the member {entry.shown} has the flags 0x{entry.flags:04x}, which are not understood. {_REMEDY}")
    if entry.method not in (_STORED, _DEFLATED):
        raise InputError(f"the member {entry.shown} is compressed by method {entry.method}; only 0 (stored) and 8 (deflate) are read. {_REMEDY}")
    if entry.comment:
        raise InputError(f"the member {entry.shown} has a comment; submissions carry no identifying content. {_REMEDY}")


def _check_sizes(entry: _Entry, max_bytes: int) -> None:
    if entry.n_bytes > max_bytes:
        raise InputError(f"the member {entry.shown} declares {entry.n_bytes} bytes, but a map of this grid has at most {max_bytes}. {_REMEDY}")
    check_ratio(entry.shown, entry.packed_bytes, entry.n_bytes)
    if entry.method == _STORED and entry.packed_bytes != entry.n_bytes:
        raise InputError(
            f"the member {entry.shown} is stored, yet declares {entry.packed_bytes} and "
            f"{entry.n_bytes} bytes. It is damaged: send it again."
        )


def _locate(file: BinaryIO, entry: _Entry) -> tuple[int, int]:
    """Where the data of an entry begin and where they end, descriptor included, after its local header was found to say the same."""
    header = _LOCAL.unpack(_read_at(file, entry.header_offset, _LOCAL.size, f"the header of {entry.shown}"))
    signature, _, flags, method, _, _, crc, packed, size, n_name, n_extra = header
    tail = _read_at(file, entry.header_offset + _LOCAL.size, n_name + n_extra, f"the header of {entry.shown}")
    later = bool(entry.flags & _DESCRIPTOR)  # then the header may leave sizes and CRC to a descriptor behind the data
    sizes_agree = (crc, packed, size) == (entry.crc, entry.packed_bytes, entry.n_bytes) or (later and (crc, packed, size) == (0, 0, 0))
    if signature != b"PK\x03\x04" or tail[:n_name] != entry.raw_name or (flags, method) != (entry.flags, entry.method) or not sizes_agree:
        raise InputError(
            f"the header in front of {entry.shown} contradicts the archive's directory (name, flags, method, sizes or CRC), "
            f"so two programs could read two different files. {_REMEDY}"
        )
    _check_extra(entry, tail[n_name:])
    begin = entry.header_offset + _LOCAL.size + n_name + n_extra
    end = begin + entry.packed_bytes
    return begin, end + (_descriptor_length(file, entry, end) if later else 0)


def _descriptor_length(file: BinaryIO, entry: _Entry, position: int) -> int:
    expected = struct.pack("<3L", entry.crc, entry.packed_bytes, entry.n_bytes)
    data = _read_at(file, position, 16, f"the descriptor behind {entry.shown}")  # the directory follows, so there are always 16 bytes
    if data == b"PK\x07\x08" + expected:
        return 16
    if data[:12] == expected:
        return 12
    raise InputError(f"the descriptor behind {entry.shown} contradicts the archive's directory. It is damaged: send it again.")


def read_directory(file: BinaryIO, *, max_bytes: int) -> list[Member]:
    """The members of a zip archive, after every check that needs no decompression.

    max_bytes: the largest size that a member may declare. Raises InputError with what was found, the rule and the remedy (the caller names the file).
    """
    offset, length, n_entries = _find_end(file)
    entries = _parse_directory(_read_at(file, offset, length, "the directory"), n_entries)
    members, names, expected = [], set(), 0
    for entry in sorted(entries, key=lambda e: e.header_offset):
        name = _check_name(entry)
        if name.lower() in names:
            raise InputError(f"two members are called {entry.shown}. {_REMEDY}")
        names.add(name.lower())
        _check_kind(entry)
        _check_extra(entry, entry.extra)
        _check_sizes(entry, max_bytes)
        if entry.header_offset != expected:
            raise InputError(
                f"the member {entry.shown} begins at byte {entry.header_offset}, but the one before ends at {expected}: members overlap, as in a "
                f"decompression bomb, or bytes that belong to none lie between them. {_REMEDY}"
            )
        begin, expected = _locate(file, entry)
        members.append(Member(name, begin, entry.packed_bytes, entry.n_bytes, entry.crc, entry.method == _DEFLATED))
    if expected != offset:
        raise InputError(f"{offset - expected} bytes between the last member and the directory belong to no member. {_REMEDY}")
    return members


def _raw_chunks(file: BinaryIO, member: Member) -> Iterator[bytes]:
    position, end = member.offset, member.offset + member.packed_bytes
    while position < end:
        chunk = _read_at(file, position, min(CHUNK, end - position), shown(member.name))
        position += len(chunk)
        yield chunk


def member_bytes(file: BinaryIO, member: Member) -> Iterator[bytes]:
    """The content of a member as pieces of at most a mebibyte.

    Raises InputError, at the latest after the last piece, where length or CRC-32 are not those declared.
    """
    name = shown(member.name)
    chunks = _raw_chunks(file, member)
    if member.deflated:
        chunks = inflate(chunks, name=name, wbits=-zlib.MAX_WBITS, max_bytes=member.n_bytes)
    n_bytes = crc = 0
    for chunk in chunks:
        n_bytes, crc = n_bytes + len(chunk), zlib.crc32(chunk, crc)
        yield chunk
    if n_bytes != member.n_bytes or crc != member.crc:
        raise InputError(
            f"{name} holds {n_bytes} bytes with the CRC {crc:08x}, but declares {member.n_bytes} with {member.crc:08x}. It is damaged: send it again."
        )
