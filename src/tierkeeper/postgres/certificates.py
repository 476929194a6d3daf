"""Until when a server's certificates are valid, as its TLS link shows them.

libpq verifies a chain and hands none of it out. So the server is asked for TLS as libpq asks it, and left when it has shown its
certificates: no user, no password and no statement goes over that link, which nobody vouches for.
"""

import socket
import ssl
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.limits import CONNECT_SECONDS
from tierkeeper.postgres.link import Link

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, Name

_SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)
_PORT: Final = "5432"


@dataclass(frozen=True)
class Ending:
    """A certificate by its subject, and the end of its validity. `is_servers`: the server's own, not an authority's."""

    subject: str
    until: datetime
    is_servers: bool


def is_verified(link: Link) -> bool:
    """Whether libpq verifies the server over `link`: else the end of a certificate keeps nobody from it."""
    given = link.parameters
    return given.get("sslmode", "").startswith("verify-") or (given.get("sslmode") == "require" and "sslrootcert" in given)


def endings(link: Link) -> list[Ending]:
    """What the link rests on, the server's own certificate first; nothing where it speaks no TLS. Raises NotNow."""
    from cryptography import x509

    chain = [x509.load_der_x509_certificate(one) for one in _shown(link)]
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


def _anchors(file: str | None) -> "set[Name]":
    from cryptography import x509

    if file is None or not Path(file).is_file():
        return set()
    try:
        return {one.subject for one in x509.load_pem_x509_certificates(Path(file).read_bytes())}
    except (OSError, ValueError):
        return set()


def _shown(link: Link) -> list[bytes]:
    """The chain (DER) of the first of its hosts that answers."""
    refused = "it has no address"
    for host, address, port in _places(link):
        try:
            with socket.create_connection((address, port), CONNECT_SECONDS) as plain:
                return _asked(plain, host, direct=link.parameters.get("sslnegotiation") == "direct")
        except OSError as error:
            refused = type(error).__name__
    raise NotNow(link.place, f"the server shows no certificate ({refused})", "Look whether it runs: `tierkeeper check`")


def _places(link: Link) -> Iterator[tuple[str, str, int]]:
    """Name, address and port of each host; a socket's folder is none that has a certificate."""
    given = link.parameters
    hosts, addresses = given.get("host", "").split(","), given.get("hostaddr", "").split(",")
    ports = given.get("port", _PORT).split(",")
    for at in range(max(len(hosts), len(addresses))):
        host = hosts[min(at, len(hosts) - 1)].strip("[]")
        address = addresses[at] if at < len(addresses) and addresses[at] else host
        if address and not address.startswith(("/", "@")):
            yield host or address, address, int(ports[min(at, len(ports) - 1)] or _PORT)


def _asked(plain: socket.socket, host: str, *, direct: bool) -> list[bytes]:
    if not direct:
        plain.sendall(_SSL_REQUEST)
        if plain.recv(1) != b"S":
            return []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["postgresql"])
    with context.wrap_socket(plain, server_hostname=host) as tls:
        return _chain(tls)


def _chain(tls: ssl.SSLSocket) -> list[bytes]:
    """All that was shown; Python says so openly since 3.13, before that the object within does."""
    openly = getattr(tls, "get_unverified_chain", None)
    if openly is not None:
        return list(openly())
    within: Any = getattr(getattr(tls, "_sslobj", None), "get_unverified_chain", None)
    if within is not None:
        return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in within()]
    own = tls.getpeercert(binary_form=True)
    return [] if own is None else [own]
