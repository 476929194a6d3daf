"""What all results have in common, and how errors are told."""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from tierkeeper.kernel.errors import Exit, TierkeeperError, each


class Result(BaseModel):
    """Base of all results: frozen, closed, printed by alias."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True, defer_build=True)


class ErrorResult(Result):
    """One fault: where, why, what to do."""

    place: str
    cause: str
    remedy: str


class FaultResult(ErrorResult):
    """A fault that the rest of a run went on without."""

    not_now: bool = Field(default=False, description="nothing failed: the same command may do it later (exit 75)")


def told(errors: Iterable[TierkeeperError]) -> list[FaultResult]:
    """`errors` as results, those that were found together one by one."""
    return [FaultResult(place=e.place, cause=e.cause, remedy=e.remedy, not_now=e.exit_code is Exit.NOT_NOW) for e in each(errors)]


class ErrorDocument(Result):
    """What `--json` prints for an error; a list where several faults were found at once."""

    error: ErrorResult | list[ErrorResult]
