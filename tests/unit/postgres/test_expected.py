"""Connections that are dialled before anybody asks for them."""

from contextlib import suppress
from dataclasses import dataclass
from itertools import permutations
from threading import Event
from unittest.mock import ANY

import psycopg
import pytest

from support import eventually
from tierkeeper.postgres.expected import Expected


@dataclass(eq=False)
class Conn:
    """A connection to `address`."""

    address: str
    closed: bool = False

    def close(self) -> None:
        self.closed = True


def test_whoever_dials_gets_what_was_expected_and_each_only_once() -> None:
    expected = Expected(Conn)
    for address in ("one", "one", "two"):
        expected.expect(address)
    taken = [expected.take(address) for address in ("one", "two", "one", "one", "three")]
    assert [conn and conn.address for conn in taken] == ["one", "two", "one", None, None]
    assert taken[0] is not taken[2]


def test_what_dialling_raised_is_raised_where_it_is_wanted() -> None:
    def refused(address: str) -> Conn:
        raise psycopg.OperationalError(address)

    expected = Expected(refused)
    expected.expect("one")
    with pytest.raises(psycopg.OperationalError, match="one"):
        expected.take("one")
    assert expected.take("one") is None, "the next one is dialled anew"


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_who_is_needed_last_goes_without_whoever_comes_first(order: tuple[int, ...]) -> None:
    """Each once; another place's are not theirs."""
    needed = ("core:setup", "core:mover", "core:budget", "core:last")
    refused = {"core:setup", "core:budget"}

    def few(address: str) -> Conn:
        if address in refused:
            raise psycopg.OperationalError(address)
        return Conn(address)

    expected = Expected(few, lambda address: address.partition(":")[0])
    for address in ("main:one", *needed, "main:two"):
        expected.expect(address)
    got = dict[str, Conn | None]()
    for at in order:
        with suppress(psycopg.OperationalError):
            got[needed[at]] = expected.take(needed[at])
    assert {address: conn.address for address, conn in got.items() if conn} == dict.fromkeys(needed[:2], ANY)
    assert {conn.address for conn in got.values() if conn} == {"core:mover", "core:last"}
    assert [conn and conn.address for conn in map(expected.take, ("main:two", "main:one"))] == ["main:two", "main:one"]


def test_who_is_needed_first_asks_once_more_where_a_refusal_may_be_over() -> None:
    def refused(address: str) -> Conn:
        raise psycopg.OperationalError(f"{address} is full" if address != "away" else address)

    expected = Expected(refused, lambda _: "one place", lambda error: "full" in str(error))
    for address in ("first", "last", "away"):
        expected.expect(address)
    with pytest.raises(psycopg.OperationalError):
        expected.take("last")
    assert expected.take("first") is None
    with pytest.raises(psycopg.OperationalError, match="away"):
        expected.take("away")


def test_what_nobody_wanted_is_closed_and_not_waited_for() -> None:
    dialled, answers = list[Conn](), Event()

    def slow(address: str) -> Conn:
        assert address == "there" or answers.wait(30)
        dialled.append(Conn(address))
        return dialled[-1]

    expected = Expected(slow)
    expected.expect("there")
    expected.expect("late")
    assert eventually(lambda: len(dialled) == 1)
    expected.close()
    assert eventually(lambda: dialled[0].closed)
    assert len(dialled) == 1
    answers.set()
    assert eventually(lambda: len(dialled) == 2 and dialled[1].closed)
