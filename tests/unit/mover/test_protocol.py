"""The protocol's model: what mover and readers rely on, either way, holds in every interleaving (I1, I2, I4, I5)."""

from dataclasses import replace

import pytest

from protocol_model import FAULTS, LARGE, SMALL, Game, explore


@pytest.mark.parametrize("game", SMALL, ids=lambda g: str(g.hops))
def test_one_batch_either_way_breaks_nothing(game: Game) -> None:
    states, why, trace = explore(game)
    assert why is None, trace
    assert states > 9_000


@pytest.mark.parametrize(("fault", "game"), [f for f in FAULTS if f[1] in SMALL], ids=lambda f: f if isinstance(f, str) else "")
def test_a_planted_fault_breaks_something(fault: str, game: Game) -> None:
    assert explore(replace(game, fault=fault))[1] is not None


@pytest.mark.long
@pytest.mark.parametrize("game", LARGE, ids=lambda g: str(g.hops))
def test_batches_beside_and_after_each_other_break_nothing(game: Game) -> None:
    _, why, trace = explore(game)
    assert why is None, trace


@pytest.mark.long
@pytest.mark.parametrize(("fault", "game"), [f for f in FAULTS if f[1] in LARGE], ids=lambda f: f if isinstance(f, str) else "")
def test_a_fault_that_needs_two_batches_breaks_something(fault: str, game: Game) -> None:
    assert explore(replace(game, fault=fault))[1] is not None
