"""Arithmetic, casts and functions of one row: each with the operand types for which DuckDB and Postgres agree. Pure."""

from collections.abc import Callable, Mapping
from typing import Final

from sqlglot import exp

from tierkeeper.query import aggregates
from tierkeeper.query.model import QUOTIENT_SCALE, PgType, refuse
from tierkeeper.query.scope import Scope, check_args
from tierkeeper.query.statement import folded, text_of
from tierkeeper.query.terms import (
    BOOL,
    FLOAT8,
    INT4,
    Term,
    as_numeric,
    as_text,
    coerce,
    common,
    convert,
    ladder,
    merged,
    mismatch,
    needs_byte_order,
    numeric,
    typed,
)  # fmt: skip

Translate = Callable[[exp.Expr, Scope], Term]
Handler = Callable[[exp.Expr, Scope, Translate], Term]

MACROS: Final = (
    "CREATE MACRO checked(r, odd) AS CASE WHEN isinf(r) AND NOT odd THEN error('value out of range: overflow') ELSE r END",
    "CREATE MACRO float_add(a, b) AS checked(a + b, isinf(a) OR isinf(b))",
    "CREATE MACRO float_subtract(a, b) AS checked(a - b, isinf(a) OR isinf(b))",
    "CREATE MACRO float_multiply(a, b) AS CASE WHEN a * b = 0 AND a <> 0 AND b <> 0 THEN error('value out of range: underflow') "
    "ELSE checked(a * b, isinf(a) OR isinf(b)) END",
    "CREATE MACRO float_divide(a, b) AS CASE WHEN b = 0 THEN error('division by zero') "
    "WHEN a / b = 0 AND a <> 0 AND NOT isinf(b) THEN error('value out of range: underflow') ELSE checked(a / b, isinf(a)) END",
)
"""Floating point as Postgres does it: an overflow, an underflow and a division by zero are errors."""

_FLOAT: Final = {"+": "float_add", "-": "float_subtract", "*": "float_multiply", "/": "float_divide"}
_FIELDS: Final[Mapping[str, str]] = {
    "year": "year", "quarter": "quarter", "month": "month", "week": "week", "day": "day", "dow": "dayofweek", "isodow": "isodow",
    "doy": "dayofyear", "isoyear": "isoyear", "hour": "hour", "minute": "minute",
}  # fmt: skip
_UNITS: Final = ("second", "minute", "hour", "day", "week", "month", "quarter", "year")
_TYPES: Final[Mapping[str, str]] = {
    "SMALLINT": "int2", "INT": "int4", "BIGINT": "int8", "DOUBLE": "float8", "FLOAT": "float4", "DECIMAL": "numeric",
    "TEXT": "text",
    "VARCHAR": "text", "DATE": "date", "TIMESTAMP": "timestamp", "TIMESTAMPTZ": "timestamptz", "BOOLEAN": "bool", "UUID": "uuid",
}  # fmt: skip
_TEXTUAL: Final = ("int2", "int4", "int8", "numeric", "date", "timestamp", "bool", "uuid", "text")


def arithmetic(operator: str, left: Term, right: Term, what: str, divisions: set[tuple[int, int]]) -> Term:
    """`left operator right`. Integers keep Postgres's type and overflow is an error; a quotient of numerics has its digits."""
    if left.type.kind == "unknown" or right.type.kind == "unknown":
        known = right.type if left.type.kind == "unknown" else left.type
        left, right = coerce(left, known), coerce(right, known)
    a, b = left.type, right.type
    if a.is_temporal or b.is_temporal:
        return _temporal(operator, left, right, what)
    if not (a.is_number and b.is_number):
        raise mismatch(what, [a, b])
    kind, shown = ladder(a, b), f"({left.postgres} {operator} {right.postgres})"
    if kind.is_int:
        duck = f"({convert(left, kind)} {'//' if operator == '/' else operator} {convert(right, kind)})"
        return typed(Term(duck, shown, kind))
    if kind.kind in ("float4", "float8"):
        if operator == "%":
            raise mismatch(what, [a, b])
        return typed(Term(f"{_FLOAT[operator]}({convert(left, kind)}, {convert(right, kind)})", shown, kind))
    return typed(_numeric(operator, left, right, shown, what, divisions))


def _numeric(operator: str, left: Term, right: Term, shown: str, what: str, divisions: set[tuple[int, int]]) -> Term:  # noqa: PLR0917
    a, b = as_numeric(left.type), as_numeric(right.type)
    if operator == "/":
        if not (a.exact and b.exact):
            raise refuse(
                what, "a quotient of quotients has digits that the fast door cannot know", "Round the operands, or cast to float8"
            )
        return Term(divided(coerce(left, a).duck, a.scale, coerce(right, b).duck, b.scale, divisions), shown, QUOTIENT)
    if operator == "*":
        kind = numeric(a.digits + b.digits, a.scale + b.scale, exact=a.exact and b.exact)
        return Term(f"CAST({coerce(left, a).duck} * {coerce(right, b).duck} AS {kind.duck})", shown, kind)
    if operator == "%":
        raise refuse(
            what, "the fast door does not know the remainder of numerics", "Cast both to bigint, or ask each tier by itself"
        )
    both = merged(a, b)
    kind = numeric(both.digits + 1, both.scale, exact=(a.exact and b.exact))
    return Term(f"CAST({convert(left, kind)} {operator} {convert(right, kind)} AS {kind.duck})", shown, kind)


QUOTIENT: Final = numeric(38, QUOTIENT_SCALE, exact=False)


def divided(dividend: str, dividend_scale: int, divisor: str, divisor_scale: int, divisions: set[tuple[int, int]]) -> str:
    """DuckDB's call of Postgres's own division, which the runner defines for each pair of scales."""
    divisions.add((dividend_scale, divisor_scale))
    name = f"divide_{dividend_scale}_{divisor_scale}"
    return f"{name}(CAST({dividend} AS DECIMAL(38,{dividend_scale})), CAST({divisor} AS DECIMAL(38,{divisor_scale})))"


def _temporal(operator: str, left: Term, right: Term, what: str) -> Term:
    a, b, shown = left.type.kind, right.type.kind, f"({left.postgres} {operator} {right.postgres})"
    if a == "date" and right.type.kind in ("int2", "int4") and operator in "+-":
        kind, duck = PgType("date"), f"CAST({left.duck} {operator} {convert(right, INT4)} AS DATE)"
    elif a == b == "date" and operator == "-":
        kind, duck = INT4, f"CAST({left.duck} - {right.duck} AS INTEGER)"
    elif left.type.is_temporal and b == "interval" and operator in "+-":
        kind = PgType("timestamp" if a == "date" else left.type.kind)
        duck = f"CAST({coerce(left, kind).duck} {operator} {right.duck} AS TIMESTAMP)"
    elif left.type.is_temporal and right.type.is_temporal:
        raise refuse(
            what,
            "a difference of times is an interval, which the fast door cannot hold",
            "Subtract extract(epoch FROM …) of both instead",
        )
    else:
        raise mismatch(what, [left.type, right.type])
    return typed(Term(duck, shown, kind))


def _negated(node: exp.Expr, scope: Scope, term: Translate) -> Term:
    inner = term(node.this, scope)
    if not inner.type.is_number:
        raise mismatch(text_of(node), [inner.type])
    constant = f"-{inner.constant}" if inner.constant and not inner.constant.startswith("-") else None
    return Term(f"(- {inner.duck})", f"(- {inner.postgres})", inner.type, constant=constant)


def _absolute(node: exp.Expr, scope: Scope, term: Translate) -> Term:
    inner = term(node.this, scope)
    if not inner.type.is_number:
        raise mismatch(text_of(node), [inner.type])
    return typed(Term(f"CAST(abs({inner.duck}) AS {inner.type.duck})", f"abs({inner.postgres})", inner.type, name="abs"))


def _round(node: exp.Expr, scope: Scope, term: Translate) -> Term:
    check_args(node, "this", "decimals")
    inner, decimals = term(node.this, scope), node.args.get("decimals")
    places = int(decimals.this) if isinstance(decimals, exp.Literal) and not decimals.is_string else 0 if decimals is None else -1
    if inner.type.kind not in ("numeric", "int2", "int4", "int8") or places < 0 or (inner.type.is_int and decimals is None):
        raise refuse(
            text_of(node),
            "the fast door rounds numerics, to a number of decimals written out",
            "Cast to numeric(p, s) before rounding",
        )
    source = as_numeric(inner.type)
    kind = numeric(source.digits - source.scale + 1 + places, places)
    duck = coerce(inner, source).duck
    duck = f"round({duck}, {places})" if places < source.scale else duck
    shown = f"round({inner.postgres})" if decimals is None else f"round({inner.postgres}, {places})"
    return typed(Term(f"CAST({duck} AS {kind.duck})", shown, kind, name="round"))


def _whole(node: exp.Expr, scope: Scope, term: Translate) -> Term:
    check_args(node, "this")
    inner, word = term(node.this, scope), "ceil" if isinstance(node, exp.Ceil) else "floor"
    if inner.type.kind not in ("numeric", "float8"):
        raise refuse(text_of(node), f"the fast door knows {word} of numeric and float8", "Cast the operand")
    kind = numeric(inner.type.digits - inner.type.scale + 1, 0) if inner.type.kind == "numeric" else FLOAT8
    return typed(Term(f"CAST({word}({inner.duck}) AS {kind.duck})", f"{word}({inner.postgres})", kind, name=word))


def _length(node: exp.Expr, scope: Scope, term: Translate) -> Term:
    check_args(node, "this")
    inner = as_text(term(node.this, scope), text_of(node))
    return typed(Term(f"CAST(length({inner.duck}) AS INTEGER)", f"length({inner.postgres})", INT4, name="length"))


def _arms(terms: list[Term], what: str) -> tuple[list[Term], PgType]:
    """Several terms brought to their common type."""
    kind = common([t.type for t in terms], what)
    if kind.kind == "interval":
        raise mismatch(what, [kind])
    made = [coerce(t, kind) for t in terms]
    if kind.kind == "numeric" and len({t.type for t in made}) > 1:  # a literal brought its own digits
        kind = common([t.type for t in made], what)
        made = [coerce(t, kind) for t in made]
    return made, kind


def _several(word: str) -> Handler:
    """COALESCE, GREATEST, LEAST: any number of operands of one type."""

    def handler(node: exp.Expr, scope: Scope, term: Translate) -> Term:
        check_args(node, "this", "expressions")
        arms, kind = _arms([term(n, scope) for n in (node.this, *node.expressions)], text_of(node)[:120])
        if word != "coalesce":
            needs_byte_order(kind, text_of(node)[:120])
        duck, shown = ", ".join(a.duck for a in arms), ", ".join(a.postgres for a in arms)
        return typed(Term(f"{word}({duck})", f"{word}({shown})", kind, name=word))

    return handler


def _nullif(node: exp.Expr, scope: Scope, term: Translate) -> Term:
    check_args(node, "this", "expression")
    left, right = term(node.this, scope), term(node.expression, scope)
    arms, kind = _arms([left, right], text_of(node))
    if left.type.kind != kind.kind:
        raise mismatch(text_of(node), [left.type, right.type])
    duck = f"CASE WHEN {arms[0].duck} = {arms[1].duck} THEN NULL ELSE {left.duck} END"
    return typed(Term(f"({duck})", f"nullif({arms[0].postgres}, {arms[1].postgres})", left.type, name="nullif"))


def _case(node: exp.Expr, scope: Scope, term: Translate) -> Term:
    check_args(node, "this", "ifs", "default")
    if node.args.get("this") is not None:
        raise refuse(text_of(node)[:120], "the fast door knows CASE with conditions only", "Write CASE WHEN x = … THEN")
    ifs, default = node.args["ifs"], node.args.get("default")
    conditions = [coerce(term(i.this, scope), BOOL) for i in ifs]
    results = [term(i.args["true"], scope) for i in ifs] + ([term(default, scope)] if default is not None else [])
    arms, kind = _arms(results, text_of(node)[:120])
    name = arms[-1].name if default is not None and arms[-1].name else "case"

    def build(part: Callable[[Term], str]) -> str:
        whens = " ".join(f"WHEN {part(c)} THEN {part(a)}" for c, a in zip(conditions, arms, strict=False))
        return f"CASE {whens}" + (f" ELSE {part(arms[-1])}" if default is not None else "") + " END"

    return typed(Term(f"({build(lambda t: t.duck)})", build(lambda t: t.postgres), kind, name=name))


def _date_trunc(node: exp.Expr, scope: Scope, term: Translate) -> Term:
    check_args(node, "this", "unit")
    inner, unit = term(node.this, scope), str(node.args["unit"].name).lower()
    if unit not in _UNITS or not inner.type.is_temporal:
        raise refuse(text_of(node), f"the fast door truncates times to {', '.join(_UNITS)}", "Choose one of those")
    kind = PgType("timestamptz") if inner.type.kind == "date" else inner.type
    duck = f"CAST(date_trunc('{unit}', {coerce(inner, kind).duck}) AS TIMESTAMP)"
    return typed(Term(duck, f"date_trunc('{unit}', {inner.postgres})", kind, name="date_trunc"))


def _extract(node: exp.Expr, scope: Scope, term: Translate) -> Term:
    check_args(node, "this", "expression")
    inner, part = term(node.expression, scope), str(node.this.name).lower()
    kind = numeric(20, 0)
    if not inner.type.is_temporal or (inner.type.kind == "date" and part in ("hour", "minute", "second")):
        raise mismatch(text_of(node), [inner.type])
    if part == "epoch":
        kind = numeric(25, 0 if inner.type.kind == "date" else 6)
        whole = f"epoch_us(CAST({inner.duck} AS TIMESTAMP))"
        duck = f"(CAST({whole} AS DECIMAL(25,0)) * CAST(0.000001 AS DECIMAL(6,6)))"
    elif part == "second":
        kind = numeric(8, 6)
        duck = f"(CAST(microsecond({inner.duck}) AS DECIMAL(10,0)) * CAST(0.000001 AS DECIMAL(6,6)))"
    elif part in _FIELDS:
        duck = f"{_FIELDS[part]}({inner.duck})"
    else:
        raise refuse(text_of(node), f"the fast door extracts epoch, second, {', '.join(_FIELDS)}", "Choose one of those")
    return typed(Term(f"CAST({duck} AS {kind.duck})", f"extract({part} FROM {inner.postgres})", kind, name="extract"))


def _cast(node: exp.Expr, scope: Scope, term: Translate) -> Term:
    check_args(node, "this", "to")
    what, inner, to = text_of(node), term(node.this, scope), _target(node)
    source = inner.type.kind
    if source == "unknown":
        return typed(coerce(inner, to))
    allowed = (
        (inner.type.is_number and to.is_int)
        or (inner.type.is_number and to.kind == "float8")
        or (inner.type.is_int and to.kind == "float4")
        or ((inner.type.is_int or source == "numeric") and to.kind == "numeric")
        or (inner.type.is_temporal and to.is_temporal)
        or (source in _TEXTUAL and to.kind == "text" and inner.type.exact)
        or source == to.kind
    )
    if not allowed:
        raise refuse(
            what, f"DuckDB and Postgres do not cast {source} to {to.kind} alike", "Leave the cast out, or ask each tier by itself"
        )
    shown, duck = f"({inner.postgres})::{_modified(node, to)}", convert(inner, to)
    if to.kind == "numeric" and not node.args["to"].expressions:
        to = as_numeric(inner.type)
        duck = coerce(inner, to).duck
    if to.kind == "text":
        order = inner.type.order if source == "text" else "bytes" if scope.compiler.facts.bytewise else "other"
        to = PgType("text", order=order)
    if {source, to.kind} <= {"timestamp", "timestamptz"}:
        duck = inner.duck
    return Term(duck, shown, to, name=inner.name or to.kind)


def _target(node: exp.Expr) -> PgType:
    to = node.args["to"]
    name = to.this.name if isinstance(to, exp.DataType) and hasattr(to.this, "name") else folded(to)
    kind = _TYPES.get(name)
    sizes = [int(str(p.this.this)) for p in to.expressions if isinstance(p.this, exp.Literal)]
    if kind is None or (to.expressions and (kind != "numeric" or len(sizes) != len(to.expressions))):
        raise refuse(text_of(node), "the fast door does not cast to this type", "Leave the cast out, or ask each tier by itself")
    if kind == "numeric" and sizes:
        return numeric_of(sizes, text_of(node))
    return PgType(kind)  # type: ignore[arg-type]


def numeric_of(sizes: list[int], what: str) -> PgType:
    """numeric(p) or numeric(p, s), if a 128-bit decimal holds it."""
    digits, scale = sizes[0], sizes[1] if len(sizes) > 1 else 0
    if digits > numeric(38, 0).digits or not 0 <= scale <= digits:
        raise refuse(what, "the fast door holds numerics of at most 38 digits", "Cast to a smaller numeric")
    return PgType("numeric", digits, scale)


def _modified(node: exp.Expr, to: PgType) -> str:
    sizes = f"({to.digits},{to.scale})" if to.kind == "numeric" and node.args["to"].expressions else ""
    name = "pg_catalog.varchar" if to.kind == "text" and node.args["to"].this == exp.DataType.Type.VARCHAR else to.postgres
    return name + sizes


HANDLERS: Final[Mapping[type[exp.Expr], Handler]] = {
    exp.Neg: _negated,
    exp.Abs: _absolute,
    exp.Round: _round,
    exp.Ceil: _whole,
    exp.Floor: _whole,
    exp.Length: _length,
    exp.Coalesce: _several("coalesce"),
    exp.Greatest: _several("greatest"),
    exp.Least: _several("least"),
    exp.Nullif: _nullif,
    exp.Case: _case,
    exp.TimestampTrunc: _date_trunc,
    exp.Extract: _extract,
    exp.Cast: _cast,
    exp.Filter: aggregates.filtered,
    exp.Count: aggregates.count,
    exp.Sum: aggregates.total,
    exp.Avg: aggregates.average,
    exp.Min: aggregates.extreme,
    exp.Max: aggregates.extreme,
    exp.LogicalAnd: aggregates.logical,
    exp.LogicalOr: aggregates.logical,
}
