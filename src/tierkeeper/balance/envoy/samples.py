"""Takes the samples that Envoy sends (Fluentd's forward protocol, over a socket of ours), and says how many it should send.

Envoy waits for nobody: with no reader, or a slow one, it drops them.
"""

import random
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tierkeeper.balance.envoy import limits
from tierkeeper.balance.envoy.documents import Layout
from tierkeeper.balance.model import Sample
from tierkeeper.balance.sockets import near

_NO_ANSWER: Final = frozenset({"UF", "UC", "UT", "LR", "UR", "UPE", "UH", "UO"})
_GONE: Final = frozenset({"DC", "DPE", "DT"})
_PIECE: Final = 65_536
_LAST_STATUS: Final = 599


def read(record: Mapping[str, Any]) -> tuple[tuple[str, str], Sample] | None:
    """Whose sample a record is (pool's key, endpoint), and the sample; None where it says nothing of a backend.

    Where the client left before an answer came, nothing is known of the backend. Pure.
    """
    host, flags = str(record.get("h", "-")), {f for f in str(record.get("f", "-")).split(",") if f != "-"}
    if host == "-":
        return None
    status, first, whole = _number(record.get("c")), _number(record.get("d")), _number(record.get("t"))
    if flags & _NO_ANSWER or not 0 < status <= _LAST_STATUS:
        if flags & _GONE and not flags & _NO_ANSWER:
            return None
        return (str(record.get("p")), host), Sample(0, whole / 1e3)
    return (str(record.get("p")), host), Sample(status, first / 1e6 if first else whole / 1e3)


def _number(value: object) -> int:
    text = str(value)
    return int(text) if text.isdigit() else 0


def percents(rates: Mapping[str, float], budget: float = limits.SAMPLES_PER_SECOND) -> dict[str, float]:
    """Of each pool's requests per second, what percent to sample so that all stay within the budget. Pure.

    Busy pools share what quiet ones leave: a quiet pool is seen whole.
    """
    left, chosen = budget, {}
    for count, (name, rate) in enumerate(sorted(rates.items(), key=lambda item: item[1])):
        fair = left / (len(rates) - count)
        chosen[name] = 100.0 if rate <= fair else 100.0 * fair / rate
        left -= min(rate, fair)
    return chosen


class Receiver:
    """Serves the socket in a thread of its own, and keeps a fair draw of what came for each backend."""

    def __init__(self, layout: Layout, seed: int = 0) -> None:
        self._path = Path(layout.samples)
        self._lock = threading.Lock()
        self._random = random.Random(seed)  # noqa: S311 - a draw, no secret
        self._kept: dict[tuple[str, str], list[Sample]] = {}
        self._seen: dict[tuple[str, str], int] = {}
        self._server: socket.socket | None = None
        self._open: set[socket.socket] = set()

    def start(self) -> None:
        """Takes the socket, from a dead brain if need be. Raises OSError."""
        with suppress(FileNotFoundError):
            self._path.unlink()
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with near(self._path) as name:
                server.bind(name)
            self._path.chmod(0o600)
            server.listen()
        except OSError:
            server.close()
            raise
        self._server = server
        threading.Thread(target=self._serve, args=(server,), name="samples", daemon=True).start()

    def stop(self) -> None:
        with self._lock:
            ends = [*self._open, *([self._server] if self._server else [])]
            self._server = None
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        with suppress(OSError):
            self._path.unlink()

    def take(self) -> dict[tuple[str, str], tuple[Sample, ...]]:
        """What came since the last time, by pool's key and endpoint."""
        with self._lock:
            kept, self._kept, self._seen = self._kept, {}, {}
        return {key: tuple(samples) for key, samples in kept.items()}

    def _serve(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
            threading.Thread(target=self._read, args=(connection,), name="samples", daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        import msgpack

        unpacker = msgpack.Unpacker(max_buffer_size=limits.SAMPLE_MESSAGE_BYTES, strict_map_key=False)
        try:
            while piece := connection.recv(_PIECE):
                unpacker.feed(piece)
                for message in unpacker:
                    if message is None:
                        connection.sendall(limits.BRAIN_HEARTBEAT)
                    else:
                        self._keep(message)
        except (OSError, ValueError, msgpack.UnpackException):
            pass  # whatever it was, Envoy comes again
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _keep(self, message: object) -> None:
        match message:
            case [_, list(entries), *_]:
                records = [entry[1] for entry in entries if isinstance(entry, list) and len(entry) > 1]
            case [_, _, dict(record), *_]:
                records = [record]
            case _:
                return
        with self._lock:
            for record in records:
                if isinstance(record, dict) and (found := read(record)) is not None:
                    self._draw(*found)

    def _draw(self, key: tuple[str, str], sample: Sample) -> None:
        """Each that came has the same chance to be kept, however many came."""
        kept = self._kept.setdefault(key, [])
        seen = self._seen[key] = self._seen.get(key, 0) + 1
        if len(kept) < limits.SAMPLES_KEPT:
            kept.append(sample)
        elif (place := self._random.randrange(seen)) < limits.SAMPLES_KEPT:
            kept[place] = sample
