"""Somebody between a client and its home server, who has what anybody can fetch, and wants the token."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tierkeeper.homeserver.identity import Identity
from tierkeeper.kernel.errors import Failed, TierkeeperError
from tierkeeper.kernel.limits import AUTHORITY_BYTES_MAX
from tierkeeper.objectstore.home import HomeStore

NAMES = ("127.0.0.1", "localhost")


class Impostor(BaseHTTPRequestHandler):
    """Shows `authority` as its own, and keeps every token that it is told."""

    authority = b""
    told: ClassVar[list[str]] = []
    sent = 0

    def do_GET(self) -> None:
        if "Authorization" in self.headers:
            self.told.append(self.headers["Authorization"])
        self.send_response(200)
        self.end_headers()
        for at in range(0, len(self.authority), AUTHORITY_BYTES_MAX):
            self.wfile.write(self.authority[at : at + AUTHORITY_BYTES_MAX])
            type(self).sent += AUTHORITY_BYTES_MAX

    def log_message(self, *_: object) -> None: ...


@contextmanager
def impostor(identity: Identity, shown: bytes) -> Iterator[int]:
    """Its port; its links are TLS with `identity`'s certificate."""
    Impostor.authority, Impostor.told, Impostor.sent = shown, [], 0
    with HTTPServer(("127.0.0.1", 0), Impostor) as server:
        server.socket = identity.context().wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # links that the client ends
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def padded(folder: Path) -> Identity:
    """An authority whose certificate's base64 ends in padding, where a lenient decoder stops: two of three are so."""
    for number in range(100):
        identity = Identity(folder / str(number), NAMES)
        identity.ensure(datetime.now(UTC))
        if len(ssl.PEM_cert_to_DER_cert(identity.ca.read_text())) % 3:
            return identity
    raise AssertionError("none is")


@pytest.mark.parametrize("order", ["real, own", "own, real", "real in a comment"])
def test_an_authority_beside_the_pinned_one_is_not_believed(tmp_path: Path, order: str) -> None:
    real, own = padded(tmp_path / "real"), padded(tmp_path / "own")
    pem, other = real.ca.read_bytes(), own.ca.read_bytes()
    shown = {"real, own": pem + other, "own, real": other + pem, "real in a comment": b"# " + pem + other}[order]
    with impostor(own, shown) as port:
        with pytest.raises(TierkeeperError):
            HomeStore(real.enrolment(port), "tk_secret").report()
        assert Impostor.told == []


def test_an_authority_without_an_end_is_not_waited_for(tmp_path: Path) -> None:
    own = padded(tmp_path)
    with impostor(own, b"x" * (800 * AUTHORITY_BYTES_MAX)) as port, pytest.raises(Failed, match="another authority"):
        HomeStore(own.enrolment(port), "tk_secret").report()
    assert 0 < Impostor.sent < 800 * AUTHORITY_BYTES_MAX, "it went on to the end"
