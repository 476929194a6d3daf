"""The configuration: where it is looked for, what may stand in it, and every fault of it told at once.

Below `compose`, which turns settings into objects. Nothing here opens a connection or changes a file.
"""

from tierkeeper.config.model import Settings
from tierkeeper.config.read import ENVIRONMENT, load
from tierkeeper.config.secrets import redact

__all__ = ["ENVIRONMENT", "Settings", "load", "redact"]
