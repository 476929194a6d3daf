"""A table without an age of its own: its rows leave Core with those that they refer to, and with nothing else.

The oracle counts the application's own rows through connections of its own; it never reads the schema `tierkeeper`.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from support import Tiers, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import Failed, Faults, NotNow, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.results import MoveResult
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection

ORDERS, ITEMS = TableName("public", "orders"), TableName("public", "order_items")
BEFORE = datetime(2024, 6, 1, tzinfo=UTC)
POLICIES = ({"name": "orders", "age": "at", "core": "30 days"}, {"name": "order_items"}, {"name": "returns"})
MAKE = """
CREATE TABLE orders (id int PRIMARY KEY, at timestamptz NOT NULL, total numeric(12, 2));
CREATE TABLE order_items (orders int REFERENCES orders ON DELETE CASCADE, place text, what text, PRIMARY KEY (orders, place));
CREATE TABLE returns (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), orders int, place text, why text,
    FOREIGN KEY (orders, place) REFERENCES order_items MATCH FULL ON DELETE CASCADE);
INSERT INTO orders SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 hour', i FROM generate_series(1, 60) AS i;
INSERT INTO orders SELECT i, now(), i FROM generate_series(61, 70) AS i;
INSERT INTO order_items SELECT o, p::text, 'thing ' || o FROM generate_series(1, 70) AS o, generate_series(1, 3) AS p;
INSERT INTO returns (orders, place, why) SELECT o, '2', 'broken' FROM generate_series(5, 70, 5) AS o;
INSERT INTO returns (orders, place, why) VALUES (NULL, NULL, 'refers to nothing');
"""
TABLES = ("orders", "order_items", "returns")


class House:
    """Core and Main with the application's connections, and a keeper."""

    def __init__(self, core: Connection, main: Connection, keeper: Keeper) -> None:
        self.core, self.main, self.keeper = core, main, keeper

    def move(self, **more: Any) -> MoveResult:
        return self.keeper.move(ORDERS, "core", "main", before=BEFORE, **more)

    def rows(self, conn: Connection, table: str) -> list[str]:
        if conn.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
            return []
        return [str(r[0]) for r in conn.execute(f"SELECT t::text FROM {table} AS t ORDER BY 1".encode())]

    def everywhere(self) -> dict[str, list[str]]:
        return {t: sorted(self.rows(self.core, t) + self.rows(self.main, t)) for t in TABLES}

    def asked(self) -> list[int]:
        """How many rows of each table a reader sees, in one statement."""
        parts = ", ".join(f"(SELECT count(*) FROM {t}) AS {t}" for t in TABLES)
        for _ in range(20):
            with suppress(NotNow):  # an honest answer on a busy machine
                return list(self.keeper.query(f"SELECT {parts}").to_pylist()[0].values())
        raise AssertionError(parts)

    def at_main(self) -> list[int]:
        return [len(self.rows(self.main, t)) for t in TABLES]


@contextmanager
def house(tiers: Tiers, policies: tuple[Mapping[str, str], ...] = POLICIES, **more: Any) -> Iterator[House]:
    settings = load(tierkeeper_toml(tiers, policies), tiers.environment, tiers.home)
    with closing(tiers.core.connect("test")) as core, closing(tiers.main.connect("test")) as main:
        core.execute(MAKE)
        yield House(core, main, open_keeper(settings, environment=tiers.environment, **more))


@pytest.fixture(autouse=True)
def _disarm() -> Iterator[None]:
    yield
    faults.disarm()


@pytest.mark.long
def test_rows_without_an_age_leave_with_what_they_refer_to(tiers: Tiers) -> None:
    """Two levels of them, with a key of two columns and MATCH FULL; what refers to nothing stays."""
    with house(tiers, batch_rows=40) as h:
        h.keeper.setup(apply=True)
        before = h.everywhere()
        plan = h.keeper.plan_move(ORDERS, "core", "main", before=BEFORE, explain=True)
        done = h.move()
        assert plan.rows == done.rows == 60 + 180 + 12
        assert any("orders, order_items, returns" in n or "order_items" in n for n in plan.notes)
        assert done.stopped_because == "complete"
        assert h.everywhere() == before
        assert h.at_main() == [60, 180, 12]
        assert h.asked() == [len(before[t]) for t in TABLES]
        assert [r[0] for r in h.core.execute("SELECT why FROM returns WHERE orders IS NULL OR orders <= 60")] == [
            "refers to nothing"
        ]


@pytest.mark.long
def test_a_reader_sees_each_of_them_once_at_every_step(tiers: Tiers) -> None:
    """I2."""
    with house(tiers, batch_rows=100) as h:
        h.keeper.setup(apply=True)
        whole, seen = [70, 210, 15], {}

        def hook(reached: Point) -> None:
            if reached not in seen and reached is not Point.FORGOTTEN:
                seen[reached] = ()
                seen[reached] = h.asked()

        faults.arm(hook)
        h.move(limit=40)
        faults.disarm()
        assert {Point.COPIED, Point.DELETED, Point.DONE} <= seen.keys()
        assert seen == dict.fromkeys(seen, whole)
        assert h.asked() == whole


def test_a_change_under_them_undoes_the_copy(tiers: Tiers) -> None:
    """I4, I5: the rows of a copy are told apart without an age, those beside them stay."""
    with house(tiers) as h, closing(tiers.core.connect("test")) as app:
        h.move(limit=20)
        before, came = h.everywhere(), []

        def hook(reached: Point) -> None:
            if reached is Point.COPIED and not came:
                came.append(True)
                app.execute("UPDATE order_items SET what = 'changed' WHERE orders = 50 AND place = '1'")

        faults.arm(hook)
        done = h.move()
        faults.disarm()
        assert came and done.stopped_because == "complete"
        before["order_items"] = sorted([*(r for r in before["order_items"] if not r.startswith("(50,1,")), "(50,1,changed)"])
        assert h.everywhere() == before
        assert h.at_main() == [60, 180, 12]


def test_a_trigger_there_that_changes_them_stops_the_move(tiers: Tiers) -> None:
    """I3: they are read back by their keys."""
    with house(tiers) as h:
        h.keeper.setup(apply=True)
        h.main.execute("""
            CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.orders = 17 THEN NEW.what := 'other'; END IF; RETURN NEW; END $$;
            CREATE TRIGGER other BEFORE INSERT ON order_items FOR EACH ROW EXECUTE FUNCTION other();
        """)
        before = h.everywhere()
        with pytest.raises(Failed, match=r"differs from what was sent"):
            h.move()
        assert h.everywhere() == before
        assert h.at_main() == [0, 0, 0]


def test_they_do_not_move_by_themselves(tiers: Tiers) -> None:
    with house(tiers) as h:
        with pytest.raises(UsageError, match=r"leave with those of public\.orders") as refused:
            h.keeper.move(ITEMS, "core", "main", before=BEFORE)
        assert refused.value.place == "tables.public.order_items.age"
        assert h.at_main() == [0, 0, 0]


def test_check_says_whom_they_follow(tiers: Tiers) -> None:
    with house(tiers) as h:
        h.core.execute("CREATE TABLE alone (id int PRIMARY KEY)")
        found = {c.place: c.finding for c in h.keeper.check().checks}
        assert found["table public.order_items"] == (
            "found in Core with key (orders, place) and its rows leave with those of public.orders"
        )
        assert found["table public.returns"].endswith("public.orders")
        assert any("begins with orders, so that following" in n for n in h.keeper.check().notes if "public.returns" in n)
        assert not any("public.order_items: no index" in n for n in h.keeper.check().notes)


def test_a_table_that_nothing_leads_is_refused(tiers: Tiers) -> None:
    """Parents without an age do not follow their children: they would leave with the last of these."""
    with house(tiers, (*POLICIES, {"name": "customers"})) as h:
        h.core.execute("CREATE TABLE customers (id int PRIMARY KEY); ALTER TABLE orders ADD customer int REFERENCES customers")
        with pytest.raises(Faults) as refused:
            h.keeper.check()
        assert [e.place for e in refused.value.errors] == ["tables.public.customers.age"]
        assert "mirror" in refused.value.errors[0].remedy
        before = h.everywhere()
        for table in (ORDERS, TableName("public", "customers")):
            with pytest.raises(UsageError, match="no column says how old its rows are"):
                h.keeper.move(table, "core", "main", before=BEFORE)
        assert h.everywhere() == before


def test_a_new_column_is_followed(tiers: Tiers) -> None:
    with house(tiers) as h:
        h.keeper.setup(apply=True)
        h.move(limit=20)
        h.core.execute("ALTER TABLE order_items ADD weight int DEFAULT 7")
        h.move()
        assert h.at_main() == [60, 180, 12]
        assert h.main.execute("SELECT count(*) FROM order_items WHERE weight = 7").fetchone() == (180,)
        assert h.keeper.query("SELECT sum(weight) AS w FROM order_items").to_pylist() == [{"w": 210 * 7}]


def test_the_quota_managers_run_takes_them_along(tiers: Tiers) -> None:
    with house(tiers) as h:
        h.core.execute("CREATE INDEX ON returns (orders, place)")
        done = h.keeper.quota()
        assert not done.errors
        assert h.at_main() == [60, 180, 12]
        assert h.keeper.status().tables["public.order_items"].in_flight is not None
