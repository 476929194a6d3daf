"""The four functions of the user's document, as classes and as event handlers; the root modules import from here alone.

They ask the same `Keeper` as the command line and print with its printer: one behaviour, two doors.
"""

from tierkeeper.functions import handlers
from tierkeeper.functions.archiver import HomeServerArchiver
from tierkeeper.functions.balancer import IntelligentLoadBalancer
from tierkeeper.functions.quota import MultiTierQuotaManager
from tierkeeper.functions.script import as_script
from tierkeeper.functions.setup import MultiTierSetup

__all__ = ["HomeServerArchiver", "IntelligentLoadBalancer", "MultiTierQuotaManager", "MultiTierSetup", "as_script", "handlers"]
