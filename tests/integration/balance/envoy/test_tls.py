"""TLS on both sides: who is believed, and a certificate that is renewed while all runs."""

import contextlib
import http.client
import os
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backends import HttpBackend, until
from tierkeeper.balance.model import Backend, Certificate, Pool
from tierkeeper.demo.certificates import Certificates, issue
from tierkeeper.kernel.errors import UsageError

from .conftest import Client, pool_of


@pytest.fixture
def issued(tmp_path) -> Callable[[], Certificates]:
    """Another authority each time, with a server certificate for localhost and 127.0.0.1."""
    made: list[Certificates] = []

    def make() -> Certificates:
        made.append(issue(tmp_path / f"ca{len(made)}"))
        return made[-1]

    return make


def server(files: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate_file, files.key_file)
    return context


def pair(files: Certificates) -> Certificate:
    return Certificate(str(files.certificate_file), str(files.key_file))


def ask(pool: Pool, authority: Path) -> tuple[int, str]:
    """Over TLS, verified."""
    connection = http.client.HTTPSConnection(
        "127.0.0.1", pool.port, timeout=5, context=ssl.create_default_context(cafile=authority)
    )
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def believed(pool: Pool, authority: Path) -> bool:
    try:
        return ask(pool, authority)[0] == 200
    except ssl.SSLCertVerificationError:
        return False


def reached(pool: Pool, authority: Path) -> bool:
    with contextlib.suppress(OSError):
        return believed(pool, authority)
    return False


def test_the_port_ends_tls_and_speaks_http2(plane, http_backends, issued) -> None:
    files = issued()
    [backend] = http_backends(1)
    plane.start([pool := pool_of([backend], certificate=pair(files))], {})
    assert ask(pool, files.ca_file) == (200, str(backend.port))
    assert backend.requests[-1].get("x-forwarded-proto") == "https"
    told = subprocess.run(
        ["curl", "-sS", "--cacert", files.ca_file, "-w", " %{http_version}", f"https://127.0.0.1:{pool.port}/"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout == f"{backend.port} 2"
    old = ["openssl", "s_client", "-connect", f"127.0.0.1:{pool.port}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]
    refused = subprocess.run(old, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert refused.returncode != 0
    assert "alert protocol version" in refused.stderr


@pytest.mark.parametrize("way", ["renamed", "in place"])
def test_a_renewed_certificate_is_taken_without_a_restart(planes, http_backends, issued, tmp_path, way) -> None:
    first, second, third = issued(), issued(), issued()
    live = tmp_path / "live"
    shutil.copytree(first.ca_file.parent, live)
    pool = pool_of(http_backends(1), certificate=Certificate(str(live / "server.crt"), str(live / "server.key")))
    plane = planes()
    plane.start([pool], {})
    assert believed(pool, first.ca_file)
    for name in ("server.crt", "server.key"):
        if way == "renamed":
            shutil.copy(second.ca_file.parent / name, live / f"{name}.new")
            os.replace(live / f"{name}.new", live / name)  # noqa: PTH105
        else:
            (live / name).write_bytes((second.ca_file.parent / name).read_bytes())
    assert "was renewed" in (plane.tend() or "")
    until(lambda: believed(pool, second.ca_file))
    assert not believed(pool, first.ca_file)
    plane.tend()
    (live / "server.key").write_bytes(third.key_file.read_bytes())
    assert "not that of the certificate" in (plane.tend() or "")
    assert plane.tend() is None
    time.sleep(0.1)
    assert believed(pool, second.ca_file)
    os.kill(int(plane.facts()["process"]), signal.SIGKILL)  # whatever lies in the user's files by now
    until(lambda: bool(plane.tend()))
    until(lambda: reached(pool, second.ca_file))
    copies = [p for p in tmp_path.rglob("certificates/*/*") if p.is_file()]
    assert sorted(p.suffix for p in copies) == [".key", ".pem"]
    assert {p.stat().st_mode & 0o777 for p in copies} == {0o600}


def test_a_certificate_and_a_key_of_two_is_refused(plane, http_backends, issued) -> None:
    one, other = issued(), issued()
    mixed = Certificate(str(one.certificate_file), str(other.key_file))
    with pytest.raises(UsageError, match="not that of the certificate"):
        plane.start([pool_of(http_backends(1), certificate=mixed)], {})


def test_backends_are_verified_by_authority_and_by_name(planes, issued) -> None:
    files, stranger = issued(), issued()
    named: list[str | None] = []
    context = server(files)
    context.sni_callback = lambda _socket, name, _context: named.append(name)
    encrypted, plain = HttpBackend(tls=context), HttpBackend()

    def pool(name: str, host: str, authority: Certificates | None) -> Pool:
        member = Backend(f"{host}:{encrypted.port}", host, encrypted.port, tls=True)
        return replace(pool_of([plain], name), backends=(member,), backend_ca=str(authority.ca_file) if authority else None)

    plane = planes(resolve=lambda _: ["127.0.0.1"])
    pools = {
        "right": pool("right", "127.0.0.1", files),
        "named": pool("named", "localhost", files),
        "wrong-authority": pool("wrong-authority", "127.0.0.1", stranger),
        "wrong-name": pool("wrong-name", "elsewhere.internal", files),
        "system": pool("system", "127.0.0.1", None),
    }
    both = replace(pool_of([plain], "both"), backend_ca=str(files.ca_file))
    both = replace(both, backends=(*both.backends, *pools["named"].backends))
    try:
        plane.start([*pools.values(), both], {})
        asked = {name: Client(p).ask()[0] for name, p in pools.items()}
        assert asked == {"right": 200, "named": 200, "wrong-authority": 503, "wrong-name": 503, "system": 503}
        assert named[:2] == [None, "localhost"]
        assert len(encrypted.requests) == 2
        assert Client(both).split(8) == {plain.port: 4, encrypted.port: 4}
        refused = plane.observe().readings["wrong-name"][f"elsewhere.internal:{encrypted.port}"].counters
        assert refused.refused > 0
    finally:
        encrypted.stop()
        plain.stop()
