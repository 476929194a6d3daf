"""Manifests line up as the catalog had them, whatever killed runs left between them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.archive.chain import line_up
from tierkeeper.archive.model import Manifest

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def manifest(position: int, previous: str | None, hours: int = 0) -> Manifest:
    return Manifest.model_construct(
        segment=uuid4(), batch=uuid4(), position=position, previous=previous, created_at=T0 + timedelta(hours=hours)
    )


def test_nothing_is_an_empty_chain() -> None:
    lined_up = line_up({}, ())
    assert (lined_up.chain, lined_up.gaps, lined_up.beside, lined_up.rivals, lined_up.forks) == ({}, [], [], [], [])


def test_what_counts_takes_its_place_from_a_bundle_that_never_came_in() -> None:
    """Two manifests of a bundle were put, then the run was killed; the next one's single segment counts."""
    held = {"a": manifest(1, None), "x": manifest(2, "a"), "y": manifest(3, "x"), "b": manifest(2, "a", 1)}
    lined_up = line_up(held, {"a", "b"})
    assert lined_up.chain == {1: "a", 2: "b"}
    assert (lined_up.beside, lined_up.rivals) == (["x"], ["y"])


def test_an_undone_one_in_the_middle_keeps_its_place() -> None:
    held = {"a": manifest(1, None), "u": manifest(2, "a"), "c": manifest(3, "u")}
    assert line_up(held, {"a", "c"}).chain == {1: "a", 2: "u", 3: "c"}


def test_of_several_ends_that_do_not_count_the_longest_and_newest_is_gone_on_from() -> None:
    held = {
        "a": manifest(1, None),
        "x": manifest(2, "a", 5),
        "y": manifest(2, "a", 1),
        "z": manifest(3, "y", 1),
        "w": manifest(3, "y", 2),
    }
    lined_up = line_up(held, {"a"})
    assert lined_up.chain == {1: "a", 2: "y", 3: "w"}
    assert lined_up.rivals == ["x", "z"]


def test_a_lost_manifest_leaves_a_gap_and_no_more() -> None:
    held = {"a": manifest(1, None), "c": manifest(3, "b"), "d": manifest(4, "c")}
    lined_up = line_up(held, {"a", "c", "d"})
    assert (lined_up.chain, lined_up.gaps) == ({1: "a", 3: "c", 4: "d"}, [2])


def test_two_that_count_in_one_place_are_a_fork() -> None:
    held = {"a": manifest(1, None), "b": manifest(2, "a"), "c": manifest(2, "a")}
    assert len(line_up(held, {"a", "b", "c"}).forks) == 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), max_size=12), st.randoms(use_true_random=False))
def test_what_the_catalog_had_comes_out_of_any_heap_of_manifests(steps: list[tuple[bool, int]], dice: Random) -> None:
    """Steps: a segment enters the catalog, after some manifests that were put and never entered; it counts or was undone."""
    held: dict[str, Manifest] = {}
    chain: dict[int, str] = {}
    counting: set[str] = set()
    for counts, strays in steps:
        position, previous = len(chain) + 1, chain.get(len(chain))
        for n in range(strays):
            held[f"stray {position} {n}"] = manifest(position, previous)
        name = f"entered {position}"
        held[name] = manifest(position, previous)
        chain[position] = name
        counting |= {name} if counts else set()
    last = max((held[c].position for c in counting), default=0)
    lined_up = line_up(shuffled(held, dice), counting)
    assert {p: s for p, s in lined_up.chain.items() if p <= last} == {p: s for p, s in chain.items() if p <= last}
    assert len(lined_up.chain) == len(chain)
    assert not lined_up.forks
    assert not lined_up.gaps
    assert not counting & {*lined_up.beside, *lined_up.rivals}
    assert {*lined_up.chain.values(), *lined_up.beside, *lined_up.rivals} == set(held)


def shuffled(held: Mapping[str, Manifest], dice: Random) -> dict[str, Manifest]:
    names = list(held)
    dice.shuffle(names)
    return {name: held[name] for name in names}
