"""What a tier costs in a calendar month: so far, and all of it as it is foreseen. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

from tierkeeper.kernel.series import Sample
from tierkeeper.kernel.units import format_bytes
from tierkeeper.tiers.price import Price

GB: Final = 1e9
MILLION: Final = 1e6


@dataclass(frozen=True)
class Cost:
    """Amounts in the price's currency. `month` is the whole month's: the sum of `storage`, `egress`, `requests` and `fixed`."""

    so_far: float
    month: float
    storage: float
    egress: float
    requests: float
    fixed: float
    known_since: datetime | None
    note: str | None = None


def month_of(instant: datetime) -> tuple[datetime, datetime]:
    """The first instants of the calendar month of `instant`, in UTC, and of the next one."""
    first = instant.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return first, (first + timedelta(days=32)).replace(day=1)


def cost(
    price: Price,
    samples: Sequence[Sample],
    now: datetime,
    *,
    net_bytes_per_day: float = 0.0,
    quota_bytes: int | None = None,
    egress_bytes: int = 0,
    egress_budget_bytes: int | None = None,
    requests: int = 0,
) -> Cost:
    """What a tier costs in the month of `now`. `samples` are of its bytes; `egress_bytes` and `requests` of this month so far.

    Storage is the integral over time of what lay there. Before the first sample of the month it is taken for that sample's; what
    comes grows by `net_bytes_per_day`, up to the quota. Egress and requests go on at this month's pace.
    """
    start, end = month_of(now)
    share = (now - start) / (end - start)
    past = sorted((s for s in samples if s.at <= now), key=lambda s: s.at)
    known = [s for s in past if s.at >= start]
    before = [s for s in past if s.at < start]
    held = _held(before[-1:], known, start, now)
    coming = _coming(past[-1].bytes if past else 0, net_bytes_per_day, quota_bytes, (end - now) / timedelta(days=1))
    month_days = (end - start) / timedelta(days=1)
    stored = price.storage_per_gb_month * held / GB / month_days
    storage = stored + price.storage_per_gb_month * coming / GB / month_days
    pace = 1 / share if share > 0 else 1.0
    sent, sent_month = _egress(price, egress_bytes, egress_budget_bytes), _egress(
        price, egress_bytes * pace, egress_budget_bytes
    )  # fmt: skip
    asked = requests / MILLION * price.requests_per_million
    so_far = stored + sent + asked + price.fixed_per_month * share
    return Cost(
        so_far=so_far,
        month=storage + sent_month + asked * pace + price.fixed_per_month,
        storage=storage,
        egress=sent_month,
        requests=asked * pace,
        fixed=price.fixed_per_month,
        known_since=None if before else known[0].at if known else None,
        note=_note(price, egress_bytes, egress_bytes * pace, egress_budget_bytes),
    )


def _held(before: Sequence[Sample], known: Sequence[Sample], start: datetime, now: datetime) -> float:
    """Byte days from `start` to `now`."""
    if not known and not before:
        return 0.0
    points = [(s.at, s.bytes) for s in (*before, *known)]
    if points[0][0] > start:
        points.insert(0, (start, points[0][1]))
    if points[-1][0] < now:
        points.append((now, points[-1][1]))
    total = 0.0
    for (a, low), (b, high) in pairwise(points):
        if b <= start or b == a:
            continue
        begin = low if a >= start else low + (high - low) * ((start - a) / (b - a))
        total += (begin + high) / 2 * ((b - max(a, start)) / timedelta(days=1))
    return total


def _coming(last_bytes: float, rate: float, quota_bytes: int | None, days: float) -> float:
    """Byte days of `days` from now, growing at `rate` bytes a day, between nothing and the quota."""
    top = max(float(quota_bytes), last_bytes) if quota_bytes is not None else None
    bound = 0.0 if rate < 0 else top
    if rate == 0 or bound is None or (until := (bound - last_bytes) / rate) >= days:
        return days * (last_bytes + rate * days / 2)
    return until * (last_bytes + bound) / 2 + (days - until) * bound


def _egress(price: Price, sent_bytes: float, budget_bytes: int | None) -> float:
    return max(0.0, sent_bytes - (budget_bytes or 0)) / GB * (price.egress_per_gb or 0.0)


def _note(price: Price, sent: float, foreseen: float, budget: int | None) -> str | None:
    if price.egress_per_gb is not None or budget is None or foreseen <= budget:
        return None
    of = f"{format_bytes(int(foreseen))} of egress at this month's pace, and more than {format_bytes(budget)} is not allowed"
    return (
        of if sent <= budget else f"{format_bytes(int(sent))} of egress this month, and more than {format_bytes(budget)} is not"
    )
