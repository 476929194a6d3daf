"""What one process of this machine saw of the tiers, for the others: so that none waits for a tier that is known to be away.

A hint, never a proof: one that is missing, old or damaged says nothing, and nobody leaves a tier out because of it (I2).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from tierkeeper.kernel.limits import TIER_SEEN_SECONDS
from tierkeeper.monitoring import state

FILE: Final = "tiers.json"


@dataclass(frozen=True)
class Seen:
    """How one tier stands: `state` is in, out or unknown. `away`: it does not answer, so that to ask it is to wait in vain."""

    state: str
    why: str
    since: datetime
    asked_at: datetime
    away: bool


def write(folder: Path, tiers: Mapping[str, Seen]) -> None:
    """For whoever reads. Raises OSError."""
    state.make(folder)
    document = {name: asdict(one) for name, one in tiers.items()}
    state.replace(folder / FILE, json.dumps(document, default=datetime.isoformat).encode(), durable=False)


def read(folder: Path) -> dict[str, Seen]:
    """What was written last; nothing where it cannot be read."""
    try:
        return {str(name): _seen(one) for name, one in json.loads((folder / FILE).read_bytes()).items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def away(tiers: Mapping[str, Seen], tier: str, now: datetime) -> Seen | None:
    """What was seen of a tier that does not answer; None where it does, or where the view is too old to say."""
    one = tiers.get(tier)
    if one is None or not one.away or not 0 <= (now - one.asked_at).total_seconds() <= TIER_SEEN_SECONDS:
        return None
    return one


def _seen(one: Mapping[str, object]) -> Seen:
    since, asked_at = (datetime.fromisoformat(str(one[key])) for key in ("since", "asked_at"))
    if since.tzinfo is None or asked_at.tzinfo is None:
        raise ValueError(FILE)
    return Seen(str(one["state"]), str(one["why"]), since, asked_at, one["away"] is True)
