"""Which column of an older segment is one of today's table. Pure.

A name can change its column: renamed ones, and others added under the old name. What cannot be told apart is an error that
names the segment and the column, never a guess.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.tables import Column, Followed, TableShape
from tierkeeper.kernel.widening import Widening, widening

_FOLLOW: Final = "Run tierkeeper setup --apply"
_LEAVE_OUT: Final = "Restore the segment into a table and ask that, or leave the column out"


@dataclass(frozen=True)
class Chosen:
    """A segment's column for one that is asked for, and what its values must become; None: the segment is older than it."""

    column: str | None
    how: Widening


def choose(
    wanted: str, segment: TableShape, main: TableShape, followed: Followed | None, place: str, *, remedy: str = _LEAVE_OUT
) -> Chosen:
    """The column of `segment` that is Main's column `wanted`. Raises Failed at `place` where that cannot be said."""
    target = main.column(wanted)
    if target is None:
        raise Failed(place, f"Main has no column {wanted!r}", _FOLLOW)
    known = followed.column(wanted) if followed is not None else None
    names = (wanted, *(known.former if known else ()))
    numbered = segment.oid == main.oid != 0
    found = _by_number(target, names, segment, main, followed) if numbered else _by_name(names, segment, followed)
    if isinstance(found, str):
        raise Failed(
            place,
            f"its column {found!r} is not known to be, or not to be, what {wanted!r} is today",
            remedy,
        )
    if found is None:
        return Chosen(None, Widening("same"))
    how = widening(found, target)
    if how is None:
        cause = f"its column {found.name!r} is of type {found.type}, which {target.type} does not hold unchanged"
        raise Failed(place, cause, remedy)
    return Chosen(found.name, how)


def _by_number(
    target: Column, names: Sequence[str], segment: TableShape, main: TableShape, followed: Followed | None
) -> Column | str | None:
    """The segment is of this very table, where a number is never given twice; a name that nobody wrote down is told instead."""
    same = next((c for c in segment.columns if c.number == target.number), None)
    if same is not None:
        return same if same.name in names else same.name
    other = segment.column(target.name)
    if other is None:
        return None
    now = next((c for c in main.columns if c.number == other.number), None)
    known = followed.column(now.name) if followed is not None and now is not None else None
    return None if known is not None and other.name in known.former else other.name


def _by_name(names: Sequence[str], segment: TableShape, followed: Followed | None) -> Column | str | None:
    """The segment is of a table that was made anew since, or does not say of which: by the names that are written down."""
    found = [c for c in segment.columns if c.name in names]
    others = {n for c in (followed.columns if followed is not None else ()) if c.name != names[0] for n in (c.name, *c.former)}
    doubtful = next((c.name for c in found if c.name in others), None)
    if doubtful is not None or len(found) > 1:
        return doubtful or found[0].name
    return found[0] if found else None
