"""Watches the health of services, or of the tiers where none is configured. On demand and on events."""

from tierkeeper.functions import IntelligentLoadBalancer, as_script, handlers

__all__ = ["IntelligentLoadBalancer", "handler"]

handler = handlers.intelligent_load_balancer

if __name__ == "__main__":
    as_script(handler)
