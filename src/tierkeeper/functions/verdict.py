"""Whether a function's result is a success, and what is raised where it is none. Pure.

A schedule knows no exit codes: what would be one from the command line is an error here, whose text is all that its reader has.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tierkeeper.config import redact
from tierkeeper.functions.events import KEYS
from tierkeeper.kernel.errors import Exit, Failed, Faults, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.results import (
    ArchiveRunResult,
    FaultResult,
    HealthResult,
    MoveResult,
    QuotaResult,
    Result,
    SetupResult,
    VerifyResult,
)
from tierkeeper.kernel.results.meaning import exit_code
from tierkeeper.kernel.stop import STOPPED, TIME_LIMIT

_PLAIN: Final = (UsageError, NotNow, Failed, TierkeeperError)
_OPTION: Final = re.compile(r"--([a-z][a-z-]*)")
_KEY: Final = re.compile(f"--({'|'.join(key.replace('_', '-') for key in KEYS)})(?![a-z-])")
_LONGER: Final = "Give the function a longer timeout, a minute or more; what is in flight is gone on with"


class RunFaults(Faults):
    """The faults that a run's result tells of, and what was `done` all the same."""

    def __init__(self, errors: Sequence[TierkeeperError], done: str) -> None:
        super().__init__(errors)
        self.done = done

    def __str__(self) -> str:
        return f"{super().__str__()}\nDone all the same: {self.done}"


def fault(result: Result) -> TierkeeperError | None:
    """What a result means that the command line would end with another exit code than 0 for; None for a good one."""
    found = list(_faults(result))
    if not found and exit_code(result) is not Exit.DONE:
        found = [Failed("result", "it says that something is wrong", "Run the command itself and look at what it shows")]
    return _together(found, "; ".join(done(result))) if found else None


def _together(errors: Sequence[TierkeeperError], done: str | None) -> TierkeeperError:
    if done:
        return RunFaults(errors, done)
    return errors[0] if len(errors) == 1 else Faults(errors)


def _faults(result: Result) -> Iterator[TierkeeperError]:
    for one in result.__dict__.get("errors") or ():
        assert isinstance(one, FaultResult)  # noqa: S101 - every result's errors are such
        yield (NotNow if one.not_now else Failed)(one.place, one.cause, one.remedy)
    if isinstance(result, VerifyResult):
        for what, lines in (("damaged", result.damaged), ("missing", result.missing)):
            yield from (
                Failed("archive", f"{what}: {line}", "Restore the store from its copy, and verify again") for line in lines
            )
    if isinstance(result, HealthResult):
        for item in result.checks:
            if not item.healthy:
                yield Failed(item.name, item.cause or "it is not well", item.remedy or "Look into its log")
    if _stopped_because(result) == STOPPED:
        yield NotNow("run", "it was asked to stop", "Run it again: it goes on where it ended")
    if _stopped_because(result) == TIME_LIMIT and not _came_forward(result):
        left = ", ".join(_left(result)) or "all"
        yield NotNow(TIME_LIMIT, f"the function's time was too short for a single step (left: {left})", _LONGER)


def done(result: Result) -> list[str]:
    """What a run has changed or found, in words; nothing of a plan."""
    moves = _moves(result)
    said = [f"{m.rows:,} rows of {m.table} went from {m.from_} to {m.to}" for m in moves if m.rows]
    if isinstance(result, QuotaResult):
        said += [
            f"{r.table} ({r.relation}) in {r.tier} went from {r.bytes_before:,} to {r.bytes_after:,} bytes"
            for r in result.reclaimed
        ]
    if isinstance(result, ArchiveRunResult) and result.removed:
        said.append(f"{len(result.removed)} segments whose time was over were removed")
    if isinstance(result, SetupResult) and result.applied:
        said += [f"{step.tier}: {step.action}" for step in result.steps]
    if isinstance(result, VerifyResult):
        said.append(f"{result.checked:,} of {result.segments:,} segments were read back")
    return said


def _moves(result: Result) -> Sequence[MoveResult]:
    return [*result.__dict__.get("runs", ()), *result.__dict__.get("moves", ())]


def _stopped_because(result: Result) -> str | None:
    because = result.__dict__.get("stopped_because")
    return because if isinstance(because, str) else None


def _came_forward(result: Result) -> bool:
    """Whether a run that ended by its time has done something, so that one after another comes to the end."""
    if isinstance(result, VerifyResult):
        return result.checked > 0 or not result.left
    moved = any(m.rows or m.recovered or m.stopped_because != TIME_LIMIT for m in _moves(result))
    return moved or bool(result.__dict__.get("reclaimed") or result.__dict__.get("removed")) or not _left(result)


def _left(result: Result) -> list[str]:
    return [
        f"{one.segments:,} segments" if one.segments else f"{one.table} from {one.from_} to {one.to}"
        for one in result.__dict__.get("left") or ()
    ]


def told(error: TierkeeperError, environment: Mapping[str, str]) -> TierkeeperError:
    """The error as whoever sent the event may read it: without the secrets that `environment` holds and without the passwords of
    addresses; what it calls an option of the command line is a key of the event, but in a command that it tells to type.
    """
    if isinstance(error, Faults):
        errors = [told(one, environment) for one in error.errors]
        return _together(errors, redact(error.done, environment) if isinstance(error, RunFaults) else None)
    kind = next(k for k in type(error).__mro__ if k in _PLAIN)
    place = _OPTION.sub(lambda match: f"event: {match[1].replace('-', '_')}", error.place)
    remedy = error.remedy if "tierkeeper " in error.remedy else _KEY.sub(lambda match: match[1].replace("-", "_"), error.remedy)
    plain = kind(redact(place, environment), redact(error.cause, environment), redact(remedy, environment))
    plain.exit_code = error.exit_code
    return plain
