"""How each job of the schedule went last, on Main: whoever leads next knows, and so does whoever looks for alerts."""

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from psycopg import errors

from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.link import Link, transaction, translated
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.monitoring", "went.sql")


@dataclass(frozen=True)
class Went:
    """A job: known `since`, went well `ok_at` last; `cause` of what has kept it from that since. By Main's clock."""

    since: datetime
    ok_at: datetime | None = None
    cause: str | None = None


def begin(cur: Cursor, jobs: Collection[str]) -> None:
    """From now on these could go well."""
    cur.execute(_SQL["begin"], {"jobs": sorted(jobs)})


def ended(main: Link, job: str, cause: str | None) -> None:
    """Writes down that a job has gone well, or the `cause` why not. Raises NotNow where Main is away."""
    with translated("tiers.main"), closing(main.connect("jobs")) as conn, transaction(conn) as cur:
        cur.execute(_SQL["ended"], {"job": job, "cause": cause})


def read(main: Link) -> Mapping[str, Went]:
    """Every job that some process has had on its schedule; none where no `run` has been. Raises NotNow where Main is away."""
    with translated("tiers.main"), closing(main.connect("alerts")) as conn:
        try:
            with catalog(conn) as cur:
                rows = cur.last(_SQL["read"]).fetchall()
        except (errors.UndefinedTable, errors.InvalidSchemaName):
            return {}
    return {job: Went(since, ok_at, cause) for job, since, ok_at, cause in rows}
