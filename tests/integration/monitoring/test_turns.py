"""Turns over real tiers and a real receiver: told once by many machines, also while Main is away, and after a kill."""

import signal
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import processes
from faultproxy import FaultProxy
from receivers import Receiver, http_receiver
from support import Tiers, TiersFactory, tierkeeper_toml
from tierkeeper import compose
from tierkeeper.compose import Keeper
from tierkeeper.config import load
from tierkeeper.kernel import limits
from tierkeeper.kernel.clock import FixedDay
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.results import AlertTurnResult
from tierkeeper.monitoring.alerts.facts import Facts, TierFacts
from tierkeeper.monitoring.alerts.messages import Message
from tierkeeper.monitoring.alerts.model import Claim
from tierkeeper.monitoring.alerts.sending import Delivery, Target

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FULL = TierFacts("core", 500_000_000, 520_000_000, read_only=False)


@dataclass
class Listener:
    """A sender that counts; `deaf` makes it fail, `during` happens meanwhile. The real one is tested with real receivers."""

    deaf: bool = False
    during: Callable[[], None] = lambda: None
    heard: list[str] = field(default_factory=list)

    def send(self, messages: Mapping[Target, Message]) -> list[Delivery]:
        self.during()
        self.heard += [] if self.deaf else [m.title.partition(": ")[2] for m in messages.values()]
        return [Delivery(t, "it answers 500" if self.deaf else None) for t in messages]


@dataclass
class Machine:
    """A keeper on a machine of its own: its home has its memory."""

    tiers: Tiers
    home: Path
    listener: Listener = field(default_factory=Listener)

    def keeper(self) -> Keeper:
        toml = tierkeeper_toml(self.tiers, extra='[alerts]\nnotify = ["json://127.0.0.1:9/"]')
        environment = {"HOME": str(self.home), "XDG_STATE_HOME": str(self.home / "state")}
        keeper = compose.open_keeper(load(toml, environment, self.home), environment=environment)
        keeper._alerting = replace(keeper._alerting, sender=self.listener)
        return keeper

    def turn(self, *tiers: TierFacts, minutes: float = 0) -> AlertTurnResult:
        return self.keeper().alerts(Facts(NOON + timedelta(minutes=minutes), tiers))


@pytest.fixture
def ready(make_tiers: TiersFactory) -> Tiers:
    """Tiers that are set up."""
    return make_tiers(furnish=_set_up)


def _set_up(tiers: Tiers) -> None:
    environment = {"HOME": str(tiers.home), "XDG_CONFIG_HOME": str(tiers.home / ".config")}
    compose.open_keeper(load(tierkeeper_toml(tiers), environment, tiers.home), environment=environment).setup(apply=True)


@pytest.fixture
def machine(ready: Tiers, tmp_path: Path) -> Machine:
    return Machine(ready, tmp_path)


def audited(tiers: Tiers) -> list[tuple[str, dict[str, object]]]:
    with closing(tiers.main.connect("oracle")) as conn:
        return [(k, d) for k, d in conn.execute("SELECT kind, detail FROM tierkeeper.audit WHERE verb = 'alert' ORDER BY id")]


def test_two_machines_tell_once_and_the_audit_has_both_sides(machine: Machine, tmp_path: Path) -> None:
    other = Machine(machine.tiers, tmp_path / "other")
    assert [m.turn(FULL).told for m in (machine, other, machine)] == [["new: core is over its quota"], [], []]
    assert (machine.listener.heard, other.listener.heard) == (["core is over its quota"], [])
    assert other.turn(replace(FULL, used_bytes=1), minutes=5).told == ["over: core is over its quota"]
    (intent, told), (outcome, how) = audited(machine.tiers)[:2]
    assert (intent, told["about"], told["to"]) == ("intent", ["breached core"], ["alerts.notify[0] (json)"])
    assert (outcome, how["delivered"], how["undelivered"]) == ("outcome", ["alerts.notify[0] (json)"], {})


@pytest.mark.parametrize("is_first", [True, False])
def test_two_machines_that_decide_at_once_tell_once(machine: Machine, tmp_path: Path, is_first: bool) -> None:
    """The other's whole turn lies between this one's look at the memory and its claim."""
    if not is_first:
        machine.turn(replace(FULL, used_bytes=440_000_000), minutes=-5)
        machine.listener.heard.clear()
    other = Machine(machine.tiers, tmp_path / "other")
    keeper = machine.keeper()
    memory = keeper._alerting._memory
    load_first, done = memory.load, list[AlertTurnResult]()

    def loaded() -> object:
        found = load_first()
        if not done:
            done.append(other.turn(FULL))
        return found

    memory.load = loaded  # type: ignore[method-assign,assignment]
    assert keeper.alerts(Facts(NOON, (FULL,))).waits
    assert machine.listener.heard + other.listener.heard == ["core is over its quota"]


def test_a_claim_by_a_clock_that_was_ahead_silences_nobody(machine: Machine) -> None:
    """It was killed while it was sending, and its clock was a year ahead."""
    memory = machine.keeper()._alerting._memory
    claim = Claim("dead", NOON + timedelta(days=365, seconds=limits.ALERT_CLAIM_SECONDS))
    memory.change(lambda state: replace(state, claim=claim))
    assert machine.turn(FULL).told == ["new: core is over its quota"]
    memory.change(lambda state: replace(state, claim=replace(claim, until=NOON + timedelta(minutes=3))))
    assert machine.turn(replace(FULL, used_bytes=1), minutes=1).waits


@pytest.fixture
def proxied(ready: Tiers, tmp_path: Path) -> Iterator[tuple[Machine, FaultProxy]]:
    """A machine whose way to Main can be cut."""
    with FaultProxy(int(ready.main.parameters["port"])) as proxy:
        yield Machine(replace(ready, main=proxy.link(ready.main)), tmp_path), proxy


def test_while_main_is_away_it_rings_and_when_it_is_back_not_again(proxied: tuple[Machine, FaultProxy]) -> None:
    machine, proxy = proxied
    assert machine.turn(FULL).told == ["new: core is over its quota"]
    (memory,) = (machine.home / "state" / "tierkeeper").rglob("alerts-*.json")
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    proxy.refuse()
    assert machine.turn(replace(FULL, used_bytes=1), minutes=5).told == ["over: core is over its quota"]
    stopped = replace(FULL, read_only=True, used_bytes=1)
    alone = machine.turn(stopped, minutes=10)
    assert (alone.told, alone.kept) == (["new: core is read-only"], "file")
    assert machine.turn(stopped, minutes=11).told == []
    shown = machine.keeper().alert_status()
    assert (shown.kept, [a.kind for a in shown.alerts]) == ("file", ["read-only"])
    proxy.heal()
    back = machine.turn(stopped, minutes=15)
    assert (back.told, back.kept, back.firing) == ([], "main", 1)
    other = Machine(machine.tiers, machine.home / "other")
    assert other.turn(stopped, minutes=20).told == []


def test_main_goes_while_a_message_is_sent(proxied: tuple[Machine, FaultProxy]) -> None:
    """It was claimed on Main, told, and noted on this machine."""
    machine, proxy = proxied
    machine.listener.during = proxy.refuse
    first = machine.turn(FULL)
    assert (first.told, first.kept) == (["new: core is over its quota"], "file")
    machine.listener.during = lambda: None
    proxy.heal()
    assert [machine.turn(FULL, minutes=m).told for m in (5, 10)] == [[], []]
    assert machine.turn(FULL, minutes=15).kept == "main"


def test_where_nothing_can_be_kept_it_rings_all_the_same(proxied: tuple[Machine, FaultProxy]) -> None:
    machine, proxy = proxied
    proxy.refuse()
    machine.home.joinpath("state").write_text("a file where the folder should be")
    keeper = machine.keeper()
    first = keeper.alerts(Facts(NOON, (FULL,)))
    assert (first.told, first.kept) == (["new: core is over its quota"], "process")
    assert keeper.alerts(Facts(NOON + timedelta(minutes=1), (FULL,))).told == []


def test_a_memory_that_cannot_be_read_is_begun_anew(machine: Machine) -> None:
    machine.turn(FULL)
    (memory,) = (machine.home / "state" / "tierkeeper").rglob("alerts-*.json")
    memory.write_text("{ torn")
    with closing(machine.tiers.main.connect("app")) as conn:
        conn.execute("""UPDATE tierkeeper.alert SET state = '{"version": 99}'""")
    assert machine.turn(FULL, minutes=5).told == ["new: core is over its quota"]
    assert machine.turn(FULL, minutes=10).told == []


def test_what_was_not_delivered_is_told_and_tried_again(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    machine.listener.deaf = True
    assert not machine.turn(FULL).ok
    out, err = capfd.readouterr()
    assert "an alert was not delivered" in out + err
    keeper = machine.keeper()
    assert list(keeper.status().undelivered) == ["alerts.notify[0] (json)"]
    shown = keeper.alert_status()
    assert shown.undelivered["alerts.notify[0] (json)"].startswith("it answers 500 (since 2026-03-01 12:00")
    assert shown.alerts[0].told == {}
    assert audited(machine.tiers)[1][1]["undelivered"] == {"alerts.notify[0] (json)": "it answers 500"}
    machine.listener.deaf = False
    assert machine.turn(FULL, minutes=5).ok
    shown = keeper.alert_status()
    assert (shown.undelivered, len(shown.alerts[0].told), shown.kept) == ({}, 1, "main")
    assert keeper.status().undelivered == {}


def test_without_its_table_each_machine_remembers_for_itself(tiers: Tiers, tmp_path: Path) -> None:
    machine = Machine(tiers, tmp_path)
    assert machine.turn(FULL).kept == "file"
    assert machine.turn(FULL, minutes=5).told == []


@pytest.mark.parametrize(("point", "rings"), [(Point.ALERT_CLAIMED, 0), (Point.ALERT_SENT, 1)])
def test_a_kill_between_sending_and_remembering_rings_twice_and_never_not(ready: Tiers, point: Point, rings: int) -> None:
    with closing(ready.core.connect("app")) as conn:
        conn.execute(f'ALTER DATABASE "{conn.info.dbname}" SET default_transaction_read_only = on')
    with http_receiver() as receiver:
        toml = tierkeeper_toml(ready, extra=f'[alerts]\nnotify = ["{receiver.url}"]')
        killed = processes.command(["alert", "run", "--config", str(toml)], ready.environment, die_at=point)
        assert killed.returncode == -signal.SIGKILL
        assert len(receiver.got) == rings
        _check_again(toml, ready, receiver, rings)


def _check_again(toml: Path, tiers: Tiers, receiver: Receiver, rings: int) -> None:
    """At once another leaves it to the one that may still be sending; once that is taken for dead it rings, and no more."""
    settings = load(toml, tiers.environment, tiers.home)
    assert compose.open_keeper(settings, environment=tiers.environment).alerts().waits
    assert len(receiver.got) == rings
    for later in (200, 260):
        clock = FixedDay(datetime.now(UTC) + timedelta(seconds=later))
        compose.open_keeper(settings, environment=tiers.environment, clock=clock).alerts()
        assert receiver.titles == ["tierkeeper: core is read-only"] * (rings + 1)
