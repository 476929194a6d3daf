"""What Core's snapshot says about a statement, and the statement that one tier answers alone.

It runs inside a transaction that the runner has begun, and it never begins one.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg import pq, sql

from tierkeeper.kernel.errors import Failed, NotNow, UsageError
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.statements import load
from tierkeeper.query.functions import numeric_of
from tierkeeper.query.model import PLACE, ColumnFacts, Constant, Facts, Output, PgType, Plan, TableFacts, refuse
from tierkeeper.query.statement import Statement
from tierkeeper.query.values import column_from_text

if TYPE_CHECKING:
    import pyarrow as pa

_SQL = load("tierkeeper.query", "query.sql")
_FETCH_ROWS: Final = 10_000  # a block of text rows that Python holds at a time
_NATIVE: Final[Mapping[str, str]] = {
    "int2": "int2", "int4": "int4", "int8": "int8", "float4": "float4", "float8": "float8", "bool": "bool", "date": "date",
    "timestamp": "timestamp", "timestamptz": "timestamptz", "uuid": "uuid", "text": "text", "varchar": "text",
}  # fmt: skip
_OIDS: Final[Mapping[str, tuple[int, ...]]] = {
    "bool": (16,), "int8": (20,), "int2": (21,), "int4": (23,), "text": (25, 1043), "float4": (700,), "float8": (701,),
    "date": (1082,), "timestamp": (1114,), "timestamptz": (1184,), "numeric": (1700,), "uuid": (2950,),
}  # fmt: skip
_PLANNINGS_MAX: Final = 4  # ANALYZE, or a partition that comes or goes, changes a plan once in minutes
_TYPMOD_OFFSET: Final = 4  # numeric's modifier is (precision << 16 | scale) plus the header's four bytes


class UnknownRelationError(UsageError):
    """The statement names a relation that this tier does not have."""


def describe(conn: Connection, statement: str) -> list[tuple[str, int]]:
    """The names and type OIDs of the result's columns. Raises UsageError in Postgres's own words if it refuses the statement."""
    for result in (conn.pgconn.prepare(b"", statement.encode()), conn.pgconn.describe_prepared(b"")):
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise _unfit(psycopg.errors.error_from_result(result))
    if result.nfields == 0:
        raise UsageError(PLACE, "the statement gives no columns", "Write one that selects something")
    return [((result.fname(i) or b"").decode(), result.ftype(i)) for i in range(result.nfields)]


def _unfit(error: psycopg.Error) -> psycopg.Error | UsageError:
    """What to tell of a statement that failed at Core: `error` itself where Core went away or was busy."""
    if not _refuses(error):
        return error
    cause = error.diag.message_primary or str(error)
    hint = error.diag.message_hint
    kind = UnknownRelationError if isinstance(error, psycopg.errors.UndefinedTable) else UsageError
    return kind(PLACE, cause, hint.rstrip(".") if hint else "Correct the statement; nothing was run")


def _refuses(error: psycopg.Error) -> bool:
    """Whether it is the statement that is wrong. Of a lost link no server says anything, so that it has no SQLSTATE.

    Class 25 is of the transaction: that it only reads, or that it lasted too long.
    """
    state = error.sqlstate or ""
    return bool(state) and not state.startswith("25") and not isinstance(error, psycopg.OperationalError)


Reached = tuple[frozenset[TableName], frozenset[TableName]]
"""What a relation reads, and what these rows are part of."""


def views_over(cur: psycopg.Cursor, tables: Collection[TableName]) -> dict[TableName, Reached]:
    """Which relations each of `tables` reads, over any number of steps: a view's tables, a parent's children.

    And which have the rows of these as their own: the table of a partition, the parent of a child.
    """
    found: dict[TableName, Reached] = {}
    for schema, name, to_schema, to_name, is_above in cur.execute(_SQL["reached"], _wanted(tables)):
        below, above = found.get(TableName(schema, name), (frozenset(), frozenset()))
        other = {TableName(to_schema, to_name)}
        found[TableName(schema, name)] = (below, above | other) if is_above else (below | other, above)
    return found


def known(cur: psycopg.Cursor, tables: Collection[TableName]) -> list[TableName]:
    """Those of `tables`, names of a WITH's parts among them, that are relations of `cur`'s snapshot."""
    return [TableName(schema, name) for schema, name in cur.execute(_SQL["known"], _wanted(tables))]


def relations(cur: psycopg.Cursor, statement: str) -> frozenset[TableName]:
    """The relations that Postgres itself would read for `statement`, and those whose partitions or children they are.

    One that its planner proved needless is not among them.
    """
    (explained,) = cur.execute(b"EXPLAIN (VERBOSE, FORMAT JSON) " + statement.encode()).fetchone() or ([],)
    found, waiting = set[TableName](), list(explained)
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "Relation Name" in node:
                found.add(TableName(str(node.get("Schema", "public")), str(node["Relation Name"])))
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return frozenset(found).union(*(above for _, above in views_over(cur, found).values()))


def functions_that_read(cur: psycopg.Cursor, names: Sequence[str]) -> list[str]:
    """Functions of the user's own called one of `names` that are not declared to be independent of tables."""
    return [str(r[0]) for r in cur.execute(_SQL["functions"], {"names": list(names)})]


def read_facts(cur: psycopg.Cursor, statement: Statement) -> Facts:
    """Columns, collations and constants of `statement`."""
    row = cur.execute(_SQL["database"]).fetchone()
    utf8, bytewise = (bool(row[0]), bool(row[1] and row[0])) if row is not None else (False, False)
    found: dict[TableName, list[ColumnFacts]] = {}
    oids: dict[TableName, int] = {}
    for schema, table, name, declared, base, modifier, by_bytes, deterministic, number, oid in cur.execute(
        _SQL["columns"], {**_wanted(statement.tables), "bytewise": bytewise}
    ):
        kind = (_type(base, modifier, by_bytes=by_bytes and utf8) if deterministic else None) or PgType(
            "opaque", declared=declared
        )
        found.setdefault(TableName(schema, table), []).append(ColumnFacts(name, declared, kind, number))
        oids[TableName(schema, table)] = oid
    tables = {n: TableFacts(n, tuple(c), oid=oids[n]) for n, c in found.items()}
    return Facts(tables, _constants(cur, statement.constants), bytewise, utf8)


def _type(base: str | None, modifier: int, *, by_bytes: bool) -> PgType | None:
    if base == "numeric" and modifier >= _TYPMOD_OFFSET:
        packed = modifier - _TYPMOD_OFFSET
        try:
            return numeric_of([packed >> 16 & 0xFFFF, packed & 0x7FF], base)
        except UsageError:
            return None
    kind = _NATIVE.get(base or "")
    return PgType(kind, order="bytes" if by_bytes else "other") if kind == "text" else PgType(kind) if kind else None  # type: ignore[arg-type]


def _constants(cur: psycopg.Cursor, constants: Sequence[str]) -> dict[str, Constant]:
    if not constants:
        return {}
    columns = ", ".join(f"pg_catalog.pg_typeof({c})::text, ({c})::text" for c in constants)
    try:
        row = cur.execute(f"SELECT {columns}".encode()).fetchone()
    except psycopg.Error as error:
        raise _unfit(error) from error
    values = [None if v is None else str(v) for v in row or ()]
    return {c: Constant(values[2 * i] or "", values[2 * i + 1]) for i, c in enumerate(constants)}


def confirm(cur: psycopg.Cursor, statement: Statement, plan: Plan, described: Sequence[tuple[str, int]]) -> None:
    """Has Core's planner find the statement as it was understood, types written out, to be the user's.

    Raises UsageError where it does not: a wrong reading of the statement would be a wrong answer.
    """
    pairs = zip(plan.outputs, described, strict=False)
    wrong = [o.name for o, (_, oid) in pairs if o.type.kind != "opaque" and oid not in _OIDS[o.type.kind]]
    if len(plan.outputs) == len(described) and not wrong:
        try:
            if _planned_alike(cur, statement.sql, plan.confirmation):
                return
        except psycopg.Error as error:
            if not _refuses(error):
                raise
            cause = "Postgres does not accept it as it was understood"
        else:
            cause = "Postgres plans it otherwise than it was understood"
    else:
        cause = f"Postgres gives {', '.join(wrong) or 'its columns'} another type"
    raise refuse(
        "the statement", cause, "Write extract for date_part, name each column of a subquery with AS, and cast explicitly"
    )


def _planned_alike(cur: psycopg.Cursor, given: str, understood: str) -> bool:
    """Plans follow statistics and partitions as they are by now, not as the snapshot has them: they may change in between."""
    before = _explained(cur, given)
    for _ in range(_PLANNINGS_MAX):
        if _explained(cur, understood) == before:
            return True
        if (after := _explained(cur, given)) == before:
            return False
        before = after
    raise NotNow(PLACE, "Core's plans for the statement changed while it was looked at", "Ask again")


def _explained(cur: psycopg.Cursor, statement: str) -> list[str]:
    rows = cur.execute(b"EXPLAIN (VERBOSE, COSTS OFF) " + statement.encode()).fetchall()
    lines = [str(r[0]).replace("now()", "CURRENT_TIMESTAMP") for r in rows]
    return [line for line in lines if not line.startswith("Query Identifier")]


def answer(cur: psycopg.Cursor, statement: str, described: Sequence[tuple[str, int]]) -> "pa.Table":
    """The statement's result, run by `cur`'s tier as it stands. A type without an equal in Arrow comes as Postgres's text."""
    import pyarrow as pa

    cur.execute(b"DECLARE tierkeeper_query NO SCROLL CURSOR FOR " + statement.strip().rstrip("; \n\t").encode())
    columns: list[list[str | None]] = [[] for _ in described]
    while True:
        cur.execute(sql.SQL("FETCH FORWARD {} FROM tierkeeper_query").format(sql.Literal(_FETCH_ROWS)))
        result = cur.pgresult
        if result is None:
            raise Failed(PLACE, "the server gave no result", "Run it again")
        for i, column in enumerate(columns):
            values = (result.get_value(row, i) for row in range(result.ntuples))
            column.extend(None if v is None else v.decode() for v in values)
        if result.ntuples < _FETCH_ROWS:
            break
    kinds = [next((k for k, oids in _OIDS.items() if oid in oids), "text") for _, oid in described]
    return pa.Table.from_arrays(
        [column_from_text(c, k) for c, k in zip(columns, kinds, strict=True)], names=[n for n, _ in described]
    )


def named(outputs: Sequence[Output], described: Sequence[tuple[str, int]]) -> list[Output]:
    """The plan's columns under the names that Postgres gives them."""
    return [Output(name, o.type) for o, (name, _) in zip(outputs, described, strict=True)]


def _wanted(tables: Collection[TableName]) -> dict[str, list[str]]:
    return {"schemas": [t.schema for t in tables], "names": [t.name for t in tables]}
