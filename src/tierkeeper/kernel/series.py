"""A figure over time: what the history of the tiers is made of, and what a forecast is made from."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Sample:
    """How many bytes there were at an instant (UTC)."""

    at: datetime
    bytes: int
