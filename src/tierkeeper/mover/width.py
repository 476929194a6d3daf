"""How wide a table's rows are once they travel, which compression and toast hide, and the refusal of those that cannot.

It only reads. libpq hands over whole rows, so the widest one also says how many workers fit into memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psycopg import errors, sql

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.limits import ARRAY_RATIO, PACKED_RATIO, ROW_BYTES_MAX
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.mover import model
from tierkeeper.mover.model import Selection
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.keeping import named, of_each
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "width.sql")
_PAGE_BYTES = 32_768  # the largest that Postgres can be built with: what a row has in line
_RAW_SIZES = frozenset({"text", "varchar", "bpchar", "bytea"})
"""Types whose size Postgres knows without unpacking a value."""


@dataclass(frozen=True)
class Width:
    """SQL for the bytes of a row's large columns: `sure` of those that need no look inside, `packed` of the others, times
    PACKED_RATIO at most, `unpacked` of the same in the form that they travel in."""

    sure: sql.Composed
    packed: sql.Composed
    unpacked: sql.Composed

    @property
    def most(self) -> sql.Composed:
        """What a row may have at most; reads no value."""
        return sql.SQL("({} + {} * {})").format(self.sure, sql.Literal(PACKED_RATIO), self.packed)


def of(shape: TableShape, toasted: Sequence[str], *, as_text: bool = False) -> Width:
    """The width of a row in its columns `toasted` as it travels: `as_text`, which the table may need anyway, or in binary."""
    as_text = as_text or bool(shape.as_text)
    sure, packed, unpacked = (list[sql.Composable]([sql.SQL("0::bigint")]) for _ in range(3))
    for column in (c for c in shape.columns if c.name in toasted):
        name = sql.Identifier(column.name)
        if column.base in _RAW_SIZES:
            doubled = sql.SQL("2 * " if as_text and column.base == "bytea" else "")  # two digits a byte
            sure.append(sql.SQL("{}coalesce(octet_length({}), 0)::bigint").format(doubled, name))
            continue
        size = sql.SQL("coalesce(pg_column_size({}), 0)").format(name)
        compressed = sql.SQL("pg_column_compression({}) IS NOT NULL").format(name)
        text = sql.SQL("octet_length(concat({}))").format(name)
        if column.element is not None:
            spread = sql.SQL("CASE WHEN {} THEN {} ELSE {} * {} / {} + 1 END")
            packed.append(spread.format(compressed, size, size, sql.Literal(ARRAY_RATIO), sql.Literal(PACKED_RATIO)))
            binary = sql.SQL("0") if as_text else sql.SQL("octet_length(array_send({}))").format(name)
            unpacked.append(sql.SQL("coalesce(greatest({}, {}), 0)").format(text, binary))
            continue
        one = sql.SQL("CASE WHEN {} THEN {} ELSE 0 END")
        sure.append(sql.SQL("CASE WHEN {} THEN 0 ELSE {} END").format(compressed, size))
        packed.append(one.format(compressed, size))
        unpacked.append(one.format(compressed, text))
    plus = sql.SQL(" + ")
    return Width(*(sql.SQL("({})").format(plus.join(parts)) for parts in (sure, packed, unpacked)))


Toasted = tuple[list[str], int]
"""The columns of a heap that may have values out of line, and how large all of these are as they are stored."""


def toasted(conn: Connection, heap: TableName) -> Toasted:
    """The columns of `heap` that may have values out of line, and how large all of these are as they are stored."""
    columns = _toasted(conn, heap) or {}
    return list(columns), max(columns.values(), default=0)


@of_each
def _toasted(conn: Connection, heaps: Sequence[TableName]) -> dict[TableName, dict[str, int]]:
    found: dict[TableName, dict[str, int]] = {}
    with catalog(conn) as cur:
        for schema, name, column, size_bytes in cur.last(_SQL["toasted"], named(heaps)):
            found.setdefault(TableName(schema, name), {})[column] = size_bytes
    return found


def refuse(
    conn: Connection,
    tier: Tier,
    selection: Selection,
    parts: Sequence[TableName | None],
    toasted: Callable[[TableName], Toasted],
    *,
    as_text: bool = False,
) -> None:
    """Raises UsageError, with the key, for a row above ROW_BYTES_MAX in one of `parts` (None: the table itself).

    Only a heap with much out of line can have one. Values whose size Postgres does not know are unpacked there, of those
    rows alone that could be so wide.
    """
    for part in parts:
        try:
            heap = part or selection.shape.name
            found = _too_wide(conn, selection, heap, toasted(heap), as_text=as_text)
        except errors.UndefinedTable:
            if part is None:
                raise
            continue  # it is gone meanwhile, and its rows with it
        if found is not None:
            *key, size_bytes = found
            raise UsageError(
                f"{selection.shape.name} ({tier})",
                f"the row with the key {', '.join(key)} has {int(size_bytes) // 10**6} MB on its way, and no row "
                f"above {ROW_BYTES_MAX // 10**6} MB can be moved",
                "Leave it out with --where of tierkeeper move, or make its values smaller",
            )


def _too_wide(
    conn: Connection, selection: Selection, heap: TableName, toasted: Toasted, *, as_text: bool
) -> tuple[str, ...] | None:
    """A row of `heap` that is too wide: its key, and how many bytes it has."""
    columns, toasted_bytes = toasted
    if (toasted_bytes + _PAGE_BYTES) * PACKED_RATIO <= ROW_BYTES_MAX:
        return None
    row = of(selection.shape, columns, as_text=as_text)
    query = _SQL["too_wide"].format(
        key=sql.SQL(", ").join(model.text_of(k, "t") for k in selection.shape.key), table=model.qualified(heap),
        eligible=selection.eligible(None), limit=sql.Literal(ROW_BYTES_MAX),
        most=row.most, sure=row.sure, unpacked=row.unpacked,
    )  # fmt: skip
    with transaction(conn, read_only=True) as cur:
        found = cur.last(query).fetchone()
    return tuple(map(str, found)) if found else None
