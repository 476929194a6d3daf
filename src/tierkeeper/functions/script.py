"""A root module run as a program: its handler with an event, and its answer as one JSON document."""

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

from tierkeeper.kernel.errors import Exit, NotNow, TierkeeperError


def as_script(
    handler: Callable[[object, object], dict[str, Any]], event: object = None, context: SimpleNamespace | None = None
) -> NoReturn:
    """Runs `handler(event, context)`; without an event, its real job. The first Ctrl-C or SIGTERM asks it to end at the next safe
    point, the second ends it at once.

    Raises SystemExit with 0, or with the exit code of its error, which is printed to stderr.
    """
    from tierkeeper.cli import output
    from tierkeeper.cli.stop import StopFlag

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 is still told
    stop = StopFlag()
    context = context or SimpleNamespace()
    context.stop = stop
    try:
        with stop.listening():
            answer = handler({} if event is None else event, context)
    except TierkeeperError as error:
        output.show_error(error, as_json=False, debug=False)
        if done := getattr(error, "done", None):
            sys.stderr.write(f"\nDone all the same: {done}\n")
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        told = NotNow("function", "it was told to end at once", "Run it again: it settles what was in flight and goes on there")
        output.show_error(told, as_json=False, debug=False)
        raise SystemExit(told.exit_code) from None
    sys.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()
    raise SystemExit(Exit.DONE)
