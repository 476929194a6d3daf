"""What `move --explain` says of the rows that stay, and what a run that ends early says is left."""

import itertools
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta

from support import Tiers, tierkeeper_toml
from tierkeeper import config
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.kernel.ports import Stop
from tierkeeper.kernel.tables import TableName

EVENTS = TableName("public", "events")
FIRST = datetime(2024, 1, 1, tzinfo=UTC)


def keeper_of(tiers: Tiers, stop: Stop | None = None) -> Keeper:
    policy = {"name": "public.events", "age": "at", "core": "30 days", "main": "60 days"}
    path = tierkeeper_toml(tiers, [policy], query_timeout="1 minute")
    settings = config.load(path, tiers.environment, tiers.home)
    return open_keeper(settings, environment=tiers.environment, batch_rows=200, stop=stop)


def test_every_row_that_stays_has_its_reason(make_tiers: Callable[..., Tiers]) -> None:
    tiers = make_tiers(core="events")
    with closing(tiers.core.connect("app")) as app:
        app.execute("ALTER TABLE public.events ALTER at DROP NOT NULL, DROP CONSTRAINT events_kind_fkey")
        app.execute("UPDATE public.events SET at = NULL WHERE id <= 3")
        app.execute("UPDATE public.events SET at = '-infinity' WHERE id IN (4, 5)")
    keeper, before = keeper_of(tiers), FIRST + timedelta(hours=101)

    untouched = keeper.plan_move(EVENTS, "core", "main", before=before, where="kind <> 'a'", explain=True)
    with closing(tiers.core.connect("app")) as app:
        assert app.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'tierkeeper'").fetchone() == (0,)
        expected = app.execute(
            "SELECT count(*) FILTER (WHERE kind <> 'a'), count(*) FILTER (WHERE kind = 'a') "
            "FROM public.events WHERE isfinite(at) AND at < %s",
            [before],
        ).fetchone()
    assert expected is not None
    assert untouched.rows == expected[0]
    assert {s.reason: s.rows for s in untouched.stays or []} == {
        "at is NULL: nothing says how old the row is": 3,
        "at is infinite": 2,
        f"not older than {before.isoformat()}": 1900,
        "the condition of --where does not hold": expected[1],
    }
    assert untouched.rows + sum(s.rows for s in untouched.stays or []) == 2000
    assert keeper.plan_move(EVENTS, "core", "main", before=before).stays is None


def test_keys_in_both_tiers_and_resting_rows_are_named(make_tiers: Callable[..., Tiers]) -> None:
    tiers = make_tiers(core="events")
    keeper = keeper_of(tiers)
    assert keeper.move(EVENTS, "core", "main", before=FIRST + timedelta(hours=11)).rows == 10
    with closing(tiers.core.connect("app")) as app:
        app.execute("INSERT INTO public.events VALUES (7, '2024-01-01 07:00+00', 'a', 'again')")
    moved = keeper.move(EVENTS, "core", "main", before=FIRST + timedelta(hours=21))
    assert (moved.rows, moved.conflicts) == (10, ["7"])
    assert keeper.plan_move(EVENTS, "core", "main", before=FIRST + timedelta(hours=31)).rows == 10
    assert keeper.plan_move(EVENTS, "main", "archive", before=FIRST + timedelta(hours=31)).rows == 19
    assert keeper.plan_move(EVENTS, "main", "core", where="true").rows == 19

    down = keeper.plan_move(EVENTS, "core", "main", before=FIRST + timedelta(hours=21), explain=True)
    assert [(s.reason, s.rows, s.keys) for s in (down.stays or [])[1:]] == [("its key is in core and in main", 1, ["7"])]
    onward = keeper.plan_move(EVENTS, "main", "archive", before=FIRST + timedelta(days=30), explain=True)
    assert [s.rows for s in onward.stays or [] if s.reason.startswith("resting")] == [20]
    resting = keeper.move(EVENTS, "main", "archive", before=FIRST + timedelta(days=30))
    assert resting.stopped_because.startswith("resting")
    assert resting.rows_left == 20


def test_a_limit_on_time_ends_after_a_whole_batch_and_says_what_is_left(make_tiers: Callable[..., Tiers]) -> None:
    tiers, asked = make_tiers(core="events"), itertools.count(1)
    stop: Stop = lambda: "time limit" if next(asked) > 3 else None  # noqa: E731
    before = FIRST + timedelta(days=90)
    ended = keeper_of(tiers, stop).move(EVENTS, "core", "main", before=before)
    assert (ended.stopped_because, ended.rows_left) == ("time limit", 2000 - ended.rows)
    assert 0 < ended.rows < 2000
    assert keeper_of(tiers).move(EVENTS, "core", "main", before=before).rows == 2000 - ended.rows


def test_a_row_limit_takes_the_oldest_and_says_what_is_left(make_tiers: Callable[..., Tiers]) -> None:
    tiers = make_tiers(core="events")
    with closing(tiers.core.connect("app")) as app:
        app.execute("UPDATE public.events SET at = at - interval '1 year' WHERE id % 4 = 0")
    limited = keeper_of(tiers).move(EVENTS, "core", "main", before=FIRST + timedelta(days=90), limit=321)
    assert (limited.rows, limited.stopped_because, limited.rows_left) == (321, "row limit", 2000 - 321)
    with closing(tiers.main.connect("app")) as main:
        ids = [r[0] for r in main.execute("SELECT id FROM public.events ORDER BY id")]
    assert ids == [4 * i for i in range(1, 322)]
