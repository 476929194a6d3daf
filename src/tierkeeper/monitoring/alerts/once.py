"""What a full tier rings for: it, and each run that found no room there, are one thing, told once. Pure."""

import re
from collections.abc import Collection, Sequence
from typing import Final

from tierkeeper.kernel.limits import NO_ROOM
from tierkeeper.monitoring.alerts.model import Condition, Kind

_SIZES: Final = frozenset((Kind.APPROACHING, Kind.BREACHED, Kind.FORECAST))
_TIER: Final = re.compile(r"tiers\.(\w+)|to (main|archive)\b")


def told_once(
    conditions: Sequence[Condition], firing: Collection[tuple[str, str]]
) -> tuple[list[Condition], set[tuple[Kind, str]]]:
    """`conditions` with one for each tier that is full, and what that one covers. `firing`: keys of what rings already.

    What rings goes on. Else a tier over its quota covers the moves that it stopped, and those cover that it comes near to it: of
    rows that cannot leave somebody has to hear whatever the share is.
    """
    stuck = [(tier, one) for one in conditions if (tier := _without_room(one)) is not None]
    left, covered = list(conditions), set[tuple[Kind, str]]()
    for tier in {tier for tier, _ in stuck}:
        moves = [one for where, one in stuck if where == tier]
        sizes = [one for one in conditions if one.kind in _SIZES and one.scope == tier]
        over = [one for one in sizes if one.kind is Kind.BREACHED]
        rings = [one for one in [*moves, *over] if one.key in firing] or over or moves[:1]
        gone = [one for one in [*moves, *sizes] if one not in rings]
        left = [one for one in left if one not in gone]
        covered |= {(one.kind, tier) for one in gone if one in sizes}
    return left, covered


def _without_room(condition: Condition) -> str | None:
    """The tier that a move found full; None for any other condition."""
    if condition.kind is not Kind.MIGRATION_FAILED or NO_ROOM not in condition.cause:
        return None
    found = _TIER.search(f"{condition.cause} {condition.subject}")
    return None if found is None else found[1] or found[2]
