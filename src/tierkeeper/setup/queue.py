"""The queue of jobs on Main: the library's own tables, in a schema of their own, made and brought up to date as the library says.

Its statements name nothing by schema, so each of them runs under a path that is set for its transaction alone. The library is not
loaded for it: only its files are read.
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from psycopg import sql

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.results import SetupStep

SCHEMA: Final = "tierkeeper_jobs"
_UPDATE: Final = "bring the queue of jobs to version"
_BEGIN: Final = sql.SQL("CREATE SCHEMA IF NOT EXISTS {schema}; SET LOCAL search_path = {schema}, pg_catalog;")
_END: Final = sql.SQL("COMMENT ON SCHEMA {schema} IS {version}; SET LOCAL search_path = pg_catalog;")


def steps(there: bool, version: str | None) -> list[SetupStep]:
    """What Main's queue lacks: it is `there`, of a `version`. Raises UsageError for one that this library cannot use."""
    known = versions()
    if not there:
        return [_step(f"create schema {SCHEMA} with the queue of jobs", known[-1], _read("schema"))]
    if version is None:
        cause = (
            f"its schema {SCHEMA} is not one that tierkeeper has made, or has lost the comment that says of which version it is"
        )
        raise UsageError("tiers.main", cause, f"There, if nothing in it is yours: DROP SCHEMA {SCHEMA} CASCADE; then run again")
    if version not in known:
        cause = f"its queue of jobs is of version {version}, and this machine's library knows up to {known[-1]}"
        raise UsageError("tiers.main", cause, "Install the tierkeeper that the other machines have here, too")
    later = known[known.index(version) + 1 :]
    return [_step(f"{_UPDATE} {one}", one, _read(f"migrations/{one}")) for one in later]


def stands_alone(step: SetupStep) -> bool:
    """Whether `step` must be committed before the next: a migration may make what another can use only then."""
    return step.action.startswith(_UPDATE)


@cache
def versions() -> Sequence[str]:
    """Every version of the queue's schema that the library knows, by the names of its migrations; the last is what it makes."""
    return tuple(sorted(file.stem for file in (folder() / "migrations").glob("*.sql")))


def _step(action: str, version: str, text: str) -> SetupStep:
    names = {"schema": sql.Identifier(SCHEMA), "version": sql.Literal(version)}
    around = [part.format(**names).as_string(None) for part in (_BEGIN, _END)]
    return SetupStep(tier="main", action=action, sql=f"{around[0]}\n{text}\n;{around[1]}")


def _read(name: str) -> str:
    return (folder() / f"{name}.sql").read_text(encoding="utf-8")


@cache
def folder() -> Path:
    """Where the library's statements lie."""
    spec = find_spec("procrastinate")
    assert spec is not None and spec.origin is not None  # noqa: S101 - the project depends on it
    return Path(spec.origin).parent / "sql"
