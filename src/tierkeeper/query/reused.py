"""Keys that are in more than one tier, because the application used them again: the row of the upper tier counts, alone.

What was noted is looked for, and what may have come since. It reads in the snapshots that the runner has taken, and takes none.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from threading import Lock
from typing import Any

from psycopg import sql

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.limits import KEYS_AT_ONCE
from tierkeeper.kernel.tables import Followed, TableName, TableShape
from tierkeeper.postgres import keyed, shapes
from tierkeeper.postgres.link import Link
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load
from tierkeeper.query.model import Scan
from tierkeeper.query.told import told_of

_SQL = load("tierkeeper.query", "query.sql")

Places = defaultdict[int, list[str]]
"""Row versions in a snapshot, each by its place (ctid), by the object id of the table that has it."""


@dataclass(frozen=True)
class _Horizon:
    """Rows of `heaps` that are older than the transaction `since` were looked for at Main, by this key."""

    id: str
    key: Sequence[str]
    heaps: Sequence[int]
    since: str


@dataclass(frozen=True)
class Tier:
    """A tier's snapshot: its transaction's cursor, and of which tables which transactions' rows do not count there."""

    link: Link
    cursor: Cursor
    excluded: Mapping[TableName, Sequence[str]]

    def ask(self, query: sql.SQL | sql.Composed, asked: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """The rows of `query`; an error is told as this tier's."""
        with told_of(self.link):
            cur = self.cursor.execute(query, asked)
            return cur.fetchall() if cur.description else []

    def counting(self, table: TableName) -> sql.Composable:
        """Holds for the rows `t` that count."""
        xids = self.excluded.get(table, ())
        if not xids:
            return sql.SQL("true")
        return sql.SQL("NOT (t.xmin = ANY ({}::xid[]))").format(sql.Literal(list(xids)))


@dataclass
class Reused:
    """What a statement's tables have in two tiers at once.

    I2: rows at Main whose key a row has that counts in Core do not count, whatever the statement asks of them. Core is asked for
    keys of such rows alone as may be at Main: of those newer than the horizon up to which a move has looked and noted what it
    found, within the range of Main's keys, and with the statement's own conditions on the key, which equal keys meet alike.
    """

    core: Tier
    main: Tier
    followed: Mapping[TableName, Followed]
    main_tables: Mapping[TableName, TableShape]
    longest_reader_seconds: float
    horizons: dict[TableName, _Horizon] = field(default_factory=dict)
    shapes: dict[TableName, TableShape] = field(default_factory=dict)  # Core's
    noted: dict[TableName, list[str]] = field(default_factory=lambda: defaultdict(list))
    ends: dict[TableName, tuple[str | None, str | None]] = field(default_factory=dict)  # of Main's keys' first column
    lock: Lock = field(default_factory=Lock)  # streams are read in threads of DuckDB's

    def look(self, tables: Mapping[TableName, int]) -> None:
        """Reads of `tables` (object ids in Core by name) the key, the horizon, what is noted, and where Main's keys lie."""
        if not tables:
            return
        path = sql.SQL("SELECT set_config('search_path', 'pg_catalog', true)")  # so that types have their schema
        asked = [(path, None), (_SQL["horizons"], {"oldest": keyed.HORIZON_TRANSACTIONS}), *shapes.keys_asked(tables)]
        with told_of(self.core.link):
            _, horizons, keys, columns = self.core.cursor.all_of(asked)
            self.shapes = shapes.with_keys(self.core.cursor, tables, keys, columns)
        at_main = {t: self._at_main(t) for t in tables if t in self.main_tables}
        extremes = {t: e for t, shape in at_main.items() if (e := keyed.extremes(shape, _qualified(t))) is not None}
        names = {"schemas": [t.schema for t in at_main], "names": [t.name for t in at_main]}
        asked_ids = {"ids": [r[2] for r in horizons], "seconds": self.longest_reader_seconds}
        own: list[tuple[Any, Any]] = [(_SQL["compared"], asked_ids), (_SQL["conflicts"], names)]
        with told_of(self.main.link):
            compared, noted, *ends = self.main.cursor.all_of([*own, *((e, None) for e in extremes.values())])
        self.ends = {table: found[0] for table, found in zip(extremes, ends, strict=True)}
        for schema, table, key in noted:
            self.noted[TableName(schema, table)].append(str(key))
        known: dict[str, int | None] = dict(compared)
        for schema, table, id_, key, heaps, since, handed in horizons:
            # A Core that has handed over less than Main took of it was put back: what is in both since, nobody has looked for.
            if id_ in known and (handed or 0) >= (known[id_] or 0):
                self.horizons[TableName(schema, table)] = _Horizon(id_, key, heaps, since)

    def tiers(self, table: TableName) -> Iterator[tuple[str, Tier, TableShape]]:
        """The tiers above the archive that have `table`, and its shape there."""
        yield "core", self.core, self.shapes[table]
        if table in self.main_tables:
            yield "main", self.main, self._at_main(table)

    def ask(self, tier: Tier, query: sql.Composed) -> list[tuple[Any, ...]]:
        """`Tier.ask`, from whatever thread: DuckDB reads several streams at once."""
        with self.lock:
            return tier.ask(query)

    def horizon(self, table: TableName) -> _Horizon | None:
        """The horizon of `table`, if its key is what it was then."""
        found = self.horizons.get(table)
        return found if found is not None and found.key == keyed.described(self.shapes[table]) else None

    def at_main(self, scans: Sequence[Scan]) -> dict[TableName, Places]:
        """The rows at Main that do not count, by their tables, as far as they matter to `scans`, all of the statement's."""
        places: dict[TableName, Places] = defaultdict(lambda: defaultdict(list))
        asked = {t: query for t in self.main_tables if (query := self.asked(t, scans)) is not None}
        noted = ((t, self.there(self.core, self.shapes[t], self.noted[t])) for t in asked if t in self.noted)
        for table, keys in chain(noted, self._fetched(asked)):
            if not keys:
                continue
            same = keyed.same(self._at_main(table))
            lookup = _SQL["places"].format(keys=keyed.listed(keys), table=_qualified(table), same=same)
            for heap, place in self.main.ask(lookup):
                places[table][heap].append(str(place))
        return places

    def there(self, tier: Tier, shape: TableShape, keys: Sequence[str]) -> list[str]:
        """Which of `keys`, JSON arrays of text forms, a row has that counts in `tier`."""
        if not keys:
            return []
        query = _SQL["keys_there"].format(
            keys=keyed.listed(keys),
            table=_qualified(shape.name),
            same=keyed.same(shape),
            counts=tier.counting(shape.name),
        )
        return [str(r[0]) for r in tier.ask(query)]

    def asked(self, table: TableName, scans: Sequence[Scan]) -> sql.Composed | None:
        """What Core is asked for keys of `table` that may be at Main; None where Main has no row of it."""
        shape, horizon = self.shapes[table], self.horizon(table)
        wheres: list[sql.Composable] = [self.core.counting(table)]
        if table in self.ends:
            low, high = self.ends[table]
            if low is None or high is None:
                return None
            wheres.append(keyed.between(shape, low, high))
        if horizon is not None:
            wheres.append(keyed.newer(horizon.since, horizon.heaps))
        wheres.append(own_conditions(shape, scans))
        where = sql.SQL(" AND ").join(wheres)
        return _SQL["keys"].format(key=keyed.texts(shape), table=_qualified(table), where=where)

    def explained(self, scans: Sequence[Scan]) -> list[str]:
        """What `at_main` would ask of Core, as lines for a person."""
        lines = []
        for table in self.main_tables:
            query, horizon = self.asked(table, scans), self.horizon(table)
            since = "all keys" if horizon is None else f"keys written since transaction {horizon.since}"
            fetched = "none, for Main has no row" if query is None else f"{since}, to be looked for at Main: "
            conditions = "" if query is None else query.as_string(self.core.cursor).partition(" WHERE ")[2]
            lines.append(f"core, for keys of {table} that are in both: {fetched}{conditions}")
        return lines

    def _fetched(self, asked: Mapping[TableName, sql.Composed]) -> Iterator[tuple[TableName, list[str]]]:
        """Blocks of keys. All are asked for their first block in one message; the cursors end with the transaction."""
        cursors = {table: sql.Identifier(f"tierkeeper_keys_{i}") for i, table in enumerate(asked)}
        fetch = {t: sql.SQL("FETCH FORWARD {} FROM {}").format(sql.Literal(KEYS_AT_ONCE), c) for t, c in cursors.items()}
        declare = {t: sql.SQL("DECLARE {} NO SCROLL CURSOR FOR {}").format(c, asked[t]) for t, c in cursors.items()}
        first: dict[TableName, list[str]] = {}
        with told_of(self.core.link):
            cur = self.core.cursor.together([one for t in asked for one in (declare[t], fetch[t])]) if asked else self.core.cursor
            for table in asked:
                cur.nextset()
                first[table] = [str(r[0]) for r in cur.fetchall()]
                cur.nextset()
        for table, keys in first.items():
            block = keys
            while block:
                yield table, block
                block = [str(r[0]) for r in self.core.ask(fetch[table])] if len(block) == KEYS_AT_ONCE else []

    def _at_main(self, table: TableName) -> TableShape:
        """Core's shape under the names that its key has at Main. Raises UsageError where Main has not followed."""
        shape, followed = self.shapes[table], self.followed.get(table)
        names: dict[str, str] = {}
        for column in shape.columns:
            known = None
            if followed is not None and followed.relation == shape.oid:
                known = next((c.name for c in followed.columns if c.number == column.number), None)
            names[column.name] = known or column.name
        for key in shape.key:
            if self.main_tables[table].column(names[key]) is None:
                raise UsageError(
                    f"tiers.main {table}.{key}", "Main has no such column of the key", "Run tierkeeper setup --apply"
                )
        columns = tuple(replace(c, name=names[c.name]) for c in shape.columns)
        return replace(shape, columns=columns, key=tuple(names[k] for k in shape.key))


def own_conditions(shape: TableShape, scans: Sequence[Scan]) -> sql.Composable:
    """What the statement itself asks of the key: a row that meets none of it matters to none of `scans`."""
    each = [scan.of_columns(shape.key) for scan in scans if scan.table == shape.name]
    if not all(each):
        return sql.SQL("true")
    arms = [" AND ".join(f"({c})" for c in conditions) for conditions in each]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(sql.SQL("({})").format(_composed(arm)) for arm in arms))


def _composed(condition: str) -> sql.SQL:
    """SQL of the compiler's, in which every part is quoted."""
    return sql.SQL(condition)


def _qualified(table: TableName) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)
