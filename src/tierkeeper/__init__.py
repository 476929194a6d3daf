"""tierkeeper keeps a small hosted Postgres inside its quota without losing a row.

`open` gives a program what the command line has: `tierkeeper.open("tierkeeper.toml").query("select …")` is an Arrow table.
`transport`, `async_transport` and `databases` spread a program's own requests over backends, without a proxy between them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tierkeeper.balance.client import AsyncSpreadTransport, SpreadTransport
    from tierkeeper.balance.databases import Databases
    from tierkeeper.balance.model import Algorithm
    from tierkeeper.compose import Keeper

__all__ = ["async_transport", "databases", "open", "transport"]

# Before Arrow is loaded, which else keeps what it has freed: of a wide row several times its size.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


def open(config: Path | str | None = None) -> Keeper:
    """The keeper of the tiers in `config`, else in TIERKEEPER_CONFIG, ./tierkeeper.toml or the environment.

    It connects when it is first asked something. Used as a context (`with`) it counts, at the end, what its tiers have sent.
    Raises Faults for a wrong configuration.
    """
    from pathlib import Path

    from tierkeeper.compose import open_keeper
    from tierkeeper.config import load

    return open_keeper(load(Path(config) if config is not None else None, os.environ, Path.cwd()))


def transport(
    urls: Sequence[str], *, algorithm: Algorithm = "adaptive", max_retries: int = 3, weights: Sequence[int] | None = None
) -> SpreadTransport:
    """For `httpx.Client(transport=tierkeeper.transport(["http://10.0.0.2:9000", "http://10.0.0.3:9000"]))`.

    The host in a request's URL stands for all of `urls`. Idempotent requests are tried again at another backend, up to
    `max_retries` times and within a fifth of all. Raises UsageError for an address that is none.
    """
    from tierkeeper.balance.client import SpreadTransport, pool_of

    return SpreadTransport(pool_of(urls, algorithm, max_retries, weights))


def async_transport(
    urls: Sequence[str], *, algorithm: Algorithm = "adaptive", max_retries: int = 3, weights: Sequence[int] | None = None
) -> AsyncSpreadTransport:
    """As `transport`, for `httpx.AsyncClient`."""
    from tierkeeper.balance.client import AsyncSpreadTransport, pool_of

    return AsyncSpreadTransport(pool_of(urls, algorithm, max_retries, weights))


def databases(urls: Sequence[str], *, sslrootcert: str | None = None, insecure: bool = False) -> Databases:
    """A primary and its replicas: `.connect(writes=True)`, `.connect(writes=False)`, `.run(work)`, `.read(work)`.

    Raises UsageError for a URL that is none.
    """
    from tierkeeper.balance.databases import Databases

    return Databases(urls, sslrootcert=sslrootcert, insecure=insecure)
