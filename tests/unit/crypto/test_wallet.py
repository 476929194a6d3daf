"""A key in a keyring: its file names an entry, a rotation makes another, and what the keyring does not do is told."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as Fails
from keyring.backends.null import Keyring as Forgets

from tierkeeper.crypto import wallet
from tierkeeper.crypto.keys import KEY_FILE, KeyRing
from tierkeeper.kernel.errors import Failed, UsageError


class Held(KeyringBackend):
    """In memory."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.entries[service, username]


@pytest.fixture
def held() -> Iterator[Held]:
    before, held = keyring.get_keyring(), Held()
    keyring.set_keyring(held)
    yield held
    keyring.set_keyring(before)
    wallet._known.clear()


def test_its_file_names_an_entry_and_a_rotation_makes_another(held: Held, tmp_path: Path) -> None:
    made, _ = KeyRing.create(tmp_path, {})
    path, before = tmp_path / KEY_FILE, (tmp_path / KEY_FILE).read_text()
    KeyRing.protect(tmp_path, {}, "keyring")
    assert (list(held.entries.values()), KeyRing.form(tmp_path, {})) == ([before], "keyring")
    assert "AGE-SECRET" not in path.read_text()
    wallet._known.clear()
    assert KeyRing.open(tmp_path, {}).recipient_id == made.recipient_id
    new = made.rotated(tmp_path)
    assert (len(held.entries), KeyRing.form(tmp_path, {})) == (1, "keyring")
    wallet._known.clear()
    assert KeyRing.open(tmp_path, {}).recipient_id == new.recipient_id != made.recipient_id
    KeyRing.protect(tmp_path, {}, "plain")
    assert (held.entries, KeyRing.form(tmp_path, {})) == ({}, "plain")
    assert KeyRing.open(tmp_path, {}).opens(made.recipient_id)


def test_a_keyring_that_does_not_keep_it_leaves_the_file_as_it_was(held: Held, tmp_path: Path) -> None:
    KeyRing.create(tmp_path, {})
    before = (tmp_path / KEY_FILE).read_text()
    for backend, error, said in ((Fails(), UsageError, "takes no key"), (Forgets(), Failed, "does not give back")):
        keyring.set_keyring(backend)
        with pytest.raises(error, match=said):
            KeyRing.protect(tmp_path, {}, "keyring")
        assert (tmp_path / KEY_FILE).read_text() == before
    keyring.set_keyring(held)
    KeyRing.protect(tmp_path, {}, "keyring")
    wallet._known.clear()
    for backend, said in ((Fails(), "does not open"), (Forgets(), "holds no entry")):
        keyring.set_keyring(backend)
        with pytest.raises(UsageError, match=said):
            KeyRing.open(tmp_path, {})


def test_the_same_key_in_two_folders_has_two_entries(held: Held, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    made, _ = KeyRing.create(one, {})
    shutil.copytree(one, other)
    KeyRing.protect(one, {}, "keyring")
    KeyRing.protect(other, {}, "keyring")
    assert len(held.entries) == 2
    KeyRing.protect(one, {}, "plain")
    wallet._known.clear()
    assert KeyRing.open(other, {}).recipient_id == made.recipient_id


def test_a_copy_of_a_file_that_names_an_entry_keeps_it(held: Held, tmp_path: Path) -> None:
    """Whatever becomes of the file that the entry was made for."""
    one, other = tmp_path / "one", tmp_path / "other"
    made, _ = KeyRing.create(one, {})
    KeyRing.protect(one, {}, "keyring")
    shutil.copytree(one, other)
    KeyRing.protect(other, {}, "plain")
    wallet._known.clear()
    assert KeyRing.open(one, {}).recipient_id == made.recipient_id
    KeyRing.protect(one, {}, "plain")
    assert held.entries == {}


def test_errors_that_no_library_names_are_told(held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend raises what the bus, the desktop or the system behind it does."""
    KeyRing.create(tmp_path, {})

    def raw(*_: object) -> None:
        raise RuntimeError("org.freedesktop.DBus.Error.NoReply")

    with monkeypatch.context() as patched:
        patched.setattr(held, "set_password", raw)
        with pytest.raises(UsageError, match=r"takes no key \(org\.freedesktop"):
            KeyRing.protect(tmp_path, {}, "keyring")
    KeyRing.protect(tmp_path, {}, "keyring")
    wallet._known.clear()
    with monkeypatch.context() as patched:
        patched.setattr(held, "get_password", raw)
        with pytest.raises(UsageError, match=r"does not open \(org\.freedesktop"):
            KeyRing.open(tmp_path, {})
    monkeypatch.setattr(held, "delete_password", raw)
    KeyRing.protect(tmp_path, {}, "plain")
    assert KeyRing.form(tmp_path, {}) == "plain"
