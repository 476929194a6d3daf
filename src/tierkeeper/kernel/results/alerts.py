"""What alerts and the reads that keep projects awake answer. A target is named by its place and kind, never by its address."""

from datetime import datetime

from pydantic import Field

from tierkeeper.kernel.results.base import FaultResult, Result


class AlertTargetResult(Result):
    """One of `[alerts] notify`, and what became of a message to it."""

    target: str = Field(description="its place in the list, and the kind of service")
    ok: bool
    tries: int = 1
    cause: str | None = Field(default=None, description="why it did not get the message")


class AlertTestResult(Result):
    """`alert test`."""

    ok: bool
    targets: list[AlertTargetResult]


class AlertResult(Result):
    """One alert."""

    kind: str
    subject: str = Field(description="the tier, table or thing")
    severity: str = Field(description="warning, serious, urgent")
    state: str = Field(description="pending: seen, and not for long enough; firing; resolved: over")
    what: str
    cause: str
    remedy: str
    figures: dict[str, float | int | str] = Field(default={})
    since: datetime
    resolved_at: datetime | None = None
    told: dict[str, datetime] = Field(default={}, description="target -> when it was told last")


class AlertStatusResult(Result):
    """`alert status`: what fires, since when, and who was told."""

    alerts: list[AlertResult] = Field(description="the gravest first")
    resolved: list[AlertResult] = Field(default=[], description="over within the last days")
    targets: list[str] = Field(description="who is told")
    undelivered: dict[str, str] = Field(default={}, description="targets that did not get the last message, and why")
    quiet: bool = Field(default=False, description="these are quiet hours")
    kept: str = Field(description='where it is remembered: "main", or "file" or "process" of this machine while Main is away')
    notes: list[str] = Field(default=[])


class AlertTurnResult(Result):
    """`alert run`: one look, and what was told. `ok` is false where a target did not get its message."""

    ok: bool
    firing: int
    pending: int
    told: list[str] = Field(description="what was told, a line each")
    targets: list[AlertTargetResult]
    waits: bool = Field(default=False, description="another machine is telling now")
    kept: str = Field(description="as in AlertStatusResult")
    unseen: list[str] = Field(default=[], description="facts that could not be had; nothing is said of them")


class AwakeTier(Result):
    """One tier whose provider pauses projects."""

    pauses_after_days: int
    read: bool = Field(description="a row was read by this run")
    table: str | None = Field(default=None, description="where the last row that was read lies")
    read_at: datetime | None = Field(default=None, description="when one was read last; null: never")
    cause: str | None = Field(default=None, description="why the last try did not come through")


class AwakeResult(Result):
    """`Keeper.keep_awake`: a tier that was read less than a day ago is left in peace."""

    ok: bool
    tiers: dict[str, AwakeTier]
    errors: list[FaultResult] = Field(default=[])
