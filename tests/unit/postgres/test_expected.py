"""Connections that are dialled before anybody asks for them."""

from dataclasses import dataclass
from threading import Event

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


def test_one_that_is_needed_later_stands_in_for_one_that_was_refused() -> None:
    """Each once, the last of the same place first; what comes later never takes what is needed before it."""
    refused = {"core:setup", "core:third", "main:one"}

    def few(address: str) -> Conn:
        if address in refused:
            raise psycopg.OperationalError(address)
        return Conn(address)

    expected = Expected(few, lambda address: address.partition(":")[0])
    for address in ("main:one", "core:setup", "core:mover", "core:mover", "core:last", "core:third"):
        expected.expect(address)
    for address in ("main:one", "core:third"):
        with pytest.raises(psycopg.OperationalError, match=address):
            expected.take(address)
    taken = [expected.take(address) for address in ("core:setup", "core:mover", "core:mover", "core:last")]
    assert [conn and conn.address for conn in taken] == ["core:last", "core:mover", "core:mover", None]


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
