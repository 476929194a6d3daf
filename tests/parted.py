"""A graph in partitions at either end of a hop: the tables that the tests of it share, their rows, and a keeper over them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import pytest

import graphs
from graphs import MOVED
from support import Tiers
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.units import Age

LONG: Final = pytest.mark.long
MONTH: Final = Age.parse("30 days", "test")
POLICIES: Final[tuple[Mapping[str, str], ...]] = (
    {"name": "orders", **MOVED}, {"name": "items"}, {"name": "events", **MOVED}, {"name": "notes", **MOVED},
)  # fmt: skip
TABLES: Final = ("orders", "items", "events", "notes")
MAKE: Final = """
-- by month and below that by region; up: a self reference; a DEFAULT part
CREATE TABLE orders (id int, at timestamptz, region text NOT NULL, up int, up_at timestamptz, PRIMARY KEY (id, at),
    FOREIGN KEY (up, up_at) REFERENCES orders {action}) PARTITION BY RANGE (at);
CREATE TABLE orders_jan PARTITION OF orders FOR VALUES FROM ('2024-01-01') TO ('2024-02-01') PARTITION BY HASH (id);
CREATE TABLE orders_jan_0 PARTITION OF orders_jan FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE orders_jan_1 PARTITION OF orders_jan FOR VALUES WITH (MODULUS 2, REMAINDER 1);
-- its columns lie otherwise, and one of them is gone
CREATE SCHEMA parts;
CREATE TABLE parts."the feb" (gone int, region text NOT NULL, at timestamptz NOT NULL, up_at timestamptz, up int,
    id int NOT NULL);
ALTER TABLE parts."the feb" DROP gone;
ALTER TABLE orders ATTACH PARTITION parts."the feb" FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
CREATE TABLE orders_rest PARTITION OF orders DEFAULT;
-- a plain child of a partitioned parent
CREATE TABLE items (orders int, at timestamptz, place int, what text, PRIMARY KEY (orders, at, place),
    FOREIGN KEY (orders, at) REFERENCES orders {action});
-- a partitioned child of the same, by its own age
CREATE TABLE events (id int, at timestamptz, orders int, orders_at timestamptz, PRIMARY KEY (id, at),
    FOREIGN KEY (orders, orders_at) REFERENCES orders {action}) PARTITION BY RANGE (at);
CREATE TABLE events_q1 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2024-04-01');
CREATE TABLE events_q2 PARTITION OF events FOR VALUES FROM ('2024-04-01') TO ('2024-07-01');
CREATE TABLE events_rest PARTITION OF events FOR VALUES FROM ('2024-07-01') TO ('2124-01-01');
-- a child of one leaf alone
CREATE TABLE notes (id int PRIMARY KEY, at timestamptz NOT NULL, event int, event_at timestamptz,
    FOREIGN KEY (event, event_at) REFERENCES events_q2 {action});
CREATE INDEX ON items (orders, at); CREATE INDEX ON events (orders, orders_at);
"""
N: Final = 90
FILL: Final = f"""
INSERT INTO orders (id, at, region)
SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '16 hours', 'eu' FROM generate_series(1, {N}) AS i;
UPDATE orders SET (up, up_at) = (SELECT p.id, p.at FROM orders AS p WHERE p.id = orders.id - 1) WHERE id % 5 = 0;
INSERT INTO items SELECT o.id, o.at, p, 'thing ' || p FROM orders AS o, generate_series(1, 3) AS p;
INSERT INTO events SELECT o.id, o.at + interval '50 days', o.id, o.at FROM orders AS o;
INSERT INTO events SELECT 1000 + o.id, o.at + interval '3 days', o.id, o.at FROM orders AS o WHERE o.id % 3 = 0;
INSERT INTO notes SELECT e.id, '2024-02-02', e.id, e.at FROM events AS e WHERE e.at >= '2024-04-01' AND e.id % 2 = 0;
"""
ORPHANS: Final = """
SELECT (SELECT count(*) FROM items AS i WHERE NOT EXISTS (SELECT FROM orders AS o WHERE (o.id, o.at) = (i.orders, i.at)))
     + (SELECT count(*) FROM orders AS c
        WHERE up IS NOT NULL AND NOT EXISTS (SELECT FROM orders AS o WHERE (o.id, o.at) = (c.up, c.up_at)))
     + (SELECT count(*) FROM events AS e
        WHERE orders IS NOT NULL AND NOT EXISTS (SELECT FROM orders AS o WHERE (o.id, o.at) = (e.orders, e.orders_at)))
     + (SELECT count(*) FROM notes AS n
        WHERE event IS NOT NULL AND NOT EXISTS (SELECT FROM events AS e WHERE (e.id, e.at) = (n.event, n.event_at)))
"""
ACTIONS: Final = ("ON DELETE CASCADE", "", "ON DELETE SET NULL", "ON DELETE NO ACTION DEFERRABLE INITIALLY DEFERRED")
AT_MAIN: Final = """
CREATE TABLE orders (id int, at timestamptz, region text NOT NULL, up int, up_at timestamptz, PRIMARY KEY (id, at))
PARTITION BY HASH (id);
CREATE TABLE orders_0 PARTITION OF orders FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE orders_1 PARTITION OF orders FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE events (id int, at timestamptz, orders int, orders_at timestamptz, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE events_all PARTITION OF events FOR VALUES FROM ('2000-01-01') TO ('2124-01-01');
"""
FAMILY: Final = """
-- an inheriting table has a foreign key and a key of its own; what refers to its parent means the parent's own rows alone
CREATE TABLE old_kinds (id int PRIMARY KEY, at timestamptz NOT NULL);
CREATE TABLE t (id int PRIMARY KEY, at timestamptz NOT NULL, up int REFERENCES t {action});
CREATE TABLE t_old (PRIMARY KEY (id), FOREIGN KEY (up) REFERENCES old_kinds {action}) INHERITS (t);
CREATE TABLE c (id int PRIMARY KEY, at timestamptz NOT NULL, t int REFERENCES t {action}, t_old int REFERENCES t_old {action});
"""
FILL_FAMILY: Final = """
INSERT INTO old_kinds SELECT i, '2024-01-01' FROM generate_series(1, 20) AS i;
INSERT INTO t SELECT i, '2024-01-01' FROM generate_series(1, 20) AS i;
UPDATE t SET up = id - 1 WHERE id % 4 = 0;
INSERT INTO t_old SELECT 100 + i, '2024-01-01', 1 + i % 20 FROM generate_series(1, 20) AS i;
INSERT INTO c SELECT i, '2024-01-01', i, 100 + 1 + i % 20 FROM generate_series(1, 20) AS i;
"""
INHERITED: Final = [{"name": n, **MOVED} for n in ("t", "c", "old_kinds")]


class House(graphs.House):
    """With these tables in both tiers."""

    def orphans(self) -> list[object]:
        return [self.one(c, ORPHANS) for c in (self.core, self.main)]


@contextmanager
def house(
    tiers: Tiers,
    action: str = "ON DELETE CASCADE",
    policies: Sequence[Mapping[str, str]] = POLICIES,
    *,
    at_main: str = "",
    more: str = "",
    tables: Sequence[str] = TABLES,
    make: str = MAKE,
    fill: str = FILL,
    filled: Tier = "core",
    batch_rows: int = 25_000,
) -> Iterator[House]:
    """With the rows in one tier; `at_main` is made there by the user before the setup, `more` in Core behind the tables."""
    made = make.replace("{action}", action) + more
    with graphs.house(
        tiers, policies, tables, make=made, fill=fill, filled=filled, at_main=at_main, batch_rows=batch_rows
    ) as opened:
        yield House(**vars(opened))
