"""What a tier holds of a selection, and where: the questions that a run is planned by. It changes nothing."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from psycopg import errors, sql

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.tables import Part, TableName
from tierkeeper.mover import model, width
from tierkeeper.mover.model import Bound, Piece, Selection
from tierkeeper.postgres import shapes
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "holdings.sql")
T = TypeVar("T")


class Holdings:
    """The rows of selections in one tier during one run, as they are at the moment of each question."""

    def __init__(self, conn: Connection, tier: Tier) -> None:
        self._conn = conn
        self._tier = tier
        self._toasted: dict[TableName, width.Toasted] = {}  # of each heap met; an altered table ends the run

    def parts(self, selection: Selection) -> list[TableName | None]:
        """Where the selection's rows lie now: as `Batch.part` names it, None for a table without others below it."""
        if not selection.shape.is_tree:
            return [None]
        with transaction(self._conn, read_only=True) as cur:
            return [part.name for part in self._fitting_parts(cur, selection)]

    def _reading(self, selection: Selection) -> AbstractContextManager[Cursor]:
        """A transaction in which the selection's condition means what it means to its user."""
        return transaction(self._conn, read_only=True, own_path=selection.where is not None)

    def _fitting_parts(self, cur: Cursor, selection: Selection) -> Iterator[Part]:
        """Raises UsageError for one with columns that the table does not have: they would be lost."""
        for part in shapes.parts(cur, selection.shape.name, selection.apart):
            if part.more:
                raise UsageError(
                    f"{selection.shape.name} ({self._tier})",
                    f"{part.name} inherits from it and has columns of its own ({', '.join(part.more)})",
                    f"Give {part.name} a [[tables]] entry of its own",
                )
            yield part

    def count(self, selection: Selection, conflicts: Sequence[Bound] = ()) -> int:
        """How many rows the selection has now, without those of the keys `conflicts`."""
        with self._reading(selection) as cur:
            query = sql.SQL("SELECT count(*) FROM {} WHERE {} AND {}").format(
                model.rows_of(selection.shape), not_apart(cur, selection), selection.eligible(None, conflicts)
            )
            return one(cur.last(query), int)

    def pieces(self, selection: Selection, step: int, conflicts: Sequence[Bound]) -> list[Piece]:
        """Where in the heaps the selection's rows lie, in pieces of `step` pages, those without any left out.

        Reads the table once, whatever indexes it has. A part that is gone meanwhile has none.
        """
        found: list[Piece] = []
        for part in self.parts(selection):
            try:
                found += self._pieces(selection, part, step, conflicts)
            except errors.UndefinedTable:
                if part is None:
                    raise
        return found

    def toasted(self, heap: TableName) -> width.Toasted:
        """As `width.toasted`; asked once."""
        if heap not in self._toasted:
            self._toasted[heap] = width.toasted(self._conn, heap)
        return self._toasted[heap]

    def learn(self, heap: TableName, toasted: width.Toasted) -> None:
        """What `toasted` would say of `heap`, asked over another connection."""
        self._toasted[heap] = toasted

    def _pieces(self, selection: Selection, part: TableName | None, step: int, conflicts: Sequence[Bound]) -> list[Piece]:
        name = part or selection.shape.name
        regclass = model.regclass(name)
        toastable, _ = self.toasted(name)
        with self._reading(selection) as cur:
            sizes = [sql.SQL("coalesce(sum(pg_column_size({})), 0)").format(sql.Identifier(c)) for c in toastable]
            query = _SQL["pieces"].format(
                step=sql.Literal(step),
                regclass=regclass,
                toasted=sql.SQL("({})").format(sql.SQL(" + ").join([sql.SQL("0"), *sizes])),
                widest=width.of(selection.shape, toastable).most,
                table=model.qualified(name),
                eligible=selection.eligible(None, conflicts),
            )
            return [Piece(page, page + step, rows, size_bytes, part, wide) for page, rows, size_bytes, wide in cur.last(query)]

    def weigh(self, selection: Selection, limit: int | None) -> tuple[int, dict[str, int]]:
        """The number of the selection's first `limit` rows, and what each column's values take as they are stored."""
        columns = [c.name for c in selection.shape.columns]
        sizes = [model.stored_bytes_of(c) for c in columns]
        first = sql.SQL("ORDER BY {} LIMIT {}").format(model.names(selection.order), sql.Literal(limit))
        with self._reading(selection) as cur:
            query = _SQL["weigh"].format(
                sizes=sql.SQL(", ").join(sizes),
                names=model.names(columns),
                table=model.rows_of(selection.shape),
                here=not_apart(cur, selection),
                eligible=selection.eligible(None),
                first=sql.SQL("") if limit is None else first,
            )
            rows, *weights = cur.last(query).fetchone() or (0,)
        return int(rows), dict(zip(columns, map(int, weights), strict=False))

    def next_bound(
        self, selection: Selection, after: Bound | None, limit: int, conflicts: Sequence[Bound], part: TableName | None = None
    ) -> tuple[Bound, int] | None:
        """The last (age, key…) of the next `limit` rows behind `after`, with their number; None when no row is left.

        Of all the selection, or of one `part` of it.
        """
        order = selection.order
        with self._reading(selection) as cur:
            query = _SQL["next_bound"].format(
                columns=sql.SQL(", ").join(model.text_of(c, "page") for c in order),
                names=model.names(order),
                backwards=sql.SQL(", ").join(sql.SQL("page.{} DESC").format(sql.Identifier(c)) for c in order),
                order=model.names(order),
                table=sql.SQL("ONLY {}").format(model.qualified(part)) if part else model.rows_of(selection.shape),
                here=sql.SQL("true") if part else not_apart(cur, selection),
                eligible=selection.eligible(after, conflicts),
                limit=sql.Literal(limit),
            )
            row = cur.last(query).fetchone()
        return (tuple(str(v) for v in row[:-1]), int(row[-1])) if row else None


def not_apart(cur: Cursor, selection: Selection) -> sql.Composable:
    """SQL that holds for rows that do not lie in a part which moves by itself."""
    if not selection.apart:
        return sql.SQL("true")
    parts = [model.regclass(part.name) for part in shapes.parts(cur, selection.shape.name, selection.apart)]
    return sql.SQL("tableoid = ANY (ARRAY[{}]::regclass[])").format(sql.SQL(", ").join(parts))


def one(cur: Cursor, kind: type[T]) -> T:
    """The one value that a statement gave. Raises TypeError where it is none of `kind`."""
    row = cur.fetchone()
    if row is None or not isinstance(row[0], kind):
        raise TypeError(f"expected one {kind.__name__}, got {row!r}")
    return row[0]
