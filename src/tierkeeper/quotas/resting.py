"""Whether rows that have come to a tier may leave it within the same run: they are old enough for that, and have rested."""

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Final

from psycopg import sql

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.limits import LOOK_LOCK_SECONDS
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.ports import Stop
from tierkeeper.postgres.catalog import server_now
from tierkeeper.postgres.link import transaction, translated
from tierkeeper.postgres.statements import load
from tierkeeper.tiers.tier import Tier

LOOK_SECONDS: Final = 0.5  # between two looks during that rest whether the run is asked to end
_SQL: Final = load("tierkeeper.quotas", "resting.sql")


def rested(clock: Clock, stop: Stop, seconds: float) -> bool:
    """Waits until what has arrived may go on; False where the run is asked to end before."""
    until = clock.monotonic() + seconds + 0.1
    while (left := until - clock.monotonic()) > 0:
        if stop() is not None:
            return False
        clock.sleep(min(left, LOOK_SECONDS))
    return stop() is None


def has_older(tier: Tier, policies: Sequence[TablePolicy], clock: Clock) -> bool:
    """Whether Main holds rows of these tables that are too old for it, whatever keeps them; True where nobody can tell."""
    aged = [(p, p.age, p.main) for p in policies if p.age is not None and p.main is not None]
    try:
        with translated(f"tiers.{tier.name}"), closing(tier.link.connect("usage")) as conn:
            now = clock.now(partial(server_now, conn))
            with transaction(conn, read_only=True, lock_seconds=LOOK_LOCK_SECONDS) as cur:
                for policy, age, main in aged:
                    table = sql.Identifier(policy.name.schema, policy.name.name)
                    asked = _SQL["older"].format(table=table, age=sql.Identifier(age), before=sql.Literal(main.before(now)))
                    if cur.execute(asked).fetchone() == (True,):
                        return True
    except TierkeeperError:
        return True  # the hop itself says what is wrong there
    return len(aged) < len(policies)
