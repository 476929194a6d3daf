"""Which store the archive lies in, by its address."""

from collections.abc import Mapping
from typing import Final

from tierkeeper.config import Settings
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed, TierkeeperError, UsageError
from tierkeeper.kernel.ports import Gate
from tierkeeper.kernel.results import StoreReport
from tierkeeper.objectstore.directory import DirectoryStore
from tierkeeper.objectstore.enrolment import Lifetime
from tierkeeper.objectstore.port import KINDS, Store
from tierkeeper.tiers import usage

_DAMAGE: Final = (
    "Run `tierkeeper archive verify`, and put the objects back from a copy of the store; where it finds nothing wrong, nothing "
    "needs them any more: `tierkeeper archive run` with an admin's token deletes them"
)


def open_store(settings: Settings, environment: Mapping[str, str], clock: Clock, gate: Gate | None = None) -> Store:
    """The configured store; nothing is asked of it. Raises UsageError where its address is none."""
    path, archive = settings.store_path, settings.tiers.archive
    if path is not None:
        return DirectoryStore(path, clock)
    if archive.store.startswith("s3://"):
        from tierkeeper.objectstore.s3 import S3Store

        return S3Store(archive.store, environment, clock)
    from tierkeeper.objectstore.home import HomeStore

    token = None if archive.token is None else archive.token.get_secret_value()
    return HomeStore(archive.store, token, insecure=archive.insecure, clock=clock, gate=gate)


def store_bytes(settings: Settings, store: Store) -> int:
    """What it takes: of a directory all that lies there, of a server what it counts.

    Raises UsageError where its path is no directory.
    """
    path = settings.store_path
    if path is None:
        report = store_report(store)
        return sum(info.length_bytes for kind in KINDS for info in store.list(kind)) if report is None else report.bytes
    if path.exists() and not path.is_dir():
        raise UsageError(f"store {path}", "this is a file, not a directory", "Set ARCHIVE_PATH to a directory")
    return usage.directory_bytes(path)


def store_fault(store: Store) -> TierkeeperError | None:
    """What a home server found wrong with what it keeps; None where all is well, or where the store reads nothing by itself."""
    report = store_report(store)
    if report is None:
        return None
    if report.wrong:
        key, cause = next(iter(report.wrong.items()))
        found = f"the server found {len(report.wrong)} of its {report.objects} objects wrong, such as {key}: {cause}"
        return Failed(store.name, found, _DAMAGE)
    if report.overdue and report.oldest_read_at is not None:
        cause = f"the server has not read some of its objects since {report.oldest_read_at:%Y-%m-%d}"
        return Failed(store.name, cause, f"Let it run: it reads all that it keeps in {report.scrub_days} days")
    return None


def lifetimes(store: Store) -> list[Lifetime]:
    """Until when what opens a home server is valid; nothing of another store."""
    if isinstance(store, DirectoryStore):
        return []
    from tierkeeper.objectstore.home import HomeStore

    return store.lifetimes() if isinstance(store, HomeStore) else []


def store_report(store: Store) -> StoreReport | None:
    """What a home server says of what it keeps; None for another store."""
    if isinstance(store, DirectoryStore):
        return None  # most commands need nothing that speaks HTTP
    from tierkeeper.objectstore.home import HomeStore

    return store.report() if isinstance(store, HomeStore) else None
