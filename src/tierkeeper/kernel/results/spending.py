"""What is said of growth, cost, and of cutoffs that would cost less."""

from datetime import datetime
from typing import Final, Literal

from pydantic import Field

from tierkeeper.kernel.results.base import Result

HISTORY_AWAY: Final = "Main has the history"  # how a reason begins that will pass, and is no lack of samples
Confidence = Literal["none", "low", "medium", "high"]


class ForecastResult(Result):
    """When a tier is full. null: not within ten years, or, with confidence "none", not known."""

    confidence: Confidence
    reason: str = Field(description="what the confidence rests on")
    earliest: datetime | None = Field(description="one in ten forecasts is full before that")
    likely: datetime | None = Field(description="with the runs going on as they did")
    latest: datetime | None = None
    likely_without_runs: datetime | None = Field(default=None, description="if nothing more left it")
    days_to_full: float | None = Field(default=None, description="until `likely`")
    bytes_per_day: float = Field(description="added between the falls")
    net_bytes_per_day: float = Field(description="what stays of it after the runs")
    history_days: float
    driver: str | None = Field(default=None, description="the table that adds most")
    driver_bytes_per_day: float | None = None


class CostResult(Result):
    """What one tier costs in this calendar month (UTC). Amounts in `currency`."""

    currency: str
    so_far: float
    month: float = Field(description="forecast of the whole month")
    storage: float = Field(description="of `month`")
    egress: float = Field(description="of `month`")
    requests: float = Field(description="of `month`")
    fixed: float = Field(description="of `month`")
    egress_bytes: int | None = Field(description="sent this month so far; null: not known now")
    egress_budget_bytes: int | None = Field(default=None, description="what is free, or all that may be sent")
    known_since: datetime | None = Field(default=None, description="before it this month, the size is taken for that at it")
    note: str | None = None


class CostTotal(Result):
    """All tiers together."""

    currency: str
    so_far: float
    month: float


class TierFigures(Result):
    """What a tier would hold and cost, a month ahead."""

    used_bytes: int = Field(description="at most, within the next month")
    limit_bytes: int = Field(description="what the proposal keeps to: `start_at` of the quota")
    cost_per_month: float
    days_to_full: float | None = Field(default=None, description="until the quota; null: not within ten years")


class CutoffChange(Result):
    """One table's cutoffs now and proposed, in days; null: rows stay."""

    table: str
    core_days: int | None
    main_days: int | None
    proposed_core_days: int | None
    proposed_main_days: int | None
    reads: int = Field(description="scans whose ages are known, from the log of asked ages")
    reads_in_core: float | None = Field(description="share of them that Core answers alone")
    proposed_reads_in_core: float | None


class Unmet(Result):
    """A constraint that cannot be met."""

    constraint: str = Field(description='the quota of "core", "main" or "archive", "egress of" one of them, or "reads_in_core"')
    wanted: float = Field(description="bytes, or a share of reads")
    possible: float = Field(description="the nearest that is possible with all the others met")
    cause: str
    remedy: str


class WhatIfResult(Result):
    """`quota --what-if`: the figures with the change and without it. Nothing was changed."""

    currency: str
    changes: list[CutoffChange]
    before: dict[str, TierFigures]
    after: dict[str, TierFigures]
    cost_per_month_before: float
    cost_per_month_after: float
    reads_in_core_before: float | None = Field(description="share; null where no ages were asked for yet")
    reads_in_core_after: float | None
    within_quotas: bool
    toml: str = Field(description="the lines to write into tierkeeper.toml")
    notes: list[str] = Field(default=[])


class OptimiseResult(Result):
    """`quota --optimise`: the cutoffs that cost least. Nothing was changed."""

    feasible: bool = Field(description="whether all quotas and the promise can be kept; else `unmet` says what cannot")
    optimal: bool | None = Field(default=None, description="proven to be the best on the grid of days; else `gap` bounds it")
    gap: float | None = Field(default=None, description="by how much a better proposal could cost less a month, at most")
    promise: float = Field(description="share of reads that are to stay in Core")
    currency: str
    unmet: list[Unmet] = Field(default=[])
    changes: list[CutoffChange] = Field(default=[])
    before: dict[str, TierFigures] = Field(default={})
    after: dict[str, TierFigures] = Field(default={})
    cost_per_month_before: float | None = None
    cost_per_month_after: float | None = None
    reads_in_core_before: float | None = None
    reads_in_core_after: float | None = None
    toml: str = ""
    notes: list[str] = Field(default=[])
