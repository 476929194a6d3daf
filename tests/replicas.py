"""A standby that follows an embedded server by streaming replication, and can be killed, promoted and started again."""

import os
import subprocess
from pathlib import Path

from tierkeeper.demo.server import EmbeddedPostgres

COPY_SECONDS = 60


def follow(primary: EmbeddedPostgres, folder: Path) -> EmbeddedPostgres:
    """A running standby of `primary` in `folder`, which must not exist: with its users, its passwords and its certificate.

    Whoever calls it stops it.
    """
    runtime = primary._runtime
    base = os.fspath(runtime.bin_dir / "pg_basebackup")
    subprocess.run(
        [base, "-D", folder, "-R", "-X", "stream", "-c", "fast", "-d", primary.url()], check=True, timeout=COPY_SECONDS
    )
    folder.chmod(0o700)
    runtime.own(folder)
    standby = EmbeddedPostgres(folder, runtime, primary._password)
    standby.restart()
    return standby
