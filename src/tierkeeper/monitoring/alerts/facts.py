"""What alerts are decided from: plain facts of one instant, gathered elsewhere. None means: it is not known now.

What is not known neither rings nor ends what rings: a tier that is away says nothing about its slots.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tierkeeper.kernel.series import Sample
from tierkeeper.monitoring.model import Slot


@dataclass(frozen=True)
class Forecast:
    """When a tier is full by its history: the instant, and the range that it lies in; None: not within the forecast's reach.

    `table` drives it, as far as that is known.
    """

    full_at: datetime | None
    earliest: datetime | None = None
    latest: datetime | None = None
    table: str | None = None


@dataclass(frozen=True)
class Away:
    """A tier that does not answer, in the words of its error."""

    cause: str
    remedy: str


@dataclass(frozen=True)
class TierFacts:
    """One tier. `samples` are of its used bytes, oldest first, up to an hour and more before now.

    `read_at` is when it was last read to keep it awake (the first try, where none came through); where nobody does that
    (`kept_awake` is false), when its rows were last read or written by the history; None where that is not known.
    """

    tier: str
    quota_bytes: int
    used_bytes: int | None = None
    samples: tuple[Sample, ...] = ()
    away: Away | None = None
    read_only: bool | None = None
    slots: tuple[Slot, ...] | None = None
    forecast: Forecast | None = None
    pauses_after_days: int | None = None
    read_at: datetime | None = None
    read_cause: str | None = None
    kept_awake: bool = True


@dataclass(frozen=True)
class Fault:
    """What a run could not do, as its report and the audit have it."""

    place: str
    cause: str
    remedy: str


@dataclass(frozen=True)
class Run:
    """Something that happens by itself at least every `period`.

    `ok_at`: when it last went well; `since`: from when on it could have, where it never did. `faults`: of the last one. `remedy`:
    what to do where it is late, if that is not what is usual.
    """

    period: timedelta
    ok_at: datetime | None = None
    since: datetime | None = None
    faults: tuple[Fault, ...] = ()
    remedy: str | None = None


@dataclass(frozen=True)
class Job:
    """A job of the schedule, due every `period` or so. What has not gone well since `due_at` has missed two due times.

    `ok_at`: when it last went well; `since`: from when on it could have; `cause`: what has kept it from that since.
    """

    due_at: datetime
    period: timedelta
    since: datetime
    ok_at: datetime | None = None
    cause: str | None = None


@dataclass(frozen=True)
class Expiry:
    """A certificate or token. `notice`: how long before its end somebody has to know."""

    what: str
    at: datetime
    remedy: str
    notice: timedelta


@dataclass(frozen=True)
class Facts:
    """Everything of one instant. `runs` by name: quota, archive, scrub, drill. `damage`: by what was found wrong.

    `expiries`: of what links to tiers rest on; `served`: of what opens a home server, of which one that is away says nothing.

    `jobs`: by their names in `[schedule]`, those that are on and that some `tierkeeper run` has had on its schedule.
    """

    at: datetime
    tiers: tuple[TierFacts, ...] = ()
    runs: Mapping[str, Run] = field(default_factory=dict)
    expiries: tuple[Expiry, ...] | None = None
    damage: tuple[Fault, ...] | None = None
    jobs: Mapping[str, Job] | None = field(default_factory=dict)
    served: tuple[Expiry, ...] | None = ()
