"""What moves and the quota manager answer."""

from datetime import datetime

from pydantic import Field

from tierkeeper.kernel.results.base import FaultResult, Result
from tierkeeper.kernel.results.spending import CostResult, ForecastResult
from tierkeeper.kernel.results.tiers import SetupStep


class MoveResult(Result):
    """`move`, and one hop of `archive run` and `quota`."""

    table: str
    from_: str = Field(alias="from")
    to: str
    batches: int
    rows: int
    bytes: int = Field(
        description="of the copied rows on the wire (between Core and Main) or of the stored segments (Main -> Archive)"
    )
    seconds: float
    stopped_because: str = Field(description="complete, row limit, time limit, resting, waiting for a reader, stopped, ...")
    rows_left: int = Field(default=0, description="rows that fit and were not moved, where the run ended before it was complete")
    cutoff: datetime | None = None
    recovered: int = Field(default=0, description="batches of an interrupted run that were settled first")
    conflicts: list[str] = Field(default=[], description="keys that are in both tiers and stay so")
    notes: list[str] = Field(default=[])
    batch_ids: list[str] = Field(default=[], description="as the destination's ledger and the audit name them")


class Left(Result):
    """What a run that had to end early did not come to; the next one goes on there."""

    table: str | None = None
    from_: str | None = Field(default=None, alias="from")
    to: str | None = None
    rows: int | None = Field(default=None, description="that were to move; null where the run did not come to look at them")
    segments: int | None = Field(default=None, description="that were to be read")


class Stays(Result):
    """Rows that a move leaves where they are."""

    reason: str
    rows: int
    keys: list[str] = Field(default=[], description="of the rows, where they are few")


class MovePlan(Result):
    """`move --dry-run`: what would happen. Nothing was changed."""

    table: str
    from_: str = Field(alias="from")
    to: str
    cutoff: datetime
    rows: int
    batches: int
    bytes: int = Field(default=0, description="about what the rows take at the source, without indexes")
    wal_bytes: int = Field(default=0, description="about what the source would write to its log; right within a factor of two")
    scratch_bytes: int = Field(default=0, description="temporary files at the source, for a moment")
    destination_bytes: int | None = Field(default=None, description="about what Main would grow by; null for the archive")
    destination_wal_bytes: int | None = Field(default=None, description="about what Main would write to its log")
    seconds: float = Field(default=0, description="about how long it would take")
    locks: list[str] = Field(default=[], description="which locks it would hold, and for how long")
    setup: list[SetupStep] = Field(description="what is missing at the destination and would be made first")
    notes: list[str] = Field(
        default=[],
        description="triggers, publications and whatever else would see the deletes; on the way up what Core would use, too",
    )
    stays: list[Stays] | None = Field(default=None, description="with --explain: which rows stay, and why")
    dry_run: bool = True


class QuotaTier(Result):
    """One tier before and after a run of the quota manager."""

    used_bytes_before: int | None
    used_bytes_after: int | None
    quota_bytes: int
    counted: str = Field(
        description="what the provider counts as used: all databases of the server, this one, or the store's files"
    )
    forecast: ForecastResult | None = Field(default=None, description="when it is full, as it is after the run")
    cost: CostResult | None = Field(default=None, description="what it costs this month")


class Reclaim(Result):
    """One relation of a table whose space was given back: what it took before and what it takes now."""

    tier: str
    table: str
    relation: str = Field(description="heap, TOAST, the index's name, the dropped partition's, or how many partitions")
    method: str = Field(description="VACUUM, tail compaction, REINDEX CONCURRENTLY, partition drop, VACUUM FULL")
    bytes_before: int
    bytes_after: int = Field(description="may be more: moved rows take new entries in an index that is not worth rebuilding")
    seconds: float


class QuotaChoice(Result):
    """Rows that leave a tier, or would, and why just these."""

    tier: str
    to: str
    table: str
    rows: int
    bytes: int = Field(description="about what they give back, index entries included")
    early: bool = Field(description="before their policy's age, because the tier is too full or soon will be")
    why: str


class StaysFull(Result):
    """A tier that a run left at `start_at` of its quota, or above."""

    tier: str
    used_bytes: int
    quota_bytes: int
    over_quota: bool = Field(description="it is at its quota or above")
    cause: str = Field(description="what fills it, and what keeps it there")
    remedy: str


class QuotaResult(Result):
    """`quota`: what was moved and why, what space came back, and what could not be done."""

    dry_run: bool
    tiers: dict[str, QuotaTier]
    moves: list[MoveResult] = Field(default=[])
    plans: list[MovePlan] = Field(default=[], description="with --dry-run")
    choices: list[QuotaChoice] = Field(default=[], description="what was chosen to move (with --dry-run: what would be), and why")
    reclaimed: list[Reclaim] = Field(default=[], description="relation by relation, before and after")
    errors: list[FaultResult] = Field(default=[], description="tables that had to wait; the others went on")
    notes: list[str] = Field(default=[])
    stays_full: list[StaysFull] = Field(
        default=[],
        description="tiers that are too full still; what may not move yet is no failure",
    )
    left: list[Left] = Field(default=[], description="of tables that the run did not come to, or left before they were through")
    stopped_because: str | None = Field(default=None, description="why it ended before it was through; null: it was")
