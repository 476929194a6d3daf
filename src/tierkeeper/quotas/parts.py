"""Space of a table whose rows lie in others, its partitions or children: each is a relation of its own.

One VACUUM and one look serve all of them; only those that hold dead space worth getting are gone through one by one.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final

from psycopg import errors

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.ports import Stop
from tierkeeper.kernel.results import Reclaim
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres import shapes
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.link import Connection
from tierkeeper.quotas import look
from tierkeeper.quotas.look import Facts
from tierkeeper.quotas.plan import Method
from tierkeeper.quotas.reclaim import Reclaimed, Reclaimer
from tierkeeper.quotas.vacuum import HELD, PLAIN, vacuum

AT_ONCE: Final = 20  # tables that one VACUUM goes through: a request to stop is heard between two


def of(conn: Connection, table: TableName, apart: Collection[TableName]) -> list[TableName]:
    """The tables that hold rows of `table`, itself included where it does, without those `apart` and what is below them."""
    with catalog(conn) as cur:
        return [part.name for part in shapes.parts(cur, table, apart)]


class PartsReclaimer:
    """Gives the dead space of all parts of a table back. I9: as `Reclaimer`, which does it for each."""

    def __init__(
        self,
        conn: Connection,
        tier: Tier,
        table: TableName,
        one: Callable[[TableName], Reclaimer],
        *,
        clock: Clock,
        stop: Stop,
    ) -> None:
        self._conn = conn
        self._tier = tier
        self._table = table
        self._one = one
        self._clock = clock
        self._stop = stop
        self._done = Reclaimed()

    def run(self, apart: Collection[TableName]) -> Reclaimed | None:
        """Does it. None where there is no such table."""
        parts = of(self._conn, self._table, apart)
        if parts in ([], [self._table]):
            return self._one(self._table).run()
        before = look.facts_of(self._conn, parts)
        began = self._clock.monotonic()
        locked = self._vacuum(parts)
        after = look.facts_of(self._conn, parts, locked=locked)
        seconds = self._clock.monotonic() - began
        rich = [part for part in parts if part in before and part in after and _worth_a_visit(before[part], after[part])]
        self._report({p: (before[p], after[p]) for p in parts if p in before and p in after and p not in rich}, seconds)
        for part in rich:
            if self._stop() is not None:
                break
            with suppress(errors.UndefinedTable):  # the application has dropped it meanwhile, and all its space came back
                self._visit(part, before[part])
        return self._done

    def _vacuum(self, parts: Sequence[TableName]) -> bool:
        """VACUUM of all. Whether a lock kept it from some."""
        held = False
        for first in range(0, len(parts), AT_ONCE):
            if self._stop() is not None:
                break
            with suppress(errors.UndefinedTable):
                refused = vacuum(self._conn, parts[first : first + AT_ONCE], PLAIN, self._clock)
                held = held or refused is HELD
                if refused is not None and refused is not HELD:
                    self._done.notes.append(f"{self._table}: {refused}")
        return held

    def _visit(self, part: TableName, before: Facts) -> None:
        done = self._one(part).run(before)
        if done is not None:
            self._done.figures += done.figures
            self._done.notes += [note for note in done.notes if note not in self._done.notes]
            self._done.unreturned_bytes += done.unreturned_bytes
            self._done.kept_bytes += done.kept_bytes

    def _report(self, others: dict[TableName, tuple[Facts, Facts]], seconds: float) -> None:
        """What VACUUM alone gave back, of the parts where that is all."""
        changed = [(sum(b.relations.values()), sum(a.relations.values())) for b, a in others.values() if b != a]
        sizes = [(b, a) for b, a in changed if b != a]
        if sizes:
            self._done.figures.append(
                Reclaim(
                    tier=self._tier,
                    table=str(self._table),
                    relation="1 partition" if len(sizes) == 1 else f"{len(sizes)} partitions",
                    method=Method.VACUUM.value,
                    bytes_before=sum(b for b, _ in sizes),
                    bytes_after=sum(a for _, a in sizes),
                    seconds=round(seconds, 3),
                )
            )


def _worth_a_visit(before: Facts, after: Facts) -> bool:
    """Whether anything but VACUUM could give back more, or an interrupted rebuild may have left something."""
    share = after.heap.pages / before.heap.pages if before.heap.pages else 1.0
    return after.dead_bytes(lambda _: share) > 0 or any(index.fixed for index in after.indexes)
