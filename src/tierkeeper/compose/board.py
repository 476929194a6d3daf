"""One look at everything for a person: what `status` says, and beside it what moved, what is due and what the audit has.

It changes nothing, reads no row of a table, and what cannot be had is a line of it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tierkeeper.archive import held
from tierkeeper.kernel import cron, limits
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.results import (
    AlertStatusResult,
    BoardJob,
    BoardResult,
    BoardSegment,
    BoardTable,
    StatusResult,
    TableStatus,
    told,
)
from tierkeeper.kernel.tables import TableName
from tierkeeper.monitoring import due, went
from tierkeeper.monitoring.went import Went
from tierkeeper.postgres.keeping import looking
from tierkeeper.postgres.link import Connection, Link
from tierkeeper.security import shown
from tierkeeper.security.runs import Action, last_actions
from tierkeeper.tiers.ask import ask_all


@dataclass(frozen=True)
class Looks:
    """Whom a look asks. `crons`: of the jobs that are on."""

    status: Callable[[], StatusResult]
    alerts: Callable[[], AlertStatusResult]
    links: Mapping[str, Link]
    policies: Collection[TablePolicy]
    crons: Mapping[str, str]
    clock: Clock


@dataclass(frozen=True)
class _Seen:
    """What one tier told beside its status."""

    due: Mapping[TableName, int] = field(default_factory=dict)
    actions: Sequence[Action] | None = None
    jobs: Mapping[str, Went] = field(default_factory=dict)
    segments: Sequence[BoardSegment] | None = None


def look(asked: Looks) -> BoardResult:
    """Everything, now. Raises nothing that a tier, a store or a broken table answers for."""
    at, wrong = asked.clock.now(), list[TierkeeperError]()
    firing, seen = list[Any](), dict[str, _Seen]()
    with looking(p.name for p in asked.policies):
        try:
            found = asked.status()
        except TierkeeperError as error:
            found = StatusResult(tiers={}, tables={})
            wrong.append(error)
        there = {name: link for name, link in asked.links.items() if _answers(found, name)}
        seen, away = ask_all(there, lambda name, conn: _one(name, conn, asked, at), "status")
    wrong += [error for _, error in sorted(away.items())]
    main, archive = seen.get("main", _Seen()), seen.get("archive", _Seen())
    if "main" in there:
        try:
            firing = [one for one in asked.alerts().alerts if one.state == "firing"]
        except TierkeeperError as error:
            wrong.append(error)
    actions = main.actions
    return BoardResult(
        at=at,
        fresh_seconds=limits.BOARD_FRESH_SECONDS,
        tiers=found.tiers,
        tables={name: _table(name, one, seen, whole=len(there) == len(found.tiers)) for name, one in found.tables.items()},
        archive=found.archive,
        cost=found.cost,
        moves=None if actions is None else shown.moves(actions)[: limits.BOARD_MOVES],
        segments=None if archive.segments is None else list(archive.segments),
        audit=None if actions is None else [shown.action(a) for a in actions[: limits.BOARD_ACTIONS]],
        last_note=shown.last_note(actions or ()),
        alerts=firing,
        undelivered=found.undelivered,
        jobs={name: _job(name, one, asked.crons, at) for name, one in sorted(main.jobs.items())},
        errors=told(wrong),
    )


def _answers(found: StatusResult, tier: str) -> bool:
    """Whether its database does: it is not to be waited for twice."""
    return tier in found.tiers and found.tiers[tier].read_only is not None


def _one(name: str, conn: Connection, asked: Looks, at: datetime) -> _Seen:
    if name == "archive":
        return _Seen(segments=held.stalest(conn, limits.BOARD_SEGMENTS))
    cutoffs = dict[TableName, tuple[str, datetime]]()
    for policy in asked.policies:
        after = policy.core if name == "core" else policy.main
        if policy.age is not None and after is not None and len(cutoffs) < limits.BOARD_DUE_TABLES:
            cutoffs[policy.name] = policy.age, after.before(at)
    old = due.due(conn, cutoffs)
    if name == "core":
        return _Seen(due=old)
    jobs: Mapping[str, Went] = {}
    with suppress(TierkeeperError):
        jobs = went.read(asked.links["main"])
    return _Seen(due=old, actions=last_actions(conn, limits.BOARD_NOTES), jobs=jobs)


def _table(name: str, one: TableStatus, seen: Mapping[str, _Seen], *, whole: bool) -> BoardTable:
    """`whole`: every tier was seen, so that the batches in flight are all."""

    def rows(tier: str) -> int | None:
        known = {str(table): rows for table, rows in seen[tier].due.items()} if tier in seen else {}
        return known.get(name)

    return BoardTable(
        mode=one.mode,
        core_rows_estimate=one.core_rows_estimate,
        main_rows_estimate=one.main_rows_estimate,
        archive_rows=one.archive_rows,
        core_due_estimate=rows("core"),
        main_due_estimate=rows("main"),
        in_flight=one.in_flight if whole else None,
        conflicts=len(one.conflicts),
        cause=one.cause,
        remedy=one.remedy,
    )


def _job(name: str, one: Went, crons: Mapping[str, str], at: datetime) -> BoardJob:
    return BoardJob(ok_at=one.ok_at, cause=one.cause, next_at=cron.following(crons[name], at) if name in crons else None)
