"""`tierkeeper demo`."""

import functools
import signal
import time
from contextlib import nullcontext, suppress
from typing import Annotated

import typer

from tierkeeper.cli import pages
from tierkeeper.cli.balance import on_hangup
from tierkeeper.cli.session import Session, command
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.results.meaning import exit_code

_LOOK_SECONDS = 3600.0  # a signal ends the sleep at once


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "demo")
    def demo(
        session: Session,
        serve: Annotated[
            bool, typer.Option("--serve", help="Keep the tiers up for other commands, with a page, until Ctrl-C.")
        ] = False,
        port: Annotated[
            int | None, typer.Option("--port", metavar="PORT", help="The page's, on this machine; else 8900, or a free one.")
        ] = None,
    ) -> None:
        """Show the whole cycle on embedded servers with real data.

        Core runs over its quota; old rows go to Main, the oldest into the encrypted archive; everything is verified, a month is
        restored, and one question is asked over all tiers. With --serve the flights are of the year until yesterday, and the
        cycle is run as of two weeks ago: any command in another terminal finds rows that are due. With --json it then prints one
        line and stays. Ctrl-C, SIGTERM and a closed terminal end it; nothing is left. Needs the extra: pip install
        'tierkeeper[demo]'.
        """
        if serve:
            _serve(session, port)
            return
        if port is not None:
            raise UsageError("--port", "there is a page with --serve alone", "Add --serve, or take --port out")
        from tierkeeper.demo.run import run

        with session.progress:
            result = run(session.progress)
        session.show(result)


def _serve(session: Session, port: int | None) -> None:
    pages.require("demo --serve", "demo")
    place = pages.on_this_machine(port)
    from tierkeeper.demo.serving import serving

    def hung_up() -> None:
        raise KeyboardInterrupt

    kept_up = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # nohup: the terminal may go
    with place.socket, nullcontext() if kept_up else on_hangup(hung_up):
        with session.progress, serving(session.progress, functools.partial(pages.serving, place)) as served:
            session.progress.clear()
            session.line(served)
            with suppress(KeyboardInterrupt):
                while True:
                    time.sleep(_LOOK_SECONDS)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whoever is impatient would leave a folder behind
                signal.signal(number, signal.SIG_IGN)
        session.code = exit_code(served.demo)
