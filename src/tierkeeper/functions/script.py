"""A root module run as a program: its handler with an empty event, and its answer as one JSON document."""

import json
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from tierkeeper.kernel.errors import Exit, TierkeeperError


def as_script(handler: Callable[[object, object], dict[str, Any]]) -> NoReturn:
    """Runs `handler({}, None)`. Raises SystemExit with 0, or with the exit code of its error, which is printed to stderr."""
    from tierkeeper.cli import output

    try:
        answer = handler({}, None)
    except TierkeeperError as error:
        from tierkeeper.cli import output

        output.show_error(error, as_json=False, debug=False)
        if done := getattr(error, "done", None):
            sys.stderr.write(f"\nDone all the same: {done}\n")
        raise SystemExit(error.exit_code) from None
    sys.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()
    raise SystemExit(Exit.DONE)
