"""Certificates: what clients would accept, checked with OpenSSL's own eyes."""

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tierkeeper.homeserver.identity import Identity
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.limits import LEAF_DAYS

NOW = datetime.now(UTC)
NAMES = ("home.lan", "10.0.0.5", "fd00::5")


def verified(ca: Path, leaf: Path, *options: str) -> bool:
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(ca), *options, str(leaf)]
    return subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


def test_the_leaf_is_good_for_the_names_and_no_others(tmp_path: Path) -> None:
    identity = Identity(tmp_path, NAMES)
    assert identity.ensure(NOW)
    for option, name in (("-verify_hostname", "home.lan"), ("-verify_ip", "10.0.0.5"), ("-verify_ip", "fd00::5")):
        assert verified(identity.ca, identity.leaf, option, name)
    for option, name in (("-verify_hostname", "bank.example"), ("-verify_ip", "10.0.0.6")):
        assert not verified(identity.ca, identity.leaf, option, name)
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("name", ["bank.example", "10.0.0.6", "lan"])
@pytest.mark.parametrize("own", [NAMES, ("home.lan",), ("10.0.0.5",)])
def test_the_authority_can_speak_for_nobody_else(tmp_path: Path, own: tuple[str, ...], name: str) -> None:
    """Whoever steals its key signs for another name, and is not believed."""
    identity = Identity(tmp_path, own)
    identity.ensure(NOW)
    thief = Identity(tmp_path, (name,))
    thief._make_leaf(*thief._read_ca(), NOW)
    option = "-verify_ip" if name[0].isdigit() else "-verify_hostname"
    assert not verified(identity.ca, identity.leaf, option, name)


def test_it_is_renewed_when_a_third_is_left_and_clients_notice_nothing(tmp_path: Path) -> None:
    identity = Identity(tmp_path, NAMES)
    identity.ensure(NOW)
    before, pinned = identity.leaf.read_bytes(), identity.fingerprint()
    assert not identity.ensure(NOW + timedelta(days=LEAF_DAYS * 2 / 3 - 1))
    assert identity.ensure(NOW + timedelta(days=LEAF_DAYS * 2 / 3 + 1))
    assert identity.leaf.read_bytes() != before
    assert identity.fingerprint() == pinned
    leaf = x509.load_pem_x509_certificate(identity.leaf.read_bytes())
    assert leaf.not_valid_after_utc > NOW + timedelta(days=LEAF_DAYS * 5 / 3 - 1)
    context = ssl.create_default_context(cafile=str(identity.ca))
    assert context.cert_store_stats()["x509_ca"] == 1


def test_a_name_less_is_another_leaf_and_a_name_more_another_authority(tmp_path: Path) -> None:
    Identity(tmp_path, NAMES).ensure(NOW)
    fewer = Identity(tmp_path, NAMES[:1])
    assert fewer.ensure(NOW)
    assert verified(fewer.ca, fewer.leaf, "-verify_hostname", "home.lan")
    assert not verified(fewer.ca, fewer.leaf, "-verify_ip", "10.0.0.5")
    with pytest.raises(UsageError, match=r"not for new\.lan"):
        Identity(tmp_path, (*NAMES, "new.lan")).ensure(NOW)


@pytest.mark.parametrize("file", ["ca.pem", "ca.key"])
def test_a_lost_or_foreign_half_is_told_and_nothing_is_made_anew(tmp_path: Path, file: str) -> None:
    identity, other = Identity(tmp_path / "a", NAMES), Identity(tmp_path / "b", NAMES)
    for one in (identity, other):
        one.ensure(NOW)
    (tmp_path / "a" / file).write_bytes((tmp_path / "b" / file).read_bytes())
    with pytest.raises(UsageError, match="not the key of"):
        identity.ensure(NOW)
    (tmp_path / "a" / file).write_bytes(b"x")
    with pytest.raises(UsageError, match="cannot be read"):
        identity.ensure(NOW)


def test_the_enrolment_string_names_the_best_name_and_the_authority(tmp_path: Path) -> None:
    identity = Identity(tmp_path, ("fd00::5", "home.lan"))
    identity.ensure(NOW)
    assert identity.enrolment(8443) == f"https://[fd00::5]:8443/#sha256={identity.fingerprint()}"


@pytest.mark.parametrize("damage", ["gone", "garbage", "of another authority", "without its key", "of the future"])
def test_a_leaf_that_no_client_believes_is_made_anew(tmp_path: Path, damage: str) -> None:
    identity, other = Identity(tmp_path / "a", NAMES), Identity(tmp_path / "b", NAMES)
    for one in (identity, other):
        one.ensure(NOW)
    good = identity.leaf.read_bytes()
    if damage == "of the future":
        identity._make_leaf(*identity._read_ca(), NOW + timedelta(days=1000))
    elif damage == "gone":
        identity.leaf.unlink()
    else:
        without = {
            "garbage": b"x",
            "of another authority": other.leaf.read_bytes(),
            "without its key": good[: good.index(b"KEY")],
        }
        identity.leaf.write_bytes(without[damage])
    assert identity.ensure(NOW)
    assert verified(identity.ca, identity.leaf)
    identity.context()
    assert not identity.ensure(NOW)


@pytest.mark.parametrize("years", [-1, 25])
def test_a_clock_that_the_authority_does_not_know_is_told(tmp_path: Path, years: int) -> None:
    Identity(tmp_path, NAMES).ensure(NOW)
    with pytest.raises(UsageError, match="authority is good from"):
        Identity(tmp_path, NAMES).ensure(NOW + timedelta(days=365 * years))
