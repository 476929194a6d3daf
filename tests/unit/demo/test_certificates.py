"""The private authority signs exactly one server, for loopback alone."""

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from tierkeeper.demo import certificates


def _load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


@pytest.mark.parametrize("subject", [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))])
def test_a_strict_verifier_accepts_it_for_loopback(tmp_path: Path, subject: x509.DNSName | x509.IPAddress) -> None:
    made = certificates.issue(tmp_path / "tls")
    verifier = PolicyBuilder().store(Store([_load(made.ca_file)])).build_server_verifier(subject)
    assert len(verifier.verify(_load(made.certificate_file), [])) == 2


def test_it_is_for_no_other_host(tmp_path: Path) -> None:
    made = certificates.issue(tmp_path / "tls")
    verifier = PolicyBuilder().store(Store([_load(made.ca_file)])).build_server_verifier(x509.DNSName("db.example.org"))
    with pytest.raises(VerificationError):
        verifier.verify(_load(made.certificate_file), [])


def test_another_authority_does_not_vouch_for_it(tmp_path: Path) -> None:
    one, two = certificates.issue(tmp_path / "one"), certificates.issue(tmp_path / "two")
    verifier = PolicyBuilder().store(Store([_load(two.ca_file)])).build_server_verifier(x509.DNSName("localhost"))
    with pytest.raises(VerificationError):
        verifier.verify(_load(one.certificate_file), [])


def test_only_the_servers_key_is_written_and_nobody_else_reads_it(tmp_path: Path) -> None:
    made = certificates.issue(tmp_path / "tls")
    assert sorted(p.name for p in (tmp_path / "tls").iterdir()) == ["ca.crt", "server.crt", "server.key"]
    assert made.key_file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "tls").stat().st_mode & 0o777 == 0o700


def test_it_ends(tmp_path: Path) -> None:
    expires = _load(certificates.issue(tmp_path / "tls").certificate_file).not_valid_after_utc
    assert timedelta(days=300) < expires - datetime.now(UTC) < timedelta(days=400)
