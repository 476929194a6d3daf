"""What must be right before Envoy is told of it: ports, certificates, authorities. Envoy would refuse later, and say less."""

import errno
import socket
import ssl
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from tierkeeper.balance.envoy.limits import INOTIFY_SPARE
from tierkeeper.balance.envoy.render import watches
from tierkeeper.balance.model import Certificate, Pool
from tierkeeper.kernel.errors import UsageError

_LISTENS: Final = "0A"
_IPV6: Final = 6
_INSTANCES: Final = Path("/proc/sys/fs/inotify/max_user_instances")
_AUTHORITIES: Final = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def port_is_free(pool: Pool, address: str, ours: int | None = None) -> None:
    """Raises UsageError where the port cannot be taken. `ours` is the process that may have it already."""
    place = f"{pool.name} ({pool.host}:{pool.port})"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, pool.port))
            probe.listen(1)
        except OSError as error:
            taken = _listening(address, pool.port) if error.errno == errno.EADDRINUSE else set()
            if ours is None or not _has_any(Path(f"/proc/{ours}"), taken):
                raise _port_error(place, _holder(taken), error) from None


def _port_error(place: str, who: tuple[int, str] | None, error: OSError) -> UsageError:
    match error.errno:
        case errno.EADDRINUSE:
            by = f" by process {who[0]} ({who[1]})" if who else ""
            return UsageError(place, f"the port is taken{by}", "End what has it, or name another port")
        case errno.EACCES | errno.EPERM:
            remedy = "Name a port from 1024 on, or allow it (sysctl net.ipv4.ip_unprivileged_port_start)"
            return UsageError(place, "this user may not take the port", remedy)
        case errno.EADDRNOTAVAIL:
            return UsageError(place, "this machine does not have the address", "Name one of its own, or 0.0.0.0 for all")
        case _:
            return UsageError(place, f"the port cannot be taken ({error.strerror})", "Name another address")


def _listening(address: str, port: int) -> set[str]:
    """The sockets that listen on the port where `address` is among what they take. Others on it are in nobody's way."""
    wanted, found = ip_address(address), set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                where, _, number = fields[1].rpartition(":")
                if fields[3] == _LISTENS and int(number, 16) == port and meet(wanted, _local(where)):
                    found.add(f"socket:[{fields[9]}]")
    return found


def meet(one: IPv4Address | IPv6Address, other: IPv4Address | IPv6Address) -> bool:
    """Whether sockets at both could not listen on one port. Pure."""
    if one.is_unspecified or other.is_unspecified:
        return one.version == other.version or any(a.is_unspecified and a.version == _IPV6 for a in (one, other))
    return one == other


def _local(text: str) -> IPv4Address | IPv6Address:
    """An address as the kernel's tables have it: words of 32 bits, each in the order of this machine."""
    words = [int(text[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(text), 8)]
    address = ip_address(b"".join(words))
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _holder(sockets: set[str]) -> tuple[int, str] | None:
    """Which process has one of them (its number and name), as far as this user may see it."""
    for entry in Path("/proc").iterdir() if sockets else ():
        with suppress(OSError):
            if entry.name.isdigit() and _has_any(entry, sockets):
                return int(entry.name), (entry / "comm").read_text().strip()
    return None


def _has_any(process: Path, sockets: set[str]) -> bool:
    try:
        return any(_points_to(descriptor, sockets) for descriptor in (process / "fd").iterdir())
    except OSError:
        return False


def _points_to(descriptor: Path, inodes: set[str]) -> bool:
    try:
        return str(descriptor.readlink()) in inodes
    except OSError:
        return False


def certificate_pair(name: str, certificate: Certificate) -> tuple[bytes, bytes]:
    """The chain and its key. Raises UsageError for files that cannot be read, are no PEM, or do not belong together."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    place = f"{name} ({certificate.chain})"
    try:
        chain_pem = _bytes(name, certificate.chain, "certificate")
        chain = x509.load_pem_x509_certificates(chain_pem)
    except ValueError:
        raise UsageError(
            place, "this is no certificate in PEM form", "Name the file that begins with BEGIN CERTIFICATE"
        ) from None
    key_place = f"{name} ({certificate.key})"
    try:
        key_pem = _bytes(name, certificate.key, "key")
        key = load_pem_private_key(key_pem, None)
    except TypeError:
        raise UsageError(
            key_place, "the key is locked by a passphrase", "Name a key without one, readable by this user alone"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(
            key_place, "this is no private key in PEM form", "Name the file that begins with BEGIN PRIVATE KEY"
        ) from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != chain[0].public_key().public_bytes(*form):
        raise UsageError(key_place, "the key is not that of the certificate", "Name the two files that were made together")
    return chain_pem, key_pem


def authority_works(pool: Pool) -> None:
    """Raises UsageError for a `backend_ca` that holds no certificate."""
    from cryptography import x509

    if pool.backend_ca is None:
        return
    try:
        x509.load_pem_x509_certificates(_bytes(pool.name, pool.backend_ca, "backend_ca"))
    except ValueError:
        place = f"{pool.name} ({pool.backend_ca})"
        raise UsageError(place, "this is no certificate in PEM form", "Name the file with the CAs of the backends") from None


def _bytes(name: str, path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(
            f"{name} ({path})", f"the {what} cannot be read ({error.strerror})", "Name a file that this user may read"
        ) from None


def system_authorities(pools: Iterable[Pool]) -> str:
    """The file of the system's CAs, where a pool needs it. Raises UsageError if there is none."""
    named = ssl.get_default_verify_paths().cafile
    found = next((path for path in (named, *_AUTHORITIES) if path and Path(path).is_file()), None)
    needs = [p.name for p in pools if p.backend_ca is None and any(b.tls for b in p.backends)]
    if found is None and needs:
        raise UsageError(f"{needs[0]}.backend_ca", "this system has no file of CAs", "Name the file with the CAs of the backends")
    return found or ""


def watches_fit(pools: tuple[Pool, ...]) -> None:
    """Raises UsageError where Envoy would need more watches of files than a user may have: it would end itself."""
    try:
        allowed = int(_INSTANCES.read_text())
    except (OSError, ValueError):
        return
    needed = watches(pools) + INOTIFY_SPARE
    if needed > allowed:
        remedy = f"Raise it (sysctl fs.inotify.max_user_instances={2 * needed}), or name fewer services"
        raise UsageError("balance.services", f"so many need {needed} watches of files, and a user has {allowed}", remedy)


def ports_differ(pools: Iterable[Pool], addresses: Mapping[str, str]) -> None:
    """Raises UsageError for two names of one port."""
    seen: dict[tuple[str, int], Pool] = {}
    for pool in pools:
        other = seen.setdefault((addresses[pool.host], pool.port), pool)
        if other is not pool:
            place, cause = f"{pool.name} ({pool.host}:{pool.port})", f"{other.name} listens there, at {other.host}:{other.port}"
            raise UsageError(place, cause, "Name another port")


def same_place(pool: Pool, addresses: Mapping[str, str]) -> tuple[str, str] | None:
    """Two backends that are one to Envoy, which knows them by address."""
    seen: dict[tuple[str, int], str] = {}
    for backend in pool.backends:
        other = seen.setdefault((addresses[backend.host], backend.port), backend.name)
        if other != backend.name:
            return other, backend.name
    return None


def backends_differ(pool: Pool, addresses: Mapping[str, str]) -> None:
    """Raises UsageError for two names of one backend."""
    if (twins := same_place(pool, addresses)) is not None:
        raise UsageError(pool.name, f"{twins[0]} and {twins[1]} are the same backend", "Take one out")
