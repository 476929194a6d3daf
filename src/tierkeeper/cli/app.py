"""The program: its commands, and the one place where an error becomes a message and an exit code."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Final, NoReturn

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from tierkeeper.cli import alert, archive, balance, configuration, demo, homeserver, jobs, keys, move, output, query, tiers, usage
from tierkeeper.cli.session import ConfigOption, DebugOption, JsonOption, VerboseOption
from tierkeeper.cli.stop import handled, interrupt
from tierkeeper.kernel.errors import Exit, NotNow, TierkeeperError, UsageError

app = typer.Typer(
    name="tierkeeper",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
_HELP: Final = "NoArgsIsHelpError"  # typer's, for a group that was called without a command

for room in (demo, configuration, tiers, move, archive, keys, query, homeserver, usage, alert, balance, jobs):
    room.register(app)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        output.write(f"tierkeeper {version('tierkeeper')}\n")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and end.")
    ] = False,
) -> None:
    """Keeps a small hosted Postgres inside its quota without losing a row.

    Hot rows live in Core, history in Main, the rest in an encrypted Archive. Every command takes --json.
    Exit codes: 0 done, 1 failed or found wrong, 2 usage or configuration, 75 not now (try again).
    """
    del version
    context.obj = {"config": config, "as_json": as_json, "verbose": verbose, "debug": debug}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script. Raises SystemExit with one of `kernel.errors.Exit`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 still shows every error
    raise SystemExit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; every error is printed here and nowhere else."""
    options = argv[: argv.index("--")] if "--" in argv else argv
    as_json = "--json" in options
    debug = "--debug" in options or os.environ.get("TIERKEEPER_DEBUG", "") not in ("", "0")
    try:
        with handled(interrupt):
            code = get_command(app).main(args=list(argv), prog_name="tierkeeper", standalone_mode=False)
        return int(code or 0)
    except TyperException as error:
        if type(error).__name__ == _HELP and not as_json:
            sys.stderr.write(error.format_message() + "\n")
            return Exit.USAGE
        return _show(_usage(error), as_json=as_json, debug=debug)
    except TierkeeperError as error:
        return _show(error, as_json=as_json, debug=debug)
    except (KeyboardInterrupt, typer.Abort):
        return _show(NotNow("tierkeeper", "it was told to end", "Run it again"), as_json=as_json, debug=debug)
    except Exception as error:  # noqa: BLE001 - the last door: whatever it is, the user gets a sentence and not a traceback
        if debug:
            output.show_trace(error)
        return _show(output.unexpected(error), as_json=as_json, debug=False)


def _show(error: TierkeeperError, *, as_json: bool, debug: bool) -> Exit:
    output.show_error(error, as_json=as_json, debug=debug)
    return error.exit_code


def _usage(error: TyperException) -> UsageError:
    """An argument that typer refused, in our words."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "tierkeeper"
    if type(error).__name__ == _HELP:
        return UsageError(path, "a command is missing", f"Run '{path} --help' to see them")
    parameter = getattr(error, "param", None)
    place = f"{path} {parameter.get_error_hint().strip(chr(39))}" if parameter is not None else path
    message = getattr(error, "message", "") if parameter is not None else error.format_message()
    if parameter is not None and not message:
        message = f"this {parameter.param_type_name} is missing"
    cause = message.strip().rstrip(".").removeprefix("value error, ")
    return UsageError(place, cause[:1].lower() + cause[1:], f"Run '{path} --help' to see what it takes")
