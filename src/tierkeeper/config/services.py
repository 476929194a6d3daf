"""`[balance]` and `[homeserver]`: what listens. Pure."""

import re
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from tierkeeper.config.base import Finding, Section, refuse
from tierkeeper.config.fields import (
    Algorithm,
    Protocol,
    only_once,
    split_address,
)
from tierkeeper.kernel.limits import SCRUB_DAYS


class Service(Section):
    """One `[[balance.services]]` entry: a port that is spread over backends."""

    name: str = Field(min_length=1, description="your name for it")
    protocol: Protocol = Field(description="what the backends speak")
    listen: str = Field(description='address and port, such as "127.0.0.1:8080"')
    backends: tuple[SecretStr, ...] = Field(
        min_length=1, description='http: "http://10.0.0.2:9000"; tcp: "10.0.0.2:9000"; postgres: "postgresql://…"'
    )

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        addresses = [b.get_secret_value() for b in self.backends]
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
        if split_address(self.listen) is None:
            found.append(Finding("listen", f"{self.listen!r} is not an address with a port", 'Write it as "127.0.0.1:8080"'))
        if found:
            raise refuse(*found)
        return self


class Balance(Section):
    """`[balance]`: how traffic is spread over healthy services."""

    algorithm: Algorithm = Field(default="round_robin", description="how a backend is chosen")
    health_check_interval: float = Field(default=30, gt=0, le=86_400, description="seconds")
    max_retries: int = Field(default=3, ge=0, le=100, description="tries after the first, for requests that may be repeated")
    services: tuple[Service, ...] = ()

    @field_validator("services")
    @classmethod
    def _are_distinct(cls, services: tuple[Service, ...]) -> tuple[Service, ...]:
        only_once([s.name for s in services], "name")
        only_once([s.listen for s in services], "listen")
        return services


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
