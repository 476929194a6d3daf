"""Asks a source what refers to what: the rows that must leave together, and whether a row that stays refers to one that goes."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from psycopg import sql

from tierkeeper.kernel.ports import Batch
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover import model
from tierkeeper.mover.graph import Found, Row, explore
from tierkeeper.mover.model import Bound, Range, Selection
from tierkeeper.postgres import references
from tierkeeper.postgres.references import Family, Reference
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "references.sql")


def reaching(cur: Cursor, going: Mapping[TableName, str]) -> Reference | None:
    """A foreign key by which a row that stays refers to one that goes, in the snapshot of `cur`; None where there is none.

    `going` has the condition of the rows that go, for each table. Whatever a foreign key does on DELETE, it then does it to rows
    that go as well.
    """
    for one in references.read(cur.connection):
        if one.parent in going:
            query = sql.SQL("SELECT EXISTS (SELECT {})").format(_reaching(one, going))
            if cur.execute(query).fetchone() == (True,):
                return one
    return None


def reached(cur: Cursor, one: Reference, going: Mapping[TableName, str], key: Sequence[str]) -> list[Bound]:
    """The keys of those rows that go, for which `reaching` gave `one`."""
    keys = sql.SQL(", ").join(model.text_of(column, "parent") for column in key)
    found = cur.execute(sql.SQL("SELECT DISTINCT {} {}").format(keys, _reaching(one, going)))
    return [tuple(map(str, row)) for row in found.fetchall()]


def _reaching(one: Reference, going: Mapping[TableName, str]) -> sql.Composed:
    own = going.get(one.child)
    return _SQL["reaching"].format(
        columns=model.names(one.columns),
        children=one.children,
        outside=sql.SQL("true") if own is None else sql.SQL("({}) IS NOT TRUE").format(sql.SQL(own)),
        parent=model.qualified(one.parent),
        inside=sql.SQL(going[one.parent]),
        meets=one.meets("child", "parent"),
    )


@dataclass(frozen=True)
class Explorer:
    """The rows of a family of tables, of which `selections` say what may leave; the first seeds are those of `of`.

    With `whole` the selection of `of` says only where to begin, and all that hangs on its rows goes with them. `held` are keys of
    rows that stay, each list with the reason.
    """

    family: Family
    selections: Mapping[TableName, Selection]
    of: TableName
    whole: bool = False
    held: dict[TableName, dict[str, list[Bound]]] = field(default_factory=dict)

    def hold(self, table: TableName, keys: Sequence[Bound], why: str) -> bool:
        """From now on the rows of these `keys` stay, and what hangs on them. False: they did already."""
        known = self.held.setdefault(table, {}).setdefault(why, [])
        fresh = [key for key in keys if key not in known]
        known += fresh
        return bool(fresh)

    def find(
        self,
        cur: Cursor,
        seeds: Range,
        conflicts: Mapping[TableName, Sequence[Bound]],
        *,
        most_rows: int,
        most_seen: int,
    ) -> Found:
        """The components of the rows in `seeds`, all of them in the snapshot of `cur`."""
        tables = self.family.tables
        number = {t: i for i, t in enumerate(tables)}
        within = self.selections[self.of].within(seeds, conflicts.get(self.of, ()))
        query = _SQL["seeds"].format(table=model.qualified(self.of), within=within)
        first = [(number[self.of], str(place)) for (place,) in cur.execute(query).fetchall()]

        def look(rows: Collection[Row]) -> dict[Row, str | None]:
            found: dict[Row, str | None] = {}
            for i, places in _by_table(rows).items():
                query = self._look(tables[i], conflicts.get(tables[i], ()), predicate(places))
                found |= {(i, str(p)): why for p, why in cur.execute(query).fetchall()}
            return found

        def neighbours(rows: Collection[Row]) -> Iterator[tuple[Row, Row]]:
            places = _by_table(rows)
            for link in self.family.links:
                child, parent = number[link.child], number[link.parent]
                for name, asked in (("parents_of", child), ("children_of", parent)):
                    if asked in places:
                        query = _SQL[name].format(
                            children=link.children,
                            parent=model.qualified(link.parent),
                            meets=link.meets("child", "parent"),
                            places=sql.SQL(predicate(places[asked])),
                        )
                        for one, other in cur.execute(query).fetchall():
                            yield (child, one), (parent, other)

        return explore(first, look, neighbours, most_rows=most_rows, most_seen=most_seen)

    def weigh(self, cur: Cursor, rows: Collection[Row]) -> int:
        """How many bytes `rows` take as they are stored."""
        total = 0
        for i, places in _by_table(rows).items():
            table = self.family.tables[i]
            sizes = model.stored_bytes([c.name for c in self.selections[table].shape.columns])
            query = _SQL["weigh"].format(sizes=sizes, table=model.qualified(table), places=sql.SQL(predicate(places)))
            total += int((cur.execute(query).fetchone() or (0,))[0])
        return total

    def weigh_columns(self, cur: Cursor, rows: Collection[Row]) -> dict[TableName, tuple[int, dict[str, int]]]:
        """Of each table how many of `rows` are its own, and what each column's values take as they are stored."""
        found: dict[TableName, tuple[int, dict[str, int]]] = {}
        for i, places in _by_table(rows).items():
            table = self.family.tables[i]
            columns = [c.name for c in self.selections[table].shape.columns]
            sizes = sql.SQL(", ").join(model.stored_bytes_of(c) for c in columns)
            query = _SQL["weigh_columns"].format(sizes=sizes, table=model.qualified(table), places=sql.SQL(predicate(places)))
            count, *weights = cur.execute(query).fetchone() or (0,)
            found[table] = (int(count), dict(zip(columns, map(int, weights), strict=False)))
        return found

    def _look(self, table: TableName, conflicts: Sequence[Bound], places: str) -> sql.Composed:
        selection, young = self.selections[table], f"rows of {table} may not leave yet"
        if self.whole:
            selection, young = replace(selection, where=None, any_age=True), f"a key of {table} is in core and in main"
        kept = [
            _SQL["kept"].format(others=selection.none_of(keys), why=sql.Literal(why))
            for why, keys in self.held.get(table, {}).items()
        ]
        pinned = [
            _SQL["pinned"].format(
                children=pin.children,
                meets=pin.meets("tierkeeper_child", table.name),
                why=sql.Literal(f"rows that stay refer to them: {pin}"),
            )
            for pin in self.family.pins
            if pin.parent == table
        ]
        return _SQL["look"].format(
            table=model.qualified(table),
            may_leave=selection.eligible(None, conflicts),
            young=sql.Literal(young),
            pinned=sql.SQL(" ").join([*kept, *pinned]),
            places=sql.SQL(places),
        )


def _by_table(rows: Collection[Row]) -> dict[int, list[str]]:
    places: dict[int, list[str]] = defaultdict(list)
    for table, place in rows:
        places[table].append(place)
    return places


def delete_all(batches: Sequence[Batch]) -> sql.Composed:
    """One statement that deletes the rows of every batch, and gives for each its place, count, versions and file."""
    gone, found = [], []
    for i, batch in enumerate(batches):
        name = sql.Identifier(f"gone{i}")
        parts = {"name": name, "table": model.qualified(batch.heap), "predicate": sql.SQL(batch.predicate)}
        gone.append(_SQL["delete"].format(**parts))
        regclass = model.regclass(batch.heap)
        found.append(_SQL["deleted"].format(place=sql.Literal(i), fingerprint=model.FINGERPRINT, regclass=regclass, name=name))
    return sql.SQL("WITH {} {}").format(sql.SQL(", ").join(gone), sql.SQL(" UNION ALL ").join(found))


def predicate(places: Sequence[str]) -> str:
    """The condition that holds for the rows in `places`."""
    return "ctid = ANY ('{" + ",".join(f'"{p}"' for p in sorted(places)) + "}'::tid[])"
