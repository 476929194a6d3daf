"""A database for an hour: made beside another on its server, used, dropped."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Final
from urllib.parse import quote, urlencode
from uuid import uuid4

from psycopg import errors, sql

from tierkeeper.kernel.errors import UsageError
from tierkeeper.postgres.link import Connection, Link, translated
from tierkeeper.postgres.statements import load

_PREFIX: Final = "tierkeeper_scratch_"
_SQL = load("tierkeeper.postgres", "scratch.sql")


@contextmanager
def scratch_database(link: Link) -> Iterator[Link]:
    """A new, empty database on `link`'s server. Raises UsageError where its role may make none.

    What a killed one left is dropped first; one that somebody is connected to is not.
    """
    name, place = f"{_PREFIX}{uuid4().hex}", f"tiers.{link.tier} ({link.shown})"
    with translated(place), closing(link.connect("scratch")) as conn:
        _sweep(conn)
        try:
            conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        except errors.InsufficientPrivilege as error:
            remedy = "Let it (ALTER ROLE … CREATEDB), or name another server with --on"
            raise UsageError(place, "its role may make no database to try in", remedy) from error
        try:
            yield _beside(link, name)
        finally:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _sweep(conn: Connection) -> None:
    for (name,) in conn.execute(_SQL["abandoned"], {"prefix": _PREFIX}).fetchall():
        with suppress(errors.ObjectInUse, errors.InsufficientPrivilege, errors.InvalidCatalogName):
            conn.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(str(name))))


def _beside(link: Link, name: str) -> Link:
    return replace(link, url="postgresql:///?" + urlencode({**link.parameters, "dbname": name}, quote_via=quote))
