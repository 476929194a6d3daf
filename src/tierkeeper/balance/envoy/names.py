"""Where the host names of backends point: Envoy takes addresses only, and names may come to point elsewhere."""

import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from tierkeeper.balance.envoy.clusters import is_address
from tierkeeper.balance.envoy.limits import RESOLVE_SECONDS

Resolve = Callable[[str], list[str]]
"""The addresses of a host, the best first. Raises OSError."""

_CHARACTERS: Final = "%"


def system(host: str) -> list[str]:
    """As this machine resolves names: its hosts file, its DNS."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(str(error)) from None
    return list(dict.fromkeys(str(address[0]).partition(_CHARACTERS)[0] for *_, address in found))


def settled(now: str | None, found: list[str]) -> str | None:
    """The address to use: the one in use while the name still has it, so that many addresses do not take turns. Pure."""
    return now if now in found or not found else found[0]


class Names:
    """Knows the address of every host, and looks again in a thread of its own: a name server that hangs delays nobody."""

    def __init__(self, resolve: Resolve = system, every_seconds: float = RESOLVE_SECONDS) -> None:
        self._resolve = resolve
        self._every = every_seconds
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        self._stopped = threading.Event()

    def learn(self, hosts: Iterable[str], before: Mapping[str, str]) -> list[str]:
        """Resolves what is not known yet, and returns the hosts that could not be. `before` serves where the name does not."""
        lost = []
        for host in hosts:
            if host in self._known:
                continue
            if is_address(host):
                address: str | None = host
            else:
                try:
                    address = settled(before.get(host), self._resolve(host))
                except OSError:
                    address = before.get(host)
            if address is None:
                lost.append(host)
                continue
            with self._lock:
                self._known[host] = address
        return lost

    def known(self) -> dict[str, str]:
        with self._lock:
            return dict(self._known)

    def watch(self) -> None:
        """Begins to look again, where there is a name at all."""
        self.stop()
        if any(not is_address(host) for host in self.known()):
            self._stopped = threading.Event()
            threading.Thread(target=self._look, args=(self._stopped,), name="names", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _look(self, stopped: threading.Event) -> None:
        while not stopped.wait(self._every):
            for host, now in self.known().items():
                if is_address(host):
                    continue
                try:
                    found = self._resolve(host)
                except OSError:
                    continue
                with self._lock:
                    self._known[host] = settled(now, found) or now
