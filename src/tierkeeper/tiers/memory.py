"""What two tiers remember of each other: whether a source is the one that rows came from, a destination the one they went to.

A source is known by the random identity that was written into it with its schema `tierkeeper` (`tiers.identity`). A dump
without that schema, another database behind the URL, and a schema that was dropped and made again have another one, or none.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import sql

from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.keeping import asked_once
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.tiers", "tiers.sql")


class Handed(NamedTuple):
    """A batch that was handed over: `seq` is its place in the destination's ledger, `origin` the source's identity, if known."""

    batch: UUID
    seq: int
    table: TableName
    origin: UUID | None


class Newest(NamedTuple):
    """The newest `batch` that a source remembers to have handed over, its `seq` in the destination's ledger, and the source's
    identity; all None and 0 where there is none. `greatest`: of all of its markers there, whatever became of their batches.
    """

    batch: UUID | None
    seq: int
    origin: UUID | None
    greatest: int


def asked(tier: str) -> tuple[sql.SQL, dict[str, str]]:
    """The question who a database says that it is, as `tier`: one id, or no row where its schema was not made for that."""
    return _SQL["identity"], {"role": tier}


def origin(conn: Connection, source: str, table: TableName) -> UUID | None:
    """Whom the newest rows of `table` came from that were copied here from `source`; None where the ledger does not say."""
    with transaction(conn, read_only=True) as cur:
        named = {"source": source, "schema": table.schema, "table": table.name}
        return _first(cur.last(_SQL["origin"], named))


@asked_once
def origins(conn: Connection, source: str) -> dict[TableName, UUID]:
    """`origin` of every table that has one and nothing in flight."""
    with catalog(conn) as cur:
        return {TableName(s, t): one for s, t, one in cur.last(_SQL["origins"], {"source": source}).fetchall()}


def strangers(
    source: str, now: UUID | None, known: Mapping[TableName, UUID], tables: Iterable[TableName]
) -> dict[TableName, TierkeeperError]:
    """Those of `tables` whose rows came from another `source` than the one that says it is `now`. Pure."""
    return {table: stranger(source, table, known[table]) for table in tables if known.get(table, now) != now}


def stranger(source: str, table: TableName, known: UUID) -> Failed:
    """What to say where the rows of `table` came from another database than the one behind the URL of `source`."""
    return Failed(
        f"tiers.{source}",
        f"this is not the database that rows of {table} came from: it is another one, or it has lost its schema tierkeeper, "
        "dropped or left out of a dump",
        f"Correct the URL; another {source} needs a destination of its own. If it is the right one, give it its identity back, "
        f"there: {_SQL['give_back'].format(id=sql.Literal(str(known)), role=sql.Literal(source)).as_string(None)}",
    )


def handed(cur: "psycopg.Cursor[Any]") -> dict[UUID, str]:
    """The batches whose rows left this tier, as far as it remembers, each with where they went. The newest is kept for ever."""
    return {batch: str(to) for batch, to in cur.execute(_SQL["handed"]).fetchall()}


def refuse_restored(there: "psycopg.Cursor[Any]", source: str, destination: str, moved: Mapping[UUID, str]) -> None:
    """Raises Failed where a batch that `moved` (`handed` of the source) has gone to a destination which knows nothing of it.

    NotNow, where that is a standby, which may know of it in a moment.

    `there` looks at the destination after the source was looked at, or holds back what would move since: a delete at the source
    waits for each older snapshot there.
    """
    asked = [batch for batch, to in moved.items() if to == destination]
    for batch, is_standby in there.execute(_SQL["unknown"], {"batches": asked}).fetchall() if asked else ():
        raise lagging(source, destination, batch) if is_standby else restored(source, destination, batch)


def refuse_foreign(here: "psycopg.Cursor[Any]", source: str, arrivals: Mapping[TableName, UUID]) -> None:
    """Raises Failed where copies in flight came from another database than the `source` that `here` looks at.

    Its markers say nothing of them. `arrivals`: their tables, and the identity of where each's came from.
    """
    now = _first(here.execute(*asked(source))) if arrivals else None
    for table, known in arrivals.items():
        if known != now:
            raise Failed(
                f"tiers.{source}",
                f"copies of {table} are in flight that came from another database, or it has lost its schema tierkeeper",
                f"Correct the URL; if it is right, run `tierkeeper move {table}` as before, which says what to do",
            )


def lagging(source: str, destination: str, batch: UUID) -> NotNow:
    """What to say of a standby that does not know of a batch yet."""
    cause = f"it is a standby that lags: {source} has handed rows over (batch {batch}) that it does not know of yet"
    return NotNow(
        f"tiers.{destination}", cause, f"Ask again in a moment; if it stays so, give the URL of {destination}'s primary"
    )


def doubtful(tier: str, batch: UUID) -> NotNow:
    """What to say of a standby by whose clock a batch came long ago, of which its source says nothing."""
    return NotNow(
        f"tiers.{tier}",
        f"it is a standby by whose clock rows came there long ago (batch {batch}) of which their source says nothing: its clock "
        "is ahead of its primary's, it lags, or the source was put back from an older backup",
        f"Ask again in a moment; if it stays so, give the URL of {tier}'s primary",
    )


def restored(source: str, destination: str, batch: UUID) -> Failed:
    """What to say where `source` remembers a batch that it handed over, and `destination` knows nothing of it."""
    forget = _SQL["forget_marker"].format(batch=sql.Literal(str(batch))).as_string(None)
    lost = (
        ", or make a lost catalog again with `tierkeeper archive rebuild`"
        if destination == "archive"
        else f"; if it has the rows and lost its schema tierkeeper alone, say so in {source}: {forget}"
    )
    return Failed(
        f"tiers.{destination}",
        f"{source} has handed rows over (batch {batch}) that {destination} knows nothing of: "
        f"{destination} was put back from an older backup",
        f"Bring {destination} to its state after the last move{lost}; until then nothing is moved",
    )


def thawed(main: "psycopg.Cursor[Any]") -> list[UUID]:
    """The segments whose rows came back to Main and count there."""
    return [segment for (segment,) in main.execute(_SQL["thawed"]).fetchall()]


def refuse_thawed(catalog: "psycopg.Cursor[Any]", segments: Sequence[UUID]) -> None:
    """Raises Failed where the archive counts one of `segments`, which Main was asked for before: their rows count there.

    The chain does not tell: a segment that leaves the archive adds nothing to it.
    """
    counted = catalog.execute(_SQL["counted_still"], {"segments": list(segments)}).fetchone() if segments else None
    if counted is not None:
        raise Failed(
            "tiers.archive",
            f"segment {counted[0]} was thawed, its rows count in Main, and the catalog counts them still: "
            "archive was put back from an older backup",
            "Bring the catalog to its state after the last thaw, or make it again with `tierkeeper archive rebuild`",
        )


def handed_over(catalog: "psycopg.Cursor[Any]", batches: Sequence[UUID]) -> list[Handed]:
    """Those of `batches` that the archive has from Main, and the newest that it has; where it is known which Main that was."""
    found = catalog.execute(_SQL["handed_over"], {"batches": list(batches)}).fetchall()
    return [Handed(batch, seq, TableName(schema, name), origin) for batch, seq, schema, name, origin in found]


def newest(source: "psycopg.Cursor[Any]", tier: str, destination: str) -> Newest:
    """What the `source`, as `tier`, remembers of the ledger at `destination`."""
    (row,) = source.execute(_SQL["newest"], {"role": tier, "destination": destination}).fetchall()
    return Newest(*row)


def bundles(source: "psycopg.Cursor[Any]") -> dict[UUID, UUID]:
    """What ties batches together, of those that this tier remembers."""
    return dict(source.execute(_SQL["bundles"]).fetchall())


def go_on_at(ledger: "psycopg.Cursor[Any]", seq: int) -> None:
    """The next batch in this ledger has place `seq`, and those after it follow."""
    ledger.execute(_SQL["go_on_at"], {"seq": max(seq, 1)})


def came_from(ledger: "psycopg.Cursor[Any]", newest: Newest) -> None:
    """Notes where the newest batch came from, in a ledger that was made again."""
    ledger.execute(_SQL["came_from"], newest._asdict())


def refuse_forgetful(main: "psycopg.Cursor[Any]", handed: Sequence[Handed]) -> None:
    """Raises Failed where Main, asked after the archive, does not remember one of `handed`: its rows may be in both.

    Another Main is not meant: it never had them.
    """
    last = next((one for one in handed if main.execute(_SQL["unremembered"], one._asdict()).fetchone() is not None), None)
    if last is None:
        return
    literals = {"batch": str(last.batch), "seq": last.seq, "schema": last.table.schema, "table": last.table.name}
    remember = _SQL["remember"].format(**{k: sql.Literal(v) for k, v in literals.items()}).as_string(None).replace("\n", " ")
    raise Failed(
        "tiers.main",
        f"the archive has rows of {last.table} (batch {last.batch}) that left Main, and Main does not remember it: "
        "main was put back from an older backup, and rows that were archived since are in both",
        "Bring main to its state after the last move, or delete there what the segments have that came after the backup "
        f"(`tierkeeper archive list`), and say so in main: {remember}",
    )


def trust_catalog(
    main: "psycopg.Cursor[Any]", catalog: "psycopg.Cursor[Any]", from_main: Mapping[UUID, str], from_catalog: Mapping[UUID, str]
) -> None:
    """Raises Failed where one of Main and the catalog does not know what it had from the other by what the other has `handed`."""
    refuse_restored(catalog, "main", "archive", from_main)
    refuse_restored(main, "archive", "main", from_catalog)
    refuse_thawed(catalog, thawed(main))


def refuse_core_behind(core: Connection, main: Connection) -> None:
    """Raises Failed where Core does not know what Main last had from it: rows that moved since its backup may be in both.

    Nothing has to stop for it: Core's rows count. The next batch that leaves Core ends it; what is in both stays, as conflicts.
    """
    with transaction(main, read_only=True) as cur:
        taken = [Handed(b, seq, TableName(s, t), origin) for b, seq, s, t, origin in cur.execute(_SQL["taken"]).fetchall()]
    with transaction(core, read_only=True) as cur:
        last = next((one for one in taken if cur.execute(_SQL["untold"], one._asdict()).fetchone() is not None), None)
    if last is not None:
        raise Failed(
            "tiers.core",
            f"main has rows of {last.table} (batch {last.batch}) that core does not know it handed over: core was put back from "
            "an older backup, and rows that moved since are in both; core's count",
            "Bring core to its state after the last move, or delete there what main has unchanged "
            "(docs/howto/after-a-database-was-put-back.md); a move goes on either way, leaves what is in both, and lists it",
        )


def refuse_put_back(main: Connection, catalog: Connection) -> None:
    """Raises Failed where one of Main and the archive is older than what the other remembers of it."""
    with transaction(main, read_only=True) as cur:
        came = thawed(cur)
        not_moved = [batch for (batch,) in cur.execute(_SQL["not_moved"]).fetchall()]
    with transaction(catalog, read_only=True) as cur:
        refuse_thawed(cur, came)
        handed = handed_over(cur, not_moved)
    with transaction(main, read_only=True) as cur:
        refuse_forgetful(cur, handed)


def _first(found: "psycopg.Cursor[Any]") -> UUID | None:
    row = found.fetchone()
    return row[0] if row else None
