"""What the server remembers beside the objects themselves, in one SQLite file on the store's own disk.

The objects are the truth: what lies in the store and is not known here is adopted at the next start.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from tierkeeper.homeserver.tokens import Token
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.limits import LOCK_SECONDS, UPLOADS_MAX
from tierkeeper.objectstore.port import ObjectInfo

_COLUMNS: Final = "id, name, role, hash, created_at, expires_at, quota_bytes, revoked_at"
_AHEAD_SECONDS: Final = 3_600  # no clock that is kept in time is set back by so much
_FULL: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY)


@dataclass(frozen=True)
class Reading:
    """How the store is being read through. `oldest_at`: the longest that any object has not been read; None if there is none."""

    objects: int
    bytes: int
    unread: int
    oldest_at: datetime | None
    wrong: tuple[tuple[str, str], ...]


class State:
    """Every method is one transaction, durable when it returns; it may be called from several threads and processes."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        with self._translated():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._conn = sqlite3.connect(path, timeout=LOCK_SECONDS, check_same_thread=False, isolation_level=None)
            self._conn.execute("PRAGMA journal_mode = WAL")
            self._conn.execute("PRAGMA synchronous = FULL")
            self._conn.executescript(files("tierkeeper.homeserver").joinpath("sql", "state.sql").read_text(encoding="utf-8"))

    def close(self) -> None:
        self._conn.close()

    def add_token(self, token: Token) -> None:
        """Raises UsageError where a token has this name."""
        values = (token.id, token.name, token.role, token.hash, _at(token.created_at), _at(token.expires_at), token.quota_bytes)
        with self._transaction() as conn:
            try:
                conn.execute(f"INSERT INTO token ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", values)  # noqa: S608 - a constant
            except sqlite3.IntegrityError:
                cause = f"a token named {token.name!r} is there already"
                raise UsageError("token create", cause, "Take another name: those of revoked tokens stay in the record") from None

    def tokens(self, token_id: str | None = None) -> list[Token]:
        """All of them, or the one with this id, in the order of their making."""
        wanted = "WHERE ? IS NULL OR id = ? ORDER BY created_at, id"
        rows = self._all(f"SELECT {_COLUMNS} FROM token {wanted}", (token_id, token_id))  # noqa: S608 - constants
        return [Token(i, n, r, h, _when(c), _when(e), q, _when(v) if v else None) for i, n, r, h, c, e, q, v in rows]

    def revoke(self, token_id: str) -> bool:
        """Whether there was such a token; one that was revoked before keeps its time."""
        with self._transaction() as conn:
            now = _at(self._clock.now())
            return (
                conn.execute("UPDATE token SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?", (now, token_id)).rowcount > 0
            )

    def begin(self, token: Token, key: str, length_bytes: int) -> int | None:
        """Reserves room for an upload; the length that an earlier one of this key announced, or None.

        Raises NotNow where what the token put, and has under way, would exceed its quota, and for too many at once.
        """
        with self._transaction() as conn:
            row = conn.execute("SELECT bytes FROM upload WHERE token = ? AND key = ?", (token.id, key)).fetchone()
            if row is not None:
                return int(row[0])
            if token.quota_bytes is not None and _used(conn, token.id) + length_bytes > token.quota_bytes:
                cause = f"token {token.name} would exceed its quota of {token.quota_bytes} bytes"
                raise NotNow("home server", cause, "Ask whoever runs the server for a larger one")
            ((under_way,),) = conn.execute("SELECT count(*) FROM upload WHERE token = ?", (token.id,)).fetchall()
            if under_way >= UPLOADS_MAX:
                cause = f"token {token.name} has {under_way} uploads under way"
                raise NotNow("home server", cause, "End them, or give them up, first")
            values = (token.id, key, length_bytes, _at(self._clock.now()))
            conn.execute("INSERT INTO upload (token, key, bytes, started_at) VALUES (?, ?, ?, ?)", values)
            return None

    def used_bytes(self, token_id: str) -> int:
        """What a token has put and has under way."""
        with self._transaction() as conn:
            return _used(conn, token_id)

    def ended(self, token_id: str, key: str, length_bytes: int | None, *, is_new: bool = False) -> None:
        """An upload is over: its object is there with `length_bytes`, or (None) nothing came of it.

        `is_new`: the object came by it; what is known of one that was lost before is known no more.
        """
        with self._transaction() as conn:
            conn.execute("DELETE FROM upload WHERE token = ? AND key = ?", (token_id, key))
            if length_bytes is None:
                return
            if is_new:
                conn.execute("DELETE FROM object WHERE key = ?", (key,))
            values = (key, length_bytes, token_id, _at(self._clock.now()))
            conn.execute("INSERT INTO object (key, bytes, token, put_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", values)

    def uploads(self) -> list[tuple[str, str, int]]:
        """Token, key and announced bytes of each that is under way."""
        rows = self._all("SELECT token, key, bytes FROM upload ORDER BY token, key")
        return [(str(t), str(k), int(b)) for t, k, b in rows]

    def adopt(self, objects: Sequence[ObjectInfo]) -> None:
        """Enters what is not known yet."""
        now = _at(self._clock.now())
        with self._transaction() as conn:
            values = [(o.key, o.length_bytes, now) for o in objects]
            conn.executemany("INSERT INTO object (key, bytes, put_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", values)

    def knows(self, key: str) -> bool:
        """Whether an object of this name was put, or found, and not deleted since."""
        return bool(self._all("SELECT 1 FROM object WHERE key = ?", (key,)))

    def deleting(self, key: str) -> None:
        """The intent of a deletion: what is gone afterwards was meant to go."""
        with self._transaction() as conn:
            conn.execute("UPDATE object SET deleting = 1 WHERE key = ?", (key,))

    def deleted(self, key: str, *, gone: bool) -> None:
        """The outcome."""
        with self._transaction() as conn:
            if gone:
                conn.execute("DELETE FROM object WHERE key = ?", (key,))
            else:
                conn.execute("UPDATE object SET deleting = 0 WHERE key = ?", (key,))

    def left_deleting(self) -> list[str]:
        """Deletions without an outcome."""
        return [str(k) for (k,) in self._all("SELECT key FROM object WHERE deleting = 1 ORDER BY key")]

    def next_to_read(self) -> tuple[str, int] | None:
        """The object that was read, or put, longest ago, and its bytes."""
        rows = self._all("SELECT key, bytes FROM object WHERE deleting = 0 ORDER BY coalesce(read_at, put_at), key LIMIT 1")
        return (str(rows[0][0]), int(rows[0][1])) if rows else None

    def wrong_until(self, before: datetime, limit: int) -> list[str]:
        """Objects that were found wrong and not looked at since `before`; at most `limit`, longest ago first."""
        asked = "SELECT key FROM object WHERE wrong IS NOT NULL AND coalesce(read_at, 0) < ? ORDER BY read_at, key LIMIT ?"
        return [str(key) for (key,) in self._all(asked, (_at(before), limit))]

    def was_read(self, key: str, wrong: str | None) -> None:
        """An object was read whole, and found good or `wrong`."""
        with self._transaction() as conn:
            conn.execute("UPDATE object SET read_at = ?, wrong = ? WHERE key = ?", (_at(self._clock.now()), wrong, key))

    def reading(self) -> Reading:
        """How far the scrub has come."""
        what = "SELECT count(*), coalesce(sum(bytes), 0), count(*) - count(read_at), min(coalesce(read_at, put_at)) FROM object"
        ((objects, size, unread, oldest),) = self._all(what)
        wrong = self._all("SELECT key, wrong FROM object WHERE wrong IS NOT NULL ORDER BY key")
        found = tuple((str(k), str(w)) for k, w in wrong)
        return Reading(int(objects), int(size), int(unread), None if oldest is None else _when(oldest), found)

    def owed(self, bytes_per_second: float, most: float) -> float:
        """Bytes that the scrub owes now: what it owed at the last call, and those of the time since, at most `most`.

        What a clock that was ahead has noted as read is unread: else it would be next only when that time has come.
        """
        now = _at(self._clock.now())
        with self._transaction() as conn:
            unread = "UPDATE object SET read_at = NULL, put_at = min(put_at, ?) WHERE coalesce(read_at, put_at) > ?"
            conn.execute(unread, (now, now + _AHEAD_SECONDS))
            row = conn.execute("SELECT at, owed_bytes FROM scrub").fetchone()
            before, owed = (now, 0.0) if row is None else (float(row[0]), float(row[1]))
            owed = min(owed + max(0.0, now - before) * bytes_per_second, most)
            conn.execute("INSERT OR REPLACE INTO scrub (only_row, at, owed_bytes) VALUES (1, ?, ?)", (now, owed))
            return owed

    def paid(self, read_bytes: float) -> None:
        """The scrub has read so many of them."""
        with self._transaction() as conn:
            conn.execute("UPDATE scrub SET owed_bytes = owed_bytes - ?", (read_bytes,))

    @contextmanager
    def action(self, actor: str, verb: str, subject: str, **detail: Any) -> Iterator[None]:
        """I7: the intent is durable before the block runs, its outcome after it."""
        self._note(actor, verb, subject, "intent", detail)
        try:
            yield
        except BaseException as error:
            self._note(actor, verb, subject, "outcome", {"failed": getattr(error, "cause", type(error).__name__)})
            raise
        self._note(actor, verb, subject, "outcome", {})

    def trail(self, limit: int) -> list[dict[str, Any]]:
        """The newest notes of the audit, newest first."""
        rows = self._all("SELECT at, actor, verb, subject, kind, detail FROM audit ORDER BY id DESC LIMIT ?", (limit,))
        names = ("at", "actor", "verb", "subject", "kind", "detail")
        return [dict(zip(names, (_when(r[0]), *r[1:5], json.loads(r[5])), strict=True)) for r in rows]

    def _note(self, actor: str, verb: str, subject: str, kind: str, detail: dict[str, Any]) -> None:
        values = (_at(self._clock.now()), actor, verb, subject, kind, json.dumps(detail, default=str))
        with self._transaction() as conn:
            conn.execute("INSERT INTO audit (at, actor, verb, subject, kind, detail) VALUES (?, ?, ?, ?, ?, ?)", values)

    def _all(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock, self._translated():
            return self._conn.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._translated():
            self._conn.execute("BEGIN IMMEDIATE")
            try:
                yield self._conn
                self._conn.execute("COMMIT")
            except BaseException:
                if self._conn.in_transaction:
                    self._conn.execute("ROLLBACK")
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise self._error(error) from error

    def _error(self, error: sqlite3.Error | OSError) -> TierkeeperError:
        place = f"home server's {self._path}"
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _FULL:
            return NotNow(place, f"it cannot be written ({error})", "Make room on its disk and look at it, then try again")
        return Failed(place, f"it cannot be used ({error})", "Put it back from a copy; the objects are not touched by this")


def _used(conn: sqlite3.Connection, token_id: str) -> int:
    sums = (
        "SELECT (SELECT coalesce(sum(bytes), 0) FROM object WHERE token = ?) + "
        "(SELECT coalesce(sum(bytes), 0) FROM upload WHERE token = ?)"
    )
    return int(conn.execute(sums, (token_id, token_id)).fetchone()[0])


def _at(instant: datetime) -> float:
    return instant.timestamp()


def _when(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
