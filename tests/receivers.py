"""Real receivers of messages on loopback: an HTTP server, which may speak TLS, and an SMTP server."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tierkeeper.demo.certificates import Certificates
from tierkeeper.demo.server import free_port


@dataclass
class Receiver:
    """What came, in order; `status` is what it answers from now on."""

    port: int = 0
    status: int = 200
    got: list[dict[str, Any]] = field(default_factory=list)
    tried: int = 0

    @property
    def url(self) -> str:
        return f"json://user:s3cr3t-pass@127.0.0.1:{self.port}/s3cr3t-path/"

    @property
    def titles(self) -> list[str]:
        return [one["title"] for one in self.got]


@contextmanager
def http_receiver(certificates: Certificates | None = None) -> Iterator[Receiver]:
    """With `certificates` it speaks TLS."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.tried += 1
            if receiver.status == 200:
                receiver.got.append({**json.loads(body), "path": self.path, "auth": self.headers.get("Authorization")})
            self.send_response(receiver.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that does not trust it hangs up."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates.certificate_file, certificates.key_file)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        receiver.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield receiver
        server.shutdown()
        thread.join()


@contextmanager
def smtp_receiver() -> Iterator[tuple[str, list[EmailMessage]]]:
    """An Apprise URL, and the mails that came to it."""
    mails: list[EmailMessage] = []

    class Inbox:
        async def handle_DATA(self, *asked: SMTP | Session | Envelope) -> str:  # noqa: N802 - aiosmtpd's name
            envelope = asked[-1]
            assert isinstance(envelope, Envelope)
            mail = message_from_bytes(envelope.content or b"", policy=policy.default)  # type: ignore[arg-type]
            assert isinstance(mail, EmailMessage)
            mails.append(mail)
            return "250 OK"

    port = free_port()
    controller = Controller(Inbox(), hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield f"mailto://127.0.0.1:{port}?from=keeper@example.com&to=person@example.com", mails
    finally:
        controller.stop()
