"""Finds keys of Core that Main has as well, once for each version of a row, so that readers need look for the newest alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

from psycopg import sql

from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import CONFLICTS_PER_TABLE, KEYS_AT_ONCE
from tierkeeper.kernel.tables import TableShape
from tierkeeper.mover import conflicts, model
from tierkeeper.mover.model import Bound
from tierkeeper.postgres import keyed
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "horizon.sql")


@dataclass(frozen=True)
class _Last:
    """The horizon before, if it holds: rows of `heaps` that are older than `since` were looked for."""

    since: str
    heaps: Sequence[int]


@dataclass(frozen=True)
class Look:
    """One look: `fresh` is what Main has of Core's keys. Where it is not `ripe`, no horizon may rest on it."""

    fresh: list[Bound]
    ripe: bool
    thawed: str
    since: str
    heaps: Sequence[int]


class _BehindError(Exception):
    """Core has handed over less than Main has `taken`, which was asked later."""

    def __init__(self, taken: int) -> None:
        super().__init__(taken)
        self.taken = taken


class Horizon:
    """Up to which of its transactions a table's rows in Core were looked for at Main.

    I2: of two rows with one key a reader counts Core's alone. So whatever Core has from before the horizon is not at Main, or
    the conflict is noted there: notes are durable before the horizon is. Rows reach Main by moves, which take them from Core,
    and by thaws, which end the horizon: Main's word on what has come from the archive is part of it.
    """

    def __init__(self, core: Connection, main: Connection, shape: TableShape) -> None:
        self._core, self._main, self._shape = core, main, shape
        self._names = {
            "schema": sql.Literal(shape.name.schema),
            "name": sql.Literal(shape.name.name),
            "regclass": model.regclass(shape.name),
            "table": model.qualified(shape.name),
        }

    def advance(self) -> int:
        """Notes the conflicts that came since the last horizon, and records the next one; how many were found."""
        look = self.look()
        self.record(look, self.note(look))
        return len(look.fresh)

    def look(self, *, voids: bool = True, goes_on: Callable[[], bool] = lambda: True) -> Look:
        """What is to be noted and recorded. Unless it `voids`, it changes nothing, and is not ripe where something has to be.

        Nor is it where it no longer `goes_on`.
        """
        try:
            look = self._once(voids=voids, goes_on=goes_on)
        except _BehindError as behind:  # or another run moved a batch between the two snapshots: a Core of after them tells
            look = self._once(voids=voids, goes_on=goes_on, taken=behind.taken)
        return look if goes_on() else replace(look, ripe=False)

    def _once(self, *, voids: bool, goes_on: Callable[[], bool], taken: int | None = None) -> Look:
        with transaction(self._core, isolation="repeatable read", read_only=True) as cur:
            return self._look(cur, voids=voids, goes_on=goes_on, taken=taken)

    def note(self, look: Look) -> UUID | None:
        """Notes at Main what `look` found, and the horizon that may be recorded now, if one may.

        Where copies are in flight whose keys are in both tiers anyway, or more keys are in both than can be noted, there is no
        new horizon: readers look for all that came since the last one.
        """
        fresh = look.fresh if len(look.fresh) <= CONFLICTS_PER_TABLE else []
        made = uuid4() if look.ripe and len(fresh) == len(look.fresh) else None
        if fresh or made is not None:
            self._note(fresh, made, look.thawed)
            reach(Point.CONFLICTS_NOTED)
        return made

    def record(self, look: Look, made: UUID | None) -> None:
        """Records in Core the horizon that was `made`. None: that the table was looked at, and goes by the last one."""
        if made is None:
            with transaction(self._core) as cur:
                cur.last(self._sql("record_none"))
        else:
            self._record(made, look)
            reach(Point.HORIZON_RECORDED)

    def _note(self, fresh: Sequence[Bound], made: UUID | None, thawed: str) -> None:
        with transaction(self._main) as cur:
            conflicts.note_in(cur, self._shape.name, fresh)
            if made is not None:
                cur.execute(self._sql("compared", id=sql.Literal(made), thawed=sql.Literal(thawed)))
                cur.execute(self._sql("compared_before"))

    def _record(self, made: UUID, look: Look) -> None:
        values = {
            "id": sql.Literal(made), "key_columns": sql.Literal(keyed.described(self._shape)),
            "heaps": sql.SQL("{}::oid[]").format(sql.Literal(list(look.heaps))), "since": sql.Literal(look.since),
        }  # fmt: skip
        with transaction(self._core) as cur:
            cur.last(self._sql("record", **values))

    def _look(self, core: Cursor, *, voids: bool, goes_on: Callable[[], bool], taken: int | None) -> Look:
        """In one snapshot of Core, and at Main as it is after that; `taken`: what Main had from Core before it, if that is known.

        Raises _BehindError where it is not, and Core does not know of all that Main has.
        """
        oldest = sql.Literal(keyed.HORIZON_TRANSACTIONS)
        id_, key, heaps, since, upto, handed, arriving, heaps_now = _row(core.execute(self._sql("at_core", oldest=oldest)))
        with transaction(self._main, read_only=True) as cur:
            known, thawed, taken_since = _row(cur.execute(self._sql("at_main")))
            extremes = keyed.extremes(self._shape, self._names["table"])
            low, high = _row(cur.execute(extremes)) if extremes is not None else (None, None)
        if arriving:  # copies on their way up to Core are Main's own rows
            return Look([], ripe=False, thawed=thawed, since=upto, heaps=heaps_now)
        last = taken_since if taken is None else taken
        behind = last is not None and (handed is None or handed < last)
        if behind:
            if not voids:
                return Look([], ripe=False, thawed=thawed, since=upto, heaps=heaps_now)
            if taken is None:
                raise _BehindError(last)
            self._void()
        holds = id_ in known and key == keyed.described(self._shape) and not behind
        found: list[tuple[bool, Bound]] = []
        if extremes is None or low is not None:
            for keys in self._keys(core, _Last(since, heaps) if holds else None, None if low is None else (low, high)):
                found += self._found(keys)
                if len(found) > CONFLICTS_PER_TABLE or not goes_on():
                    break
        fresh = [one for in_flight, one in found if not in_flight]
        return Look(fresh, len(fresh) == len(found), thawed, upto, heaps_now)

    def _void(self) -> None:
        """Core was put back to a time before Main took rows of it, which both have now: no horizon knows of them."""
        with transaction(self._main) as cur:
            cur.last(self._sql("void"))

    def _keys(self, core: Cursor, last: _Last | None, ends: tuple[str, str] | None) -> Iterator[list[str]]:
        """Keys of Core's rows that were not looked for yet, as JSON arrays of their text forms."""
        wheres: list[sql.Composable] = [sql.SQL("true") if last is None else keyed.newer(last.since, last.heaps)]
        if ends is not None:
            wheres.append(keyed.between(self._shape, *ends))
        core.execute(self._sql("keys", key=keyed.texts(self._shape), newer=sql.SQL(" AND ").join(wheres)))
        fetch = sql.SQL("FETCH FORWARD {} FROM tierkeeper_keys").format(sql.Literal(KEYS_AT_ONCE))
        while keys := [str(r[0]) for r in core.execute(fetch)]:
            yield keys

    def _found(self, keys: list[str]) -> list[tuple[bool, Bound]]:
        """Those that Main has, each with whether that is a copy in flight."""
        query = self._sql("found", key=keyed.texts(self._shape), keys=keyed.listed(keys), same=keyed.same(self._shape))
        with transaction(self._main, read_only=True) as cur:
            return [(in_flight, tuple(map(str, key))) for in_flight, *key in cur.last(query)]

    def _sql(self, name: str, **values: sql.Composable) -> sql.Composed:
        return _SQL[name].format(**self._names, **values)


def _row(cur: Cursor) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = cur.fetchone()
    assert row is not None  # noqa: S101 - each of these gives one row
    return row
