"""What one tier may answer alone, and whether it does: never from its part of a table whose rows are in several tiers."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, closing

from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.ports import SegmentScan
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection, Link
from tierkeeper.postgres.session import Cursor
from tierkeeper.query import core, departed
from tierkeeper.query.model import refuse
from tierkeeper.query.statement import Statement

Reading = Callable[[Connection, Link], AbstractContextManager[Cursor]]


class Alone:
    """Refuses, before a row is read, what a single tier would answer with rows missing (I2)."""

    def __init__(
        self,
        policies: Mapping[TableName, TablePolicy],
        main: Link | None,
        catalog: Link | None,
        archive: SegmentScan | None,
        reading: Reading,
    ) -> None:
        """`reading` opens a snapshot in a tier. Does no I/O."""
        self._spread = frozenset(n for n, p in policies.items() if p.mode == "move")
        self._policies = policies
        self._main, self._catalog, self._archive = main, catalog, archive
        self._reading = reading

    def refuse_views(self, cur: Cursor, parsed: Statement) -> frozenset[TableName]:
        """A view over a managed table, or one of its partitions, would answer from the rows of `cur`'s tier alone.

        Returns all that the statement's tables have to do with.
        """
        reached = core.views_over(cur, parsed.tables)
        for table, (reads, is_part_of) in reached.items():
            hidden = self._spread & (reads if table in self._spread else reads | is_part_of)
            if hidden:
                inner = ", ".join(str(t) for t in sorted(hidden))
                raise refuse(str(table), f"it reads {inner}, whose rows are in several tiers", f"Ask {inner} itself")
        return frozenset(parsed.tables).union(*(reads | is_part_of for reads, is_part_of in reached.values()))

    def refuse_hidden(self, at_core: Cursor, cur: Cursor, parsed: Statement, reached: Collection[TableName]) -> None:
        """What `cur`'s tier is to answer must not read a table whose rows are elsewhere too, in whatever words it says so."""
        read = core.relations(cur, parsed.sql)
        hidden = sorted(str(t) for t in self._spread & read)
        if hidden:
            raise refuse(
                ", ".join(hidden), "the statement reads it in a way that the fast door does not see", "Write SELECT … FROM"
            )
        suspected = self.refuse_departed(at_core, read.union(reached))
        for function in core.functions_that_read(cur, parsed.functions) if self._spread or suspected else ():
            cause = "it may read tables whose rows are in several tiers, and would see one tier's alone"
            raise refuse(function, cause, "Declare it IMMUTABLE if it reads none, or ask the tables themselves")

    def refuse_departed(self, at_core: Cursor, tables: Collection[TableName]) -> bool:
        """Raises UsageError for one of `tables` that is not spread, by its entry, but has rows below Core.

        The tiers below are asked only where Core says that they may have some; returns whether it does, of any table.
        """
        suspected = departed.suspects(at_core, self._policies)
        asked = suspected.intersection(tables)
        departed.refuse_arriving(at_core, asked, self._policies)
        links = (self._main, self._catalog if self._archive is not None else None)
        for link in links if asked else ():
            if link is not None:
                with closing(link.connect("query")) as conn, self._reading(conn, link) as cur:
                    departed.refuse(cur, asked, self._policies, None if link is self._main else self._archive)
        return bool(suspected)

    def of_main(
        self, opened: tuple[Cursor, Connection, Cursor], parsed: Statement, unknown: TierkeeperError
    ) -> Sequence[tuple[str, int]]:
        """The result's columns where Main alone has what the statement reads; raises `unknown`, Core's word, where it has not.

        None of it may be Core's: what Core answers for a name must not depend on what else a statement reads.

        `opened`: the cursor in Core's snapshot, Main's connection, the cursor in Main's.
        """
        at_core, main, at_main = opened
        try:
            described = core.describe(main, parsed.sql)
        except core.UnknownRelationError:
            raise unknown from None
        elsewhere = core.known(at_core, parsed.tables)
        if elsewhere:  # Main's table of that name may be another one, or an old copy
            inner = ", ".join(map(str, elsewhere))
            raise refuse(inner, f"it is Core's, and the statement also reads what Core lacks ({unknown.cause})", "Ask one by one")
        self.refuse_hidden(at_core, at_main, parsed, self.refuse_views(at_main, parsed))
        return described
