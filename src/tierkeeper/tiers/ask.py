"""Asks all tiers at once, so that those that are away cost one time-out together."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from typing import TypeVar

from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.postgres.link import Connection, Link, translated

T = TypeVar("T")


def ask_all(
    links: Mapping[str, Link], question: Callable[[str, Connection], T], purpose: str
) -> tuple[dict[str, T], dict[str, TierkeeperError]]:
    """Answers by tier, and the errors of those that gave none."""

    def one(name: str) -> T | TierkeeperError:
        try:
            with translated(f"tiers.{name}"), closing(links[name].connect(purpose)) as conn:
                return question(name, conn)
        except TierkeeperError as error:
            return error

    with ThreadPoolExecutor(max_workers=max(1, len(links))) as pool:
        asked = {name: pool.submit(copy_context().run, one, name) for name in links}
        results = {name: answer.result() for name, answer in asked.items()}
    answers = {n: r for n, r in results.items() if not isinstance(r, TierkeeperError)}
    return answers, {n: r for n, r in results.items() if isinstance(r, TierkeeperError)}
