"""`tierkeeper run` and `tierkeeper worker`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from tierkeeper.cli import pages
from tierkeeper.cli.balance import interface, on_hangup, source
from tierkeeper.cli.session import Session, command
from tierkeeper.config import Settings, split_address
from tierkeeper.kernel.ports import Stop
from tierkeeper.kernel.results import BalanceEvent, RunEvent

if TYPE_CHECKING:
    from tierkeeper.jobs.start import Role


def register(app: typer.Typer) -> None:
    """Adds the commands."""

    @command(app, "run")
    def run(
        session: Session,
        once: Annotated[
            bool, typer.Option("--once", help="Do what is due now and what waits in the queue, then end; for a timer.")
        ] = False,
    ) -> None:
        """Do everything on its schedule, until Ctrl-C or SIGTERM.

        [schedule] says when, in UTC; a time that was missed is made up for once. Of several machines that run it one leads, and
        another takes over within two minutes when that ends. While Main is away it goes on watching, and moves wait. Where
        [[balance.services]] are configured it balances them all the while, and where [dashboard] says so it serves the page of
        the tiers. With --json each job that has run is a line.
        """
        _start(session, "once" if once else "run")

    @command(app, "worker")
    def worker(session: Session) -> None:
        """Help a `tierkeeper run` on another machine.

        It ends with Ctrl-C or SIGTERM.

        Takes jobs from the queue on Main, and parts of its large moves. It needs the same configuration and the archive's key.
        A worker that dies is noticed after 40 seconds, and what it had begun is run by another.
        """
        _start(session, "worker")


def _start(session: Session, role: "Role") -> None:
    settings = session.settings()
    from tierkeeper.jobs.start import start

    with session.stop.listening(), showing(settings, role), balancing(session, settings, role) as beside:
        session.code = start(role, settings, tell=session.line, stop=session.stop, beside=beside, read=session.settings)


@contextmanager
def showing(settings: Settings, role: "Role") -> Iterator[None]:
    """The page of the tiers, where it is configured. Raises UsageError, before anything runs, where it cannot be served."""
    listen = settings.dashboard.listen
    address = None if listen is None or role != "run" else split_address(listen)
    if address is None:
        yield
        return
    pages.require("dashboard", "dashboard")
    from tierkeeper.compose import open_keeper
    from tierkeeper.web import board

    with board.serving(board.bind(address), lambda: open_keeper(settings).board(), settings.dashboard.names):
        yield


@contextmanager
def balancing(session: Session, settings: Settings, role: "Role") -> Iterator[dict[str, Callable[[Stop], None]]]:
    """The balancer, which goes on beside the schedule where services are configured; SIGHUP has it read them anew."""
    if role != "run" or not settings.balance.services:
        yield {}
        return
    from tierkeeper.compose.balancer import serve

    reloads: list[Callable[[], None]] = []

    def tell(event: BalanceEvent) -> None:
        who = " ".join(w for w in (event.service, event.backend) if w is not None)
        told = f"{who}: {event.told}" if who else event.told
        session.line(RunEvent(at=event.at, event="balance", told=f"{event.event}: {told}", error=event.error))

    @contextmanager
    def on_reload(ask: Callable[[], None]) -> Iterator[None]:
        reloads.append(ask)
        try:
            yield
        finally:
            reloads.remove(ask)

    def balance(stop: Stop) -> None:
        serve(source(session), stop=stop, tell=tell, interface=interface, on_reload=on_reload)

    def reload() -> None:
        for ask in reloads:
            ask()

    with on_hangup(reload):
        yield {"balance": balance}
