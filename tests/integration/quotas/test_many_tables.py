"""Plans and reports over many tables: what they ask of the servers grows by little with each table."""

from collections.abc import Callable
from contextlib import closing

import pytest

from support import Tiers, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.session import Session

FEW, MANY = 4, 12


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with each message that a session of ours sends and waits for."""
    sent: list[str] = []
    wait = Session.wait

    def counted(self: Session, *args: object, **kwargs: object) -> object:
        sent.append(self.name)
        return wait(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "wait", counted)
    return sent


def keeper(tiers: Tiers, tables: int) -> Keeper:
    """Of its first `tables` tables each fourth is mirrored."""
    moved = {"age": "at", "core": "30 days", "main": "60 days"}
    policies = [{"name": f"public.small_{i}", **({"mode": "mirror"} if i % 4 == 3 else moved)} for i in range(tables)]
    return open_keeper(load(tierkeeper_toml(tiers, policies), {}, tiers.home), environment=tiers.environment)


@pytest.mark.parametrize(
    ("ask", "for_each"),
    [
        (lambda k: k.check(), 0),
        (lambda k: k.status(), 0),
        (lambda k: k.setup(apply=False), 0),
        (lambda k: k.quota(dry_run=True), 3),  # a count for each of two hops, and a sample where rows would leave
        (lambda k: k.plan_move(TableName("public", "small_0"), "core", "main"), 0),
    ],
    ids=["check", "status", "setup", "quota", "move"],
)
def test_messages_by_table(tiers: Tiers, messages: list[str], ask: Callable[[Keeper], object], for_each: int) -> None:
    with closing(tiers.core.connect("app")) as core:
        core.execute("CREATE TYPE public.mood AS ENUM ('sad', 'ok'); CREATE DOMAIN public.named AS text COLLATE \"C\" NOT NULL")
        for i in range(MANY):
            columns = "id bigint PRIMARY KEY, at timestamptz NOT NULL, note public.mood, named public.named DEFAULT 'x'"
            core.execute(f"CREATE TABLE public.small_{i} ({columns})".encode())
            core.execute(
                f"INSERT INTO public.small_{i} SELECT n, now() - n * interval '10 days' FROM generate_series(1, 10) n".encode()
            )
    keeper(tiers, MANY).setup(apply=True)
    counts = []
    for tables in (FEW, MANY):
        house = keeper(tiers, tables)
        messages.clear()
        ask(house)
        counts.append(len(messages))
    assert counts[0] > 0
    assert counts[1] - counts[0] <= for_each * (MANY - FEW)
