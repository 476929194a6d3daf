"""Who takes writes and who takes reads of a Postgres service. Pure.

Invariant: nobody takes writes whose timeline is below one that was ever seen of the service, nor whose timeline another node had
first. A promotion begins a timeline; what an old primary takes after it is lost when it follows the new one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Claim:
    """What a node last said of itself. `lsn` counts bytes of log; `timeline` and `system` are None where it may not say them.

    `follows` is the timeline of the log that a replica receives; None where it receives none, or may not say it.
    """

    writable: bool
    lsn: int = 0
    timeline: int | None = None
    system: str | None = None
    follows: int | None = None


@dataclass(frozen=True)
class Remembered:
    """What is known of a service for good. `holder` is the node that was the first to be primary on `timeline`."""

    system: str | None = None
    timeline: int = 0
    holder: str | None = None


@dataclass(frozen=True)
class Ruling:
    """Who takes what. `against` says of each node why it takes no reads, `why` why the primary is the one, or why none is."""

    remembered: Remembered
    primary: str | None
    why: str
    readers: frozenset[str]
    against: Mapping[str, str] = field(default_factory=dict)


def rule(
    remembered: Remembered,
    claims: Mapping[str, Claim],
    nodes: frozenset[str],
    max_lag_bytes: int,
    seen_lsn: int = 0,
    *,
    elsewhere: Sequence[Remembered] = (),
) -> Ruling:
    """From the claims of the nodes that answer, `nodes` being all that are configured.

    `seen_lsn` is how far the last primary's log was seen to reach: replicas are measured by it while there is none.
    `elsewhere` is what is remembered of other services, those too that are configured no more: a service that is renamed, or one
    of the same nodes, is to trust no node that another does not.
    """
    known = _inherited(_with_system(remembered, claims), elsewhere)
    systems = sorted({str(c.system) for c in claims.values() if c.system is not None})
    if known.system is None and len(systems) > 1:  # a stranger's timeline must not be taken for the service's
        mixed = f"the nodes belong to different database systems ({', '.join(systems)}), and which is the service's is not known"
        return Ruling(known, None, mixed, frozenset(), dict.fromkeys(claims, mixed))
    ours = {name: c for name, c in claims.items() if c.system is None or known.system in (None, c.system)}
    timelines = [c.timeline for c in ours.values() if c.timeline is not None]
    highest = max([known.timeline, *timelines])
    if highest > known.timeline:
        known = replace(known, timeline=highest, holder=None)
    primary, why = _primary(known, ours, claims, nodes)
    if primary is not None:
        known = replace(known, holder=primary)
    reach = claims[primary].lsn if primary is not None else seen_lsn
    against = {
        name: words
        for name, c in claims.items()
        if name != primary and (words := _against(c, reach - c.lsn, max_lag_bytes, known.timeline, is_ours=name in ours))
    }
    readers = frozenset(name for name in claims if name not in against and name != primary)
    return Ruling(known, primary, why, readers, against)


def _with_system(remembered: Remembered, claims: Mapping[str, Claim]) -> Remembered:
    """With the system identifier, if it can be told by now: the primaries' one, or the one that all have."""
    if remembered.system is not None:
        return remembered
    told = [(c.system, c.writable) for c in claims.values() if c.system is not None]
    found = {str(system) for system, writable in told if writable} or {str(system) for system, _ in told}
    return replace(remembered, system=min(found)) if len(found) == 1 else remembered


def _inherited(known: Remembered, elsewhere: Sequence[Remembered]) -> Remembered:
    """With what another service of the same database system has seen of it."""
    for other in elsewhere:
        later, same = other.timeline > known.timeline, other.timeline == known.timeline
        if known.system is not None and other.system == known.system and (later or (same and known.holder is None)):
            known = replace(known, timeline=other.timeline, holder=other.holder)
    return known


def _primary(
    known: Remembered, ours: Mapping[str, Claim], claims: Mapping[str, Claim], nodes: frozenset[str]
) -> tuple[str | None, str]:
    top = sorted(name for name, c in ours.items() if c.writable and (c.timeline or 0) == known.timeline)
    holder = known.holder if known.holder in nodes else None
    if not top:
        return None, _nobody(known, ours, claims)
    if holder in top or (holder is None and len(top) == 1):
        one = holder or top[0]
        others = [name for name in top if name != one]
        beside = f"; {', '.join(others)} says so too, on the same timeline, and takes nothing" if others else ""
        return one, f"it is the primary, on timeline {known.timeline}{beside}"
    if holder is None:
        return None, f"{' and '.join(top)} say that they are primary, all on timeline {known.timeline}"
    had = f"{', '.join(top)} says that it is primary on timeline {known.timeline}, which {holder} had first"
    return None, f"{had}: promote it, so that it begins a timeline of its own"


def _nobody(known: Remembered, ours: Mapping[str, Claim], claims: Mapping[str, Claim]) -> str:
    """Why no node is primary on the highest timeline."""
    below = [f"{name} on {c.timeline}" for name, c in ours.items() if c.writable]
    if below:
        older = ", ".join(below)
        return f"timeline {known.timeline} was seen, and whoever says that it is primary belongs to an older one ({older})"
    strangers = [name for name, c in claims.items() if c.writable and name not in ours]
    if strangers:
        return f"{', '.join(strangers)} is another database system than the service's ({known.system})"
    return "no node says that it is primary"


def _against(claim: Claim, lag_bytes: int, max_lag_bytes: int, timeline: int, *, is_ours: bool) -> str | None:
    """Why a node that is not the primary takes no reads; None where it may."""
    if not is_ours:
        return f"it is another database system ({claim.system})"
    if claim.writable:
        return "it says that it is primary, and is not: what it has may be lost"
    if claim.follows is not None and claim.follows < timeline:
        return f"it follows a log of timeline {claim.follows}, and {timeline} was seen: what it has may be lost"
    if lag_bytes > max_lag_bytes:
        return f"it is {lag_bytes:,} bytes of log behind, and {max_lag_bytes:,} are the limit"
    return None
