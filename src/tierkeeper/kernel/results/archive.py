"""What the archive, its keys and its restores answer."""

from datetime import datetime

from pydantic import Field

from tierkeeper.kernel.results.base import FaultResult, Result
from tierkeeper.kernel.results.moving import Left, MoveResult


class ArchiveRunResult(Result):
    """`archive run`."""

    runs: list[MoveResult]
    segments: list[str] = Field(default=[], description="ids of the segments written")
    removed: list[str] = Field(default=[], description="ids of the segments whose time was over: `archive` in their policy")
    notes: list[str] = Field(default=[])
    errors: list[FaultResult] = Field(default=[], description="tables that had to wait; the others went on")
    left: list[Left] = Field(default=[], description="of tables that the run did not come to, or left before they were through")
    stopped_because: str | None = Field(default=None, description="why it ended before it was through; null: it was")


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
    left: list[Left] = Field(default=[], description="how many were to be read and were not, where it had to end early")
    stopped_because: str | None = Field(default=None, description="why it ended before it was through; null: it was")
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
    stopped_because: str | None = Field(default=None, description="why it ended before it was through; null: it was")
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


class RotateResult(Result):
    """`keys rotate`: the operational key was replaced, and the segments' keys were wrapped to it."""

    key_id: str = Field(description="of the archive; a rotation leaves it as it is")
    recipient: str = Field(description="id of the operational key in use")
    new_key: bool = Field(description="false where an earlier rotation was not complete, and was gone on with")
    segments: int = Field(description="whose data keys were wrapped anew")
    rewritten: int = Field(description="that were written anew under a data key of their own: --reencrypt")
    waiting: int = Field(description="that still have to be: run it again")
    left: int = Field(description="old wrapped keys and files that are still in the store, for readers that are under way")
    notes: list[str] = Field(default=[])
    ok: bool


class RestoreResult(Result):
    """`archive restore`."""

    table: str
    to: str
    on: str | None = Field(default=None, description="the server, where it is no tier's: --on")
    rows: int = Field(description="that the archive gave: those inserted, skipped and replaced")
    inserted: int = 0
    skipped: int = Field(default=0, description="whose key was there: the rows there stayed")
    replaced: int = Field(default=0, description="whose key was there: the rows there were overwritten")
    segments: int
    seconds: float
    notes: list[str] = Field(default=[])


class ThawResult(Result):
    """`archive thaw`: whole segments went back to Main, where their rows count from here on."""

    table: str
    segments: list[str] = Field(description="ids; of a plan, those that would go")
    tables: list[str] = Field(description="whose rows they hold: foreign keys may tie segments of several together")
    rows: int
    bytes: int = Field(description="of the encrypted files")
    min_age: datetime | None
    max_age: datetime | None
    held_until: datetime = Field(description="until then a run by policy leaves these rows in Main")
    recovered: int = Field(default=0, description="batches of an interrupted run, settled first")
    seconds: float
    stopped_because: str = Field(description="`complete`, or why segments are left")
    applied: bool = Field(description="false: a plan, which changed nothing")


class EraseResult(Result):
    """`archive erase`: matching rows are gone from every tier."""

    table: str
    rows: dict[str, int] = Field(description="tier -> rows that matched there")
    segments: dict[str, str | None] = Field(
        description="segment that held such rows -> the one in its place without them, null in a plan"
    )
    keys_destroyed: int = Field(
        default=0, description="data keys of segments of the table that count no more: no copy of these opens"
    )
    keys_left: int = Field(
        default=0, description="such keys that could not be deleted: old files open with them, and the rows are not gone yet"
    )
    files_left: int = Field(
        default=0, description="of old segments, still in the store: unreadable, deleted when no lock holds them"
    )
    seconds: float
    stopped_because: str = Field(description="`complete`, or why segments are left")
    notes: list[str] = Field(default=[])
    applied: bool = Field(description="false: a plan, which changed nothing")
    ok: bool = Field(description="false where keys are left")


class CheckpointResult(Result):
    """The archive's chain of manifests beside what this machine remembers of it."""

    ok: bool
    segments: int = Field(description="in the chain")
    newest: str | None = Field(default=None, description="its last manifest")
    errors: list[FaultResult] = Field(default=[])
