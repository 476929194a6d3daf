"""Which authorities may be pinned, which have to be asked for, and what stands against it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tierkeeper.kernel.errors import TierkeeperError, UsageError
from tierkeeper.postgres.certificates import Shown
from tierkeeper.postgres.trust import Untrusted, spelled

_ORDER: Final = ("main", "core", "archive")
"""Main first: over its link the audit goes."""


@dataclass(frozen=True)
class Confirmable:
    """An authority that the servers of some tiers show, which nobody has confirmed for them yet."""

    authority: Shown
    shown: tuple[Untrusted, ...]


@dataclass(frozen=True)
class Decision:
    """`confirmed`: by a fingerprint that was given. `asked`: what a person has to say. With `faults` nothing is to be done."""

    confirmed: tuple[Confirmable, ...] = ()
    asked: tuple[Confirmable, ...] = ()
    faults: tuple[TierkeeperError, ...] = ()


def decide(untrusted: Sequence[Untrusted], given: Mapping[str, str], verified: Mapping[str, str | None]) -> Decision:
    """`given`: fingerprints (64 digits) by tier. `verified`: its tiers that are believed, and what is pinned there."""
    faults: list[TierkeeperError] = []
    confirmed: list[tuple[Untrusted, Shown]] = []
    asked: list[tuple[Untrusted, Shown]] = []
    for one in untrusted:
        said = given.get(one.link.tier)
        if one.authority is None:
            faults.append(one)
        elif said is None:
            asked.append((one, one.authority))
        elif said == one.authority.sha256:
            confirmed.append((one, one.authority))
        else:
            cause = f"the server shows an authority of SHA-256 {spelled(one.authority.sha256)}, not of {spelled(said)}"
            faults.append(UsageError(f"--trust {one.link.tier}", cause, f"Nothing was changed. {one.remedy}"))
    faults += [fault for tier, known in verified.items() if (fault := _needless(tier, given[tier], known)) is not None]
    return Decision(_together(confirmed), _together(asked), tuple(faults))


def in_order(confirmed: Sequence[Confirmable]) -> list[tuple[Untrusted, Shown]]:
    """Each server and its authority, as they are to be pinned."""
    return sorted(((one, c.authority) for c in confirmed for one in c.shown), key=lambda pair: _ORDER.index(pair[0].link.tier))


def _together(found: Sequence[tuple[Untrusted, Shown]]) -> tuple[Confirmable, ...]:
    """By authority, and apart where it takes the place of another: that is another question."""
    groups: dict[tuple[str, str | None], list[tuple[Untrusted, Shown]]] = {}
    for one, authority in found:
        groups.setdefault((authority.sha256, None if one.pinned is None else one.pinned.sha256), []).append((one, authority))
    return tuple(Confirmable(group[0][1], tuple(one for one, _ in group)) for group in groups.values())


def _needless(tier: str, said: str, pinned: str | None) -> UsageError | None:
    if pinned == said:
        return None
    if pinned is not None:
        cause = f"SHA-256 {spelled(pinned)} is pinned there, and the server shows what it vouches for"
        return UsageError(f"--trust {tier}", cause, f"Leave --trust {tier} out, or delete the pin's file to confirm another one")
    cause = (
        "nothing is to be pinned there: its link is verified by sslrootcert or the system's authorities, or needs no verifying"
    )
    return UsageError(f"--trust {tier}", cause, f"Leave --trust {tier} out")
