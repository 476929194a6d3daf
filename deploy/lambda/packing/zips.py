"""Zips whose bytes say only what is in them: no time, no owner, no order of a folder.

What was deflated once is laid into another zip as it is; `zipfile` can only deflate anew, and that is nearly all of the work.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFLATE_LEVEL: Final = 6  # 9 takes three times as long, for one byte in 150
_DATE: Final = (2020 - 1980) << 9 | 1 << 5 | 1  # 2020-01-01 00:00, which is late enough for every reader
_FLAG_UTF8: Final = 0x800
_UNIX: Final = 3 << 8 | 20
_ENTRIES_MAX: Final = 65_000  # a classical zip counts them in 16 bits
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_LENGTHS: Final = 26  # where a local header says how long its name and its extra field are


@dataclass(frozen=True)
class Entry:
    """A file: its name in the zip, its mode, and its deflated bytes with the length and the checksum of what they hold."""

    name: str
    mode: int
    checksum: int
    file_bytes: int
    deflated: bytes


def deflated(name: str, content: bytes, *, program: bool = False) -> Entry:
    """`program`: it may be executed."""
    squeeze = zlib.compressobj(DEFLATE_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, 9)
    body = squeeze.compress(content) + squeeze.flush()
    return Entry(name, 0o100755 if program else 0o100644, zlib.crc32(content), len(content), body)


def write(entries: Iterable[Entry], comment: str = "") -> bytes:
    """The zip's bytes: entries by name, each with the same time. Raises ValueError for two of one name, or too many."""
    ordered = sorted(entries, key=lambda e: e.name)
    if len({e.name for e in ordered}) < len(ordered) or len(ordered) > _ENTRIES_MAX:
        raise ValueError("two files of one name, or too many of them")
    bodies, index, offset = [], [], 0
    for entry in ordered:
        name, flags = entry.name.encode(), 0 if entry.name.isascii() else _FLAG_UTF8
        told = (flags, zipfile.ZIP_DEFLATED, 0, _DATE, entry.checksum, len(entry.deflated), entry.file_bytes, len(name), 0)
        bodies += [_LOCAL.pack(b"PK\3\4", 20, *told), name, entry.deflated]
        index += [_CENTRAL.pack(b"PK\1\2", _UNIX, 20, *told, 0, 0, 0, entry.mode << 16, offset), name]
        offset += _LOCAL.size + len(name) + len(entry.deflated)
    count, listed, said = len(ordered), b"".join(index), comment.encode()
    end = _END.pack(b"PK\5\6", 0, 0, count, count, len(listed), offset, len(said))
    return b"".join([*bodies, listed, end, said])


def entries(file: Path) -> list[Entry]:
    """What lies in a zip of `write`. Raises zipfile.BadZipFile, OSError."""
    raw = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        return [
            Entry(i.filename, i.external_attr >> 16, i.CRC, i.file_size, raw[start : start + i.compress_size])
            for i in archive.infolist()
            for start in (i.header_offset + _LOCAL.size + sum(struct.unpack_from("<2H", raw, i.header_offset + _LENGTHS)),)
        ]


def comment(file: Path) -> str | None:
    """A zip's comment; None for what is none."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.comment.decode("ascii", "replace")
    except (OSError, zipfile.BadZipFile):
        return None


def unpacked_bytes(found: Sequence[Entry]) -> int:
    """What they take once they are unpacked."""
    return sum(e.file_bytes for e in found)
