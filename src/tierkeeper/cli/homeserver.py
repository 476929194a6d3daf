"""`tierkeeper homeserver` and `tierkeeper token`: the machine with the disk."""

import os
import socket
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tierkeeper.cli.session import Session, command
from tierkeeper.config import load_home_server, split_address
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.limits import TOKEN_DAYS
from tierkeeper.kernel.results import NewTokenResult, SetupStep, TokenResult
from tierkeeper.kernel.units import Age, parse_bytes
from tierkeeper.security.audit import actor

if TYPE_CHECKING:
    from tierkeeper.homeserver.serve import Served
    from tierkeeper.homeserver.state import State
    from tierkeeper.homeserver.tokens import Token


def register(app: typer.Typer) -> None:
    """Adds the command and the group."""

    @command(app, "homeserver")
    def homeserver(session: Session) -> None:
        """Serve the archive's files over HTTPS, until Ctrl-C or SIGTERM.

        Serves ARCHIVE_PATH, on the machine with the disk, which needs no other configuration. It makes its certificates, reads
        all that it keeps once in 30 days, and never sees a key. Needs the extra: pip install 'tierkeeper[homeserver]'.
        """
        served = _served(session)
        from tierkeeper.homeserver.serve import serve

        with session.stop.listening():
            serve(served, SystemClock(), session.stop, session.show)

    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Who may use the home server; run where its disk is.")
    app.add_typer(group, name="token")
    _tokens(group)


def _tokens(group: typer.Typer) -> None:
    @command(group, "create")
    def create(
        session: Session,
        name: Annotated[str, typer.Argument(metavar="NAME", help="Your name for it, such as that of the machine.")],
        *,
        role: Annotated[str, typer.Option(help="reader, verifier (may have objects read anew), writer, admin.")] = "writer",
        expires: Annotated[str, typer.Option(metavar="AGE", help="How long it lives.")] = f"{TOKEN_DAYS} days",
        quota: Annotated[str | None, typer.Option(metavar="SIZE", help="How much it may put, such as 100GB.")] = None,
    ) -> None:
        """Make a token. It is shown once and kept nowhere.

        Prints the two variables that a client needs, HOME_SERVER_URL and HOME_SERVER_TOKEN.
        """
        from tierkeeper.homeserver import tokens

        chosen = next((r for r in tokens.ROLES if r == role), None)
        if chosen is None:
            raise UsageError("--role", f"{role[:80]!r} is no role", f"Write one of {', '.join(tokens.ROLES)}")
        if not name.strip() or len(name) > _NAME_MAX:
            raise UsageError("NAME", "this is no name", f"Write one of at most {_NAME_MAX} characters")
        span = Age.parse(expires, "--expires")
        if span.seconds <= 0:
            raise UsageError("--expires", "a token that lives for no time opens nothing", 'Write a time such as "90 days"')
        now = SystemClock().now()
        token, text = tokens.mint(name, chosen, now, now + timedelta(seconds=span.seconds), _bytes(quota))
        served = _served(session)
        with closing(_state(served)) as state:
            with state.action(actor(), "token create", name, role=chosen, id=token.id):
                state.add_token(token)
            known = _token(token, state)
        enrolment = served.identity.enrolment(served.port) if served.identity.exists() else None
        session.show(NewTokenResult(**known.model_dump(), token=text, enrolment=enrolment))

    @command(group, "list")
    def list_(session: Session) -> None:
        """Show every token that was made, and never its secret."""
        with closing(_state(_served(session))) as state:
            session.show([_token(token, state) for token in state.tokens()])

    @command(group, "revoke")
    def revoke(
        session: Session, token: Annotated[str, typer.Argument(metavar="ID", help="Its id or its name, as token list shows it.")]
    ) -> None:
        """End a token, at once; what it put stays."""
        with closing(_state(_served(session))) as state:
            known = next((t for t in state.tokens() if token in (t.id, t.name)), None)
            if known is None:
                raise UsageError("ID", f"there is no token {token[:80]!r}", "Look at `tierkeeper token list`")
            with state.action(actor(), "token revoke", known.name, id=known.id):
                state.revoke(known.id)
            (revoked,) = state.tokens(known.id)
            session.show(_token(revoked, state))


_NAME_MAX = 100


def certificates(session: Session, *, apply: bool) -> list[SetupStep]:
    """What `setup` does for the server whose folder [homeserver] path names: its certificates, if they are missing."""
    if session.settings().homeserver.path is None:
        return []
    served = _served(session)
    if served.identity.exists():
        return []
    if not served.root.is_dir():
        raise UsageError(f"homeserver.path ({served.root})", "there is no such folder", "Mount its disk, or make the folder")
    if apply:
        served.identity.ensure(SystemClock().now())
    return [SetupStep(tier="homeserver", action=f"make the server's certificate authority for {', '.join(served.names)}")]


def _served(session: Session) -> "Served":
    settings = load_home_server(session.config, os.environ, Path.cwd())
    try:
        from tierkeeper.homeserver.serve import Served
    except ImportError as error:
        remedy = "Run: pip install 'tierkeeper[homeserver]'"
        raise UsageError("homeserver", f"the library {error.name} is not installed", remedy) from None
    host, port = split_address(settings.listen) or ("", 0)
    return Served(Path(settings.path or ""), host, port, settings.names or _own_names(host), settings.scrub_days)


def _own_names(host: str) -> tuple[str, ...]:
    """What clients call this machine, where nobody has said it."""
    if host == "localhost" or host.startswith("127."):
        return ("127.0.0.1", "localhost")
    name = socket.gethostname()
    names = (name,) if "." in name else (name, f"{name}.local")
    given = (host,) if host not in ("0.0.0.0", "::") else ()  # noqa: S104 - that is no name
    return (*given, *names, "localhost", "127.0.0.1")


def _state(served: "Served") -> "State":
    """The server's memory; the server may run meanwhile."""
    from tierkeeper.homeserver.state import State
    from tierkeeper.homeserver.vault import FOLDER

    if not served.root.is_dir():
        cause = "there is no such folder"
        raise UsageError(f"ARCHIVE_PATH ({served.root})", cause, "Run this on the machine with the disk, and mount it first")
    return State(served.root / FOLDER / "state.sqlite", SystemClock())


def _token(token: "Token", state: "State") -> TokenResult:
    ended = "revoked" if token.revoked_at is not None else "expired"
    return TokenResult(
        id=token.id,
        name=token.name,
        role=token.role,
        state="live" if token.is_live(SystemClock().now()) else ended,
        created_at=token.created_at,
        expires_at=token.expires_at,
        quota_bytes=token.quota_bytes,
        used_bytes=state.used_bytes(token.id),
    )


def _bytes(text: str | None) -> int | None:
    return None if text is None else parse_bytes(text, "--quota")
