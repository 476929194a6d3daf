"""What logical replication would take away again, or lets nobody delete, is refused before anything is changed (I1, I10).

Everyday's cases stand in for subscriptions by their rows in the catalog; the long ones have real ones, whose apply workers would
take the rows. The oracle counts the application's rows in both tiers.
"""

import re
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from hop import Hop, open_hop
from support import Tiers, eventually
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.errors import Faults, UsageError
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection

PLAIN = "CREATE TABLE {t} (id int PRIMARY KEY, at timestamptz NOT NULL, v text);"
KEYED = """
CREATE TABLE {t} (id int, at timestamptz, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE {t}_rest PARTITION OF {t} DEFAULT PARTITION BY RANGE (at);
-- Its columns have other numbers than those of the table.
CREATE TABLE {t}_leaf (v text, gone int, at timestamptz NOT NULL, id int NOT NULL);
ALTER TABLE {t}_leaf DROP gone;
ALTER TABLE {t}_rest ATTACH PARTITION {t}_leaf DEFAULT;
"""
UNIQUE = """
CREATE TABLE {t} (id int NOT NULL, at timestamptz NOT NULL, v text, UNIQUE (id, at)) PARTITION BY RANGE (at);
CREATE TABLE {t}_leaf PARTITION OF {t} DEFAULT;
"""
CHILD = """
CREATE TABLE {t} (id int PRIMARY KEY, at timestamptz NOT NULL, v text);
CREATE TABLE {t}_leaf (PRIMARY KEY (id)) INHERITS ({t});
"""
PART = """
CREATE TABLE {t}_root (id int, at timestamptz, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE {t} PARTITION OF {t}_root DEFAULT;
"""
FILL = "INSERT INTO {t} SELECT i, '2024-01-01', 'v' FROM generate_series(1, 10) AS i;"
FEED = "CREATE SUBSCRIPTION feed CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)"
FED = "INSERT INTO pg_subscription_rel SELECT oid, '{t}%s'::regclass, 'r', NULL FROM pg_subscription;"
LIST, ROWS = "CREATE PUBLICATION {t} FOR TABLE {t}%s (at, v)%s;", "CREATE PUBLICATION {t} FOR TABLE {t}%s WHERE (v <> 'z')%s;"
ALL, FULL = "CREATE PUBLICATION {t} FOR TABLE {t};", "ALTER TABLE {t}%s REPLICA IDENTITY FULL;"
VIA_ROOT = " WITH (publish_via_partition_root = true)"

# By the table: what is made in Core and at Main; the tier and what of the table the refusal names, and its cause.
REFUSED = {
    "rows": (PLAIN + ROWS % ("", ""), PLAIN, "core", "", "publication rows sends its deletes by a filter on v,"),
    "rows_there": (PLAIN, PLAIN + ROWS % ("", ""), "main", "", "publication rows_there sends its deletes by a filter on v,"),
    "rows_root": (KEYED + ROWS % ("", VIA_ROOT), KEYED, "core", "_leaf", "rows_root sends its deletes by a filter on v,"),
    "rows_leaf": (KEYED, KEYED + ROWS % ("_leaf", ""), "main", "_leaf", "rows_leaf sends its deletes by a filter on v,"),
    "list": (PLAIN + LIST % ("", ""), PLAIN, "core", "", "publication list sends its deletes without id,"),
    "list_there": (PLAIN, PLAIN + LIST % ("", ""), "main", "", "publication list_there sends its deletes without id,"),
    "list_root": (KEYED, KEYED + LIST % ("", VIA_ROOT), "main", "_leaf", "list_root sends its deletes without id,"),
    "list_full": (PLAIN + FULL % "" + LIST % ("", ""), PLAIN, "core", "", "list_full sends its deletes without some columns"),
    "unkeyed": (UNIQUE + ALL, PLAIN, "core", "_leaf", "publication unkeyed sends its deletes, and it has no replica identity"),
    "unkeyed_there": (UNIQUE, UNIQUE + ALL, "main", "_leaf", "unkeyed_there sends its deletes, and it has no replica identity"),
    "fed": (PLAIN, PLAIN + FED % "", "main", "", "subscription feed writes to it"),
    "fed_leaf": (KEYED, KEYED + FED % "_leaf", "main", "_leaf", "subscription feed writes to it"),
    "fed_child": (PLAIN, CHILD + FED % "_leaf", "main", "_leaf", "subscription feed writes to it"),
    "fed_root": (PLAIN, PART + FED % "_root", "main", "_root", "subscription feed writes to it"),
    "loop": (PLAIN + FED % "", PLAIN + ALL, "core", "", r"feed writes to it, and .* loop sends .* public.loop \(main"),
    "loop_leaf": (KEYED + FED % "_leaf", KEYED + ALL, "core", "_leaf", r"and .* loop_leaf sends .* public.loop_leaf_leaf \(main"),
    "loop_deletes": (PLAIN + FED % "", PLAIN + ALL.replace(";", " WITH (publish = 'delete');"), "core", "", "loop_deletes sends"),
    "loop_inserts": (PLAIN + FED % "", PLAIN + ALL.replace(";", " WITH (publish = 'insert');"), "core", "", "loop_inserts sends"),
}  # fmt: skip
MOVED = {
    "keys_alone": (PLAIN + "CREATE PUBLICATION {t} FOR TABLE {t} (id) WHERE (id <> 0);", PLAIN),
    "keys_of_parts": (KEYED, KEYED + "CREATE PUBLICATION {t} FOR TABLE {t} (at, id) WHERE (id <> 0)" + VIA_ROOT + ";"),
    "whole_leaves": (UNIQUE + FULL % "_leaf" + ROWS % ("_leaf", ""), UNIQUE),
    "only_inserts": (PLAIN + ROWS % ("", " WITH (publish = 'insert')"), PLAIN),
    "no_loop": (PLAIN + FED % "", PLAIN + ALL.replace(";", " WITH (publish = 'update');")),
}
UPWARD = {
    "up_fed": (KEYED + FED % "_leaf", KEYED, "core", "_leaf", "subscription feed writes to it"),
    "up_loop": (PLAIN + ALL, PLAIN + FED % "", "main", "", r"publication up_loop sends .* public.up_loop \(core"),
    "up_stuck": (PLAIN + LIST % ("", ""), PLAIN, "core", "", "up_stuck sends its deletes without id,"),
}


def name(table: str) -> TableName:
    return TableName("public", table)


@contextmanager
def fed(tiers: Tiers, tables: Collection[str]) -> Iterator[Hop]:
    """May write where only Postgres does, to stand in for a subscription."""
    with open_hop(tiers, [name(t) for t in tables]) as opened:
        try:
            for conn in (opened.core, opened.main):
                conn.execute("SET allow_system_table_mods = on; SET client_min_messages = error")
                conn.execute(FEED)
            yield opened
        finally:
            for conn in (opened.core, opened.main):
                conn.execute("DELETE FROM pg_subscription_rel; DROP SUBSCRIPTION feed")


def make(conn: Connection, sides: dict[str, str]) -> None:
    for statement in ("".join(side.replace("{t}", table) + ";" for table, side in sides.items())).split(";"):
        conn.execute(statement.encode())


def test_what_would_lose_rows_or_let_none_go_is_refused(tiers: Tiers) -> None:
    """By the plan, the move and the check; nothing is changed at either end."""
    with fed(tiers, REFUSED) as hop:
        make(hop.core, {t: case[0] + FILL for t, case in REFUSED.items()})
        make(hop.main, {t: case[1] for t, case in REFUSED.items()})
        with pytest.raises(Faults) as checked:
            hop.keeper.check()
        told = {e.place: e for e in checked.value.errors}
        for table, (_, _, tier, below, cause) in REFUSED.items():
            place = f"public.{table}{below} ({tier})"
            for deed in (hop.plan, hop.move) if table.endswith("_leaf") else (hop.move,):
                with pytest.raises(UsageError, match=cause) as error:
                    deed(name(table))
                assert (error.value.place, hop.counts(table)) == (place, (10, 0)), table
            assert re.search(cause, told[place].cause), place
            assert told[place].remedy == error.value.remedy


def test_what_replication_lets_go_moves(tiers: Tiers) -> None:
    with fed(tiers, MOVED) as hop:
        make(hop.core, {t: core + FILL for t, (core, _) in MOVED.items()})
        make(hop.main, {t: main for t, (_, main) in MOVED.items()})
        told = "subscription feed writes to public.no_loop (core): what it changes in rows that have left is lost"
        assert told in hop.plan(name("no_loop")).notes
        sends = "publication keys_alone sends the deletes from public.keys_alone to its subscribers"
        assert sends in hop.plan(name("keys_alone")).notes
        assert f"table public.no_loop: {told}" in hop.keeper.check().notes
        for table in MOVED:
            assert (hop.move(name(table)).rows, hop.counts(table)) == (10, (0, 10)), table


def test_a_part_that_moves_by_itself_stops_itself_alone(tiers: Tiers) -> None:
    parted = KEYED.replace("{t}_leaf DEFAULT;", "{t}_leaf FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');") + (
        "CREATE TABLE {t}_now PARTITION OF {t}_rest DEFAULT;"
    )
    with fed(tiers, ["t", "t_leaf"]) as hop:
        make(hop.core, {"t": parted + FILL + FILL.replace("2024", "2023") + LIST % ("_leaf", "")})
        with pytest.raises(UsageError, match="publication t sends its deletes without id,"):
            hop.move(name("t_leaf"))
        assert (hop.move(name("t")).rows, hop.counts("t")) == (10, (10, 10))


def test_the_same_on_the_way_up(tiers: Tiers) -> None:
    with fed(tiers, UPWARD) as hop:
        make(hop.core, {t: case[0] for t, case in UPWARD.items()})
        make(hop.main, {t: case[1] + FILL for t, case in UPWARD.items()})
        for table, (_, _, tier, below, cause) in UPWARD.items():
            with pytest.raises(UsageError, match=cause) as error:
                hop.move(name(table), "main", "core")
            assert (error.value.place, hop.counts(table)) == (f"public.{table}{below} ({tier})", (0, 10)), table


def is_ready(conn: Connection) -> bool:
    return conn.execute("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel").fetchone() == (True,)


@pytest.mark.long
def test_a_real_subscription_takes_no_row(tiers: Tiers, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Main is fed by Core leaf by leaf, and Core by Main: what Postgres itself enters is what is seen."""
    folder: Path = tmp_path_factory.mktemp("two")
    folder.parent.chmod(0o755)
    folder.chmod(0o755)
    with ExitStack() as stack:
        servers: dict[Tier, EmbeddedPostgres] = {}
        for tier in ("core", "main"):
            server = EmbeddedPostgres.start(folder / tier, durable=False, settings={"wal_level": "logical"})
            stack.callback(server.stop)
            server.create_database(tier)
            servers[tier] = server
        links = {tier: server.link(tier, tier) for tier, server in servers.items()}
        hop = stack.enter_context(open_hop(replace(tiers, **links), [name("leaves"), name("circle")]))
        make(hop.core, {"leaves": KEYED + FILL + ALL, "circle": PLAIN + FILL})
        make(hop.main, {"leaves": KEYED, "circle": PLAIN + ALL})
        for conn, publication, publisher in ((hop.main, "leaves", links["core"]), (hop.core, "circle", links["main"])):
            options = "copy_data = false, origin = none"
            conn.execute(
                f"CREATE SUBSCRIPTION s CONNECTION '{publisher.uri}' PUBLICATION {publication} WITH ({options})".encode()
            )
            assert eventually(partial(is_ready, conn), 20)
        for table in ("leaves", "circle"):
            with pytest.raises(UsageError, match="subscription s writes to it"):
                hop.move(name(table))
        time.sleep(2)  # for an apply worker, had it anything to apply
        assert (hop.counts("leaves"), hop.counts("circle")) == ((10, 0), (10, 0))
        for conn in (hop.core, hop.main):
            conn.execute("DROP SUBSCRIPTION s")
        hop.core.execute("SELECT pg_create_logical_replication_slot('left', 'pgoutput')")
        slot = "logical replication slot left of the database core sees every delete, and nobody reads it"
        assert f"{slot}: it keeps their WAL on the disk" in hop.plan(name("circle")).notes
        assert hop.move(name("circle")).rows == hop.move(name("leaves")).rows == 10
