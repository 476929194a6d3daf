"""Places in one heap or in several: what is written down names the same rows when it is read again."""

from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.places import Arm, Going, predicate, split
from tierkeeper.postgres.references import Reference, owned

T, PART, OTHER, CHILD = (TableName("public", name) for name in ("t", "t_1", "t_2", "child"))
tids = st.builds("({},{})".format, st.integers(0, 2**32 - 2), st.integers(1, 2**11))
heaps = st.dictionaries(st.integers(1, 2**32 - 1), st.lists(tids, min_size=1, max_size=5, unique=True), min_size=1, max_size=5)


def reference(**more: object) -> Reference:
    at = {"child_at": CHILD, "parent_at": T, **more}
    return Reference("fk", at["child_at"], ("c",), at["parent_at"], ("p",), ("=",), "c", deferrable=False, **at)  # type: ignore[arg-type]


@given(heaps)
def test_each_heap_comes_back_with_its_places(places: dict[int, list[str]]) -> None:
    found = split(predicate([f"{oid} {tid}" for oid, tids in places.items() for tid in tids]))
    assert {oid for oid, _ in found} == set(places) and len(found) == len(places)
    for oid, condition in found:
        assert condition == predicate(places[oid])


@given(st.lists(tids, min_size=1, unique=True))
def test_places_of_one_heap_name_none(places: list[str]) -> None:
    assert split(predicate(places)) == []


def test_a_users_condition_is_never_taken_for_places() -> None:
    inside = predicate(["7 (0,1)", "8 (0,2)"])
    for condition in (f"{inside} AND true", f"id > 3 AND {inside}", f"({inside})", inside[1:-1], "true", ""):
        assert split(condition) == [], condition


def test_a_foreign_key_means_the_heaps_below_what_it_points_at() -> None:
    arms = (Arm(PART, "ctid = 1", 7, (T,)), Arm(OTHER, "ctid = 2", 8, (TableName("public", "sub"), T)), Arm(T, "ctid = 3", 9))
    met = {
        (at, whole): [a.heap for a in arms if a.lies_in(at, T, whole=whole)]
        for at in (T, PART, TableName("public", "sub"))
        for whole in (True, False)
    }
    assert met[T, True] == [PART, OTHER, T] and met[T, False] == [T]
    assert met[PART, False] == [PART] == met[PART, True]
    assert met[TableName("public", "sub"), True] == [OTHER]


def test_a_place_in_another_heap_is_another_row() -> None:
    """A table that came to inherit since its rows were looked at: what it has at the same places stays."""
    going = Going(T, "ctid = 1", (Arm(T, "ctid = 1"),))
    assert "ctid = 1" in going.outside(reference(child_at=T)).as_string(None)
    assert "(false) IS NOT TRUE" in going.outside(reference(child_at=PART, child_above=(T,))).as_string(None)


def test_an_end_belongs_to_the_nearest_table_that_is_named() -> None:
    leaf, whole = reference(parent_at=PART, parent_above=(T,)), reference(parent_whole=True)
    said_again = reference(parent_at=PART, parent_above=(T,), repeated=True)
    assert [r.parent for r in owned([leaf, whole, said_again], {T, CHILD})] == [T, T]
    assert [r.parent for r in owned([leaf, whole, said_again], {PART, CHILD})] == [PART, T, PART]
    assert [r.parent for r in owned([leaf, whole, said_again], {T, PART})] == [PART, T, PART]
    assert owned([reference(child_at=PART, child_above=(T,))], {T})[0].child == T
