"""Who leads: of all processes of `run`, on whatever machine, one has the lease on Main and watches the schedule.

A convenience, as every lease here: two that believe to have it, since a clock or a process stood still, find the same due times
handled, and the movers' markers fence each other.
"""

from collections.abc import Callable
from contextlib import closing, suppress

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.mover.lease import Lease, Taken
from tierkeeper.postgres.link import Link, translated

NAME = "tierkeeper run"


class Leadership:
    """The lease of one process. A connection is made for each look: it is not to hold one for weeks."""

    def __init__(self, main: Link, clock: Clock, renew_seconds: float, lasts_seconds: float) -> None:
        self._main = main
        self._clock = clock
        self._renew_seconds = renew_seconds
        self._lasts_seconds = lasts_seconds
        self._heard_at = clock.monotonic()
        self._lease: Lease | None = None
        self._next_at = clock.monotonic()
        self.has_it = False
        self.heard_of: str | None = None
        """What was last heard of somebody else who has it."""

    @property
    def may_be_led(self) -> bool:
        """Whether somebody else may have it still, though Main does not say so: whoever was heard of within a lease's time.

        The leader's machine may be the very one that Main went down with.
        """
        return self.heard_of is not None and self._clock.monotonic() - self._heard_at < self._lasts_seconds

    def look(self) -> bool:
        """Takes or renews the lease, if it is time: whether it was. Raises as `Link.connect` where Main is away.

        Then nothing is known anew, and whoever had it goes on as if it had it still.
        """
        if self._clock.monotonic() < self._next_at:
            return False
        try:
            self._with_lease(lambda lease: lease.take())
        except Taken as taken:
            self.has_it, self.heard_of, self._heard_at = False, taken.cause, self._clock.monotonic()
        else:
            self.has_it, self.heard_of = True, None
        self._next_at = self._clock.monotonic() + self._renew_seconds
        return True

    def leave_alone(self, seconds: float) -> None:
        """Main is not asked for so long."""
        self._next_at = self._clock.monotonic() + seconds

    def give_back(self) -> None:
        """Whoever stands by may have it at once; where Main is away, when it runs out."""
        if self.has_it:
            self.has_it = False
            with suppress(TierkeeperError):
                self._with_lease(lambda lease: lease.give_back())

    def _with_lease(self, do: Callable[[Lease], None]) -> None:
        with translated("tiers.main"), closing(self._main.connect("jobs")) as conn:
            if self._lease is None:
                self._lease = Lease(conn, NAME)
            self._lease.conn = conn
            do(self._lease)
