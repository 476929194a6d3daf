"""Rows that foreign keys join come back from Main to Core together or not at all, whatever Core's foreign keys do on DELETE.

The oracle counts the application's own rows through connections of its own; it never reads the schema `tierkeeper`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from time import sleep
from typing import Any, Final

import pytest

import graphs
from graphs import MOVED, REST, on, refused
from support import Tiers, tierkeeper_toml
from tierkeeper.compose import open_keeper
from tierkeeper.config import load
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import Failed, NotNow, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.results import MoveResult
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.request import Bounds

POLICIES: Final[tuple[Mapping[str, str], ...]] = (
    {"name": "kinds", "mode": "mirror"}, {"name": "tags", **MOVED}, {"name": "orders", **MOVED}, {"name": "items"},
    {"name": "tagged"}, {"name": "payments", **MOVED},
)  # fmt: skip
TABLES: Final = ("orders", "items", "payments", "tags", "tagged")
MAKE: Final = """
CREATE TABLE kinds (kind text PRIMARY KEY);
INSERT INTO kinds VALUES ('a'), ('b');
-- up: a self reference; best: one of its items, in a circle; kind: a parent that is at home in Core
CREATE TABLE orders (id int PRIMARY KEY, at timestamptz NOT NULL, kind text NOT NULL REFERENCES kinds,
    up int REFERENCES orders ON DELETE CASCADE, best int, code text UNIQUE);
CREATE TABLE items (orders int REFERENCES orders {action}, place int, what text, PRIMARY KEY (orders, place));
ALTER TABLE orders ADD FOREIGN KEY (id, best) REFERENCES items (orders, place) ON DELETE SET NULL (best) DEFERRABLE;
-- by a key that is not the primary one: Main has no such foreign key
CREATE TABLE payments (id int PRIMARY KEY, at timestamptz, code text REFERENCES orders (code) ON DELETE CASCADE);
CREATE TABLE tags (tag int PRIMARY KEY, at timestamptz NOT NULL);
CREATE TABLE tagged (orders int REFERENCES orders ON DELETE CASCADE, tag int REFERENCES tags, PRIMARY KEY (orders, tag));
CREATE INDEX ON items (orders); CREATE INDEX ON tagged (tag); CREATE INDEX ON payments (code); CREATE INDEX ON orders (up);
"""
FILL: Final = """
INSERT INTO kinds VALUES ('a'), ('b') ON CONFLICT DO NOTHING;
INSERT INTO orders SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 hour', CASE i % 2 WHEN 0 THEN 'a' ELSE 'b' END,
    CASE WHEN i % 5 = 0 THEN i - 1 END, NULL, 'code ' || i FROM generate_series(1, 40) AS i;
INSERT INTO items SELECT o, p, 'thing ' || o FROM generate_series(1, 40) AS o, generate_series(1, 3) AS p;
UPDATE orders SET best = 2 WHERE id % 3 = 0;
INSERT INTO payments SELECT i, '2024-01-05', 'code ' || i FROM generate_series(1, 40) AS i;
INSERT INTO tags SELECT i, '2024-01-05' FROM generate_series(1, 4) AS i;
INSERT INTO tagged SELECT o, 1 + o % 2 FROM generate_series(11, 14) AS o;
INSERT INTO tagged VALUES (11, 3), (21, 4);
"""
TOGETHER: Final = {11, 13}
"""Orders that the second tag joins; the first joins 12 and 14, and 15 is below 14."""
DEFERRED: Final = "DEFERRABLE INITIALLY DEFERRED"


class House(graphs.House):
    """Whose old rows are at Main."""

    def up(self, where: str = "true", table: str = "orders", **more: Any) -> MoveResult:
        return self.move(table, "main", "core", where=where, **more)

    def down(self, table: str = "orders", **more: Any) -> MoveResult:
        return self.move(table, **more)

    def ids(self, tier: str, table: str = "orders") -> set[int]:
        conn = {"core": self.core, "main": self.main}[tier]
        return {int(str(r[0])) for r in conn.execute(f"SELECT id FROM {table}".encode()).fetchall()}


@contextmanager
def house(
    tiers: Tiers,
    action: str = "ON DELETE CASCADE DEFERRABLE",
    policies: Sequence[Mapping[str, str]] = POLICIES,
    *,
    more: str = "",
    batch_rows: int = 25_000,
) -> Iterator[House]:
    """With rows that came to Main long ago; `more` is made in Core behind the others."""
    made = MAKE.format(action=action) + more
    with graphs.house(tiers, policies, TABLES, make=made, fill=FILL, filled="main", batch_rows=batch_rows) as opened:
        yield House(**vars(opened))


@pytest.mark.parametrize(
    "action",
    [
        "ON DELETE CASCADE DEFERRABLE",
        *(
            pytest.param(a, marks=pytest.mark.long)
            for a in (DEFERRED, "ON DELETE RESTRICT DEFERRABLE", f"ON DELETE SET DEFAULT {DEFERRED}")
        ),
    ],
)
def test_they_come_back_whole_and_go_down_again(tiers: Tiers, action: str) -> None:
    """Parents and children, a circle, a self reference, many to many, children without an age, a key that Main does not know."""
    with house(tiers, action) as h:
        before = h.everywhere()
        assert h.counts("core") == [0, 0, 0, 0, 0]
        plan = h.keeper.plan_move(TableName("public", "orders"), "main", "core", where="id = 11", explain=True)
        assert any("refers from public.items" in s.action for s in plan.setup)
        done = h.up("id = 11")
        assert (plan.rows, done.rows, done.stopped_because) == (15, 15, "complete")
        assert h.ids("core") == TOGETHER and h.counts("core") == [2, 6, 2, 2, 3]
        assert h.everywhere() == before
        assert h.seen() == [len(rows) for rows in before.values()]
        # A reference to itself: 15 is below 14, which the first tag joins to 12; the tags' own move finds 21 as well.
        sleep(REST)
        assert (h.up("id = 15").rows, h.up("tag = 4", "tags").rows) == (3 + 9 + 3 + 1 + 2, 1 + 3 + 1 + 1 + 1)
        assert h.ids("core") == {*TOGETHER, 12, 14, 15, 21}
        sleep(REST)
        limited = h.up(limit=30)
        assert limited.stopped_because == "row limit" and 0 < limited.rows <= 30
        assert h.up().stopped_because == "complete"
        assert h.counts("main") == [0, 0, 0, 0, 0] and h.everywhere() == before
        sleep(REST)
        assert h.down().stopped_because == "complete"
        sleep(REST)
        assert h.down("tags").rows == 0
        assert h.counts("core") == [0, 0, 0, 0, 0] and h.everywhere() == before


def test_no_row_in_core_comes_to_refer_to_a_copy_in_flight(tiers: Tiers) -> None:
    """I1: a copy can be taken back, for nothing hangs on it; the application waits until it is the row itself.

    By foreign keys of every kind: of the tables that go along, of one that stays, of one that no policy names, checked at the end
    of a transaction; at once or only at the commit.
    """
    more = f"""
    CREATE TABLE notes (id int PRIMARY KEY, orders int REFERENCES orders ON DELETE CASCADE);
    CREATE TABLE late (id int PRIMARY KEY, tag int REFERENCES tags {DEFERRED});
    INSERT INTO notes VALUES (1, NULL); INSERT INTO late VALUES (1, NULL);"""
    deeds = (
        "INSERT INTO items VALUES (11, 9, 'late')", "INSERT INTO notes VALUES (2, 11)", "UPDATE notes SET orders = 11",
        "INSERT INTO late VALUES (2, 2)", "UPDATE late SET tag = 2", "INSERT INTO payments VALUES (99, now(), 'code 11')",
        "INSERT INTO orders VALUES (99, now(), 'a', 11)",
    )  # fmt: skip
    with house(tiers, more=more) as h, closing(tiers.core.connect("app")) as app, closing(tiers.core.connect("app")) as other:
        before = h.everywhere()
        h.up("id = 40")  # makes the guards
        other.execute("BEGIN; INSERT INTO late VALUES (3, 2)")  # before the row is here

        said = on(
            Point.COPIED, lambda: [*(refused(app, deed) for deed in deeds), refused(other, "SET CONSTRAINTS ALL IMMEDIATE")]
        )
        assert h.up("id = 11").stopped_because == "complete"
        answers = said[0]
        assert isinstance(answers, list) and len(answers) == len(deeds) + 1
        assert all(a.startswith("55006") and "tierkeeper is moving here" in a for a in answers), answers
        other.execute("ROLLBACK")
        assert h.everywhere() == before
        assert [refused(app, deed) for deed in deeds] == [""] * len(deeds)


@pytest.mark.long
def test_without_its_guards_nothing_comes(tiers: Tiers) -> None:
    """One who has a transaction open on what refers to the rows keeps its guard from being made."""
    with house(tiers, more="CREATE TABLE notes (id int, orders int REFERENCES orders);") as h:
        with closing(tiers.core.connect("app")) as app:
            app.execute("BEGIN; INSERT INTO notes VALUES (1, NULL)")
            with pytest.raises(NotNow, match=r"guard what refers from public\.notes"):
                h.up("id = 11")
            app.execute("COMMIT")
        assert h.counts("core") == [0, 0, 0, 0, 0]
        assert h.up("id = 11").rows == 15


LATE: Final = "CREATE TABLE notes (id int PRIMARY KEY, orders int, body text);"
JOIN: Final = "ALTER TABLE notes ADD FOREIGN KEY (orders) REFERENCES orders ON DELETE CASCADE"


@pytest.mark.parametrize("again", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_copy_is_never_taken_back_with_what_came_to_refer_to_it(tiers: Tiers, *, again: bool) -> None:
    """I1, I4: by a foreign key that was made meanwhile, whose guard is not there. It is named, and nothing is lost; once the
    row has gone the next run settles the bundle. `again`: a run the other way meets it first.
    """
    policies = (*POLICIES, {"name": "notes", "mode": "mirror"}) if again else POLICIES
    more = f"{LATE} INSERT INTO notes VALUES (1, 13, 'the application''s own');"
    with house(tiers, policies=policies, more=more) as h:
        before = h.everywhere()

        def meanwhile() -> None:
            h.core.execute(JOIN)
            h.main.execute("UPDATE items SET what = 'new' WHERE orders = 11 AND place = 1")  # so it has to be taken back

        on(Point.COPIED, meanwhile)
        with pytest.raises(NotNow, match=r"notes_orders_fkey of public\.notes"):
            h.up("id = 11")
        faults.disarm()
        for move in (h.down, h.up) if again else (h.up,):
            with pytest.raises(NotNow, match=r"notes_orders_fkey of public\.notes"):
                move()
        assert h.core.execute("SELECT body FROM notes").fetchall() == [("the application's own",)]
        assert not again or h.seen() == [len(rows) for rows in before.values()]
        h.core.execute("DELETE FROM notes")
        assert h.up("id = 11").rows == 15
        assert {t: len(r) for t, r in h.everywhere().items()} == {t: len(r) for t, r in before.items()}
        assert h.counts("core") == [2, 6, 2, 2, 3]


@pytest.mark.long
@pytest.mark.parametrize("source", ["core", "main"])
def test_a_bundle_that_is_known_by_its_content_alone_is_taken_back(tiers: Tiers, source: Tier) -> None:
    """I1, I5: its tables are written anew while it is on its way, and both tiers have rows of their own beside it."""
    destination: Tier = "main" if source == "core" else "core"
    with house(tiers) as h:
        before = h.everywhere()
        if source == "core":
            assert h.up().stopped_because == "complete"
            sleep(REST)
        there = h.main if source == "core" else h.core

        def rewrite() -> None:
            there.execute("; ".join(f"ALTER TABLE {t} ADD COLUMN zz uuid DEFAULT gen_random_uuid()" for t in h.tables).encode())
            there.execute("INSERT INTO orders (id, at, kind) VALUES (99, '2024-01-01', 'a')")

        on(Point.COPIED, rewrite)
        with pytest.raises(NotNow, match="written anew"):
            h.move(source=source, destination=destination, **({"where": "id < 20"} if source == "main" else {}))
        faults.disarm()
        there.execute("; ".join(f"ALTER TABLE {t} DROP COLUMN zz" for t in h.tables).encode())
        assert there.execute("DELETE FROM orders WHERE id = 99").rowcount == 1
        assert h.counts(source) == [len(rows) for rows in before.values()]
        assert h.counts(destination) == [0] * len(TABLES)
        assert h.seen() == [len(rows) for rows in before.values()]


def test_rows_that_core_has_been_waiting_for_stay_and_are_named(tiers: Tiers) -> None:
    """By a foreign key that was never validated, and by a trigger that makes children of what arrives: the others come."""
    more = f"""{LATE}
    INSERT INTO notes VALUES (1, 13, 'old'); {JOIN} NOT VALID;
    CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO public.notes VALUES (NEW.id, NEW.id, 'made'); RETURN NULL; END $$;
    CREATE TRIGGER log AFTER INSERT ON orders FOR EACH ROW WHEN (NEW.id IN (14, 30)) EXECUTE FUNCTION log();"""
    with house(tiers, more=more) as h:
        before = h.everywhere()
        done = h.up("id > 10")
        assert done.stopped_because.startswith("referenced: 3 groups")
        assert any("notes_orders_fkey of public.notes" in note for note in done.notes), done.notes
        assert h.ids("main") & set(range(10, 41)) == {*TOGETHER, 12, 14, 15, 29, 30} | {10}
        assert h.everywhere() == before
        assert h.core.execute("SELECT id, body FROM notes").fetchall() == [(1, "old")]


def test_what_stays_at_main(tiers: Tiers) -> None:
    """Keys that Core uses again, what a table that stays refers to at Main, and too many rows that hang together: each named."""
    with house(tiers, batch_rows=60) as h:
        h.main.execute("INSERT INTO tagged SELECT o, 4 FROM generate_series(22, 36) AS o")  # 16 orders: 3 of each in items alone
        h.core.execute("INSERT INTO orders VALUES (98, now(), 'a'); INSERT INTO items VALUES (98, 1, 'x')")
        h.core.execute("INSERT INTO payments VALUES (7, now(), NULL)")
        h.main.execute("CREATE TABLE refers (kind text, orders int REFERENCES orders)")
        h.main.execute("UPDATE payments SET at = NULL WHERE id = 1")
        h.main.execute("UPDATE payments SET at = 'infinity' WHERE id = 2")
        with pytest.raises(UsageError, match=r"public\.refers"):
            h.up("id < 9")
        h.main.execute("ALTER TABLE refers RENAME TO stays; INSERT INTO stays VALUES ('a', 8)")
        policies = (*POLICIES, {"name": "stays", "mode": "mirror"})
        h.core.execute("CREATE TABLE stays (kind text PRIMARY KEY, orders int)")
        settings = load(tierkeeper_toml(tiers, policies), tiers.environment, tiers.home)
        h.keeper = open_keeper(settings, environment=tiers.environment, batch_rows=60)
        h.keeper._bounds = Bounds(REST / 2, 60)
        done = h.up("id < 9 OR id = 30")
        assert done.conflicts == ["public.payments: 7"]
        assert h.ids("core") == {*range(1, 7), 98}
        notes = " ".join(done.notes)
        for why in (
            "a key of public.payments is in core and in main",
            "stays_orders_fkey",
            "refers_orders_fkey",
            "more than 60 rows",
        ):
            assert why in notes or "fkey" in why, (why, done.notes)
        assert "rows that stay refer to them" in notes
        assert h.core.execute("SELECT count(*) FROM payments WHERE at IS NULL OR at = 'infinity'").fetchone() == (2,)


def test_a_circle_that_is_checked_row_by_row_is_refused_with_the_statement(tiers: Tiers) -> None:
    with house(tiers, "ON DELETE CASCADE") as h:
        for call in (h.up, lambda **_: h.keeper.plan_move(TableName("public", "orders"), "main", "core", where="true")):
            with pytest.raises(UsageError, match=r"ALTER TABLE public.items ALTER CONSTRAINT items_orders_fkey DEFERRABLE"):
                call()
        h.core.execute("ALTER TABLE public.items ALTER CONSTRAINT items_orders_fkey DEFERRABLE")
        assert h.up("id < 3").rows == 2 + 6 + 2


def test_core_is_not_filled_by_what_comes_along(tiers: Tiers) -> None:
    """I9: all tables are weighed; the refusal comes before anything is written."""
    with house(tiers) as h:
        h.main.execute("UPDATE items SET what = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 40) AS i)")
        used = h.keeper.status().tiers["core"].used_bytes or 0
        settings = load(
            tierkeeper_toml(tiers, POLICIES, quotas={"core": f"{int((used + 60_000) / 0.85)}B"}), tiers.environment, tiers.home
        )
        tight = open_keeper(settings, environment=tiers.environment)
        with pytest.raises(Failed, match=r"\d+ rows bring about .* to core: more than 85%"):
            tight.move(TableName("public", "orders"), "main", "core", where="true")
        assert h.counts("core") == [0, 0, 0, 0, 0]
        assert h.core.execute("SELECT to_regproc('tierkeeper.refuse_copy_in_flight') IS NULL").fetchone() == (True,)
        assert tight.move(TableName("public", "orders"), "main", "core", where="id < 3").rows == 10


@pytest.mark.long
def test_a_reader_sees_each_of_them_once_at_every_step_up(tiers: Tiers) -> None:
    """I2."""
    steps = (Point.MARKER_OPEN, Point.COPY_BEFORE_COMMIT, Point.COPIED, Point.DELETE_BEFORE_COMMIT, Point.DELETED, Point.DONE)
    with house(tiers) as h:
        every, seen = h.seen(), dict[Point, list[int]]()

        def hook(reached: Point) -> None:
            if reached in steps and reached not in seen:
                seen[reached] = []
                seen[reached] = h.seen()

        faults.arm(hook)
        h.up("id = 11")
        faults.disarm()
        assert seen == dict.fromkeys(steps, every)
        assert h.seen() == every
