"""Takes rows out of every tier for good, whatever their age, by a condition."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import psycopg
from psycopg import errors, sql

from tierkeeper.kernel.errors import Failed, NotNow, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.ports import Frozen, Stop, Vault
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover import model, plan
from tierkeeper.mover.staging import staged
from tierkeeper.postgres import references, shapes
from tierkeeper.postgres.copy import rows_out
from tierkeeper.postgres.link import Connection, Link, take_own_path, transaction, translated
from tierkeeper.postgres.statements import load
from tierkeeper.tiers import memory

_SQL = load("tierkeeper.mover", "erasing.sql")
_ONLINE: Final[tuple[Tier, ...]] = ("core", "main")
_PASSES: Final = 3  # rows that moved up meanwhile are met in the next one
_EFFECTS: Final = ("c", "n", "d")


@dataclass
class Erased:
    """What was found, and erased unless it was a plan. `replaced`: segments by those that they stood in the place of."""

    rows: dict[Tier, int] = field(default_factory=lambda: {"core": 0, "main": 0, "archive": 0})
    replaced: dict[UUID, UUID | None] = field(default_factory=dict)
    stopped_because: str = "complete"


class Eraser:
    """Keeps I4: what matches is gone from a tier before the next one is looked at, downwards, as rows move; a batch in flight
    that had such a row fails its comparison and is taken back. What came up meanwhile is met by another pass, and the last one
    has to find nothing. I2 for all others: a segment is replaced in one transaction, and tiers lose nothing but what matches.
    """

    def __init__(self, links: Mapping[Tier, Link], vault: Callable[[], Vault], longest_reader_seconds: float, stop: Stop) -> None:
        self._longest_reader_seconds = longest_reader_seconds
        self._links = links
        self._vault = vault
        self._stop = stop

    def check(self, table: TableName, where: str) -> None:
        """Raises UsageError, before anything is changed, for a condition that is none or a delete that would do more.

        Failed where Main or the catalog was put back from an older backup.
        """
        plan.check_condition(where)
        self._refuse_put_back()
        segments = self._vault().erasable(table)
        for tier in _ONLINE:
            with translated(f"tiers.{tier}"), closing(self._links[tier].connect("erase")) as conn:
                if not shapes.exists(conn, table):
                    if tier == "main" and segments:
                        raise UsageError(f"{table} (main)", "there is no such table", "Run `tierkeeper setup --apply`")
                    continue
                try:
                    with transaction(conn, read_only=True) as cur:
                        columns = model.names([c.name for c in shapes.read(conn, table, tier=tier).columns])
                        asked = {"columns": columns, "table": model.qualified(table), "name": sql.Identifier(table.name)}
                        take_own_path(cur)
                        cur.execute(_SQL["try"].format(**asked, where=_condition(where)))
                except psycopg.Error as error:
                    if (error.sqlstate or "").startswith(("42", "22", "0A")):
                        cause = error.diag.message_primary or "it cannot be read"
                        raise UsageError("--where", cause, "Correct the condition") from error
                    raise
                owned = references.owned(references.read(conn), [table])
                more = next((r for r in owned if r.parent == table != r.child and r.action in _EFFECTS), None)
                if more is not None:
                    cause = f"the foreign key {more} would delete or change rows of it there, and not in the other tiers"
                    raise UsageError(f"{more.child_at} ({tier})", cause, f"Erase its rows first, then drop or change {more.name}")

    def _refuse_put_back(self) -> None:
        """I8: a catalog that was put back lacks segments. Their rows would stay, and their keys pass for what nothing needs."""
        with (
            translated("tiers.main"),
            closing(self._links["main"].connect("erase")) as main,
            closing(self._links["archive"].connect("erase")) as catalog,
            transaction(main, read_only=True) as at_main,
            transaction(catalog, read_only=True) as at_catalog,
        ):
            memory.trust_catalog(at_main, at_catalog, memory.handed(at_main), memory.handed(at_catalog))

    def run(self, table: TableName, where: str, *, dry_run: bool) -> Erased:
        """Erases, or counts. Raises NotNow where rows are in flight; what was erased until then is gone, and a rerun goes on."""
        done, seen = Erased(), set[UUID]()
        for _ in range(1 if dry_run else _PASSES):
            found = 0
            for tier in _ONLINE:
                rows = self._online(tier, table, where, dry_run=dry_run)
                done.rows[tier] += rows
                found += rows
            for segment in self._vault().erasable(table):
                if segment.id in seen:
                    continue
                if (reason := self._stop()) is not None:
                    done.stopped_because = reason
                    return done
                seen.add(segment.id)
                goes = self._matching(segment, where)
                if rows := len(goes) - goes.count(0):
                    done.rows["archive"] += rows
                    found += rows
                    new = None if dry_run else self._rewritten(segment, goes)
                    done.replaced[segment.id] = new
                    seen |= {new} - {None}  # type: ignore[arg-type]
            if not found or dry_run:
                return done
        raise Failed(str(table), f"after {_PASSES} passes there are still such rows", "Stop what writes them, then run again")

    def _rewritten(self, segment: Frozen, goes: bytes) -> UUID:
        self._vault().rest([segment], self._longest_reader_seconds)
        return self._vault().rewrite(segment, goes)

    def _online(self, tier: Tier, table: TableName, where: str, *, dry_run: bool) -> int:
        place = f"{table} ({tier})"
        with translated(f"tiers.{tier}"), closing(self._links[tier].connect("erase")) as conn:
            if not shapes.exists(conn, table):
                return 0
            asked, statement = (
                _SQL[n].format(table=model.qualified(table), where=_condition(where)) for n in ("count", "delete")
            )
            try:
                return self._executed(conn, place, asked, None if dry_run else statement)
            except errors.SerializationFailure as error:
                raise NotNow(place, "some of the rows were changed meanwhile", "Run the same command again") from error
            except errors.ObjectInUse as error:
                cause = f"some of the rows are on their way, or came a moment ago ({error.diag.message_primary})"
                raise NotNow(place, cause, "Run the same command again, a little later") from error
            except (errors.ForeignKeyViolation, errors.RestrictViolation) as error:
                cause = f"other rows refer to these ({error.diag.message_primary})"
                raise Failed(place, cause, "Erase those first") from error

    @staticmethod
    def _executed(conn: Connection, place: str, asked: sql.Composed, statement: sql.Composed | None) -> int:
        """How many rows were counted and, with a `statement`, deleted. Raises Failed where the table keeps some of them."""
        with transaction(conn, isolation="repeatable read", read_only=statement is None, own_path=True) as cur:
            (rows,) = cur.execute(asked).fetchone() or (0,)
            if statement is None:
                return int(rows)
            kept = int(rows) - cur.execute(statement).rowcount
            if kept:
                cause = f"{kept} of the {rows} rows stay in spite of the delete: a trigger or rule of the table keeps them"
                raise Failed(place, cause, "Drop or disable it (ALTER TABLE … DISABLE TRIGGER), run again, then put it back")
            cur.execute("SET CONSTRAINTS ALL IMMEDIATE")
            reach(Point.DELETE_BEFORE_COMMIT)
        if rows:
            reach(Point.DELETED)
        return rows

    def _matching(self, segment: Frozen, where: str) -> bytes:
        """For each of the segment's rows, in order, 1 if the condition holds for it, else 0; as Postgres says, at Main."""
        with (
            translated("tiers.main"),
            closing(self._links["main"].connect("erase")) as conn,
            transaction(conn) as cur,
        ):
            _, view = staged(cur, self._vault(), segment, 0, whole=False)
            name = sql.Identifier(segment.table.name)
            asked = _SQL["matching"].format(table=model.qualified(view), name=name, where=_condition(where))
            take_own_path(cur)
            said = b"".join(bytes(block) for block in rows_out(cur, asked, binary=False))
            cur.execute("ROLLBACK")
        goes = said.replace(b"\n", b"").replace(b"t", b"\x01").replace(b"f", b"\x00")
        if len(goes) != segment.rows:
            cause = f"the condition gave {len(goes)} answers for its {segment.rows} rows"
            raise Failed(f"segment {segment.id}", cause, "Give one that holds or does not for each row by itself")
        return goes


def _condition(where: str) -> sql.Composed:
    """On lines of its own: it may end in a comment."""
    return sql.SQL("({}\n)").format(sql.SQL(where))
