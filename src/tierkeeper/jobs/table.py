"""The jobs of the schedule: one line each. When each is due says `[schedule]`, whose keys are their names."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tierkeeper.jobs.model import Job
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.limits import SCRUB_TURNS
from tierkeeper.kernel.results import DrillResult

if TYPE_CHECKING:
    from tierkeeper.compose import Keeper

SCRUB_SAMPLE: Final = f"1/{SCRUB_TURNS}"  # a day: what was read longest ago first, so that all is read in a month
DRILL_SAMPLE: Final = "1/12"  # a month: with the next kit in hand all is restored in a year
_MOVES: Final = "moves"  # both take rows from Main to the archive: one would find the other's lease


def _drill(keeper: "Keeper") -> DrillResult:
    try:
        return keeper.archive_drill(sample=DRILL_SAMPLE)
    except UsageError as error:  # as it should be, where the recovery key was put away
        remedy = 'Drill by hand with `tierkeeper archive drill --kit FILE`, and write drill = "off" under [schedule]'
        raise UsageError(error.place, error.cause, remedy) from error


JOBS: Final[Sequence[Job]] = (
    Job("usage", lambda keeper: keeper.record_usage(), watches=True),
    Job("alerts", lambda keeper: keeper.alerts(), watches=True),
    Job("keep_awake", lambda keeper: keeper.keep_awake(), watches=True),
    Job("pressure", lambda keeper: keeper.quota_if_pressed(), lock=_MOVES),
    Job("quota", lambda keeper: keeper.quota(), lock=_MOVES),
    Job("archive", lambda keeper: keeper.archive_run(), lock=_MOVES),
    Job("scrub", lambda keeper: keeper.archive_verify(sample=SCRUB_SAMPLE), again=False),
    Job("checkpoint", lambda keeper: keeper.archive_checkpoint()),
    Job("drill", _drill, again=False),
)
