"""`check`, `setup`, `status` and `quota`: the commands about tiers as a whole."""

from typing import Annotated

import typer

from tierkeeper.cli import arguments, homeserver, trusting
from tierkeeper.cli.session import MaxTimeOption, Session, command
from tierkeeper.kernel.errors import UsageError


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    _register_looks(app)
    _register_quota(app)


def _register_looks(app: typer.Typer) -> None:

    @command(app, "check")
    def check(session: Session) -> None:
        """Validate the configuration and every connection.

        All faults are told at once, each with its remedy.
        """
        with session.keeper() as keeper:
            session.show(keeper.check())

    @command(app, "setup")
    def setup(
        session: Session,
        apply: Annotated[bool, typer.Option("--apply", help="Do it; without it the plan is only shown.")] = False,
        trust: Annotated[
            list[str] | None,
            typer.Option(
                "--trust",
                metavar="TIER=SHA256",
                help="Confirm the authority of a tier's server by its fingerprint, where nobody can be asked.",
            ),
        ] = None,
    ) -> None:
        """Show what the tiers lack, or make it with --apply.

        Schemas, tables, types and keys below Core, the audit, the archive's key, and the home server's certificates where
        [homeserver] path names its folder. A second run finds nothing to do. A server whose authority is not known here is shown;
        --apply asks to confirm that authority before anything else, and pins it.
        """
        given = trusting.given(trust or [])
        if given and not apply:
            raise UsageError("--trust", "an authority is pinned by --apply alone", "Add --apply, or leave --trust out")
        if apply:
            from tierkeeper.compose.trusting import set_up

            ask = trusting.confirmed if trusting.is_there(as_json=session.as_json) else None
            result = set_up(session.keeper, given, ask)
        else:
            with session.keeper() as keeper:
                result = keeper.setup(False)
        steps = homeserver.certificates(session, apply=apply)
        session.show(result.model_copy(update={"steps": [*result.steps, *steps]}))

    @command(app, "status")
    def status(session: Session) -> None:
        """Show usage, quota and health of each tier, and what waits.

        Row counts with a ~ are the planner's estimates.
        """
        with session.keeper() as keeper:
            session.show(keeper.status())


def _register_quota(app: typer.Typer) -> None:
    @command(app, "quota")
    def quota(
        session: Session,
        *,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would move; change nothing.")] = False,
        allow_rewrite: Annotated[
            bool,
            typer.Option(
                "--allow-rewrite", help="Let VACUUM FULL lock a table, and scratch space exceed the quota, where need be."
            ),
        ] = False,
        optimise: Annotated[
            bool, typer.Option("--optimise", help="Propose the cutoffs that cost least under all quotas; change nothing.")
        ] = False,
        promise: Annotated[
            str | None,
            typer.Option("--promise", metavar="SHARE", help="With --optimise: reads that stay in Core; else reads_in_core."),
        ] = None,
        what_if: Annotated[
            list[str] | None,
            typer.Option(
                "--what-if", metavar="[TABLE:]TIER=AGE", help="Show what another cutoff would come to, such as core=45d."
            ),
        ] = None,
        max_time: MaxTimeOption = None,
    ) -> None:
        """Run the quota manager: move what is old, then what must.

        Rows past their age leave their tier; where a tier nears its quota, more do. Then the space is given back and measured.
        --optimise and --what-if only tell: exit 0, also where no cutoffs keep to all quotas (`feasible` is false then).
        """
        asked = arguments.proposal(
            dry_run=dry_run, allow_rewrite=allow_rewrite, optimise=optimise, promise=promise, what_if=what_if or []
        )
        if optimise:
            with session.keeper(max_time=max_time) as keeper:
                session.show(keeper.optimise(asked.promise))
            return
        if asked.changes:
            with session.keeper(max_time=max_time) as keeper:
                session.show(keeper.what_if(asked.changes))
            return
        with session.keeper(stoppable=True, max_time=max_time) as keeper:
            session.show(keeper.quota(dry_run, allow_rewrite=allow_rewrite))
