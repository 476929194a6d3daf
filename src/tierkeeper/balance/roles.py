"""How a Postgres node is asked what it is, by whatever connection, and how its answer is read."""

from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import sql

from tierkeeper.balance.primary import Claim
from tierkeeper.kernel.errors import NotNow
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.balance", "roles.sql")


def claimed(run: Callable[[sql.SQL], Sequence[Any]], *, may_read_control: bool = True) -> tuple[Claim, bool]:
    """What a node says of itself, and whether its role may read the control file: where it may not, it is asked without.

    `run` gives the one row of a statement. Raises what `run` raises, and NotNow for a primary that does not say its timeline.
    """
    if may_read_control:
        try:
            return _claim(run(_SQL["role"])), True
        except psycopg.errors.InsufficientPrivilege:
            pass
    return _claim(run(_SQL["role_without_control"])), False


def _claim(row: Sequence[Any]) -> Claim:
    recovers, lsn, timeline, system, follows = row
    if timeline is None and not recovers:
        raise NotNow("postgres", "it does not say its timeline", "Try again")
    return Claim(not recovers, int(lsn), timeline, system, follows)
