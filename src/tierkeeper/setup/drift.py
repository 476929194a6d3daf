"""Decides how Main follows a table whose columns changed at Core, and when it must wait instead. Pure.

A column is known by its number at Core, which a rename keeps: nothing is guessed from names. Main never drops a column, and
a type only ever widens: what Main holds stays as it is.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from psycopg import sql

from tierkeeper.kernel.errors import Faults, InFlight, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.results import SetupStep
from tierkeeper.kernel.tables import Column, Followed, FollowedColumn, TableName, TableShape
from tierkeeper.kernel.units import format_bytes
from tierkeeper.kernel.widening import widening
from tierkeeper.setup.model import DestinationTable, SourceTable

_UNALIKE: Final = "Alter it there, or leave those rows where they are"
_AFTERWARDS: Final = "then run tierkeeper setup --apply"


@dataclass(frozen=True)
class Drift:
    """The steps by which a tier follows, and what only a person can decide; the steps count only without `faults`."""

    steps: tuple[SetupStep, ...] = ()
    faults: tuple[TierkeeperError, ...] = ()
    renames: Mapping[str, str] = field(default_factory=dict)

    def now(self, names: Iterable[str]) -> frozenset[str]:
        """Columns as they are called after the steps."""
        return frozenset(self.renames.get(n, n) for n in names)


def between(tier: str, source: SourceTable, there: DestinationTable) -> Drift:
    """What keeps the table that `tier` has from taking the rows of `source`; the order of columns may differ.

    Columns are renamed or retyped only where no copy is in flight or young: both would hide it (I1, I4).
    """
    if there.shape is None:
        return Drift()
    shape, name = source.shape, source.shape.name
    place = f"tiers.{tier}, table {name}"
    renames, faults = _renames(place, shape, there.shape, there.followed)
    main = _renamed(there.shape, dict(renames))
    faults += _unclear(place, shape, main, there.followed)
    quiet = [
        _step(tier, name, f"rename column {old!r} of {name} to {new!r}, as in Core", "RENAME COLUMN {} TO {}", old, new)
        for old, new in renames
    ]
    steps: list[SetupStep] = []
    widened: list[tuple[Column, Column]] = []
    for column in shape.columns:
        have = main.column(column.name)
        if have is None:
            added = _added(tier, name, column, source.present_values.get(column.name))
            (quiet if column.kind == "d" else steps).append(added)
        elif (fault := _misfit(place, name, column, have, may_generate=tier == "core")) is not None:
            faults.append(fault)
        elif have.type != column.type:
            widened.append((have, column))
    if widened:
        rewritten = there.size_bytes if any(_rewrites(*change) for change in widened) else 0
        quiet.append(_widened(tier, name, widened, rewritten))
        if there.room_bytes is not None and rewritten > there.room_bytes:
            faults.append(_no_room(place, quiet[-1].action, there.room_bytes))
    steps += [_nullable(tier, name, c) for c in _to_loosen(shape, main, there.followed)]
    faults += _too_strict(place, shape, main, there.followed)
    faults += _key_faults(place, shape, main)
    if quiet and there.in_flight:
        copies = f"copies there ({there.in_flight} batches) are in flight, or too young for their readers"
        cause = f"{copies}, and it is to {quiet[0].action}"
        faults.append(InFlight(place, cause, "Move the table again when query.timeout is over; that settles them"))
    if quiet:
        lock = sql.SQL("SELECT tierkeeper.require_quiet({}, {})").format(name.schema, name.name).as_string(None)
        action = f"lock {name} against everybody while it is altered, unless a copy is in flight there"
        quiet.insert(0, SetupStep(tier=tier, action=action, sql=lock, table=str(name)))
    return Drift((*quiet, *steps), tuple(faults), dict(renames))


def unlike(tier: str, source: TableShape, there: DestinationTable) -> list[TierkeeperError]:
    """Why rows of `source` do not fit the table that `tier` has, which is the application's and follows nothing.

    A column that is NOT NULL there alone is no reason: Main's was added later, so that it may be NULL, with a value in each row.
    """
    place, have = f"tiers.{tier}, table {source.name}", there.shape
    lacking = [c for c in source.columns if have is not None and have.column(c.name) is None]
    strict = {c.name for c in have.columns if c.not_null} if have is not None else set()
    fitting = (replace(c, not_null=c.not_null or c.name in strict) for c in source.columns if c not in lacking)
    found = between(tier, SourceTable(replace(source, columns=tuple(fitting)), ()), there)
    return [
        *(UsageError(place, f"it lacks the column {c.name!r} of type {c.type}", _UNALIKE) for c in lacking),
        *found.faults,
        *(UsageError(place, f"rows would fit only after a step there: {s.action}", _UNALIKE) for s in found.steps),
    ]


def refuse_behind(source: SourceTable, main: DestinationTable, others: Iterable[TierkeeperError] = ()) -> None:
    """Raises where Main has not followed Core's table yet: a column there might be another one here. `others` are such faults."""
    found = between("main", source, main)
    faults = [*found.faults, *others]
    if found.steps:
        cause = f"Core's table was changed since Main followed it last: {found.steps[-1].action}"
        faults.append(UsageError(f"tiers.main, table {source.shape.name}", cause, "Run tierkeeper setup --apply"))
    if faults:
        raise faults[0] if len(faults) == 1 else Faults(faults)


def remember(tier: str, source: TableShape, followed: Followed | None) -> list[SetupStep]:
    """The step that writes down Core's columns as Main follows them from now on; none where that is known."""
    wanted = tuple(
        FollowedColumn(c.number, c.name, c.type, _former(c, followed, source.oid))
        for c in sorted(source.columns, key=lambda c: c.number)
    )
    if followed == Followed(source.oid, wanted):
        return []
    rows = sql.SQL(",\n    ").join(
        sql.SQL("({}, {}, {}, {}, {}, {}, {}::text[])").format(
            source.name.schema, source.name.name, source.oid, c.number, c.name, c.type, sql.Literal(list(c.former))
        )
        for c in wanted
    )
    text = sql.SQL(
        "DELETE FROM tierkeeper.followed WHERE schema_name = {} AND table_name = {};\n"
        "INSERT INTO tierkeeper.followed VALUES\n    {}"
    ).format(source.name.schema, source.name.name, rows)
    action = f"write down the columns of {source.name} as Core has them"
    return [SetupStep(tier=tier, action=action, sql=text.as_string(None), table=str(source.name))]


def gone(tier: str, name: TableName, followed: Followed | None, now: TableName | None, error: TierkeeperError) -> TierkeeperError:
    """`error`, which says that Core lacks the table, in clearer words where it was followed before; `now` is its new name."""
    if followed is None:
        return error
    if now is not None:
        cause = f"Core calls it {now} now, and {tier} has its history as {name}"
        remedy = f"There: ALTER TABLE {name} RENAME, in tierkeeper.followed too; then name {now} in tierkeeper.toml"
        return UsageError(error.place, cause, remedy)
    cause = f"it is gone from Core, and {tier} keeps its history"
    return UsageError(error.place, cause, "Let the policy name no age for core, or take the table out of tierkeeper.toml")


def trusted(shape: TableShape, followed: Followed | None) -> bool:
    """Whether the column numbers of Core's table mean what they meant when it was followed last.

    A table that was made anew (by a restore from a dump, say) counts from one again; a number is never given twice.
    """
    if followed is None or followed.relation != shape.oid:
        return False
    known = {c.number for c in followed.columns}
    return all(c.number in known or c.number > max(known) for c in shape.columns)


def _renames(
    place: str, source: TableShape, there: TableShape, followed: Followed | None
) -> tuple[list[tuple[str, str]], list[TierkeeperError]]:
    """The columns to rename, each when its new name is free, and the faults of those whose new name is taken."""
    if followed is None or not trusted(source, followed):
        return [], []
    now = {c.number: c.name for c in source.columns}
    have = {c.name for c in there.columns}
    left = {c.name: now[c.number] for c in followed.columns if now.get(c.number, c.name) != c.name and c.name in have}
    ordered: list[tuple[str, str]] = []
    while ready := next(((old, new) for old, new in left.items() if new not in have), None):
        ordered.append(ready)
        have = (have - {ready[0]}) | {ready[1]}
        del left[ready[0]]
    return ordered, [
        UsageError(
            place,
            f"Core renamed the column {old!r} to {new!r}, and there is another column {new!r} here",
            f"There: rename that one, {_AFTERWARDS}; {_as_it_is(source.name)}",
        )
        for old, new in left.items()
    ]


def _unclear(place: str, source: TableShape, main: TableShape, followed: Followed | None) -> list[TierkeeperError]:
    """Columns of which names alone do not tell what became of them."""
    if trusted(source, followed) and followed is not None:
        numbers = {c.number for c in source.columns}
        return [
            UsageError(
                place,
                f"Core dropped the column {c.name!r} and added another of that name; here is the old one's history",
                f"There: rename the old one, {_AFTERWARDS}; {_as_it_is(source.name)}",
            )
            for c in source.columns
            if (before := followed.column(c.name)) is not None
            and before.number != c.number
            and before.number not in numbers
            and main.column(c.name) is not None
        ]
    added = [c.name for c in source.columns if main.column(c.name) is None]
    lost = [c.name for c in main.columns if source.column(c.name) is None and (followed is None or followed.column(c.name))]
    if not added or not lost:
        return []
    alter = f"ALTER TABLE {source.name}"
    return [
        UsageError(
            place,
            f"Core has {_listed(added)} and lacks {_listed(lost)}, and nothing tells whether a column was renamed",
            f"There: {alter} RENAME the old column, or {alter} ADD COLUMN the new one, {_AFTERWARDS}",
        )
    ]


def _added(tier: str, table: TableName, column: Column, present: str | None) -> SetupStep:
    """The rows that are there get what Core's got without being touched; where each got a value of its own, NULL."""
    kind = sql.SQL(column.type + (f" COLLATE {column.collation}" if column.collation else ""))
    if present is None:
        why = " (NULL in the rows that are there: Core's have no one value)" if column.not_null or column.generated else ""
        return _step(
            tier, table, f"add column {column.name!r} to {table}, as in Core{why}", "ADD COLUMN {} {}", column.name, kind
        )
    alter, name = sql.SQL("ALTER TABLE {}").format(_table(table)), sql.Identifier(column.name)
    text = sql.SQL("{alter} ADD COLUMN {name} {kind} DEFAULT {value}::{type};\n{alter} ALTER COLUMN {name} DROP DEFAULT").format(
        alter=alter, name=name, kind=kind, value=present, type=sql.SQL(column.type)
    )
    action = f"add column {column.name!r} to {table}, with {present!r} in the rows that are there, as in Core"
    return SetupStep(tier=tier, action=action, sql=text.as_string(None), table=str(table))


def _rewrites(old: Column, new: Column) -> bool:
    """Whether Postgres writes the table anew for it: not where a value stays what it is."""
    known = widening(old, new)
    return known is None or known.conversion != "same"


def _no_room(place: str, action: str, room_bytes: int) -> NotNow:
    cause = f"the tier's quota leaves {format_bytes(max(room_bytes, 0))}, too little to {action}"
    return NotNow(place, cause, "Make room there, or raise its quota, then run tierkeeper setup --apply")


def _widened(tier: str, table: TableName, changes: list[tuple[Column, Column]], size_bytes: int) -> SetupStep:
    """All at once: a rewrite for each would cost the table's size each time. `size_bytes`: what one costs, 0 for none."""
    parts = sql.SQL(", ").join(
        sql.SQL("ALTER COLUMN {} TYPE {}").format(
            sql.Identifier(new.name), sql.SQL(new.type + (f" COLLATE {new.collation}" if new.collation else ""))
        )
        for _, new in changes
    )
    listed = ", ".join(f"{new.name!r} from {old.type} to {new.type}" for old, new in changes)
    scratch = f": rewrites the table, which takes up to {format_bytes(size_bytes)} more while it runs" if size_bytes else ""
    text = sql.SQL("ALTER TABLE {} {}").format(_table(table), parts).as_string(None)
    return SetupStep(tier=tier, action=f"widen {listed} in {table}, as in Core{scratch}", sql=text, table=str(table))


def _misfit(place: str, table: TableName, ours: Column, theirs: Column, *, may_generate: bool) -> TierkeeperError | None:
    """What Core generates it makes again of a row that comes back, and the copy's comparison finds it if it differs."""
    name = sql.Identifier(ours.name).as_string(None)
    if theirs.generated and not may_generate:
        cause = f"the column {ours.name!r} is generated, so that its values could not be kept"
        return UsageError(place, cause, f"There: ALTER TABLE {table} ALTER {name} DROP EXPRESSION")
    if widening(theirs, ours) is None:
        cause = f"the column {ours.name!r} is of type {theirs.type}, and {ours.type} where the rows come from"
        return UsageError(place, cause, f"Give both the same type; there: ALTER TABLE {table} ALTER {name} TYPE {ours.type}")
    return None


def _to_loosen(source: TableShape, main: TableShape, followed: Followed | None) -> Iterator[Column]:
    """Columns NOT NULL at Main that rows from Core may lack, now or since they are gone from Core."""
    for have in main.columns:
        ours = source.column(have.name)
        known = followed is not None and followed.column(have.name) is not None
        if have.not_null and have.name not in main.key and (known if ours is None else not ours.not_null):
            yield have


def _too_strict(place: str, source: TableShape, main: TableShape, followed: Followed | None) -> list[TierkeeperError]:
    """Columns that Core never had and that want a value all the same."""
    loosened = {c.name for c in _to_loosen(source, main, followed)}
    return [
        UsageError(
            place,
            f"the column {c.name!r} is NOT NULL and the rows have no such column",
            f"There: ALTER TABLE {source.name} ALTER {sql.Identifier(c.name).as_string(None)} DROP NOT NULL",
        )
        for c in main.columns
        if c.not_null and not c.generated and source.column(c.name) is None and c.name not in loosened
    ]


def _key_faults(place: str, source: TableShape, main: TableShape) -> list[TierkeeperError]:
    if set(source.key) == set(main.key):
        return []
    ours, theirs = ", ".join(source.key), ", ".join(main.key)
    quoted = ", ".join(sql.Identifier(k).as_string(None) for k in source.key)
    remedy = f"There: ALTER TABLE {source.name} DROP CONSTRAINT its key, ADD PRIMARY KEY ({quoted})"
    return [UsageError(place, f"the key is ({theirs}), and ({ours}) where the rows come from", remedy)]


def _former(column: Column, followed: Followed | None, relation: int) -> tuple[str, ...]:
    if followed is None:
        return ()
    if followed.relation == relation:
        before = next((c for c in followed.columns if c.number == column.number), None)
    else:
        before = followed.column(column.name)
    if before is None:
        return ()
    return tuple(dict.fromkeys(n for n in (*before.former, before.name) if n != column.name))


def _renamed(shape: TableShape, renames: Mapping[str, str]) -> TableShape:
    columns = tuple(replace(c, name=renames.get(c.name, c.name)) for c in shape.columns)
    return replace(shape, columns=columns, key=tuple(renames.get(k, k) for k in shape.key))


def _nullable(tier: str, table: TableName, column: Column) -> SetupStep:
    action = f"let {column.name!r} of {table} be NULL, as rows from Core may be"
    return _step(tier, table, action, "ALTER COLUMN {} DROP NOT NULL", column.name)


def _step(tier: str, table: TableName, action: str, change: str, *parts: str | sql.Composable) -> SetupStep:
    filled = sql.SQL(change).format(*(sql.Identifier(p) if isinstance(p, str) else p for p in parts))
    text = sql.SQL("ALTER TABLE {} {}").format(_table(table), filled).as_string(None)
    return SetupStep(tier=tier, action=action, sql=text, table=str(table))


def _as_it_is(table: TableName) -> str:
    delete = sql.SQL("DELETE FROM tierkeeper.followed WHERE schema_name = {} AND table_name = {}")
    return f"if Main is right as it is: {delete.format(table.schema, table.name).as_string(None)}"


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _table(name: TableName) -> sql.Identifier:
    return sql.Identifier(name.schema, name.name)
