"""Which database is which tier, written into the database: swapped or doubled addresses are found before a row moves."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tierkeeper.kernel.errors import TierkeeperError, UsageError
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.keeping import asked_once
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.tiers", "tiers.sql")


@dataclass(frozen=True)
class Identity:
    """A database (`database` is the same only for the same one) and the tiers it says it is."""

    database: tuple[datetime, int]
    roles: Mapping[str, UUID]


@asked_once
def read(conn: Connection) -> Identity:
    """Reads the identity of `conn`'s database; `roles` is empty before its first setup."""
    with catalog(conn) as cur:
        row = cur.execute(_SQL["place"]).fetchone()
        started, oid, was_set_up = row or (datetime.min, 0, False)
        roles = dict(cur.execute(_SQL["roles"]).fetchall()) if was_set_up else {}
    return Identity((started, oid), roles)


def faults(identities: Mapping[str, Identity]) -> list[TierkeeperError]:
    """Addresses that lead two tiers to one database, or a tier to another tier's. Pure."""
    found: list[TierkeeperError] = []
    names = list(identities)
    for i, tier in enumerate(names):
        same = [other for other in names[:i] if identities[other].database == identities[tier].database]
        if same:
            cause = f"this is the database of {same[0]}, too"
            found.append(UsageError(f"tiers.{tier}", cause, "Give each tier a database of its own"))
            continue
        others = [role for role in identities[tier].roles if role != tier]
        if others:
            cause = f"this database was set up as {others[0]}, so that the URLs seem to be swapped"
            remedy = (
                f"Correct the URLs; if it really changes its part, take the row {others[0]!r} out of its table tierkeeper.tier"
            )
            found.append(UsageError(f"tiers.{tier}", cause, remedy))
    return found
