"""Whether the tiers that answer are those that rows went through: else a sum over them is wrong, and nobody would see it."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.session import Cursor
from tierkeeper.tiers import memory, standing


class Arrival(NamedTuple):
    """A batch that came to a tier by transaction `xid` and is not forgotten there; `rested`: it could be, and so it counts.

    `by_another_clock`: the tier is a standby, and `rested` is as its own clock has it.
    """

    batch: UUID
    schema: str
    table: str
    xid: str
    origin: UUID | None
    rested: bool
    by_another_clock: bool

    def counts(self, moved: Collection[object]) -> bool:
        """Whether its rows are the rows, where its source says of the batches `moved` that it handed them over."""
        return self.rested or self.batch in moved


def trust(
    core: Cursor,
    main: Cursor,
    moved: tuple[Mapping[UUID, str], Mapping[UUID, str]],
    arrived: tuple[Sequence[Arrival], Sequence[Arrival]],
) -> None:
    """Raises Failed where one of Core and Main was put back from an older backup, or is not the one that copies came from.

    I2: `moved` and `arrived` are what both say of batches that left them and of copies in flight there, Core's first. What left
    Core before its snapshot is in Main's ledger by then. What leaves Main has waited for Core's snapshot, where it lies. Raises
    Displaced where copies that do not count could not be told from rows that do.
    """
    memory.refuse_restored(main, "core", "main", moved[0])
    memory.refuse_restored(core, "main", "core", moved[1])
    memory.refuse_foreign(main, "main", _origins(arrived[0]))
    memory.refuse_foreign(core, "core", _origins(arrived[1]))
    standing.refuse_displaced(core, "core", [a.batch for a in arrived[0] if not a.counts(moved[1])])
    standing.refuse_displaced(main, "main", [a.batch for a in arrived[1] if not a.counts(moved[0])])


def _origins(arrived: Sequence[Arrival]) -> dict[TableName, UUID]:
    return {TableName(a.schema, a.table): a.origin for a in arrived if a.origin is not None}
