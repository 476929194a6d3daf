"""The port to the data plane, which carries the bytes. The brain decides; a plane obeys, and goes on when the brain is gone."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from tierkeeper.balance.model import Observation, Pool, Routing


class Plane(Protocol):
    """A running data plane of some pools.

    Invariant: from `start` on traffic flows by the routing last published, whether or not the process that published it lives.
    """

    def start(self, pools: Sequence[Pool], routing: Routing) -> None:
        """Takes the ports and begins to serve, or takes over a plane that an earlier brain left running, without a lost request.

        Returns when traffic flows. Raises UsageError for a port that is taken, a certificate that cannot be read or a
        configuration that the plane refuses (place, cause, remedy), NotNow where it does not come up.
        """
        ...

    def reload(self, pools: Sequence[Pool], routing: Routing) -> None:
        """Serves other pools from now on, without a lost request: what is as before goes on, what left ends what it began.

        Raises as `start` does, and then goes on as before.
        """
        ...

    def publish(self, routing: Routing) -> None:
        """Makes `routing` hold, within a tenth of a second and at once for all backends of a pool. Raises Failed."""
        ...

    def observe(self) -> Observation:
        """What was seen since the last observation. Raises NotNow while the plane restarts."""
        ...

    def tend(self) -> str | None:
        """Starts the plane again if it has died, and says what was done; None where nothing was. To be called at each turn."""
        ...

    def facts(self) -> Mapping[str, str | int]:
        """For a person: what it is, its version, process id and restarts."""
        ...

    def stop(self) -> None:
        """Lets what it has begun end, for a bounded time, then ends. Leaves no process."""
        ...
