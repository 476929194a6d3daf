"""Tiers with two reference tables and one to move, and an audit that remembers the order of things."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from support import Tiers
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection, Link
from tierkeeper.setup import runner
from tierkeeper.setup.model import SetupPlan

EVENTS = TableName("public", "events")
KINDS = TableName("public", "kinds")
POLICIES = (TablePolicy(EVENTS, "move", age="at"), TablePolicy(KINDS, "mirror"))
ARCHIVE = {"segment": "CREATE TABLE tierkeeper.segment (id uuid PRIMARY KEY)"}
MAKE = """
CREATE TYPE public.colour AS ENUM ('red', 'green');
CREATE TABLE public.kinds (kind text PRIMARY KEY, colour public.colour);
CREATE TABLE public.events (
    id bigint PRIMARY KEY, at timestamptz, kind text REFERENCES public.kinds ON DELETE CASCADE, body text NOT NULL DEFAULT 'x'
);
CREATE INDEX ON public.events (at);
INSERT INTO public.kinds VALUES ('k', 'red');
"""


@dataclass
class RecordingAudit:
    """Stands where the audit does: what it recorded, and whether Main's audit table was there by then."""

    main: Link
    records: list[tuple[str, object]] = field(default_factory=list)

    @contextmanager
    def action(self, verb: str, subject: str, detail: Mapping[str, Any]) -> Iterator[Callable[..., None]]:
        with closing(self.main.connect("audit")) as conn:
            there = conn.execute("SELECT to_regclass('tierkeeper.audit') IS NOT NULL").fetchone()
        assert subject
        assert detail
        self.records.append((verb, there))
        yield lambda **more: self.records.append(("outcome", more))


@dataclass
class House:
    """Three tiers and their connections."""

    tiers: Tiers
    core: Connection
    main: Connection
    audit: RecordingAudit

    @property
    def links(self) -> dict[str, Link]:
        return {"core": self.tiers.core, "main": self.tiers.main, "archive": self.tiers.catalog}

    def plan(self, policies: tuple[TablePolicy, ...] = POLICIES, *, key_present: bool = True) -> SetupPlan:
        return runner.plan(self.links, policies, ARCHIVE, key_present=key_present)

    def set_up(self) -> None:
        runner.apply(self.plan(), self.links, self.audit)


@pytest.fixture
def house(tiers: Tiers) -> Iterator[House]:
    """Core has its tables; nothing is set up."""
    with closing(tiers.core.connect("test")) as core, closing(tiers.main.connect("test")) as main:
        core.execute(MAKE)
        yield House(tiers, core, main, RecordingAudit(tiers.main))
