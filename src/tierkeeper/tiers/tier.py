"""A tier as the rest of the house sees it: its address, its quota, its provider's rules, its price."""

from dataclasses import dataclass

from tierkeeper.postgres.link import Link
from tierkeeper.tiers.price import NOTHING, Price
from tierkeeper.tiers.profile import SELF_HOSTED, Profile


@dataclass(frozen=True)
class Tier:
    """One of core, main and archive; the archive's `link` leads to its catalog, its quota is its store's."""

    name: str
    link: Link
    quota_bytes: int
    profile: Profile = SELF_HOSTED
    price: Price = NOTHING
