"""tierkeeper keeps a small hosted Postgres inside its quota without losing a row.

`open` gives a program what the command line has: `tierkeeper.open("tierkeeper.toml").query("select …")` is an Arrow table.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tierkeeper.compose import Keeper

__all__ = ["open"]

# Before Arrow is loaded, which else keeps what it has freed: of a wide row several times its size.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


def open(config: Path | str | None = None) -> Keeper:
    """The keeper of the tiers in `config`, else in TIERKEEPER_CONFIG, ./tierkeeper.toml or the environment.

    It connects when it is first asked something. Used as a context (`with`) it counts, at the end, what its tiers have sent.
    Raises Faults for a wrong configuration.
    """
    from pathlib import Path

    from tierkeeper.compose import open_keeper
    from tierkeeper.config import load

    return open_keeper(load(Path(config) if config is not None else None, os.environ, Path.cwd()))
