"""What a server shows of itself when it is asked for TLS, and whether a given authority vouches for it.

libpq verifies a chain and hands none of it out. So the server is asked for TLS as libpq asks it, and left when the handshake is
over: no user, no password and no statement goes over that link, which nobody vouches for.
"""

import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.limits import CONNECT_SECONDS

T = TypeVar("T")
Parameters = Mapping[str, str]
"""libpq's, of one link."""

_SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)
_PORT: Final = "5432"
SYSTEM: Final = "system"
"""libpq's word in sslrootcert for the authorities of the machine's OpenSSL."""
_NOT_TRUSTED: Final = (2, 7, 18, 19, 20, 21, 27)
"""OpenSSL's X509_V_ERR_*: an issuer is missing, a signature is not its, a root is not trusted."""


@dataclass(frozen=True)
class Refusal:
    """Why a chain does not do: `is_trust` where it leads to no authority of the client's, and nothing else is wrong so far."""

    words: str
    is_trust: bool


def shown(parameters: Parameters, place: str) -> list[bytes]:
    """The chain (DER), the server's own first, of the first host that answers; empty where it speaks no TLS. Raises NotNow."""
    context = _context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return _first(parameters, place, lambda plain, host: _greeted(plain, host, context, parameters))


def refused(parameters: Parameters, place: str, authority: bytes | None) -> Refusal | None:
    """Why the chain that the server shows now does not do, its host's name included; None where it does.

    `authority`, a certificate (DER), alone is trusted, also one that another has signed; None: those that the link names.
    Raises NotNow, and OSError where those cannot be read.
    """
    context, named = _context(), parameters.get("sslrootcert")
    if authority is not None:
        context.load_verify_locations(cadata=authority)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    elif named == SYSTEM:
        context.load_default_certs()
    elif named is not None:
        context.load_verify_locations(named)

    def tried(plain: socket.socket, host: str) -> Refusal | None:
        try:
            _greeted(plain, host, context, parameters)
        except ssl.SSLCertVerificationError as error:
            return Refusal(error.verify_message.rstrip("."), error.verify_code in _NOT_TRUSTED)
        return None

    return _first(parameters, place, tried)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["postgresql"])
    return context


def _first(parameters: Parameters, place: str, ask: Callable[[socket.socket, str], T]) -> T:
    """The answer of the first of the link's hosts that gives one."""
    refused = "it has no address"
    for host, address, port in _places(parameters):
        try:
            with socket.create_connection((address, port), CONNECT_SECONDS) as plain:
                return ask(plain, host)
        except (OSError, ValueError) as error:  # the latter: a host that can be no name of a server
            refused = type(error).__name__
    raise NotNow(place, f"the server shows no certificate ({refused})", "Look whether it runs: `tierkeeper check`")


def _places(given: Parameters) -> Iterator[tuple[str, str, int]]:
    """Name, address and port of each host; a socket's folder is none that has a certificate."""
    hosts, addresses = given.get("host", "").split(","), given.get("hostaddr", "").split(",")
    ports = given.get("port", _PORT).split(",")
    for at in range(max(len(hosts), len(addresses))):
        host = hosts[min(at, len(hosts) - 1)].strip("[]")
        address = addresses[at] if at < len(addresses) and addresses[at] else host
        if address and not address.startswith(("/", "@")):
            yield host or address, address, int(ports[min(at, len(ports) - 1)] or _PORT)


def _greeted(plain: socket.socket, host: str, context: ssl.SSLContext, parameters: Parameters) -> list[bytes]:
    if parameters.get("sslnegotiation") != "direct":
        plain.sendall(_SSL_REQUEST)
        if plain.recv(1) != b"S":
            return []
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
