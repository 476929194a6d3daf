"""Sets up the tiers and validates the configuration. On demand."""

from tierkeeper.functions import MultiTierSetup, as_script, handlers

__all__ = ["MultiTierSetup", "handler"]

handler = handlers.multi_tier_setup

if __name__ == "__main__":
    as_script(handler)
