"""A setup makes what is missing, once; what does not fit is named and nothing is changed."""

import re
from contextlib import closing

import pytest

from tierkeeper.kernel.errors import Faults, TierkeeperError, UsageError, each
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres import shapes
from tierkeeper.postgres.link import Connection
from tierkeeper.setup import observe, runner
from tierkeeper.setup.plan import own_steps

from .conftest import EVENTS, KINDS, POLICIES, House


def count(conn: Connection, query: str) -> object:
    row = conn.execute(query.encode()).fetchone()
    return row[0] if row else None


def test_a_second_plan_is_empty(house: House) -> None:
    first = house.plan()
    assert {s.tier for s in first.steps} == {"core", "main", "archive"}
    result = runner.apply(first, house.links, house.audit)
    assert result.result.applied
    assert house.plan().steps == ()
    assert house.audit.records == [("setup", (True,)), ("outcome", {"steps": len(first.steps), "waiting": []})]


def test_a_plan_changes_nothing(house: House) -> None:
    house.plan()
    assert count(house.main, "SELECT count(*) FROM pg_namespace WHERE nspname = 'tierkeeper'") == 0
    assert count(house.main, "SELECT to_regclass('public.events')") is None


def test_main_takes_what_core_has(house: House) -> None:
    house.set_up()
    assert shapes.read(house.main, EVENTS).columns == shapes.read(house.core, EVENTS).columns
    assert shapes.read(house.main, EVENTS).key == ("id",)
    assert count(house.main, "SELECT count(*) FROM pg_indexes WHERE tablename = 'events' AND indexdef LIKE '%(at)'") == 1
    assert count(house.main, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'events_kind_fkey'") == (
        "FOREIGN KEY (kind) REFERENCES kinds(kind) DEFERRABLE"  # without CASCADE: history does not vanish with its parent
    )
    with closing(house.tiers.catalog.connect("test")) as catalog:
        assert count(catalog, "SELECT to_regclass('tierkeeper.segment')::text") == "tierkeeper.segment"
        assert count(catalog, "SELECT role FROM tierkeeper.tier") == "archive"


DAMAGES = {
    "DROP INDEX tierkeeper.ledger_in_flight": "create tierkeeper.ledger_in_flight",
    "DROP TABLE tierkeeper.lease": "create tierkeeper.lease",
    "DELETE FROM tierkeeper.tier": "write down that this is main",
    "ALTER TABLE public.events DROP CONSTRAINT events_kind_fkey": "add foreign key events_kind_fkey",
    "DROP INDEX public.events_at_idx": "create an index on public.events",
    "ALTER TABLE public.events DISABLE TRIGGER tierkeeper_copy_in_flight": "guard the rows of public.events",
    "DROP TRIGGER tierkeeper_copies_in_flight ON public.events": "guard the table of public.events",
    "CREATE OR REPLACE FUNCTION tierkeeper.refuse_copy_in_flight() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'": (
        "create function tierkeeper.refuse_copy_in_flight"
    ),
}


def test_exactly_what_is_missing_is_planned(house: House) -> None:
    house.set_up()
    for damage, action in DAMAGES.items():
        house.main.execute(damage.encode())
        (step,) = house.plan().steps
        assert step.tier == "main"
        assert step.action.startswith(action)
        house.set_up()
        assert house.plan().steps == ()


def test_a_new_value_of_an_enum_comes_along_in_its_place(house: House) -> None:
    house.set_up()
    house.core.execute("ALTER TYPE public.colour ADD VALUE 'blue' BEFORE 'green'")
    assert [s.action for s in house.plan().steps] == ["add the value 'blue' to public.colour"]
    house.set_up()
    assert count(house.main, "SELECT enum_range(NULL::public.colour)::text") == "{red,blue,green}"


def test_a_read_only_core_is_set_up_all_the_same(house: House) -> None:
    house.core.execute(f'ALTER DATABASE "{house.core.info.dbname}" SET default_transaction_read_only = on'.encode())
    house.set_up()
    assert house.plan().steps == ()


def test_the_key_is_made_when_it_is_missing_and_only_then(house: House) -> None:
    planned = house.plan(key_present=False)
    assert planned.steps[-1].action == "make the archive key"
    result = runner.apply(planned, house.links, house.audit, lambda: "the key lies there; losing it loses the archive")
    assert result.result.notes == ["the key lies there; losing it loses the archive"]
    assert house.plan().steps == ()


DRIFTS = {
    "id bigint PRIMARY KEY, at timestamptz, kind text, body text, old text NOT NULL": ["'old' is NOT NULL"],
    "id bigint PRIMARY KEY, at timestamptz, sort text, body text": ["Core has 'kind' and lacks 'sort'"],
    "id bigint PRIMARY KEY, at date, kind text, body text, more int NOT NULL": ["'at' is of type date", "'more' is NOT NULL"],
    "id bigint, at timestamptz PRIMARY KEY, kind text, body text": ["the key is (at), and (id)"],
    "id bigint PRIMARY KEY, at timestamptz, kind text, body text GENERATED ALWAYS AS ('x') STORED": ["'body' is generated"],
}


def test_a_table_that_cannot_follow_waits_with_every_reason_and_the_others_go_on(house: House) -> None:
    for there, causes in DRIFTS.items():
        house.main.execute(f"DROP TABLE IF EXISTS public.events; CREATE TABLE public.events ({there})".encode())
        waiting = house.plan().waiting
        assert list(waiting) == [EVENTS]
        faults = each(waiting.values())
        assert [isinstance(f, UsageError) and f.place for f in faults] == ["tiers.main, table public.events"] * len(causes)
        assert all(cause in fault.cause for fault, cause in zip(faults, causes, strict=True))
    house.set_up()
    assert count(house.main, "SELECT count(*) FROM pg_attribute WHERE attrelid = 'events'::regclass AND attgenerated <> ''") == 1
    assert count(house.main, "SELECT count(*) FROM public.kinds") == 0  # made


def test_the_order_of_columns_may_differ_and_rows_may_be_there(house: House) -> None:
    house.main.execute(
        "CREATE TABLE public.events (body text NOT NULL, kind text, at timestamptz, id bigint PRIMARY KEY, old int)"
    )
    house.main.execute("INSERT INTO public.events VALUES ('b', 'not mirrored yet', now(), 1)")
    house.set_up()
    assert house.plan().steps == ()


def test_swapped_and_doubled_addresses_are_refused(house: House) -> None:
    house.set_up()
    links = house.links
    with pytest.raises(Faults, match="set up as main") as error:
        runner.plan({**links, "core": links["main"], "main": links["core"]}, POLICIES, {}, key_present=True)
    assert [e.place for e in error.value.errors] == ["tiers.core", "tiers.main"]
    with pytest.raises(Faults, match="the database of core, too"):
        runner.plan({**links, "main": links["core"]}, POLICIES, {}, key_present=True)


def test_every_table_that_cannot_be_set_up_is_named(house: House) -> None:
    names = [TableName("public", n) for n in ("missing", "keyless")]
    house.core.execute("CREATE TABLE public.keyless (at date)")
    waiting = house.plan(tuple(TablePolicy(n, "move", age="at") for n in names)).waiting
    assert [waiting[n].place for n in names] == [f"tiers.core, table {n}" for n in names]


def test_what_a_move_lacks_is_made_with_the_tables_it_refers_to(house: House) -> None:
    runner.apply_steps(house.main, own_steps("main", observe.own_schema(house.main), {}))
    steps = runner.missing_for(house.core, house.main, POLICIES[0], {KINDS})
    made = [s.action for s in steps if s.action.startswith("create t")]
    assert made == ["create type public.colour", "create table public.kinds", "create table public.events"]
    runner.apply_steps(house.main, steps)
    assert runner.missing_for(house.core, house.main, POLICIES[0], {KINDS}) == ()


def test_a_failing_step_takes_the_others_of_its_tier_back(house: House) -> None:
    good, *_ = own_steps("main", observe.own_schema(house.main), {})
    bad = good.model_copy(update={"action": "divide", "sql": "SELECT 1 / 0"})
    with pytest.raises(TierkeeperError, match=re.escape("tiers.main: divide")):
        runner.apply_steps(house.main, [good, bad])
    assert count(house.main, "SELECT count(*) FROM pg_namespace WHERE nspname = 'tierkeeper'") == 0


def test_an_age_that_is_none_is_refused_before_anything_is_made(house: House) -> None:
    house.core.execute("ALTER TABLE public.events ALTER at TYPE text")
    planned = house.plan()
    assert "does not say how old a row is" in planned.waiting[EVENTS].cause
    runner.apply(planned, house.links, house.audit)
    assert count(house.main, "SELECT to_regclass('public.events')") is None
