"""Queries: FROM, WHERE, GROUP BY, ORDER BY and the rest, written out for DuckDB and for Postgres side by side. Pure.

Every relation and column gets a name of its own in DuckDB, so that no rule of DuckDB's about names can matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sqlglot import exp

from tierkeeper.kernel.tables import TableName
from tierkeeper.query.expressions import boolean, compare, term
from tierkeeper.query.model import Facts, Output, PgType, TableFacts, refuse
from tierkeeper.query.scope import Query, Relation, Scope, check_args
from tierkeeper.query.statement import folded, table_name, text_of
from tierkeeper.query.terms import Term, Use, coerce, common, ident, mismatch, needs_byte_order

_SELECT_ARGS: Final = (
    "expressions", "from_", "joins", "where", "group", "having", "order", "limit", "offset", "distinct", "with_", "kind",
)  # fmt: skip
_SET_ARGS: Final = ("this", "expression", "distinct", "order", "limit", "offset", "with_")


@dataclass
class Reference:
    """One table reference, and which conditions its rows must meet."""

    relation: str
    facts: TableFacts
    conditions: list[tuple[exp.Expr, Scope]] = field(default_factory=list)


class StatementCompiler:
    """Compiles one statement. Collects the table references and what they must give on the way."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.divisions: set[tuple[int, int]] = set()
        self.references: list[Reference] = []
        self.nested = False  # a subquery or WITH: DuckDB may read a table of it more than once
        self._made = 0

    def query(self, node: exp.Expr, scope: Scope) -> Query:
        """A query inside another."""
        self.nested = True
        return self.compile(node, scope.ctes, scope)

    def compile(self, node: exp.Expr, ctes: Mapping[str, Query], parent: Scope | None = None) -> Query:
        """A SELECT, a set operation, or either in brackets."""
        ctes, duck_with, shown_with = self._with(node, ctes, parent)
        if isinstance(node, exp.Subquery):
            check_args(node, "this", "with_")
            made = self.compile(node.this, ctes, parent)
        elif isinstance(node, exp.SetOperation):
            made = self._set_operation(node, ctes, parent)
        elif isinstance(node, exp.Select):
            made = self._select(node, Scope(self, ctes, parent))
        else:
            raise refuse(text_of(node)[:120], f"the fast door does not know {node.key} as a query", "Write a SELECT")
        return replace(made, duck=duck_with + made.duck, postgres=shown_with + made.postgres)

    def _name(self, letter: str) -> str:
        self._made += 1
        return f"{letter}{self._made}"

    def _with(self, node: exp.Expr, ctes: Mapping[str, Query], parent: Scope | None) -> tuple[Mapping[str, Query], str, str]:
        clause = node.args.get("with_")
        if clause is None:
            return ctes, "", ""
        self.nested = True
        check_args(clause, "expressions")
        known, ducks, shown = dict(ctes), [], []
        for cte in clause.expressions:
            check_args(cte, "this", "alias", "materialized")
            made, name = self.compile(cte.this, known, parent), folded(cte.args["alias"].this)
            given = [folded(c) for c in cte.args["alias"].args.get("columns") or ()]
            outputs = tuple(replace(o, name=given[i] if i < len(given) else o.name) for i, o in enumerate(made.outputs))
            duck = self._name("q")
            ducks.append(f"{duck} AS MATERIALIZED ({made.duck})")
            how = {True: "MATERIALIZED ", False: "NOT MATERIALIZED ", None: ""}[cte.args.get("materialized")]
            columns = f"({', '.join(ident(c) for c in given)})" if given else ""
            shown.append(f"{ident(name)}{columns} AS {how}({made.postgres})")
            known[name] = Query(duck, ident(name), outputs)
        return known, f"WITH {', '.join(ducks)} ", f"WITH {', '.join(shown)} "

    def _set_operation(self, node: exp.SetOperation, ctes: Mapping[str, Query], parent: Scope | None) -> Query:
        self.nested = True
        check_args(node, *_SET_ARGS)
        left, right = self.compile(node.this, ctes, parent), self.compile(node.expression, ctes, parent)
        if len(left.outputs) != len(right.outputs):
            raise refuse(text_of(node)[:120], "its sides have different numbers of columns", "Give them the same")
        outputs = tuple(
            Output(a.name, common([a.type, b.type], f"column {a.name} of {node.key}"))
            for a, b in zip(left.outputs, right.outputs, strict=True)
        )
        word = f"{node.key.upper()}{'' if node.args.get('distinct') else ' ALL'}"

        def side(query: Query) -> str:
            columns = ", ".join(
                f"{coerce(Term(f'o{i}', '', o.type), outputs[i].type).duck} AS o{i}" for i, o in enumerate(query.outputs)
            )
            return f"SELECT {columns} FROM ({query.duck}) AS {self._name('s')}"  # noqa: S608 - compiled text

        made = Query(
            f"SELECT * FROM ({side(left)} {word} {side(right)}) AS {self._name('s')}",  # noqa: S608 - compiled text
            f"({left.postgres}) {word} ({right.postgres})",
            outputs,
        )
        return self._ordered(node, made, Scope(self, ctes, parent), [])

    def _select(self, node: exp.Select, scope: Scope) -> Query:
        check_args(node, *_SELECT_ARGS)
        if node.args.get("kind"):
            raise refuse(f"SELECT {node.args['kind']}", "the fast door does not know it", "Leave it out")
        duck_from, shown_from = self._from(node, scope)
        items = self._items(node, scope)
        duck, shown = self._items_text(node, items)
        duck, shown = duck + duck_from, shown + shown_from
        where = node.args.get("where")
        if where is not None:
            condition = boolean(where.this, scope)
            duck, shown = f"{duck} WHERE {condition.duck}", f"{shown} WHERE {condition.postgres}"
            self._push(where.this, node, scope)
        group = node.args.get("group")
        if group is not None:
            keys = [self._group_key(e, items, scope) for e in group.expressions]
            check_args(group, "expressions")
            _comparable([k.type for k in keys], "GROUP BY")
            duck += " GROUP BY " + ", ".join(k.duck for k in keys)
            shown += " GROUP BY " + ", ".join(k.postgres for k in keys)
        having = node.args.get("having")
        if having is not None:
            condition = boolean(having.this, scope)
            duck, shown = f"{duck} HAVING {condition.duck}", f"{shown} HAVING {condition.postgres}"
        outputs = tuple(Output(name, item.type) for name, item in items)
        return self._ordered(node, Query(duck, shown, outputs), scope, items)

    def _items(self, node: exp.Select, scope: Scope) -> list[tuple[str, Term]]:
        items: list[tuple[str, Term]] = []
        for item in node.expressions:
            if isinstance(item, exp.Star):
                check_args(item)
                items += scope.star()
            elif isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
                items += scope.star(folded(item.args["table"]))
            else:
                inner = item.this if isinstance(item, exp.Alias) else item
                made = term(inner, scope)
                made = coerce(made, PgType("text")) if made.type.kind == "unknown" else made
                if made.type.kind == "interval":
                    raise refuse(text_of(inner), "the fast door cannot give back an interval", "Write extract(epoch FROM …)")
                items.append((folded(item.args["alias"]) if isinstance(item, exp.Alias) else made.name or "?column?", made))
        return items

    def _items_text(self, node: exp.Select, items: Sequence[tuple[str, Term]]) -> tuple[str, str]:
        distinct = node.args.get("distinct")
        if distinct is not None:
            check_args(distinct)
            _comparable([t.type for _, t in items], "SELECT DISTINCT")
        word = "SELECT DISTINCT " if distinct is not None else "SELECT "
        duck = ", ".join(f"{t.duck} AS o{i}" for i, (_, t) in enumerate(items))
        shown = ", ".join(f"{t.postgres} AS {ident(name)}" for name, t in items)
        return word + (duck or "1"), word + shown

    def _group_key(self, node: exp.Expr, items: Sequence[tuple[str, Term]], scope: Scope) -> Term:
        """A position, a column of the FROM, a name of the select list, or any expression: in this order, as in Postgres."""
        if isinstance(node, exp.Literal) and not node.is_string and str(node.this).isdigit():
            return self._position(node, items)
        if isinstance(node, exp.Column) and not node.args.get("table") and not scope.has(folded(node.this)):
            named = [t for name, t in items if name == folded(node.this)]
            if named:
                return named[0]
        return term(node, scope)

    def _position(self, node: exp.Expr, items: Sequence[tuple[str, Term]]) -> Term:
        place = int(str(node.this))
        if not 1 <= place <= len(items):
            raise refuse(str(place), "the select list has no such position", "Name the column")
        return items[place - 1][1]

    def _ordered(self, node: exp.Expr, made: Query, scope: Scope, items: Sequence[tuple[str, Term]]) -> Query:
        """With ORDER BY, LIMIT and OFFSET. Nulls come where Postgres puts them."""
        duck, shown = made.duck, made.postgres
        order = node.args.get("order")
        if order is not None:
            check_args(order, "expressions")
            keys = [self._order_key(o, made, scope, items) for o in order.expressions]
            duck += " ORDER BY " + ", ".join(k[0] for k in keys)
            shown += " ORDER BY " + ", ".join(k[1] for k in keys)
        for word in ("limit", "offset"):
            clause = node.args.get(word)
            if clause is None:
                continue
            count = clause.args.get("expression")
            if type(clause) not in (exp.Limit, exp.Offset) or not isinstance(count, exp.Literal) or not str(count.this).isdigit():
                raise refuse(text_of(clause), f"the fast door knows {word.upper()} with a number written out", "Write the number")
            check_args(clause, "expression")
            duck, shown = f"{duck} {word.upper()} {count.this}", f"{shown} {word.upper()} {count.this}"
        return replace(made, duck=duck, postgres=shown)

    def _order_key(self, node: exp.Ordered, made: Query, scope: Scope, items: Sequence[tuple[str, Term]]) -> tuple[str, str]:
        check_args(node, "this", "desc", "nulls_first")
        inner, what = node.this, text_of(node)
        if isinstance(inner, exp.Literal) and not inner.is_string:
            place = int(str(inner.this)) - 1
            if not 0 <= place < len(made.outputs):
                raise refuse(what, "the select list has no such position", "Name the column")
            kind, duck, shown = made.outputs[place].type, f"o{place}", str(place + 1)
        else:
            name = folded(inner.this) if isinstance(inner, exp.Column) and not inner.args.get("table") else None
            places = [i for i, o in enumerate(made.outputs) if o.name == name]
            if places:
                kind, duck, shown = made.outputs[places[0]].type, f"o{places[0]}", ident(name or "")
            elif isinstance(node.find_ancestor(exp.Query), exp.SetOperation):
                raise refuse(what, "a set operation is ordered by its columns' names or positions", "Name a column")
            else:
                key = term(inner, scope)
                kind, shown = key.type, key.postgres
                duck = next((f"o{i}" for i, (_, t) in enumerate(items) if t.duck == key.duck), key.duck)
        _comparable([kind], what)
        needs_byte_order(kind, what)
        direction = "DESC" if node.args.get("desc") else "ASC"
        nulls = "FIRST" if node.args.get("nulls_first") else "LAST"
        return f"{duck} {direction} NULLS {nulls}", f"{shown} {direction} NULLS {nulls}"

    # FROM

    def _from(self, node: exp.Select, scope: Scope) -> tuple[str, str]:
        clause = node.args.get("from_")
        if clause is None:
            return "", ""
        duck, shown, relation = self._relation(clause.this, scope)
        scope.relations.append(relation)
        duck, shown = f" FROM {duck}", f" FROM {shown}"
        for join in node.args.get("joins") or ():
            check_args(join, "this", "side", "kind", "on", "using")
            side, kind = str(join.args.get("side") or "").upper(), str(join.args.get("kind") or "").upper()
            if side not in ("", "LEFT", "RIGHT", "FULL") or kind not in ("", "INNER", "OUTER", "CROSS"):
                raise refuse(text_of(join)[:120], "the fast door does not know this join", "Write JOIN … ON")
            right_duck, right_shown, relation = self._relation(join.this, scope)
            left = list(scope.relations)
            scope.relations.append(relation)
            if join.args.get("using"):
                on_duck, on_shown = self._using(join, side, left, relation, scope)
            elif join.args.get("on") is not None:
                condition = boolean(join.args["on"], scope)
                on_duck, on_shown = f" ON {condition.duck}", f" ON {condition.postgres}"
            else:
                side, on_duck, on_shown = "CROSS", "", ""
            duck, shown = f"{duck} {side} JOIN {right_duck}{on_duck}", f"{shown} {side} JOIN {right_shown}{on_shown}"
        return duck, shown

    def _using(self, join: exp.Join, side: str, left: list[Relation], right: Relation, scope: Scope) -> tuple[str, str]:
        if side in ("RIGHT", "FULL"):
            raise refuse(text_of(join)[:120], f"the fast door does not know {side} JOIN … USING", "Write JOIN … ON")
        ducks, names = [], [folded(u) for u in join.args["using"]]
        for name in names:
            a = scope.shared.get(name) or Scope(self, {}, None, left)._look(name, "")
            b = Scope(self, {}, None, [right])._look(name, "")
            if a is None or b is None:
                raise refuse(name, "a column of USING is in both relations", "Write JOIN … ON")
            ducks.append(compare("=", a, b, name).duck)
            scope.shared[name] = replace(a, name=name)
        return f" ON {' AND '.join(ducks)}", f" USING ({', '.join(ident(n) for n in names)})"

    def _relation(self, node: exp.Expr, scope: Scope) -> tuple[str, str, Relation]:
        if isinstance(node, exp.Subquery) and node.args.get("alias") is not None:
            check_args(node, "this", "alias", "with_")
            made = self.query(node.this, Scope(self, scope.ctes, scope.parent))
            return self._derived(node, f"({made.duck})", f"({made.postgres})", made.outputs)
        if not isinstance(node, exp.Table) or not isinstance(node.this, exp.Identifier):
            raise refuse(
                text_of(node)[:120],
                "the fast door reads tables and subqueries with an alias",
                "Give it an alias, or name a table",
            )
        check_args(node, "this", "db", "alias")
        cte = scope.ctes.get(folded(node.this)) if not node.args.get("db") else None
        if cte is not None:
            return self._derived(node, cte.duck, cte.postgres, cte.outputs)
        return self._table(node, table_name(node))

    def _derived(self, node: exp.Expr, duck: str, shown: str, outputs: Sequence[Output]) -> tuple[str, str, Relation]:
        alias, given = _alias(node)
        names = [given[i] if i < len(given) else o.name for i, o in enumerate(outputs)]
        name = self._name("r")
        columns = tuple(
            (n, Term(f"{name}.o{i}", f"{ident(alias)}.{ident(n)}", outputs[i].type, name=n)) for i, n in enumerate(names)
        )
        listed = f"({', '.join(ident(g) for g in given)})" if given else ""
        return f"{duck} AS {name}", f"{shown} AS {ident(alias)}{listed}", Relation(alias, columns)

    def _table(self, node: exp.Table, name: TableName) -> tuple[str, str, Relation]:
        facts = self.facts.tables.get(name)
        if facts is None:
            raise refuse(str(name), "Core has no such table", "Correct its name")
        alias, given = _alias(node)
        if given:
            raise refuse(
                text_of(node), "the fast door does not rename a table's columns in FROM", "Rename them in the select list"
            )
        reference = Reference(self._name("t"), facts)
        self.references.append(reference)
        columns = tuple(
            (
                column.name,
                Term(
                    f"{reference.relation}.c{i}",
                    f"{ident(alias)}.{ident(column.name)}",
                    column.type,
                    column=Use(reference.relation, column.name),
                ),
            )
            for i, column in enumerate(facts.columns)
        )
        shown = f"{ident(name.schema)}.{ident(name.name)} AS {ident(alias)}"
        return reference.relation, shown, Relation(alias, columns)

    def _push(self, where: exp.Expr, node: exp.Select, scope: Scope) -> None:
        """Hands WHERE's conjuncts to the tables whose rows cannot come back as nulls of an outer join."""
        sides = [str(j.args.get("side") or "").upper() for j in node.args.get("joins") or ()]
        if not scope.relations or any(s in ("RIGHT", "FULL") for s in sides):
            return
        kept = {r.alias for r, side in zip(scope.relations, ["", *sides], strict=True) if side != "LEFT"}
        aliases = {t.column.relation for r in scope.relations if r.alias in kept for _, t in r.columns if t.column is not None}
        for reference in self.references:
            if reference.relation in aliases:
                conjuncts = where.flatten() if isinstance(where, exp.And) else [where]
                reference.conditions += [(c, scope) for c in conjuncts if c.find(exp.Query) is None]


def _comparable(types: Sequence[PgType], what: str) -> None:
    """Refuses to tell values apart that are here as text only."""
    opaque = [t for t in types if t.kind == "opaque"]
    if opaque:
        raise mismatch(what, opaque)


def _alias(node: exp.Expr) -> tuple[str, list[str]]:
    alias = node.args.get("alias")
    if alias is None:
        return folded(node.this), []
    return folded(alias.this), [folded(c) for c in alias.args.get("columns") or ()]
