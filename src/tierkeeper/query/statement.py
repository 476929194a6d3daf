"""Reads a statement: that it is one, that it only reads, which tables it names, which constants Core must work out.

Pure. It decides nothing about how the statement is answered.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.tables import TableName
from tierkeeper.query.model import PLACE

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # what it warns of is refused here, in our own words

DIALECT: Final = "postgres"
_READ_ONLY: Final = "Write one SELECT, WITH, VALUES or UNION; nothing was run"
_WRITES: Final = (exp.DML, exp.DDL, exp.Command, exp.Into, exp.Lock, exp.Merge, exp.Copy, exp.Set, exp.TruncateTable)
_PARAMETERS: Final = (exp.Placeholder, exp.Parameter)
_FOLDABLE: Final = (
    exp.Cast, exp.Literal, exp.Interval, exp.CurrentTimestamp, exp.CurrentDate, exp.Localtimestamp, exp.Add, exp.Sub, exp.Neg,
    exp.Paren, exp.Var, exp.DataType, exp.DataTypeParam, exp.TimestampTrunc, exp.AtTimeZone,
)  # fmt: skip
_WORTH_FOLDING: Final = (exp.Cast, exp.Interval, exp.CurrentTimestamp, exp.CurrentDate, exp.Localtimestamp)
_MAKERS: Final = frozenset({"make_date", "make_timestamp", "make_timestamptz", "transaction_timestamp"})


@dataclass(frozen=True)
class Statement:
    """A statement that only reads. `constants` are expressions without columns, as SQL. A bare table is in `public`."""

    sql: str
    tree: exp.Expr
    tables: tuple[TableName, ...]
    constants: tuple[str, ...]
    functions: tuple[str, ...] = ()  # names of what it calls beside SQL's own


def parse(sql: str) -> Statement:
    """Reads `sql`. Raises UsageError for what is no single statement, cannot be read, or would do more than read."""
    try:
        trees = sqlglot.parse(sql, dialect=DIALECT)
    except (SqlglotError, RecursionError) as error:
        cause = str(error).splitlines()[0].rstrip(". ") if str(error) else "it is nested too deep"
        raise UsageError(
            PLACE, f"the statement cannot be read ({cause})", "Correct it and run it again; nothing was run"
        ) from None
    found = [t for t in trees if t is not None and not isinstance(t, exp.Semicolon)]
    if len(found) != 1:
        raise UsageError(PLACE, f"{len(found)} statements were given", _READ_ONLY)
    tree = found[0]
    writer = next((n for n in tree.walk() if isinstance(n, _WRITES) and not isinstance(n, exp.Query)), None)
    if writer is not None or not isinstance(tree, exp.Query | exp.Values):
        plain = isinstance(tree, exp.Condition)  # a bare word or value
        raise UsageError(
            PLACE, "this is no question in SQL" if plain else f"{_verb(writer or tree)} does more than read", _READ_ONLY
        )
    if any(tree.find_all(*_PARAMETERS)):
        raise UsageError(PLACE, "the statement has a parameter, or an operator that looks like one", "Write the value itself")
    return Statement(sql, tree, tuple(sorted(set(_tables(tree)))), tuple(dict.fromkeys(_constants(tree))), _functions(tree))


def _functions(tree: exp.Expr) -> tuple[str, ...]:
    called = {n.this.name if isinstance(n.this, exp.Expr) else str(n.this) for n in tree.find_all(exp.Anonymous)}
    return tuple(sorted(called | {name.lower() for name in called}))


def text_of(node: exp.Expr) -> str:
    """`node` as Postgres would read it: the key of a constant."""
    shown = node.copy()
    for unit in shown.find_all(exp.Var):
        unit.set("this", unit.name.lower())
    return str(shown.sql(dialect=DIALECT))


def table_name(table: exp.Table) -> TableName:
    """The table's name as Postgres folds it."""
    return TableName(folded(table.args.get("db")) or "public", folded(table.this))


def folded(identifier: object) -> str:
    """An identifier's name: as it stands if quoted, in lower case else."""
    if not isinstance(identifier, exp.Identifier):
        return ""
    name = str(identifier.this)
    return name if identifier.args.get("quoted") else name.lower()


def _verb(node: exp.Expr) -> str:
    if isinstance(node, exp.Into):
        return "SELECT INTO"
    if isinstance(node, exp.Lock):
        return "FOR UPDATE or FOR SHARE"
    return str(node.this).upper() if isinstance(node, exp.Command) else node.key.upper()


def _tables(tree: exp.Expr) -> Iterator[TableName]:
    """Every name that stands where a table can: a common table expression's too, for it may be a table inside itself."""
    for table in tree.find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier):
            continue
        if table.args.get("catalog"):
            raise UsageError(
                f"{PLACE}: {table.sql(dialect=DIALECT)}", "a name has at most a schema and a table", "Leave the database out"
            )
        yield table_name(table)


def _constants(node: exp.Expr) -> Iterator[str]:
    if _is_constant(node):
        yield text_of(node)
    else:
        for child in node.iter_expressions():
            yield from _constants(child)


def _is_constant(node: exp.Expr) -> bool:
    """Whether Core can work `node` out once for the whole statement, and there is something to work out."""
    if isinstance(node, exp.DataType | exp.Literal | exp.Var | exp.Paren):
        return False
    nodes = list(node.walk())
    if not all(isinstance(n, _FOLDABLE) or _is_maker(n) for n in nodes):
        return False
    return any(_is_maker(n) or (isinstance(n, _WORTH_FOLDING) and not _casts_a_number(n)) for n in nodes)


def _is_maker(node: exp.Expr) -> bool:
    return isinstance(node, exp.Anonymous) and str(node.this).lower() in _MAKERS


def _casts_a_number(node: exp.Expr) -> bool:
    return isinstance(node, exp.Cast) and not any(n.is_string for n in node.find_all(exp.Literal))
