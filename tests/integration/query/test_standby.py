"""A reader whose Main is a standby: it answers while that is in step, and is told to ask again while it lags."""

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from hop import open_filled
from replicas import follow
from support import Tiers, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.errors import NotNow

pytestmark = pytest.mark.long
ANSWER_SECONDS = 60
COUNT = "SELECT count(*) AS n FROM t"


def reader(tiers: Tiers) -> Keeper:
    tables = [{"name": "public.t", "age": "at", "core": "30 days", "main": "60 days"}]
    config = tierkeeper_toml(tiers, tables, query_timeout="30 seconds")
    return open_keeper(load(config, tiers.environment, tiers.home), environment=tiers.environment)


def test_a_standby_that_lags_was_not_put_back(tiers: Tiers, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with EmbeddedPostgres.start(tmp_path / "main", durable=False, settings={"wal_level": "replica"}) as primary:
        primary.create_database("main")
        tiers = replace(tiers, main=primary.link("main", "main"))
        with open_filled(tiers) as hop, follow(primary, tmp_path / "standby") as standby:
            link = standby.link("main", "main")
            ask = reader(replace(tiers, main=link))
            assert ask.query(COUNT).to_pylist() == [{"n": 100}]
            with closing(link.connect("test")) as conn:
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
