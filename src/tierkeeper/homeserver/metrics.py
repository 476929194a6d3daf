"""What Prometheus is told about the server."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tierkeeper.kernel.results import StoreReport


class Metrics:
    """The server's numbers, in a registry of their own."""

    CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_1_0_0

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("tierkeeper_home_requests", "Requests", ["method", "status"], registry=self._registry)
        self.received_bytes = Counter("tierkeeper_home_received_bytes", "Bytes of objects that came", registry=self._registry)
        self.sent_bytes = Counter("tierkeeper_home_sent_bytes", "Bytes of answers that went", registry=self._registry)
        self._objects = self._gauge("objects", "Objects that are kept")
        self._bytes = self._gauge("bytes", "Bytes that are kept")
        self._unread = self._gauge("unread_objects", "Objects that were never read whole since they were put")
        self._oldest = self._gauge("oldest_read_timestamp_seconds", "When the object was read that was read longest ago")
        self._overdue = self._gauge("scrub_overdue", "1 if an object was not read for too long")
        self._damaged = self._gauge("damaged_objects", "Objects that were found wrong")

    def text(self, report: StoreReport) -> bytes:
        """In Prometheus's format."""
        self._objects.set(report.objects)
        self._bytes.set(report.bytes)
        self._unread.set(report.unread)
        self._oldest.set(report.oldest_read_at.timestamp() if report.oldest_read_at is not None else 0)
        self._overdue.set(report.overdue)
        self._damaged.set(len(report.wrong))
        return generate_latest(self._registry)

    def _gauge(self, name: str, words: str) -> Gauge:
        return Gauge(f"tierkeeper_home_{name}", words, registry=self._registry)


class Counted:
    """Counts what an application is asked and what it answers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._metrics.requests.labels(method, str(message["status"])).inc()
            elif message["type"] == "http.response.body":
                self._metrics.sent_bytes.inc(len(message.get("body", b"")))
            await send(message)

        await self._app(scope, receive, counted)


_METHODS: Final = frozenset(("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"))  # others would let strangers make labels
