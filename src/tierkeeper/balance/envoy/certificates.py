"""Copies of the certificates that work, for Envoy to read: the user's files may be renewed one by one, in place, or wrongly.

An Envoy that is started anew serves what it served before, whatever lies in the user's files by then.
"""

import hashlib
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from tierkeeper.balance.envoy.checks import certificate_pair
from tierkeeper.balance.envoy.documents import Layout, pool_key
from tierkeeper.balance.model import Certificate, Pool
from tierkeeper.kernel.errors import UsageError

Mark = tuple[tuple[int, int, int], ...]

_NAME_BYTES: Final = 16  # of the digest that names a copy


class Copies:
    """The newest pair of each pool that works. Other content has another name, so that Envoy reads it."""

    def __init__(self, layout: Layout) -> None:
        self._folder = Path(layout.certificates)
        self._marks: dict[str, tuple[Certificate, Mark]] = {}
        self._copies: dict[str, Certificate] = {}

    def of(self, pools: Iterable[Pool]) -> Mapping[str, Certificate]:
        """Each pool's copy, by pool name. Raises UsageError for a pool's first pair that does not work; OSError."""
        for pool in pools:
            known = self._marks.get(pool.name)
            if pool.certificate is not None and (known is None or known[0] != pool.certificate):
                self._take(pool.name, pool.certificate)
        return self._copies

    def renewed(self, pools: Iterable[Pool]) -> tuple[list[str], bool]:
        """What to tell of pairs that changed since the last look, and whether Envoy has to read one again.

        A pair that does not work is told once, and left until it changes again. Raises OSError.
        """
        said, again = [], False
        for pool in pools:
            if pool.certificate is None or (pool.certificate, _mark(pool.certificate)) == self._marks.get(pool.name):
                continue
            try:
                before = self._copies.get(pool.name)
                self._take(pool.name, pool.certificate)
            except UsageError as error:
                said.append(f"the certificate changed and does not work, so the one before is kept: {error}")
                continue
            if self._copies[pool.name] != before:
                said.append(f"{pool.name}: the certificate was renewed")
                again = True
        return said, again

    def sweep(self, pools: Iterable[Pool]) -> None:
        """Removes what Envoy reads no more: the copies of pools that are gone, and those of before."""
        kept: dict[str, Collection[str]] = {
            pool_key(p.name): {Path(self._copies[p.name].chain).name, Path(self._copies[p.name].key).name}
            for p in pools
            if p.name in self._copies
        }
        with suppress(OSError):
            for folder in self._folder.iterdir():
                for file in folder.iterdir() if folder.name in kept else ():
                    if file.name not in kept[folder.name]:
                        file.unlink(missing_ok=True)
                if folder.name not in kept:
                    shutil.rmtree(folder, ignore_errors=True)

    def _take(self, name: str, certificate: Certificate) -> None:
        mark = _mark(certificate)  # before the look: what changes meanwhile is looked at again
        try:
            chain, key = certificate_pair(name, certificate)
        except UsageError:
            self._marks[name] = (certificate, mark)
            raise
        folder = self._folder / pool_key(name)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        called = hashlib.sha256(chain + b"\0" + key).hexdigest()[: 2 * _NAME_BYTES]
        copy = Certificate(str(folder / f"{called}.pem"), str(folder / f"{called}.key"))
        for path, content in ((copy.chain, chain), (copy.key, key)):
            if not _holds(Path(path), content):
                _write(Path(path), content)
        self._copies[name] = copy
        self._marks[name] = (certificate, mark)


def _holds(path: Path, content: bytes) -> bool:
    """Whether the file is there, and whole: a machine that lost its power may have kept a name and not what it was for."""
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, and for this user's eyes from the first byte."""
    beside = path.with_name(f".{path.name}")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    beside.rename(path)


def _mark(certificate: Certificate) -> Mark:
    marks = []
    for path in (certificate.chain, certificate.key):
        try:
            now = os.stat(path)  # noqa: PTH116 - the path is text here
            marks.append((now.st_ino, now.st_size, now.st_mtime_ns))
        except OSError:
            marks.append((0, 0, 0))
    return tuple(marks)
