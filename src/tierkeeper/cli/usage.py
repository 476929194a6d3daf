"""`usage`: how full and how busy the tiers and their tables are, now and over time."""

from typing import Annotated

import typer

from tierkeeper.cli import arguments
from tierkeeper.cli.session import Session, command
from tierkeeper.kernel.errors import Exit, UsageError


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "usage")
    def usage(
        session: Session,
        table: Annotated[
            str | None, typer.Option("--table", metavar="TABLE", help="This table alone; else each tier's, the largest too.")
        ] = None,
        since: Annotated[str, typer.Option("--since", metavar="AGE", help="How far back the curves go.")] = "7 days",
        record: Annotated[
            bool, typer.Option("--record", help="Write what is measured to the history; on this machine while Main is away.")
        ] = False,
    ) -> None:
        """Show what fills each tier, and its curve over time.

        Bytes of rows, TOAST and indexes, what is dead or free within the files, reads and writes a day, slots that pin log, slow
        statements, and what the tiers sent this month. It waits for no lock. A tier that is away is a line of the answer.
        """
        name = None if table is None else arguments.table(table, "--table")
        age = arguments.age(since, "--since")
        if age is not None and age.seconds <= 0:
            raise UsageError("--since", f"{since!r} is no time at all", 'Write how far to look back, such as "7 days"')
        with session.keeper() as keeper:
            result = keeper.usage(name, since=age, record=record)
        session.show(result)
        if record and result.recorded is not None and result.recorded.where == "nowhere":
            session.code = Exit.FAILED
