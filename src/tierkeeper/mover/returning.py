"""What is looked at before rows go back to Core: whether there is room for all that comes (I9), and what becomes of it."""

from collections.abc import Sequence

from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.ports import Arrivals, Room
from tierkeeper.mover.bundle import Survey
from tierkeeper.mover.model import Selection
from tierkeeper.mover.request import Request
from tierkeeper.mover.source import Source


def arrivals(request: Request, source: Source, selection: Selection, survey: Survey | None) -> list[Arrivals]:
    """What would come: the rows of `selection` or, where others go with them, what `survey` has found of all tables."""
    if survey is None:
        return [Arrivals(request.table, *source.holdings.weigh(selection, request.limit))]
    return [Arrivals(table, *weight) for table, weight in survey.weights.items()]


def notes(room: Room, policy: TablePolicy, coming: Sequence[Arrivals]) -> list[str]:
    """What to know of rows that go back to Core. Raises Failed where they would fill it."""
    found = [room(coming)]
    if policy.core is not None:
        found.append(f"rows older than {policy.core.text} leave core again by policy, once they have rested there")
    return found
