"""`tierkeeper move`."""

from functools import partial
from typing import Annotated

import typer

from tierkeeper.cli import arguments
from tierkeeper.cli.session import MaxTimeOption, Session, command
from tierkeeper.kernel.policy import Tier
from tierkeeper.mover.request import soon


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "move")
    def move(
        session: Session,
        *,
        table: Annotated[str, typer.Argument(metavar="TABLE", help='As SQL names it: flights, public.flights, "Odd"."Name".')],
        from_: Annotated[Tier, typer.Option("--from", help="Where the rows are.")],
        to: Annotated[Tier, typer.Option("--to", help="Where they go: one tier down, or from main back to core.")],
        before: Annotated[
            str | None, typer.Option(metavar="T", help="Rows older than this instant (it is excluded); UTC if it has no zone.")
        ] = None,
        older_than: Annotated[
            str | None, typer.Option(metavar="AGE", help='Rows older than this, such as "30 days"; else the policy\'s age.')
        ] = None,
        where: Annotated[str | None, typer.Option(metavar="SQL", help="Only rows for which this condition holds.")] = None,
        limit: Annotated[int | None, typer.Option(metavar="N", min=1, max=2**63 - 1, help="At most so many rows.")] = None,
        max_time: MaxTimeOption = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Show what would move and what would be made first; change nothing.")
        ] = False,
        explain: Annotated[
            bool, typer.Option("--explain", help="As --dry-run, and say which rows would stay where they are, and why.")
        ] = False,
    ) -> None:
        """Move old rows of a table one tier down, or rows that you name from main back to core, verified.

        Ctrl-C ends at the next safe point; the next run goes on from there.
        """
        name = arguments.table(table)
        arguments.hop(from_, to)
        instant, age = arguments.cutoff(before, older_than)
        plans = dry_run or explain  # over connections of its own
        with session.keeper(stoppable=True, max_time=max_time, soon=() if plans else soon(from_, to)) as keeper:
            run = partial(keeper.plan_move, explain=explain) if plans else keeper.move
            session.show(run(name, from_, to, before=instant, older_than=age, where=where, limit=limit))
