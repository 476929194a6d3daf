"""Which due time of each job was handled last, and how it went: on Main, so that whoever takes over knows."""

from collections.abc import Collection
from contextlib import closing
from datetime import datetime

from tierkeeper.monitoring import went
from tierkeeper.postgres.link import Link, transaction, translated
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.jobs", "memory.sql")


class Memory:
    """Only ever goes forward: a look with an older clock, or by one who has lost the lease, takes nothing back.

    But for what lies ahead of Main's own clock: that was no due time.
    """

    def __init__(self, main: Link) -> None:
        self._main = main

    def read(self, begin: Collection[str], now: datetime) -> dict[str, datetime]:
        """The last handled due time of each job; those of `begin` that have none get `now`."""
        with translated("tiers.main"), closing(self._main.connect("jobs")) as conn, transaction(conn) as cur:
            cur.execute(_SQL["begin"], {"jobs": sorted(begin), "now": now})
            went.begin(cur, begin)
            return {str(job): due_at for job, due_at in cur.execute(_SQL["read"]).fetchall()}

    def handled(self, job: str, due_at: datetime) -> None:
        """Durable when it returns."""
        with translated("tiers.main"), closing(self._main.connect("jobs")) as conn, transaction(conn) as cur:
            cur.execute(_SQL["handled"], {"job": job, "due_at": due_at})

    def ended(self, job: str, cause: str | None) -> None:
        """That it has gone well, or the `cause` why not. Durable when it returns."""
        went.ended(self._main, job, cause)
