"""What of a wheel goes into an artifact: nothing that is never loaded, and always its licence."""

import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from packing import zips

_SOURCES: Final = ("*.pyx", "*.pxd", "*.pxi", "*.pyi", "*.h", "*.hpp", "*.c", "*.cc", "*.cpp", "*.pyc", "*/py.typed")
_NOTES: Final = (
    "*.dist-info/RECORD",
    "*.dist-info/WHEEL",
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
    "*.dist-info/direct_url.json",
    "*.dist-info/top_level.txt",
    "*.dist-info/sboms/*",
)

DROPPED: Final[Mapping[str, tuple[str, ...]]] = {
    # Object stores and file systems (obstore has that here), Flight, ORC, datasets; copies of a library under its other names.
    "pyarrow": (
        *("pyarrow/include/*", "pyarrow/tests/*", "pyarrow/src/*", "pyarrow/includes/*", "pyarrow/interchange/*"),
        *("pyarrow/*flight*", "pyarrow/*s3*", "pyarrow/_hdfs*", "pyarrow/_gcsfs*", "pyarrow/_azurefs*", "pyarrow/_orc*"),
        *("pyarrow/_substrait*", "pyarrow/_feather*", "pyarrow/_json*", "pyarrow/_dataset*"),
        *("pyarrow/libarrow_python*.so", "pyarrow/lib*.so.*.*.*"),
    ),
    "obstore": ("obstore/auth/*", "obstore/fsspec.py"),
}
ONLY: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    # Of all that lies below a folder only this; botocore describes every service of AWS there.
    "botocore": (
        "botocore/data/",
        (
            *("botocore/data/ssm/*", "botocore/data/sts/*", "botocore/data/_retry.json", "botocore/data/endpoints.json"),
            *("botocore/data/partitions.json", "botocore/data/sdk-default-configuration.json"),
        ),
    ),
    "procrastinate": ("procrastinate/", ("procrastinate/__init__.py", "procrastinate/sql/*")),
}
ALONE: Final = ("procrastinate",)  # `setup` reads its statements and loads none of its modules: no need of what those import
_SCHEMES: Final = ("purelib", "platlib")
_ELF64: Final = b"\x7fELF\x02\x01"  # of 64 bits, little-endian
_ELF_HEADER: Final = 64  # bytes; in it, where: its program headers, their size and count, and the same of sections
_PROGRAMS_AT: Final = 32
_PROGRAM_SIZES_AT: Final = 54
_SECTIONS_AT: Final = 40
_SECTION_SIZES_AT: Final = 58


def part(name: str, wheel: Path, folder: Path) -> list[zips.Entry]:
    """The entries of the distribution `name`, kept in `folder` under what they were made of."""
    rules = Path(__file__).read_bytes() + f"{zips.DEFLATE_LEVEL} {zlib.ZLIB_RUNTIME_VERSION}".encode()
    key = hashlib.sha256(wheel.read_bytes() + rules).hexdigest()
    kept = folder / f"{name}-{key[:16]}.zip"
    try:
        return zips.entries(kept)
    except (OSError, zipfile.BadZipFile):
        folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:  # zlib gives up the lock
        made = list(pool.map(lambda member: zips.deflated(*member), members(name, wheel)))
    raw = kept.with_suffix(f".{os.getpid()}")
    raw.write_bytes(zips.write(made))
    raw.replace(kept)
    return made


def members(name: str, wheel: Path) -> Iterator[tuple[str, bytes]]:
    """The files of `wheel` that are loaded, as they would lie in a folder of Python's path."""
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            path = _installed(info.filename)
            if path is not None and not info.is_dir() and wanted(name, path):
                yield path, bare(archive.read(info))


def _installed(path: str) -> str | None:
    """Where an installer would put it; None for what is neither module nor data of one."""
    first, _, rest = path.partition("/")
    if not first.endswith(".data"):
        return path
    scheme, _, inner = rest.partition("/")
    return inner if scheme in _SCHEMES else None


def wanted(name: str, path: str) -> bool:
    """Whether `path` of the distribution `name` stays."""
    if fnmatchcase(path, "*.dist-info/licenses/*"):
        return True
    folder, only = ONLY.get(name, ("", ("*",)))
    if path.startswith(folder) and not any(fnmatchcase(path, pattern) for pattern in only):
        return False
    return not any(fnmatchcase(path, pattern) for pattern in (*_SOURCES, *_NOTES, *DROPPED.get(name, ())))


def bare(content: bytes) -> bytes:
    """A shared library without its sections: symbols for a debugger. Loading one reads its segments alone; all else as it is."""
    if not content.startswith(_ELF64):
        return content
    (table,) = struct.unpack_from("<Q", content, _PROGRAMS_AT)
    size, count = struct.unpack_from("<2H", content, _PROGRAM_SIZES_AT)
    end = table + size * count
    for number in range(count):
        offset, in_file = struct.unpack_from("<Q16xQ", content, table + number * size + 8)
        end = max(end, offset + in_file)
    head = bytearray(content[:_ELF_HEADER])
    struct.pack_into("<Q", head, _SECTIONS_AT, 0)
    struct.pack_into("<3H", head, _SECTION_SIZES_AT, 0, 0, 0)
    return bytes(head) + content[_ELF_HEADER:end]
