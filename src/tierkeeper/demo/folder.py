"""The folder of a demo: gone when the demo ends, and swept away by the next one where it was killed.

A lock says whose demo still runs; it ends with its process, however that ends. Nothing but an own demo's folder is ever removed.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tierkeeper.demo.runtime import workspace

PREFIX: Final = "tierkeeper-demo-"


@contextmanager
def own_folder() -> Iterator[Path]:
    """A fresh folder, held until the block ends; what killed demos left is swept away first."""
    sweep(Path(tempfile.gettempdir()))
    with workspace(PREFIX) as folder:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(descriptor)


def sweep(parent: Path) -> list[Path]:
    """Removes the folders of this user's demos in `parent` that nobody holds; returns them. One that is in use it leaves.

    An empty one is left, too: another demo may just be making it.
    """
    swept = []
    for folder in sorted(parent.glob(f"{PREFIX}*")):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(descriptor).st_uid != os.geteuid() or not any(folder.iterdir()):
                    continue
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                swept.append(folder)
            finally:
                os.close(descriptor)
    return swept
