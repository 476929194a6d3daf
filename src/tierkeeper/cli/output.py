"""Where output goes: results to stdout, everything else to stderr; with `--json` one document and nothing else there."""

import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from tierkeeper.cli.values import visible
from tierkeeper.config import redact
from tierkeeper.kernel.errors import Faults, TierkeeperError
from tierkeeper.kernel.results import CertificateResult, ErrorDocument, ErrorResult, Result, UntrustedResult

if TYPE_CHECKING:
    from rich.console import Console  # what draws tables is loaded for those alone who want to see some

    from tierkeeper.postgres.certificates import Shown

_PIPE_COLUMNS: Final = 200  # a pipe has no width: wide enough that no cell is cut


def console(*, stderr: bool = False) -> "Console":
    """A console on the present stdout or stderr."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_COLUMNS
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def show(result: Result | Sequence[Result], *, as_json: bool) -> None:
    """Prints a result: a document, or what a person wants to see of it."""
    if as_json:
        if isinstance(result, Result):
            write(result.model_dump_json(indent=2) + "\n")
        else:
            write(json.dumps([r.model_dump(mode="json") for r in result], indent=2, ensure_ascii=False) + "\n")
        return
    from tierkeeper.cli.render_rows import render

    out = console()
    for part in render(result):
        out.print(part)


def line(result: Result, *, as_json: bool) -> None:
    """Prints one result of a stream, from any thread. Whoever reads it may go, and what tells it goes on."""
    try:
        if as_json:
            write(result.model_dump_json() + "\n")
        else:
            show(result, as_json=False)
            sys.stdout.flush()
    except (SystemExit, BrokenPipeError):  # rich takes a reader who has gone for the end of the program
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except OSError:
        pass  # the disk that takes them is full


def write(text: str) -> None:
    """Writes to stdout as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()


def document(error: TierkeeperError) -> ErrorDocument:
    """The error as `--json` prints it: one object, or a list where several faults were found."""
    if isinstance(error, Faults) and len(error.errors) > 1:
        return ErrorDocument(error=[_result(e) for e in error.errors])
    return ErrorDocument(error=_result(error))


def show_error(error: TierkeeperError, *, as_json: bool, debug: bool) -> None:
    """Prints an error: place, cause and remedy."""
    if debug:
        show_trace(error)
    told = document(error)
    if as_json:
        write(told.model_dump_json(indent=2) + "\n")
        return
    from rich.text import Text

    err = console(stderr=True)
    for number, one in enumerate(told.error if isinstance(told.error, list) else [told.error]):
        if number:
            err.print()
        # Left to the terminal to wrap: a place or a remedy that is cut by spaces cannot be copied.
        err.print(Text.assemble(("error   ", "bold red"), (visible(one.place), "bold")), soft_wrap=True)
        err.print(Text.assemble(("cause   ", "dim"), visible(one.cause)), soft_wrap=True)
        err.print(Text.assemble(("remedy  ", "dim"), (visible(one.remedy), "green")), soft_wrap=True)
        if isinstance(one, UntrustedResult):
            from tierkeeper.cli.trusting import shown

            for text in shown(one.chain):
                err.print(text, soft_wrap=True)


def show_trace(error: BaseException, variables: Mapping[str, str] | None = None) -> None:
    """The traceback on stderr, without the secrets of `variables`; by default the environment's."""
    text = "".join(traceback.format_exception(error))
    sys.stderr.write(redact(text, os.environ if variables is None else variables))


def unexpected(error: Exception) -> TierkeeperError:
    """A fault of tierkeeper itself, told in one line: its message may quote anything, so only its type is shown."""
    return TierkeeperError(
        "tierkeeper",
        f"an unexpected {type(error).__name__}: this is a fault of tierkeeper",
        "Run it again with --debug and report the command and what it prints; what was in flight is settled by the next run",
    )


def certificate(one: "Shown") -> CertificateResult:
    """As `--json` prints it."""
    return CertificateResult(subject=one.subject, issuer=one.issuer, valid_until=one.until, sha256=one.sha256)


def _result(error: TierkeeperError) -> ErrorResult | UntrustedResult:
    from tierkeeper.postgres.trust import Untrusted

    cause = redact(error.cause, os.environ)
    if not isinstance(error, Untrusted):
        return ErrorResult(place=error.place, cause=cause, remedy=error.remedy)
    return UntrustedResult(
        place=error.place,
        cause=cause,
        remedy=error.remedy,
        tier=error.link.tier,
        host=error.link.host,
        chain=[certificate(c) for c in error.chain],
        authority=None if error.authority is None else error.authority.sha256,
        pinned=None if error.pinned is None else error.pinned.sha256,
    )
