"""What a tier's driver says of a reader's statements, in our words and as that tier's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from tierkeeper.kernel.errors import NotNow, TierkeeperError, UsageError
from tierkeeper.postgres.link import Link, translate

_MISSING: Final = ("42P01", "3F000")  # undefined table, invalid schema
_WRITES: Final = "25006"  # the transaction is read-only because we made it so
_TOO_LONG: Final = ("25P03", "25P04", "57014")  # idle in transaction, transaction time-out, statement time-out


@contextmanager
def told_of(link: Link) -> Iterator[None]:
    """Tells the driver's errors as this tier's. They lie within each other: what an inner one has told keeps its place."""
    try:
        yield
    except psycopg.Error as error:
        raise _told(error, f"tiers.{link.tier} ({link.shown})") from error


def _told(error: psycopg.Error, place: str) -> TierkeeperError:
    """A tier without our schema was not set up; a server that ends a reader found it too slow."""
    told = translate(error, place)
    if error.sqlstate in _MISSING and "tierkeeper." in str(error):
        return UsageError(place, "the tierkeeper schema is missing here", "Run tierkeeper setup --apply")
    if error.sqlstate == _WRITES:
        return UsageError(place, f"the statement does more than read ({told.cause})", "Run it on that server")
    if error.sqlstate in _TOO_LONG:
        return NotNow(place, "it took longer than query.timeout", "Ask for less, or raise query.timeout")
    return told
