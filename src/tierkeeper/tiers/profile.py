"""What the providers of a tier's database do about size: facts that are documented, with their source."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from tierkeeper.kernel.errors import UsageError
from tierkeeper.tiers.price import NOTHING, Price


@dataclass(frozen=True)
class Profile:
    """A provider's rules. `counts` says what counts as size: all databases of the server, or the one that is used."""

    name: str
    counts: Literal["server", "database"]
    read_only_when_full: bool
    quota_bytes: int | None
    egress_bytes_per_month: int | None
    pauses_after_days: int | None
    source: str
    price: Price = NOTHING
    price_source: str = "your own machine: what it costs is yours to say, in [tiers.NAME.price]"


SUPABASE_FREE: Final = Profile(
    name="supabase-free",
    counts="server",
    read_only_when_full=True,
    quota_bytes=500_000_000,
    egress_bytes_per_month=5_000_000_000,
    pauses_after_days=7,
    source="supabase.com/docs/guides/platform/database-size and /billing-on-supabase",
    price=Price(egress_per_gb=None),
    price_source="supabase.com/docs/guides/platform/billing-on-supabase: beyond its quotas the free plan is not billed",
)
SELF_HOSTED: Final = Profile(
    name="self-hosted",
    counts="database",
    read_only_when_full=False,
    quota_bytes=None,
    egress_bytes_per_month=None,
    pauses_after_days=None,
    source="postgresql.org/docs/current/functions-admin.html (pg_database_size)",
)
PROFILES: Final[Mapping[str, Profile]] = MappingProxyType({p.name: p for p in (SUPABASE_FREE, SELF_HOSTED)})


def named(name: str, place: str) -> Profile:
    """The profile called `name`. Raises UsageError naming `place` for one that is not known."""
    if name not in PROFILES:
        raise UsageError(place, f"{name!r} is no profile that is known", f"Write one of: {', '.join(PROFILES)}")
    return PROFILES[name]
