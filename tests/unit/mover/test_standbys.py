"""I1: one of a destination's standbys may be the tier tomorrow. Which of them a copy waits for, look after look."""

import pytest

from tierkeeper.mover.standbys import Standby, Standbys

BEHIND, THERE = True, False


def told(*looks: list[Standby]) -> str | None:
    standbys, last = Standbys("0/1"), None
    for look in looks:
        last = standbys.waits_for(look, "main")
    return last


def sender(pid: int, behind: bool, name: str = "a", slot: str | None = None) -> Standby:
    return Standby(pid, slot, name, behind)


@pytest.mark.parametrize(
    "looks",
    [
        [[]],
        [[sender(1, THERE)]],
        [[sender(1, BEHIND)], [sender(1, THERE)]],
        [[sender(1, BEHIND)], [sender(1, THERE)], []],  # what has confirmed may go
        [[sender(1, BEHIND)], [], [sender(2, THERE)]],  # it is back
        [[sender(1, BEHIND)], [], [sender(2, BEHIND)], [sender(2, THERE)]],
        [[sender(1, BEHIND, slot="s")], [Standby(None, "s", "", BEHIND)], []],  # its slot was dropped
        [[sender(1, BEHIND)], [], [sender(2, BEHIND)], [], [sender(3, THERE)]],
    ],
)
def test_each_has_confirmed(looks: list[list[Standby]]) -> None:
    assert told(*looks) is None


@pytest.mark.parametrize(
    ("looks", "cause"),
    [
        ([[sender(1, BEHIND)]], "1 standby of main (a) that has not confirmed"),
        ([[sender(1, BEHIND, name="")]], "1 standby of main that has not confirmed the copy, or that this role may not see"),
        ([[sender(1, THERE), sender(2, BEHIND, slot="s")]], "(s) that has not confirmed"),
        ([[Standby(None, "it's", "", BEHIND)]], "pg_drop_replication_slot('it''s')"),
        ([[sender(1, BEHIND)], []], "(a) that went away"),
        ([[sender(1, BEHIND), sender(2, THERE)], [sender(2, THERE)]], "(a) that went away"),  # another one of that name
        ([[sender(1, BEHIND)], [sender(2, THERE, name="b")]], "(a) that went away"),
        ([[sender(1, BEHIND)], [], [sender(2, BEHIND)], []], "(a) that went away"),
    ],
)
def test_one_has_not(looks: list[list[Standby]], cause: str) -> None:
    assert cause in (told(*looks) or "")
