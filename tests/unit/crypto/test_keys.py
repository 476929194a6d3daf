"""The key ring: its files, its refusals, and that nothing passes it that was not sealed by it."""

import threading
from pathlib import Path

import pyrage
import pytest

from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.kernel.faults import Point

BODY = {"segment": "x", "rows": 3, "text": "é"}


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing.create(tmp_path / "config", {})[0]


def test_it_is_made_once_and_read_back(tmp_path: Path, ring: KeyRing) -> None:
    folder = tmp_path / "config"
    again = KeyRing.open(folder, {})
    assert again.key_id == ring.key_id
    assert again.unseal("manifest", ring.seal("manifest", BODY), "test") == BODY
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="is there already"):
        KeyRing.create(folder, {})
    assert KeyRing.open(folder, {}).key_id == ring.key_id


def test_the_statement_says_where_and_what_is_at_stake(tmp_path: Path) -> None:
    _, statement = KeyRing.create(tmp_path, {})
    assert str(tmp_path / "archive.key") in statement
    assert str(tmp_path / "archive-recovery.key") in statement
    assert "loses the archive" in statement
    assert "offline" in statement
    assert "SECRET" not in statement


def test_the_operational_file_cannot_recover(tmp_path: Path, ring: KeyRing) -> None:
    operational = (tmp_path / "config/archive.key").read_text()
    recovery = (tmp_path / "config/archive-recovery.key").read_text()
    assert operational.count("AGE-SECRET-KEY-") == 1
    secret = next(w for w in recovery.split() if w.startswith("AGE-SECRET-KEY-"))
    assert secret not in operational
    sealed = ring.seal("key", BODY)
    assert b"rows" in pyrage.decrypt(sealed, [pyrage.x25519.Identity.from_str(secret)])
    offline = KeyRing.parse(recovery, "test")
    assert (offline.unseal("key", sealed, "test"), offline.key_id) == (BODY, ring.key_id)
    with pytest.raises(UsageError, match="signs nothing"):
        offline.seal("key", BODY)


def test_the_variable_comes_first_with_its_line_breaks_escaped_or_not(tmp_path: Path, ring: KeyRing) -> None:
    text = (tmp_path / "config/archive.key").read_text()
    for value in (text, text.replace("\n", "\\n")):
        assert KeyRing.open(tmp_path / "nowhere", {"TIERKEEPER_KEY": value}).key_id == ring.key_id
    assert KeyRing.present(tmp_path / "config", {})
    assert not KeyRing.present(tmp_path / "nowhere", {})


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, ring: KeyRing, mode: int) -> None:
    path = tmp_path / "config/archive.key"
    path.chmod(mode)
    with pytest.raises(UsageError, match="chmod 600"):
        KeyRing.open(tmp_path / "config", {})


def test_a_host_without_a_lasting_disk_makes_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no lasting disk"):
        KeyRing.create(tmp_path / "new", {"AWS_LAMBDA_FUNCTION_NAME": "f"})
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="there is no archive key"):
        KeyRing.open(tmp_path / "new", {})


def test_damaged_key_files_are_refused_without_quoting_them(tmp_path: Path, ring: KeyRing) -> None:
    text = (tmp_path / "config/archive.key").read_text()
    lines = text.splitlines()
    bad = [
        "",
        "hello",
        text.replace("key: 1", "key: 2"),
        "\n".join(lines[:-1]),
        text.replace("AGE-SECRET-KEY-1", "AGE-SECRET-KEY-1X"),
    ]
    bad += [text.replace("signing-key: ", "signing-key: zz"), text + "more: x\n"]
    for each in bad:
        with pytest.raises(UsageError) as caught:
            KeyRing.parse(each, "place")
        assert caught.value.place == "place"
        assert "SECRET" not in str(caught.value)
    assert "SECRET" not in repr(ring)
    assert str(ring.signing_key) not in repr(ring)


def test_every_flipped_byte_of_a_sealed_document_is_found(ring: KeyRing) -> None:
    sealed = ring.seal("manifest", BODY)
    passed = []
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        try:
            ring.unseal("manifest", changed, "test")
        except Failed:
            continue
        passed.append(at)
    assert passed == []
    for length in range(0, len(sealed), 7):
        with pytest.raises(Failed):
            ring.unseal("manifest", sealed[:length], "test")


def test_a_document_serves_one_purpose_and_one_ring(tmp_path: Path, ring: KeyRing) -> None:
    sealed = ring.seal("manifest", BODY)
    with pytest.raises(Failed, match="signature"):
        ring.unseal("commit", sealed, "test")
    other, _ = KeyRing.create(tmp_path / "other", {})
    with pytest.raises(Failed, match="cannot be decrypted"):
        other.unseal("manifest", sealed, "test")


def test_a_stranger_who_knows_the_recipients_can_encrypt_but_not_sign(tmp_path: Path, ring: KeyRing) -> None:
    other, _ = KeyRing.create(tmp_path / "other", {})
    plain = pyrage.decrypt(other.seal("manifest", BODY), [other.identity])
    forged = pyrage.encrypt(plain, [pyrage.x25519.Recipient.from_str(ring.operational)])
    with pytest.raises(Failed, match="signature"):
        ring.unseal("manifest", forged, "test")
    for junk in (b"", b"[]", b"{}", b'{"body": 1, "signature": "00"}', b"\xff", b'{"body": {}, "signature": "zz"}'):
        with pytest.raises(Failed):
            ring.unseal("manifest", pyrage.encrypt(junk, [pyrage.x25519.Recipient.from_str(ring.operational)]), "test")


def test_of_two_rotations_at_once_one_makes_the_key(tmp_path: Path) -> None:
    """The other would wrap segments to a key that is in no file."""
    old, _ = KeyRing.create(tmp_path, {})
    told: list[BaseException | KeyRing] = []

    def second() -> None:
        try:
            told.append(old.rotated(tmp_path))
        except UsageError as error:
            told.append(error)

    other = threading.Thread(target=second)

    def meanwhile(point: Point) -> None:
        if point is Point.KEY_REPLACING and threading.current_thread() is not other:
            other.start()
            other.join(0.2)

    faults.arm(meanwhile)
    try:
        new = old.rotated(tmp_path)
    finally:
        faults.disarm()
    other.join()
    assert KeyRing.open(tmp_path, {}).recipient_id == new.recipient_id
    assert [type(one) for one in told] == [UsageError]


def test_a_ring_says_which_operational_keys_it_opens(tmp_path: Path) -> None:
    old, _ = KeyRing.create(tmp_path, {})
    new = old.rotated(tmp_path)
    assert (new.opens(old.recipient_id), new.opens(new.recipient_id), new.alone().opens(old.recipient_id)) == (True, True, False)
    assert not old.opens(new.recipient_id)
    assert KeyRing.parse((tmp_path / "archive-recovery.key").read_text(), "test").opens(new.recipient_id)
