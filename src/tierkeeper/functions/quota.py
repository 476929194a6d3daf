"""Manages the quotas of all tiers; daily."""

from collections.abc import Sequence

from tierkeeper.functions.base import Function
from tierkeeper.kernel.results import OptimiseResult, QuotaResult, StatusResult, WhatIfResult
from tierkeeper.kernel.units import parse_share


class MultiTierQuotaManager(Function):
    """Watches each tier's usage and moves rows down before a quota is reached (I9: never makes a full tier fuller)."""

    def run(self, dry_run: bool = False, *, allow_rewrite: bool = False) -> QuotaResult:
        """Moves what is old, then what must; with `dry_run` only plans. Raises TierkeeperError.

        `allow_rewrite`: VACUUM FULL may lock a table, and scratch space may exceed the quota.
        """
        with self._keeper() as keeper:
            return keeper.quota(dry_run, allow_rewrite=allow_rewrite)

    def status(self) -> StatusResult:
        """Usage, quota and health of each tier. Raises TierkeeperError."""
        with self._keeper() as keeper:
            return keeper.status()

    def optimise(self, promise: str | None = None) -> OptimiseResult:
        """The cutoffs that cost least; `promise`, such as "95%", is the share of reads that stay in Core. Changes nothing."""
        share = None if promise is None else parse_share(promise, "promise")
        with self._keeper() as keeper:
            return keeper.optimise(share)

    def what_if(self, changes: Sequence[str]) -> WhatIfResult:
        """What other cutoffs, such as "core=45d" or "public.flights:main=1 year", would come to. Changes nothing."""
        from tierkeeper.quotas.change import parse

        parsed = [parse(text) for text in changes]
        with self._keeper() as keeper:
            return keeper.what_if(parsed)
