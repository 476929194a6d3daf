"""Asks all tiers at once, so that those that are away cost one time-out together."""

from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import TypeVar

from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.postgres.keeping import at_once
from tierkeeper.postgres.link import Connection, Link, translated

T = TypeVar("T")


def ask_all(
    links: Mapping[str, Link], question: Callable[[str, Connection], T], purpose: str
) -> tuple[dict[str, T], dict[str, TierkeeperError]]:
    """Answers by tier, and the errors of those that gave none."""

    def one(name: str) -> T:
        with translated(f"tiers.{name}"), closing(links[name].connect(purpose)) as conn:
            return question(name, conn)

    results = dict(zip(links, at_once([partial(one, name) for name in links]), strict=True))
    answers = {n: r for n, r in results.items() if not isinstance(r, TierkeeperError)}
    return answers, {n: r for n, r in results.items() if isinstance(r, TierkeeperError)}
