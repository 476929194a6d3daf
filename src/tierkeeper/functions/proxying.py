"""An HTTP event of a function URL or an HTTP API (payload 2.0), answered by a healthy backend of a service.

What is known of the backends lives as long as the instance of the function does. It must not be an open proxy: whatever the
event says, the request goes to a backend of the configured service.
"""

import base64
import binascii
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote

import httpx

from tierkeeper.balance.asking import each_once
from tierkeeper.balance.client import WHOLE_SECONDS, NoBackend, SpreadTransport
from tierkeeper.balance.model import WEIGHT_SCALE, Share, Takes
from tierkeeper.balance.pools import Service
from tierkeeper.compose.balancing import services
from tierkeeper.config import Settings
from tierkeeper.kernel.errors import UsageError

Document = dict[str, Any]

ANSWER_BYTES_MAX: Final = 4_400_000  # a function returns 6 MB at most, and base64 makes four bytes of three
REMAINING_SECONDS: Final = 0.3  # of the function's time are for its own answer
PROBE_SECONDS: Final = 1.0  # at most, for one backend: a request waits for it
_LEAST_SECONDS: Final = 0.05
_LATE: Final = "the backend did not answer in time"

# RFC 9110, 7.6.1, and what the transport writes itself.
_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"}
    | {"te", "trailer", "transfer-encoding", "upgrade"}
)
_OWN: Final = _HOP | {"content-length"}
_TEXT: Final = re.compile(r"(text/.*|application/(.*\+)?(json|xml|javascript)|application/x-www-form-urlencoded)\s*(;.*)?", re.I)
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def chosen_service(settings: Settings, name: str | None) -> Service:
    """The service `name`, else the only one that speaks HTTP. Raises UsageError, Faults for wrong backends."""
    found = [s for s in services(settings.balance) if s.ask.protocol == "http"]
    fit = [s for s in found if name is None or s.name == name]
    if len(fit) == 1:
        return fit[0]
    known = ", ".join(s.name for s in found) or "none"
    if name is not None:
        raise UsageError("TIERKEEPER_SERVICE", f"no HTTP service is named {name!r}", f"Name one of: {known}")
    if not found:
        raise UsageError("balance.services", "no service speaks HTTP", 'Add one with protocol = "http"')
    raise UsageError("balance.services", "several services speak HTTP", f"Set TIERKEEPER_SERVICE to one of: {known}")


@dataclass
class Proxy:
    """What an instance of the function keeps for one service."""

    service: Service
    transport: SpreadTransport
    checked: float | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, event: Mapping[str, Any], remaining_seconds: float | None = None) -> Document:
        """The backend's answer in payload 2.0; 400, 502, 503 or 504 with a document of JSON where there is none."""
        request, began = _request(event), time.monotonic()
        if isinstance(request, str):
            return failure(400, request)
        self.look()
        left = None if remaining_seconds is None else remaining_seconds - (time.monotonic() - began)
        seconds = [s for s in (self.transport.spread.pool.request_timeout_seconds or None, left) if s is not None]
        until = time.monotonic() + max(_LEAST_SECONDS, min(seconds)) if seconds else None
        if until is not None:
            bound = until - time.monotonic()
            request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), bound)
            request.extensions[WHOLE_SECONDS] = bound
        try:
            response = self.transport.handle_request(request)
            try:
                with _cut_at(until, response):
                    return _answer(response, request.method)
            finally:
                response.close()
        except (httpx.TransportError, httpx.StreamError) as error:
            return failure(504, _LATE) if until is not None and time.monotonic() >= until else self._failure(error)

    def _failure(self, error: Exception) -> Document:
        if isinstance(error, NoBackend) or not any(self.transport.spread.up().values()):
            return failure(503, "no backend is healthy")
        if isinstance(error, httpx.TimeoutException):
            return failure(504, _LATE)
        return failure(502, "no backend could be reached, or it broke off")

    def look(self) -> None:
        """Asks every backend how it is, where that was not asked for an interval. A probe is short: a request waits for it."""
        with self.lock:
            now = time.monotonic()
            if self.checked is not None and now - self.checked < self.service.ask.interval_seconds:
                return
            self.checked = now
            ask = replace(self.service.ask, timeout_seconds=min(self.service.ask.timeout_seconds, PROBE_SECONDS))
            heard = each_once([(ask, node) for node in self.service.nodes])
            self.transport.spread.update(
                {
                    node.name: Share(Takes.TRAFFIC if h.answer.ok else Takes.NOTHING, WEIGHT_SCALE * node.backend.weight)
                    for node, h in zip(self.service.nodes, heard, strict=True)
                }
            )


def _request(event: Mapping[str, Any]) -> httpx.Request | str:
    """The event as a request, to any host; or what is wrong with it."""
    http = event["requestContext"]["http"]
    path, stage = str(event["rawPath"]), event["requestContext"].get("stage")
    if isinstance(stage, str) and stage != "$default" and path.startswith(f"/{stage}/"):
        path = path[len(stage) + 1 :]
    target = quote(path if path.startswith("/") else f"/{path}", safe="/%:@!$&'()*+,;=-._~", errors="replace")
    query = str(event.get("rawQueryString") or "")
    if query:
        target += "?" + quote(query, safe="/%:@!$&'()*+,;=-._~?[]{}|^`\\\"<>", errors="replace").replace(" ", "%20")
    headers = _headers(event, str(http.get("sourceIp") or ""))
    method = str(http.get("method") or "")
    if isinstance(headers, str):
        return headers
    if not _NAME.fullmatch(method):
        return "the method is none"
    body = event.get("body") or ""
    try:
        content = base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else str(body).encode()
    except (binascii.Error, ValueError):
        return "the body is no base64"
    url = httpx.URL("http://service").copy_with(raw_path=target.encode("ascii", "replace"))
    if content or method in ("POST", "PUT", "PATCH"):
        headers.append(("content-length", str(len(content))))
    sent = [(name.encode("ascii"), value.encode("utf-8", "replace")) for name, value in headers]
    return httpx.Request(method, url, headers=sent, stream=httpx.ByteStream(content))


def _headers(event: Mapping[str, Any], source: str) -> list[tuple[str, str]] | str:
    given = {str(k).lower(): str(v) for k, v in (event.get("headers") or {}).items()}
    named = {part.strip().lower() for part in given.get("connection", "").split(",")}
    if any(not _NAME.fullmatch(k) or re.search(r"[\r\n\0]", v) for k, v in given.items()):
        return "a header is none"
    kept = [(k, v) for k, v in given.items() if k not in _OWN and k not in named and k not in ("cookie", "x-forwarded-for")]
    cookies = "; ".join(str(c) for c in event.get("cookies") or ()) or given.get("cookie", "")
    if re.search(r"[\r\n\0]", cookies):
        return "a cookie is none"
    if cookies:
        kept.append(("cookie", cookies))
    # A function URL has written the client's address there itself.
    before = given.get("x-forwarded-for", "")
    forwarded = before if before.rpartition(",")[2].strip() == source else ", ".join(p for p in (before, source) if p)
    if forwarded:
        kept.append(("x-forwarded-for", forwarded))
    if "host" not in given:
        kept.append(("host", str(event["requestContext"].get("domainName") or "service")))
    return kept


@contextmanager
def _cut_at(until: float | None, response: httpx.Response) -> Iterator[None]:
    """Lets nothing of `response` be waited for beyond `until`: bounds of single reads do not end what comes drop by drop."""
    stream = response.extensions.get("network_stream")
    if until is None or stream is None:
        yield
        return

    def cut() -> None:
        with suppress(OSError):
            stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(until - time.monotonic(), 0), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _answer(response: httpx.Response, method: str) -> Document:
    body = b""
    for piece in response.iter_raw():
        body += piece
        if len(body) > ANSWER_BYTES_MAX:
            return failure(502, f"the answer is larger than a function may give ({ANSWER_BYTES_MAX} bytes)")
    headers: dict[str, str] = {}
    cookies = []
    named = {part.strip().lower() for part in response.headers.get("connection", "").split(",")}
    for name, value in response.headers.multi_items():
        if name == "set-cookie":
            cookies.append(value)
        elif (name not in _OWN or (name == "content-length" and method == "HEAD")) and name not in named:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    plain = not response.headers.get("content-encoding") and _TEXT.fullmatch(response.headers.get("content-type", "")) is not None
    text = _decoded(body) if plain or not body else None
    answer: Document = {"statusCode": response.status_code, "headers": headers, "isBase64Encoded": text is None}
    answer["body"] = text if text is not None else base64.b64encode(body).decode("ascii")
    return answer | ({"cookies": cookies} if cookies else {})


def _decoded(body: bytes) -> str | None:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return None


def failure(status: int, cause: str) -> Document:
    """An answer of this function's own. It names no backend: whoever asks is outside."""
    headers = {"content-type": "application/json", "cache-control": "no-store"}
    return {
        "statusCode": status,
        "headers": headers,
        "isBase64Encoded": False,
        "body": json.dumps({"error": cause, "status": status}),
    }


_KEPT: dict[Service, Proxy] = {}
_KEPT_LOCK = threading.Lock()


def proxy_for(settings: Settings, name: str | None) -> Proxy:
    """The proxy of this instance for the service: what it has learnt stays while the configuration does. Raises UsageError."""
    service = chosen_service(settings, name)
    with _KEPT_LOCK:
        if service not in _KEPT:
            for old in _KEPT.values():
                old.transport.close()
            _KEPT.clear()
            _KEPT[service] = Proxy(service, SpreadTransport(service.pools[0]))
        return _KEPT[service]
