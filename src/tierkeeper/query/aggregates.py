"""Aggregates: sums in the type that Postgres gives them, averages by Postgres's division, extremes by Postgres's order. Pure.

A sum of floating-point numbers depends on the order of the rows in its last digits, in Postgres as here.
"""

from collections.abc import Callable

from sqlglot import exp

from tierkeeper.query.model import MAX_DIGITS, QUOTIENT_SCALE, PgType, refuse
from tierkeeper.query.scope import Scope, check_args
from tierkeeper.query.statement import text_of
from tierkeeper.query.terms import BOOL, FLOAT8, INT8, Term, as_numeric, coerce, mismatch, needs_byte_order, numeric, typed

Translate = Callable[[exp.Expr, Scope], Term]


def count(node: exp.Expr, scope: Scope, term: Translate, where: tuple[str, str] = ("", "")) -> Term:
    """count(*), count(x), count(DISTINCT x)."""
    check_args(node, "this", "expressions")
    if node.args.get("expressions"):
        raise refuse(text_of(node), "count takes one operand", "Count one expression")
    if isinstance(node.this, exp.Star):
        return typed(Term(f"count(*){where[0]}", f"count(*){where[1]}", INT8, name="count"))
    distinct, inner = _operand(node, scope, term)
    inner = coerce(inner, PgType("text")) if inner.type.kind == "unknown" else inner
    return typed(
        Term(f"count({distinct}{inner.duck}){where[0]}", f"count({distinct}{inner.postgres}){where[1]}", INT8, name="count")
    )


def total(node: exp.Expr, scope: Scope, term: Translate, where: tuple[str, str] = ("", "")) -> Term:
    """sum(x): of int2 and int4 a bigint, of bigint a numeric, as in Postgres."""
    check_args(node, "this")
    distinct, inner = _operand(node, scope, term)
    shown = f"sum({distinct}{inner.postgres}){where[1]}"
    duck = f"sum({distinct}{inner.duck}){where[0]}"
    if inner.type.kind in ("int2", "int4"):
        return typed(Term(f"CAST({duck} AS BIGINT)", shown, INT8, name="sum"))
    if inner.type.kind in ("int8", "numeric"):
        source = as_numeric(inner.type)
        kind = numeric(MAX_DIGITS, source.scale, exact=source.exact)
        return typed(Term(f"CAST({duck} AS {kind.duck})", shown, kind, name="sum"))
    if inner.type.kind == "float8":
        return typed(Term(_float_sum(distinct, inner.duck, where[0]), shown, FLOAT8, name="sum"))
    raise refuse(text_of(node), f"the fast door does not sum {inner.type.kind} as Postgres does", "Write sum(x::float8)")


def average(node: exp.Expr, scope: Scope, term: Translate, where: tuple[str, str] = ("", "")) -> Term:
    """avg(x): of integers and numerics a numeric with the digits that Postgres gives it."""
    check_args(node, "this")
    distinct, inner = _operand(node, scope, term)
    shown, rows = f"avg({distinct}{inner.postgres}){where[1]}", f"count({distinct}{inner.duck}){where[0]}"
    if inner.type.kind == "float8":
        duck = f"({_float_sum(distinct, inner.duck, where[0])} / nullif({rows}, 0))"
        return typed(Term(duck, shown, FLOAT8, name="avg"))
    if not (inner.type.is_int or inner.type.kind == "numeric") or not inner.type.exact:
        raise refuse(text_of(node), "the fast door does not average this as Postgres does", "Write avg(x::float8)")
    scale = as_numeric(inner.type).scale
    scope.compiler.divisions.add((scale, 0))
    dividend = f"CAST(sum({distinct}{inner.duck}){where[0]} AS DECIMAL(38,{scale}))"
    duck = f"divide_{scale}_0({dividend}, CAST({rows} AS DECIMAL(38,0)))"
    return typed(Term(duck, shown, numeric(MAX_DIGITS, QUOTIENT_SCALE, exact=False), name="avg"))


def extreme(node: exp.Expr, scope: Scope, term: Translate, where: tuple[str, str] = ("", "")) -> Term:
    """min(x) and max(x), of text by bytes only."""
    check_args(node, "this")
    distinct, inner = _operand(node, scope, term)
    word = "min" if isinstance(node, exp.Min) else "max"
    if inner.type.kind in ("unknown", "interval", "bool", "uuid", "opaque"):
        raise mismatch(text_of(node), [inner.type])
    needs_byte_order(inner.type, text_of(node))
    shown = f"{word}({distinct}{inner.postgres}){where[1]}"
    return typed(Term(f"{word}({distinct}{inner.duck}){where[0]}", shown, inner.type, name=word))


def logical(node: exp.Expr, scope: Scope, term: Translate, where: tuple[str, str] = ("", "")) -> Term:
    """bool_and(x) and bool_or(x)."""
    check_args(node, "this")
    distinct, inner = _operand(node, scope, term)
    word = "bool_and" if isinstance(node, exp.LogicalAnd) else "bool_or"
    if inner.type.kind != "bool" or distinct:
        raise mismatch(text_of(node), [inner.type])
    return Term(f"{word}({inner.duck}){where[0]}", f"{word}({inner.postgres}){where[1]}", BOOL, name=word)


def filtered(node: exp.Expr, scope: Scope, term: Translate) -> Term:
    """aggregate(x) FILTER (WHERE condition)."""
    condition = coerce(term(node.expression.this, scope), BOOL)
    where = (f" FILTER (WHERE {condition.duck})", f" FILTER (WHERE {condition.postgres})")
    handler = {
        exp.Count: count, exp.Sum: total, exp.Avg: average, exp.Min: extreme, exp.Max: extreme,
        exp.LogicalAnd: logical, exp.LogicalOr: logical,
    }.get(type(node.this))  # fmt: skip
    if handler is None:
        raise refuse(text_of(node)[:120], "the fast door filters the aggregates that it knows", "Use count, sum, avg, min or max")
    return handler(node.this, scope, term, where)


def _operand(node: exp.Expr, scope: Scope, term: Translate) -> tuple[str, Term]:
    if isinstance(node.this, exp.Distinct):
        check_args(node.this, "expressions")
        if len(node.this.expressions) != 1:
            raise refuse(text_of(node), "an aggregate takes one operand", "Name one")
        inner = term(node.this.expressions[0], scope)
        if inner.type.kind in ("opaque", "interval"):
            raise mismatch(text_of(node), [inner.type])
        return "DISTINCT ", inner
    return "", term(node.this, scope)


def _float_sum(distinct: str, duck: str, where: str) -> str:
    """An infinite sum of finite numbers is an overflow, and an error, in Postgres."""
    infinite = f"coalesce(bool_or(isinf({duck})){where}, false)"
    return f"checked(sum({distinct}{duck}){where}, {infinite})"
