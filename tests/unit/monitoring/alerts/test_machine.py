"""What is told, once: the state machine, against a listener who only hears messages."""

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierkeeper.kernel.errors import UsageError
from tierkeeper.monitoring.alerts import machine, messages
from tierkeeper.monitoring.alerts.form import AlertForm
from tierkeeper.monitoring.alerts.machine import Rules
from tierkeeper.monitoring.alerts.model import Condition, Judged, Kind, Notice, Severity, State
from tierkeeper.monitoring.alerts.quiet import Quiet, read_zone

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
NEAR = Condition(Kind.APPROACHING, "core", "core", Severity.WARNING, "core comes near", "88% used", "Run `tierkeeper quota`")
FULL = Condition(Kind.BREACHED, "core", "core", Severity.URGENT, "core is over its quota", "101% used", "Run `tierkeeper quota`")
AWAY = Condition(
    Kind.AWAY, "main", "main", Severity.SERIOUS, "main is away", "refused", "Start it", hold_seconds=600, clear_seconds=600
)
NIGHT = Rules(quiet=Quiet.parse("22:00-07:00", ""))


class World:
    """A clock, a memory and targets that hear."""

    def __init__(self, rules: Rules | None = None, targets: tuple[str, ...] = ("a",), at: datetime = NOON) -> None:
        self.rules, self.targets, self.now, self.state = rules or Rules(), targets, at, State()

    def look(
        self, *conditions: Condition, later: timedelta = MINUTE, unsaid: frozenset[tuple[Kind, str]] = frozenset()
    ) -> list[str]:
        """What the first target hears at the next look."""
        self.now += later
        self.state = machine.step(self.state, Judged(conditions, unsaid), self.now)
        due = machine.due(self.state, self.targets, self.now, self.rules)
        for target, notices in due.items():
            self.state = machine.delivered(self.state, target, notices, self.now)
        return [f"{n.news} {n.record.condition.kind.value}" for n in due.get(self.targets[0], [])]


def test_an_alert_is_told_once_and_its_end_once() -> None:
    world = World()
    assert [world.look(NEAR), world.look(NEAR), world.look(), world.look()] == [["new approaching"], [], ["over approaching"], []]
    assert world.look(NEAR) == ["new approaching"]


def test_it_rings_once_it_has_held_and_ends_once_it_has_not() -> None:
    world = World()
    assert [world.look(AWAY) for _ in range(10)] == [[]] * 10
    assert world.look(AWAY) == ["new tier away"]
    assert [world.look() for _ in range(5)] == [[]] * 5
    assert [world.look(AWAY), world.look()] == [[], []]  # it flaps: not over
    assert [world.look() for _ in range(10)][-1] == ["over tier away"]


def test_what_comes_and_goes_is_told_when_it_comes_and_once_it_stays_away() -> None:
    world, hour = World(), timedelta(hours=1)
    heard = [what for turn in range(70) for what in world.look(*((NEAR,) if turn % 2 else ()), later=hour)]
    assert heard[:3] == ["new approaching", "over approaching", "new approaching"]
    assert set(heard[3:]) == {"reminder approaching"}, "one a day"
    assert len(heard) <= 3 + 70 // 24
    quiet = [world.look(later=hour) for _ in range(8)]
    assert [what for some in quiet for what in some] == ["over approaching"]
    assert world.look(NEAR, later=hour) == ["new approaching"]


def test_a_pending_one_that_does_not_hold_is_nobodys_news() -> None:
    world = World()
    world.look(AWAY)
    assert world.look() == []
    assert world.state.records == ()


def test_it_rings_again_when_it_is_graver_and_not_when_it_is_less() -> None:
    world, worse = World(), replace(NEAR, severity=Severity.SERIOUS)
    assert [world.look(NEAR), world.look(worse), world.look(NEAR), world.look(worse)] == [
        ["new approaching"], ["worse approaching"], [], [],
    ]  # fmt: skip


def test_what_still_rings_is_told_again_after_a_day() -> None:
    world = World()
    world.look(NEAR)
    assert world.look(NEAR, later=timedelta(hours=23)) == []
    assert world.look(NEAR, later=timedelta(hours=1)) == ["reminder approaching"]
    assert world.look(NEAR) == []


def test_a_clock_that_was_ahead_silences_nothing_once_it_is_right() -> None:
    world = World()
    assert world.look(AWAY, NEAR, later=timedelta(days=1000)) == ["new approaching"]
    world.now = NOON
    heard = [world.look(AWAY, NEAR) for _ in range(24 * 60 + 2)]
    assert [one for one in heard if one] == [["new tier away"], ["reminder approaching"]]
    world.look(later=timedelta(days=1000))
    world.now = NOON + timedelta(days=2)
    assert [one for _ in range(12) if (one := world.look())] == [["over tier away"]], "the other ended at once"


def test_what_is_not_known_neither_ends_nor_rings() -> None:
    world = World()
    world.look(NEAR)
    assert world.look(unsaid=frozenset({(Kind.APPROACHING, "core")})) == []
    assert machine.firing(world.state) == {NEAR.key}
    assert world.look() == ["over approaching"]


def test_in_quiet_hours_only_what_is_urgent_rings_and_the_rest_in_the_morning() -> None:
    world = World(NIGHT, at=NOON.replace(hour=23))
    assert world.look(NEAR, FULL) == ["new breached"]
    assert world.look(NEAR) == []  # its end can wait
    assert world.look(NEAR, later=timedelta(hours=8)) == ["new approaching", "over breached"]


def test_what_is_urgent_is_held_where_it_is_asked_so() -> None:
    world = World(replace(NIGHT, urgent="hold"), at=NOON.replace(hour=23))
    assert world.look(FULL) == []
    assert world.look(FULL, later=timedelta(hours=8)) == ["new breached"]


def test_what_was_over_by_the_morning_is_told_as_what_was() -> None:
    world = World(NIGHT, at=NOON.replace(hour=23))
    assert [world.look(NEAR), world.look()] == [[], []]
    assert world.look(later=timedelta(hours=8)) == ["was approaching"]
    assert world.look() == []


def test_what_was_over_long_ago_is_not_told_to_a_new_target() -> None:
    world = World(targets=("a",))
    world.look(NEAR)
    world.look()
    world.now += timedelta(days=2)
    world.targets = ("b",)
    assert world.look() == []


def test_a_target_that_did_not_hear_is_due_again_and_only_that_one() -> None:
    state = machine.step(State(), Judged((NEAR,)), NOON)
    due = machine.due(state, ["a", "b"], NOON, Rules())
    state = machine.delivered(state, "a", due["a"], NOON)
    state = machine.undelivered(state, "b", "refused", NOON)
    assert list(machine.due(state, ["a", "b"], NOON + MINUTE, Rules())) == ["b"]
    assert state.unheard["b"].cause == "refused"
    assert machine.delivered(state, "b", due["b"], NOON + MINUTE).unheard == {}


def test_two_memories_that_were_kept_apart_ring_nothing_twice() -> None:
    """Main went away after an alert was told; this machine told its end, and a new one, and Main comes back as it was."""
    main = World()
    main.look(NEAR)
    here = World()
    here.state, here.now = main.state, main.now
    assert [here.look(), here.look(FULL)] == [["over approaching"], ["new breached"]]
    merged = World()
    merged.state, merged.now = machine.merge(main.state, here.state), here.now
    assert machine.firing(merged.state) == machine.firing(machine.merge(here.state, main.state)) == {FULL.key}
    assert merged.look(FULL) == []
    assert merged.look() == ["over breached"]


def test_the_memory_is_written_down_whole() -> None:
    world, form = World(), AlertForm()
    world.look(NEAR, replace(AWAY, figures={"x": 1, "y": 0.5, "z": "text"}))
    state = machine.undelivered(world.state, "b", "why", world.now)
    assert form.parse(form.dump(state)) == state
    for wrong in (None, {}, {"version": 2}, {"version": 1, "records": 5}, []):
        with pytest.raises(ValueError, match=r"."):
            form.parse(wrong)


looks = st.lists(
    st.tuples(st.sampled_from(["near", "worse", "none", "unknown"]), st.booleans(), st.booleans(), st.integers(1, 700)),
    max_size=40,
)


@settings(max_examples=80, deadline=None)
@given(looks, st.booleans())
def test_a_listener_hears_a_sensible_story(story: list[tuple[str, bool, bool, int]], at_night: bool) -> None:
    """Whatever happens: no end without a beginning, no beginning twice, and once all is heard the last word is true."""
    rules, now, state = (NIGHT if at_night else Rules()), NOON, State()
    heard: dict[str, list[Notice]] = defaultdict(list)
    for what, is_delivered, crashes, minutes in [*story, *[("none", True, False, minutes) for minutes in (1500, 900, 600)]]:
        now += minutes * MINUTE
        holding = {"near": (NEAR,), "worse": (replace(NEAR, severity=Severity.SERIOUS),)}.get(what, ())
        unsaid = frozenset({(Kind.APPROACHING, "core")} if what == "unknown" else ())
        before, state = state, machine.step(state, Judged(holding, unsaid), now)
        for target, notices in machine.due(state, ["a"], now, rules).items():
            assert not (at_night and rules.is_quiet(now)), "nothing of this is urgent"
            if is_delivered:
                heard[target] += notices
                if not crashes:
                    state = machine.delivered(state, target, notices, now)
                else:
                    heard[target] = heard[target][: -len(notices)]  # heard, and not noted: it will come once more
                    state = before
    rings = False
    for notice in heard["a"]:
        if notice.news in ("new", "worse", "reminder"):
            assert rings == (notice.news != "new")
            rings = True
        elif notice.news == "over":
            assert rings
            rings = False
        else:
            assert not rings
    assert not rings


def test_quiet_hours_are_those_of_the_wall_clock() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    quiet = Quiet.parse("22:00-07:00", "")
    assert quiet.holds(datetime(2026, 7, 1, 20, 30, tzinfo=UTC), berlin)  # 22:30 in summer
    assert not quiet.holds(datetime(2026, 1, 1, 20, 30, tzinfo=UTC), berlin)  # 21:30 in winter
    assert not quiet.holds(datetime(2026, 1, 1, 6, 0, tzinfo=UTC), berlin)
    day = Quiet.parse("09:00 - 17:30", "")
    assert day.holds(NOON, ZoneInfo("UTC"))
    assert not day.holds(NOON.replace(hour=18), ZoneInfo("UTC"))


@pytest.mark.parametrize("text", ["", "22-7", "25:00-07:00", "22:00-22:00", "22:60-07:00", "night"])
def test_bad_quiet_hours_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"alerts\.quiet"):
        Quiet.parse(text, "alerts.quiet")


@pytest.mark.parametrize(("text", "meant"), [("Europe/Berln", "Europe/Berlin"), ("", ""), ("../etc/passwd", ""), ("Europe", "")])
def test_an_unknown_zone_is_refused(text: str, meant: str) -> None:
    with pytest.raises(UsageError, match=r"alerts\.timezone") as caught:
        read_zone(text, "alerts.timezone")
    assert meant in caught.value.remedy


def notices(*conditions: Condition) -> list[Notice]:
    state = machine.step(State(), Judged(conditions), NOON)
    return machine.due(state, ["a"], NOON, Rules())["a"]


def test_a_message_says_what_why_and_what_to_do() -> None:
    told = messages.write(notices(FULL), NOON)
    assert told.title == "tierkeeper: core is over its quota"
    assert told.body.splitlines() == [
        "core is over its quota",
        "Why: 101% used.",
        "Do now: Run `tierkeeper quota`.",
        "(breached: core, urgent)",
    ]


def test_a_flood_is_one_message_that_a_chat_takes() -> None:
    flood = [replace(NEAR, subject=f"table {i}", what=f"table {i} comes near", cause="figures " * 40) for i in range(300)]
    told = messages.write(notices(*flood, FULL), NOON)
    assert told.title == "tierkeeper: 301 to look at"
    assert told.body.startswith("core is over its quota")
    assert len(told.body) <= 1800
    assert told.body.endswith("More is shown by `tierkeeper alert status`.")
