"""`tierkeeper keys`: init, status, rotate, protect, kit."""

from pathlib import Path
from typing import Annotated

import typer

from tierkeeper.cli.session import Session, command
from tierkeeper.kernel.errors import UsageError


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, help="The archive's keys: which is in use, what to put away."
    )
    app.add_typer(group, name="keys")

    @command(group, "init")
    def init(session: Session) -> None:
        """Make the archive's key and its recovery key.

        As `setup --apply` does where there is none. Refuses to make one beside another, or for an archive that has its own.
        """
        with session.keeper() as keeper:
            session.show(keeper.keys_init())

    @command(group, "status")
    def status(session: Session) -> None:
        """Show which key is in use, and what was written with which.

        Shows no secret. Exit 1 if the archive holds segments that the key does not open.
        """
        with session.keeper() as keeper:
            session.show(keeper.keys_status())

    _add_changes(group)

    @command(group, "kit")
    def kit(
        session: Session,
        *,
        kit: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="An older kit or the recovery key; else the one in the configuration folder."),
        ] = None,
        to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="A new file (mode 600); else the terminal.")] = None,
    ) -> None:
        """Print the recovery kit, to be kept offline.

        Whoever has it and the store can read the whole archive: it is the recovery key, with what to do on a new machine.
        """
        with session.keeper() as keeper:
            session.show(keeper.keys_kit(recovery=kit, to=to))


def _add_changes(group: typer.Typer) -> None:
    @command(group, "rotate")
    def rotate(
        session: Session,
        *,
        reencrypt: Annotated[
            bool,
            typer.Option("--reencrypt", help="The old key has leaked: write every segment anew under a data key of its own."),
        ] = False,
    ) -> None:
        """Replace the operational key, and wrap every segment's key to the new one.

        No segment is rewritten without --reencrypt, and the recovery kit stays as it is. It waits for the longest reader before
        it deletes what is old. May be stopped or killed, and run again with the same options. What was read with the old key
        stays known to whoever has it, as do copies of old files with their wrapped keys. Exit 1 if something is left to do.
        """
        with session.keeper(stoppable=True) as keeper:
            session.show(keeper.keys_rotate(reencrypt=reencrypt))

    @command(group, "protect")
    def protect(
        session: Session,
        *,
        keyring: Annotated[bool, typer.Option("--keyring", help="Into this user's keyring instead.")] = False,
        off: Annotated[bool, typer.Option("--off", help="Back into its file, as it was.")] = False,
    ) -> None:
        """Put the archive's key under a passphrase.

        It is TIERKEEPER_PASSPHRASE, or asked for; from then on every command that reads or writes the archive needs it, too. The
        recovery key and kits stay as they are: put them away. The keyring needs the extra: pip install 'tierkeeper[keyring]'.
        """
        if keyring and off:
            raise UsageError("--keyring", "it cannot be given with --off", "Give one of them")
        with session.keeper() as keeper:
            session.show(keeper.keys_protect("plain" if off else "keyring" if keyring else "passphrase"))
