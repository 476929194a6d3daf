"""The Chooser in a Python program: httpx transports that spread requests over backends and try again what may be repeated.

Nothing runs beside the requests: what is known of a backend is what its last answers showed. A request is repeated only where
its method is idempotent and its body is at hand, never at a host that was tried for it, within `max_retries` and a budget.
"""

import random
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self, get_args
from urllib.parse import urlsplit

import httpx

from tierkeeper.balance.model import Algorithm, Backend, Pool, Share
from tierkeeper.balance.plan import Chooser, RetryBudget
from tierkeeper.kernel.errors import UsageError

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})  # RFC 9110, 9.2.2
PASSING: Final = frozenset({502, 503, 504})  # what says that another host, or the same one later, may answer
WHOLE_SECONDS: Final = "tierkeeper_whole_seconds"  # extension of a request: what it may take with all its tries
_SERVER_ERROR: Final = 500
WEIGHT_MOST: Final = 100  # as in the configuration
_LEAST_SECONDS: Final = 0.001
_PORTS: Final = {"http": 80, "https": 443}


class NoBackend(httpx.ConnectError):
    """No backend was left to ask."""


@dataclass
class _Try:
    """One request on its way through the backends."""

    request: httpx.Request
    key: str | None
    tried: list[str] = field(default_factory=list)
    chosen: Backend | None = None  # for the try that comes
    began: float = 0.0
    deadline: float | None = None  # for all tries


class Spread:
    """What both transports share: who is asked, what is tried again. Threads may share it.

    Invariant: a request whose method is not idempotent leaves this program at most once.
    """

    def __init__(self, pool: Pool, clock: Callable[[], float] = time.monotonic) -> None:
        self.pool = pool
        self._clock = clock
        self._random = random.SystemRandom().random
        self._chooser = Chooser(pool)
        self._budget = RetryBudget()
        self._lock = threading.Lock()

    def update(self, shares: Mapping[str, Share]) -> None:
        """What backends take from now on, by name."""
        with self._lock:
            self._chooser.update(self._clock(), shares)

    def up(self) -> dict[str, bool]:
        """Which backends would be asked now."""
        with self._lock:
            return dict(self._chooser.up(self._clock()))

    def start(self, request: httpx.Request) -> _Try:
        with self._lock:
            now = self._clock()
            self._budget.asked(now)
        bounds = [b for b in (self.pool.request_timeout_seconds, request.extensions.get(WHOLE_SECONDS)) if b]
        return _Try(request, self._key(request), deadline=now + min(bounds) if bounds else None)

    def next(self, attempt: _Try) -> tuple[Backend, httpx.Request]:
        """Where the request goes now. Raises NoBackend."""
        with self._lock:
            now = self._clock()
            backend = attempt.chosen or self._chooser.choose(now, self._random, attempt.key, attempt.tried)
            if backend is None:
                raise NoBackend(f"{self.pool.name}: no backend is left to ask", request=attempt.request)
            self._chooser.began(backend, now)
            attempt.tried.append(backend.name)
            another = self._may_repeat(attempt) and self._chooser.leaves(now, attempt.tried)
        attempt.began = now
        sent = _sent_to(backend, attempt.request)
        if attempt.deadline is not None:
            left = max(_LEAST_SECONDS, attempt.deadline - now)
            # One that hangs must leave time for another, where there is one.
            _bound(sent, left / 2 if another else left)
        return backend, sent

    def ended(self, backend: Backend, attempt: _Try, ok: bool) -> None:
        with self._lock:
            now = self._clock()
            self._chooser.ended(backend, now, now - attempt.began, ok)

    def gave_up(self, backend: Backend, attempt: _Try) -> None:
        """The program did not wait for the end of it."""
        with self._lock:
            self._chooser.gave_up(backend, self._clock() - attempt.began)

    def again(self, attempt: _Try) -> bool:
        """Whether it may be tried once more, at another host; counts the try."""
        if not self._may_repeat(attempt):
            return False
        with self._lock:
            now = self._clock()
            if attempt.deadline is not None and now >= attempt.deadline:
                return False
            attempt.chosen = self._chooser.choose(now, self._random, attempt.key, attempt.tried)
            return attempt.chosen is not None and self._budget.take(now)

    def _may_repeat(self, attempt: _Try) -> bool:
        request = attempt.request
        return request.method in IDEMPOTENT and _at_hand(request) and len(attempt.tried) <= self.pool.max_retries

    def _key(self, request: httpx.Request) -> str | None:
        """What `consistent_hash` hashes: the header that the pool names, else the path; a program has one address."""
        kind, _, name = self.pool.hash_on.partition(":")
        return request.headers.get(name) if kind == "header" else request.url.path


def pool_of(
    urls: Sequence[str], algorithm: Algorithm = "adaptive", max_retries: int = 3, weights: Sequence[int] | None = None
) -> Pool:
    """A pool of "http://host:port" addresses for use inside a program. Raises UsageError for what is none."""
    if not urls:
        raise UsageError("urls", "there is no backend", "Give at least one address")
    if algorithm not in get_args(Algorithm):
        raise UsageError("algorithm", f"{algorithm!r} is not known", f"Give one of {', '.join(get_args(Algorithm))}")
    if max_retries < 0:
        raise UsageError("max_retries", "it is less than nought", "Give 0 for no tries again")
    if weights is not None and (len(weights) != len(urls) or not all(1 <= w <= WEIGHT_MOST for w in weights)):
        raise UsageError("weights", "these are not as many as addresses, from 1 to 100", "Give one for each address")
    backends = []
    for i, url in enumerate(urls):
        place, remedy = f"urls[{i}]", 'Write it as "http://10.0.0.2:9000"'
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS.get(parts.scheme)
        except ValueError:
            raise UsageError(place, "its port is none", remedy) from None
        if parts.scheme not in _PORTS or not parts.hostname or port is None:
            raise UsageError(place, "this is not an address for http", remedy)
        if parts.path not in ("", "/") or parts.query or parts.username is not None:
            raise UsageError(place, "it has more than a host and a port", remedy)
        weight = weights[i] if weights is not None else 1
        backends.append(Backend(f"{parts.hostname}:{port}", parts.hostname, port, weight, tls=parts.scheme == "https"))
    if len({b.name for b in backends}) < len(backends):
        raise UsageError("urls", "a backend stands there twice", "Take one out")
    return Pool("client", "http", "", 0, tuple(backends), algorithm=algorithm, max_retries=max_retries)


class SpreadTransport(httpx.BaseTransport):
    """For `httpx.Client(transport=…)`: the host of a URL is replaced by a backend's, the header Host stays as it is.

    An answer of 502, 503 or 504 and a failed connection go to another backend where the request may be repeated; what comes in
    the end, answer or error of httpx, is the last one's. Raises NoBackend (an httpx.ConnectError) where nobody is left.
    """

    def __init__(self, pool: Pool, inner: httpx.BaseTransport | None = None) -> None:
        """`inner` carries the requests; by default httpx's own, with its pool of connections and its verification."""
        self.spread = Spread(pool)
        self._inner = inner or httpx.HTTPTransport(verify=_verified_by(pool), http2=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        spread = self.spread
        attempt = spread.start(request)
        while True:
            backend, sent = spread.next(attempt)
            try:
                response = self._inner.handle_request(sent)
            except httpx.TransportError as error:
                spread.ended(backend, attempt, not _blames(error))
                if spread.again(attempt):
                    continue
                raise
            except BaseException:
                spread.gave_up(backend, attempt)
                raise
            spread.ended(backend, attempt, response.status_code < _SERVER_ERROR)
            if response.status_code not in PASSING or not spread.again(attempt):
                return response
            response.close()

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None = None, error: BaseException | None = None, trace: TracebackType | None = None
    ) -> None:
        self._inner.__exit__(kind, error, trace)


class AsyncSpreadTransport(httpx.AsyncBaseTransport):
    """As SpreadTransport, for `httpx.AsyncClient`."""

    def __init__(self, pool: Pool, inner: httpx.AsyncBaseTransport | None = None) -> None:
        self.spread = Spread(pool)
        self._inner = inner or httpx.AsyncHTTPTransport(verify=_verified_by(pool), http2=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        spread = self.spread
        attempt = spread.start(request)
        while True:
            backend, sent = spread.next(attempt)
            try:
                response = await self._inner.handle_async_request(sent)
            except httpx.TransportError as error:
                spread.ended(backend, attempt, not _blames(error))
                if spread.again(attempt):
                    continue
                raise
            except BaseException:
                spread.gave_up(backend, attempt)
                raise
            spread.ended(backend, attempt, response.status_code < _SERVER_ERROR)
            if response.status_code not in PASSING or not spread.again(attempt):
                return response
            await response.aclose()

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None = None, error: BaseException | None = None, trace: TracebackType | None = None
    ) -> None:
        await self._inner.__aexit__(kind, error, trace)


_OWN_FAULTS: Final[Collection[type[httpx.TransportError]]] = (
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpx.ProxyError,
)


def _blames(error: httpx.TransportError) -> bool:
    """Whether `error` speaks against the backend, and not against this program."""
    return not isinstance(error, tuple(_OWN_FAULTS))


def _at_hand(request: httpx.Request) -> bool:
    """Whether the body can be sent again: it lies in memory, not in a stream that is read once."""
    return isinstance(request.stream, httpx.ByteStream)


def _sent_to(backend: Backend, request: httpx.Request) -> httpx.Request:
    host = f"[{backend.host}]" if ":" in backend.host else backend.host
    url = request.url.copy_with(scheme="https" if backend.tls else "http", netloc=f"{host}:{backend.port}".encode("ascii"))
    extensions = dict(request.extensions)
    if backend.tls:
        extensions["sni_hostname"] = backend.host
    return httpx.Request(request.method, url, headers=request.headers, stream=request.stream, extensions=extensions)


def _bound(request: httpx.Request, seconds: float) -> None:
    """Lets no step of `request` wait longer."""
    given = request.extensions.get("timeout") or {}
    steps = {step: given.get(step) for step in ("connect", "read", "write", "pool")}
    request.extensions["timeout"] = {step: seconds if v is None else min(v, seconds) for step, v in steps.items()}


def _verified_by(pool: Pool) -> bool | ssl.SSLContext:
    if pool.backend_ca is None:
        return True
    return ssl.create_default_context(cafile=pool.backend_ca)
