"""A balancer put together: brain, data plane, control interface, audit. What is read of the configuration is in `balancing`."""

import dataclasses
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final

from tierkeeper.balance import probes
from tierkeeper.balance.brain import Brain
from tierkeeper.balance.kept import Record, now_text
from tierkeeper.balance.plane import Plane
from tierkeeper.balance.tierwatch import TierWatch, Watched, database, probed, reached
from tierkeeper.compose.balancing import Source, missing_extra, nothing
from tierkeeper.config import folder, split_address
from tierkeeper.kernel.clock import Clock, SystemClock
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.ports import Audit, Stop
from tierkeeper.kernel.results import BalanceEvent, ReloadResult, told
from tierkeeper.monitoring import seen, state
from tierkeeper.monitoring.seen import Seen
from tierkeeper.postgres.link import Link
from tierkeeper.security.audit import PostgresAudit, actor

QUICK_SECONDS: Final = 2  # a tier is waited for in a check, Main before a drain or a start; libpq knows no shorter time
PlaneFactory = Callable[[Path, Clock], Plane]
Audited = Callable[[str, str], AbstractContextManager[list[str]]]
Interface = Callable[
    [Brain, Audited, Callable[[], list[str]], Path, tuple[str, int] | None], AbstractContextManager[Callable[[], ReloadResult]]
]
"""Serves what may be asked of a brain while the block runs, and gives its audited reload: `web.control.interface`."""
OnReload = Callable[[Callable[[], None]], AbstractContextManager[None]]
"""Has a function called while the block runs when a person asks for a reload (SIGHUP)."""


def envoy_plane(folder: Path, clock: Clock) -> Plane:
    """The data plane by Envoy. Raises UsageError where its wheel is not installed."""
    if (missing := missing_extra()) is not None:
        raise missing
    from tierkeeper.balance.envoy.plane import EnvoyPlane

    return EnvoyPlane(folder, clock)


def serve(
    source: Source,
    *,
    stop: Stop,
    tell: Callable[[BalanceEvent], None],
    clock: Clock | None = None,
    interface: Interface,
    make_plane: PlaneFactory = envoy_plane,
    on_reload: OnReload | None = None,
) -> None:
    """Balances until `stop` says so. Raises UsageError for a wrong configuration, a port that is taken or a missing library."""
    time = clock or SystemClock()
    balance, settings = source.read()
    if not balance.services:
        raise nothing()
    source.services()
    if make_plane is envoy_plane and (missing := missing_extra()) is not None:
        raise missing
    _allow_files()
    kept = source.kept()
    kept.make()
    metrics = None if balance.metrics is None else split_address(balance.metrics)
    main = None if settings is None else settings.links(folder.pins(source.environment))["main"]
    trail = Trail(main, Record(kept.folder / "audit.jsonl"), tell, time)
    with kept.alone():
        plane = make_plane(kept.folder / "plane", time)
        tiers = Tiers(source)
        watch = TierWatch(tiers.load, tiers.tell, time)
        brain = Brain(plane, kept, source.services, tell, time, tiers=watch)
        names = ", ".join(s.name for s in balance.services)
        with (
            trail.action("balance serve", names),
            interface(brain, trail.action, lambda: _asides(source, balance.metrics), kept.socket, metrics) as reload,
            _reloading(reload, tell, time) as ask,
            on_reload(ask) if on_reload is not None else nullcontext(),
        ):
            brain.run(stop)


def _asides(source: Source, metrics: str | None) -> list[str]:
    """What has changed in the configuration and waits for another start."""
    with suppress(TierkeeperError):
        if source.read()[0].metrics != metrics:
            return [f"balance.metrics stays {metrics or 'off'} until the balancer is started again"]
    return []


def _allow_files() -> None:
    """As many open files as this process may have: each backend takes two, and a shell gives 1,024."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def _reloading(
    reload: Callable[[], ReloadResult], tell: Callable[[BalanceEvent], None], clock: Clock
) -> Iterator[Callable[[], None]]:
    """Gives what a signal's handler may call: a thread then reloads, which may wait for an audit, and tells what went wrong.

    Asked again before it began, it reloads once. An event would not do: a signal that comes amid the handler of the one before
    would wait for ever for the lock that this one holds.
    """
    asked: SimpleQueue[bool] = SimpleQueue()

    def work() -> None:
        while asked.get():
            with suppress(Empty):
                while asked.get_nowait():
                    pass
                return
            try:
                for note in reload().notes:
                    tell(BalanceEvent(at=clock.now(), event="reloaded", told=note))
            except TierkeeperError as error:
                for one in told([error]):
                    words = f"{one.place}: {one.cause}; the configuration was not read anew, and all goes on as before"
                    tell(BalanceEvent(at=clock.now(), event="fault", told=words, error=one))

    thread = Thread(target=work, name="reload", daemon=True)
    thread.start()
    try:
        yield lambda: asked.put(True)
    finally:
        asked.put(False)
        thread.join()


class Trail:
    """I7 for what changes a balancer: on Main where it answers in time, and durably in the local record in any case.

    Traffic does not wait for a Main that is away: the local record has the intent before the action, and says that Main lacks it.
    """

    def __init__(
        self,
        main: Link | None,
        record: Record,
        tell: Callable[[BalanceEvent], None],
        clock: Clock,
        audit: Audit | None = None,
    ) -> None:
        self._audit = audit or (None if main is None else PostgresAudit(quick(main)))
        self._record, self._tell, self._clock = record, tell, clock

    @contextmanager
    def action(self, verb: str, subject: str) -> Iterator[list[str]]:
        """Runs the block between an intent and an outcome; what it yields are notes for a person about the audit."""
        notes: list[str] = []
        on_main = None if self._audit is None else self._audit.action(verb, subject, {})
        add: Callable[..., None] | None = None
        if on_main is not None:
            try:
                add = on_main.__enter__()
            except TierkeeperError as error:
                self._note(notes, error, verb, "intent")
        self._line(verb, subject, "intent", on_main=add is not None)
        try:
            yield notes
        except BaseException as error:
            cause = error.cause if isinstance(error, TierkeeperError) else type(error).__name__
            self._line(verb, subject, "outcome", on_main=add is not None, failed=cause)
            if add is not None and on_main is not None:
                on_main.__exit__(type(error), error, error.__traceback__)
            raise
        self._line(verb, subject, "outcome", on_main=add is not None)
        if add is not None and on_main is not None:
            try:
                on_main.__exit__(None, None, None)
            except TierkeeperError as error:
                self._note(notes, error, verb, "outcome")

    def _line(self, verb: str, subject: str, kind: str, **detail: Any) -> None:
        line = {"at": now_text(), "actor": actor(), "kind": kind, "verb": verb, "subject": subject, **detail}
        self._record.add(line, durable=True)

    def _note(self, notes: list[str], error: TierkeeperError, verb: str, kind: str) -> None:
        words = f"the {kind} of `{verb}` is in this machine's record alone: {error.place}: {error.cause}"
        notes.append(words)
        self._tell(BalanceEvent(at=self._clock.now(), event="audit", told=words))


def quick(tier: Link) -> Link:
    """A tier, given up sooner than a mover would: nobody here is to wait."""
    if "connect_timeout=" in tier.url:
        return tier
    return dataclasses.replace(tier, url=f"{tier.url}{'&' if '?' in tier.url else '?'}connect_timeout={QUICK_SECONDS}")


class Tiers:
    """The configured tiers for the brain to watch, and the file in which other processes find what it saw."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._folder: Path | None = None

    def load(self) -> tuple[list[Watched], float]:
        """What the configuration says now; nothing where it has no tiers."""
        balance, settings = self._source.read()
        if settings is None:
            self._folder = None
            return [], balance.health_check_interval
        environment = settings.environment(self._source.environment)
        links = settings.links(folder.pins(environment))
        self._folder = state.folder(environment, links["core"])
        watched = [database(name, quick(link)) for name, link in links.items()]
        path, address = settings.store_path, settings.tiers.archive.store
        if path is not None:
            watched.append(probed("store", str(path), probes.directory("store", path)))
        elif not address.startswith("s3://"):  # each question to a bucket is paid for
            watched.append(reached("store", address))
        return watched, balance.health_check_interval

    def tell(self, tiers: Mapping[str, Seen]) -> None:
        """Writes it down. Raises OSError."""
        if self._folder is not None:
            seen.write(self._folder, tiers)
