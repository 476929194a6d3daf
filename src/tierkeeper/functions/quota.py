"""Manages the quotas of all tiers; daily."""

from tierkeeper.functions.base import Function
from tierkeeper.kernel.results import QuotaResult, StatusResult


class MultiTierQuotaManager(Function):
    """Watches each tier's usage and moves rows down before a quota is reached (I9: never makes a full tier fuller)."""

    def run(self, dry_run: bool = False) -> QuotaResult:
        """Moves what is old, then what must; with `dry_run` only plans. Raises TierkeeperError."""
        with self._keeper() as keeper:
            return keeper.quota(dry_run)

    def status(self) -> StatusResult:
        """Usage, quota and health of each tier. Raises TierkeeperError."""
        with self._keeper() as keeper:
            return keeper.status()
