"""Returns the space of deleted rows, relation by relation, and measures that it came back."""

from dataclasses import dataclass, field

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.ports import Stop
from tierkeeper.kernel.results import Reclaim
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection
from tierkeeper.quotas import look, plan
from tierkeeper.quotas.compact import WAL_SHARE, Compaction
from tierkeeper.quotas.look import Facts
from tierkeeper.quotas.plan import Choice, Method, Room
from tierkeeper.quotas.reindex import clean, reindex
from tierkeeper.quotas.vacuum import FULL, HELD, PLAIN, can_be_cut, vacuum
from tierkeeper.tiers.tier import Tier
from tierkeeper.tiers.usage import measure


@dataclass
class Reclaimed:
    """What came back of a table, what did not and why.

    `unreturned_bytes`: of that what a later run gives back or new rows fill first. What needs a rewrite that nobody has allowed
    (TOAST), or more room than there is (an index), is not in it: it counts as used, and the other relations fall when rows leave.
    `kept_bytes`: all that did not come back, that too.
    """

    figures: list[Reclaim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unreturned_bytes: int = 0
    kept_bytes: int = 0


class Reclaimer:
    """Gives one table's dead space back, by what `plan` chooses for each of its relations.

    I9: scratch space is weighed against the quota before each method begins; none begins where a lock, an old snapshot or a
    forgotten replication slot would make it useless or dear, and the application never queues behind one, but for a rewrite that
    the user allowed. What does not come back is reported as such.
    """

    def __init__(
        self,
        conn: Connection,
        tier: Tier,
        table: TableName,
        *,
        may_rewrite: bool,
        longest_reader_seconds: float,
        clock: Clock,
        stop: Stop,
        whole: TableName | None = None,
    ) -> None:
        """`whole`: the table whose rows those of `table` move as, where that is another."""
        self._conn = conn
        self._tier = tier
        self._table = table
        self._whole = whole or table
        self._may_rewrite = may_rewrite
        self._reader_seconds = longest_reader_seconds
        self._clock = clock
        self._stop = stop
        self._done = Reclaimed()
        self._methods: dict[str, tuple[Method, float]] = {}
        self._rewrite_stopped = False
        self._has_no_room: set[str] = set()

    def run(self, before: Facts | None = None) -> Reclaimed | None:
        """Does it. None where there is no such table. `before`: the table as a VACUUM just before this found it."""
        before = before or look.facts(self._conn, self._table)
        if before is None:
            return None
        began = self._clock.monotonic()
        for name in clean(self._conn, self._table):
            self._done.notes.append(f"{self._table}: {name}, left by an interrupted REINDEX, was dropped")
        locked = vacuum(self._conn, self._table, PLAIN, self._clock)
        vacuumed = look.facts(self._conn, self._table, locked=locked is not None) or before
        self._methods[""] = (Method.VACUUM, self._clock.monotonic() - began)
        if locked is not None and locked is not HELD:
            self._done.notes.append(f"{self._table}: {locked}")
        barred = locked or look.barred(self._conn)
        if barred is None and vacuumed.heap.dead_bytes and not can_be_cut(self._conn, self._table, self._clock):
            barred = HELD
        after = self._heap(vacuumed, barred, locked=locked is not None)
        share = after.heap.pages / before.heap.pages if before.heap.pages else 1.0
        if self._methods[""][0] is not Method.REWRITE:
            held = (
                "an old snapshot still sees deleted rows, which a rebuilt index would hold as well"
                if after.heap.is_held
                else None
            )
            after = self._indexes(after, share, barred or held)
            # One that was rebuilt is lean, whatever the heap's share says of it.
            shares = dict.fromkeys(self._methods, 1.0)
            self._done.unreturned_bytes = after.heap.dead_bytes + sum(
                index.dead_bytes(shares.get(index.name, share)) for index in after.indexes if index.name not in self._has_no_room
            )
            if self._rewrite_stopped:
                self._done.unreturned_bytes += after.heap.dead_toast_bytes
        self._report(before, after)
        return self._done

    def _room(self) -> Room:
        return Room(measure(self._conn, self._tier.profile).used_bytes, self._tier.quota_bytes, self._may_rewrite)

    def _heap(self, facts: Facts, barred: str | None, *, locked: bool) -> Facts:
        """The table and its TOAST."""
        untouchable = look.untouchable(self._conn, self._table, self._whole)
        choice = plan.for_table(facts.heap, self._room(), barred=barred, untouchable=untouchable)
        ended = self._by(choice, facts)
        after = look.facts(self._conn, self._table, locked=locked) or facts
        if choice.method is Method.COMPACTION and ended is None:  # what stays is what stays now, and a rewrite may have room
            choice = plan.for_table(after.heap, self._room(), barred=barred, untouchable=untouchable)
            if choice.method is Method.REWRITE:
                ended = self._by(choice, after)
                after = look.facts(self._conn, self._table, locked=locked) or after
        self._tell("", choice, ended)
        return after

    def _by(self, choice: Choice, facts: Facts) -> str | None:
        """Does what was chosen, where that is more than VACUUM; why it ended early, None where it did not."""
        began = self._clock.monotonic()
        ended: str | None = None
        if choice.method is Method.COMPACTION:
            heap, budget = facts.heap, int(WAL_SHARE * self._tier.quota_bytes)
            compaction = Compaction(self._conn, self._table, self._clock, self._stop, budget, whole=self._whole)
            done = compaction.run(plan.compacted_pages(heap), heap.live_rows / heap.pages)
            ended = done.ended if done.ended != "its front is full" else None
        elif choice.method is Method.REWRITE:
            ended = vacuum(self._conn, self._table, FULL, self._clock)
            self._rewrite_stopped = ended is not None
        if choice.method is not Method.VACUUM and ended is None:
            self._methods[""] = (choice.method, self._clock.monotonic() - began)
        return ended

    def _indexes(self, facts: Facts, share: float, barred: str | None) -> Facts:
        """The indexes, the smallest first: what it gives back is room for the next."""
        for index in facts.indexes:
            held = barred or self._stop()
            choice = plan.for_index(index, self._room(), share, barred=held)
            if choice is None:
                continue
            if held is None and index.fixed is None and choice.method is Method.VACUUM:
                self._has_no_room.add(index.name)
            ended: str | None = None
            if choice.method is Method.REINDEX:
                began = self._clock.monotonic()
                ended = reindex(
                    self._conn,
                    self._table,
                    index.name,
                    size_bytes=index.size_bytes,
                    longest_reader_seconds=self._reader_seconds,
                    stop=self._stop,
                )
                if ended is None:
                    self._methods[index.name] = (choice.method, self._clock.monotonic() - began)
            self._tell(index.name, choice, ended)
            if ended is not None:
                break  # what held this one up would hold up the next, and each leaves something behind
        return look.facts(self._conn, self._table) or facts

    def _tell(self, relation: str, choice: Choice, ended: str | None) -> None:
        """Notes what a choice leaves, with the reason."""
        name = f"{self._table}: its index {relation}" if relation else str(self._table)
        self._done.kept_bytes += choice.stays_bytes + (choice.gain_bytes if ended is not None else 0)
        if ended is not None:
            self._done.notes.append(f"{name}: {choice.method} stopped: {ended}")
        elif choice.stays_bytes:
            self._done.notes.append(f"{name}: its space did not come back. {choice.why[:1].upper()}{choice.why[1:]}")

    def _report(self, before: Facts, after: Facts) -> None:
        for relation, size in before.relations.items():
            left = after.relations.get(relation, 0)
            method, seconds = self._methods.get(relation, self._methods[""])
            if left != size or (relation in self._methods and method is not Method.VACUUM):
                self._done.figures.append(
                    Reclaim(
                        tier=self._tier.name,
                        table=str(self._table),
                        relation=relation or "heap",
                        method=method.value,
                        bytes_before=size,
                        bytes_after=left,
                        seconds=round(seconds if relation in self._methods else 0.0, 3),
                    )
                )
