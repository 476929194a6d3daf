"""Whether Main's columns, and a segment's ages, are those that a statement means. Pure."""

from collections.abc import Mapping

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.tables import Followed
from tierkeeper.query.model import Scan

_FOLLOW = "Run tierkeeper setup --apply"


def check_in_step(scan: Scan, main: Mapping[str, str], followed: Followed | None) -> None:
    """Raises UsageError where a column of `scan` is another one in Main, whose types are `main`, than in Core."""
    for _, wanted in scan.columns:
        place = f"tiers.main {scan.table}.{wanted.name}"
        have = main.get(wanted.name, "missing")
        if have != wanted.declared:
            cause = f"it is {have} in Main and {wanted.declared} in Core"
            raise UsageError(place, cause, _FOLLOW)
        if followed is None:
            continue
        known = followed.column(wanted.name)
        if followed.relation != scan.oid or known is None or known.number != wanted.number:
            raise UsageError(place, "Core's table was changed since Main followed it last", _FOLLOW)


def ages_of(scan: Scan, age: str, followed: Followed | None) -> bool:
    """Whether ages of the column `age`, as a segment calls it, are those that the scan's bounds are about."""
    known = followed.column(scan.age) if followed is not None and scan.age is not None else None
    return age in ("", scan.age, *(known.former if known else ()))
