"""Names: which column of which relation a name in the statement means, as Postgres resolves it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from sqlglot import exp

from tierkeeper.query.model import Facts, Output, refuse
from tierkeeper.query.statement import folded, text_of
from tierkeeper.query.terms import Term


@dataclass(frozen=True)
class Relation:
    """One item of a FROM: its alias and its columns as terms, in order."""

    alias: str
    columns: tuple[tuple[str, Term], ...]


@dataclass(frozen=True)
class Query:
    """A compiled query: what it is in DuckDB, what in Postgres, and its columns (called `o0`, `o1` … in DuckDB)."""

    duck: str
    postgres: str
    outputs: tuple[Output, ...]


class Compiler(Protocol):
    """What expressions need of the rest: facts, a subquery's compilation, and to say that they divide numerics."""

    facts: Facts
    divisions: set[tuple[int, int]]

    def query(self, node: exp.Expr, scope: "Scope") -> Query:
        """Compiles a query inside another; `scope` is what it can see."""
        ...


@dataclass
class Scope:
    """What an expression can see: the relations of its FROM, then those of the query around it."""

    compiler: Compiler
    ctes: Mapping[str, Query]
    parent: "Scope | None" = None
    relations: list[Relation] = field(default_factory=list)
    shared: dict[str, Term] = field(default_factory=dict)  # columns of JOIN ... USING

    def resolve(self, node: exp.Column) -> Term:
        """The column that `node` names. Raises UsageError for one that is not there or has no equal in DuckDB."""
        if node.args.get("db") or node.args.get("catalog"):
            raise refuse(text_of(node), "a column has at most a table before it", "Give the table an alias and use that")
        name, table = folded(node.this), folded(node.args.get("table"))
        found = self._look(name, table)
        if found is None:
            raise refuse(
                text_of(node), "the fast door sees no such column here (system columns and whole rows neither)", "Name a column"
            )
        return found

    def has(self, name: str) -> bool:
        """Whether the bare `name` is a column of this query's own FROM."""
        return name in self.shared or any(name in dict(r.columns) for r in self.relations)

    def star(self, table: str = "") -> list[tuple[str, Term]]:
        """The columns that `*` or `table.*` stands for."""
        chosen = [r for r in self.relations if not table or r.alias == table]
        if not chosen:
            raise refuse(f"{table}.*" if table else "*", "there is no such relation here", "Name the columns")
        first = [] if table else list(self.shared.items())
        names = {n for n, _ in first}
        return first + [(n, t) for r in chosen for n, t in r.columns if n not in names]

    def _look(self, name: str, table: str) -> Term | None:
        if not table and name in self.shared:
            return self.shared[name]
        hits = []
        for relation in self.relations:
            if table and relation.alias != table:
                continue
            hits += [t for n, t in relation.columns if n == name]
        if len(hits) > 1:
            raise refuse(name, "several relations have a column of this name", "Write the relation's alias before it")
        if hits:
            return replace(hits[0], name=name)
        return self.parent._look(name, table) if self.parent is not None else None


def check_args(node: exp.Expr, *known: str) -> None:
    """Refuses a clause that nobody here has looked at: an unread part of a statement could change its meaning."""
    harmless: Sequence[str] = ("big_int", "typed", "safe", "ignore_nulls", "comments")
    for name, value in node.args.items():
        if value and name not in known and name not in harmless:
            raise refuse(
                text_of(node)[:120], f"the fast door does not know this form ({name.strip('_')})", "Write it without that"
            )
