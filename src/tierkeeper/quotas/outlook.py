"""Each tier's forecast and cost as results, from its history. Pure but for the history, which it is given."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from tierkeeper.kernel.limits import FORECAST_DAYS, FORECAST_LOW_SHARE
from tierkeeper.kernel.policy import Tier as TierName
from tierkeeper.kernel.results import HISTORY_AWAY, CostResult, CostTotal, ForecastResult, TierStatus
from tierkeeper.kernel.series import Sample
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.watching import History
from tierkeeper.quotas.cost import cost, month_of
from tierkeeper.quotas.forecast import Forecast, driver, forecast
from tierkeeper.quotas.growth import WINDOW_DAYS
from tierkeeper.tiers.tier import Tier

_UNSENT: Final = "reckoned without egress, which is not known now: somebody locks tierkeeper.egress on Main"
_LESS: Final = (
    " If that is not enough: a shorter {tier} = … of {driver} under [[tables]] lets more leave ('tierkeeper quota --what-if"
    " {tier}=AGE' says how much), or raise the quota"
)
_NOW: Final[Mapping[TierName, str]] = MappingProxyType(
    {
        "core": f"Run 'tierkeeper quota' now; 'tierkeeper quota --dry-run' shows what leaves.{_LESS}",
        "main": f"Run 'tierkeeper quota' now, which moves what is old enough to the archive.{_LESS}",
        "archive": "Give the store more space now and raise quota under [tiers.archive], or let archive = … under [[tables]] say"
        " what may be forgotten: nothing else is ever deleted there, and when it is full rows stay in Main",
    }
)
_DIGITS: Final = 4  # of amounts: hundredths of a cent


def series(history: History | None, tier: TierName, now: datetime) -> dict[TableName | None, list[Sample]]:
    """The series of a tier (None) and of its tables that a forecast is made from, with one question to the history."""
    found: dict[TableName | None, list[Sample]] = {}
    if history is not None:
        for one in history.samples(tier, every=True, since=now - timedelta(days=WINDOW_DAYS)):
            found.setdefault(one.table, []).append(Sample(one.at, one.bytes))
    return found


def foreseen(
    history: History | None, tier: Tier, name: TierName, used_bytes: int | None, now: datetime
) -> tuple[Forecast, Sequence[Sample], tuple[TableName, float] | None]:
    """The forecast of a tier; the samples of its bytes, what it uses now as the last one; the table that drives it."""
    found = series(history, name, now)
    samples = found.pop(None, [])
    if used_bytes is not None:
        samples = [*(s for s in samples if s.at < now), Sample(now, used_bytes)]
    tables = {table: some for table, some in found.items() if table is not None}
    return forecast(samples, tier.quota_bytes, now), samples, driver(tables, now)


def outlook(
    history: History | None,
    tiers: Mapping[TierName, Tier],
    used_bytes: Mapping[TierName, int | None],
    now: datetime,
    requests: Mapping[TierName, int] = MappingProxyType({}),
) -> dict[TierName, tuple[ForecastResult, CostResult]]:
    """What is to be expected of each tier, and what it costs with the `requests` of this month so far."""
    told = {}
    for name, tier in tiers.items():
        found, samples, drives = foreseen(history, tier, name, used_bytes.get(name), now)
        sent = history.egress(name, now.date()) if history is not None else 0
        told[name] = (_forecast(found, drives), _cost(tier, samples, found, sent, requests.get(name, 0), now))
    return told


def without_history(told: tuple[ForecastResult, CostResult], tier: Tier, cause: str) -> tuple[ForecastResult, CostResult]:
    """`told` where Main, which has the history, could not be asked: what is missing is said, not taken for nothing."""
    found, price = told
    if found.confidence == "none":
        found = found.model_copy(update={"reason": f"{HISTORY_AWAY}: {cause}"})
    if price.note is None and (tier.price.storage_per_gb_month or tier.price.egress_per_gb or tier.price.requests_per_million):
        price = price.model_copy(update={"note": "reckoned without the history, which Main has"})
    return found, price


def warned(name: TierName, line: TierStatus, forecast: ForecastResult) -> TierStatus:
    """`line`, with what to do now where the tier will be full within days. What is wrong already goes before."""
    days, share = forecast.days_to_full, line.share
    if not line.healthy or line.read_only or days is None or share is None:
        return line
    if days > FORECAST_DAYS or share < FORECAST_LOW_SHARE:
        return line
    grows = f", and {forecast.driver} grows most" if forecast.driver else ""
    when = "is full" if share >= 1 else f"will be full in {days:.1f} days at this pace"
    cause = f"{share:.0%} of its quota is used; it {when}{grows}"
    remedy = _NOW[name].format(tier=name, driver=forecast.driver or "a table")
    return line.model_copy(update={"cause": cause, "remedy": remedy})


def total(costs: Collection[CostResult]) -> CostTotal:
    """All tiers together."""
    currency = next((c.currency for c in costs), "")
    so_far, month = sum(c.so_far for c in costs), sum(c.month for c in costs)
    return CostTotal(currency=currency, so_far=round(so_far, _DIGITS), month=round(month, _DIGITS))


def _forecast(found: Forecast, drives: tuple[TableName, float] | None) -> ForecastResult:
    days = found.days_to_full
    return ForecastResult(
        confidence=found.confidence,
        reason=found.reason,
        earliest=found.full.earliest,
        likely=found.full.likely,
        latest=found.full.latest,
        likely_without_runs=found.full_without_runs.likely,
        days_to_full=None if days is None else round(days, 1),
        bytes_per_day=round(found.bytes_per_day),
        net_bytes_per_day=round(found.net_bytes_per_day),
        history_days=round(found.history_days, 1),
        driver=None if drives is None else str(drives[0]),
        driver_bytes_per_day=None if drives is None else round(drives[1]),
    )


def _cost(  # noqa: PLR0917
    tier: Tier, samples: Sequence[Sample], found: Forecast, sent_bytes: int | None, requests: int, now: datetime
) -> CostResult:
    start = month_of(now)[0]
    before = [s for s in samples if s.at < start]
    one = cost(
        tier.price,
        [*before[-1:], *(s for s in samples if s.at >= start)],
        now,
        net_bytes_per_day=found.net_bytes_per_day,
        quota_bytes=tier.quota_bytes,
        egress_bytes=sent_bytes or 0,
        egress_budget_bytes=tier.profile.egress_bytes_per_month,
        requests=requests,
    )
    return CostResult(
        currency=tier.price.currency,
        so_far=round(one.so_far, _DIGITS),
        month=round(one.month, _DIGITS),
        storage=round(one.storage, _DIGITS),
        egress=round(one.egress, _DIGITS),
        requests=round(one.requests, _DIGITS),
        fixed=round(one.fixed, _DIGITS),
        egress_bytes=sent_bytes,
        egress_budget_bytes=tier.profile.egress_bytes_per_month,
        known_since=one.known_since,
        note=_UNSENT if sent_bytes is None else one.note,
    )
