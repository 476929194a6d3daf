"""`[tiers.NAME.price]`: what a tier costs, over what its profile says. Pure."""

import re
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from tierkeeper.config.base import Finding, Section, refuse
from tierkeeper.tiers.price import Price

_CURRENCY: Final = re.compile("[A-Z]{3}")
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_FORBIDDEN: Final = "forbidden"


def _egress(given: object) -> object:
    """Refuses what is neither form: of a union each side would say what it misses."""
    is_amount = isinstance(given, int | float) and not isinstance(given, bool) and 0 <= given < inf
    if given is None or given == _FORBIDDEN or is_amount:
        return given
    raise refuse(Finding("", "this is no price", 'Write a number of at least 0, such as 0.09, or "forbidden"'))


def _currency(given: str) -> str:
    if not _CURRENCY.fullmatch(given):
        raise refuse(Finding("", "this is no currency's code", 'Write its three capitals, such as "EUR"'))
    return given


class TierPrice(Section):
    """`[tiers.core.price]` and so on: what a tier costs. What is left out is its profile's: nothing for `self-hosted`."""

    storage: Amount | None = Field(default=None, description="a GB (10^9 bytes) for a month")
    egress: Annotated[Amount | Literal["forbidden"] | None, BeforeValidator(_egress)] = Field(
        default=None, description='a GB sent beyond the monthly budget; "forbidden" where the provider then cuts it off'
    )
    requests: Amount | None = Field(default=None, description="a million scans, as `query` remembers them (`remember_ages`)")
    fixed: Amount | None = Field(default=None, description="a month, whatever lies there")
    currency: Annotated[str, AfterValidator(_currency)] | None = Field(
        default=None, description='its code, such as "EUR"; the same in all tiers'
    )

    def over(self, default: Price) -> Price:
        """The price with what is left out taken from `default`."""
        egress = default.egress_per_gb if self.egress is None else None if self.egress == _FORBIDDEN else self.egress
        given = {
            "storage_per_gb_month": self.storage,
            "requests_per_million": self.requests,
            "fixed_per_month": self.fixed,
            "currency": self.currency,
        }
        return replace(default, egress_per_gb=egress, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]


def refuse_mixed(prices: Mapping[str, TierPrice]) -> None:
    """Raises for prices of several currencies: they cannot be added up."""
    given = {name: price.currency for name, price in prices.items() if price.currency is not None}
    if len(set(given.values())) > 1:
        cause = f"the tiers have prices in {' and '.join(sorted(set(given.values())))}, which cannot be added up"
        raise refuse(Finding(f"{list(given)[-1]}.price.currency", cause, "Write all prices in one currency"))


def in_one_currency(prices: Mapping[str, Price], given: Mapping[str, TierPrice]) -> dict[str, Price]:
    """`prices` in the currency that the configuration names; where it names none, in their own. What is free is so in any."""
    named = next((price.currency for price in given.values() if price.currency is not None), None)
    return {name: price if named is None else replace(price, currency=named) for name, price in prices.items()}
