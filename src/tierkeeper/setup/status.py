"""How the tiers are now. A tier that is away is a line of the answer, never an error. It changes nothing."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Final

from psycopg import errors

from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.limits import USAGE_LOCK_SECONDS
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.results import ReadingStatus, StatusResult, TableStatus, TierStatus
from tierkeeper.kernel.tables import TableName
from tierkeeper.monitoring.egress import Share
from tierkeeper.monitoring.egress import read as egress_of_all
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.keeping import looking
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.statements import load
from tierkeeper.setup import memories, observe
from tierkeeper.tiers import identity
from tierkeeper.tiers.ask import ask_all
from tierkeeper.tiers.identity import Identity
from tierkeeper.tiers.tier import Tier
from tierkeeper.tiers.usage import Usage, measure, refusal, table_size

_ROOM: Final[Mapping[str, str]] = {
    "core": "See what would leave with 'tierkeeper quota --dry-run', then run 'tierkeeper quota'",
    "main": "Run 'tierkeeper quota', which moves what is old enough to the archive, or raise its quota",
    "archive": "Give the store more room and raise its quota; nothing is ever deleted from it to make room",
}

_SQL = load("tierkeeper.setup", "status.sql")


@dataclass(frozen=True)
class _Seen:
    usage: Usage
    who: Identity
    rows: Mapping[TableName, int | None] = field(default_factory=dict)
    in_flight: Mapping[TableName, int] = field(default_factory=dict)
    conflicts: Mapping[TableName, list[str]] = field(default_factory=dict)
    has_segments: bool = False
    has_egress: bool = False
    egress: Sequence[Share] | None = ()  # Main's knowledge of what came from all tiers this month; None: somebody locks it
    hidden: Collection[TableName] = ()  # tables with rows here by moves, though by their entries none leave Core


def status(
    tiers: Mapping[str, Tier],
    policies: Collection[TablePolicy],
    *,
    store_bytes: Callable[[], int],
    store_fault: Callable[[], TierkeeperError | None] = lambda: None,
    archive_rows: Callable[[Connection], Mapping[TableName, int]],
    archive_reading: Callable[[Connection], ReadingStatus] | None = None,
    start_at: float = 1.0,
    egress: Callable[[Sequence[Share], str], int] | None = None,
    month: date | None = None,
) -> StatusResult:
    """Tiers and tables as they are. `store_bytes` measures the store, `store_fault` asks what is wrong with what it keeps,
    `archive_rows` and `archive_reading` read the catalog.

    `egress` says what came from a tier, from what Main knows of the `month`.
    A tier that uses at least `start_at` (a share) of its quota says so, with what to do about it.
    """
    links = {name: tier.link for name, tier in tiers.items()}
    archived: dict[TableName, int] = {}
    read: list[ReadingStatus] = []

    def look(name: str, conn: Connection) -> _Seen:
        with catalog(conn):  # one snapshot: a transaction costs more than the look at a table
            seen = _look(conn, tiers[name], policies)
        seen = replace(seen, hidden=memories.hidden_at(name, conn, policies, archive_rows))
        if name == "main" and month is not None and seen.has_egress:
            seen = replace(seen, egress=_egress(conn, month))
        if name == "archive" and seen.has_segments:
            archived.update(archive_rows(conn))
            if archive_reading is not None:
                read.append(archive_reading(conn))
        return seen

    with looking(p.name for p in policies):
        seen, away = ask_all(links, look, "status")
        found = memories.faults({name: links[name] for name in seen}, policies)
    found += identity.faults({name: s.who for name, s in seen.items()})
    mistaken = {e.place.removeprefix("tiers."): e for e in found}
    lines = {}
    for name, tier in tiers.items():
        error, used_bytes = away.get(name) or mistaken.get(name), seen[name].usage.used_bytes if name in seen else None
        if name == "archive":
            used_bytes = None
            try:
                used_bytes = store_bytes()
                error = error or store_fault()
            except TierkeeperError as store_error:
                error = error or store_error
        lines[name] = _tier_status(tier, seen.get(name), used_bytes, error, start_at)
        if egress is not None:
            shares = seen["main"].egress if "main" in seen else ()
            lines[name] = _with_egress(lines[name], tier, None if shares is None else egress(shares, name))
    tables = {str(p.name): _table_status(p, seen, archived if "archive" in seen else None) for p in policies}
    for table, fault in memories.hidden({name: s.hidden for name, s in seen.items()}, policies).items():
        one = tables.get(str(table), TableStatus(mode="none"))
        told = {"archive_rows": archived.get(table, one.archive_rows), "cause": fault.cause, "remedy": fault.remedy}
        tables[str(table)] = one.model_copy(update=told)
    return StatusResult(tiers=lines, tables=tables, archive=read[0] if read else None)


def _egress(conn: Connection, month: date) -> Sequence[Share] | None:
    """Asked by itself: whoever locks our table keeps nobody from seeing the rest."""
    try:
        with transaction(conn, read_only=True, lock_seconds=USAGE_LOCK_SECONDS) as cur:
            return egress_of_all(cur, month)
    except errors.LockNotAvailable:
        return None


def _with_egress(line: TierStatus, tier: Tier, received_bytes: int | None) -> TierStatus:
    more = {"egress_bytes_this_month": received_bytes, "egress_budget_bytes": tier.profile.egress_bytes_per_month}
    return line.model_copy(update=more)


def _look(conn: Connection, tier: Tier, policies: Collection[TablePolicy]) -> _Seen:
    usage = measure(conn, tier.profile)
    rows = {}
    for policy in policies if tier.name != "archive" else ():
        size = table_size(conn, policy.name)
        rows[policy.name] = None if size is None else size.rows_estimate
    own = observe.own_schema(conn).relations
    with catalog(conn) as cur:
        in_flight = cur.execute(_SQL["in_flight"]).fetchall() if "ledger" in own else []
        conflicts: dict[TableName, list[str]] = {}
        for schema, table, key in cur.execute(_SQL["conflicts"]).fetchall() if "conflict" in own else []:
            conflicts.setdefault(TableName(schema, table), []).append(key)
    unsettled = {TableName(schema, table): n for schema, table, n in in_flight}
    has_segments, has_egress = "segment" in own, "egress" in own
    return _Seen(usage, identity.read(conn), rows, unsettled, conflicts, has_segments=has_segments, has_egress=has_egress)


def _tier_status(
    tier: Tier, seen: _Seen | None, used_bytes: int | None, error: TierkeeperError | None, start_at: float
) -> TierStatus:
    usage = seen.usage if seen is not None else None
    share = None if used_bytes is None else round(used_bytes / tier.quota_bytes, 4)
    if usage is not None and error is None:
        error = refusal(usage, tier.name, gives_only=tier.name == "core")
    cause, remedy = (error.cause, error.remedy) if error is not None else (None, None)
    if error is None and usage is not None and usage.read_only:
        cause, remedy = "it is read-only (default_transaction_read_only is on); rows can leave it all the same", _ROOM["core"]
    elif error is None and share is not None and share >= start_at:
        cause, remedy = f"{share:.0%} of its quota is used", _ROOM[tier.name]
    return TierStatus(
        used_bytes=used_bytes,
        quota_bytes=tier.quota_bytes,
        share=share,
        healthy=error is None,
        read_only=None if usage is None else usage.read_only,
        cause=cause,
        remedy=remedy,
    )


def _table_status(policy: TablePolicy, seen: Mapping[str, _Seen], archived: Mapping[TableName, int] | None) -> TableStatus:
    def rows(tier: str) -> int | None:
        return seen[tier].rows[policy.name] if tier in seen else None

    ledgers = [s.in_flight.get(policy.name, 0) for s in seen.values()]
    return TableStatus(
        mode=policy.mode,
        core_rows_estimate=rows("core"),
        main_rows_estimate=rows("main"),
        archive_rows=archived.get(policy.name, 0) if archived is not None and policy.mode == "move" else None,
        in_flight=sum(ledgers) if ledgers else None,
        conflicts=seen["main"].conflicts.get(policy.name, []) if "main" in seen else [],
    )
