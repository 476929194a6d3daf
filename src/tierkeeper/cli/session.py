"""One run of one command: its settings, its keeper, its signals. Every command gets a `Session` and the same four options."""

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from tierkeeper.cli import arguments, logs, output
from tierkeeper.cli.progress import TerminalProgress
from tierkeeper.cli.stop import StopFlag
from tierkeeper.config import Settings, folder, load
from tierkeeper.kernel.errors import Exit, NotNow, UsageError
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.results import Result
from tierkeeper.kernel.results.meaning import exit_code
from tierkeeper.postgres.lending import expecting

if TYPE_CHECKING:
    from tierkeeper.compose import Keeper

P = ParamSpec("P")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The configuration; else TIERKEEPER_CONFIG, else ./tierkeeper.toml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Log what is done, to stderr.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; also TIERKEEPER_DEBUG=1.")]

MaxTimeOption = Annotated[
    str | None,
    typer.Option(
        "--max-time",
        metavar="TIME",
        help='End at the next safe point after this time, such as "20 minutes"; another run goes on.',
    ),
]

COMMON = ("config", "as_json", "verbose", "debug")


@dataclass
class Session:
    """What a command works with. It opens nothing until it is asked to."""

    config: Path | None
    as_json: bool
    code: Exit = Exit.DONE
    stop: StopFlag = field(default_factory=StopFlag)
    progress: TerminalProgress = field(default_factory=lambda: TerminalProgress(functools.partial(output.console, stderr=True)))

    def settings(self) -> Settings:
        """The configuration. Raises Faults."""
        return load(self.config, os.environ, Path.cwd())

    @contextmanager
    def keeper(
        self, *, stoppable: bool = False, max_time: str | None = None, soon: Sequence[tuple[Tier, str]] = ()
    ) -> Iterator["Keeper"]:
        """The keeper of the configured tiers. With `stoppable` the first Ctrl-C or `max_time` asks it to end at a safe point.

        `soon`: the connections that it will dial first, by tier and purpose; they are begun while it loads.
        """
        seconds = arguments.seconds(max_time, "--max-time")
        settings = self.settings()
        if seconds is not None:
            self.stop.end_after(seconds)
        with expecting(_addresses(settings, soon)):
            from tierkeeper import compose

            listening: AbstractContextManager[None] = self.stop.listening() if stoppable else nullcontext()
            with listening, self.progress, compose.open_keeper(settings, progress=self.progress, stop=self.stop) as keeper:
                yield keeper

    def line(self, result: Result) -> None:
        """Prints one of many results of a command that goes on: a line of JSON, or what a person wants to see of it."""
        output.line(result, as_json=self.as_json)

    def show(self, result: Result | Sequence[Result]) -> None:
        """Prints a result and remembers what it means for the exit code."""
        self.progress.clear()
        output.show(result, as_json=self.as_json)
        if isinstance(result, Result):
            self.code = exit_code(result)


def _addresses(settings: Settings, soon: Sequence[tuple[Tier, str]]) -> list[str]:
    """What can be dialled already; what is wrong with the others is told by whoever wants them."""
    with suppress(UsageError):
        links = settings.links(folder.pins(settings.environment(os.environ))) if soon else {}
        return [links[tier].address(purpose) for tier, purpose in soon]
    return []


def command(app: typer.Typer, name: str) -> Callable[[Callable[Concatenate[Session, P], None]], Callable[..., None]]:
    """Registers a command: its first parameter is the session, the others are its own; the common options are added."""

    def register(run: Callable[Concatenate[Session, P], None]) -> Callable[..., None]:
        @functools.wraps(run)
        def wrapped(context: typer.Context, **given: Any) -> None:
            before = context.obj or {}
            config, as_json, verbose, _ = (given.pop(key) or before.get(key) for key in COMMON)
            logs.configure(verbose=bool(verbose))
            session = Session(config, bool(as_json))
            try:
                run(session, **given)  # type: ignore[call-arg]  # typer has checked them against the signature below
            except KeyboardInterrupt:
                raise NotNow(
                    context.command_path, "it was told to end at once", "Run it again; it settles what was in flight"
                ) from None
            raise typer.Exit(session.code)

        own = list(inspect.signature(run, eval_str=True).parameters.values())[1:]
        common = inspect.signature(_common, eval_str=True).parameters.values()
        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        parameters = [context, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *common))]
        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name)(wrapped)
        return wrapped

    return register


def _common(
    config: ConfigOption = None, as_json: JsonOption = False, verbose: VerboseOption = False, debug: DebugOption = False
) -> None:
    """The options of every command, as a signature."""
