"""A key under a passphrase: opened by it alone, kept under it by a rotation, and asked for only where somebody can answer."""

import fcntl
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyrage
import pytest

from tierkeeper.crypto import passphrase
from tierkeeper.crypto.keys import KEY_FILE, KeyRing
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.faults import Point

SECRET = "correct horse battery"
GIVEN = {passphrase.VARIABLE: SECRET}


def forget() -> None:
    """As another process would begin."""
    passphrase._typed.clear()
    passphrase._opened.clear()


def test_it_opens_under_its_passphrase_alone_and_stays_under_it_when_it_is_rotated(tmp_path: Path) -> None:
    made, _ = KeyRing.create(tmp_path, {})
    path = tmp_path / KEY_FILE
    before = path.read_text()
    KeyRing.protect(tmp_path, {}, "passphrase", SECRET)
    under = path.read_text()
    assert (path.stat().st_mode & 0o777, "AGE-SECRET" in under, KeyRing.form(tmp_path, {})) == (0o600, False, "passphrase")
    assert pyrage.passphrase.decrypt(under.encode(), SECRET).decode() == before, "any age program opens it"
    forget()
    for given, said in (({}, "no terminal"), ({passphrase.VARIABLE: "another horse"}, "does not open it")):
        with pytest.raises(UsageError, match=said):
            KeyRing.open(tmp_path, given)
    opened = KeyRing.open(tmp_path, {"TIERKEEPER_KEY": under.replace("\n", "\\n"), **GIVEN})
    assert opened.recipient_id == made.recipient_id
    new = opened.rotated(tmp_path, GIVEN)
    assert KeyRing.form(tmp_path, {}) == "passphrase"
    assert KeyRing.open(tmp_path, GIVEN).recipient_id == new.recipient_id != made.recipient_id
    KeyRing.protect(tmp_path, GIVEN, "plain")
    forget()
    assert KeyRing.open(tmp_path, {}).opens(made.recipient_id)


def test_a_key_behind_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    folder, file = tmp_path / "config", tmp_path / "stick.key"
    KeyRing.create(folder, {})
    (folder / KEY_FILE).rename(file)
    (folder / KEY_FILE).symlink_to(file)
    KeyRing.protect(folder, {}, "passphrase", SECRET)
    assert ((folder / KEY_FILE).is_symlink(), "SECRET" in file.read_text()) == (True, False)
    KeyRing.open(folder, GIVEN).rotated(folder, GIVEN)
    assert ((folder / KEY_FILE).is_symlink(), KeyRing.form(folder, {})) == (True, "passphrase")
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == [file.name]


def test_a_key_that_a_killed_replacement_left_in_the_clear_is_taken_away(tmp_path: Path) -> None:
    KeyRing.create(tmp_path, {})
    KeyRing.protect(tmp_path, {}, "passphrase", SECRET)

    class Killed(BaseException):
        pass

    def die(point: Point) -> None:
        if point is Point.KEY_WRITTEN:
            raise Killed

    faults.arm(die)
    with pytest.raises(Killed):
        KeyRing.protect(tmp_path, GIVEN, "plain")
    faults.disarm()
    left = f".{KEY_FILE}.new"
    assert "AGE-SECRET" in (tmp_path / left).read_text()
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    KeyRing.open(tmp_path, GIVEN)
    assert (tmp_path / left).exists(), "one that is under way keeps its own"
    os.close(folder)
    KeyRing.open(tmp_path, GIVEN)
    assert (not (tmp_path / left).exists(), KeyRing.form(tmp_path, {})) == (True, "passphrase")


def test_threads_ask_a_person_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    def answer(prompt: str) -> str:
        asked.append(prompt)
        time.sleep(0.1)
        return SECRET

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(passphrase, "getpass", answer)
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda _: passphrase.of("asked at once", {}, "archive.key"), range(4))) == {SECRET}
    assert len(asked) == 1


def test_without_a_standard_input_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="no terminal"):
        passphrase.of("text", {}, "archive.key")
    with pytest.raises(UsageError, match="no terminal"):
        passphrase.new({})


def test_a_passphrase_that_is_no_text_is_refused() -> None:
    with pytest.raises(UsageError, match="nobody can type"):
        passphrase.new({passphrase.VARIABLE: "correct horse \udce9"})


def test_a_person_is_asked_once_and_twice_for_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, asked = [SECRET, SECRET, SECRET, "something else", "short", "short"], list[str]()

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return answers.pop(0)

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(passphrase, "getpass", answer)
    assert [passphrase.of("text", {}, "archive.key") for _ in range(2)] == [SECRET, SECRET]
    assert asked == ["Passphrase of archive.key: "]
    answers.insert(0, SECRET)
    assert passphrase.new({}) == SECRET
    with pytest.raises(UsageError, match="not the same"):
        passphrase.new({})
    with pytest.raises(UsageError, match="fewer than"):
        passphrase.new({})
    assert passphrase.new(GIVEN) == SECRET
    forget()
