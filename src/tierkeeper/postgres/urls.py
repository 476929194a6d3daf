"""The address of a Postgres as its user writes it. Pure: nothing is looked up."""

import re
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import unquote

import psycopg
from psycopg import conninfo

from tierkeeper.kernel.errors import UsageError


def read(url: str, place: str) -> dict[str, str]:
    """libpq's parameters. Raises UsageError for a URL that is none, or that would show a part of its password."""
    if re.match(r"https?://", url):
        raise UsageError(
            place,
            "this is the address of an API or dashboard, not of a database",
            "In Supabase open Connect, choose 'Session pooler', and copy the URL that begins with postgresql://",
        )
    if not re.match(r"postgres(ql)?://", url):
        raise UsageError(
            place,
            "the URL does not begin with postgresql://",
            "Write postgresql://user:password@host:5432/database",
        )
    try:
        given = {k: str(v) for k, v in conninfo.conninfo_to_dict(url).items() if v is not None}
    except psycopg.Error:
        given = None
    if given is None or _splits_password(url, given):
        raise UsageError(
            place,
            "the URL cannot be read",
            "Write postgresql://user:password@host:5432/database, with %-escapes in the password",
        )
    return given


def _splits_password(url: str, given: Mapping[str, str]) -> bool:
    """Whether libpq took a part of an unescaped password for a host, a port or a database, which are no secret and are shown."""
    path = url.partition("://")[2].partition("?")[0].partition("/")[2]
    hosts, ports = (given.get(k, "").split(",") for k in ("host", "port"))
    strange = any("@" in host[1:] for host in hosts)  # a socket without a file begins with it
    return strange or "@" in path or not all(port.isdecimal() or not port for port in ports)


def is_loopback(host: str) -> bool:
    """Whether `host` (several: all of them) is this machine: a loopback address, localhost, a socket's folder, or none."""

    def one(h: str) -> bool:
        try:
            return ip_address(h).is_loopback
        except ValueError:
            return h in ("", "localhost") or h.startswith(("/", "@"))

    return all(one(unquote(h).strip("[]")) for h in host.split(","))
