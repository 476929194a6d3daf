"""How full and how busy the tiers are: measured, written down and read; wired to tiers, store and this machine."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import Self

from tierkeeper.archive import held
from tierkeeper.compose.keys import VaultKeeper
from tierkeeper.kernel import log
from tierkeeper.kernel.errors import NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.policy import TIERS, Tier
from tierkeeper.kernel.results import ErrorResult, RecordResult, UsageResult, told
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age
from tierkeeper.monitoring import measure, report
from tierkeeper.monitoring.history import History
from tierkeeper.monitoring.model import Figures, Measured
from tierkeeper.postgres.keeping import looking, sharing
from tierkeeper.postgres.link import Connection
from tierkeeper.tiers.ask import ask_all

_log = log.Log()


@dataclass(frozen=True)
class _Look:
    """Everything at one instant, and why what is missing could not be measured."""

    at: datetime
    tiers: Mapping[Tier, Measured]
    errors: Mapping[Tier, TierkeeperError]

    @property
    def samples(self) -> list[Figures]:
        return [s for tier in TIERS if tier in self.tiers for s in self.tiers[tier].samples]


class UsageKeeper(VaultKeeper):
    """Measures tiers. As a context it counts, when it ends, what its links have received."""

    @cached_property
    def history(self) -> History:
        """What was measured before, on Main and on this machine."""
        return History(self.links["main"], self._state_dir, self._clock, self._prepare_main)

    def record_usage(self) -> RecordResult:
        """Takes one sample of everything and writes it to the history. What is away is an error in the result."""
        with sharing("usage"):
            return self._record(self._look())

    def usage(self, table: TableName | None = None, *, since: Age | None = None, record: bool = False) -> UsageResult:
        """Tiers and tables now and since an age (None: as far as is known), or `table` alone. With `record` it is a sample, too.

        Raises UsageError where no tier has such a table.
        """
        look = self._look(table, statements=True)
        if table is not None and not look.errors and not any(table in m.tables for m in look.tiers.values()):
            raise UsageError("--table", f"no tier has a table {table}", "Name it as SQL does: schema.table")
        recorded = self._record(look) if record else None
        with looking():
            samples = self.history.samples(every=True, since=None if since is None else since.before(look.at))
            away = self.history.away
            received = self.history.egress_of(TIERS, look.at.date())
        kept = report.Kept.of(s for s in samples if table is None or s.table in (None, table))
        policy = frozenset(p.name for p in self._policies)
        tiers = {
            str(tier): report.tier_usage(
                tier, facts.quota_bytes, look.tiers.get(tier), look.errors.get(tier), kept,
                egress=report.Egress(received[tier], facts.profile.egress_bytes_per_month), policy=policy, only=table,
            )
            for tier, facts in self._tiers.items()
        }  # fmt: skip
        missing = None if away is None else ErrorResult(place=away.place, cause=away.cause, remedy=away.remedy)
        return UsageResult(at=look.at, tiers=tiers, history=missing, recorded=recorded)

    def count_egress(self) -> None:
        """Adds what the links have received so far to this month's egress. That it cannot be written down ends nothing."""
        for _ in range(2):  # telling Main brings a little more
            received = {str(tier): link.received.take() for tier, link in self.links.items()}
            try:
                self.history.received(self._clock.now().date(), received)
            except TierkeeperError as error:
                _log.info("egress is not written down", cause=str(error))
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(Exception):  # the first error is the one to tell
            self.count_egress()

    def _prepare_main(self) -> None:
        self._set_up((), frozenset(("main",)), apply=True)

    def _record(self, look: _Look) -> RecordResult:
        self.count_egress()
        samples = look.samples
        written = self.history.record(samples)
        causes = [*look.errors.values(), *([written.cause] if written.cause is not None else [])]
        return RecordResult(at=look.at, where=written.where, samples=len(samples), sent=written.sent, errors=told(causes))

    def _look(self, table: TableName | None = None, *, statements: bool = False) -> _Look:
        at = self._clock.now()
        names = [p.name for p in self._policies]
        asked = [*names, *([table] if table is not None and table not in names else [])]

        def one(name: str, conn: Connection) -> Measured:
            tier = next(t for t in TIERS if t == name)
            found = measure.measured(conn, tier, self._tiers[tier].profile, asked if tier != "archive" else (), at)
            if tier == "archive":
                found = _archived(found, held.by_table(conn))
            return replace(found, statements=measure.statements(conn)) if statements else found

        measured, away = ask_all({str(t): link for t, link in self.links.items()}, one, "usage")
        if isinstance(away.get("main"), NotNow):
            self.history.found_away(away["main"])
        tiers = {tier: measured[tier] for tier in TIERS if tier in measured}
        errors = {tier: away[tier] for tier in TIERS if tier in away}
        try:
            store = Figures("archive", None, at, self._store_bytes())
        except TierkeeperError as error:
            errors.setdefault("archive", error)
            if "archive" in tiers:
                tiers["archive"] = replace(tiers["archive"], tier=None)
        else:
            found = tiers.get("archive", Measured(store, {}))
            tiers["archive"] = replace(found, tier=replace(found.tier or store, bytes=store.bytes))
        return _Look(at, tiers, errors)


def _archived(catalog: Measured, tables: Mapping[TableName, tuple[int, int, int]]) -> Measured:
    """The archive from its catalog: what its segments hold; the catalog's own tables are none of the application's."""
    assert catalog.tier is not None  # noqa: S101 - a database that was measured has figures
    held_tables = {
        name: Figures("archive", name, catalog.tier.at, size, rows=rows, parts=segments)
        for name, (segments, rows, size) in tables.items()
    }
    whole = replace(
        catalog.tier,
        base_bytes=catalog.database_bytes,
        parts=sum(f.parts or 0 for f in held_tables.values()),
        rows=sum(f.rows or 0 for f in held_tables.values()),
    )
    return replace(catalog, tier=whole, tables=held_tables, details={})
