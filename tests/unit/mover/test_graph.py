"""Which rows hang together: against the plainest closure there is."""

from collections.abc import Collection

from hypothesis import given, settings
from hypothesis import strategies as st

from tierkeeper.mover.graph import LATER, Found, Row, explore, take

ROWS = [(table, f"({page},1)") for table in range(3) for page in range(8)]
rows = st.sampled_from(ROWS)
pairs = st.lists(st.tuples(rows, rows), max_size=30)


def closure(seed: Row, edges: Collection[tuple[Row, Row]]) -> set[Row]:
    found = {seed}
    while more := {x for edge in edges if found & set(edge) for x in edge} - found:
        found |= more
    return found


def found_in(
    seeds: list[Row], edges: Collection[tuple[Row, Row]], young: Collection[Row], most_rows: int = 99, most_seen: int = 99
) -> Found:
    def look(asked: Collection[Row]) -> dict[Row, str | None]:
        return {row: "young" if row in young else None for row in asked}

    def neighbours(asked: Collection[Row]) -> list[tuple[Row, Row]]:
        return [edge for edge in edges if edge[0] in asked or edge[1] in asked]

    return explore(seeds, look, neighbours, most_rows=most_rows, most_seen=most_seen)


@given(st.lists(rows, min_size=1, unique=True), pairs, st.sets(rows, max_size=4))
def test_a_component_goes_whole_or_stays_whole(seeds: list[Row], edges: list[tuple[Row, Row]], young: set[Row]) -> None:
    found = found_in(seeds, edges, young)
    whole = {frozenset(closure(seed, edges)) for seed in seeds}
    assert {frozenset(c) for c in found.goes} == {c for c in whole if not c & young}
    assert sum(found.stays.values()) >= sum(1 for c in whole if c & young)  # what stays is not followed to its end
    assert bool(found.stays) == any(c & young for c in whole)


@given(st.lists(rows, min_size=1, unique=True), pairs, st.sets(rows, max_size=4), st.integers(1, 6), st.integers(0, 6))
@settings(max_examples=300)
def test_limits_only_ever_keep_rows(
    seeds: list[Row], edges: list[tuple[Row, Row]], young: set[Row], most_rows: int, more: int
) -> None:
    """Whatever the bounds: what goes is a whole component that nothing keeps, and one seed is always followed to its end."""
    found = found_in(seeds, edges, young, most_rows, most_rows + more)
    may_go = {
        frozenset(closure(s, edges)) for s in seeds if not closure(s, edges) & young and len(closure(s, edges)) <= most_rows
    }
    assert {frozenset(c) for c in found.goes} <= may_go
    if LATER not in found.stays:
        assert {frozenset(c) for c in found.goes} == may_go
    for seed in seeds:
        assert LATER not in found_in([seed], edges, young, most_rows, most_rows + more).stays


def test_what_does_not_fit_is_left_whole() -> None:
    assert take([ROWS[:3], ROWS[3:8], ROWS[8:10]], 5) == ([*ROWS[:3], *ROWS[8:10]], False)
    assert take([ROWS[:3]], None) == (ROWS[:3], True)
