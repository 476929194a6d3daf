"""Notices certificates that were renewed by being written in place, which Envoy does not see by itself."""

import os
from collections.abc import Iterable, Mapping

from tierkeeper.balance.envoy.checks import certificate_works
from tierkeeper.balance.model import Certificate, Pool
from tierkeeper.kernel.errors import UsageError

Mark = tuple[tuple[int, int, int], ...]


class Watched:
    """Remembers how each pool's files looked."""

    def __init__(self) -> None:
        self._marks: dict[str, Mark] = {}
        self._turns: dict[str, int] = {}

    def look(self, pools: Iterable[Pool]) -> Mapping[str, int]:
        """How often each pool's certificate changed, by pool name."""
        for pool in pools:
            if pool.certificate is not None:
                self._marks.setdefault(pool.name, _mark(pool.certificate))
        return self._turns

    def changed(self, pools: Iterable[Pool]) -> tuple[list[str], bool]:
        """What to tell of certificates that changed since the last look, and whether Envoy has to read one again.

        A pair that does not work is told once, and left until it changes again: Envoy keeps the one that it has.
        """
        said, again = [], False
        for pool in pools:
            if pool.certificate is None or (mark := _mark(pool.certificate)) == self._marks.get(pool.name):
                continue
            self._marks[pool.name] = mark
            try:
                certificate_works(pool.name, pool.certificate)
            except UsageError as error:
                said.append(f"the certificate changed and does not work, so the one before is kept: {error}")
                continue
            self._turns[pool.name] = self._turns.get(pool.name, 0) + 1
            said.append(f"{pool.name}: the certificate was renewed")
            again = True
        return said, again


def _mark(certificate: Certificate) -> Mark:
    marks = []
    for path in (certificate.chain, certificate.key):
        try:
            now = os.stat(path)  # noqa: PTH116 - the path is text here
            marks.append((now.st_ino, now.st_size, now.st_mtime_ns))
        except OSError:
            marks.append((0, 0, 0))
    return tuple(marks)
