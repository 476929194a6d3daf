"""Where siblings meet: the mover drives a `Destination`; Postgres tiers and the archive each are one.

Pure declarations; nothing here may know a driver.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from uuid import UUID

from tierkeeper.kernel.digest import RowDigest
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.tables import TableName, TableShape

if TYPE_CHECKING:
    import pyarrow as pa

Gate = Callable[[str], AbstractContextManager[None]]
"""`gate(place)`, around an attempt to reach a server: raises NotNow where it is known to be away, without an attempt."""
Block = bytearray | memoryview
"""Whole rows as COPY carries them."""
LedgerState = Literal["open", "copied", "done", "undone", "forgotten"]


@dataclass(frozen=True)
class Batch:
    """A batch as both of its tiers know it. `predicate` is SQL at the source that selects exactly its rows in any snapshot.

    `part` is the partition or inheriting table where its rows lie there; None: `table` itself, or parts that `predicate` names.
    `bundle` ties the batches of several tables, joined by foreign keys, that go together or not at all. An empty `age` is a
    table's whose rows have none and go with those that they refer to. `origin` is the identity of the database that they leave.
    """

    id: UUID
    source: Tier
    table: TableName
    age: str
    cutoff: datetime
    predicate: str
    part: TableName | None = None
    bundle: UUID | None = None
    origin: UUID | None = None

    @property
    def heap(self) -> TableName:
        """The table at the source that has the rows themselves."""
        return self.part or self.table


@dataclass(frozen=True)
class Extent:
    """What one snapshot at the source says of a batch. `fingerprint` changes when any of its rows is touched, added or gone."""

    rows: int
    fingerprint: str
    min_age: datetime | None
    max_age: datetime | None


@dataclass(frozen=True)
class LedgerRow:
    """A batch as its destination's ledger has it. `seq` only grows; `extent` is None until it is copied."""

    batch: Batch
    seq: int
    state: LedgerState
    extent: Extent | None
    bytes: int


Read = tuple[Sequence[str], bool]
"""How a destination reads a batch by COPY: its columns, and whether as binary."""


class SourceSnapshot(Protocol):
    """One short READ ONLY, REPEATABLE READ transaction at the source (S1). Everything read through it is one instant."""

    @property
    def shape(self) -> TableShape: ...
    @property
    def batch(self) -> Batch: ...
    @property
    def extent(self) -> Extent: ...

    def copy(self, columns: Sequence[str], *, binary: bool, digest: RowDigest | None = None) -> Generator[Block]:
        """The batch's rows as COPY data, in blocks; `digest` has counted them in when it ends. Close it when you stop early."""
        ...

    def arrow(
        self, projection: Sequence[tuple[str, str]], order_by: Sequence[str]
    ) -> AbstractContextManager[pa.RecordBatchReader]:
        """The batch's rows as Arrow record batches: `projection` pairs a name with an SQL expression (already quoted)."""
        ...

    def close(self) -> None:
        """Ends the transaction at the source: it must not stay open while the destination proves and commits."""
        ...


class Destination(Protocol):
    """The ledger's side of the move protocol (design section 4).

    Keeps I1-I5 together with the source's markers: each method commits before it returns and is safe to call again; a change
    of state asserts the state before it and raises `Fenced` when somebody else changed it first.
    """

    tier: Tier

    def open(self, batch: Batch) -> LedgerRow:
        """Ledger row `open`, durable."""
        ...

    def open_all(self, batches: Sequence[Batch]) -> list[LedgerRow]:
        """The ledger rows of a bundle, all of them or none; parents first, so that they can be undone children first."""
        ...

    def reads(self, shape: TableShape) -> Read | None:
        """What `copy` will ask of a snapshot of `shape` first; None where it is no COPY."""
        ...

    def copy(self, batch: Batch, snapshot: SourceSnapshot) -> LedgerRow:
        """Ledger open -> copied with the rows, read back and compared by content first. Raises Failed on a difference."""
        ...

    def copy_all(self, snapshots: Sequence[SourceSnapshot]) -> list[LedgerRow]:
        """`copy` of a bundle's batches: they become `copied`, and durable, together or not at all.

        The snapshots share one transaction at the source, which the last of them ends.
        """
        ...

    def settled_for_readers(self, batch_ids: Sequence[UUID]) -> str | None:
        """None once no reader's snapshot here can lack these copies and standbys have flushed them; else what it waits for."""
        ...

    def finish(self, batch_id: UUID) -> None:
        """Ledger copied -> done, with all that are tied to the batch. Nothing to do if it is done or forgotten already."""
        ...

    def undo(self, batch_id: UUID) -> None:
        """Ledger open|copied -> undone, with all that are tied to the batch, taking exactly their rows away.

        The caller has won the marker.
        """
        ...

    def withdraw(self, batch_id: UUID) -> bool:
        """Ledger open -> undone, with all that are tied to the batch: nothing was copied yet. False where it is not `open`."""
        ...

    def source_keeps(self, batch_id: UUID) -> bool:
        """Whether the source counts the rows of a `copied` batch by what outlives its markers, as the archive's store does."""
        ...

    def origin(self, table: TableName) -> UUID | None:
        """The identity of the database that the newest rows of `table` here came from; None where none is known."""
        ...

    def unsettled(self, table: TableName | None = None) -> list[LedgerRow]:
        """Batches that are `open` or `copied`, oldest first; of `table`: with all that are tied to them."""
        ...

    def forget(self, older_than_seconds: float, settled: Sequence[UUID]) -> list[UUID]:
        """Ledger done -> forgotten for what has been done for longer than that.

        Returns those of `settled` (markers at the source that are moved or aborted) that may be dropped there: forgotten for
        longer than that, or undone.
        """
        ...

    def rests(self, table: TableName, longest_reader_seconds: float) -> str | None:
        """None if no batch of `table` arrived here within `longest_reader_seconds` or is in flight; else why it must rest."""
        ...

    def knows(self, batch_id: UUID) -> LedgerState | None:
        """The ledger's word on a batch; None if it never heard of it."""
        ...


class Audit(Protocol):
    """I7: an action that changes state has a record before it and after it, or it does not run."""

    def action(self, verb: str, subject: str, detail: Mapping[str, Any]) -> AbstractContextManager[Callable[..., None]]:
        """Writes the intent durably, then runs the block; the callable it yields adds to the outcome, written at the end."""
        ...


class Progress(Protocol):
    """Tells a person how far long work is."""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """`done` of `total` rows (None: unknown) of the work named `what`."""
        ...


@dataclass(frozen=True)
class Arrivals:
    """Rows that are to come to Core: how many, and what each column's values take as they are stored."""

    table: TableName
    rows: int
    column_bytes: Mapping[str, int]


class Room(Protocol):
    """Core's quota, as the mover needs it before rows go up."""

    def __call__(self, arrivals: Sequence[Arrivals]) -> str:
        """What Core would use with all of `arrivals`, in words. Raises Failed, with the figures, where that is too much (I9)."""
        ...


Stop = Callable[[], str | None]
"""Asked between batches: None to go on, else why the run must end (SIGTERM, a time limit)."""
ABANDONED: Final = "what started it has failed"
"""Why something must end that nobody has asked to end: what it has set going for others goes on."""

Throttle = Callable[[], str | None]
"""Asked once before each batch, from any thread: None to go on, else why the run must end (a tier has no room for another
batch). It may wait for room first. I9."""


class Offer(Protocol):
    """Parts of a run that other processes were offered."""

    def left(self) -> Sequence[int]:
        """Those, by their places, that nobody has ended: waiting ones, and ones that a live process works at."""
        ...

    def withdraw(self) -> None:
        """Nobody begins another of them. What is at work goes on, until it finds that the run is over."""
        ...


PART_VERSION: Final = 1
"""Of the documents that parts of moves are. Whoever writes another one takes his from a queue of their own, and waits for no
process that could not read them.
"""


class Sharing(Protocol):
    """Other processes that take parts of a large move."""

    def helpers(self) -> int:
        """How many are there now, this one not counted; none where that cannot be asked."""
        ...

    def offer(self, parts: Sequence[Mapping[str, Any]]) -> Offer:
        """Offers parts (JSON documents), to this process too: it takes its own like everybody else."""
        ...


@dataclass(frozen=True)
class ScanSegment:
    """A segment as a catalog snapshot has it. Ages are both included, None where the segment has none.

    `settled_seconds`: for how long its batch has been in its state; None: not known. `by_another_clock`: as a standby's has it,
    which did not say when that was.
    """

    id: str
    batch: UUID
    state: LedgerState
    rows: int
    min_age: datetime | None
    max_age: datetime | None
    age: str = ""  # the column that the ages are of; empty: not known
    settled_seconds: float | None = field(default=None, compare=False)  # it grows by itself
    by_another_clock: bool = False


class SegmentContent(Protocol):
    """An open segment: what its table was like when it was written, and its rows."""

    @property
    def shape(self) -> TableShape: ...

    def batches(self, columns: Sequence[str], min_age: datetime | None, max_age: datetime | None) -> Iterator[pa.RecordBatch]:
        """Its rows with just `columns`; rows whose age lies outside of [min_age, max_age] (None: open) may be left out.

        Integers, floats, booleans, text and a finite age come natively, all other types as Postgres's text under the
        pinned settings. Raises Failed where it is damaged.
        """
        ...

    def bounds(self, column: str) -> tuple[str, str] | None:
        """Texts between whose values, both included, all of the column lie, as its type orders them; None: not known."""
        ...


class SegmentScan(Protocol):
    """How `query` reads the archive: which segments a catalog snapshot has, and what is in them."""

    def segments(self, catalog_cursor: Any, table: TableName) -> list[ScanSegment]:
        """The segments of `table` in the snapshot of the transaction that `catalog_cursor` (psycopg) is in."""
        ...

    def open(self, segment_id: str) -> AbstractContextManager[SegmentContent]:
        """The segment for reading. Raises Failed for one that is missing or damaged."""
        ...


@dataclass(frozen=True)
class Frozen:
    """A segment that may come back to Main, as the catalog has it. `sha256` and `bytes` are of its encrypted file.

    Ages as `ScanSegment` has them.
    """

    id: UUID
    table: TableName
    age: str
    rows: int
    bytes: int
    sha256: str
    min_age: datetime | None
    max_age: datetime | None
    created_at: datetime


@dataclass(frozen=True)
class Held:
    """Rows that came back from the archive and stay for a while: ages from `min_age` to `max_age`, both included; None: any."""

    min_age: datetime | None
    max_age: datetime | None
    until: datetime


class Vault(Protocol):
    """The archive, as a source that gives whole segments."""

    def stage(self, cursor: Any, segment: Frozen, name: TableName) -> TableShape:
        """Makes the table `name` with the segment's rows, authenticated to the last byte, read back and found equal.

        In the transaction that `cursor` (psycopg) is in. The shape is the table's when the segment was written.
        """
        ...

    def leave(self, catalog_cursor: Any, pairs: Sequence[tuple[UUID, UUID]], held_until: datetime) -> bool:
        """The segments of `pairs` count no more, each for its batch, which has its rows from here on.

        In the transaction that `catalog_cursor` is in. False, and nothing that counts was changed, where one had changed before.
        """
        ...

    def counts(self, segments: Sequence[UUID]) -> bool:
        """Whether all of them count in the archive now."""
        ...

    def say_left(self) -> None:
        """Puts a signed word of it into the store for each segment that has left."""
        ...

    def rest(self, segments: Sequence[Frozen], longest_reader_seconds: float) -> None:
        """Waits until no reader can mistake those that came a moment ago. Raises NotNow for one in flight."""
        ...

    def erasable(self, table: TableName) -> Sequence[Frozen]:
        """The table's segments that count. Raises NotNow where one is on its way."""
        ...

    def rewrite(self, segment: Frozen, goes: bytes) -> UUID:
        """Puts a segment in its place that lacks the rows whose byte in `goes`, one a row in their order, is 1; its id."""
        ...


class Thaws(Protocol):
    """What came back from the archive, as the mover needs it before rows go there again."""

    def held(self, table: TableName) -> Sequence[Held]:
        """Which rows of `table` are to stay at Main."""
        ...

    def settle(self, tables: Sequence[TableName]) -> int:
        """Settles what interrupted runs left of `tables`, which would rest for ever; how many batches."""
        ...
