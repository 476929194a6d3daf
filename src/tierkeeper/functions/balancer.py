"""Watches the health of services, or of the tiers and the store where no service is configured."""

import os

from tierkeeper.balance import probes
from tierkeeper.compose.stores import open_store, store_fault
from tierkeeper.config import Settings, redact
from tierkeeper.config.fields import split_address
from tierkeeper.config.services import Service
from tierkeeper.functions.base import Function, report
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.results import HealthResult
from tierkeeper.postgres.link import Link


class IntelligentLoadBalancer(Function):
    """Asks every backend once. It only reads, and one backend that is away never hides another."""

    def health(self) -> HealthResult:
        """The health of each backend of each service; without services, of the tiers and the store. Raises Faults."""
        return probes.run(planned(self._settings()))

    def test_health_checks(self) -> None:
        """Prints a readable report of `health`. Raises SystemExit(1) unless all is well, 2 for a wrong configuration."""
        report(self.health)


def planned(settings: Settings) -> list[probes.Probe]:
    """What has to be asked under `settings`. Raises UsageError where the store is none that can be asked."""
    if settings.balance.services:
        return [probe for service in settings.balance.services for probe in _of(service)]
    tiers = [probes.postgres(_TIERS[name], link) for name, link in settings.links().items()]
    path = settings.store_path
    if path is not None:
        return [*tiers, probes.directory("archive (store)", path)]

    def ask() -> None:
        store = open_store(settings, os.environ, SystemClock())
        next(iter(store.list("commit")), None)
        if (fault := store_fault(store)) is not None:
            raise fault

    return [*tiers, probes.Probe("archive (store)", ask)]


_TIERS = {"core": "core", "main": "main", "archive": "archive (catalog)"}


def _of(service: Service) -> list[probes.Probe]:
    asked = []
    for entry in service.backends:
        address = entry.url.get_secret_value()
        name = f"{service.name} {redact(address)}"
        split = split_address(address)
        if service.protocol == "http":
            asked.append(probes.http(name, address))
        elif service.protocol == "postgres":
            asked.append(probes.postgres(name, Link(service.name, address)))
        elif split is not None:
            asked.append(probes.tcp(name, *split))
    return asked
