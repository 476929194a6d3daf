"""Who counts as a standby, by what a real server says of its walsenders and slots, also to a role that may see little."""

import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.mover.standbys import Standby, Standbys
from tierkeeper.postgres.link import Connection, Link, transaction
from tierkeeper.tiers.profile import SELF_HOSTED
from tierkeeper.tiers.usage import measure, refusal


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    folder: Path = tmp_path_factory.mktemp("standbys")
    folder.chmod(0o755)
    with EmbeddedPostgres.start(folder / "data", durable=False, settings={"wal_level": "logical"}) as started:
        yield started


@pytest.fixture
def main(server: EmbeddedPostgres) -> Iterator[Connection]:
    with closing(server.link("main").connect("test")) as conn:
        yield conn


@contextmanager
def plain(server: EmbeddedPostgres, main: Connection) -> Iterator[Connection]:
    main.execute("DROP ROLE IF EXISTS plain; CREATE ROLE plain LOGIN PASSWORD 'word'")
    p = server.link("main").parameters
    url = f"postgresql://plain:word@{p['host']}:{p['port']}/{p['dbname']}"
    with closing(Link("main", url, p.get("sslrootcert")).connect("test")) as conn:
        yield conn


@contextmanager
def sender(server: EmbeddedPostgres, kind: str, *said: str, name: str = "far") -> Iterator[psycopg.Connection]:
    """A connection that has said all this to a walsender."""
    with closing(psycopg.connect(server.link("main").uri, replication=kind, application_name=name)) as conn:
        for one in said:
            assert conn.pgconn.exec_(one.encode()).error_message == b""
        yield conn


def written(main: Connection) -> str:
    main.execute("SELECT pg_logical_emit_message(true, '', 'something')")
    ((lsn,),) = main.execute("SELECT pg_current_wal_lsn()::text").fetchall()
    return str(lsn)


def look(conn: Connection, lsn: str) -> list[Standby]:
    with transaction(conn, read_only=True) as cur:
        return [Standby(*row) for row in cur.execute(*Standbys(lsn).question()).fetchall()]


def confirm(standby: psycopg.Connection, lsn: str) -> None:
    high, low = (int(part, 16) for part in lsn.split("/"))
    at = (high << 32) + low
    standby.pgconn.put_copy_data(b"r" + struct.pack("!QQQqB", at, at, at, 0, 0))
    standby.pgconn.flush()


def test_who_decodes_the_log_is_none(server: EmbeddedPostgres, main: Connection) -> None:
    started = "START_REPLICATION SLOT cdc LOGICAL 0/0 (proto_version '1', publication_names 'none')"
    with (
        sender(server, "database", "CREATE_REPLICATION_SLOT cdc TEMPORARY LOGICAL pgoutput", started),
        plain(server, main) as role,
    ):
        lsn = written(main)
        assert main.execute("SELECT count(*) FROM pg_stat_replication WHERE (flush_lsn >= %s) IS NOT TRUE", [lsn]).fetchone() == (
            1,
        )
        assert look(main, lsn) == look(role, lsn) == []
    with sender(server, "database") as idle:  # so is who copies a table for a subscription
        while main.execute("SELECT state FROM pg_stat_replication").fetchall() != [("startup",)]:
            time.sleep(0.01)
        assert look(main, lsn) == []
        assert not idle.closed


def test_a_base_backup_is_none_yet(server: EmbeddedPostgres, main: Connection) -> None:
    with sender(server, "true", "BASE_BACKUP (CHECKPOINT 'fast')"):
        assert main.execute("SELECT state FROM pg_stat_replication").fetchone() == ("backup",)
        assert look(main, written(main)) == []


def test_one_that_nobody_can_see_into_speaks_by_its_slot(server: EmbeddedPostgres, main: Connection) -> None:
    start = f"START_REPLICATION SLOT far PHYSICAL {written(main)}"
    with plain(server, main) as role:
        with sender(server, "true", "CREATE_REPLICATION_SLOT far PHYSICAL RESERVE_WAL", start) as standby:
            lsn = written(main)
            for conn in (main, role):
                ((pid, slot, _, behind),) = look(conn, lsn)
                assert (pid, slot, behind) == (standby.info.backend_pid, "far", True)
            confirm(standby, lsn)
            until = time.monotonic() + 10
            while any(s.behind for conn in (main, role) for s in look(conn, lsn)):
                assert time.monotonic() < until
            lsn = written(main)
        while main.execute("SELECT active FROM pg_replication_slots").fetchone() == (True,):
            time.sleep(0.01)
        assert look(main, lsn) == look(role, lsn) == [Standby(None, "far", "", True)]
        main.execute("SELECT pg_drop_replication_slot('far')")
        assert look(role, lsn) == []


def missed(conn: Connection) -> str | None:
    return measure(conn, SELF_HOSTED).missed


@pytest.mark.parametrize(
    ("names", "wanted"), [("far", 1), ("*", 1), ("FIRST 2 (far, near)", 2), ("any 1 (near, far)", 1), ("2 (*)", 2)]
)
def test_synchronous_standbys_that_are_away_are_told_of(
    server: EmbeddedPostgres, main: Connection, names: str, wanted: int
) -> None:
    """A commit would wait for them, and the move with it, for as long as they are away."""
    assert missed(main) is None
    start = f"START_REPLICATION PHYSICAL {written(main)}"
    with plain(server, main) as role, setting(main, "synchronous_standby_names", names), ExitStack() as stack:
        for name in ("far", "near")[:wanted]:
            assert missed(main) == missed(role) == names
            refused = refusal(measure(main, SELF_HOSTED), "tiers.main", gives_only=True)
            assert names in str(refused)
            standby = stack.enter_context(sender(server, "true", start, name=name))
            until = time.monotonic() + 10
            while main.execute("SELECT state FROM pg_stat_replication WHERE application_name = %s", [name]).fetchone() != (
                "streaming",
            ):
                assert time.monotonic() < until
            confirm(standby, "0/1")
            while main.execute("SELECT flush_lsn FROM pg_stat_replication WHERE application_name = %s", [name]).fetchone() == (
                None,
            ):
                assert time.monotonic() < until
        assert missed(main) is None
        assert missed(role) is None
        if names == "far":
            stack.close()
            while missed(main) is None:
                assert time.monotonic() < until
            with sender(server, "true", start, name="another"):
                assert missed(main) == names


@contextmanager
def setting(conn: Connection, name: str, value: str) -> Iterator[None]:
    """The server's own, which its processes have read."""
    conn.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), value))
    reread(conn, name, value)
    try:
        yield
    finally:
        conn.execute(sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name)))
        reread(conn, name, "")


def reread(conn: Connection, name: str, value: str) -> None:
    conn.execute("SELECT pg_reload_conf()")
    while conn.execute("SELECT current_setting(%s)", [name]).fetchone() != (value,):
        time.sleep(0.01)


def test_a_slot_that_nobody_has_used_keeps_nothing_up(main: Connection) -> None:
    main.execute("SELECT pg_create_physical_replication_slot('new')")
    assert look(main, written(main)) == []
    main.execute("SELECT pg_drop_replication_slot('new')")


def test_without_a_slot_what_cannot_be_seen_is_behind(server: EmbeddedPostgres, main: Connection) -> None:
    with sender(server, "true", f"START_REPLICATION PHYSICAL {written(main)}") as standby, plain(server, main) as role:
        lsn = written(main)
        confirm(standby, lsn)
        until = time.monotonic() + 10
        while look(main, lsn)[0].behind:
            assert time.monotonic() < until
        ((pid, slot, name, behind),) = look(role, lsn)
        assert (pid, slot, name, behind) == (standby.info.backend_pid, None, "far", True)
