"""What a result means to whoever started the run: a shell by its exit code, a schedule by whether it failed."""

from collections.abc import Iterable

from tierkeeper.kernel.errors import Exit
from tierkeeper.kernel.results.base import Result
from tierkeeper.kernel.results.moving import Left, MoveResult
from tierkeeper.kernel.stop import STOPPED


def left_over(moves: Iterable[MoveResult], missed: Iterable[Left] = ()) -> list[Left]:
    """What a run leaves to the next one: of each table and hop as the last of `moves` left it, then those that it `missed`.

    What lies beyond a number of rows that was asked for was not to move.
    """
    last = {(move.table, move.from_, move.to): move for move in moves if move.stopped_because != "row limit"}
    found = [Left(table=m.table, from_=m.from_, to=m.to, rows=m.rows_left) for m in last.values() if m.rows_left]
    return [*found, *missed]


def exit_code(result: Result) -> Exit:
    """Found wrong is a failure; asked to stop, or only not possible now, means try again; a limit that was kept to is none."""
    fields = result.__dict__
    moves = [result, *fields.get("runs", ()), *fields.get("moves", ())]
    if any(getattr(move, "stopped_because", None) == STOPPED for move in moves):
        return Exit.NOT_NOW
    faults = fields.get("errors") or ()
    wrong = fields.get("ok") is False or not all(e.not_now for e in faults) or fields.get("lost") or fields.get("doubled")
    unlike = any(fields.get(key) is False for key in ("verified", "restore_matches", "query_matches"))
    return Exit.FAILED if wrong or unlike else Exit.NOT_NOW if faults else Exit.DONE
