"""Stages of a pipeline: in order, at most one step apart, and no error is lost."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path

import pytest

from tierkeeper.kernel.ahead import Beside, ahead, drawn, preload


def failing(what: object = None) -> None:
    raise LookupError(what)


def test_results_come_in_order_and_one_item_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(5):
            taken.append(n)
            yield n

    seen = []
    for result in ahead(lambda n: n * n, items()):
        seen.append((result, len(taken)))
    assert seen == [(0, 2), (1, 3), (4, 4), (9, 5), (16, 5)]
    assert list(ahead(str, [])) == []


def test_one_that_is_alone_is_done_with_before_the_next_is_taken() -> None:
    taken: list[int] = []
    done = ahead(lambda n: n, (taken.append(n) or n for n in range(4)), alone=lambda n: n % 2 == 1)
    assert [(n, len(taken)) for n in done] == [(0, 2), (1, 2), (2, 4), (3, 4)]


def test_what_the_work_or_the_items_raise_comes_out() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError

    for made in (ahead(failing, [1]), ahead(failing, [1, 2, 3]), ahead(lambda n: n, broken())):
        with pytest.raises(LookupError):
            list(made)


def test_the_next_is_drawn_while_one_is_with_its_taker_unless_that_one_is_alone() -> None:
    made: list[int] = []
    at_hand = threading.Condition()

    def items() -> Iterator[int]:
        for n in range(5):
            with at_hand:
                made.append(n)
                at_hand.notify_all()
            yield n

    with closing(drawn(items(), alone=lambda n: n == 2)) as numbers:
        for n in numbers:
            with at_hand:
                coming = at_hand.wait_for(lambda n=n: n + 1 in made, timeout=0.2 if n in (2, 4) else 30)
            assert coming == (n not in (2, 4))
            assert len(made) <= n + 2
    assert made == list(range(5))
    assert list(drawn(iter([]))) == []


def test_what_is_raised_while_one_draws_comes_out_in_its_place() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError

    seen = []
    with pytest.raises(KeyError):
        seen.extend(drawn(broken()))
    numbers = drawn(broken())
    assert next(numbers) == 1
    with pytest.raises(KeyError):
        next(numbers)


def test_who_stops_drawing_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with closing(drawn(iter(range(10)))) as numbers:
        assert next(numbers) == 0
    assert threading.active_count() == before


def test_who_stops_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with closing(ahead(lambda n: n, range(10))) as made:
        assert next(made) == 0
    assert threading.active_count() == before


@pytest.mark.parametrize("calls_after", [0, 1])
def test_what_a_call_beside_raises_is_raised_at_the_latest_at_the_end(calls_after: int) -> None:
    done: list[int] = []
    with pytest.raises(LookupError), Beside("x") as beside:
        beside(failing)
        for n in range(calls_after):
            beside(done.append, n)
    assert done == []


def test_calls_beside_follow_each_other_and_are_done_when_the_block_is() -> None:
    done: list[int] = []
    with Beside("x") as beside:
        for n in range(100):
            beside(done.append, n)
    assert done == list(range(100))


def test_the_first_error_is_the_one_that_is_told() -> None:
    with pytest.raises(ZeroDivisionError), Beside("x") as beside:
        beside(failing)
        raise ZeroDivisionError


def test_a_module_is_loaded_beside_and_whoever_needs_it_gets_it_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "loaded_beside.py").write_text("import time\ntime.sleep(0.2)\nWHOLE = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    began = time.monotonic()
    preload("loaded_beside")
    assert time.monotonic() - began < 0.1
    while "loaded_beside" not in sys.modules:
        time.sleep(0.001)
    assert import_module("loaded_beside").WHOLE
    preload("loaded_beside")
    assert not [t for t in threading.enumerate() if t.name == "preload" and t.is_alive()]


def test_a_module_that_cannot_be_loaded_is_whoever_needs_its_error() -> None:
    preload("no_such_module_anywhere")
    with pytest.raises(ModuleNotFoundError):
        import_module("no_such_module_anywhere")
