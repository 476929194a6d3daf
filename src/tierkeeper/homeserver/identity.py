"""The server's certificates: a private authority that clients pin, and a short-lived leaf that it signs by itself.

The authority can sign for the server's own names and nothing else, so that its key, which lies on the server, is worth nothing
for any other place.
"""

import ipaddress
import os
import secrets
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.limits import CA_YEARS, LEAF_DAYS

_CA: Final = "ca.pem"
_CA_KEY: Final = "ca.key"
_LEAF: Final = "server.pem"  # leaf and its key, in one file so that both change at once
_YEAR: Final = timedelta(days=365)
_SKEW: Final = timedelta(hours=1)  # a client's clock may be behind


@dataclass(frozen=True)
class Identity:
    """The server's certificates in `folder`. `names`: host names and addresses that its clients may use."""

    folder: Path
    names: tuple[str, ...]

    @property
    def ca(self) -> Path:
        return self.folder / _CA

    @property
    def leaf(self) -> Path:
        """Certificate and key, PEM, mode 600."""
        return self.folder / _LEAF

    def exists(self) -> bool:
        return (self.folder / _CA_KEY).exists()

    def ensure(self, now: datetime) -> bool:
        """Makes what is missing and renews what runs out; whether the leaf is another one. Raises UsageError for new names."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.exists():
            self._make_ca(now)
        ca, key = self._read_ca()
        self._check_names(ca)
        if not ca.not_valid_before_utc <= now < ca.not_valid_after_utc:
            cause = f"the server's authority is good from {ca.not_valid_before_utc:%Y-%m-%d} to {ca.not_valid_after_utc:%Y-%m-%d}"
            remedy = f"Set this machine's clock, which says {now:%Y-%m-%d}, or remove {_CA_KEY}: then every client enrols anew"
            raise UsageError(str(self.folder), cause, remedy)
        if self._is_leaf_good(ca, now):
            return False
        self._make_leaf(ca, key, now)
        return True

    def _is_leaf_good(self, ca: x509.Certificate, now: datetime) -> bool:
        """Whether clients believe the leaf, for a while yet."""
        try:
            data = self.leaf.read_bytes()
            leaf, key = x509.load_pem_x509_certificate(data), serialization.load_pem_private_key(data, None)
            leaf.verify_directly_issued_by(ca)
        except (OSError, ValueError, TypeError, InvalidSignature):
            return False
        known = set(_text(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value))
        is_time = leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc - timedelta(days=LEAF_DAYS / 3)
        return is_time and known == set(self.names) and key.public_key() == leaf.public_key()

    def fingerprint(self) -> str:
        """SHA-256 of the authority's certificate (DER), hex: what clients pin."""
        return x509.load_pem_x509_certificate(self.ca.read_bytes()).fingerprint(hashes.SHA256()).hex()

    def enrolment(self, port: int) -> str:
        """What a client needs to reach this server and no other, as its HOME_SERVER_URL."""
        host = f"[{self.names[0]}]" if ":" in self.names[0] else self.names[0]
        return f"https://{host}:{port}/#sha256={self.fingerprint()}"

    def context(self) -> ssl.SSLContext:
        """TLS 1.3 with the leaf; `load_into` gives it a new one while it serves."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.load_into(context)
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        context.load_cert_chain(self.leaf)

    def _make_ca(self, now: datetime) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"tierkeeper home server {secrets.token_hex(4)}")])
        usage = _usage(key_cert_sign=True, crl_sign=True)
        certificate = (
            _builder(name, name, key.public_key(), now, CA_YEARS * _YEAR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(
                x509.NameConstraints(permitted_subtrees=_constraints(self.names), excluded_subtrees=None), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write(self.ca, certificate.public_bytes(serialization.Encoding.PEM))
        _write(self.folder / _CA_KEY, _pem(key))  # last: with it the authority is there

    def _make_leaf(self, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, now: datetime) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tierkeeper home server")])
        certificate = (
            _builder(name, ca.subject, key.public_key(), now, timedelta(days=LEAF_DAYS))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(_general(self.names)), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        _write(self.leaf, certificate.public_bytes(serialization.Encoding.PEM) + _pem(key))

    def _read_ca(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        try:
            certificate = x509.load_pem_x509_certificate(self.ca.read_bytes())
            key = serialization.load_pem_private_key((self.folder / _CA_KEY).read_bytes(), None)
        except (OSError, ValueError) as error:
            remedy = f"Put {_CA} and {_CA_KEY} back from a copy; without them, remove both and enrol every client again"
            raise UsageError(str(self.folder), "the server's authority cannot be read", remedy) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise UsageError(str(self.folder), f"{_CA_KEY} is not the key of {_CA}", "Put both back from one copy")
        return certificate, key

    def _check_names(self, ca: x509.Certificate) -> None:
        constraints = ca.extensions.get_extension_for_class(x509.NameConstraints).value
        permitted = set(_text(constraints.permitted_subtrees or ()))
        new = [name for name in self.names if name not in permitted]
        if new:
            cause = f"the server's authority was made for {', '.join(sorted(permitted))}, and not for {', '.join(new)}"
            remedy = (
                f"Take the new name out of homeserver.names, or remove {self.ca} and {_CA_KEY}: then every client enrols anew"
            )
            raise UsageError("homeserver.names", cause, remedy)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, span: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + span)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(names: Sequence[str]) -> list[x509.GeneralName]:
    return [x509.DNSName(n) if (a := _address(n)) is None else x509.IPAddress(a) for n in names]


def _constraints(names: Sequence[str]) -> list[x509.GeneralName]:
    """Exactly `names`; where no address is among them, none is allowed but one that nobody has, and so for host names."""
    found: list[x509.GeneralName] = [
        x509.DNSName(n) if (a := _address(n)) is None else x509.IPAddress(ipaddress.ip_network(a)) for n in names
    ]
    if not any(isinstance(n, x509.DNSName) for n in found):
        found.append(x509.DNSName("invalid"))
    if not any(isinstance(n, x509.IPAddress) for n in found):
        found.append(x509.IPAddress(ipaddress.ip_network("255.255.255.255/32")))
    return found


def _text(names: Iterable[x509.GeneralName]) -> list[str]:
    values = [n.value for n in names]
    return [str(v.network_address) if isinstance(v, ipaddress.IPv4Network | ipaddress.IPv6Network) else str(v) for v in values]


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding, none = serialization.Encoding.PEM, serialization.NoEncryption()
    return key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, none)


def _write(path: Path, data: bytes) -> None:
    """Replaces a file (600) at once, durably."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
