"""Whether the tiers know of each other what they must: one that was put back from an older backup does not."""

from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from uuid import UUID

from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.link import Connection, Link
from tierkeeper.setup import observe
from tierkeeper.tiers import departed, identity, memory
from tierkeeper.tiers.ask import ask_all

_HOPS = (("core", "main"), ("main", "archive"), ("main", "core"), ("archive", "main"))


def faults(links: Mapping[str, Link], policies: Collection[TablePolicy]) -> list[TierkeeperError]:
    """What is wrong between those of `links` that answer. All sources are asked before any destination."""
    names = [p.name for p in policies]

    def remembered(tier: str, conn: Connection) -> tuple[UUID | None, dict[UUID, str]]:
        if "marker" not in observe.own_schema(conn).relations:
            return None, {}
        with catalog(conn) as cur:
            return identity.read(conn).roles.get(tier), memory.handed(cur)

    sources, _ = ask_all(links, remembered, "check")

    def wrong(tier: str, conn: Connection) -> list[TierkeeperError]:
        if "ledger" not in observe.own_schema(conn).relations:
            return _forgotten(tier, sources)
        found: list[TierkeeperError] = []
        with catalog(conn) as cur:
            for source, destination in _HOPS:
                if destination != tier or source not in sources:
                    continue
                now, moved = sources[source]
                try:
                    memory.refuse_restored(cur, source, destination, moved)
                except (Failed, NotNow) as error:
                    found.append(error)
                if source != "archive":  # its catalog may be made again at any time: the store is who it is
                    found += memory.strangers(source, now, memory.origins(conn, source), names).values()
        return found

    answers, _ = ask_all({t: link for t, link in links.items() if len(sources) > 1}, wrong, "check")
    return [*(error for errors in answers.values() for error in errors), *_put_back(links)]


def _put_back(links: Mapping[str, Link]) -> list[TierkeeperError]:
    """What neighbours say of each other, where both answer and have their memories: of Core, then of Main and the archive."""
    found = (
        _refused(links, "core", "main", ("marker", "ledger"), memory.refuse_core_behind),
        _refused(links, "main", "archive", ("ledger", "ledger"), memory.refuse_put_back),
    )
    return [error for error in found if error is not None]


def _refused(
    links: Mapping[str, Link], upper: str, lower: str, needed: tuple[str, str], refuse: Callable[[Connection, Connection], None]
) -> TierkeeperError | None:
    if not {upper, lower} <= set(links):
        return None
    try:
        with closing(links[upper].connect("check")) as above, closing(links[lower].connect("check")) as below:
            if all(one in observe.own_schema(conn).relations for one, conn in zip(needed, (above, below), strict=True)):
                refuse(above, below)
    except (Failed, NotNow) as error:
        return error
    return None


def _forgotten(tier: str, sources: Mapping[str, tuple[UUID | None, Mapping[UUID, str]]]) -> list[TierkeeperError]:
    """What to say of a tier that remembers nothing at all, though rows were handed to it. Pure."""
    handed = {source: [b for b, to in moved.items() if to == tier] for source, (_, moved) in sources.items() if source != tier}
    return [memory.restored(source, tier, batches[0]) for source, batches in handed.items() if batches]


def hidden_at(
    tier: str, conn: Connection, policies: Collection[TablePolicy], archive_rows: Callable[[Connection], Mapping[TableName, int]]
) -> list[TableName]:
    """Tables with rows in `tier` by moves, though by `policies` none of theirs leave Core. `archive_rows` reads the catalog."""
    own, moving = observe.own_schema(conn).relations, {p.name for p in policies if p.mode == "move"}
    if tier == "archive" and "segment" in own:
        return [table for table, rows in archive_rows(conn).items() if rows and table not in moving]
    if tier == "main" and {"ledger", "compared"} <= set(own):
        with catalog(conn) as cur:
            return departed.at_main(cur, but=moving)
    return []


def hidden(found: Mapping[str, Collection[TableName]], policies: Collection[TablePolicy]) -> dict[TableName, UsageError]:
    """What to say of each table that is hidden in one of the tiers of `found`. Pure."""
    known = {p.name: p for p in policies}
    of_main_last = [(table, tier) for tier in ("archive", "main") for table in found.get(tier, ())]
    return {table: departed.refusal(table, known.get(table), tier) for table, tier in of_main_last}
