"""What has come to Main goes on to the archive in the same run only where it is too old for Main, too."""

from contextlib import closing
from datetime import UTC, datetime

import pytest

from support import EVENTS, Tiers, tierkeeper_toml
from tierkeeper.compose import open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.clock import FixedDay
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age
from tierkeeper.postgres.link import Link
from tierkeeper.quotas.resting import has_older
from tierkeeper.tiers.profile import SELF_HOSTED
from tierkeeper.tiers.tier import Tier

CLOCK = FixedDay(datetime(2024, 3, 1, tzinfo=UTC))


def policy(main: str, age: str = "at") -> TablePolicy:
    return TablePolicy(TableName("public", "t"), "move", age, Age.parse("1 day", "core"), Age.parse(main, "main"))


@pytest.mark.parametrize("kind", ["date", "timestamp", "timestamptz"])
def test_a_row_that_is_too_old_is_found_by_any_age(tiers: Tiers, kind: str) -> None:
    main = Tier("main", tiers.main, SELF_HOSTED, 10**9)
    with closing(tiers.main.connect("app")) as conn:
        conn.execute(f"CREATE TABLE public.t (at {kind})".encode())
        assert not has_older(main, [policy("10 days")], CLOCK)
        conn.execute("INSERT INTO public.t VALUES (NULL), ('-infinity'), ('infinity'), ('2024-02-20'), ('2024-02-25')")
        assert not has_older(main, [policy("11 days")], CLOCK)
        assert has_older(main, [policy("9 days")], CLOCK)


def test_where_it_cannot_be_told_the_hop_itself_says_why(tiers: Tiers) -> None:
    main = Tier("main", tiers.main, SELF_HOSTED, 10**9)
    assert has_older(main, [policy("10 days")], CLOCK), "there is no such table"
    assert has_older(Tier("main", Link("main", "postgresql://u@127.0.0.1:1/x"), SELF_HOSTED, 1), [policy("1 day")], CLOCK)


@pytest.mark.parametrize(("main", "times"), [("100 years", 0), ("31 days", 1)])
def test_main_is_gone_through_again_only_for_rows_that_may_leave_it(tiers: Tiers, main: str, times: int) -> None:
    with closing(tiers.core.connect("app")) as core, closing(tiers.main.connect("oracle")) as oracle:
        core.execute(EVENTS.encode())
        table = {"name": "public.events", "age": "at", "core": "30 days", "main": main}
        kinds = {"name": "public.kinds", "mode": "mirror"}
        file = tierkeeper_toml(tiers, [table, kinds])
        keeper = open_keeper(load(file, {}, tiers.home), environment=tiers.environment)
        result = keeper.quota()
        assert result.errors == []
        assert [(m.from_, m.rows) for m in result.moves] == [("core", 2000), ("main", 2000)][: 1 + times]
        moves = "SELECT count(*) FROM tierkeeper.audit WHERE verb = 'move' AND detail ->> 'to' = 'archive'"
        assert oracle.execute(moves).fetchone() == (times,)
