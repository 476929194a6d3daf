"""What tests share beside fixtures: three tiers on one server, their tierkeeper.toml, and looking at processes."""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from tierkeeper.postgres.link import Link

LONGEST_READER = "1 second"
REST_SECONDS = 1.2  # after which rows have rested in a tier, where the longest reader is that one

FLIGHTS_POLICY: tuple[Mapping[str, str], ...] = (
    {"name": "public.flights", "age": "time_hour", "core": "90 days", "main": "180 days", "mode": "move"},
    {"name": "public.airlines", "mode": "mirror"},
    {"name": "public.airports", "mode": "mirror"},
)

EVENTS = """
CREATE TABLE public.kinds (kind text PRIMARY KEY, label text);
INSERT INTO public.kinds VALUES ('a', 'first'), ('b', 'second'), ('c', NULL);
CREATE TABLE public.events (
    id bigint PRIMARY KEY, at timestamptz NOT NULL, kind text NOT NULL REFERENCES public.kinds, body text
);
INSERT INTO public.events
SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 hour', chr(97 + i % 3), nullif('body ' || i, 'body 7')
FROM generate_series(1, 2000) AS i;
CREATE INDEX ON public.events (at, id);
"""
"""Two thousand events, an hour apart from the first of 2024, and the kinds that they refer to."""


@dataclass(frozen=True)
class Tiers:
    """Three fresh databases, a store's folder and a user's home. Everything is dropped after the test."""

    core: Link
    main: Link
    catalog: Link
    store: Path
    home: Path

    @property
    def state(self) -> Path:
        """Where this user's programs remember things."""
        return self.home / ".local" / "state"

    @property
    def environment(self) -> dict[str, str]:
        """For a subprocess: this home, and no PG* or tier variable of whoever runs the tests."""
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH")}
        return {**kept, "HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / ".config"), "XDG_STATE_HOME": str(self.state)}


def sampled(values: Iterable[Any], *daily: Any) -> list[Any]:
    """`values` for `parametrize`, of which only `daily` run in `make test`: the others are for the long run.

    A tuple is a value for each of several names.
    """
    return [v if v in daily else pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.long) for v in values]


Command = Callable[..., Any]
"""`ask("move", "t", code=75)`: the document that the command printed as JSON, its exit code asserted."""


class DatabaseFactory(Protocol):
    """Makes a fresh database for the test and returns its URL (no sslrootcert in it)."""

    def __call__(self, name_hint: str = "db", kind: str = "empty") -> str: ...


@dataclass(frozen=True)
class Furnished:
    """Tiers to copy: their databases (Core, Main, catalog), and a folder with their `store` and `home`."""

    databases: tuple[str, ...]
    folder: Path


class TiersFactory(Protocol):
    """Makes three fresh databases; `core` and `main` name the kinds that they are copies of.

    With `furnish`, a function of a module, they are as it left the first that were made so: it runs once.
    """

    def __call__(self, core: str = "empty", main: str = "empty", furnish: Callable[[Tiers], object] | None = None) -> Tiers: ...


def tierkeeper_toml(
    tiers: Tiers,
    tables: Iterable[Mapping[str, str]] = (),
    *,
    quotas: Mapping[str, str] | None = None,
    query_timeout: str = LONGEST_READER,
    extra: str = "",
) -> Path:
    """Writes a tierkeeper.toml for `tiers` into its home, `extra` (TOML) at its end, and returns its path."""
    quotas = {"core": "500MB", "main": "10GB", "archive": "100GB"} | dict(quotas or {})
    sections = [
        ("[tiers.core]", {"url": tiers.core.url, "quota": quotas["core"], "sslrootcert": tiers.core.sslrootcert}),
        ("[tiers.main]", {"url": tiers.main.url, "quota": quotas["main"], "sslrootcert": tiers.main.sslrootcert}),
        (
            "[tiers.archive]",
            {
                "catalog": tiers.catalog.url,
                "store": str(tiers.store),
                "quota": quotas["archive"],
                "sslrootcert": tiers.catalog.sslrootcert,
            },
        ),
        *(("[[tables]]", table) for table in tables),
        ("[query]", {"timeout": query_timeout}),
    ]
    # A JSON string is a TOML basic string too.
    text = "\n".join(
        f"{head}\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in body.items() if value is not None)
        for head, body in sections
    )
    path = tiers.home / "tierkeeper.toml"
    path.write_text(f"{text}\n{extra}\n", encoding="utf-8")
    path.chmod(0o600)
    return path


def runs(pid: int) -> bool:
    """Whether process `pid` is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool], seconds: float = 15) -> bool:
    """Whether `condition` comes true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
