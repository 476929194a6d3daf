"""The scrub and its memory, with a clock that jumps."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from support import eventually
from tierkeeper.homeserver import serve, tokens
from tierkeeper.homeserver.scrub import Scrub
from tierkeeper.homeserver.vault import Vault
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.errors import NotNow
from tierkeeper.objectstore.port import put_object


class Jumping(SystemClock):
    def __init__(self) -> None:
        self.at = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self, server: Callable[[], datetime] | None = None) -> datetime:  # noqa: ARG002 - that is the point
        return self.at

    def days(self, days: float) -> None:
        self.at += timedelta(days=days)


@pytest.fixture
def clock() -> Jumping:
    return Jumping()


@pytest.fixture
def vault(tmp_path: Path, clock: Jumping) -> Iterator[Vault]:
    with closing(Vault(tmp_path, clock)) as vault:
        for _ in range(30):
            put_object(vault.store, "segment", os.urandom(1000))
        vault.start()
        yield vault


def test_it_reads_a_thirtieth_a_day_and_the_longest_unread_first(vault: Vault, clock: Jumping) -> None:
    scrub = Scrub(vault, clock)
    assert scrub.turn() == 0, "nothing is owed on the first day"
    for day in range(1, 31):
        clock.days(1)
        assert scrub.turn() == 1
        assert scrub.turn() == 0
        assert scrub.report().unread == 30 - day
    clock.days(0.5)
    assert scrub.turn() == 1, "half an object is owed"
    clock.days(0.5)
    assert scrub.turn() == 0, "and was read with its first half"
    assert not scrub.report().overdue


def test_a_server_that_was_off_says_that_it_is_overdue_and_catches_up_once(vault: Vault, clock: Jumping) -> None:
    scrub = Scrub(vault, clock)
    scrub.turn()
    clock.days(30.5)
    assert not scrub.report().overdue
    clock.days(100)
    assert scrub.report().overdue
    assert scrub.turn() == 30
    assert scrub.turn() == 0
    assert not scrub.report().overdue
    assert scrub.report().oldest_read_at == clock.now()


def test_it_names_what_is_damaged_and_what_is_gone_until_it_is_mended(vault: Vault, clock: Jumping, tmp_path: Path) -> None:
    scrub, keys = Scrub(vault, clock), sorted(o.key for o in vault.store.list("segment"))
    scrub.turn()
    good = (tmp_path / keys[3]).read_bytes()
    (tmp_path / keys[3]).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    (tmp_path / keys[5]).unlink()
    clock.days(30)
    scrub.turn()
    assert scrub.report().wrong == {keys[3]: "its bytes are not what was put", keys[5]: "it is gone"}
    (tmp_path / keys[3]).write_bytes(good)
    (tmp_path / keys[5]).write_bytes(b"")
    clock.days(30)
    scrub.turn()
    assert scrub.report().wrong == {keys[5]: "its bytes are not what was put"}


def test_what_was_put_back_from_a_copy_is_good_again_within_minutes(vault: Vault, clock: Jumping, tmp_path: Path) -> None:
    """Who was told to put it back must not be told of it for another month."""
    scrub, keys = Scrub(vault, clock), [o.key for o in vault.store.list("segment")]
    good = {key: (tmp_path / key).read_bytes() for key in keys[-2:]}
    (tmp_path / keys[-1]).write_bytes(b"rot")
    (tmp_path / keys[-2]).unlink()
    for key in keys[-2:]:
        vault.check(key)
    scrub.turn()
    assert set(scrub.report().wrong) == set(keys[-2:])
    for key, data in good.items():
        (tmp_path / key).write_bytes(data)
    clock.days(5 / 1440)
    scrub.turn()
    assert set(scrub.report().wrong) == set(keys[-2:]), "a failing disk is not read all the time"
    clock.days(6 / 1440)
    scrub.turn()
    assert scrub.report().wrong == {}


def test_it_stops_when_it_is_asked_to_and_goes_on_later(vault: Vault, clock: Jumping) -> None:
    scrub = Scrub(vault, clock)
    scrub.turn()
    clock.days(30)
    asked = iter([False, False, True])
    assert scrub.turn(lambda: next(asked)) == 2
    assert scrub.turn() == 28


def test_uploads_that_nobody_goes_on_with_are_given_up(vault: Vault, clock: Jumping, tmp_path: Path) -> None:
    token, _ = tokens.mint("laptop", "writer", clock.now(), clock.now() + timedelta(days=1), 5_000)
    vault.state.add_token(token)
    key = "segment/" + "0" * 64
    with vault.receiving(token, key, 0, 5_000) as part:
        part.write(b"x" * 10)
    (path,) = (tmp_path / "server" / "uploads").iterdir()
    os.utime(path, (clock.now().timestamp(),) * 2)
    clock.days(6.9)
    vault.sweep()
    assert vault.offset(token, key) == 10
    assert vault.state.used_bytes(token.id) == 5_000
    clock.days(0.2)
    vault.sweep()
    assert vault.offset(token, key) is None
    assert vault.state.used_bytes(token.id) == 0


def test_what_a_clock_that_was_ahead_has_read_is_read_again(vault: Vault, clock: Jumping) -> None:
    """Else one object alone would be read again and again until that day, and nothing would ever be overdue."""
    scrub = Scrub(vault, clock)
    scrub.turn()
    clock.days(3_650)
    assert scrub.turn() == 30
    clock.days(-3_649)
    assert scrub.turn() == 0
    assert scrub.report().unread == 30
    for _ in range(30):
        clock.days(1)
        scrub.turn()
    assert scrub.report().unread == 0
    assert not scrub.report().overdue


def test_an_object_that_cannot_even_be_opened_is_named_and_stops_nothing(vault: Vault, clock: Jumping, tmp_path: Path) -> None:
    scrub, key = Scrub(vault, clock), next(vault.store.list("segment")).key
    scrub.turn()
    (tmp_path / key).unlink()
    (tmp_path / key).mkdir()
    clock.days(30)
    assert scrub.turn() == 30
    assert scrub.report().wrong == {key: "the disk does not give it back (Is a directory)"}


def test_a_process_without_descriptors_finds_nothing_damaged(
    vault: Vault, clock: Jumping, monkeypatch: pytest.MonkeyPatch
) -> None:
    scrub = Scrub(vault, clock)
    scrub.turn()
    clock.days(30)

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        with pytest.raises(NotNow, match="Too many open files"):
            scrub.turn()
    assert scrub.report().wrong == {}
    assert scrub.turn() == 30


def test_whoever_asks_for_its_health_costs_little(vault: Vault, clock: Jumping) -> None:
    scrub = Scrub(vault, clock)
    before = scrub.recent()
    put_object(vault.store, "segment", b"new")
    vault.start()
    assert scrub.recent() is before
    clock.days(-1)
    assert scrub.recent().objects == 31


def test_the_servers_own_work_goes_on_whatever_fails(vault: Vault, clock: Jumping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "SCRUB_LOOK_SECONDS", 0.01)
    calls = list[int]()

    def renew() -> None:
        calls.append(1)
        raise ValueError("a certificate that is none")

    with serve._keeping(vault, Scrub(vault, clock), renew):
        assert eventually(lambda: len(calls) > 2)
