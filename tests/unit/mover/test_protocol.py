"""The protocol's model: what mover and readers rely on, either way, holds in every interleaving (I1, I2, I4, I5)."""

from dataclasses import replace

import pytest

import horizon_model
from protocol_model import FAULTS, FORGETFUL, LARGE, SMALL, TOLD, TOLD_LARGE, UNTOLD, Game, explore


@pytest.mark.parametrize("game", SMALL, ids=lambda g: str(g.hops))
def test_one_batch_either_way_breaks_nothing(game: Game) -> None:
    states, why, trace = explore(game)
    assert why is None, trace
    assert states > 9_000


@pytest.mark.parametrize("game", FORGETFUL, ids=lambda g: str(g.hops))
def test_a_source_that_loses_its_memory_breaks_nothing(game: Game) -> None:
    """What it left in flight stays so, with the only copy of a row in it, until a person tells what became of the rows."""
    _, why, trace = explore(game)
    assert why is None, trace


@pytest.mark.parametrize("game", TOLD, ids=lambda g: g.word)
def test_a_reader_that_skips_main_by_cores_word_misses_no_row(game: Game) -> None:
    _, why, trace = explore(game)
    assert why is None, trace


@pytest.mark.parametrize("game", UNTOLD, ids=lambda g: g.word + (", and an older program goes on" if g.older else ""))
def test_a_word_that_a_killed_run_leaves_ungiven_makes_a_reader_miss_a_row(game: Game) -> None:
    _, why, trace = explore(game)
    assert why == "I2: a reader alone saw [], the row was (0,)"
    assert "batch 0: killed" in trace


@pytest.mark.parametrize(
    ("fault", "game"), [f for f in FAULTS if f[1] in (*SMALL, *FORGETFUL, *TOLD)], ids=lambda f: f if isinstance(f, str) else ""
)
def test_a_planted_fault_breaks_something(fault: str, game: Game) -> None:
    assert explore(replace(game, fault=fault))[1] is not None


@pytest.mark.long
@pytest.mark.parametrize("game", (*LARGE, *TOLD_LARGE), ids=lambda g: str(g.hops))
def test_batches_beside_and_after_each_other_break_nothing(game: Game) -> None:
    _, why, trace = explore(game)
    assert why is None, trace


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "game"), [f for f in FAULTS if f[1] in (*LARGE, *TOLD_LARGE)], ids=lambda f: f if isinstance(f, str) else ""
)
def test_a_fault_that_needs_two_batches_breaks_something(fault: str, game: Game) -> None:
    assert explore(replace(game, fault=fault))[1] is not None


@pytest.mark.long
def test_a_key_that_is_used_again_is_counted_once() -> None:
    """However a run that looks for it, moves, thaws, a mirror and a reader come between each other."""
    states, trace = horizon_model.explore(2)
    assert (trace, states > 50_000) == ([], True)
    states, trace = horizon_model.explore(1, mirrors=1)
    assert (trace, states > 10_000) == ([], True)


@pytest.mark.long
def test_a_key_that_is_used_again_and_again_is_counted_once() -> None:
    assert horizon_model.explore(4)[1] == []
    assert horizon_model.explore(2, mirrors=2)[1] == []


@pytest.mark.parametrize("fault", horizon_model.FAULTS)
def test_a_fault_of_a_horizon_counts_a_key_twice(fault: str) -> None:
    assert horizon_model.explore(2, fault, mirrors=int("mirror" in fault))[1] != []
