"""The loop that a user would write: `python -m bench.row_loop CORE MAIN`. It verifies nothing; a kill leaves rows in both."""

import sys
from contextlib import closing

import psycopg

ROWS = 1_000
_DELETE = (
    "DELETE FROM public.events USING unnest(%s::timestamptz[], %s::text[], %s::int[]) AS gone (time_hour, carrier, flight)"
    " WHERE (events.time_hour, events.carrier, events.flight) = (gone.time_hour, gone.carrier, gone.flight)"
)


def loop(core_url: str, main_url: str) -> None:
    """Reads with a cursor on the server, inserts a thousand rows, commits, deletes them by their keys, commits."""
    with (
        closing(psycopg.connect(core_url)) as core,
        closing(psycopg.connect(main_url)) as main,
        core.cursor(name="rows", withhold=True) as rows,
    ):
        rows.execute("SELECT * FROM public.events ORDER BY time_hour")
        names = [column.name for column in rows.description or ()]
        key = [names.index(name) for name in ("time_hour", "carrier", "flight")]
        insert = f"INSERT INTO public.events ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))})"
        while batch := rows.fetchmany(ROWS):
            with main.cursor() as cur:
                cur.executemany(insert.encode(), batch)
            main.commit()
            core.execute(_DELETE, [[row[i] for row in batch] for i in key])
            core.commit()


if __name__ == "__main__":
    loop(*sys.argv[1:3])
