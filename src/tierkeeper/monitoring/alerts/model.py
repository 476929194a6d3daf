"""What an alert is: a condition that holds, how grave it is, and what was told of it to whom. Pure values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Literal

Phase = Literal["pending", "firing", "resolved"]


class Kind(StrEnum):
    """What can need a person. The value is what is shown and kept."""

    APPROACHING = "approaching"
    BREACHED = "breached"
    FORECAST = "forecast"
    READ_ONLY = "read-only"
    MIGRATION_FAILED = "migration failed"
    SCRUB_OVERDUE = "scrub overdue"
    DAMAGED = "damage found"
    DRILL_FAILED = "drill failed"
    SLOT = "slot pinning WAL"
    PAUSING = "about to pause"
    EXPIRING = "expiring"
    AWAY = "tier away"
    JOB_LATE = "job late"


class Severity(IntEnum):
    """Only what is urgent may ring in quiet hours; what rises to another severity rings again."""

    WARNING = 1
    SERIOUS = 2
    URGENT = 3

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Condition:
    """Something that is so now. `what` is one line, `cause` has the figures, `remedy` what to do now, with a command.

    `subject` is the tier, table or thing; `scope` the tier or run without whose facts nothing can be said of it. It rings once
    it has held for `hold_seconds`, and is over once it has not for `clear_seconds`.
    """

    kind: Kind
    subject: str
    scope: str
    severity: Severity
    what: str
    cause: str
    remedy: str
    figures: Mapping[str, float | int | str] = field(default_factory=dict)
    hold_seconds: float = 0
    clear_seconds: float = 0

    @property
    def key(self) -> tuple[str, str]:
        return (self.kind.value, self.subject)


@dataclass(frozen=True)
class Judged:
    """What holds, and of what nothing can be said: by kind and scope where facts are missing, or where a graver one covers it."""

    conditions: tuple[Condition, ...]
    unsaid: frozenset[tuple[Kind, str]] = frozenset()


@dataclass(frozen=True)
class Told:
    """What one target heard last of an alert. `over`: that it is over."""

    at: datetime
    severity: Severity
    over: bool = False


@dataclass(frozen=True)
class Record:
    """An alert from when its condition was first seen until it is forgotten. `told` by target.

    `returned`: it had hardly ended when it came again.
    """

    condition: Condition
    phase: Phase
    since: datetime
    changed_at: datetime
    fired_at: datetime | None = None
    clear_since: datetime | None = None
    resolved_at: datetime | None = None
    told: Mapping[str, Told] = field(default_factory=dict)
    returned: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.condition.key


@dataclass(frozen=True)
class Unheard:
    """Why a target did not get the last message to it, and since when it gets none."""

    since: datetime
    at: datetime
    cause: str


@dataclass(frozen=True)
class Claim:
    """Who is sending now; after `until` it is taken for dead, and whoever comes sends what it has not noted as told."""

    holder: str
    until: datetime


@dataclass(frozen=True)
class State:
    """What all machines remember together."""

    records: tuple[Record, ...] = ()
    unheard: Mapping[str, Unheard] = field(default_factory=dict)
    claim: Claim | None = None


@dataclass(frozen=True)
class Notice:
    """One thing to tell a target of a record."""

    record: Record
    news: Literal["new", "worse", "reminder", "over", "was"]
