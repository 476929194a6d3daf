"""Plans a statement over several tiers: its DuckDB text, and what to scan of each table with which conditions. Pure.

A scan may give more rows than matter, never fewer: the statement's own conditions are applied again to what the scans gave.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlglot import exp

from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.query.expressions import term
from tierkeeper.query.model import AgeRange, Facts, Plan, Scan, refuse
from tierkeeper.query.scope import Scope
from tierkeeper.query.select import Reference, StatementCompiler
from tierkeeper.query.statement import Statement
from tierkeeper.query.terms import Term, as_utc, coerce, ident, ladder

_OPERATORS: Final[Mapping[type[exp.Expr], str]] = {
    exp.EQ: "=",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.NEQ: "<>",
}
_MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "<>": "<>"}


@dataclass(frozen=True)
class Condition:
    """A conjunct on one column of one table, in Postgres's SQL, and the ages that it leaves."""

    column: str
    sql: str
    ages: AgeRange = field(default_factory=AgeRange)


def managed_tables(statement: Statement, policies: Mapping[TableName, TablePolicy]) -> tuple[TableName, ...]:
    """The statement's tables whose rows are spread over the tiers. Without any Core can answer it alone."""
    return tuple(t for t in statement.tables if t in policies and policies[t].mode == "move")


def plan(statement: Statement, facts: Facts, policies: Mapping[TableName, TablePolicy]) -> Plan:
    """The plan of a statement over the tiers. Raises UsageError for what DuckDB would answer differently from Postgres."""
    compiler = StatementCompiler(facts)
    made = compiler.compile(statement.tree, {})
    if not made.outputs:
        raise refuse("SELECT", "it has no columns", "Name at least one")
    scans = tuple(_scan(r, made.duck, policies) for r in compiler.references)
    return Plan(made.duck, made.postgres, made.outputs, scans, not compiler.nested, frozenset(compiler.divisions))


def _scan(reference: Reference, duck: str, policies: Mapping[TableName, TablePolicy]) -> Scan:
    facts = reference.facts
    policy = policies.get(facts.name)
    spread = policy is not None and policy.mode == "move"
    age = policy.age if policy is not None and spread else None
    used = sorted({int(i) for i in re.findall(rf"\b{reference.relation}\.c(\d+)\b", duck)})
    found = [c for node, scope in reference.conditions if (c := condition(node, scope, reference.relation)) is not None]
    ages = AgeRange()
    for one in found:
        if one.column == age:
            ages = ages.within(one.ages)
    columns = tuple((f"c{i}", facts.columns[i]) for i in used)
    conditions = tuple(dict.fromkeys((c.column, c.sql) for c in found))
    return Scan(reference.relation, facts.name, columns, conditions, age, ages, facts.oid, spread)


def condition(node: exp.Expr, scope: Scope, relation: str) -> Condition | None:
    """`node` as a condition on one column of `relation` against constants; None if it is anything else."""
    node = node.unnest()
    if isinstance(node, exp.Is):
        return _null_test(node, scope, relation)
    if node.args.get("negate"):
        return None
    if type(node) in _OPERATORS:
        return _comparison(_OPERATORS[type(node)], term(node.this, scope), term(node.expression, scope), relation)
    if isinstance(node, exp.Between) and not node.args.get("symmetric"):
        subject = term(node.this, scope)
        low = _comparison(">=", subject, term(node.args["low"], scope), relation)
        high = _comparison("<=", subject, term(node.args["high"], scope), relation)
        return Condition(low.column, f"{low.sql} AND {high.sql}", low.ages.within(high.ages)) if low and high else None
    return _listed(node, scope, relation) if isinstance(node, exp.In) and node.args.get("query") is None else None


def _listed(node: exp.In, scope: Scope, relation: str) -> Condition | None:
    subject = term(node.this, scope)
    tests = [_comparison("=", subject, term(e, scope), relation) for e in node.expressions]
    sure = [t for t in tests if t is not None]
    if len(sure) != len(tests) or not sure:
        return None
    return Condition(sure[0].column, "(" + " OR ".join(t.sql for t in sure) + ")", _hull([t.ages for t in sure]))


def _null_test(node: exp.Is, scope: Scope, relation: str) -> Condition | None:
    subject = term(node.this, scope)
    if not isinstance(node.expression, exp.Null) or subject.column is None or subject.column.relation != relation:
        return None
    word = "IS NOT NULL" if node.args.get("negate") else "IS NULL"
    return Condition(subject.column.name, f"{ident(subject.column.name)} {word}")


def _comparison(operator: str, left: Term, right: Term, relation: str) -> Condition | None:
    if left.column is None:
        left, right, operator = right, left, _MIRRORED[operator]
    if left.column is None or left.column.relation != relation or right.column is not None:
        return None
    if right.type.kind == "unknown":
        right = coerce(right, left.type)
    if right.constant is None or (left.type.is_number and ladder(left.type, right.type).kind == "float4"):
        return None
    collate = ' COLLATE "C"' if left.type.kind == "text" and operator not in ("=", "<>") else ""
    sql = f"{ident(left.column.name)}{collate} {operator} {right.constant}"
    if not left.type.is_temporal or right.instant is None:
        return Condition(left.column.name, sql)
    at = as_utc(right.instant)
    ages = {">": AgeRange(at), ">=": AgeRange(at), "<": AgeRange(None, at), "<=": AgeRange(None, at), "=": AgeRange(at, at)}
    return Condition(left.column.name, sql, ages.get(operator, AgeRange()))


def _hull(ranges: Sequence[AgeRange]) -> AgeRange:
    """The one range around several."""

    def end(values: list[datetime | None], choose: object) -> datetime | None:
        known = [v for v in values if v is not None]
        return choose(known) if len(known) == len(values) and known else None  # type: ignore[operator]

    return AgeRange(end([r.low for r in ranges], min), end([r.high for r in ranges], max))
