"""How a client comes to trust its home server: by the authority's fingerprint in the enrolment string, or by the system's CAs."""

import hashlib
import re
import ssl
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from tierkeeper.kernel.errors import Failed, NotNow, UsageError
from tierkeeper.kernel.limits import AUTHORITY_BYTES_MAX, CONNECT_SECONDS

_EXAMPLE = "Write what `tierkeeper token create` printed on the server: https://home.lan:8443/#sha256=…"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Lifetime:
    """Until when something that opens `place` is valid."""

    what: Literal["leaf", "authority", "token"]
    place: str
    until: datetime


@dataclass(frozen=True)
class Enrolment:
    """Where the server is, and which authority speaks for it: the SHA-256 of its certificate, hex; None for the system's CAs."""

    url: str
    authority: str | None

    @classmethod
    def parse(cls, text: str, *, insecure: bool = False) -> "Enrolment":
        """Raises UsageError for what is no such address, and for a plain one of another machine unless `insecure`."""
        try:
            parts = urlsplit(text.strip())
            host, _ = parts.hostname, parts.port
        except ValueError:
            parts, host = SplitResult("", "", "", "", ""), None
        if parts.scheme not in ("https", "http") or not host or parts.username or parts.query:
            raise UsageError("HOME_SERVER_URL", "this is not the address of a home server", _EXAMPLE)
        if parts.scheme == "http" and host not in _LOOPBACK and not insecure:
            cause = "a plain link to another machine shows the token to everyone between"
            raise UsageError("HOME_SERVER_URL", cause, "Write https://…, or insecure = true under [tiers.archive]")
        pin = re.fullmatch(r"(?:sha256=([0-9a-f]{64}))?", parts.fragment)
        if pin is None or (pin[1] and parts.scheme == "http"):
            raise UsageError("HOME_SERVER_URL", "its fingerprint is not one", _EXAMPLE)
        return cls(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", pin[1])

    def context(self) -> ssl.SSLContext:
        """What verifies the server: TLS 1.3, its name, and the pinned authority.

        The authority's certificate is fetched from the server itself, over a link that nobody vouches for, and trusted only if it
        has the fingerprint; no secret goes over that link. Raises NotNow where the server is away, Failed for another authority.
        """
        if self.authority is None:
            context = ssl.create_default_context()
        else:
            der = self._pinned()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=der)  # what was compared, and nothing that stood beside it
            context.verify_flags |= ssl.VERIFY_X509_STRICT
            context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context

    def authority_until(self) -> datetime | None:
        """Until when the pinned authority is valid; None where the system's CAs vouch. Raises as `context` does."""
        from cryptography import x509

        return None if self.authority is None else x509.load_der_x509_certificate(self._pinned()).not_valid_after_utc

    def _pinned(self) -> bytes:
        """The authority's certificate (DER), which has the fingerprint."""
        der = _certificate(self._fetched())
        if hashlib.sha256(der).hexdigest() != self.authority:
            cause = "the server shows another authority than the enrolment string names"
            remedy = "Somebody may be in between: ask whoever runs the server before you enrol anew"
            raise Failed(f"store {self.url}", cause, remedy)
        return der

    def _fetched(self) -> bytes:
        import httpx  # a sixth of a command's start, and most have no home server

        unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        unverified.minimum_version = ssl.TLSVersion.TLSv1_3
        fetched = b""
        try:
            with (
                httpx.Client(verify=unverified, timeout=CONNECT_SECONDS, trust_env=False) as client,
                client.stream("GET", f"{self.url}/ca.pem") as answer,
            ):
                for block in answer.raise_for_status().iter_raw():
                    fetched += block
                    if len(fetched) > AUTHORITY_BYTES_MAX:
                        break
        except httpx.HTTPError as error:
            cause = f"it does not answer ({type(error).__name__}: {str(error)[:200]})"
            raise NotNow(f"store {self.url}", cause, "Look whether `tierkeeper homeserver` runs there, then run again") from error
        return fetched


def _certificate(pem: bytes) -> bytes:
    """The DER of a lone certificate; nothing of what is anything else."""
    try:
        return ssl.PEM_cert_to_DER_cert(pem.decode("ascii")) if len(pem) <= AUTHORITY_BYTES_MAX else b""
    except ValueError:
        return b""
