"""What the balancer keeps on this machine: who was primary, what is drained, how all stood last, and a record of its changes.

Invariant: what is remembered of a primary, and what is drained, is durable before anything is done by it. Files are the user's
alone, bounded in size, and readable while the brain runs or is gone.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tierkeeper.balance.evidence import Inputs, State, inputs_line, state_line
from tierkeeper.balance.primary import Remembered
from tierkeeper.kernel.errors import NotNow, UsageError
from tierkeeper.monitoring import state

SOCKET: Final = "control.sock"
RECORD_BYTES_MAX: Final = 4 * 2**20  # of each file of the record; with the one before it, weeks of changes
LINE_BYTES_MAX: Final = 256 * 2**10  # of one line: of more samples than that nobody learns more


class Kept:
    """The folder of one balancer. Constructing it touches nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def socket(self) -> Path:
        return self.folder / SOCKET

    def make(self) -> None:
        """Makes the folder. Raises UsageError where it cannot be."""
        try:
            state.make(self.folder)
            self.folder.chmod(0o700)
        except OSError as error:
            cause = f"it cannot be made ({error.strerror})"
            raise UsageError(f"the state folder {self.folder}", cause, "Set XDG_STATE_HOME to a folder of this user's") from None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While the block runs no other brain decides here. Raises UsageError where one does."""
        fd = os.open(self.folder / "serving", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            cause = "another `tierkeeper balance serve`, or a `tierkeeper run`, balances by this configuration"
            raise UsageError(
                "tierkeeper balance serve", cause, "End that one first, or look at it: tierkeeper balance status"
            ) from None
        finally:
            os.close(fd)

    def remembered(self) -> dict[str, Remembered]:
        """Of each Postgres service. Raises UsageError for a file that cannot be read: to forget it would be to trust anybody."""
        with self._readable(
            "primaries.json", "See which node is the primary, then remove the file: it is learned from the nodes"
        ):
            told = self._read("primaries.json") or {}
            return {name: Remembered(one["system"], int(one["timeline"]), one["holder"]) for name, one in told.items()}

    def remember(self, remembered: Mapping[str, Remembered]) -> None:
        """Durable when it returns. Raises OSError."""
        self._write("primaries.json", {name: asdict(one) for name, one in remembered.items()}, durable=True)

    def drained(self) -> frozenset[tuple[str, str]]:
        """Services and backends that a person has drained. Raises UsageError for a file that cannot be read."""
        with self._readable("drained.json", "Remove it, start again, and drain anew what is not to take traffic"):
            return frozenset((str(service), str(backend)) for service, backend in self._read("drained.json") or ())

    def drain(self, drained: frozenset[tuple[str, str]]) -> None:
        """Durable when it returns. Raises NotNow where the disk takes nothing."""
        try:
            self._write("drained.json", sorted(drained), durable=True)
        except OSError as error:
            raise NotNow(str(self.folder), f"it takes no file ({error.strerror})", "Make room there, then try again") from None

    def write_status(self, document: Mapping[str, Any]) -> None:
        """How all stands, for whoever asks when the brain is gone. Raises OSError."""
        self._write("status.json", document, durable=False)

    def status(self) -> dict[str, Any] | None:
        """How all stood last; None where nothing was ever balanced here."""
        with suppress(OSError, ValueError, TypeError):
            found = self._read("status.json")
            return dict(found) if found is not None else None
        return None

    @contextmanager
    def _readable(self, name: str, remedy: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(f"the state file {self.folder / name}", f"it cannot be read ({error.strerror})", remedy) from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UsageError(f"the state file {self.folder / name}", "it is damaged", remedy) from None

    def _read(self, name: str) -> Any:
        try:
            return json.loads((self.folder / name).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _write(self, name: str, document: object, *, durable: bool) -> None:
        state.replace(self.folder / name, json.dumps(document, separators=(",", ":")).encode(), durable=durable)


class Record:
    """One file of JSON Lines that is begun anew when it is full; the one before it stays, as `NAME.1`. Never raises: a disk that
    is full must not end what is balanced.
    """

    def __init__(self, path: Path, *, limit_bytes: int = RECORD_BYTES_MAX) -> None:
        self._path, self._limit_bytes = path, limit_bytes
        self._file: int | None = None
        self._size = 0
        self.lost = 0  # lines that could not be written

    def add(self, line: Mapping[str, Any], *, durable: bool = False) -> None:
        """Appends a line."""
        self.write(json.dumps(line, separators=(",", ":"), default=str), durable=durable)

    def fits(self, text: str) -> bool:
        """Whether a line comes into the file that the ones before it are in."""
        return self._file is not None and self._size + len(text.encode()) + 1 <= self._limit_bytes

    def write(self, text: str, *, durable: bool = False) -> bool:
        """Appends one line or several, without the end of the last; whether the file is a new one."""
        data = text.encode() + b"\n"
        if len(data) > LINE_BYTES_MAX:
            self.lost += 1
            return False
        is_new = False
        try:
            if self._file is None or self._size + len(data) > self._limit_bytes:
                is_new = self._open(len(data))
            assert self._file is not None  # noqa: S101 - it was opened above
            self._size += os.write(self._file, data)
            if durable:
                os.fsync(self._file)
        except OSError:
            self.lost += 1
        return is_new

    def _open(self, coming: int) -> bool:
        self.close()
        size = self._path.stat().st_size if self._path.exists() else 0
        if size and size + coming > self._limit_bytes:
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            size = 0
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = size
        return True

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Steps:
    """The record of what `adaptive` did in all pools. Each file of it can be replayed by itself: in each one a pool's first line
    is the state that it had.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._chained: set[str] = set()

    def add(self, pool: str, before: State, inputs: Inputs, weights: Mapping[str, int]) -> None:
        """One step: `before` is the state that it began with, `weights` are what came of it."""
        text = inputs_line(inputs, at=now_text(), pool=pool, weights=weights)
        if pool not in self._chained or not self._record.fits(text):
            text = f"{state_line(before, pool=pool)}\n{text}"
        lost = self._record.lost
        if self._record.write(text):
            self._chained.clear()  # the other pools tell their states anew
        self._chained.add(pool)
        if self._record.lost > lost:
            self.forget(pool)

    def forget(self, pool: str) -> None:
        """Its next line comes with its state: it began anew, or a line is missing."""
        self._chained.discard(pool)

    def close(self) -> None:
        self._record.close()


def now_text() -> str:
    """This instant for a line of a record, in UTC."""
    moment = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment % 1 * 1000):03d}Z"
