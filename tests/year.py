"""A year of an application on real tiers, day by day under a clock of its own, and what the best would have cost."""

import random
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate

from support import Tiers, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import Settings, load
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.units import Age
from tierkeeper.postgres.keeping import sharing
from tierkeeper.postgres.link import Connection

FIRST = date(2025, 1, 1)
CORE_DAYS, MAIN_DAYS = 30, 120
QUOTA_BYTES = 24_000_000  # of Core, a third of which an empty database takes
LOOKS = 4  # at the usage, in a day
REST = Age("a fiftieth of a second", 0, timedelta(milliseconds=20))
"""The longest reader: rows rest so long on their way by the servers' own clocks, for which a day is hardly longer."""
PRICES = {"core": 0.0, "main": 0.10, "archive": 0.02}  # of a GB and month
POLICY = {"name": "public.events", "age": "at", "core": f"{CORE_DAYS} days", "main": f"{MAIN_DAYS} days"}
MAKE = """
CREATE TABLE public.events (id bigint PRIMARY KEY, at timestamptz NOT NULL, body text NOT NULL);
CREATE INDEX ON public.events (at);
"""


@dataclass
class Calendar(SystemClock):
    """Says whatever instant it was set to. Durations are real, but that whoever sleeps skips what the servers need not rest."""

    instant: datetime = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC)
    skipped_seconds: float = 0.0

    def now(self, server: object = None) -> datetime:  # type: ignore[override]  # noqa: ARG002
        return self.instant

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped_seconds

    def sleep(self, seconds: float) -> None:
        """By this clock as long as asked, by the servers' clocks as long as rows rest: what waits for more is done tomorrow."""
        rested = min(seconds, REST.span.total_seconds())
        super().sleep(rested)
        self.skipped_seconds += seconds - rested


def rows_of(day: int, rng: random.Random) -> int:
    """What the application writes on a day: a growing business with weekends, holidays and one flood of four days."""
    today = FIRST + timedelta(days=day)
    rows = 600 * (1 + day / 1500) * rng.uniform(0.8, 1.2)
    if today.weekday() >= 5:
        rows *= 0.4
    if today.month == 12 or (today.month == 7 and today.day <= 7):
        rows *= 1.6
    if 200 <= day < 204:
        rows *= 11
    return int(rows)


@dataclass
class Year:
    """The application's own view. Its oracle counts the user's rows and measures Core as its provider does."""

    tiers: Tiers
    settings: Settings
    calendar: Calendar
    core: Connection
    main: Connection
    rng: random.Random
    written: list[int] = field(default_factory=list)
    """Rows of each day."""
    held: list[tuple[int, int, int]] = field(default_factory=list)
    """Rows in Core, Main and the archive at the end of each day."""
    fullest_bytes: int = 0
    first: int = 0
    """The day on which it began."""

    @property
    def keeper(self) -> Keeper:
        """A new one, as each job of the schedule gets."""
        return open_keeper(self.settings, clock=self.calendar, environment=self.tiers.environment)

    def alerts(self) -> None:
        """One look of whoever tells people."""
        self.keeper.alerts()

    def begin(self, day: int) -> None:
        """Has the rows of a month before that day in Core, as if the application had begun then."""
        self.first = day - CORE_DAYS + 1
        for early in range(self.first, day):
            for part in range(LOOKS):
                self.look(early, part * 24 // LOOKS)
                self.write(early, part)

    def look(self, day: int, hour: int) -> None:
        """Lets time pass until then."""
        self.calendar.instant = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC) + timedelta(days=day, hours=hour)

    def write(self, day: int, part: int) -> None:
        """A part of a day's rows, spread over its hours."""
        if part == 0:
            self.written.append(rows_of(day, self.rng))
        first, rows = sum(self.written[:-1]), self.written[-1]
        since, until = first + rows * part // LOOKS, first + rows * (part + 1) // LOOKS
        at = self.calendar.instant
        self.core.execute(
            "INSERT INTO public.events"
            " SELECT i, %s::timestamptz + (i - %s::bigint) * interval '1 second', repeat(md5(i::text), 6)"
            " FROM generate_series(%s::bigint, %s) AS i",
            (at, since, since + 1, until),
        )
        (size,) = self.core.execute("SELECT pg_database_size(current_database())").fetchone() or (0,)
        self.fullest_bytes = max(self.fullest_bytes, int(size))

    def count(self) -> None:
        """What each tier holds now; a row that is in none is in the archive, or lost: `everything` tells."""
        count = "SELECT count(*) FROM public.events"
        core, main = (int((conn.execute(count).fetchone() or (0,))[0]) for conn in (self.core, self.main))
        self.held.append((core, main, sum(self.written) - core - main))

    def everything(self) -> list[int]:
        """The ids of all rows, wherever they are. Who asks for a year's rows at once may take longer than an ordinary reader."""
        patient = _rewritten(self.settings, Age.parse("1 minute", "query"))
        keeper = open_keeper(patient, clock=self.calendar, environment=self.tiers.environment)
        found = keeper.query("SELECT id FROM public.events ORDER BY id")
        return [int(i) for i in found.column("id").to_pylist()]

    def cost(self) -> float:
        """Of what was held, in rows for a day at the tier's price."""
        return sum(_price(h) for h in self.held)

    def best(self) -> float:
        """The same where each row had left Core at the last moment: by the policy's age, or because the quota has no room for
        one more. Who knows the year beforehand does that.
        """
        sizes = "SELECT pg_database_size(current_database()), pg_total_relation_size('public.events')"
        whole, table = self.core.execute(sizes).fetchone() or (0, 0)
        most = int((QUOTA_BYTES - (whole - table)) / (table / self.held[-1][0]))
        total = list(accumulate(self.written))
        held = []
        for day, written in enumerate(total):
            kept, archived = min(written - _at(total, day - CORE_DAYS), most), _at(total, day - MAIN_DAYS)
            held.append((kept, written - kept - archived, archived))
        return sum(_price(h) for h in held)


def _rewritten(settings: Settings, timeout: Age) -> Settings:
    return settings.model_copy(update={"query": settings.query.model_copy(update={"timeout": timeout})})


def _at(total: Sequence[int], day: int) -> int:
    return total[day] if day >= 0 else 0


def _price(held: tuple[int, int, int]) -> float:
    return sum(rows * price for rows, price in zip(held, PRICES.values(), strict=True))


@contextmanager
def year(tiers: Tiers, seed: int = 1, *, reached: Tiers | None = None, extra: str = "") -> Iterator[Year]:
    """The tiers with the application's table in Core, on the first morning; `extra` is TOML.

    `reached`: how the keeper reaches them, where the oracle has another way. All goes on in one block that shares connections, as
    in the process of `run`, which dials anew where minutes have passed: here none do. The tests' server syncs nothing to its
    disk; nothing crashes here.
    """
    given = reached or tiers
    calendar = Calendar()
    path = tierkeeper_toml(given, [POLICY], quotas={"core": f"{QUOTA_BYTES}B"}, extra=extra)
    settings = _rewritten(load(path, tiers.environment, tiers.home), REST)
    with closing(tiers.core.connect("app")) as core, closing(tiers.main.connect("app")) as main:
        core.execute(MAKE)
        one = Year(given, settings, calendar, core, main, random.Random(seed))  # noqa: S311 - no secret
        one.keeper.setup(apply=True)
        with sharing("jobs"):
            yield one
