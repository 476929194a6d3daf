"""Watches the health of services, or of the tiers and the store where no service is configured."""

from tierkeeper.functions.base import Function, report
from tierkeeper.kernel.results import HealthResult


class IntelligentLoadBalancer(Function):
    """Asks every backend once. It only reads, and one backend that is away never hides another."""

    def health(self) -> HealthResult:
        """The health of each backend of each service; without services, of the tiers and the store. Raises Faults."""
        settings = self._settings()
        from tierkeeper.compose import balancing

        return balancing.health(settings)

    def test_health_checks(self) -> None:
        """Prints a readable report of `health`. Raises SystemExit(1) unless all is well, 2 for a wrong configuration."""
        report(self.health)
