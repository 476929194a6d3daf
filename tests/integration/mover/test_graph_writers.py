"""An application that inserts, changes, deletes and re-parents rows of a graph where these leave, and a reader who counts.

The oracle is what the application knows that it wrote; it never reads the schema `tierkeeper`.
"""

import random
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from time import monotonic, sleep
from typing import Any

import psycopg
import pytest

from support import LONGEST_READER, Tiers, sampled, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection

ORDERS = TableName("public", "orders")
BEFORE = datetime(2024, 6, 1, tzinfo=UTC)
POLICIES = (
    {"name": "orders", "age": "at", "core": "30 days", "main": "60 days"},
    {"name": "shipments", "age": "at", "core": "30 days", "main": "60 days"}, {"name": "items"}, {"name": "returns"},
)  # fmt: skip
KEPT_ORDERS, KEPT_ITEMS = 150, 450  # which the application never deletes, so that a reader always finds as many
MAKE = """
CREATE TABLE orders (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT '2024-01-01', note int NOT NULL DEFAULT 0);
CREATE TABLE items (place int, orders int NOT NULL REFERENCES orders ON DELETE CASCADE, what int NOT NULL DEFAULT 0,
    PRIMARY KEY (orders, place));
CREATE TABLE returns (id int PRIMARY KEY, orders int, place int,
    FOREIGN KEY (orders, place) REFERENCES items MATCH FULL ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE shipments (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT '2024-02-01', orders int
    REFERENCES orders ON DELETE SET NULL);
CREATE INDEX ON returns (orders, place); CREATE INDEX ON shipments (orders);
"""
PARTED = """
CREATE TABLE orders (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT '2024-01-01', note int NOT NULL DEFAULT 0)
    PARTITION BY HASH (id);
CREATE TABLE orders_0 PARTITION OF orders FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE orders_1 PARTITION OF orders FOR VALUES WITH (MODULUS 2, REMAINDER 1);
-- by what an item's order is: one that goes to another order goes to another part
CREATE TABLE items (place int, orders int NOT NULL REFERENCES orders ON DELETE CASCADE, what int NOT NULL DEFAULT 0,
    PRIMARY KEY (orders, place)) PARTITION BY HASH (orders);
CREATE TABLE items_0 PARTITION OF items FOR VALUES WITH (MODULUS 2, REMAINDER 0) PARTITION BY HASH (place);
CREATE TABLE items_0_0 PARTITION OF items_0 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE items_0_1 PARTITION OF items_0 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE items_1 PARTITION OF items FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE returns (id int PRIMARY KEY, orders int, place int,
    FOREIGN KEY (orders, place) REFERENCES items MATCH FULL ON DELETE CASCADE ON UPDATE CASCADE) PARTITION BY RANGE (id);
CREATE TABLE returns_low PARTITION OF returns FOR VALUES FROM (MINVALUE) TO (1300);
CREATE TABLE returns_high PARTITION OF returns FOR VALUES FROM (1300) TO (MAXVALUE);
CREATE TABLE shipments (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT '2024-02-01', orders int
    REFERENCES orders ON DELETE SET NULL);
CREATE INDEX ON returns (orders, place); CREATE INDEX ON shipments (orders);
"""
FILL = f"""
INSERT INTO orders (id) SELECT generate_series(1, {KEPT_ORDERS});
INSERT INTO items (place, orders) SELECT i, 1 + i % {KEPT_ORDERS} FROM generate_series(1, {KEPT_ITEMS}) AS i;
"""
ORPHANS = """
SELECT (SELECT count(*) FROM items AS i WHERE NOT EXISTS (SELECT FROM orders AS o WHERE o.id = i.orders))
     + (SELECT count(*) FROM returns AS r WHERE r.orders IS NOT NULL
        AND NOT EXISTS (SELECT FROM items AS i WHERE (i.orders, i.place) = (r.orders, r.place)))
     + (SELECT count(*) FROM shipments AS s WHERE s.orders IS NOT NULL
        AND NOT EXISTS (SELECT FROM orders AS o WHERE o.id = s.orders))
"""
REFUSED = (
    psycopg.errors.ForeignKeyViolation,  # the other row has left
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)


class Guest:
    """Writes in Core to what comes there: children of orders, under places of its own. What is refused changed nothing."""

    def __init__(self, conn: Connection, seed: int) -> None:
        self._conn = conn
        self._random = random.Random(seed)  # noqa: S311 - a test's draw
        self._next = 1_000_000
        self.items: dict[int, tuple[int, int]] = {}
        self.shipments: dict[int, int | None] = {}
        self.refused = 0
        conn.execute("SET lock_timeout = '200ms'")

    def step(self) -> None:
        """Refers to an order, of those that came last if it can: they may be copies in flight."""
        self._next += 1
        newest = "SELECT id FROM orders ORDER BY xmin::text::bigint DESC LIMIT 20"
        orders = [int(str(r[0])) for r in self._conn.execute(newest.encode()).fetchall()]
        try:
            if orders and self._random.random() < 0.5:
                order = self._random.choice(orders)
                self._conn.execute("INSERT INTO items (place, orders) VALUES (%s, %s)", [self._next, order])
                self.items[self._next] = (order, 0)
            elif orders:
                order = self._random.choice(orders)
                self._conn.execute("INSERT INTO shipments (id, orders) VALUES (%s, %s)", [self._next, order])
                self.shipments[self._next] = order
            elif self.items:
                place = self._random.choice(list(self.items))
                self._conn.execute("DELETE FROM items WHERE place = %s", [place])
                del self.items[place]
        except (*REFUSED, psycopg.errors.ObjectInUse):
            self.refused += 1
        sleep(0.002)


class Owner:
    """Takes a part of `returns` off and puts it back at once: its rows are never seen elsewhere."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self.done = 0
        conn.execute("SET lock_timeout = '50ms'")

    def step(self) -> None:
        with suppress(*REFUSED), self._conn.transaction():
            self._conn.execute("ALTER TABLE returns DETACH PARTITION returns_low")
            self._conn.execute("ALTER TABLE returns ATTACH PARTITION returns_low FOR VALUES FROM (MINVALUE) TO (1300)")
            self.done += 1
        sleep(0.03)


class Application:
    """Writes to one tier, and knows what it wrote: each row by its id, an item by its place. What is refused changed nothing."""

    def __init__(self, conn: Connection, seed: int) -> None:
        self._conn = conn
        self._random = random.Random(seed)  # noqa: S311 - a test's draw
        self._next = 1000
        self.done = 0
        self.orders = dict.fromkeys(range(1, KEPT_ORDERS + 1), 0)
        self.items = {i: (1 + i % KEPT_ORDERS, 0) for i in range(1, KEPT_ITEMS + 1)}
        self.returns: dict[int, int | None] = {}  # the place of the item
        self.shipments: dict[int, int | None] = {}
        conn.execute("SET lock_timeout = '200ms'")

    def step(self) -> None:
        """One transaction of a kind that is drawn."""
        with suppress(*REFUSED):
            self._random.choice((
                self._order, self._item, self._return, self._ship, self._change, self._reparent, self._redirect, self._delete,
                self._age,
            ))()  # fmt: skip
            self.done += 1
        sleep(0.001)  # the mover has to keep up

    def _new(self) -> int:
        self._next += 1
        return self._next

    def _wrote(self, statement: str, *values: Any) -> bool:
        return self._conn.execute(statement.encode(), values).rowcount > 0

    def _order(self) -> None:
        order, places = self._new(), [self._new() for _ in range(self._random.randrange(4))]
        with self._conn.transaction():
            self._conn.execute("INSERT INTO orders (id) VALUES (%s)", [order])
            for place in places:
                self._conn.execute("INSERT INTO items (place, orders) VALUES (%s, %s)", [place, order])
        self.orders[order] = 0
        self.items |= dict.fromkeys(places, (order, 0))

    def _item(self) -> None:
        place, order = self._new(), self._random.choice(list(self.orders))
        if self._wrote("INSERT INTO items (place, orders) VALUES (%s, %s)", place, order):
            self.items[place] = (order, 0)

    def _return(self) -> None:
        made, place = self._new(), self._random.choice([*self.items, None])
        order = None if place is None else self.items[place][0]
        if self._wrote("INSERT INTO returns VALUES (%s, %s, %s)", made, order, place):
            self.returns[made] = place

    def _ship(self) -> None:
        made, order = self._new(), self._random.choice([*self.orders, None])
        if self._wrote("INSERT INTO shipments (id, orders) VALUES (%s, %s)", made, order):
            self.shipments[made] = order

    def _change(self) -> None:
        place = self._random.choice(list(self.items))
        if self._wrote("UPDATE items SET what = what + 1 WHERE place = %s", place):
            self.items[place] = (self.items[place][0], self.items[place][1] + 1)

    def _reparent(self) -> None:
        """An item goes to another order, its key changes, and a return's reference with it."""
        place, order = self._random.choice(list(self.items)), self._random.randint(1, KEPT_ORDERS)
        if self._wrote("UPDATE items SET orders = %s WHERE place = %s", order, place):
            self.items[place] = (order, self.items[place][1])

    def _redirect(self) -> None:
        if self.shipments:
            made, order = self._random.choice(list(self.shipments)), self._random.choice(list(self.orders))
            if self._wrote("UPDATE shipments SET orders = %s WHERE id = %s", order, made):
                self.shipments[made] = order

    def _delete(self) -> None:
        """Its items go with it, and their returns; its shipments refer to nothing then."""
        order = self._random.choice(list(self.orders))
        if order > KEPT_ORDERS and self._wrote("DELETE FROM orders WHERE id = %s", order):
            del self.orders[order]
            gone = {place for place, (of, _) in self.items.items() if of == order}
            self.items = {p: i for p, i in self.items.items() if p not in gone}
            self.returns = {r: p for r, p in self.returns.items() if p not in gone}
            self.shipments = {s: None if o == order else o for s, o in self.shipments.items()}

    def _age(self) -> None:
        """An order becomes young, and keeps all that hangs on it, or old again."""
        order, at = self._random.choice(list(self.orders)), self._random.choice(("2024-01-01", "2024-01-01", "2025-01-01"))
        if self._wrote("UPDATE orders SET at = %s, note = note + 1 WHERE id = %s", at, order):
            self.orders[order] += 1

    def known(self) -> dict[str, list[tuple[Any, ...]]]:
        return {
            "SELECT id, note FROM orders": sorted(self.orders.items()),
            "SELECT place, orders, what FROM items": sorted((p, *i) for p, i in self.items.items()),
            "SELECT id, coalesce(place, 0) FROM returns": sorted((r, p or 0) for r, p in self.returns.items()),
            "SELECT id, coalesce(orders, 0) FROM shipments": sorted((s, o or 0) for s, o in self.shipments.items()),
        }


@contextmanager
def beside(*works: Any) -> Iterator[None]:
    """Each of `works` again and again in a thread of its own; what one of them raises is raised at the end."""
    over, failed = threading.Event(), list[BaseException]()

    def again(work: Any) -> None:
        try:
            while not over.is_set():
                work()
        except BaseException as error:  # noqa: BLE001 - the thread ends with it
            failed.append(error)

    threads = [threading.Thread(target=again, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]


def moved(keeper: Keeper, source: Tier, destination: Tier, **more: Any) -> int:
    with suppress(NotNow):
        return keeper.move(ORDERS, source, destination, before=BEFORE, **more).rows
    return 0


def asked(keeper: Keeper, statement: str) -> list[tuple[Any, ...]]:
    for _ in range(20):
        with suppress(NotNow):  # an honest answer on a busy machine
            return [tuple(row.values()) for row in keeper.query(statement).to_pylist()]
    raise AssertionError(statement)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.long) for n in range(2, 22))])
@pytest.mark.parametrize(
    ("source", "destination"),
    [("core", "main"), *(pytest.param(*hop, marks=pytest.mark.long) for hop in (("main", "archive"), ("main", "core")))],
)
@pytest.mark.parametrize("make", sampled([MAKE, PARTED], PARTED), ids=["plain", "parted"])
def test_writers_of_a_graph_lose_nothing(tiers: Tiers, source: Tier, destination: Tier, seed: int, make: str) -> None:
    """I1, I2, I4: each row is once where it was written or where it went, with its parent, and a reader sees each once.

    On the way up a second application writes where they arrive. Where rows lie in parts, one of these comes and goes.
    """
    # Nothing waits for readers of the archive; and a join of many parts may take a busy machine more than a second.
    timeout = LONGEST_READER if source == "core" and make is MAKE else "5 seconds"
    settings = load(tierkeeper_toml(tiers, POLICIES, query_timeout=timeout), tiers.environment, tiers.home)
    keeper = open_keeper(settings, environment=tiers.environment, batch_rows=60 if source == "core" else 300)
    with (
        closing(tiers.core.connect("app")) as core,
        closing(tiers.main.connect("app")) as main,
        closing(tiers.core.connect("guest")) as there,
        closing((tiers.core if source == "core" else tiers.main).connect("owner")) as owning,
    ):
        core.execute(make.encode())
        if source == "main":
            main.execute(make.encode())
        keeper.setup(apply=True)
        written = core if source == "core" else main
        written.execute(FILL.encode())
        application, seen, draw = Application(written, seed), list[tuple[int, ...]](), random.Random(seed)  # noqa: S311 - likewise
        joined = f"""SELECT count(*) AS n, sum(i.place) AS s, min(o.id) AS o FROM items AS i JOIN orders AS o ON o.id = i.orders
            WHERE i.place <= {KEPT_ITEMS}"""

        def read() -> None:
            with suppress(NotNow):
                seen.append(tuple(int(v) for v in keeper.query(joined).to_pylist()[0].values()))

        guest, owner = Guest(there, seed), Owner(owning)
        rows, until = 0, monotonic() + 2
        with beside(
            application.step, read, *([guest.step] if destination == "core" else []), *([owner.step] if make is PARTED else [])
        ):
            while monotonic() < until:
                rows += moved(keeper, source, destination, limit=draw.randrange(5, 60))
        rows += moved(keeper, source, destination)
        assert rows > 0 and application.done > 100 and seen and (owner.done > 0 or make is MAKE)
        assert {s[:2] for s in seen} == {(KEPT_ITEMS, KEPT_ITEMS * (KEPT_ITEMS + 1) // 2)}
        assert [c.execute(ORPHANS).fetchone() for c in (core, main)] == [(0,), (0,)]
        application.items |= guest.items
        application.shipments |= guest.shipments
        assert destination != "core" or (guest.items and guest.shipments)
        for statement, known in application.known().items():
            found = [tuple(row) for c in (core, main) for row in c.execute(statement.encode()).fetchall()]
            assert sorted(found if destination != "archive" else asked(keeper, statement)) == known, statement
