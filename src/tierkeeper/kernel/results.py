"""Every JSON result, typed, in one place: the command line prints these, the reference is generated from them.

Units are in the names (`_bytes`, `seconds`); instants are ISO 8601 in UTC.
"""

from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from tierkeeper.kernel.errors import TierkeeperError, each


class Result(BaseModel):
    """Base of all results: frozen, closed, printed by alias."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class ErrorResult(Result):
    """One fault: where, why, what to do."""

    place: str
    cause: str
    remedy: str


def told(errors: Iterable[TierkeeperError]) -> list[ErrorResult]:
    """`errors` as results, those that were found together one by one."""
    return [ErrorResult(place=e.place, cause=e.cause, remedy=e.remedy) for e in each(errors)]


class ErrorDocument(Result):
    """What `--json` prints for an error; a list where several faults were found at once."""

    error: ErrorResult | list[ErrorResult]


class CheckItem(Result):
    """One thing that was looked at, and found good."""

    place: str
    finding: str


class CheckResult(Result):
    """`check`: everything that was looked at. Faults are an error document instead."""

    ok: bool
    checks: list[CheckItem]
    notes: list[str] = Field(default=[], description="true, harmless, and worth knowing")


class SetupStep(Result):
    """One step of a setup: where, what, and the SQL or file it comes to."""

    tier: str
    action: str
    sql: str = ""
    table: str = Field(default="", description="the table that it is for; the steps of one table are made together, or not")


class SetupResult(Result):
    """`setup`: the plan, and whether it was applied. An empty plan means nothing is missing."""

    applied: bool
    steps: list[SetupStep]
    notes: list[str] = Field(default=[])
    waiting: list[str] = Field(default=[], description="tables for which nothing was done; the others went on")
    errors: list[ErrorResult] = Field(default=[], description="why they wait")


class TierStatus(Result):
    """One tier as it is now."""

    used_bytes: int | None = Field(description="as the provider counts it; null where the tier does not answer")
    quota_bytes: int
    share: float | None = Field(description="used / quota")
    healthy: bool
    read_only: bool | None = None
    cause: str | None = Field(default=None, description="why it is not healthy, or what to look at although it is")
    remedy: str | None = None


class TableStatus(Result):
    """One table of the policy. Row counts are the servers' estimates, except the archive's; null: no such table there."""

    mode: str
    core_rows_estimate: int | None = None
    main_rows_estimate: int | None = None
    archive_rows: int | None = None
    in_flight: int | None = Field(default=None, description="batches that an interrupted move left; the next run settles them")
    conflicts: list[str] = Field(default=[], description="keys that are in Core and in Main; Core's row counts")


class DrillStatus(Result):
    """How the last restore drill went."""

    at: datetime
    ok: bool
    segments: int
    restored: int


class ReadingStatus(Result):
    """How far the archive's segments were read back whole, to prove that they still can be."""

    segments: int
    unread: int = Field(description="never read back since they were written")
    oldest_read_at: datetime | None = Field(description="when that segment was read whose reading is longest ago")
    drill: DrillStatus | None = Field(default=None, description="null where there was none yet")


class StatusResult(Result):
    """`status`."""

    tiers: dict[str, TierStatus]
    tables: dict[str, TableStatus]
    archive: ReadingStatus | None = Field(default=None, description="null where the archive's catalog does not answer")


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
    stopped_because: str = Field(description="complete, row limit, resting, waiting for a reader, stopped, ...")
    rows_left: int = Field(default=0, description="rows that fit and were not moved, where the run ended before it was complete")
    cutoff: datetime | None = None
    recovered: int = Field(default=0, description="batches of an interrupted run that were settled first")
    conflicts: list[str] = Field(default=[], description="keys that are in both tiers and stay so")
    notes: list[str] = Field(default=[])
    batch_ids: list[str] = Field(default=[], description="as the destination's ledger and the audit name them")


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


class ArchiveRunResult(Result):
    """`archive run`."""

    runs: list[MoveResult]
    segments: list[str] = Field(default=[], description="ids of the segments written")
    errors: list[ErrorResult] = Field(default=[], description="tables that had to wait; the others went on")


class SegmentResult(Result):
    """A line of `archive list`."""

    segment: str
    table: str
    rows: int
    bytes: int = Field(description="of the encrypted file")
    min_age: datetime | None
    max_age: datetime | None
    state: str
    verified_at: datetime | None = Field(default=None, description="when it was last read back whole and found intact")


class SegmentDetail(SegmentResult):
    """`archive show`: a segment with what its signed manifest says."""

    sha256: str
    key_id: str
    schema_hash: str
    columns: dict[str, str] = Field(description="name -> Postgres type")
    source: str
    batch: str
    created_at: datetime


class VerifyResult(Result):
    """`archive verify`: segments were read back whole, decrypted and compared with their signed manifests."""

    segments: int = Field(description="that count; where none was named, the objects of all of them were looked for")
    checked: int = Field(description="of them, read whole")
    damaged: list[str] = Field(description="segment ids or objects, each with its cause after a colon")
    missing: list[str]
    strays: list[str] = Field(default=[], description="objects that no segment needs, such as an interrupted run leaves")
    unread: int = Field(default=0, description="segments that were never read back whole since they were written")
    ok: bool


class RebuildResult(Result):
    """`archive rebuild`: the catalog was made again from the store."""

    segments: int = Field(description="that count")
    rows: int
    undone: int = Field(description="manifests of batches that were taken back; they keep their places in the chain")
    unsure: list[str] = Field(
        default=[], description="segments that nothing says of whether they count; they are kept, and do not"
    )
    damaged: list[str] = Field(default=[], description="objects that do not open")
    missing: list[str] = Field(default=[])
    ok: bool


class DrillResult(Result):
    """`archive drill`: the archive was opened with nothing but its store and the recovery key."""

    at: datetime
    segments: int = Field(description="that the store alone says count")
    restored: int = Field(description="of them, brought back into a scratch database, read back, compared and dropped")
    rows: int
    bytes: int = Field(description="of the encrypted files")
    key_id: str
    rebuild_seconds: float = Field(description="of all seconds, those that making the catalog again took")
    seconds: float
    wrong: list[str] = Field(default=[], description="what a new machine would be stopped by")
    ok: bool


class KitResult(Result):
    """`keys kit`: what to keep offline."""

    key_id: str
    file: str | None = Field(description="where it was written, mode 600")
    kit: str | None = Field(description="its text, a secret; null where it was written to a file")


class KeysResult(Result):
    """`keys status`. No secret is in it."""

    source: str = Field(description="where the key in use comes from")
    key_id: str
    can_write: bool = Field(description="false for a recovery key, which opens and verifies, and signs nothing")
    recovery_file: str | None = Field(description="the recovery key, if it still lies on this machine")
    segments: dict[str, int] | None = Field(description="key id -> segments written with it; null where the catalog is away")
    notes: list[str] = Field(default=[])
    ok: bool


class RestoreResult(Result):
    """`archive restore`."""

    table: str
    to: str
    rows: int
    segments: int
    seconds: float


class QuotaTier(Result):
    """One tier before and after a run of the quota manager."""

    used_bytes_before: int | None
    used_bytes_after: int | None
    quota_bytes: int
    counted: str = Field(
        description="what the provider counts as used: all databases of the server, this one, or the store's files"
    )


class Reclaim(Result):
    """One relation of a table whose space was given back: what it took before and what it takes now."""

    tier: str
    table: str
    relation: str = Field(description="heap, TOAST, the index's name, the dropped partition's, or how many partitions")
    method: str = Field(description="VACUUM, tail compaction, REINDEX CONCURRENTLY, partition drop, VACUUM FULL")
    bytes_before: int
    bytes_after: int = Field(description="may be more: moved rows take new entries in an index that is not worth rebuilding")
    seconds: float


class QuotaResult(Result):
    """`quota`: what was moved and why, what space came back, and what could not be done."""

    dry_run: bool
    tiers: dict[str, QuotaTier]
    moves: list[MoveResult] = Field(default=[])
    plans: list[MovePlan] = Field(default=[], description="with --dry-run")
    reclaimed: list[Reclaim] = Field(default=[], description="relation by relation, before and after")
    errors: list[ErrorResult] = Field(default=[], description="tables that had to wait; the others went on")
    notes: list[str] = Field(default=[])


class HealthItem(Result):
    """One service or tier that was asked."""

    name: str
    healthy: bool
    latency_seconds: float | None = None
    cause: str | None = None
    remedy: str | None = None


class HealthResult(Result):
    """`IntelligentLoadBalancer.test_health_checks`."""

    ok: bool
    checks: list[HealthItem]


class InitResult(Result):
    """`init`: the file that was written, the variables it refers to, and those that still have to be set."""

    file: str
    found: list[str]
    missing: list[str]


class QueryFile(Result):
    """`query --output FILE`: without a file, `query --json` prints a list of objects, one for each row."""

    output: str
    rows: int
    bytes: int


class DemoTier(Result):
    """One tier of the demo, before and after. Rows are those of the moved tables; mirrored ones are not counted."""

    rows_before: int
    rows_after: int
    bytes_before: int
    bytes_after: int
    quota_bytes: int


class DemoResult(Result):
    """`demo`: lost and doubled are counted against the package's own files, by code that uses no part of the mover."""

    tiers: dict[str, DemoTier]
    lost: int
    doubled: int
    segments: int
    verified: bool
    restored_rows: int
    restore_matches: bool
    query_matches: bool = Field(description="counts per month over all tiers are those of the original")
    seconds: dict[str, float]
    today: datetime = Field(description="the day that the demo fixes as today")
