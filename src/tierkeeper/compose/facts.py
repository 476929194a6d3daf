"""What alerts are decided from, gathered from what is there: the tiers' status, the audit, slots, the archive, certificates.

Whoever keeps the history, the forecast and the schedule passes them in. What cannot be had is left out and named; it keeps
nothing else back.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

from tierkeeper.kernel import limits
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.results import DrillStatus, QuotaResult, ReadingStatus, StatusResult, StoreReport, TierStatus
from tierkeeper.kernel.series import Sample
from tierkeeper.monitoring.alerts.facts import Away, Expiry, Facts, Fault, Forecast, Job, Run, TierFacts
from tierkeeper.monitoring.awake import Awake
from tierkeeper.monitoring.measure import slots
from tierkeeper.monitoring.model import Slot
from tierkeeper.monitoring.shown import Shown
from tierkeeper.objectstore.enrolment import Lifetime
from tierkeeper.postgres import pins
from tierkeeper.postgres.certificates import from_pem
from tierkeeper.postgres.link import Link, translated
from tierkeeper.security.runs import LastRun, last_runs
from tierkeeper.tiers.ask import ask_all
from tierkeeper.tiers.tier import Tier

T = TypeVar("T")
DAY: Final = timedelta(days=1)
_PERIODS: Final[Mapping[str, timedelta]] = {"quota": DAY, "archive": 7 * DAY, "scrub": DAY, "drill": 90 * DAY}
"""How often each runs by the user's schedule (daily, weekly); a drill is good for a quarter."""
_NAMES: Final = {
    "leaf": "the certificate of the home server",
    "authority": "the authority of the home server",
    "token": "this machine's token for the home server",
}
_REMEDIES: Final = {
    "leaf": "On the server: let `tierkeeper homeserver` run, which renews it by itself; where it runs, look at its log",
    "authority": "On the server: take the old authority's files away and start `tierkeeper homeserver`; then enrol each client",
    "token": "On the server: `tierkeeper token create NAME`; then set HOME_SERVER_TOKEN here",
}
_RENEWED: Final = (
    "A hosted server's provider renews it: ask them why not. On your own: put the new one into the file that ssl_cert_file names,"
    " then there: SELECT pg_reload_conf(). It is looked at once a day"
)
_SERVER_READS: Final = (
    "On the server: let `tierkeeper homeserver` run, which reads all that it keeps by itself; where it runs, look at its log"
)
_STOPPED: Final = ("KeyboardInterrupt", "SystemExit", "it was told to end")


@dataclass(frozen=True)
class Given:
    """What others know, by tier: samples of used bytes, forecasts; by run: when it last went well, and how often it is due.

    `active`: when rows of a tier that nobody keeps awake were last read or written. `jobs`: how those of the schedule went, as
    `Facts` has them; None where that is not known now.

    `quota`: the last run of the quota manager, where its report is at hand: the audit knows of less.
    """

    samples: Mapping[str, Sequence[Sample]] = field(default_factory=dict)
    forecasts: Mapping[str, Forecast] = field(default_factory=dict)
    finished: Mapping[str, datetime] = field(default_factory=dict)
    periods: Mapping[str, timedelta] = field(default_factory=dict)
    active: Mapping[str, datetime] = field(default_factory=dict)
    quota: QuotaResult | None = None
    jobs: Mapping[str, Job] | None = None


@dataclass(frozen=True)
class Sources:
    """Where facts come from; each call may raise an error of ours. `reads`: what is remembered of the tiers kept awake;
    `shown` what the servers behind some links show of their certificates, and those that are away showed last.

    `report`: what a home server says of what it keeps; None for another store.
    """

    now: datetime
    tiers: Mapping[str, Tier]
    status: Callable[[], StatusResult]
    report: Callable[[], StoreReport | None]
    lifetimes: Callable[[], Sequence[Lifetime]]
    reads: Mapping[str, Awake] = field(default_factory=dict)
    shown: Callable[[Mapping[str, Link], Collection[str]], Mapping[str, Shown]] = lambda _, __: {}


@dataclass
class _Gathering:
    unseen: list[str] = field(default_factory=list)

    def tried(self, what: str, ask: Callable[[], T]) -> T | None:
        """What `ask` gives; None where it raises an error of ours, which is noted."""
        try:
            return ask()
        except TierkeeperError as error:
            self.unseen.append(f"{what}: {error.cause}")
            return None


def gather(sources: Sources, given: Given) -> tuple[Facts, list[str]]:
    """The facts of now, and what is missing, a line each with its cause."""
    gathering = _Gathering()
    status = sources.status()
    live = {name: tier.link for name, tier in sources.tiers.items() if status.tiers[name].read_only is not None}
    held, unheld = ask_all({n: link for n, link in live.items() if n != "archive"}, lambda _, conn: slots(conn), "alerts")
    gathering.unseen += [f"slots of {name}: {error.cause}" for name, error in unheld.items()]
    ran = gathering.tried("audit", lambda: _last_runs(live["main"])) if "main" in live else None
    expiries = gathering.tried("certificates", lambda: (*_pinned(sources.tiers), *_servers(sources, live)))
    served = gathering.tried("certificates of the store", lambda: tuple(_served(sources)))
    report = gathering.tried("store", sources.report)
    tiers = tuple(
        _tier(tier, status.tiers[name], held.get(name), given, sources.reads.get(name)) for name, tier in sources.tiers.items()
    )
    runs = dict(_runs(status.archive, report, ran, given, sources.now))
    is_known = not any(line.startswith("store:") for line in gathering.unseen)
    damage = (() if report is None else tuple(_damage(report))) if is_known else None
    return Facts(sources.now, tiers, runs, expiries, damage, given.jobs, served), gathering.unseen


def _tier(tier: Tier, status: TierStatus, held: tuple[Slot, ...] | None, given: Given, read: Awake | None) -> TierFacts:
    is_away = status.read_only is None or status.used_bytes is None
    return TierFacts(
        tier.name,
        tier.quota_bytes,
        status.used_bytes,
        tuple(given.samples.get(tier.name, ())),
        Away(status.cause or "it does not answer", status.remedy or "Look at it") if is_away else None,
        status.read_only,
        () if tier.name == "archive" else held,
        given.forecasts.get(tier.name),
        tier.profile.pauses_after_days,
        given.active.get(tier.name) if read is None else read.read_at,
        None if read is None else read.cause,
        tier.name not in given.active,
    )


def _last_runs(main: Link) -> Mapping[tuple[str, str, str], LastRun]:
    with translated("tiers.main"), closing(main.connect("alerts")) as conn:
        return last_runs(conn)


def _runs(
    archive: ReadingStatus | None,
    report: StoreReport | None,
    ran: Mapping[tuple[str, str, str], LastRun] | None,
    given: Given,
    now: datetime,
) -> Iterator[tuple[str, Run]]:
    """What is known of what runs by itself. A run that nobody knows of is no fact."""
    periods = {**_PERIODS, **given.periods}
    managers = (ran or {}).get(("quota", "core", ""))
    for name in ("quota", "archive"):
        known = {} if ran is None else {key: run for key, run in ran.items() if _belongs(key, name)}
        went = (given.finished.get(name), managers.ok_at if managers else None)
        ok_at = max((at for at in went if at is not None), default=None)
        if name == "quota" and given.quota is not None:
            faults = tuple(Fault(e.place, e.cause, e.remedy) for e in given.quota.errors)
        else:
            faults = tuple(_faults(known, max(now - limits.ALERT_FAULT_DAYS * DAY, ok_at or now - limits.ALERT_FAULT_DAYS * DAY)))
        if known or went != (None, None) or faults:
            # The quota manager archives too: that the archiver alone is late, only its schedule can say.
            can_be_late = name == "quota" or given.finished.get(name) is not None
            since = managers.since if managers is not None and can_be_late else None
            yield name, Run(periods[name], ok_at if can_be_late else None, since, faults)
    if archive is not None and archive.segments:
        # A home server reads what it keeps by itself; of another store the archive's own reading counts.
        read_at = archive.stalest_at if report is None else report.oldest_read_at
        every = limits.SCRUB_TURNS * periods["scrub"] if report is None else report.scrub_days * DAY
        yield "scrub", Run(every, read_at, remedy=None if report is None else _SERVER_READS)
        drill = archive.drill
        failed = (Fault("the archive", _drilled(drill), ""),) if drill is not None and not drill.ok else ()
        yield (
            "drill",
            Run(periods["drill"], drill.at if drill is not None and drill.ok else None, archive.first_written_at, failed),
        )


def _drilled(drill: DrillStatus) -> str:
    first = f", such as {drill.wrong[0]}" if drill.wrong else ""
    what = f"{len(drill.wrong)} faults" if len(drill.wrong) > 1 else "a fault"
    return f"the drill of {drill.at:%Y-%m-%d %H:%M} UTC found {what}{first}"


def _belongs(key: tuple[str, str, str], name: str) -> bool:
    verb, _, to = key
    return (verb == "quota" and name == "quota") or (verb == "move" and (to == "archive") == (name == "archive"))


def _faults(known: Mapping[tuple[str, str, str], LastRun], since: datetime) -> Iterator[Fault]:
    """By the audit: what failed `since` then, and did not go well after."""
    for (verb, subject, to), run in known.items():
        if run.failed_at is None or run.failed_at <= since or run.cause is None or run.cause.startswith(_STOPPED):
            continue
        place = f"{subject} to {to}" if verb == "move" else "with the quota manager"
        yield Fault(place, f"{run.cause} ({run.failed_at:%Y-%m-%d %H:%M} UTC)", "")


def _damage(report: StoreReport) -> Iterator[Fault]:
    """One for all: whoever has to act reads them all anyway."""
    if report.wrong:
        key, cause = next(iter(report.wrong.items()))
        count = f"{len(report.wrong)} of {report.objects} objects are wrong, such as {key}: {cause}"
        yield Fault("the store", f"the home server read what it keeps, and {count}", "")


def _served(sources: Sources) -> Iterator[Expiry]:
    for one in sources.lifetimes():
        notice = limits.AUTHORITY_EXPIRY_DAYS if one.what == "authority" else limits.EXPIRY_DAYS
        yield Expiry(_NAMES[one.what], one.until, _REMEDIES[one.what], notice * DAY)


def _pinned(tiers: Mapping[str, Tier]) -> Iterator[Expiry]:
    """The CA files that the user has named or confirmed for tiers: of several in one file the one that lives longest counts."""
    for name, tier in tiers.items():
        pin = pins.in_force(tier.link)
        file = pin or tier.link.sslrootcert
        if file is None or not Path(file).is_file():
            continue
        try:
            until = max(c.not_valid_after_utc for c in from_pem(Path(file).read_bytes()))
        except (OSError, ValueError):
            continue  # the link itself says what is wrong with it
        if pin is not None:
            what, remedy = "pinned", "When its server shows the next one: `tierkeeper setup --apply` asks to confirm it"
        else:
            what, remedy = "sslrootcert", f"Get the server's new CA, and name its file in sslrootcert under [tiers.{name}]"
        yield Expiry(f"the CA of {name} ({what})", until, remedy, limits.AUTHORITY_EXPIRY_DAYS * DAY)


def _servers(sources: Sources, live: Collection[str]) -> Iterator[Expiry]:
    """What the links to the tiers' servers rest on, and these show."""
    for tier, one in sources.shown({name: tier.link for name, tier in sources.tiers.items()}, live).items():
        server = "the catalog's server" if tier == "archive" else f"{tier}'s server"
        for ending in one.endings:
            what = f"the certificate of {server}" if ending.is_servers else f"{ending.subject}, which vouches for {server}"
            yield Expiry(what, ending.until, _RENEWED, limits.EXPIRY_DAYS * DAY)
