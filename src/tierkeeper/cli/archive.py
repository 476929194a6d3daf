"""`tierkeeper archive`: run, rebuild, list, show, verify, restore, thaw, erase, drill."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from tierkeeper.cli import arguments
from tierkeeper.cli.session import MaxTimeOption, Session, command
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.policy import OnConflict
from tierkeeper.kernel.units import Age

TableArgument = Annotated[str | None, typer.Argument(metavar="TABLE", help="Only this table.")]
SegmentOption = Annotated[str | None, typer.Option("--segment", metavar="ID", help="Only this segment.")]
SampleOption = Annotated[
    str | None, typer.Option("--sample", metavar="N/T", help="This share alone, such as 1/30: those read longest ago.")
]


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help="Write, list, verify, restore, thaw, erase and rebuild the encrypted archive.",
    )
    app.add_typer(group, name="archive")
    _writing(group)
    _bringing_back(group)
    _thawing(group)
    _reading(group)


def _writing(group: typer.Typer) -> None:
    @command(group, "run")
    def run(
        session: Session,
        *,
        table: TableArgument = None,
        before: Annotated[
            str | None, typer.Option(metavar="T", help="Rows older than this instant; else each table's policy.")
        ] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be archived; change nothing.")] = False,
        max_time: MaxTimeOption = None,
    ) -> None:
        """Move old rows from Main into the archive.

        By policy, it then removes the segments whose time is over (`archive` of a table); --dry-run shows which.
        """
        name = arguments.table(table) if table is not None else None
        instant = arguments.instant(before, "--before")
        with session.keeper(stoppable=True, max_time=max_time) as keeper:
            session.show(keeper.plan_archive(name, instant) if dry_run else keeper.archive_run(name, instant))

    @command(group, "erase")
    def erase(
        session: Session,
        *,
        table: Annotated[str, typer.Argument(metavar="TABLE", help="The table whose rows are to be erased.")],
        where: Annotated[str, typer.Option("--where", metavar="SQL", help="A condition on its columns, as Postgres reads it.")],
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the rows in each tier; change nothing.")] = False,
    ) -> None:
        """Remove matching rows from every tier, for good.

        Segments that hold such rows are written anew without them; the old ones' keys are destroyed at once, their files when no
        lock holds them and no reader uses them.
        """
        name = arguments.table(table)
        with session.keeper(stoppable=True) as keeper:
            session.show(keeper.archive_erase(name, where=where, dry_run=dry_run))

    @command(group, "rebuild")
    def rebuild(
        session: Session,
        *,
        without_main: Annotated[
            bool, typer.Option("--without-main", help="Main is gone for good: what only it could tell stays unsure.")
        ] = False,
    ) -> None:
        """Make the archive's catalog again from the store alone.

        Into an empty database, in one transaction; exit 1 if something is missing, damaged or unsure.
        """
        with session.keeper() as keeper:
            session.show(keeper.archive_rebuild(without_main=without_main))


def _bringing_back(group: typer.Typer) -> None:
    @command(group, "restore")
    def restore(
        session: Session,
        *,
        table: Annotated[str, typer.Argument(metavar="TABLE", help="The table whose rows are wanted.")],
        to: Annotated[
            str, typer.Option("--to", metavar="SCHEMA.TABLE|FILE", help="A table, or a new file ending in .csv or .parquet.")
        ],
        since: Annotated[str | None, typer.Option(metavar="T", help="Rows from this instant on (it is included).")] = None,
        until: Annotated[str | None, typer.Option(metavar="T", help="Rows up to this instant (it is excluded).")] = None,
        segment: SegmentOption = None,
        key: Annotated[
            list[str] | None,
            typer.Option(metavar="VALUE", help="Only the row with this key; may be repeated. Of several columns: a JSON array."),
        ] = None,
        on_conflict: Annotated[
            OnConflict | None,
            typer.Option(
                "--on-conflict", help="Into a table that exists: rows whose key it has refuse all, stay, or are overwritten."
            ),
        ] = None,
        tier: Annotated[Literal["core", "main"] | None, typer.Option(help="Where the table is; else in Main.")] = None,
        on: Annotated[
            str | None, typer.Option("--on", metavar="URL", help="Another Postgres server where the table is, instead of a tier.")
        ] = None,
    ) -> None:
        """Bring archived rows back into a table or a file.

        The archive keeps them. A table that exists takes them only with --on-conflict, in one transaction; one that tierkeeper
        moves never does: 'archive thaw' is for that.
        """
        name = arguments.table(table)
        begin, end = arguments.window(since, until)
        target = arguments.target(to)
        with session.keeper() as keeper:
            session.show(
                keeper.archive_restore(
                    name,
                    to=target,
                    since=begin,
                    until=end,
                    segment=segment,
                    keys=key or (),
                    on_conflict=on_conflict,
                    tier=tier,
                    on=on,
                )
            )


def _thawing(group: typer.Typer) -> None:
    @command(group, "thaw")
    def thaw(
        session: Session,
        *,
        table: Annotated[str, typer.Argument(metavar="TABLE", help="The table whose rows are wanted.")],
        since: Annotated[str | None, typer.Option(metavar="T", help="Segments with rows from this instant on.")] = None,
        until: Annotated[str | None, typer.Option(metavar="T", help="Segments with rows before this instant.")] = None,
        segment: SegmentOption = None,
        hold: Annotated[
            str, typer.Option("--for", metavar="AGE", help="How long a run by policy leaves them in Main.")
        ] = "30 days",
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Show which segments would go; change nothing.")] = False,
    ) -> None:
        """Bring whole segments back into the table itself, in Main.

        Their rows count there from then on, and not in the archive, which forgets them.
        """
        name = arguments.table(table)
        begin, end = arguments.window(since, until)
        if (begin, end, segment) == (None, None, None):
            raise UsageError("--since, --until, --segment", "nothing says which rows", "Give one of them")
        held = Age.parse(hold, "--for")
        with session.keeper(stoppable=True) as keeper:
            session.show(keeper.archive_thaw(name, since=begin, until=end, segment=segment, hold=held, dry_run=dry_run))


def _reading(group: typer.Typer) -> None:
    @command(group, "list")
    def list_(session: Session, table: TableArgument = None) -> None:
        """List the segments."""
        name = arguments.table(table) if table is not None else None
        with session.keeper() as keeper:
            session.show(keeper.archive_list(name))

    @command(group, "show")
    def show(session: Session, segment: Annotated[str, typer.Argument(metavar="ID", help="The segment.")]) -> None:
        """Show one segment with what its signed manifest says."""
        with session.keeper() as keeper:
            session.show(keeper.archive_show(segment))

    @command(group, "drill")
    def drill(
        session: Session,
        *,
        kit: Annotated[
            Path | None, typer.Option(metavar="FILE", help="A recovery kit or key; else the one in the configuration folder.")
        ] = None,
        sample: SampleOption = None,
        on: Annotated[
            str | None, typer.Option("--on", metavar="URL", help="A Postgres server to try on; else the catalog's.")
        ] = None,
    ) -> None:
        """Open the archive as a new machine would.

        With nothing but the store and the recovery key, in a scratch database that is dropped again: the catalog is made again,
        each segment verified, restored and compared. Says how long it took; exit 1 if anything would have stopped it.
        """
        with session.keeper(stoppable=True) as keeper:
            session.show(keeper.archive_drill(recovery=kit, sample=sample, on=on))

    @command(group, "verify")
    def verify(
        session: Session,
        *,
        segment: SegmentOption = None,
        sample: SampleOption = None,
    ) -> None:
        """Read segments back, decrypt and compare them.

        Each is read whole from the store and compared with its signed manifest; exit 1 if one is damaged or missing.
        With --sample the others are looked for, and read when it is their turn. Ctrl-C ends it after the one at hand.
        """
        if segment is not None and sample is not None:
            raise UsageError("--segment, --sample", "one segment has no share", "Give one of them")
        with session.keeper(stoppable=True) as keeper:
            session.show(keeper.archive_verify(segment, sample))
