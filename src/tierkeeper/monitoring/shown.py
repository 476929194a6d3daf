"""When the tiers' servers were last asked for their certificates, and what they showed: once a day is often enough."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.limits import CERTIFICATE_LOOK_AGAIN_SECONDS, CERTIFICATE_LOOK_SECONDS
from tierkeeper.monitoring.memory import Memory
from tierkeeper.postgres.certificates import Ending, endings, is_verified
from tierkeeper.postgres.keeping import at_once
from tierkeeper.postgres.link import Link

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True)
class Shown:
    """What a server showed last. `tried_at`: the last look; `cause`: why that one saw nothing."""

    tried_at: datetime
    endings: tuple[Ending, ...] = ()
    cause: str | None = None


def is_due(known: Shown | None, now: datetime) -> bool:
    """Whether to ask now: daily, and hourly after a look that saw nothing. What a wrong clock has noted keeps nobody from it."""
    if known is None or known.tried_at > now:
        return True
    seconds = CERTIFICATE_LOOK_SECONDS if known.cause is None else CERTIFICATE_LOOK_AGAIN_SECONDS
    return now - known.tried_at >= timedelta(seconds=seconds)


ByTier = Mapping[str, Shown]


class ShownForm:
    """Implements `memory.Form`: by tier."""

    name = "certificates"

    @cached_property
    def _adapter(self) -> "TypeAdapter[dict[str, Shown]]":
        from pydantic import TypeAdapter

        return TypeAdapter(dict[str, Shown])

    def empty(self) -> ByTier:
        return {}

    def dump(self, document: ByTier) -> dict[str, Any]:
        return {"version": 1, "tiers": self._adapter.dump_python(dict(document), mode="json")}

    def parse(self, data: Any) -> ByTier:
        """Raises ValueError for what is no such document, or of a version to come."""
        if not isinstance(data, dict) or data.get("version") != 1:
            raise ValueError("not a memory of certificates that is known here")
        return self._adapter.validate_python(data.get("tiers"))

    def merge(self, main: ByTier, here: ByTier) -> ByTier:
        later = {tier: one for tier, one in here.items() if tier not in main or main[tier].tried_at < one.tried_at}
        return {**main, **later}


def look(links: Mapping[str, Link], live: Collection[str], memory: Memory[ByTier], now: datetime) -> ByTier:
    """What the servers behind those of `links` that verify them show; who is due is asked. Silence changes nothing: of one that
    is not `live` what it showed last counts, for with a certificate that has expired it is away.
    """
    verified = {tier: link for tier, link in links.items() if is_verified(link)}
    if not verified:
        return {}
    known = memory.load().document
    due = [tier for tier in verified if tier in live and is_due(known.get(tier), now)]
    if due:
        answers = dict(zip(due, at_once([partial(endings, verified[tier]) for tier in due]), strict=True))

        def noted(before: ByTier) -> ByTier:
            return {**before, **{tier: _noted(before.get(tier), now, answer) for tier, answer in answers.items()}}

        known = memory.change(noted).document
    return {tier: one for tier, one in known.items() if tier in verified}


def _noted(before: Shown | None, now: datetime, answer: list[Ending] | TierkeeperError) -> Shown:
    if isinstance(answer, TierkeeperError):
        return Shown(now, before.endings if before is not None else (), answer.cause)
    return Shown(now, tuple(answer))
