"""A Postgres tier that rows arrive in: the ledger's side of a batch."""

from collections import deque
from collections.abc import Sequence
from contextlib import closing
from threading import Lock
from typing import cast
from uuid import UUID

from psycopg import errors, sql

from tierkeeper.kernel.digest import RowDigest
from tierkeeper.kernel.errors import Failed, Fenced, NotNow, TierkeeperError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.ports import Batch, LedgerRow, LedgerState, Read, SourceSnapshot
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.mover import fitness, keys, model, references
from tierkeeper.mover.ledger import ledger_row, note_proven
from tierkeeper.mover.model import Bound
from tierkeeper.mover.places import Going
from tierkeeper.mover.standbys import Standbys
from tierkeeper.mover.undoing import take_back, withdraw
from tierkeeper.postgres import shapes
from tierkeeper.postgres.copy import rows_in, rows_out
from tierkeeper.postgres.link import MOVER_LOCK, PINNED_PATH, Connection, transaction, translate
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load
from tierkeeper.tiers import memory, standing
from tierkeeper.tiers.profile import SELF_HOSTED
from tierkeeper.tiers.usage import measure, refusal

_SQL = load("tierkeeper.mover", "destination.sql")


class KeyTaken(Exception):  # noqa: N818 - an answer for the runner, not an error
    """A key of the batch is at the destination already, or a value that `constraint` wants once; nothing was changed."""

    def __init__(self, constraint: str, table: tuple[str, str]) -> None:
        super().__init__(constraint)
        self.constraint = constraint
        self.table = table


class ParentMissing(Exception):  # noqa: N818 - likewise
    """A row of the batch refers to one that the destination has not; nothing was changed."""


class Contended(Exception):  # noqa: N818 - likewise
    """Another session holds what a row of the batch needs there, a neighbour's copy for one; nothing was changed."""


class Referred(Exception):  # noqa: N818 - likewise
    """Rows that are here refer to rows of the batch, which could not be taken back then; nothing was changed."""

    def __init__(self, table: TableName, found: list[Bound], by: str) -> None:
        super().__init__(by)
        self.table = table
        self.keys = found
        self.by = by


Target = tuple[TableShape, shapes.Columns]
"""A table at the destination, and its columns with the versions of what their values are."""


class Targets:
    """The tables as they were when a run first looked, for all of its workers; each copy proves that its own still is."""

    def __init__(self) -> None:
        self._known: dict[TableName, Target] = {}
        self._lock = Lock()

    def of(self, conn: Connection, table: TableName) -> Target:
        with self._lock:
            if table not in self._known:
                with transaction(conn, read_only=True) as cur:
                    self._known[table] = (shapes.read(conn, table), shapes.columns_now(cur, table))
            return self._known[table]


class PostgresDestination:
    """Implements `kernel.ports.Destination` for a Postgres tier.

    Keeps I1, I3 and I5: a copy becomes durable together with its ledger row, after it was read back and compared; its rows are
    known by the transaction that wrote them (their xmin), never by their range, because neighbours share ranges and
    collations differ between servers.
    """

    def __init__(self, conn: Connection, tier: Tier, source: Tier, longest_reader_seconds: float) -> None:
        self.tier: Tier = tier
        self._longest_reader_seconds = longest_reader_seconds
        self._source = source
        self._conn = conn
        self._targets = Targets()
        self._older: dict[tuple[UUID, ...], tuple[set[tuple[int, str]], Standbys]] = {}

    @property
    def conn(self) -> Connection:
        return self._conn

    def beside(self, conn: Connection) -> "PostgresDestination":
        """The same over another connection, for another worker of the run: what is known of the tables they share."""
        made = PostgresDestination(conn, self.tier, self._source, self._longest_reader_seconds)
        made._targets = self._targets
        return made

    def open(self, batch: Batch) -> LedgerRow:
        return self.open_all([batch])[0]

    def open_all(self, batches: Sequence[Batch]) -> list[LedgerRow]:
        """See `Destination.open_all`."""
        rows = []
        with transaction(self._conn) as cur:
            for batch in batches:
                row = cur.execute(_SQL["ledger_open"], {
                    "batch": batch.id, "source": batch.source, "schema": batch.table.schema, "table": batch.table.name,
                    "age": batch.age, "cutoff": batch.cutoff, "predicate": batch.predicate,
                    "part_schema": batch.part and batch.part.schema, "part_name": batch.part and batch.part.name,
                    "reader_seconds": self._longest_reader_seconds, "origin": batch.origin,
                }).fetchone()  # fmt: skip
                if row is None:
                    raise Failed(f"{batch.table} ({self.tier})", "the ledger took no row", "Run tierkeeper setup --apply")
                if batch.bundle is not None:
                    cur.execute(_SQL["bundle_note"], {"batch": batch.id, "bundle": batch.bundle})
                rows.append(LedgerRow(batch, int(row[0]), "open", None, 0))
        return rows

    def reads(self, shape: TableShape) -> Read:
        return model.read(shape, self._targets.of(self._conn, shape.name)[0])

    def copy(self, batch: Batch, snapshot: SourceSnapshot) -> LedgerRow:
        """Copies, reads back, compares, commits. Raises KeyTaken, ParentMissing, Contended, Fenced, or Failed on a difference."""
        del batch  # the snapshot has it
        return self.copy_all([snapshot])[0]

    def copy_all(self, snapshots: Sequence[SourceSnapshot]) -> list[LedgerRow]:
        """`copy` of a bundle's batches in one transaction: parents and children become durable together."""
        targets = [self._targets.of(self._conn, s.batch.table) for s in snapshots]
        place = f"{', '.join(str(s.batch.table) for s in snapshots)} ({self.tier})"
        try:
            with transaction(self._conn, own_path=True) as cur:
                digests = self._copy_in(cur, snapshots, targets)
                reach(Point.COPY_BEFORE_COMMIT)
        except errors.UniqueViolation as error:
            table = (str(error.diag.schema_name), str(error.diag.table_name))
            raise KeyTaken(str(error.diag.constraint_name), table) from error
        except errors.ForeignKeyViolation as error:
            raise ParentMissing from error
        except (errors.DeadlockDetected, errors.SerializationFailure) as error:
            raise Contended from error
        except errors.LockNotAvailable as error:
            if not error.diag.context:  # the table's own lock, before the first row: no other batch would get it either
                raise
            raise Contended from error
        except errors.ObjectInUse as error:
            raise Failed(
                place,
                f"a trigger there writes to the rows that arrive ({error.diag.message_primary})",
                "Drop or change it, or leave those rows out with --where; nothing was moved",
            ) from error
        except errors.CheckViolation as error:
            raise _no_partition(error, place) from error
        except (
            errors.IntegrityError,
            errors.DataError,
            errors.ProgrammingError,
            errors.RaiseException,
            errors.DiskFull,
        ) as error:
            raise translate(error, place) from error
        reach(Point.COPIED)
        return [LedgerRow(s.batch, 0, "copied", s.extent, d.size_bytes) for s, d in zip(snapshots, digests, strict=True)]

    def _copy_in(self, cur: Cursor, snapshots: Sequence[SourceSnapshot], targets: Sequence[Target]) -> list[RowDigest]:
        if len(snapshots) > 1:
            cur.execute("SET CONSTRAINTS ALL DEFERRED")  # tables may refer to each other in a circle
        sent = [self._send(cur, s, t) for s, t in zip(snapshots, targets, strict=True)]
        # What is deferred may still change or refuse a row: before the comparison, which is of values as they were sent.
        cur.together([sql.SQL("SET CONSTRAINTS ALL IMMEDIATE"), PINNED_PATH])
        for snapshot, target, digest in zip(snapshots, targets, sent, strict=True):
            self._prove(cur, snapshot, target, digest)
        if self.tier == "core" and snapshots[0].batch.bundle is not None:
            self._refuse_referred(cur, snapshots)
        return sent

    def _refuse_referred(self, cur: Cursor, snapshots: Sequence[SourceSnapshot]) -> None:
        """Raises Referred for rows that Core's own have been waiting for: under a foreign key that was never validated, by a
        trigger that made them just now. The guards keep such from coming later, not these.
        """
        key = {s.batch.table: s.shape.key for s in snapshots}
        own = [Going(s.batch.table, self._own(s).as_string(self._conn)) for s in snapshots]
        found = references.reaching(cur, own)
        if found is not None:
            raise Referred(found.parent, references.reached(cur, found, own, key[found.parent]), str(found))

    def _own(self, snapshot: SourceSnapshot) -> sql.Composed:
        """What holds for the rows of the batch that this transaction has written."""
        batch, shape = snapshot.batch, snapshot.shape
        near = model.near(batch.age, snapshot.extent) if batch.age else keys.among(batch, shape)
        return _SQL["own"].format(near=near)

    def _send(self, cur: Cursor, snapshot: SourceSnapshot, target: Target) -> RowDigest:
        batch, extent, place = snapshot.batch, snapshot.extent, f"{snapshot.batch.table} ({self.tier})"
        changed = cur.execute(_SQL["ledger_copied"], {
            "batch": batch.id, "rows": extent.rows, "fingerprint": extent.fingerprint,
            "min_age": extent.min_age, "max_age": extent.max_age,
        }).rowcount  # fmt: skip
        if changed != 1:
            raise Fenced(place, "another run has settled this batch", "Run the same command again")
        columns, (written, binary) = [c.name for c in snapshot.shape.columns], model.read(snapshot.shape, target[0])
        sent = RowDigest()
        into = sql.SQL("COPY {} ({}) FROM STDIN {}").format(
            model.qualified(batch.table), model.names(written), model.copy_options(binary)
        )
        with closing(snapshot.copy(written, binary=binary, digest=sent)) as blocks:
            rows_in(cur, into, blocks)
        if written != columns:  # what is not sent is compared all the same
            sent = RowDigest()
            deque(snapshot.copy(columns, binary=binary, digest=sent), maxlen=0)
        if not batch.age:
            keys.stage(cur, snapshot)
        snapshot.close()
        if shapes.columns_now(cur, batch.table) != target[1]:
            raise NotNow(place, "its columns were altered during the run", "Run the same command again")
        return sent

    def _prove(self, cur: Cursor, snapshot: SourceSnapshot, target: Target, sent: RowDigest) -> None:
        """Reads the batch's own rows back. Raises Failed unless they are what was sent."""
        batch, extent, place = snapshot.batch, snapshot.extent, f"{snapshot.batch.table} ({self.tier})"
        columns = [c.name for c in snapshot.shape.columns]
        kept, binary = RowDigest(), model.travels_as_binary(snapshot.shape, target[0])
        own = _SQL["own_rows"].format(
            columns=model.sent(snapshot.shape, columns),
            table=model.qualified(batch.table),
            own=self._own(snapshot),
            options=model.copy_options(binary),
        )
        deque(rows_out(cur, own, binary=binary, digest=kept), maxlen=0)
        if sent.rows != extent.rows:
            raise Failed(
                place,
                f"{extent.rows} rows fitted the condition when it was asked first, and {sent.rows} when it was asked again",
                "Give a condition that holds for the same rows however often it is asked; nothing was moved",
            )
        if not sent.same_as(kept):
            made = [c for c in columns if c in model.generated(target[0])]
            raise Failed(
                place,
                f"the copy read back differs from what was sent ({sent.rows} rows sent, {kept.rows} kept)"
                + (f"; {', '.join(map(repr, made))} there is generated, maybe to another value" if made else ""),
                "Look for a trigger or rule on the table there that changes rows; nothing was moved",
            )
        note_proven(cur, batch, sent, self._own(snapshot) if target[0].is_tree else None)

    def refuse_unfit(self, table: TableName) -> fitness.Surroundings | None:
        """What is around the table here. Raises NotNow or UsageError where its rows could not arrive safely, before a change.

        A table that is not there yet (None) is fit: the setup makes it.
        """
        refused = refusal(measure(self._conn, SELF_HOSTED), f"tiers.{self.tier}", gives_only=False)
        around = fitness.look(self._conn, table)
        unfit = refused or (around and fitness.fault(around, table, self.tier, arrives=True))
        if unfit:
            raise unfit
        return around

    def taken_keys(self, batch: Batch, snapshot: SourceSnapshot) -> tuple[list[Bound], bool]:
        """Keys of the batch that are here already, in the text form and order of the table's key.

        Without those of a copy in flight, which is not the row yet and may be undone: whether one may be in the way is the
        second value. Where no key of the batch is here, any may be: it had a value that is wanted once, or had the key until now.
        """
        with transaction(self._conn) as cur:
            keys.stage(cur, snapshot)
            mains = "t" if self.tier == "main" else "s"  # equal keys may be written otherwise, and readers look for it at Main
            query = _SQL["keys_taken"].format(
                keys=sql.SQL(", ").join(model.text_of(k, mains) for k in snapshot.shape.key),
                staging=keys.staging(batch),
                table=model.qualified(batch.table),
                same=model.same_rows(snapshot.shape),
            )
            found = cur.execute(query).fetchall()
            taken = [tuple(map(str, key)) for in_flight, *key in found if not in_flight]
            any_copied = any(state == "copied" for state, _ in self._states(cur, batch.table))
        return taken, len(taken) < len(found) if found else any_copied

    def settled_for_readers(self, batch_ids: Sequence[UUID]) -> str | None:
        """None once every snapshot here that is older than the copies has ended and standbys have flushed them.

        The set of old transactions is taken once, after the copies' commits: what begins later cannot lack them, though an old
        writer may still hold back its `backend_xmin`. Raises Displaced where a copy's table is not the one that it was put in, or
        somebody may have changed a copy: its guard was off.
        """
        group = tuple(batch_ids)
        with transaction(self._conn, read_only=True) as cur:
            asked = {"batches": list(group), "class": MOVER_LOCK[0], "object": MOVER_LOCK[1]}
            current = {(int(pid), str(vxid)) for pid, vxid in cur.execute(_SQL["older_snapshots"], asked).fetchall()}
            if group not in self._older:
                lsn = cur.execute(_SQL["copy_lsn"]).fetchone()
                self._older[group] = (current, Standbys(str(lsn[0]) if lsn else "0/0"))
            old, standbys = self._older[group]
            waiting = old & current
            questions = [standbys.question(), standing.question(group), standing.unguarded(group)]
            found, displaced, unguarded = cur.all_of(questions, last=True)
        untrue = standing.told(displaced, self.tier) or standing.told_unguarded(unguarded, self.tier)
        if untrue is not None:
            raise untrue
        lacking = standbys.waits_for(found, self.tier)
        if waiting:
            pid, _ = min(waiting)
            return f"a reader at {self.tier} that began before the copy (pid {pid}, {len(waiting)} in all)"
        if lacking is None:
            del self._older[group]
        return lacking

    def finish(self, batch_id: UUID) -> None:
        with transaction(self._conn) as cur:
            changed = cur.execute(_SQL["ledger_finish"], {"batches": self._family(cur, batch_id)}).rowcount
        if not changed and self.knows(batch_id) not in ("done", "forgotten"):
            raise Failed(
                f"ledger of {self.tier}",
                f"batch {batch_id} was moved, but its ledger row does not say that it was copied",
                "Stop moving and compare the tiers: this tier may have been put back from a backup",
            )
        reach(Point.DONE)

    def undo(self, batch_id: UUID) -> None:
        """See `Destination.undo`. Raises NotNow where another row refers to one that would be taken away."""
        if take_back(self._conn, self.tier, batch_id):
            reach(Point.UNDONE)

    def withdraw(self, batch_id: UUID) -> bool:
        return withdraw(self._conn, batch_id)

    def source_keeps(self, batch_id: UUID) -> bool:  # noqa: ARG002 - a database is all that a tier here has
        return False

    def origin(self, table: TableName) -> UUID | None:
        return memory.origin(self._conn, self._source, table)

    def _family(self, cur: Cursor, batch_id: UUID) -> list[UUID]:
        """The batch with those that it is tied to: they end together, one way or the other."""
        return [r[0] for r in cur.execute(_SQL["ledger_family"], {"batch": batch_id}).fetchall()]

    def unsettled(self, table: TableName | None = None) -> list[LedgerRow]:
        with transaction(self._conn, read_only=True) as cur:
            rows = cur.last(_SQL["ledger_unsettled"], {
                "source": self._source, "schema": table.schema if table else None, "table": table.name if table else None
            }).fetchall()  # fmt: skip
        return [ledger_row(r) for r in rows]

    def forget(self, older_than_seconds: float, settled: Sequence[UUID]) -> list[UUID]:
        bounds = {"seconds": older_than_seconds, "source": self._source, "settled": list(settled)}
        with transaction(self._conn) as cur:
            cur.execute(_SQL["ledger_forget"], bounds)
        reach(Point.FORGOTTEN)
        with transaction(self._conn, read_only=True) as cur:
            return [r[0] for r in cur.last(_SQL["ledger_droppable"], bounds)]

    def rests(self, table: TableName, longest_reader_seconds: float) -> str | None:
        if not self._arriving(table):
            return None
        self.forget(longest_reader_seconds, [])
        states = self._arriving(table)
        if not states:
            return None
        in_flight = sum(n for state, n in states if state != "done")
        if in_flight:
            return f"resting: {in_flight} {'batch' if in_flight == 1 else 'batches'} on the way to {self.tier}"
        return f"resting: rows that came to {self.tier} stay for {longest_reader_seconds:g} s (query.timeout){self._ahead(table)}"

    def _ahead(self, table: TableName) -> str:
        """What to add where rows came at a time that is still to be: nobody knows how old readers are, so they wait for it."""
        with transaction(self._conn, read_only=True) as cur:
            (ahead,) = cur.last(_SQL["ledger_ahead"], {"schema": table.schema, "table": table.name}).fetchone() or (None,)
        return f", and for {ahead} more: the clock of {self.tier}'s server was set back by that" if ahead else ""

    def _arriving(self, table: TableName) -> list[tuple[str, int]]:
        """How many batches of `table` are in which state, of those that are not over."""
        with transaction(self._conn, read_only=True) as cur:
            return self._states(cur, table)

    def _states(self, cur: Cursor, table: TableName) -> list[tuple[str, int]]:
        """The last question of `cur`'s transaction."""
        rows = cur.last(_SQL["ledger_resting"], {"schema": table.schema, "table": table.name}).fetchall()
        return [(str(state), int(n)) for state, n in rows]

    def knows(self, batch_id: UUID) -> LedgerState | None:
        with transaction(self._conn, read_only=True) as cur:
            row = cur.last(_SQL["ledger_state"], {"batch": batch_id}).fetchone()
        return cast("LedgerState", row[0]) if row else None


def _no_partition(error: errors.CheckViolation, place: str) -> TierkeeperError:
    """A partitioned table that has no place for a row says so as a check does, but names no constraint."""
    if error.diag.constraint_name is not None:
        return translate(error, place)
    wanted = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
    return Failed(place, f"it has no partition for some of the rows{wanted}", "Add it there, or a DEFAULT partition")
