"""`tierkeeper balance`: traffic over healthy backends."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tierkeeper.cli.session import Session, command
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.errors import Failed, Faults, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.results import BalanceStatusResult, DrainResult, ReloadResult

if TYPE_CHECKING:
    from tierkeeper.balance.brain import Brain
    from tierkeeper.balance.kept import Kept
    from tierkeeper.compose.balancer import Audited
    from tierkeeper.compose.balancing import Source

_ServiceName = Annotated[str, typer.Argument(metavar="SERVICE", help="As [[balance.services]] names it.")]
_BackendName = Annotated[str, typer.Argument(metavar="BACKEND", help="host:port, as `balance status` shows it.")]
_SECONDS: Final = 30.0  # for the brain's answer: an audit on a slow Main, then one turn
_ERRORS: Final = {400: UsageError, 503: NotNow}


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, help="Traffic over healthy backends, by [[balance.services]]."
    )
    app.add_typer(group, name="balance")

    @command(group, "serve")
    def serve(session: Session) -> None:
        """Balance traffic, until Ctrl-C or SIGTERM.

        Tells line by line what becomes of the backends. SIGHUP reads the configuration anew, without a lost request; a wrong one
        changes nothing. If this process dies, traffic goes on as it was, and the next start takes it over. `tierkeeper run` does
        the same beside its schedule. Needs the extra: pip install 'tierkeeper[balance]'.
        """
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to read anew: its default is to end us
        from tierkeeper.compose.balancer import serve as balance

        with session.stop.listening():
            balance(source(session), stop=session.stop, tell=session.line, interface=interface, on_reload=on_hangup)

    @command(group, "status")
    def status(session: Session) -> None:
        """Show each backend: its state, why, since when, its share.

        Where no brain runs it shows how all stood last.
        """
        session.show(_status(source(session)))

    @command(group, "check")
    def check(session: Session) -> None:
        """Ask every backend once, and look at the files of certificates.

        Needs no running balancer. Without [[balance.services]] it asks the tiers and the store. Exit 1 if one is not well.
        """
        from tierkeeper.compose.balancing import check as look

        session.show(look(source(session), SystemClock()))

    @command(group, "drain")
    def drain(session: Session, service: _ServiceName, backend: _BackendName) -> None:
        """Send nothing new to a backend; what it has begun it may end.

        Holds until `undrain`, whatever is restarted.
        """
        session.show(_drained(session, "drain", service, backend))

    @command(group, "undrain")
    def undrain(session: Session, service: _ServiceName, backend: _BackendName) -> None:
        """Send traffic to a drained backend again."""
        session.show(_drained(session, "undrain", service, backend))


def source(session: Session) -> "Source":
    """Where the balancer's configuration is read from."""
    from tierkeeper.compose.balancing import Source

    return Source(session.config, os.environ, Path.cwd())


def interface(
    brain: "Brain", audited: "Audited", asides: Callable[[], list[str]], path: Path, metrics: tuple[str, int] | None
) -> AbstractContextManager[Callable[[], ReloadResult]]:
    """What a running balancer may be asked through. Its libraries are an extra: they load when it begins, not before."""
    from tierkeeper.web import control

    return control.interface(brain, audited, asides, path, metrics)


@contextmanager
def on_hangup(call: Callable[[], None]) -> Iterator[None]:
    """SIGHUP calls `call` inside the block; outside a program's main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hung_up(number: int, frame: FrameType | None) -> None:
        del number, frame
        call()

    before = signal.signal(signal.SIGHUP, hung_up)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _status(where: "Source") -> BalanceStatusResult:
    kept = where.kept()
    document = _asked(kept, "GET", "/status")
    if document is not None:
        return BalanceStatusResult.model_validate(document)
    left = kept.status()
    if left is None:
        from tierkeeper.compose.balancing import nothing

        if not where.read()[0].services:
            raise nothing()
        return BalanceStatusResult(running=False, notes=["nothing serves: start it with `tierkeeper balance serve`"])
    try:
        last = BalanceStatusResult.model_validate(left)
    except ValueError:
        return BalanceStatusResult(
            running=False, notes=[f"the brain is not running, and {kept.folder / 'status.json'} cannot be read"]
        )
    goes_on = last.running and _runs(last.plane.get("process"))
    note = "the brain is not running; traffic goes on as it was" if goes_on else "nothing serves; this is how all stood last"
    return last.model_copy(update={"running": False, "notes": [note, *last.notes]})


def _runs(process: object) -> bool:
    """Whether the data plane's process is there."""
    return isinstance(process, int) and Path(f"/proc/{process}").exists()


def _drained(session: Session, what: str, service: str, backend: str) -> DrainResult:
    from tierkeeper.balance.brain import known_backend
    from tierkeeper.balance.pools import names
    from tierkeeper.compose.balancing import services

    where = source(session)
    kept = where.kept()
    document = _asked(kept, "POST", f"/{what}", {"service": service, "backend": backend})
    if document is None:
        known_backend(names(services(where.read()[0])), service, backend)
        remedy = "Start it first: tierkeeper balance serve"
        raise NotNow("tierkeeper balance", "the brain is not running, and nobody else changes what is served", remedy)
    return DrainResult.model_validate(document)


def _asked(kept: "Kept", method: str, path: str, body: Any = None) -> dict[str, Any] | None:
    """The running brain's answer; None where none runs. Raises what it answers where that is an error."""
    import httpx

    from tierkeeper.balance.sockets import near

    try:
        if not kept.socket.exists():
            return None
    except PermissionError:
        remedy = "Run it as the user whose balancer that is"
        raise UsageError(f"the state folder {kept.folder}", "it belongs to another user", remedy) from None
    try:
        with near(kept.socket) as name, httpx.Client(transport=httpx.HTTPTransport(uds=name), timeout=_SECONDS) as client:
            answer = client.request(method, f"http://balance{path}", json=body)
            document = answer.json()
    except httpx.ConnectError:
        return None  # the socket of one that was killed
    except (httpx.HTTPError, ValueError) as error:
        raise NotNow("tierkeeper balance", f"the brain does not answer ({type(error).__name__})", "Try again") from None
    if answer.is_success:
        return dict(document)
    told = document["error"]
    kind = _ERRORS.get(answer.status_code, Failed)
    errors: list[TierkeeperError] = [kind(**one) for one in (told if isinstance(told, list) else [told])]
    raise errors[0] if len(errors) == 1 else Faults(errors)
