"""Samples that wait on this machine while Main is away: JSON Lines, bounded, for their user alone.

A sample leaves only after Main has committed it. What was sent and not yet removed when a process ended is sent again: Main knows
each sample by its primary key, so that it stands there once.
"""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import SPOOL_BYTES_MAX, SPOOL_SENT
from tierkeeper.monitoring import state
from tierkeeper.monitoring.model import Figures, from_line, to_line

_VERSION: Final = 1
Samples = Sequence[Figures]
"""Those of one instant."""


class Spool:
    """`samples.jsonl` takes what comes; what is on its way to Main lies in `sending.jsonl`, which nobody adds to."""

    def __init__(self, folder: Path, *, limit_bytes: int = SPOOL_BYTES_MAX) -> None:
        self._folder = folder
        self._file = folder / "samples.jsonl"
        self._sending = folder / "sending.jsonl"
        self._adding = folder / "adding.lock"
        self._limit_bytes = limit_bytes

    def add(self, samples: Samples) -> None:
        """Appends one line, durable when this returns. A spool that is full is thinned out first. Raises OSError."""
        state.make(self._folder)
        line = json.dumps({"v": _VERSION, "samples": [to_line(s) for s in samples]}, separators=(",", ":")).encode() + b"\n"
        with state.locked(self._adding):
            if self._size() + len(line) > self._limit_bytes:
                self._thin()
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                end = os.lseek(descriptor, 0, os.SEEK_END)
                if end and os.pread(descriptor, 1, end - 1) != b"\n":
                    line = b"\n" + line  # the last line is torn: whoever wrote it was killed, or the disk was full
                written = os.write(descriptor, line)
                if written < len(line):
                    os.ftruncate(descriptor, end)
                    raise OSError("the disk has no room for a sample")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if not end:
                state.sync(self._folder)

    def read(self, since: datetime | None = None) -> list[Figures]:
        """What waits, oldest first."""
        found: list[Figures] = []
        with suppress(OSError):  # where nothing can be read nothing was written, or the next `send` says why
            found = [s for path in (self._sending, self._file) for samples in _lines(path) for s in samples]
        return [s for s in found if since is None or s.at >= since]

    @property
    def is_empty(self) -> bool:
        return not self._sending.exists() and self._size() == 0

    def send(self, to_main: Callable[[Sequence[Samples]], None]) -> int:
        """Hands over what waits, in order, and removes what `to_main` has returned from; how many samples it was.

        Nothing, where another process is at it. Raises what `to_main` raises; then all stays that it has not returned from.
        """
        if self.is_empty:
            return 0
        with state.locked(self._folder / "sending.lock", wait=False) as mine:
            return sum(self._send(to_main) for _ in range(2)) if mine else 0

    def _send(self, to_main: Callable[[Sequence[Samples]], None]) -> int:
        with state.locked(self._adding):
            if not self._sending.exists() and self._file.exists():
                self._file.rename(self._sending)
        lines = _lines(self._sending)
        for begin in range(0, len(lines), SPOOL_SENT):
            to_main(lines[begin : begin + SPOOL_SENT])
        reach(Point.SPOOL_SENT)
        self._sending.unlink(missing_ok=True)
        return sum(map(len, lines))

    def _size(self) -> int:
        return sum(path.stat().st_size for path in (self._file, self._sending) if path.exists())

    def _thin(self) -> None:
        """Leaves out samples until a quarter of the room is free: the newest half stays, of the others some, evenly."""
        data = self._file.read_bytes() if self._file.exists() else b""
        lines = [(samples[0].at.timestamp(), raw + b"\n") for raw in data.split(b"\n") if (samples := _parsed(raw))]
        room = self._limit_bytes * 3 // 4 - (self._sending.stat().st_size if self._sending.exists() else 0)
        while lines and sum(len(raw) for _, raw in lines) > room:
            older, newer = lines[: len(lines) // 2], lines[len(lines) // 2 :]
            lines = [*_spread(older, len(older) // 2), *newer] if len(older) > 1 else newer[1:]
        state.replace(self._file, b"".join(raw for _, raw in lines), durable=True)


def _spread(lines: Sequence[tuple[float, bytes]], count: int) -> list[tuple[float, bytes]]:
    """About `count` of them, the first and then one in each equal piece of the time that they span."""
    begin, whole = lines[0][0], (lines[-1][0] - lines[0][0]) or 1.0
    pieces: dict[int, tuple[float, bytes]] = {}
    for at, raw in lines:
        pieces.setdefault(min(count - 1, int((at - begin) / whole * count)), (at, raw))
    return list(pieces.values())


def _lines(path: Path) -> list[list[Figures]]:
    """The samples of each line; one that is torn says nothing."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return [samples for line in data.split(b"\n") if (samples := _parsed(line))]


def _parsed(line: bytes) -> list[Figures]:
    """The samples of a line; none where it is torn, or of a version that this program does not know."""
    try:
        told = json.loads(line) if line else {}
        return [from_line(one) for one in told["samples"]] if told.get("v") == _VERSION else []
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []
