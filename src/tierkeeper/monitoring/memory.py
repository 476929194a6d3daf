"""A small document that all machines keep together on Main, and each by itself while Main is away.

Each change is a compare-and-set: of two machines that decide at the same time one is told to look again. The file on this
machine follows every change, and goes ahead where Main cannot be written; what went ahead is merged when Main is back. It must
never keep the caller from going on: where nothing can be kept, the process remembers.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import psycopg

from tierkeeper.kernel.errors import Failed, TierkeeperError, UsageError
from tierkeeper.kernel.limits import ASKED_LOCK_SECONDS
from tierkeeper.kernel.log import Log
from tierkeeper.postgres.link import Connection, Link, transaction, translated
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.monitoring", "alert.sql")
_log = Log()
T = TypeVar("T")
Where = Literal["main", "file", "process"]


class Form(Protocol[T]):
    """How a document is written down. `merge` brings together two that were kept apart; the empty one is `empty`."""

    name: str

    def empty(self) -> T: ...
    def dump(self, document: T) -> dict[str, Any]: ...
    def parse(self, data: Any) -> T:
        """Raises ValueError for what is no such document."""
        ...

    def merge(self, main: T, here: T) -> T: ...


@dataclass(frozen=True)
class Kept(Generic[T]):
    """A document as it was read. `main`, `file`: the versions that it was read in; None where that was not to be had.

    `where`: the best place that has it. `away`: why Main does not. `is_ahead`: this machine has what Main has not.
    """

    document: T
    where: Where
    main: int | None
    file: int | None
    away: TierkeeperError | None = None
    is_ahead: bool = False


class Memory(Generic[T]):
    """One document by its form. `folder` is None where this machine has no lasting disk."""

    def __init__(self, main: Link, folder: Path | None, form: Form[T]) -> None:
        self._main = main
        self._form = form
        self._file = None if folder is None else _File(folder / f"{form.name}-{_fingerprint(main)}.json")
        self._here: T | None = None  # what neither place has taken

    def load(self) -> Kept[T]:
        """The document as it is now, from wherever it can be had. Raises nothing."""
        local, file_version, is_ahead = self._from_file()
        if self._here is not None:
            local, is_ahead = self._merged(local, self._here), True
        try:
            version, on_main = self._from_main()
        except TierkeeperError as error:
            where: Where = "process" if file_version is None else "file"
            return Kept(local or self._form.empty(), where, None, file_version, error)
        document = on_main or self._form.empty()
        if is_ahead and local is not None:
            document = self._form.merge(document, local)
        return Kept(document, "main", version, file_version, is_ahead=is_ahead)

    def save(self, before: Kept[T], document: T) -> Kept[T] | None:
        """Keeps what `before` has become. None: somebody else has changed it since; load it again."""
        if before.main is not None:
            try:
                version = self._to_main(before.main, document)
            except TierkeeperError as error:
                return self._aside(replace(before, main=None, away=error), document)
            if version is None:
                return None
            self._here = None
            file_version = self._follow(document)
            return Kept(document, "main", version, file_version)
        return self._aside(before, document)

    def _aside(self, before: Kept[T], document: T) -> Kept[T] | None:
        """Keeps it on this machine alone."""
        if self._file is not None:
            try:
                version = self._file.write(self._form.dump(document), is_ahead=True, expected=before.file or 0)
            except OSError as error:
                _log.warning("alerts cannot be remembered on this machine", file=str(self._file.path), cause=str(error.strerror))
            else:
                if version is None:
                    return None
                self._here = None
                return Kept(document, "file", None, version, before.away)
        self._here = document
        return Kept(document, "process", None, before.file, before.away)

    def _follow(self, document: T) -> int | None:
        if self._file is None:
            return None
        try:
            return self._file.write(self._form.dump(document), is_ahead=False)
        except OSError as error:
            _log.warning("alerts cannot be remembered on this machine", file=str(self._file.path), cause=str(error.strerror))
            return None

    def _from_file(self) -> tuple[T | None, int | None, bool]:
        if self._file is None:
            return None, None, False
        try:
            version, is_ahead, data = self._file.read()
            return (None if data is None else self._form.parse(data)), version, is_ahead
        except (OSError, ValueError) as error:
            _log.warning("the memory on this machine cannot be read", file=str(self._file.path), cause=type(error).__name__)
            return None, 0, False

    def _from_main(self) -> tuple[int, T | None]:
        with self._connected() as conn, transaction(conn, read_only=True, lock_seconds=ASKED_LOCK_SECONDS) as cur:
            row = cur.last(_SQL["read"], {"name": self._form.name}).fetchone()
        if row is None:
            return 0, None
        try:
            return row[0], self._form.parse(json.loads(row[1]))
        except ValueError:
            _log.warning("the memory on Main cannot be read; it is begun anew", name=self._form.name)
            return row[0], None

    def _to_main(self, version: int, document: T) -> int | None:
        named = {"name": self._form.name, "version": version, "state": json.dumps(self._form.dump(document))}
        with self._connected() as conn, transaction(conn) as cur:
            row = cur.execute(_SQL["change" if version else "begin"], named).fetchone()
        return None if row is None else int(row[0])

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with translated("tiers.main"), closing(self._main.connect("alerts")) as conn:
            try:
                yield conn
            except psycopg.errors.UndefinedTable:
                cause = "Main has no table tierkeeper.alert yet, so that each machine remembers for itself"
                raise UsageError("tiers.main", cause, "Run 'tierkeeper setup --apply'") from None

    def _merged(self, one: T | None, other: T) -> T:
        return other if one is None else self._form.merge(one, other)

    def change(self, do: Callable[[T], T], known: Kept[T] | None = None, tries: int = 5) -> Kept[T]:
        """`do` to whatever the document is by now, which may still be what is `known`: then nobody is asked for it.

        Raises Failed where others change it all the time.
        """
        for _ in range(tries):
            before, known = known or self.load(), None
            after = self.save(before, do(before.document))
            if after is not None:
                return after
        raise Failed("alerts", "others change what is remembered of them all the time", "Let one `tierkeeper run` do it")


class _File:
    """The document on this machine, replaced whole; readable by its user alone."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[int, bool, Any]:
        """Version, whether it is ahead of Main, and the document; (0, False, None) where there is none. Raises ValueError."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return 0, False, None
        if not isinstance(found, dict) or found.get("format") != 1 or not isinstance(found.get("version"), int):
            raise ValueError("no memory")
        return found["version"], found.get("ahead") is True, found.get("document")

    def write(self, document: Any, *, is_ahead: bool, expected: int | None = None) -> int | None:
        """Replaces it durably. None: it is not at the `expected` version any more. Raises OSError."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                version, _, _ = self.read()
            except ValueError:
                version = 0
            if expected is not None and version != expected:
                return None
            told = {"format": 1, "version": version + 1, "ahead": is_ahead, "document": document}
            self._replace(json.dumps(told))
            return version + 1
        finally:
            os.close(lock)

    def _replace(self, text: str) -> None:
        temporary = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _fingerprint(main: Link) -> str:
    """Which Main a file belongs to: this machine may keep several projects."""
    return hashlib.sha256(main.shown.encode()).hexdigest()[:8]
