"""Expressions: each that DuckDB can answer as Postgres does, in both their words. All others are refused by name.

Pure. An operator or function is here only if both give the same value and the same type for the operands it is let through
with, or DuckDB an error; that Postgres reads the statement as it is read here is confirmed by Postgres itself.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from sqlglot import exp

from tierkeeper.query import functions
from tierkeeper.query.model import Constant, PgType, refuse
from tierkeeper.query.scope import Scope, check_args
from tierkeeper.query.statement import folded, text_of
from tierkeeper.query.terms import (
    BOOL,
    INT4,
    INT8,
    UNKNOWN,
    Term,
    as_text,
    coerce,
    common,
    instant_text,
    ladder,
    mismatch,
    needs_byte_order,
    numeric,
    quote,
    text_order,
    typed,
)  # fmt: skip

_COMPARISONS: Final[Mapping[type[exp.Expr], str]] = {
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=",
    exp.NullSafeEQ: "IS NOT DISTINCT FROM", exp.NullSafeNEQ: "IS DISTINCT FROM",
}  # fmt: skip
_ORDERED: Final = ("<", "<=", ">", ">=")
_ARITHMETIC: Final[Mapping[type[exp.Expr], str]] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%"}
_KINDS: Final = {
    "date": "date", "timestamp without time zone": "timestamp", "timestamp with time zone": "timestamptz", "interval": "interval",
    "smallint": "int2", "integer": "int4", "bigint": "int8", "boolean": "bool", "text": "text", "uuid": "uuid",
    "double precision": "float8", "numeric": "numeric",
}  # fmt: skip
_INTERVAL = re.compile(
    r"(?:(-?\d+) years? ?)?(?:(-?\d+) mons? ?)?(?:(-?\d+) days? ?)?(?:([+-]?)(\d+):(\d\d):(\d\d)(?:\.(\d+))?)?"
)


def term(node: exp.Expr, scope: Scope) -> Term:
    """Compiles `node`. Raises UsageError naming what has no equal in DuckDB."""
    if isinstance(node, exp.Cast | exp.Interval | exp.Add | exp.Sub | exp.Func | exp.Anonymous):
        sql = text_of(node)
        constant = scope.compiler.facts.constants.get(sql)
        if constant is not None:
            return _constant(sql, constant)
    operator = _COMPARISONS.get(type(node))
    if operator is not None:
        return _comparison(node, operator, scope)
    if type(node) in _ARITHMETIC:
        return functions.arithmetic(
            _ARITHMETIC[type(node)], term(node.this, scope), term(node.expression, scope), text_of(node), scope.compiler.divisions
        )
    if type(node) in functions.HANDLERS:
        return functions.HANDLERS[type(node)](node, scope, term)
    handler = _HANDLERS.get(type(node))
    if handler is None:
        raise refuse(
            text_of(node)[:120], f"the fast door does not know {node.key}", "Write it otherwise, or ask each tier by itself"
        )
    return handler(node, scope)


def boolean(node: exp.Expr, scope: Scope) -> Term:
    """Compiles a condition."""
    result = coerce(term(node, scope), BOOL)
    if result.type.kind != "bool":
        raise mismatch(text_of(node), [result.type])
    return result


def compare(operator: str, left: Term, right: Term, what: str) -> Term:
    """`left operator right`, both brought to one type."""
    if left.type.kind == right.type.kind == "unknown":
        kind = PgType("text")
    elif "unknown" in (left.type.kind, right.type.kind):
        kind = right.type if left.type.kind == "unknown" else left.type
    elif left.type.is_number and right.type.is_number:
        kind = ladder(left.type, right.type)
    else:
        kind = common([left.type, right.type], what)
    if kind.kind in ("interval", "opaque"):
        raise mismatch(what, [left.type, right.type])
    if operator in _ORDERED:
        needs_byte_order(kind, what)
    a, b = coerce(left, kind), coerce(right, kind)
    if kind.kind == "numeric" and a.type != b.type:  # a literal brought its own digits
        kind = ladder(a.type, b.type)
        a, b = coerce(a, kind), coerce(b, kind)
    return Term(f"({a.duck} {operator} {b.duck})", f"({a.postgres} {operator} {b.postgres})", BOOL)


def _comparison(node: exp.Expr, operator: str, scope: Scope) -> Term:
    return compare(operator, term(node.this, scope), term(node.expression, scope), text_of(node))


def _literal(node: exp.Expr, scope: Scope) -> Term:
    del scope
    text = str(node.this)
    if node.is_string:
        return Term(quote(text), quote(text), UNKNOWN, text=text)
    if re.fullmatch(r"\d+", text):
        kind = INT4 if int(text) < 2**31 else INT8 if int(text) < 2**63 else numeric(len(text), 0)
    elif match := re.fullmatch(r"(\d*)\.(\d*)", text):
        kind = numeric(len(match[1]) + len(match[2]), len(match[2]))
    else:
        raise refuse(text, "the fast door reads numbers in plain digits only", "Write it without an exponent")
    return Term(f"CAST({text} AS {kind.duck})", text, kind, constant=text)


def _constant(sql: str, found: Constant) -> Term:
    """A constant that Core has worked out."""
    kind = PgType(_KINDS[found.kind]) if found.kind in _KINDS else None  # type: ignore[arg-type]
    if kind is None:
        raise refuse(sql, f"the fast door has no equal of its type, {found.kind}", "Leave it out")
    if found.text is None:
        return Term(f"CAST(NULL AS {kind.duck})", sql, kind)
    if kind.kind == "interval":
        return Term(_interval(found.text), sql, kind)
    if kind.kind == "float8":
        return Term(f"CAST({quote(found.text)} AS DOUBLE)", sql, kind)
    try:
        if kind.is_temporal:
            duck, instant = instant_text(found.text, kind)
            return Term(
                f"CAST({quote(duck)} AS {kind.duck})",
                sql,
                kind,
                constant=f"{quote(found.text)}::{kind.postgres}",
                instant=instant,
            )
    except ValueError:
        raise refuse(sql, f"{found.text} is outside of the years 1 to 9999", "Choose another") from None
    plain = coerce(Term("", sql, UNKNOWN, text=found.text), kind)
    return replace(plain, postgres=sql)


def _interval(text: str) -> str:
    match = _INTERVAL.fullmatch(text)
    if match is None:
        raise refuse(
            text, "the fast door does not read this interval", "Write it in years, months, days, hours, minutes and seconds"
        )
    years, months, days, sign, hours, minutes, seconds, fraction = match.groups()
    micros = ((int(hours or 0) * 60 + int(minutes or 0)) * 60 + int(seconds or 0)) * 1_000_000 + int(
        (fraction or "").ljust(6, "0")
    )
    months_all = int(years or 0) * 12 + int(months or 0)
    return f"(to_months({months_all}) + to_days({int(days or 0)}) + to_microseconds({-micros if sign == '-' else micros}))"


def _null(node: exp.Expr, scope: Scope) -> Term:
    del node, scope
    return Term("NULL", "NULL", UNKNOWN)


def _true_or_false(node: exp.Expr, scope: Scope) -> Term:
    del scope
    word = "true" if node.this else "false"
    return Term(word, word, BOOL, constant=word)


def _column(node: exp.Expr, scope: Scope) -> Term:
    return scope.resolve(node)  # type: ignore[arg-type]


def _paren(node: exp.Expr, scope: Scope) -> Term:
    return term(node.this, scope)


def _connector(node: exp.Expr, scope: Scope) -> Term:
    word = "AND" if isinstance(node, exp.And) else "OR"
    a, b = boolean(node.this, scope), boolean(node.expression, scope)
    return Term(f"({a.duck} {word} {b.duck})", f"({a.postgres} {word} {b.postgres})", BOOL)


def _not(node: exp.Expr, scope: Scope) -> Term:
    inner = boolean(node.this, scope)
    return Term(f"(NOT {inner.duck})", f"(NOT {inner.postgres})", BOOL)


def _is(node: exp.Expr, scope: Scope) -> Term:
    check_args(node, "this", "expression", "negate")
    inner, word = term(node.this, scope), "IS NOT" if node.args.get("negate") else "IS"
    if isinstance(node.expression, exp.Boolean):
        inner, value = boolean(node.this, scope), "TRUE" if node.expression.this else "FALSE"
    elif isinstance(node.expression, exp.Null):
        value = "NULL"
    else:
        raise refuse(text_of(node), "the fast door knows IS NULL, IS TRUE and IS FALSE", "Write it with one of those")
    inner = coerce(inner, PgType("text")) if inner.type.kind == "unknown" else inner
    return Term(f"({inner.duck} {word} {value})", f"({inner.postgres} {word} {value})", BOOL)


def _between(node: exp.Expr, scope: Scope) -> Term:
    check_args(node, "this", "low", "high", "negate")
    subject, what = term(node.this, scope), text_of(node)
    low = compare(">=", subject, term(node.args["low"], scope), what)
    high = compare("<=", subject, term(node.args["high"], scope), what)
    return _unless(node, Term(f"({low.duck} AND {high.duck})", f"({low.postgres} AND {high.postgres})", BOOL))


def _unless(node: exp.Expr, made: Term) -> Term:
    """NOT LIKE, NOT IN, NOT BETWEEN, where they stand as one word."""
    return Term(f"(NOT {made.duck})", f"(NOT {made.postgres})", BOOL) if node.args.get("negate") else made


def _in(node: exp.Expr, scope: Scope) -> Term:
    check_args(node, "this", "expressions", "query", "negate")
    subject, what = term(node.this, scope), text_of(node)[:120]
    query = node.args.get("query")
    if query is not None:
        inner = scope.compiler.query(query, scope)
        if len(inner.outputs) != 1 or isinstance(node.this, exp.Tuple):
            raise refuse(what, "the fast door compares one column", "Write EXISTS instead")
        kind = common([subject.type, inner.outputs[0].type], what)
        left = coerce(subject, kind)
        if inner.outputs[0].type.kind != kind.kind:
            raise mismatch(what, [subject.type, inner.outputs[0].type])
        return _unless(node, Term(f"({left.duck} IN ({inner.duck}))", f"({left.postgres} IN ({inner.postgres}))", BOOL))
    values = [term(e, scope) for e in node.expressions]
    # Postgres compares all with one type where it can, and finds a common one for that: so must the operands be of one kind.
    kind = common([subject.type, *(v.type for v in values)], what)
    tests = [compare("=", coerce(subject, kind) if kind.kind == "float8" else subject, v, what) for v in values]
    listed = ", ".join(coerce(v, kind).postgres if v.type.kind == "unknown" else v.postgres for v in values)
    return _unless(node, Term("(" + " OR ".join(t.duck for t in tests) + ")", f"({subject.postgres} IN ({listed}))", BOOL))


def _exists(node: exp.Expr, scope: Scope) -> Term:
    inner = scope.compiler.query(node.this, scope)
    return Term(f"EXISTS ({inner.duck})", f"EXISTS ({inner.postgres})", BOOL)


def _subquery(node: exp.Expr, scope: Scope) -> Term:
    check_args(node, "this")
    inner = scope.compiler.query(node.this, scope)
    if len(inner.outputs) != 1:
        raise refuse(text_of(node)[:120], "a subquery used as a value has one column", "Name one")
    return Term(f"({inner.duck})", f"({inner.postgres})", inner.outputs[0].type, name=inner.outputs[0].name)


def _like(node: exp.Expr, scope: Scope) -> Term:
    check_args(node, "this", "expression", "negate")
    subject, pattern = as_text(term(node.this, scope), text_of(node)), term(node.expression, scope)
    if pattern.text is None:
        raise refuse(
            text_of(node), "the fast door knows LIKE for text and a pattern written as a literal", "Write the pattern out"
        )
    shown = quote(pattern.text)
    return _unless(node, Term(f"({subject.duck} LIKE {shown} ESCAPE '\\')", f"({subject.postgres} LIKE {shown}::text)", BOOL))


def _collate(node: exp.Expr, scope: Scope) -> Term:
    inner = as_text(term(node.this, scope), text_of(node))
    if folded(node.expression) != "C" or not scope.compiler.facts.utf8:
        raise refuse(text_of(node), 'the fast door knows COLLATE "C", on a server whose encoding is UTF8', 'Write COLLATE "C"')
    return Term(inner.duck, f'({inner.postgres} COLLATE "C")', PgType("text", order="explicit"), name=inner.name)


def _concat(node: exp.Expr, scope: Scope) -> Term:
    a, b = term(node.this, scope), term(node.expression, scope)
    if not {a.type.kind, b.type.kind} <= {"text", "unknown"} or a.type.kind == b.type.kind == "unknown":
        raise mismatch(text_of(node), [a.type, b.type])
    a, b = as_text(a, text_of(node)), as_text(b, text_of(node))
    kinds = [t.type for t in (a, b) if t.constant is None]
    return typed(Term(f"({a.duck} || {b.duck})", f"({a.postgres} || {b.postgres})", text_order(kinds)))


_HANDLERS: Final[Mapping[type[exp.Expr], Callable[[exp.Expr, Scope], Term]]] = {
    exp.Literal: _literal,
    exp.Null: _null,
    exp.Boolean: _true_or_false,
    exp.Column: _column,
    exp.Paren: _paren,
    exp.And: _connector,
    exp.Or: _connector,
    exp.Not: _not,
    exp.Is: _is,
    exp.Between: _between,
    exp.In: _in,
    exp.Exists: _exists,
    exp.Subquery: _subquery,
    exp.Like: _like,
    exp.Collate: _collate,
    exp.DPipe: _concat,
}
