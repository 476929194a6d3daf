"""A server that shows whatever certificates it is given and writes down all that it hears: nobody should tell it a secret."""

import socket
import ssl
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from chains import Signed

_SSL_REQUEST = struct.pack("!II", 8, 80877103)
_ASKS_FOR_A_PASSWORD = b"R" + struct.pack("!II", 8, 3)


@dataclass
class Impostor:
    """Speaks Postgres's TLS greeting on 127.0.0.1:`port` with `chain`; whoever goes on is asked for a password in the clear."""

    chain: tuple[Signed, ...]
    folder: Path
    port: int = 0
    greeted: int = 0
    heard: list[bytes] = field(default_factory=list)
    _socket: socket.socket | None = None

    def __enter__(self) -> Self:
        file = self.folder / "impostor.pem"
        file.write_bytes(self.chain[0].key_pem + b"".join(one.pem for one in self.chain))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(file)
        self._context.set_alpn_protocols(["postgresql"])
        self._socket = socket.create_server(("127.0.0.1", self.port))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._socket is not None
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        assert self._socket is not None
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            with plain, suppress(OSError):
                plain.settimeout(5)
                first = plain.recv(8)
                if first != _SSL_REQUEST:
                    self.heard.append(first + plain.recv(4096))
                    continue
                plain.sendall(b"S")
                with self._context.wrap_socket(plain, server_side=True) as tls:
                    self.greeted += 1
                    while said := tls.recv(4096):
                        self.heard.append(said)
                        tls.sendall(_ASKS_FOR_A_PASSWORD)
