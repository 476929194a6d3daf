"""`[balance]` and `[homeserver]`: what listens. Pure."""

import re
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from tierkeeper.config.base import Finding, Section, refuse
from tierkeeper.config.fields import (
    Algorithm,
    Protocol,
    Share,
    Size,
    only_once,
    split_address,
)
from tierkeeper.kernel.limits import SCRUB_DAYS
from tierkeeper.postgres.urls import is_loopback

_FIRST_STATUS, _LAST_STATUS = 200, 599  # what a server ends its answer with


class BackendEntry(Section):
    """One of `backends`: an address, or a table such as `{ url = "http://10.0.0.2:9000", weight = 2, priority = 1 }`."""

    url: SecretStr = Field(description="its address, as it would stand alone")
    weight: int = Field(default=1, ge=1, le=100, description="its share of the traffic beside the others'")
    priority: int = Field(default=0, ge=0, le=9, description="0 takes all traffic; 1 is for when too few of 0 are up, and so on")

    @model_validator(mode="before")
    @classmethod
    def _may_be_an_address(cls, given: object) -> object:
        return {"url": given} if isinstance(given, str) else given


class Health(Section):
    """`[balance.services.health]`: what a backend has to answer to be in."""

    path: str = Field(default="/", description="http: what is asked for, unless the backend's address has a path")
    status: tuple[int, ...] = Field(default=(), description="http: the answers that are well; left out, any below 500")
    body: str | None = Field(default=None, description="http: what has to stand in the first 64 kB of the answer")
    timeout: float = Field(default=2, gt=0, le=60, description="seconds for an answer")
    fall: int = Field(default=2, ge=1, le=100, description="checks in a row that fail before it is out")
    rise: int = Field(default=2, ge=1, le=100, description="checks in a row that go well before it is in again")
    max_lag: Size = Field(default=16_000_000, description="postgres: WAL bytes that a replica may be behind and still take reads")

    @field_validator("path")
    @classmethod
    def _is_a_path(cls, path: str) -> str:
        if not re.fullmatch(r"/[!-~]*", path):
            raise refuse(Finding("", "this is not a path of a URL", 'Begin it with a slash, without spaces, such as "/health"'))
        return path

    @field_validator("status")
    @classmethod
    def _are_statuses(cls, statuses: tuple[int, ...]) -> tuple[int, ...]:
        if wrong := [s for s in statuses if not _FIRST_STATUS <= s <= _LAST_STATUS]:
            raise refuse(Finding("", f"{wrong[0]} is no answer's status", "Write numbers from 200 to 599, such as [200, 204]"))
        return statuses


class Service(Section):
    """One `[[balance.services]]` entry: a port that is spread over backends."""

    name: str = Field(description="your name for it: up to 60 letters, digits, `_`, `.` or `-`")
    protocol: Protocol = Field(description="what the backends speak")
    listen: str = Field(description='address and port, such as "127.0.0.1:8080"; postgres: where writes go')
    listen_reads: str | None = Field(default=None, description="postgres: address and port for what only reads; replicas answer")
    backends: tuple[BackendEntry, ...] = Field(
        min_length=1,
        max_length=500,
        description='http: "http://10.0.0.2:9000"; tcp: "10.0.0.2:9000"; postgres: "postgresql://…"; or a table with `url`, '
        "`weight`, `priority`",
    )
    algorithm: Algorithm | None = Field(default=None, description="how a backend is chosen; left out, as `[balance]` says")
    max_retries: int | None = Field(default=None, ge=0, le=100, description="left out, as `[balance]` says")
    hash_on: str = Field(
        default="address",
        description='consistent_hash: "address" of the client, or "header:NAME"',
    )
    certificate: str | None = Field(default=None, description="PEM file of the chain with which the port ends TLS")
    key: str | None = Field(default=None, description="PEM file of its key")
    backend_ca: str | None = Field(
        default=None, description="PEM file of the CAs that TLS backends are verified by; else the system's"
    )
    http2: bool = Field(default=False, description="http: speak HTTP/2 to the backends; clients may in any case")
    timeout: float = Field(default=60, ge=0, le=86_400, description="http: seconds for a request with all its tries; 0 for none")
    slow_start: float = Field(default=0, ge=0, le=3600, description="seconds in which one that is in again grows to its share")
    health: Health = Field(default_factory=Health)

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", name):
            cause = "this is no name for a service"
            raise refuse(Finding("", cause, 'Write up to 60 letters, digits, "_", "." or "-", such as "api" or "orders-db"'))
        return name

    @field_validator("hash_on")
    @classmethod
    def _is_something_to_hash(cls, hash_on: str) -> str:
        if not re.fullmatch(r"address|header:[A-Za-z0-9-]+", hash_on):
            remedy = 'Write "address", or "header:" and the name of a header, such as "header:X-User"'
            raise refuse(Finding("", "nothing can be hashed by this", remedy))
        return hash_on

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        addresses = [entry.url.get_secret_value() for entry in self.backends]
        forms = {
            "http": (r"https?://[^\s/?#]+\S*", "http://10.0.0.2:9000"),
            "postgres": (r"postgres(ql)?://\S+", "postgresql://10.0.0.2:5432/app"),
        }
        form, example = forms.get(self.protocol, ("", "10.0.0.2:9000"))
        found = [
            Finding(f"backends[{i}]", f"this is not an address for {self.protocol}", f'Write it as "{example}"')
            for i, address in enumerate(addresses)
            if not (re.fullmatch(form, address) if form else split_address(address))
        ]
        if len(set(addresses)) < len(addresses):
            found.append(Finding("backends", "a backend stands here twice", "Take one out"))
        found += [
            Finding(key, f"{address!r} is not an address with a port", 'Write it as "127.0.0.1:8080"')
            for key, address in (("listen", self.listen), ("listen_reads", self.listen_reads))
            if address is not None and split_address(address) is None
        ]
        if found := [*found, *self._misplaced()]:
            raise refuse(*found)
        return self

    def _misplaced(self) -> list[Finding]:
        """Keys that say nothing for this protocol, or need another beside them."""
        found = []
        if self.listen_reads is not None and self.protocol != "postgres":
            found.append(Finding("listen_reads", "only postgres tells reads from writes", "Take it out"))
        if self.listen_reads is not None and self.listen_reads == self.listen:
            found.append(Finding("listen_reads", "it is the port for writes", "Name another port"))
        if (self.certificate is None) != (self.key is None):
            missing, there = ("key", "certificate") if self.key is None else ("certificate", "key")
            found.append(Finding(missing, f"`{there}` stands alone", f"Name the file of the {missing} too"))
        if self.protocol == "postgres" and self.certificate is not None:
            found.append(Finding("certificate", "TLS goes through to Postgres, which has its own", "Take it out, and `key`"))
        if self.http2 and self.protocol != "http":
            found.append(Finding("http2", f"{self.protocol} has no HTTP/2", "Take it out"))
        if self.hash_on != "address" and self.protocol != "http":
            found.append(Finding("hash_on", f"{self.protocol} has no headers", 'Write "address"'))
        return found


class Balance(Section):
    """`[balance]`: how traffic is spread over healthy services."""

    algorithm: Algorithm = Field(default="round_robin", description="how a backend is chosen")
    health_check_interval: float = Field(
        default=30, gt=0, le=86_400, description="seconds; one that is in doubt is asked more often"
    )
    max_retries: int = Field(default=3, ge=0, le=100, description="tries after the first, for requests that may be repeated")
    panic_threshold: Share = Field(
        default=0.5, description="where fewer of a service's backends are healthy, all take traffic; postgres never does"
    )
    metrics: str | None = Field(default=None, description="address and port where Prometheus may ask; left out, nowhere")
    services: tuple[Service, ...] = ()

    @field_validator("services")
    @classmethod
    def _are_distinct(cls, services: tuple[Service, ...]) -> tuple[Service, ...]:
        only_once([s.name for s in services], "name")
        only_once([a for s in services for a in (s.listen, s.listen_reads) if a is not None], "listen")
        return services

    @model_validator(mode="after")
    def _has_ports_of_their_own(self) -> Self:
        if self.metrics is not None and self.metrics in {a for s in self.services for a in (s.listen, s.listen_reads)}:
            raise refuse(Finding("metrics", "a service listens there", "Name another port"))
        return self

    @field_validator("metrics")
    @classmethod
    def _is_an_address(cls, address: str | None) -> str | None:
        if address is not None and split_address(address) is None:
            raise refuse(Finding("", f"{address!r} is not an address with a port", 'Write it as "127.0.0.1:9464"'))
        return address


class Dashboard(Section):
    """`[dashboard]`: the page of the tiers, served by `tierkeeper run`. It changes nothing, and asks nobody who they are."""

    listen: str | None = Field(default=None, description='address and port, such as "127.0.0.1:8900"; left out, there is no page')
    names: tuple[str, ...] = Field(
        default=(), description="host names by which browsers reach it; addresses and localhost do in any case, other names never"
    )
    insecure: bool = Field(
        default=False, description="allow an address that other machines reach: whoever does sees it, and nothing is encrypted"
    )

    @model_validator(mode="after")
    def _is_for_this_machine(self) -> Self:
        found = []
        address = None if self.listen is None else split_address(self.listen)
        if self.listen is not None and address is None:
            found.append(Finding("listen", f"{self.listen!r} is not an address with a port", 'Write it as "127.0.0.1:8900"'))
        elif address is not None and not is_loopback(address[0]) and not self.insecure:
            cause = "other machines would reach it, unencrypted and without a password"
            remedy = 'Write "127.0.0.1:8900" and a proxy before it, or insecure = true where the network is yours alone'
            found.append(Finding("listen", cause, remedy))
        for i, name in enumerate(self.names):
            if not re.fullmatch(r"(?!-)[A-Za-z0-9.-]{1,253}", name):
                found.append(Finding(f"names[{i}]", "this is no host name", 'Write it as "tiers.lan"'))
        if found:
            raise refuse(*found)
        return self


class HomeServer(Section):
    """`[homeserver]`: what `tierkeeper homeserver` serves on the machine with the disk; that machine needs no other section."""

    path: str | None = Field(default=None, description="the folder that it serves; left out, `ARCHIVE_PATH`")
    listen: str = Field(default="0.0.0.0:8443", description="address and port")
    names: tuple[str, ...] = Field(
        default=(),
        description="host names and addresses by which its clients reach it, the best first; left out, this machine's name",
    )
    scrub_days: int = Field(default=SCRUB_DAYS, ge=1, le=365, description="in which it reads all that it keeps")

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        found = []
        if split_address(self.listen) is None:
            found.append(Finding("listen", f"{self.listen!r} is not an address with a port", 'Write it as "0.0.0.0:8443"'))
        for i, name in enumerate(self.names):
            if not re.fullmatch(r"(?!-)[A-Za-z0-9.:-]{1,253}", name):
                found.append(
                    Finding(f"names[{i}]", "this is no host name and no address", 'Write it as "home.lan" or "10.0.0.5"')
                )
        if found:
            raise refuse(*found)
        return self
