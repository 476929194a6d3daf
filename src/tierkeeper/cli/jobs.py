"""`tierkeeper run` and `tierkeeper worker`."""

from typing import TYPE_CHECKING, Annotated

import typer

from tierkeeper.cli.session import Session, command

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
        another takes over within two minutes when that ends. While Main is away it goes on watching, and moves wait. With --json
        each job that has run is a line.
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

    with session.stop.listening():
        session.code = start(role, settings, tell=session.line, stop=session.stop)
