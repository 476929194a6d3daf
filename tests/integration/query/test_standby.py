"""A reader whose Main is a standby: it answers while that is in step, and is told to ask again while it lags."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hop import open_filled
from support import Tiers, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.demo.server import EmbeddedPostgres, free_port
from tierkeeper.kernel.errors import NotNow
from tierkeeper.postgres.link import Link

pytestmark = pytest.mark.long
ANSWER_SECONDS = 60
COUNT = "SELECT count(*) AS n FROM t"


@contextmanager
def standby_of(primary: EmbeddedPostgres, link: Link, folder: Path) -> Iterator[Link]:
    """A standby that follows `primary`, on a port of its own, and its address of the same database."""
    runtime, port = primary._runtime, free_port()
    base = os.fspath(runtime.bin_dir / "pg_basebackup")
    subprocess.run(
        [base, "-D", folder, "-R", "-X", "stream", "-c", "fast", "-d", primary.url()], check=True, timeout=ANSWER_SECONDS
    )
    folder.chmod(0o700)
    runtime.own(folder)
    with (folder.parent / "standby.log").open("wb") as log:
        process = runtime.spawn("postgres", "-D", os.fspath(folder), "-p", str(port), output=log)
    there = Link(link.tier, link.url.replace(f":{_port(primary)}/", f":{port}/"), link.sslrootcert)
    try:
        until = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                there.connect("test").close()
                break
            except NotNow:
                assert time.monotonic() < until
                time.sleep(0.1)
        yield there
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(ANSWER_SECONDS)


def _port(server: EmbeddedPostgres) -> str:
    return server.url().rpartition("/")[0].rpartition(":")[2]


def reader(tiers: Tiers) -> Keeper:
    tables = [{"name": "public.t", "age": "at", "core": "30 days", "main": "60 days"}]
    config = tierkeeper_toml(tiers, tables, query_timeout="30 seconds")
    return open_keeper(load(config, tiers.environment, tiers.home), environment=tiers.environment)


def test_a_standby_that_lags_was_not_put_back(tiers: Tiers, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with EmbeddedPostgres.start(tmp_path / "main", durable=False, settings={"wal_level": "replica"}) as primary:
        primary.create_database("main")
        tiers = replace(tiers, main=primary.link("main", "main"))
        with open_filled(tiers) as hop, standby_of(primary, tiers.main, tmp_path / "standby") as standby:
            ask = reader(replace(tiers, main=standby))
            assert ask.query(COUNT).to_pylist() == [{"n": 100}]
            with closing(standby.connect("test")) as conn:
                conn.execute("SELECT pg_wal_replay_pause()")
                assert hop.move().rows == 100
                with pytest.raises(NotNow) as raised:
                    ask.query(COUNT)
                assert (raised.value.place, "lags" in raised.value.cause) == ("tiers.main", True)
                assert "DELETE" not in raised.value.remedy
                conn.execute("SELECT pg_wal_replay_resume()")
            until = time.monotonic() + ANSWER_SECONDS
            while time.monotonic() < until:
                try:
                    assert ask.query(COUNT).to_pylist() == [{"n": 100}]
                    break
                except NotNow:
                    time.sleep(0.2)
            assert ask.query(COUNT).to_pylist() == [{"n": 100}]
