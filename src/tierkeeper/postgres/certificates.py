"""Certificates as values: what one says, what a chain rests on, what a PEM file holds, and until when a server's are valid."""

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tierkeeper.postgres import handshake

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, Name

    from tierkeeper.postgres.link import Link

_PEM: Final = re.compile(rb"-----BEGIN (TRUSTED )?CERTIFICATE-----\s(.*?)-----END (?:TRUSTED )?CERTIFICATE-----", re.DOTALL)
_LONG: Final = 0x80  # from this byte on a DER length says how many bytes it takes itself


@dataclass(frozen=True)
class Ending:
    """A certificate by its subject, and the end of its validity. `is_servers`: the server's own, not an authority's."""

    subject: str
    until: datetime
    is_servers: bool


@dataclass(frozen=True)
class Shown:
    """A certificate that somebody showed, which proves nothing: its words are the peer's. `signs_itself`: it is a root."""

    subject: str
    issuer: str
    until: datetime
    signs_itself: bool
    der: bytes

    @cached_property
    def sha256(self) -> str:
        """Its fingerprint, as 64 hexadecimal digits."""
        return hashlib.sha256(self.der).hexdigest()


def is_verified(link: "Link") -> bool:
    """Whether libpq verifies the server over `link`: else the end of a certificate keeps nobody from it."""
    given = link.parameters
    return given.get("sslmode", "").startswith("verify-") or (given.get("sslmode") == "require" and "sslrootcert" in given)


def endings(link: "Link") -> list[Ending]:
    """What the link rests on, the server's own certificate first; nothing where it speaks no TLS. Raises NotNow."""
    from cryptography import x509

    chain = [x509.load_der_x509_certificate(one) for one in handshake.shown(link.parameters, link.place)]
    found = needed(chain, _anchors(link.parameters.get("sslrootcert")))
    return [Ending(one.subject.rfc4514_string(), one.not_valid_after_utc, one is chain[0]) for one in found]


def needed(chain: "Sequence[Certificate]", anchors: "Collection[Name]") -> "list[Certificate]":
    """Those of a shown chain that a client needs: from the server's up to the one that an authority of the client's has signed.

    What is shown above that, such as an authority's older signature by another, may have expired and harms nobody. Pure.
    """
    found = list(chain[:1])
    while found and found[-1].issuer not in anchors:
        above = next((one for one in chain if one.subject == found[-1].issuer and one not in found), None)
        if above is None:
            break
        found.append(above)
    return found


def read(ders: Sequence[bytes]) -> list[Shown]:
    """A shown chain from the server's own certificate up as far as it goes. Raises ValueError for what is no certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    return [
        Shown(
            one.subject.rfc4514_string(),
            one.issuer.rfc4514_string(),
            one.not_valid_after_utc,
            _signs_itself(one),
            one.public_bytes(Encoding.DER),
        )
        for one in needed([x509.load_der_x509_certificate(der) for der in ders], ())
    ]


def from_pem(data: bytes) -> "list[Certificate]":
    """The certificates in a PEM file, also those that OpenSSL's trust settings follow. Raises ValueError for one that is none."""
    from cryptography import x509

    def one(body: bytes) -> "Certificate":
        try:
            der = base64.b64decode(body)
        except binascii.Error as error:
            raise ValueError(str(error)) from error
        return x509.load_der_x509_certificate(der[: _length(der)])

    return [one(found[2]) for found in _PEM.finditer(data)]


def _signs_itself(certificate: "Certificate") -> bool:
    """By its signature: an authority's new key may be signed by its old one under the same name."""
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _length(der: bytes) -> int:
    """Of the first value in `der`, its head included. Raises ValueError where there is none."""
    if len(der) < 2:  # noqa: PLR2004 - a tag and a length
        raise ValueError("no certificate")
    if der[1] < _LONG:
        return 2 + der[1]
    head = 2 + (der[1] & ~_LONG)
    return head + int.from_bytes(der[2:head], "big")


def _anchors(file: str | None) -> "set[Name]":
    if file is None or not Path(file).is_file():
        return set()
    try:
        return {one.subject for one in from_pem(Path(file).read_bytes())}
    except (OSError, ValueError):
        return set()
