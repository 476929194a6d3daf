"""Connections for questions that are asked side by side."""

from collections.abc import Callable
from threading import Barrier, Event
from typing import cast

import pytest

from tierkeeper.postgres.keeping import Asides
from tierkeeper.postgres.session import Session

ONE, TWO = (cast("Session", name) for name in ("one", "two"))


def met(barrier: Barrier) -> Callable[[Session], Session]:
    """A question that is answered only while as many others are as the barrier has parties."""

    def ask(conn: Session) -> Session:
        barrier.wait(10)
        return conn

    return ask


def test_as_many_questions_are_open_at_once_as_there_are_connections() -> None:
    both = Barrier(2)
    with Asides([ONE, TWO]) as asides:
        answers = [asides.ask(met(both)) for _ in range(4)]
        assert [answer() for answer in answers] == [ONE, TWO, ONE, TWO]


def test_a_connection_is_asked_one_question_at_a_time() -> None:
    first, asked = Event(), list[str]()

    def slow(_: Session) -> None:
        first.wait(10)
        asked.append("first")

    with Asides([ONE]) as asides:
        asides.ask(slow)
        second = asides.ask(lambda _: asked.append("second"))
        first.set()
        second()
    assert asked == ["first", "second"]


def test_a_connection_is_taken_when_its_last_answer_is_there_and_the_last_one_stays() -> None:
    answered = list[Session]()
    with Asides([ONE, TWO]) as asides:
        for _ in range(2):
            asides.ask(answered.append)
        assert asides.take() == TWO
        assert TWO in answered
        assert asides.take() is None
        assert asides.last == ONE


def test_who_wants_the_answer_gets_the_error() -> None:
    def ask(_: Session) -> None:
        raise ValueError("no")

    with Asides([ONE]) as asides:
        answer = asides.ask(ask)
        with pytest.raises(ValueError, match="no"):
            answer()
