"""What a tier costs. Pure; a tier's prices come from its profile, and from the configuration where that says otherwise."""

from dataclasses import dataclass
from typing import Final

CURRENCY: Final = "USD"


@dataclass(frozen=True)
class Price:
    """Prices in `currency`. GB are 10^9 bytes, a month is the calendar's.

    `egress_per_gb` is what is sent beyond the profile's monthly budget; None: that is forbidden (the provider cuts it off).
    """

    storage_per_gb_month: float = 0.0
    egress_per_gb: float | None = 0.0
    requests_per_million: float = 0.0
    fixed_per_month: float = 0.0
    currency: str = CURRENCY


NOTHING: Final = Price()
