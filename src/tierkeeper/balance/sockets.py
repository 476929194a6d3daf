"""Unix sockets in a folder whose path may be longer than the 107 bytes that the kernel takes as the name of a socket."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def near(path: Path) -> Iterator[str]:
    """A short name of the socket `path`, to bind or to connect while the block runs. Raises OSError where its folder is none.

    It leads through an open descriptor of the folder, and so to that folder alone, whatever becomes of its path meanwhile.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
