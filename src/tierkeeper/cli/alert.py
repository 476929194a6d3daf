"""`tierkeeper alert`: who is told when something needs a person."""

import typer

from tierkeeper.cli.session import Session, command


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Who is told when something needs a person, and what.")
    app.add_typer(group, name="alert")

    @command(group, "test")
    def test(session: Session) -> None:
        """Send a test message to each target of [alerts] notify.

        Exit 0 if each was delivered, 1 if one was not, 2 if there is none or one is no address.
        """
        with session.keeper() as keeper:
            session.show(keeper.alert_test())

    @command(group, "status")
    def status(session: Session) -> None:
        """Show what fires, since when, and who was told."""
        with session.keeper() as keeper:
            session.show(keeper.alert_status())

    @command(group, "run")
    def run(session: Session) -> None:
        """Look once, and tell what is due.

        `tierkeeper run` does it every few minutes. Works while Main is away. Exit 1 if a target did not get its message: the
        next turn tries again.
        """
        with session.keeper() as keeper:
            session.show(keeper.alerts())
