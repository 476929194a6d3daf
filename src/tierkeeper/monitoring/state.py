"""Where this machine remembers what Main does not know yet: a folder of the user's, one for each Core. It asks no tier."""

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tierkeeper.kernel.host import home
from tierkeeper.postgres.link import Link


def base(environment: Mapping[str, str]) -> Path:
    """The folder of all that tierkeeper remembers for this user (XDG); nothing is made."""
    given = Path(environment.get("XDG_STATE_HOME") or "")
    return (given if given.is_absolute() else home(environment) / ".local" / "state") / "tierkeeper"


def folder(environment: Mapping[str, str], core: Link) -> Path:
    """The folder for the installation that `core` belongs to; nothing is made. Two installations never share one.

    Raises UsageError for an address that is none.
    """
    # The address and not its password, which may change; a hosted pooler's users tell its customers apart.
    who = "\0".join(core.parameters.get(key, "") for key in ("host", "port", "dbname", "user"))
    return base(environment) / hashlib.sha256(who.encode()).hexdigest()[:16]


def make(path: Path) -> None:
    """Makes the folder, for its user alone. Raises OSError."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds the lock file `path` against other processes and threads; gives False where another has it and `wait` is not asked.

    The lock ends with its process, however that ends. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def replace(path: Path, data: bytes, *, durable: bool) -> None:
    """Writes the file anew: whoever reads it, and whenever this ends, finds the old content or the new. Raises OSError.

    Whoever calls it holds the file's lock. Unless `durable`, a power cut may take the new content back.
    """
    beside = path.with_name(f"{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    beside.replace(path)
    if durable:
        sync(path.parent)


def sync(folder: Path) -> None:
    """Makes the names in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
