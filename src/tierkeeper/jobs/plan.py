"""What is due, and what becomes of a job that failed: pure decisions."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from tierkeeper.jobs.model import Timing
from tierkeeper.kernel import cron
from tierkeeper.kernel.errors import Exit

TRIES: Final = 5  # of a job that fails by itself: a weekly one is not to fail all the week
AHEAD: Final = timedelta(hours=1)  # by which two machines' clocks may differ; a job that runs twice for it does no harm
DEATHS: Final = 10  # of workers under one job: whatever kills them is in the job


@dataclass(frozen=True)
class Due:
    """A job's newest due time that nobody has handled. Earlier ones that were missed are part of it: it is run once."""

    job: str
    at: datetime


def due(crons: Mapping[str, str], handled: Mapping[str, datetime], now: datetime) -> list[Due]:
    """What is to be run now. `handled` are the due times that were handled last; a job without one is due at once.

    For each due time at most one run, for several that passed unseen one for all of them, and none is forgotten: of two looks
    with the same memory both find the same due time. A time that lies ahead by more than clocks differ was handled by one that
    was wrong: it does not count, or the job would rest until then.
    """
    found = [Due(job, cron.newest(text, now)) for job, text in crons.items()]
    known = {job: at for job, at in handled.items() if at <= now + AHEAD}
    return [one for one in found if one.job not in known or one.at > known[one.job]]


def again_seconds(code: Exit, attempts: int, timing: Timing, *, partly: bool = False) -> float | None:
    """How long to wait before a failed job is tried again; None where that would change nothing. `attempts` were before this one.

    What is only not possible now is tried for as long as it takes; the job's next due time is then served by the same row. But a
    run that was done `partly` takes its share of the tables each time: it is tried no oftener than one that fails.
    """
    if code is Exit.USAGE or ((code is Exit.FAILED or partly) and attempts + 1 >= TRIES):
        return None
    return min(timing.again * 2.0 ** min(attempts, 20), timing.again_most)


def back_off_seconds(failures: int, timing: Timing) -> float:
    """How long to leave Main alone after so many failures in a row."""
    return min(timing.back_off * 2.0 ** min(failures - 1, 20), timing.back_off_most)


def meaning(result: Mapping[str, Any]) -> Exit:
    """What a job's result says: that something failed or was found wrong, or only that something was not possible now."""
    faults = [one for each in (result, *_runs(result)) for one in each.get("errors") or ()]
    wrong = any(each.get("ok") is False for each in (result, *_runs(result)))
    if wrong or not all(one.get("not_now") for one in faults):
        return Exit.FAILED
    return Exit.NOT_NOW if faults else Exit.DONE


def was_stopped(result: Mapping[str, Any], reason: str) -> bool:
    """Whether a job ended before it was through because it was asked to, with `reason`."""
    return result.get("stopped_because") == reason or any(was_stopped(one, reason) for one in _runs(result))


def _runs(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for key in ("runs", "moves") for one in result.get(key) or () if isinstance(one, Mapping)]
