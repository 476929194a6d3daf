"""Asks a source what refers to what: the rows that must leave together, and whether a row that stays refers to one that goes."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from psycopg import sql

from tierkeeper.kernel.tables import TableName
from tierkeeper.mover import model, places
from tierkeeper.mover.graph import Found, Row, explore
from tierkeeper.mover.holdings import not_apart
from tierkeeper.mover.model import Bound, Range, Selection
from tierkeeper.mover.places import PLACE, Arm, Going, Heaps
from tierkeeper.postgres import references
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.references import Family, Reference
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "references.sql")


def reaching(cur: Cursor, going: Collection[Going]) -> Reference | None:
    """A foreign key by which a row that stays refers to one that goes, in the snapshot of `cur`; None where there is none.

    Whatever a foreign key does on DELETE, it then does it to rows that go as well. Each is asked once: of a partitioned table, be
    it the referring one or the other, with all that lies in its partitions.
    """
    tables = {one.table: one for one in going}
    for one in references.owned(references.read(cur.connection), tables):
        if one.parent in tables:
            query = sql.SQL("SELECT EXISTS (SELECT {})").format(_reaching(one, tables))
            if cur.execute(query).fetchone() == (True,):
                return one
    return None


def reached(cur: Cursor, one: Reference, going: Collection[Going], key: Sequence[str]) -> list[Bound]:
    """The keys of those rows that go, for which `reaching` gave `one`; they are known by a condition."""
    keys = sql.SQL(", ").join(model.text_of(column, "parent") for column in key)
    query = sql.SQL("SELECT DISTINCT {} {}").format(keys, _reaching(one, {g.table: g for g in going}))
    return [tuple(map(str, row)) for row in cur.execute(query).fetchall()]


def _reaching(one: Reference, going: Mapping[TableName, Going]) -> sql.Composed:
    own = going.get(one.child)
    return _SQL["reaching"].format(
        columns=model.names(one.columns),
        children=one.children,
        outside=sql.SQL("true") if own is None else own.outside(one),
        inside=going[one.parent].inside(one),
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

    @contextmanager
    def looking(self, conn: Connection) -> Iterator[Cursor]:
        """One snapshot, in which the heaps that it finds rows in keep their names, and stay their tables' parts."""
        trees = [model.qualified(s.shape.name) for s in self.selections.values() if s.shape.is_tree]
        lock = [sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(sql.SQL(", ").join(trees))] if trees else []
        own_path = any(s.where is not None for s in self.selections.values())
        with transaction(conn, isolation="repeatable read", read_only=True, opening=lock, own_path=own_path) as cur:
            yield cur

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
        number = {t: i for i, t in enumerate(self.family.tables)}
        of, heaps = self.selections[self.of], Heaps(cur)
        query = _SQL["seeds"].format(
            place=places.of(of.shape),
            table=model.rows_of(of.shape),
            here=not_apart(cur, of),
            within=of.within(seeds, conflicts.get(self.of, ())),
        )
        first = [(number[self.of], str(place)) for (place,) in cur.execute(query).fetchall()]

        def look(rows: Collection[Row]) -> dict[Row, str | None]:
            found: dict[Row, str | None] = {}
            for i, table, arms in self._armed(heaps, rows):
                query = self._look(table, conflicts.get(table, ()), arms)
                found |= {(i, str(p)): why for p, why in cur.execute(query).fetchall()}
            return found

        def neighbours(rows: Collection[Row]) -> Iterator[tuple[Row, Row]]:
            asked = {table: arms for _, table, arms in self._armed(heaps, rows)}
            for link in self.family.links:
                for query in self._links(link, asked):
                    for one, other in cur.execute(query).fetchall():
                        yield (number[link.child], one), (number[link.parent], other)

        return explore(first, look, neighbours, most_rows=most_rows, most_seen=most_seen)

    def weigh(self, cur: Cursor, rows: Collection[Row]) -> int:
        """How many bytes `rows` take as they are stored."""
        total = 0
        for _, table, arms in self._armed(Heaps(cur), rows):
            columns = [c.name for c in self.selections[table].shape.columns]
            query = _SQL["weigh"].format(sizes=model.stored_bytes(columns), rows=places.rows(arms, model.names(columns)))
            total += int((cur.execute(query).fetchone() or (0,))[0])
        return total

    def weigh_columns(self, cur: Cursor, rows: Collection[Row]) -> dict[TableName, tuple[int, dict[str, int]]]:
        """Of each table how many of `rows` are its own, and what each column's values take as they are stored."""
        found: dict[TableName, tuple[int, dict[str, int]]] = {}
        for _, table, arms in self._armed(Heaps(cur), rows):
            columns = [c.name for c in self.selections[table].shape.columns]
            sizes = sql.SQL(", ").join(model.stored_bytes_of(c) for c in columns)
            query = _SQL["weigh_columns"].format(sizes=sizes, rows=places.rows(arms, model.names(columns)))
            count, *weights = cur.execute(query).fetchone() or (0,)
            found[table] = (int(count), dict(zip(columns, map(int, weights), strict=False)))
        return found

    def _armed(self, heaps: Heaps, rows: Collection[Row]) -> Iterator[tuple[int, TableName, tuple[Arm, ...]]]:
        """`rows` table by table, and heap by heap."""
        by_table: dict[int, list[str]] = defaultdict(list)
        for number, place in rows:
            by_table[number].append(place)
        for i, found in by_table.items():
            table = self.family.tables[i]
            yield i, table, heaps.arms(table, places.predicate(found))

    def _links(self, link: Reference, asked: Mapping[TableName, Sequence[Arm]]) -> Iterator[sql.Composed]:
        """Queries for the pairs that `link` joins, of which one is among the rows `asked`."""
        child, parent = self.selections[link.child].shape, self.selections[link.parent].shape
        meets = link.meets("child", "parent")
        arms = [a for a in asked.get(link.child, ()) if a.lies_in(link.child_at, link.child, whole=link.child_whole)]
        if arms:
            children = places.rows(arms, model.names(link.columns), places.of(child))
            yield _SQL["parents_of"].format(
                children=children, parents=link.parents, place=places.of(parent, "parent"), meets=meets, known=PLACE
            )
        arms = [a for a in asked.get(link.parent, ()) if a.lies_in(link.parent_at, link.parent, whole=link.parent_whole)]
        if arms:
            parents = places.rows(arms, model.names(link.parent_columns), places.of(parent))
            yield _SQL["children_of"].format(
                children=link.children, parents=parents, place=places.of(child, "child"), meets=meets, known=PLACE
            )

    def _look(self, table: TableName, conflicts: Sequence[Bound], arms: Sequence[Arm]) -> sql.Composed:
        selection, young = self.selections[table], f"rows of {table} may not leave yet"
        if self.whole:
            selection, young = replace(selection, where=None, any_age=True), f"a key of {table} is in core and in main"
        kept = [
            _SQL["kept"].format(others=selection.none_of(keys), why=sql.Literal(why))
            for why, keys in self.held.get(table, {}).items()
        ]
        each = (
            _SQL["look"].format(
                place=places.of(selection.shape),
                heap=model.qualified(arm.heap),
                named=sql.SQL("") if arm.oid is None else sql.SQL("AS {}").format(sql.Identifier(table.name)),
                may_leave=selection.eligible(None, conflicts),
                young=sql.Literal(young),
                pinned=sql.SQL(" ").join([*kept, *self._pinned(table, arm)]),
                places=sql.SQL(arm.condition),
            )
            for arm in arms
        )
        return sql.SQL(" UNION ALL ").join(each)

    def _pinned(self, table: TableName, arm: Arm) -> Iterator[sql.Composed]:
        """What holds for rows of `arm` that rows which stay refer to."""
        for pin in self.family.pins:
            if pin.parent == table and arm.lies_in(pin.parent_at, table, whole=pin.parent_whole):
                yield _SQL["pinned"].format(
                    children=pin.children,
                    meets=pin.meets("tierkeeper_child", table.name),
                    why=sql.Literal(f"rows that stay refer to them: {pin}"),
                )


def delete_all(going: Sequence[Sequence[Arm]]) -> sql.Composed:
    """One statement that deletes the rows of every batch, heap by heap, and gives for each of these its number, the rows' count
    and versions, and its file.
    """
    gone, found = [], []
    for i, arm in enumerate(arm for arms in going for arm in arms):
        name, regclass = sql.Identifier(f"gone{i}"), model.regclass(arm.heap)
        parts = {"name": name, "table": model.qualified(arm.heap), "predicate": sql.SQL(arm.condition)}
        gone.append(_SQL["delete"].format(**parts))
        found.append(_SQL["deleted"].format(place=sql.Literal(i), fingerprint=model.FINGERPRINT, regclass=regclass, name=name))
    return sql.SQL("WITH {} {}").format(sql.SQL(", ").join(gone), sql.SQL(" UNION ALL ").join(found))
