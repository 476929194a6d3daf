"""Manages the quotas of all tiers: moves what is old, then what must. Daily, 03:00 UTC."""

from tierkeeper.functions import MultiTierQuotaManager, as_script, handlers

__all__ = ["MultiTierQuotaManager", "handler"]

handler = handlers.multi_tier_quota_manager

if __name__ == "__main__":
    as_script(handler)
