"""Which store the archive lies in, by its address."""

from collections.abc import Mapping

from tierkeeper.config import Settings
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import UsageError
from tierkeeper.objectstore.directory import DirectoryStore
from tierkeeper.objectstore.port import KINDS, Store
from tierkeeper.tiers import usage


def open_store(settings: Settings, environment: Mapping[str, str], clock: Clock) -> Store:
    """The configured store; nothing is asked of it. Raises UsageError where its address is none."""
    path = settings.store_path
    if path is not None:
        return DirectoryStore(path, clock)
    from tierkeeper.objectstore.s3 import S3Store

    return S3Store(settings.tiers.archive.store, environment, clock)


def store_bytes(settings: Settings, store: Store) -> int:
    """What it takes: of a directory all that lies there. Raises UsageError where its path is no directory."""
    path = settings.store_path
    if path is None:
        return sum(info.length_bytes for kind in KINDS for info in store.list(kind))
    if path.exists() and not path.is_dir():
        raise UsageError(f"store {path}", "this is a file, not a directory", "Set ARCHIVE_PATH to a directory")
    return usage.directory_bytes(path)
