"""Runs one job, tells how it ended, and says what becomes of it. It knows neither the schedule nor the queue."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from tierkeeper.jobs import plan
from tierkeeper.jobs.model import PART, Again, GivenUp, Job, Timing
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Exit, Failed, PassedOver, TierkeeperError
from tierkeeper.kernel.log import Log
from tierkeeper.kernel.ports import Stop
from tierkeeper.kernel.results import ErrorResult, FaultResult, Result, RunEvent, told

if TYPE_CHECKING:
    from tierkeeper.compose import Keeper

_log = Log()
_STOPPED: Final = "it was told to end, and goes on where it is run again"

Tell = Callable[[RunEvent], None]
"""Says what happened, from any thread."""
Ended = Callable[[str, str | None], None]
"""Writes down of a job that it has gone well, or the cause why not. Raises NotNow where that cannot be done."""


class Performer:
    """Each job gets a keeper of its own. An error of one is told and stays with it."""

    def __init__(
        self, make_keeper: "Callable[[], Keeper]", tell: Tell, ended: Ended, *, stop: Stop, clock: Clock, timing: Timing
    ) -> None:
        self._make_keeper = make_keeper
        self._tell = tell
        self._ended = ended
        self._stop = stop
        self._clock = clock
        self._timing = timing
        self.codes: set[Exit] = set()  # of what has run, for the exit code
        self.interrupted = False

    def perform(self, job: Job, due_at: datetime | None, attempts: int) -> None:
        """Raises Again where it is to be tried once more, GivenUp where it failed for good; both were told."""
        self._perform(job.name, "job", job.run, due_at, attempts, may_retry=job.again, is_noted=not job.watches)

    def part(self, document: Mapping[str, Any]) -> None:
        """A part of another process's move. It is never tried again as it is: that one's leader cuts anew what is left."""
        self._perform(PART, "part", lambda keeper: keeper.move_part(document), None, 0, may_retry=False, is_noted=False)

    def _perform(
        self,
        name: str,
        event: str,
        run: "Callable[[Keeper], Result | None]",
        due_at: datetime | None,
        attempts: int,
        *,
        may_retry: bool,
        is_noted: bool,
    ) -> None:
        began, document, code, error, passed_over = self._clock.monotonic(), dict[str, Any](), Exit.DONE, None, ""
        try:
            result = run(self._make_keeper())
            document = result.model_dump(mode="json") if result is not None else {}
            code = plan.meaning(document)
            error = _first(document) if code is not Exit.DONE else None
        except PassedOver as passed:
            passed_over = f"{passed.cause}. {passed.remedy}"
        except TierkeeperError as failed:
            code, error = failed.exit_code, told([failed])[0]
        except Exception as failed:  # noqa: BLE001 - whatever it is, it is this job's, and the others go on
            _log.exception("a job failed unexpectedly", job=name)
            code, error = Exit.FAILED, told([_unexpected(name, failed)])[0]
        wanted = code is not Exit.DONE and may_retry
        again = plan.again_seconds(code, attempts, self._timing, partly=bool(document)) if wanted else None
        reason = self._stop()
        if reason is not None and (code is Exit.NOT_NOW or plan.was_stopped(document, reason)):
            self.interrupted = True
            code, again, error = Exit.NOT_NOW, 0.0, ErrorResult(place=name, cause="stopped", remedy=_STOPPED)
        elif is_noted:
            self._note(name, code, error)
        now = self._clock.now()
        self.codes.add(code)
        self._tell(
            RunEvent(
                at=now,
                event=event,
                told=passed_over,
                job=name,
                due_at=due_at,
                attempt=attempts + 1,
                seconds=round(self._clock.monotonic() - began, 3),
                ok=None if passed_over else code is Exit.DONE,
                error=error,
                again_at=None if again is None else now + timedelta(seconds=again),
                result=document or None,
            )
        )
        if again is not None:
            raise Again(again)
        if code is not Exit.DONE:
            raise GivenUp(name)

    def _note(self, name: str, code: Exit, error: ErrorResult | None) -> None:
        cause = None if code is Exit.DONE else "it found something wrong" if error is None else f"{error.place}: {error.cause}"
        try:
            self._ended(name, cause)
        except TierkeeperError as away:
            _log.warning("how a job ended is not written down", job=name, cause=away.cause)


def _first(document: Mapping[str, Any]) -> ErrorResult | None:
    """The gravest of the errors that a result has; None where it says otherwise what is wrong."""
    faults = sorted((FaultResult(**one) for one in document.get("errors") or ()), key=lambda fault: fault.not_now)
    return next(iter(faults), None)


def _unexpected(name: str, error: Exception) -> TierkeeperError:
    cause = f"an unexpected {type(error).__name__}: this is a fault of tierkeeper"
    return Failed(name, cause, "Run the job's own command with --debug and report what it prints; the other jobs go on")
