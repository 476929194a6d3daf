"""The fast door: one statement over Core, Main and the archive, each row exactly once.

It takes snapshots in the order of `docs/internals/query.md` and never gives a part of an answer. It changes nothing anywhere.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from psycopg import sql

from tierkeeper.kernel.errors import NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.ports import ScanSegment, SegmentScan
from tierkeeper.kernel.tables import Followed, TableName, TableShape
from tierkeeper.kernel.watching import AskedAges, Touched
from tierkeeper.postgres import followed, shapes
from tierkeeper.postgres.arrow import snapshot_reader
from tierkeeper.postgres.link import Connection, Link, transaction
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load
from tierkeeper.query import core as at_core
from tierkeeper.query.alone import Alone
from tierkeeper.query.archived import Segments
from tierkeeper.query.history import check_in_step
from tierkeeper.query.model import PLACE, Facts, Plan, Scan
from tierkeeper.query.plan import managed_tables, plan
from tierkeeper.query.reused import Places, Reused, Tier
from tierkeeper.query.scans import scan_error, scan_sql
from tierkeeper.query.statement import Statement, parse
from tierkeeper.query.told import told_of
from tierkeeper.query.trust import Arrival, trust
from tierkeeper.tiers import memory

if TYPE_CHECKING:
    import pyarrow as pa

    from tierkeeper.query.engine import Engine

_SQL = load("tierkeeper.query", "query.sql")
_TRANSACTION_TIMEOUT_SINCE: Final = 170_000


@dataclass
class _Snapshots:
    """What the tiers' snapshots say, in the order in which they were taken."""

    core_cursor: Cursor
    core: str = ""
    main: str | None = None
    excluded: dict[tuple[str, TableName], list[str]] = field(default_factory=dict)  # transactions whose rows do not count
    reused: Reused | None = None
    places: dict[TableName, Places] = field(default_factory=dict)  # rows at Main that do not count: Core has their keys
    main_tables: dict[TableName, TableShape] = field(default_factory=dict)  # without those that Main does not have
    main_types: dict[TableName, dict[str, str]] = field(default_factory=dict)  # by column, as Core's snapshot shows them
    followed: Mapping[TableName, Followed] = field(default_factory=dict)
    segments: dict[TableName, list[ScanSegment]] = field(default_factory=dict)
    archive_fault: TierkeeperError | None = None  # what a segment's reader raised; DuckDB would tell it in its own words

    def leave_out(self, tier: str, arrivals: Sequence[Arrival], moved: Collection[object]) -> None:
        """Batches that came to `tier` lately count only if their source's snapshot says `moved`, or they could be forgotten.

        Raises NotNow where a standby says the latter: if its clock is ahead, the row is in the source's snapshot, too.
        """
        for one in arrivals:
            if one.rested and one.by_another_clock and one.batch not in moved:
                raise memory.doubtful(tier, one.batch)
            if not one.counts(moved):
                self.excluded.setdefault((tier, TableName(one.schema, one.table)), []).append(one.xid)


class FastDoor:
    """Answers a statement over all tiers in DuckDB.

    I2: each row is seen exactly once, also in the middle of a move and after a crash. Snapshots are taken in the order Core,
    Main, catalog, each one's markers read before the next tier's transaction begins; a row at a destination counts if its batch
    is forgotten there or its marker was `moved` in the source's snapshot. Core's transaction stays open until the end: a move up
    sees by it that a reader is left who lacks the copy. A tier that is away is NotNow, never a partial answer.
    """

    def __init__(
        self,
        core: Link,
        main: Link | None,
        catalog: Link | None,
        policies: Sequence[TablePolicy],
        *,
        timeout_seconds: float,
        archive: SegmentScan | None,
        asked: AskedAges | None = None,
    ) -> None:
        """`timeout_seconds` bounds each server's transactions and the whole; `asked` is told which ages were asked for.

        Does no I/O.
        """
        self._core, self._main, self._catalog = core, main, catalog
        self._policies = {p.name: p for p in policies}
        self._timeout_seconds = timeout_seconds
        self._archive = archive
        self._asked = asked
        self._alone = Alone(self._policies, main, catalog, archive, self._reading)

    def query(self, statement: str) -> "pa.Table":
        """The result, with Postgres's column names in their order.

        Raises UsageError, before any row is read, for a statement that writes or that DuckDB would answer differently; NotNow
        for a tier that is away or a time-out; Failed for an error in the data (a division by zero, an overflow).
        """
        parsed = parse(statement)
        managed = managed_tables(parsed, self._policies)
        if managed:
            _load_libraries()
        try:
            return self._answered(parsed, all_tiers=bool(managed))
        except at_core.UnknownRelationError as unknown:
            if managed or self._main is None:
                raise
            return self._answered_by_main(parsed, unknown)

    def _answered(self, parsed: Statement, *, all_tiers: bool) -> "pa.Table":
        with ExitStack() as stack:
            core, main, catalog = self._connect(stack, all_tiers=all_tiers)
            answered: list[Scan] = []
            stack.callback(self._remember, main, answered)  # when the snapshots have ended, over the connection that is there
            cur = stack.enter_context(self._reading(core, self._core))
            described = at_core.describe(core, parsed.sql)
            reached = self._alone.refuse_views(cur, parsed)
            if not all_tiers:
                self._alone.refuse_hidden(cur, cur, parsed, reached)
                return at_core.answer(cur, parsed.sql, described)
            self._alone.refuse_departed(cur, reached)
            made = self._plan(cur, parsed, described)
            snapshots = self._snapshots(stack, cur, main, catalog, made)
            if snapshots.reused is not None:
                snapshots.places = snapshots.reused.at_main(made.scans)
            answer = self._run(made, snapshots, described)
            answered += made.scans
            return answer

    def _answered_by_main(self, parsed: Statement, unknown: TierkeeperError) -> "pa.Table":
        """What Core does not know may be a table of Main's own, such as one that was restored there."""
        with ExitStack() as stack:
            core, main, _ = self._connect(stack, all_tiers=True)
            if main is None or self._main is None:
                raise unknown
            before = stack.enter_context(self._reading(core, self._core))
            cur = stack.enter_context(self._reading(main, self._main))
            described = self._alone.of_main((before, main, cur), parsed, unknown)
            return at_core.answer(cur, parsed.sql, described)

    def _remember(self, main: Connection | None, answered: Sequence[Scan]) -> None:
        if self._asked is not None and main is not None:
            self._asked.note(main, [Touched(s.table, s.ages.low, s.ages.high) for s in answered if s.spread and s.age])

    def explain(self, statement: str) -> list[str]:
        """How the statement would be answered, as lines for a person; reads the catalogs and no table's rows."""
        parsed = parse(statement)
        managed = managed_tables(parsed, self._policies)
        if not managed:
            return ["Core answers it alone, as it is; Main, where Core has no such table"]
        with ExitStack() as stack:
            core, main, catalog = self._connect(stack, all_tiers=True)
            cur = stack.enter_context(self._reading(core, self._core))
            described = at_core.describe(core, statement)
            self._alone.refuse_departed(cur, self._alone.refuse_views(cur, parsed))
            made = self._plan(cur, parsed, described)
            snapshots = self._snapshots(stack, cur, main, catalog, made)
            lines = snapshots.reused.explained(made.scans) if snapshots.reused is not None else []
            for scan in made.scans:
                lines += [f"{tier}: {text}" for tier, text in self._scan_texts(scan, snapshots)]
                counted = snapshots.segments.get(scan.table, []) if scan.spread else []
                touched = _touched(scan, snapshots)
                lines += [f"archive: segment {s.id} of {scan.table}, {s.rows} rows" for s in touched]
                lines += [f"archive: {len(counted) - len(touched)} segments of {scan.table} cannot match"] if scan.spread else []
            return [*lines, f"then DuckDB: {made.duck}"]

    # Core, and the plan

    def _connect(self, stack: ExitStack, *, all_tiers: bool) -> tuple[Connection, Connection | None, Connection | None]:
        """All connections at once: what lies between the snapshots is short then."""
        links = [self._core, *((self._main, self._catalog) if all_tiers else (None, None))]
        with ThreadPoolExecutor(len(links)) as pool:
            waiting = [pool.submit(link.connect, "query") if link is not None else None for link in links]
            opened: list[Connection | None] = []
            errors: list[TierkeeperError] = []
            for one in waiting:
                try:
                    opened.append(stack.enter_context(closing(one.result())) if one is not None else None)
                except TierkeeperError as error:
                    errors.append(error)
        if errors:
            raise errors[0]
        core = opened[0]
        if core is None:
            raise UsageError(PLACE, "Core is not configured", "Set tiers.core.url")
        return core, opened[1], opened[2]

    @contextmanager
    def _reading(self, conn: Connection, link: Link) -> Iterator[Cursor]:
        """One read-only snapshot that the server ends by itself when the reader's time is over."""
        with told_of(link), transaction(conn, isolation="repeatable read", read_only=True) as cur:
            milliseconds = str(int(self._timeout_seconds * 1000))
            cur.execute(_SQL["settings"], {"milliseconds": milliseconds})
            if conn.info.server_version >= _TRANSACTION_TIMEOUT_SINCE:
                cur.execute("SELECT set_config('transaction_timeout', %s, true)", [milliseconds])
            yield cur

    def _plan(self, cur: Cursor, parsed: Statement, described: Sequence[tuple[str, int]]) -> Plan:
        facts: Facts = at_core.read_facts(cur, parsed)
        made = plan(parsed, facts, self._policies)
        at_core.confirm(cur, parsed, made, described)
        return made

    # The snapshots, in their order

    def _snapshots(
        self, stack: ExitStack, core: Cursor, main: Connection | None, catalog: Connection | None, made: Plan
    ) -> _Snapshots:
        taken = _Snapshots(core)
        tables = sorted({s.table for s in made.scans if s.spread})
        _refuse_rewritten(core, tables, self._core)
        moved_from_core = self._moved(core)
        at_core_arrived = self._arrived(core)
        taken.core = _exported(core)
        if main is None or self._main is None:
            return taken
        at_main = stack.enter_context(self._reading(main, self._main))
        at_main_arrived = self._arrived(at_main)
        moved_from_main = self._moved(at_main)
        trust(core, at_main, (moved_from_core, moved_from_main), (at_core_arrived, at_main_arrived))
        taken.leave_out("core", at_core_arrived, moved_from_main)  # what is on its way up is still Main's row
        taken.main = _exported(at_main)
        _lock_at_main(at_main, tables, self._main, taken)
        if catalog is None or self._catalog is None or self._archive is None:
            taken.leave_out("main", at_main_arrived, moved_from_core)
            taken.reused = self._reused(core, at_main, taken, made.scans)
            return taken
        at_catalog = stack.enter_context(self._reading(catalog, self._catalog))
        moved_from_catalog = self._moved(at_catalog)
        memory.trust_catalog(at_main, at_catalog, moved_from_main, moved_from_catalog)
        taken.leave_out("main", at_main_arrived, moved_from_core | moved_from_catalog)
        for name in tables:
            known = self._archive.segments(at_catalog, name)
            taken.segments[name] = [s for s in known if counts(s, moved_from_main, self._timeout_seconds)]
        taken.reused = self._reused(core, at_main, taken, made.scans)
        return taken

    def _moved(self, cur: Cursor) -> dict[UUID, str]:
        return memory.handed(cur)

    def _arrived(self, cur: Cursor) -> list[Arrival]:
        return [Arrival(*row) for row in cur.execute(_SQL["in_flight"], {"seconds": self._timeout_seconds})]

    def _reused(self, core: Cursor, main: Cursor, taken: _Snapshots, scans: Sequence[Scan]) -> Reused:
        """What is to be known of keys that are in two tiers, now that it is settled which rows count in each."""
        excluded = {tier: {n: x for (t, n), x in taken.excluded.items() if t == tier} for tier in ("core", "main")}
        at_core, at_main = Tier(self._core, core, excluded["core"]), Tier(self._main or self._core, main, excluded["main"])
        reused = Reused(at_core, at_main, taken.followed, taken.main_tables, self._timeout_seconds)
        reused.look({s.table: s.oid for s in scans if s.table in taken.main_tables or taken.segments.get(s.table)})
        return reused

    # Reading and finishing

    def _scan_texts(self, scan: Scan, snapshots: _Snapshots) -> list[tuple[str, str]]:
        """The SELECT for each Postgres tier that may hold rows of `scan`."""
        texts = [("core", scan_sql(scan, snapshots.excluded.get(("core", scan.table), [])))]
        if not scan.spread or snapshots.main is None or scan.table not in snapshots.main_tables:
            return texts
        check_in_step(scan, snapshots.main_types[scan.table], snapshots.followed.get(scan.table))
        places: Places = snapshots.places.get(scan.table, Places())
        return [*texts, ("main", scan_sql(scan, snapshots.excluded.get(("main", scan.table), []), places))]

    def _streams(self, scan: Scan, snapshots: _Snapshots) -> Iterator[tuple[ExitStack, "pa.RecordBatchReader"]]:
        """The scan's rows at each tier, one stream after the other; each stack holds a stream's connection."""
        import pyarrow as pa

        from tierkeeper.query.values import wire_schema

        for tier, text in self._scan_texts(scan, snapshots):
            link, snapshot = (self._core, snapshots.core) if tier == "core" else (self._main, snapshots.main)
            if link is not None and snapshot is not None:
                held, limit = ExitStack(), {"statement_timeout": f"{int(self._timeout_seconds * 1000)}ms"}
                reader = snapshot_reader(link, snapshot, text, purpose="query", settings=limit, told=scan_error)
                yield held, held.enter_context(reader)
        touched = _touched(scan, snapshots)
        if touched:
            yield ExitStack(), pa.RecordBatchReader.from_batches(wire_schema(scan), self._archived(scan, touched, snapshots))

    def _archived(self, scan: Scan, segments: Sequence[ScanSegment], snapshots: _Snapshots) -> Iterator[Any]:
        from tierkeeper.query.values import from_archive

        if self._archive is None or snapshots.reused is None:
            return
        seen = Segments(scan, snapshots.reused)
        try:
            for segment in segments:
                with self._archive.open(segment.id) as content:
                    yield from from_archive(seen.rows(content, segment), scan)
        except TierkeeperError as error:
            snapshots.archive_fault = error
            raise

    def _run(self, made: Plan, snapshots: _Snapshots, described: Sequence[tuple[str, int]]) -> "pa.Table":
        from tierkeeper.query.engine import Engine
        from tierkeeper.query.values import finished

        engine = Engine(made, self._timeout_seconds)
        try:
            with ExitStack() as held, engine.opened():
                for scan in made.scans:
                    self._load(engine, scan, snapshots, held, streaming=made.streams)
                return finished(engine.answer(), at_core.named(made.outputs, described))
        except TierkeeperError as error:
            raise (snapshots.archive_fault or error) from error.__cause__

    def _load(self, engine: "Engine", scan: Scan, snapshots: _Snapshots, held: ExitStack, *, streaming: bool) -> None:
        if streaming:
            streams = []
            for stack, stream in self._streams(scan, snapshots):
                held.enter_context(stack)
                streams.append(stream)
            engine.give(scan, streams)
            return
        for i, (stack, stream) in enumerate(self._streams(scan, snapshots)):
            with stack:
                engine.give(scan, [stream], first=i == 0)


def counts(segment: ScanSegment, moved_from_main: Collection[object], longest_reader_seconds: float) -> bool:
    """Whether a segment's rows are the rows: its marker was moved in Main's snapshot, or its batch is forgotten, or could be.

    A Main that was put back knows nothing of the batch. Raises NotNow where it could be by a standby's clock.
    """
    if segment.state == "forgotten" or segment.batch in moved_from_main:
        return True
    rested = segment.state == "done" and (segment.settled_seconds or 0.0) > longest_reader_seconds
    if rested and segment.by_another_clock:
        raise memory.doubtful("archive", segment.batch)
    return rested


def _load_libraries() -> None:
    """Before a server's clock runs: loading them for the first time takes as long as a short query.timeout."""
    import_module("adbc_driver_postgresql.dbapi")
    import_module("tierkeeper.query.engine")


def _exported(cur: Cursor) -> str:
    row = cur.execute("SELECT pg_export_snapshot()").fetchone()
    return str(row[0]) if row is not None else ""


def _lock_at_main(cur: Cursor, tables: Sequence[TableName], link: Link, taken: _Snapshots) -> None:
    """Keeps the tables as this snapshot has them, and reads their columns; one that it does not have holds no rows.

    I2: what a rewrite wrote, a snapshot from before it does not see: to it the table would be empty.
    """
    there = [n for n in tables if shapes.exists(cur.connection, n)]
    for name in there:
        cur.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(sql.Identifier(name.schema, name.name)))
    _refuse_rewritten(cur, there, link)
    wanted = {"schemas": [t.schema for t in there], "names": [t.name for t in there], "bytewise": False}
    for schema, table, name, declared, *_ in cur.execute(_SQL["columns"], wanted).fetchall():
        taken.main_types.setdefault(TableName(str(schema), str(table)), {})[str(name)] = str(declared)
    cur.execute("SELECT set_config('search_path', 'pg_catalog', true)")  # so that types have their schema, as in segments
    taken.main_tables = {name: shapes.read(cur.connection, name, tier="main") for name in there}
    taken.followed = followed.read(cur, there)


def _refuse_rewritten(cur: Cursor, tables: Sequence[TableName], link: Link) -> None:
    """Raises NotNow where one of `tables`, which are locked, was rewritten since the snapshot was taken."""
    wanted = {"schemas": [t.schema for t in tables], "names": [t.name for t in tables]}
    for schema, table in cur.execute(_SQL["rewritten"], wanted).fetchall():
        cause = f"{TableName(str(schema), str(table))} was rewritten just when it was to be read"
        raise NotNow(f"tiers.{link.tier}", cause, "Ask again")


def _touched(scan: Scan, snapshots: _Snapshots) -> list[ScanSegment]:
    """The segments that may have rows of the scan."""
    if not scan.spread or snapshots.reused is None:
        return []
    seen = Segments(scan, snapshots.reused)
    return [s for s in snapshots.segments.get(scan.table, []) if seen.may_match(s)]
