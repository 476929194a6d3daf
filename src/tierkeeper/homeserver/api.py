"""The server's HTTP interface: what is asked and how it is answered. The door decides who may; the vault does it."""

import base64
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse

from tierkeeper.homeserver.door import FAULTS, Door, HexPath, KindPath, answer_errors, threaded
from tierkeeper.homeserver.metrics import Counted, Metrics
from tierkeeper.homeserver.scrub import Scrub
from tierkeeper.homeserver.tokens import Token
from tierkeeper.homeserver.uploads import add_uploads
from tierkeeper.homeserver.vault import Vault
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.limits import LIST_PAGE, LOCK_YEARS_MAX, SEND_BYTES
from tierkeeper.kernel.results import AuditNote, CheckedResult, ObjectPage, ObjectResult, ServerHealth, StoreReport, TokenLife
from tierkeeper.objectstore.port import ObjectInfo, ObjectMissing

_OBJECT: Final = "/v1/objects/{kind}/{hex}"
_TEXT: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"text/plain": {}}}}


def create_app(vault: Vault, scrub: Scrub, clock: Clock, authority: str) -> FastAPI:
    """The application; it opens nothing by itself. `authority`: the PEM of the certificate that clients pin."""
    app = FastAPI(title="tierkeeper home server", version="1", docs_url=None, redoc_url=None, responses=FAULTS)
    door, metrics = Door(vault.state, clock), Metrics()
    answer_errors(app)
    _add_reports(app, vault, scrub, metrics, door)
    _add_authority(app, authority)
    _add_reading(app, vault, door)
    _add_keeping(app, vault, door, clock)
    add_uploads(app, vault, door, metrics)
    app.add_middleware(Counted, metrics=metrics)
    return app


class _Downloaded(FileResponse):
    chunk_size = SEND_BYTES


def _add_authority(app: FastAPI, authority: str) -> None:
    @app.get("/ca.pem", response_class=Response, responses=_TEXT)
    async def certificate() -> Response:
        """The authority's certificate. Whoever fetches it compares its fingerprint with the enrolment string. Needs no token."""
        return PlainTextResponse(authority)


def _add_reports(app: FastAPI, vault: Vault, scrub: Scrub, metrics: Metrics, door: Door) -> None:
    @app.get("/health", responses={503: {"model": ServerHealth, "description": "what it keeps is damaged"}})
    async def health() -> ServerHealth:
        """Whether the server serves, and whether what it keeps is whole. Needs no token."""
        report = await threaded(scrub.recent)
        status = "damaged" if report.wrong else "overdue" if report.overdue else "ok"
        return JSONResponse({"status": status}, 503 if report.wrong else 200)  # type: ignore[return-value]  # FastAPI takes both

    @app.get("/metrics", response_class=Response, responses=_TEXT)
    async def measured(_: Annotated[Token, door.may("read")]) -> Response:
        """For Prometheus, which can send a token."""
        return PlainTextResponse(metrics.text(await threaded(scrub.report)), media_type=Metrics.CONTENT_TYPE)

    @app.get("/v1/store")
    async def store(_: Annotated[Token, door.may("read")]) -> StoreReport:
        """What is kept, and how far it was read through."""
        return await threaded(scrub.report)

    @app.get("/v1/token")
    async def own_token(token: Annotated[Token, door.may("read")]) -> TokenLife:
        """The token that asks, so that its holder can renew it in time."""
        return TokenLife(name=token.name, role=token.role, expires_at=token.expires_at)

    @app.get("/v1/audit")
    async def audit(
        _: Annotated[Token, door.may("delete")], limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> list[AuditNote]:
        """The newest notes, newest first."""
        return [AuditNote(**note) for note in await threaded(vault.state.trail, limit)]


def _add_reading(app: FastAPI, vault: Vault, door: Door) -> None:
    @app.get("/v1/objects/{kind}")
    async def listed(
        kind: KindPath,
        _: Annotated[Token, door.may("read")],
        after: Annotated[str, Query(pattern="^([0-9a-f]{64})?$", description="the hex of the last key of the page before")] = "",
        limit: Annotated[int, Query(ge=1, le=LIST_PAGE)] = LIST_PAGE,
    ) -> ObjectPage:
        """The objects of one kind, ordered by key."""

        def page() -> list[ObjectInfo]:
            found = []
            for info in vault.store.list(kind, f"{kind}/{after}" if after else ""):
                found.append(info)
                if len(found) > limit:
                    break
            return found

        found = await threaded(page)
        return ObjectPage(objects=[_object(info) for info in found[:limit]], more=len(found) > limit)

    @app.api_route(
        _OBJECT, methods=["GET", "HEAD"], response_class=FileResponse, responses={206: {"description": "a range of it"}}
    )
    async def content(kind: KindPath, hex: HexPath, _: Annotated[Token, door.may("read")]) -> Response:
        """The object's bytes, or a range of them."""
        info = await _known(vault, f"{kind}/{hex}")
        headers = {
            "ETag": f'"{hex}"',
            "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(hex)).decode()}:",
            "Cache-Control": "private, immutable, max-age=31536000",
        }
        if info.locked_until is not None:
            headers["Locked-Until"] = info.locked_until.isoformat()
        where, stat = await threaded(vault.store.found, info.key)
        return _Downloaded(where, headers=headers, media_type="application/octet-stream", stat_result=stat)


def _add_keeping(app: FastAPI, vault: Vault, door: Door, clock: Clock) -> None:
    @app.post(f"{_OBJECT}/check")
    async def check(kind: KindPath, hex: HexPath, _: Annotated[Token, door.may("check")]) -> CheckedResult:
        """Reads the object whole, now, on the server."""
        wrong = await threaded(vault.check, f"{kind}/{hex}")
        return CheckedResult(key=f"{kind}/{hex}", ok=wrong is None, cause=wrong)

    @app.post(f"{_OBJECT}/lock")
    async def lock(
        kind: KindPath,
        hex: HexPath,
        token: Annotated[Token, door.may("lock")],
        until: Annotated[datetime, Query(description="with its zone; UTC if it has none")],
    ) -> ObjectResult:
        """Holds the object until then. A lock that ends later stays: none can be made shorter."""
        key, end = f"{kind}/{hex}", _lock_end(until, clock.now())
        await threaded(_locked, vault, token.name, key, end)
        return _object(await _known(vault, key))

    @app.delete(_OBJECT, status_code=204)
    async def delete(kind: KindPath, hex: HexPath, token: Annotated[Token, door.may("delete")]) -> None:
        """Takes the object away, unless a lock holds it. One that is not there is no error."""
        await threaded(vault.delete, token.name, f"{kind}/{hex}")


async def _known(vault: Vault, key: str) -> ObjectInfo:
    info = await threaded(vault.store.head, key)
    if info is None:
        raise ObjectMissing("home server", f"it does not hold {key}", "Run `tierkeeper archive verify`")
    return info


def _locked(vault: Vault, actor: str, key: str, until: datetime) -> None:
    with vault.state.action(actor, "lock", key, until=until):
        vault.store.lock(key, until)


def _lock_end(until: datetime, now: datetime) -> datetime:
    end = until.replace(tzinfo=UTC) if until.tzinfo is None else until
    with suppress(OverflowError):
        if end.astimezone(UTC) <= now + timedelta(days=365 * LOCK_YEARS_MAX):
            return end.astimezone(UTC)
    raise UsageError("home server: until", f"a lock ends within {LOCK_YEARS_MAX} years", "Write an earlier time")


def _object(info: ObjectInfo) -> ObjectResult:
    return ObjectResult(key=info.key, bytes=info.length_bytes, locked_until=info.locked_until)
