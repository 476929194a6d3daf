"""`tierkeeper query` as a terminal runs it: an answer on stdout, and nothing else anywhere."""

import subprocess

from served_demo import PROGRAM
from support import Tiers, TiersFactory, tierkeeper_toml
from tierkeeper.compose import open_keeper
from tierkeeper.config import load


def _set_up(tiers: Tiers) -> None:
    toml = tierkeeper_toml(tiers, [{"name": "public.events", "age": "at", "core": "30 days"}], query_timeout="1 minute")
    open_keeper(load(toml, tiers.environment, tiers.home), environment=tiers.environment).setup(apply=True)


def test_an_answer_leaves_nothing_else_in_the_terminal(make_tiers: TiersFactory) -> None:
    """What DuckDB's library finds left over when its process ends it would tell, a hundred lines of it."""
    tiers = make_tiers(core="events")
    _set_up(tiers)
    command = [str(PROGRAM), "query", "SELECT count(*) AS n FROM events", "--format", "csv"]
    ran = subprocess.run(command, env=tiers.environment, cwd=tiers.home, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr, ran.returncode) == ('"n"\n2000\n', "", 0)
