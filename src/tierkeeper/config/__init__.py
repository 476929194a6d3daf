"""The configuration: where it is looked for, what may stand in it, and every fault of it told at once.

Below `compose`, which turns settings into objects. Nothing here opens a connection or changes a file.
"""

from tierkeeper.config.fields import split_address
from tierkeeper.config.model import Settings
from tierkeeper.config.read import ENVIRONMENT, load, load_balance, load_home_server, located
from tierkeeper.config.secrets import redact
from tierkeeper.config.services import Balance, Dashboard, HomeServer

__all__ = [
    "ENVIRONMENT",
    "Balance",
    "Dashboard",
    "HomeServer",
    "Settings",
    "load",
    "load_balance",
    "load_home_server",
    "located",
    "redact",
    "split_address",
]
