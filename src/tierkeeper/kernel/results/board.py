"""What the page of the tiers shows, and what `demo --serve` tells when it is ready. No row's value and no secret is in it."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from tierkeeper.kernel.results.alerts import AlertResult
from tierkeeper.kernel.results.archive import SegmentResult
from tierkeeper.kernel.results.base import FaultResult, Result
from tierkeeper.kernel.results.demo import DemoResult
from tierkeeper.kernel.results.spending import CostTotal
from tierkeeper.kernel.results.tiers import ReadingStatus, TierStatus


class BoardTable(Result):
    """One table of the policy. Rows in Core and Main are the servers' estimates, the archive's are exact; null: not known."""

    mode: str = Field(description='"move" or "mirror"; "none": no [[tables]] entry names it, but rows of it are below Core')
    core_rows_estimate: int | None = None
    main_rows_estimate: int | None = None
    archive_rows: int | None = None
    core_due_estimate: int | None = Field(default=None, description="of Core's rows, those that are old enough to leave it")
    main_due_estimate: int | None = Field(default=None, description="the same of Main's")
    in_flight: int | None = Field(
        default=None, description="batches under way, or left by an interrupted move; null where a tier is away"
    )
    conflicts: int = Field(default=0, description="keys that are in Core and in Main; `status` lists them")
    cause: str | None = Field(default=None, description="why `query` refuses it")
    remedy: str | None = None


class BoardMove(Result):
    """A move of rows from tier to tier, as the audit has it."""

    at: datetime = Field(description="when it ended; of one without an end, when it began")
    table: str
    from_: str = Field(alias="from")
    to: str
    rows: int | None = Field(description="that moved; null where no end was noted")
    seconds: float | None
    state: Literal["verified", "failed", "open"] = Field(
        description="verified: each row was read back and compared before it was deleted; open: under way, or cut off"
    )
    cause: str | None = Field(default=None, description="why it failed, or why it ended before it was complete")


class BoardAction(Result):
    """An entry of the audit with its outcome. Its details are left out: they may quote the user's own conditions."""

    at: datetime = Field(description="of the intent")
    actor: str
    verb: str
    subject: str
    state: Literal["done", "failed", "open"] = Field(description="open: under way, or cut off")
    seconds: float | None
    cause: str | None = None


class BoardSegment(SegmentResult):
    """A segment with the time from which its first reading counts: whatever is written is read back before it counts."""

    written_at: datetime


class BoardJob(Result):
    """A job of the schedule."""

    ok_at: datetime | None = Field(description="when it went well last; null: not yet")
    cause: str | None = Field(default=None, description="what has kept it from that since")
    next_at: datetime | None = Field(default=None, description="null: it is off here")


class BoardProof(Result):
    """Every row counted against the original, by code that uses no part of the mover: in the demo, where there is an original."""

    rows: int = Field(description="of the original")
    lost: int
    doubled: int
    counted_at: datetime
    seconds: float
    current: bool = Field(description="no action has ended since, and none is under way, as far as the audit says")
    error: FaultResult | None = Field(default=None, description="why it could not be counted again")


class BoardResult(Result):
    """The page of the tiers as JSON: `/board.json`. All of it is as it was `at`."""

    at: datetime
    fresh_seconds: float = Field(description="for so long the tiers are not asked again, however often the page is loaded")
    old: bool = Field(default=False, description="it is older than it may be: the tiers have not answered since")
    tiers: dict[str, TierStatus] = Field(default={})
    tables: dict[str, BoardTable] = Field(default={})
    archive: ReadingStatus | None = Field(default=None, description="null where the archive's catalog does not answer")
    cost: CostTotal | None = None
    moves: list[BoardMove] | None = Field(default=None, description="the newest first; null where Main, which knows, is away")
    segments: list[BoardSegment] | None = Field(
        default=None, description="those whose reading is longest ago first, of all that `archive` counts; null as that is"
    )
    audit: list[BoardAction] | None = Field(default=None, description="the newest first; null where Main is away")
    last_note: int = Field(default=0, description="number of the audit's newest note about rows; it grows with each")
    alerts: list[AlertResult] = Field(default=[], description="that fire, the gravest first")
    undelivered: dict[str, str] = Field(default={}, description="targets of alerts that did not get the last one, and why")
    jobs: dict[str, BoardJob] = Field(default={}, description="empty where no `tierkeeper run` has been")
    proof: BoardProof | None = Field(default=None, description="null where there is no original to count against")
    errors: list[FaultResult] = Field(default=[], description="what could not be had")


class ServedDemoResult(Result):
    """`demo --serve`, once all is ready: a single line with --json. Everything stays until Ctrl-C or SIGTERM."""

    demo: DemoResult
    config: str = Field(description="the tierkeeper.toml by which any command works on these tiers")
    environment: dict[str, str] = Field(description="what a second terminal needs: TIERKEEPER_CONFIG")
    dashboard: str = Field(description="the page's address; `board.json` below it gives a BoardResult")
