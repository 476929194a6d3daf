"""Reads `--what-if`: other cutoffs than the configuration has. Pure, and before any connection."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil, floor
from typing import Literal

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age
from tierkeeper.quotas.stock import Bounds, Cutoffs

_PLACE = "--what-if"
_FORM = 'Write TIER=AGE or TABLE:TIER=AGE, such as core=45d or "public.flights:main=1 year"'


@dataclass(frozen=True)
class Change:
    """Rows older than `age` leave `tier`, those of `table` or of every table that moves by age (None)."""

    tier: Literal["core", "main"]
    age: Age
    table: TableName | None = None


def parse(text: str) -> Change:
    """Reads one change. Raises UsageError."""
    left, equals, age = text.rpartition("=")
    table, colon, tier = left.rpartition(":")
    if not equals or not age.strip():
        raise UsageError(_PLACE, f"{text!r} does not say how old rows would be", _FORM)
    named = tier.strip().lower()
    if named not in ("core", "main"):
        cause = f"{tier.strip()!r} is no tier that rows leave by their age" if tier.strip() else f"{text!r} names no tier"
        raise UsageError(_PLACE, cause, _FORM)
    parsed = Age.parse(age, _PLACE)
    if parsed.seconds <= 0:
        raise UsageError(_PLACE, f"{age.strip()!r} is no time at all", _FORM)
    return Change("core" if named == "core" else "main", parsed, TableName.parse(table, _PLACE) if colon else None)


def changed(policies: Sequence[TablePolicy], changes: Sequence[Change], now: datetime) -> dict[TableName, Cutoffs]:
    """The cutoffs of each table that `changes` concern, in whole days (rounded up). A later change overrides an earlier one for
    all tables. Raises UsageError for a table that has no age, for rows that would leave Main before Core, and for cutoffs that
    the table's other keys refuse.
    """
    dated = by_age(policies, _PLACE)
    seen: set[tuple[TableName | None, str]] = set()
    found: dict[TableName, Cutoffs] = {}
    for change in sorted(changes, key=lambda c: c.table is not None):  # what is said of one table counts more
        if (change.table, change.tier) in seen:
            where = f"{change.table}:{change.tier}" if change.table else change.tier
            raise UsageError(_PLACE, f"{where} is given twice", "Give it once")
        seen.add((change.table, change.tier))
        if change.table is not None and change.table not in dated:
            raise UsageError(_PLACE, f"no [[tables]] entry with an age names {change.table}", f"Name one of {_some(dated)}")
        days = _days(change.age, now)
        for name in dated if change.table is None else (change.table,):
            one = found.get(name) or cutoffs_of(dated[name], now)
            found[name] = Cutoffs(days, one.main) if change.tier == "core" else Cutoffs(one.core, days)
    for name, one in found.items():
        if one.main is not None and (one.core is None or one.main < one.core):
            stay = "they stay in Core" if one.core is None else f"they leave Core only after {one.core} days"
            cause = f"rows of {name} would leave Main after {one.main} days, but {stay}"
            raise UsageError(
                _PLACE, cause, f"Change both, such as --what-if core=… --what-if main={max(one.main, one.core or 0)}d"
            )
        refused = bounds(dated[name], now).fault(one)
        if refused is not None:
            raise _refused(name, one, *refused)
    return found


def by_age(policies: Sequence[TablePolicy], place: str) -> dict[TableName, TablePolicy]:
    """The tables that cutoffs can be weighed for. Raises UsageError where there is none: nothing could be told of any."""
    dated = {p.name: p for p in policies if p.mode == "move" and p.age is not None}
    if not dated:
        raise UsageError(place, "no table moves by its age", "Give one an age and cutoffs in [[tables]] first")
    return dated


def cutoffs_of(policy: TablePolicy, now: datetime) -> Cutoffs:
    """The table's cutoffs in whole days, counted back from now."""
    return Cutoffs(_days_of(policy.core, now), _days_of(policy.main, now))


def bounds(policy: TablePolicy, now: datetime) -> Bounds:
    """What the table's other keys ask of its cutoffs, in whole days that keep to them."""
    archive = None if policy.archive is None else floor((now - policy.archive.before(now)) / timedelta(days=1))
    core, main = (0 if age is None else _days(age, now) for age in (policy.core_min, policy.main_min))
    return Bounds(core, main, archive)


def _refused(name: TableName, then: Cutoffs, key: str, days: int) -> UsageError:
    if key == "archive":
        cause = f"rows of {name} would leave Main after {then.main} days, and its entry removes them after {days}"
        return UsageError(_PLACE, cause, f"Ask for at most main={days}d, or raise archive under [[tables]] first")
    tier = key.removesuffix("_min")
    age = then.core if tier == "core" else then.main
    cause = f"rows of {name} would leave {tier.capitalize()} after {age} days, and its {key} keeps them for {days}"
    return UsageError(_PLACE, cause, f"Ask for at least {tier}={days}d, or lower {key} under [[tables]] first")


def _days(age: Age, now: datetime) -> int:
    return max(1, ceil((now - age.before(now)) / timedelta(days=1) - 1e-9))


def _days_of(age: Age | None, now: datetime) -> int | None:
    return None if age is None else max(0, round((now - age.before(now)) / timedelta(days=1)))


def _some(tables: dict[TableName, TablePolicy]) -> str:
    names = [str(name) for name in tables]
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")  # noqa: PLR2004 - enough to see how they are written
