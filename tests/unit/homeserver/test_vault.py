"""Uploads that meet: what one request holds, no other takes away, and none is written without its reservation."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from tierkeeper.homeserver import tokens, vault
from tierkeeper.homeserver.tokens import Token
from tierkeeper.homeserver.vault import Busy, OffsetMismatch, Vault
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.errors import Failed, NotNow
from tierkeeper.kernel.limits import UPLOAD_IDLE_SECONDS, UPLOADS_MAX

DATA = b"twenty bytes of text"
KEY = f"segment/{hashlib.sha256(DATA).hexdigest()}"
CLOCK = SystemClock()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Vault]:
    with closing(Vault(tmp_path, CLOCK)) as kept:
        kept.start()
        yield kept


@pytest.fixture
def token(kept: Vault) -> Token:
    return minted(kept, "writer", 50)


def minted(kept: Vault, name: str, quota_bytes: int | None) -> Token:
    now = CLOCK.now()
    token, _ = tokens.mint(name, "writer", now, now + timedelta(days=1), quota_bytes)
    kept.state.add_token(token)
    return token


def parts(kept: Vault) -> list[Path]:
    return list(kept._parts.iterdir())


def half(kept: Vault, token: Token, key: str = KEY, length_bytes: int = len(DATA)) -> None:
    with kept.receiving(token, key, 0, length_bytes) as part:
        part.write(DATA[:10])


CALLS: dict[str, Callable[[Vault, Token], object]] = {
    "DELETE": lambda kept, token: kept.give_up(token, KEY),
    "PATCH": lambda kept, token: kept.receiving(token, KEY, 0, len(DATA)).__enter__(),
    "PUT": lambda kept, token: kept.receiving_whole(token, KEY, len(DATA)).__enter__(),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_a_request_is_writing_no_other_takes_away(kept: Vault, token: Token, call: str) -> None:
    """Else it would write on, into a file without a name, which no quota counts."""
    with kept.receiving(token, KEY, 0, len(DATA)) as part:
        part.write(DATA[:10])
        with pytest.raises(Busy):
            CALLS[call](kept, token)
        kept.sweep(-1)
        assert [p.stat().st_size for p in parts(kept)] == [10]
        assert kept.state.used_bytes(token.id) == len(DATA)
        part.write(DATA[10:])
        assert kept.finish(part)
    assert kept.store.get(KEY) == DATA
    assert (parts(kept), kept.state.uploads()) == ([], [])


def test_an_object_that_comes_at_once_takes_the_place_of_an_upload_and_leaves_nothing(kept: Vault, token: Token) -> None:
    half(kept, token)
    for wrong in (True, False):
        with suppress(Failed), kept.receiving_whole(token, KEY, len(DATA)) as part:
            part.write(DATA[::-1] if wrong else DATA)
            kept.finish(part)
        assert (parts(kept), kept.state.uploads()) == ([], [])
        assert (kept.store.head(KEY) is None) == wrong
    assert kept.state.used_bytes(token.id) == len(DATA)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_bytes_that_the_disk_did_not_take_are_never_counted_on_again(
    kept: Vault, token: Token, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A second fsync of the same file says that all is well: the system has forgotten which pages it could not write."""

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with kept.receiving(token, KEY, 0, len(DATA)) as part:
        part.write(DATA)
        with monkeypatch.context() as patch:
            patch.setattr("tierkeeper.objectstore.directory.os.fsync", fail)
            with pytest.raises((Failed, NotNow)):
                kept.finish(part)
    assert kept.offset(token, KEY) is None
    assert (parts(kept), kept.state.uploads()) == ([], [])


def test_what_lies_among_the_uploads_and_nobody_knows_goes_at_the_start(kept: Vault, token: Token) -> None:
    """As where the server's memory was lost, or put back from a copy."""
    half(kept, token)
    (kept._parts / "0-segment-0").write_bytes(DATA)
    kept.start()
    assert kept.offset(token, KEY) == 10
    assert len(parts(kept)) == 1
    kept.state.ended(token.id, KEY, None)
    kept.start()
    assert parts(kept) == []


def test_uploads_that_their_token_has_left_lying_make_way_for_another(kept: Vault, token: Token) -> None:
    keys = [f"segment/{n:064x}" for n in range(3)]
    for key in keys[:2]:
        half(kept, token, key, 20)
    with pytest.raises(NotNow, match="quota"):
        half(kept, token, keys[2], 20)
    assert len(parts(kept)) == 2, "what was refused leaves nothing"
    old = CLOCK.now().timestamp() - UPLOAD_IDLE_SECONDS - 1
    os.utime(kept._part(token.id, keys[0]), (old, old))
    half(kept, token, keys[2], 20)
    assert [kept.offset(token, key) for key in keys] == [None, 10, 10]
    assert kept.state.used_bytes(token.id) == 40


def test_a_token_has_a_bounded_number_of_uploads_under_way(kept: Vault) -> None:
    token, other = minted(kept, "many", None), minted(kept, "other", None)
    for number in range(UPLOADS_MAX):
        kept.state.begin(token, f"segment/{number:064x}", 1)
    with pytest.raises(NotNow, match=f"{UPLOADS_MAX} uploads under way"):
        kept.state.begin(token, KEY, 1)
    half(kept, other)


def test_a_disk_is_never_promised_whole(kept: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    token, keys = minted(kept, "large", None), [f"segment/{n:064x}" for n in range(2)]
    disk = os.statvfs(kept._parts)
    free = disk.f_bavail * disk.f_frsize
    monkeypatch.setattr(vault, "DISK_SPARE_BYTES", 1_000_000_000)
    half(kept, token, keys[0], (free - 1_000_000_000) * 2 // 3)
    with pytest.raises(NotNow, match="no room"):
        half(kept, token, keys[1], (free - 1_000_000_000) * 2 // 3)
    assert [key for _, key, _ in kept.state.uploads()] == [keys[0]]
    assert len(parts(kept)) == 1
    half(kept, token, keys[1], 1_000)


def test_a_server_that_has_no_descriptors_left_is_not_now(kept: Vault, token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(vault.os, "open", fail)
        with pytest.raises(NotNow, match="Too many open files"):
            half(kept, token)
    assert kept.state.uploads() == []


def test_an_object_that_is_deleted_before_it_is_entered_is_not_missed(
    kept: Vault, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = kept.state.ended

    def deleted_first(*args: str, **more: bool) -> None:
        kept.delete("admin", KEY)
        ended(*args, **more)

    monkeypatch.setattr(kept.state, "ended", deleted_first)
    with kept.receiving(token, KEY, 0, len(DATA)) as part:
        part.write(DATA)
        kept.finish(part)
    assert not kept.state.knows(KEY)


def test_the_next_bytes_begin_where_the_last_ended(kept: Vault, token: Token) -> None:
    half(kept, token)
    with pytest.raises(OffsetMismatch), kept.receiving(token, KEY, 9, len(DATA)):
        pass


def test_an_object_that_was_lost_and_comes_again_is_new_and_nothing_is_wrong_with_it(kept: Vault, token: Token) -> None:
    """The token that put it first may be another one: the room is taken from who put it now."""
    first = minted(kept, "first", 50)
    for one, is_new in ((first, True), (token, True), (first, False)):
        with kept.receiving_whole(one, KEY, len(DATA)) as part:
            part.write(DATA)
            assert kept.finish(part) == is_new
        if one is first and is_new:
            kept.store.delete(KEY)
            assert kept.check(KEY) == "it is gone"
    assert kept.state.reading().wrong == ()
    assert [kept.state.used_bytes(t.id) for t in (first, token)] == [0, len(DATA)]
