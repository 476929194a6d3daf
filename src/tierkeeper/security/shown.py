"""The audit's actions as a page shows them. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from tierkeeper.kernel.results import BoardAction, BoardMove
from tierkeeper.security.runs import Action

_ASIDE: Final = (
    "restore",
    "alert",
    "rotate keys",
    "trust",
    "balance serve",
    "balance drain",
    "balance undrain",
    "balance reload",
)
"""What the audit has that leaves every row where it is."""

_ENDS: Final[Mapping[str, tuple[str, str] | None]] = {"move": None, "thaw": ("archive", "main")}
"""The verbs that take rows from tier to tier; whence and whereto, where the action does not say it."""


def moves(actions: Sequence[Action]) -> list[BoardMove]:
    """Those of `actions` that took rows from tier to tier, or did not come to it; a run that found none is none."""
    found = []
    for a in actions:
        ends = _ENDS.get(a.verb) or (a.source, a.destination)
        if a.verb not in _ENDS or ends[0] is None or ends[1] is None:
            continue
        if a.ended_at is not None and a.failed is None and not a.rows:
            continue
        state: Literal["verified", "failed", "open"] = "open" if a.ended_at is None else "failed" if a.failed else "verified"
        short = a.stopped_because if a.stopped_because != "complete" else None
        found.append(
            BoardMove(
                at=a.ended_at or a.at, table=a.subject, from_=ends[0], to=ends[1], rows=a.rows, seconds=_seconds(a),
                state=state, cause=a.failed or short,
            )
        )  # fmt: skip
    return found


def action(a: Action) -> BoardAction:
    """With its outcome. What the details say besides may quote the user's own conditions, and is left out."""
    state: Literal["done", "failed", "open"] = "open" if a.ended_at is None else "failed" if a.failed else "done"
    waited = f"{a.waited} tables had to wait" if a.waited else None
    return BoardAction(
        at=a.at, actor=a.actor, verb=a.verb, subject=a.subject, state=state, seconds=_seconds(a), cause=a.failed or waited
    )


def last_note(actions: Iterable[Action]) -> int:
    """The number of the newest note of an action that may have moved rows; it grows with each."""
    return max((a.note for a in actions if a.verb not in _ASIDE), default=0)


def _seconds(a: Action) -> float | None:
    return None if a.ended_at is None else round((a.ended_at - a.at).total_seconds(), 2)
