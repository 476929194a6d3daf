"""Arguments as typed values. Pure, and before any connection: bad input changes nothing (I10)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age, parse_instant, parse_share
from tierkeeper.quotas.change import Change, parse

_ENDINGS: Final = (".csv", ".parquet")
_OTHER_FILES: Final = (".txt", ".tsv", ".json", ".jsonl", ".xlsx", ".sql", ".gz", ".zst", ".zip", ".arrow", ".feather")


@dataclass(frozen=True)
class Proposal:
    """What `quota` is asked beside its run: a promise to the readers, or changes to weigh."""

    promise: float | None
    changes: Sequence[Change]


def proposal(*, dry_run: bool, allow_rewrite: bool, optimise: bool, promise: str | None, what_if: Sequence[str]) -> Proposal:
    """The options of `quota` that only tell. Raises UsageError for those that contradict each other."""
    if optimise and what_if:
        raise UsageError("--optimise, --what-if", "one proposes cutoffs, the other weighs yours", "Give one of them")
    for given, name in ((dry_run, "--dry-run"), (allow_rewrite, "--allow-rewrite")):
        if given and (optimise or what_if):
            both = f"{name}, {'--optimise' if optimise else '--what-if'}"
            raise UsageError(both, "no run is made where cutoffs are weighed", f"Leave out {name}")
    if promise is not None and not optimise:
        raise UsageError("--promise", "it is a promise that --optimise keeps", "Add --optimise, or leave it out")
    share = None if promise is None else parse_share(promise, "--promise")
    return Proposal(share, [parse(text) for text in what_if])


def table(text: str, place: str = "TABLE") -> TableName:
    """The table named by TABLE, or by the option `place`. Raises UsageError."""
    return TableName.parse(text, place)


def instant(text: str | None, option: str) -> datetime | None:
    """An instant in UTC, or None where the option was left out. Raises UsageError."""
    return None if text is None else parse_instant(text, option)


def age(text: str | None, option: str) -> Age | None:
    """An age, or None where the option was left out. Raises UsageError."""
    return None if text is None else Age.parse(text, option)


def seconds(text: str | None, option: str) -> float | None:
    """A length of time, or None where the option was left out. Raises UsageError."""
    if text is None:
        return None
    length = Age.parse(text, option).seconds
    if length <= 0:
        raise UsageError(option, f"{text!r} is no time at all", 'Write how long it may take, such as "20 minutes"')
    return length


def hop(from_: Tier, to: Tier) -> None:
    """Rows move one tier down at a time, and from Main back to Core. Raises UsageError for anything else."""
    if (from_, to) in (("core", "main"), ("main", "archive"), ("main", "core")):
        return
    if from_ == to:
        raise UsageError("--to", f"the rows are in {from_} already", "Name the tier next to it: core -> main -> archive")
    if (from_, to) == ("core", "archive"):
        raise UsageError(
            "--to", "rows reach the archive through Main", "Move them with --to main first, then --from main --to archive"
        )
    raise UsageError("--to", f"rows do not move from {from_} to {to}", "Bring archived rows back with 'tierkeeper archive thaw'")


def cutoff(before: str | None, older_than: str | None) -> tuple[datetime | None, Age | None]:
    """The bound on a row's age, as an instant or as an age; neither means the policy's. Raises UsageError."""
    if before is not None and older_than is not None:
        raise UsageError("--before, --older-than", "both say how old a row must be", "Give one of them")
    return instant(before, "--before"), age(older_than, "--older-than")


def window(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """`since` includes, `until` excludes. Raises UsageError for a window in which nothing can lie."""
    begin, end = instant(since, "--since"), instant(until, "--until")
    if begin is not None and end is not None and end <= begin:
        raise UsageError("--until", "it does not lie after --since, so nothing can lie between", "Give a later --until")
    return begin, end


def target(text: str) -> str:
    """Where a restore goes: a slash or an ending .csv or .parquet means a file, all else a table. Raises UsageError."""
    if "/" not in text and not text.endswith((*_ENDINGS, *_OTHER_FILES)):
        TableName.parse(text, "--to")
        return text
    if not text.endswith(_ENDINGS):
        raise UsageError(
            "--to",
            f"{text!r} ends neither in .csv nor in .parquet",
            'Name the file so that its ending says its format; a table of that name is quoted: schema."name"',
        )
    if not Path(text).parent.is_dir():
        raise UsageError("--to", f"there is no directory {str(Path(text).parent)!r}", "Make it first, or name another file")
    if Path(text).exists():
        raise UsageError("--to", f"{text!r} is there already", "Name a new file")
    return text
