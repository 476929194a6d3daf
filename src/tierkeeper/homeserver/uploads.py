"""How objects come: whole in one request, or in parts that go on where a broken link left off."""

import asyncio
import base64
import re
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import FastAPI, Header, HTTPException, Request, Response
from starlette.requests import ClientDisconnect

from tierkeeper.homeserver.door import COMPLETE, FALSE, OFFSET, ROOM, TRUE, Door, HexPath, KindPath, on_a_thread, threaded
from tierkeeper.homeserver.incoming import Part
from tierkeeper.homeserver.metrics import Metrics
from tierkeeper.homeserver.tokens import Token
from tierkeeper.homeserver.vault import Busy, Vault
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.limits import BODY_PIECE_BYTES, BODY_READ_SECONDS, OBJECT_BYTES_MAX, PUT_BYTES_MAX

_WRITE_BYTES: Final = 2**20  # what goes to a thread and to the disk at once
_UPLOAD: Final = "/v1/uploads/{kind}/{hex}"
_MADE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "the object was there already"},
    201: {"description": "the object is there, durably"},
    204: {"description": "so far so good"},
}
_BODY: Final = {
    "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}
_Digest = Annotated[
    str | None, Header(alias="Content-Digest", description="of this request's bytes (RFC 9530): `sha-256=:…:`", max_length=1000)
]
_Length = Annotated[int, Header(alias="Upload-Length", ge=0, le=2**63 - 1, description="bytes of the whole object")]
_Offset = Annotated[int, Header(alias=OFFSET, ge=0, le=2**63 - 1, description="where this request's bytes begin")]
_IfNoneMatch = Annotated[str | None, Header(alias="If-None-Match", max_length=1000)]


def add_uploads(app: FastAPI, vault: Vault, door: Door, metrics: Metrics) -> None:
    """Adds their paths."""
    _add_parts(app, vault, door, metrics)

    @app.put("/v1/objects/{kind}/{hex}", responses=_MADE, status_code=201, response_class=Response, openapi_extra=_BODY)
    async def whole(
        kind: KindPath,
        hex: HexPath,
        *,
        request: Request,
        token: Annotated[Token, door.may("write")],
        if_none_match: _IfNoneMatch = None,
        digest: _Digest = None,
    ) -> Response:
        """A small object in one request. With `If-None-Match` one that is there already is an error, and else a success."""
        key, wanted, length = f"{kind}/{hex}", _sha256(digest), _content_length(request)
        there = HTTPException(HTTPStatus.PRECONDITION_FAILED, f"{key} is there already")
        if length > PUT_BYTES_MAX:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {PUT_BYTES_MAX} bytes come in parts")
        if await threaded(vault.holds, key):
            if if_none_match is not None:
                raise there
            return _stands(length, complete=True, status=HTTPStatus.OK)
        async with on_a_thread(vault.receiving_whole(token, key, length)) as part:
            await _receive(request, part)
            part.require(wanted)
            metrics.received_bytes.inc(part.at)
            await door.still(token)
            is_new = await threaded(vault.finish, part)
        if if_none_match is not None and not is_new:
            raise there
        return _stands(length, complete=True, status=HTTPStatus.CREATED if is_new else HTTPStatus.OK)


def _add_parts(app: FastAPI, vault: Vault, door: Door, metrics: Metrics) -> None:
    @app.patch(_UPLOAD, responses=_MADE, status_code=201, response_class=Response, openapi_extra=_BODY)
    async def part(
        kind: KindPath,
        hex: HexPath,
        *,
        request: Request,
        token: Annotated[Token, door.may("write")],
        offset: _Offset,
        length: _Length,
        digest: _Digest = None,
    ) -> Response:
        """The next bytes of an object; with its last the object is made. What was cut off goes on from where HEAD says."""
        key, wanted = f"{kind}/{hex}", _sha256(digest)
        if length > OBJECT_BYTES_MAX:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"an object may have {OBJECT_BYTES_MAX} bytes")
        if await threaded(vault.holds, key):
            with suppress(Busy):
                await threaded(vault.give_up, token, key)  # what it had sent before another's came
            return _stands(length, complete=True, status=HTTPStatus.OK)
        async with on_a_thread(vault.receiving(token, key, offset, length)) as coming:
            await _receive(request, coming)
            await threaded(coming.require, wanted)
            metrics.received_bytes.inc(coming.at - offset)
            if coming.at < length:
                return _stands(coming.at, complete=False, status=HTTPStatus.NO_CONTENT)
            await door.still(token)
            is_new = await threaded(vault.finish, coming)
        return _stands(length, complete=True, status=HTTPStatus.CREATED if is_new else HTTPStatus.OK)

    @app.head(_UPLOAD, responses={200: {"description": "where the upload stands"}}, response_class=Response)
    async def stands(kind: KindPath, hex: HexPath, token: Annotated[Token, door.may("write")]) -> Response:
        """Where an upload stands: `Upload-Offset`, and `Upload-Complete` once the object is there. None: `Room-Bytes` for one."""
        key = f"{kind}/{hex}"
        at = await threaded(vault.offset, token, key)
        if at is None:
            room = {ROOM: str(await threaded(vault.room_bytes, token))}
            raise HTTPException(HTTPStatus.NOT_FOUND, f"no upload of {key} is under way", room)
        return _stands(at, complete=await threaded(vault.store.head, key) is not None, status=HTTPStatus.OK)

    @app.delete(_UPLOAD, status_code=204)
    async def give_up(kind: KindPath, hex: HexPath, token: Annotated[Token, door.may("write")]) -> None:
        """Forgets an upload; the object, if it is there, stays."""
        await threaded(vault.give_up, token, f"{kind}/{hex}")


async def _receive(request: Request, part: Part) -> None:
    """The body, as it comes. What came before the link broke is kept, so that an upload goes on from there."""
    held, since_look, now = bytearray(), 0, asyncio.get_running_loop().time
    due = now() + BODY_READ_SECONDS
    chunks = request.stream().__aiter__()
    try:
        while True:
            try:
                async with asyncio.timeout_at(due):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            held += chunk
            since_look += len(chunk)
            if len(held) >= _WRITE_BYTES:
                data, held = bytes(held), bytearray()
                await threaded(part.write, data)
            if since_look >= BODY_PIECE_BYTES:
                since_look, due = 0, now() + BODY_READ_SECONDS
    except TimeoutError:
        cause = f"less than {BODY_PIECE_BYTES} bytes came in {BODY_READ_SECONDS} seconds"
        raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, cause, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "the link broke") from None
    finally:
        if held:
            await threaded(part.write, bytes(held))


def _content_length(request: Request) -> int:
    """How long the body is said to be; the HTTP library has seen to it that this is a number."""
    length = request.headers.get("Content-Length")
    if length is None:
        raise HTTPException(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing")
    return int(length)


def _sha256(digest: str | None) -> bytes | None:
    """The SHA-256 in a Content-Digest header; None where there is no header. Raises UsageError for one that cannot be read."""
    if digest is None:
        return None
    match = re.search(r"(?:^|[,\s])sha-256=:([A-Za-z0-9+/]{43}=):", digest)
    if match is None:
        raise UsageError("home server: Content-Digest", "it has no sha-256=:…:", "Write it as RFC 9530 does")
    return base64.b64decode(match[1])


def _stands(at: int, *, complete: bool, status: HTTPStatus) -> Response:
    return Response(status_code=status, headers={OFFSET: str(at), COMPLETE: TRUE if complete else FALSE})
