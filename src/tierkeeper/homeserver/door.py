"""Who is let in, and how errors are told: what every path of the interface has in common."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, FastAPI, HTTPException, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException as AnyHTTPException

from tierkeeper.homeserver.state import State
from tierkeeper.homeserver.tokens import Token, Verb, token_id
from tierkeeper.homeserver.vault import Busy, OffsetMismatch
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.results import ErrorDocument, ErrorResult
from tierkeeper.objectstore.port import Kind, NotAsAnnounced, ObjectExists, ObjectLocked, ObjectMissing

R = TypeVar("R")
OFFSET: Final = "Upload-Offset"
COMPLETE: Final = "Upload-Complete"
ROOM: Final = "Room-Bytes"
TRUE: Final = "?1"  # booleans of structured headers (RFC 9651)
FALSE: Final = "?0"
KindPath = Annotated[Kind, Path(description="what the object is for")]
HexPath = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="the SHA-256 of its bytes")]
FAULTS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorDocument, "description": words}
    for status, words in (
        (400, "the request is not understood, or contradicts what was announced"),
        (401, "no token, or one that is not live"),
        (403, "the token's role does not allow it"),
        (404, "there is no such object or upload"),
        (408, "the body did not come in time"),
        (409, "the upload stands elsewhere, or the object is damaged"),
        (411, "Content-Length is missing"),
        (412, "the object is there already"),
        (413, "it is larger than an object may be"),
        (416, "no such range"),
        (422, "the bytes are not those of the name or of Content-Digest"),
        (423, "a lock holds the object"),
        (429, "another request writes to the upload"),
        (507, "no room on the disk, or in the token's quota"),
    )
}
_STATUS: Final[tuple[tuple[type[TierkeeperError], HTTPStatus], ...]] = (
    (OffsetMismatch, HTTPStatus.CONFLICT),
    (ObjectExists, HTTPStatus.CONFLICT),
    (ObjectMissing, HTTPStatus.NOT_FOUND),
    (ObjectLocked, HTTPStatus.LOCKED),
    (NotAsAnnounced, HTTPStatus.UNPROCESSABLE_ENTITY),
    (UsageError, HTTPStatus.BAD_REQUEST),
    (Busy, HTTPStatus.TOO_MANY_REQUESTS),
    (NotNow, HTTPStatus.INSUFFICIENT_STORAGE),
)
_REMEDIES: Final = {
    HTTPStatus.UNAUTHORIZED: "Make one with `tierkeeper token create` on the server",
    HTTPStatus.FORBIDDEN: "Use a token with another role",
}
_NOT_LIVE: Final = "the token is missing, unknown, expired or revoked"
_bearer = HTTPBearer(auto_error=False, description="HOME_SERVER_TOKEN")
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


class Door:
    """Lets in who has a live token whose role allows it."""

    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self._clock = clock

    def may(self, verb: Verb) -> Any:
        """The dependency of a path that needs `verb`; its value is the token."""

        async def let_in(credentials: _Credentials) -> Token:
            text = credentials.credentials if credentials is not None else ""
            token = await self._live(token_id(text))
            if not token.opens(text):
                raise HTTPException(HTTPStatus.UNAUTHORIZED, _NOT_LIVE)
            if not token.may(verb):
                raise HTTPException(HTTPStatus.FORBIDDEN, f"a {token.role}'s token may not {verb}")
            return token

        return Depends(let_in)

    async def still(self, token: Token) -> None:
        """Refuses a token that ended while its request came: nothing is made of what it brought."""
        await self._live(token.id)

    async def _live(self, named: str | None) -> Token:
        tokens = await threaded(self._state.tokens, named) if named is not None else []
        if not tokens or not tokens[0].is_live(self._clock.now()):
            raise HTTPException(HTTPStatus.UNAUTHORIZED, _NOT_LIVE)
        return tokens[0]


def answer_errors(app: FastAPI) -> None:
    """Tells every error of `app` as the project tells errors, with its place, cause and remedy."""

    @app.exception_handler(TierkeeperError)
    async def told(_: Request, error: TierkeeperError) -> Response:
        status = next((s for kind, s in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
        headers = {OFFSET: str(error.offset), COMPLETE: FALSE} if isinstance(error, OffsetMismatch) else {}
        return _document(status, error.place, error.cause, error.remedy, headers)

    @app.exception_handler(AnyHTTPException)  # the router's own as well
    async def refused(_: Request, error: AnyHTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        headers = {"WWW-Authenticate": "Bearer"} if status is HTTPStatus.UNAUTHORIZED else dict(error.headers or {})
        return _document(status, "home server", str(error.detail), _REMEDIES.get(status, "Look at /openapi.json"), headers)

    @app.exception_handler(RequestValidationError)
    async def misread(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(("home server", *(str(part) for part in first["loc"])))
        return _document(HTTPStatus.BAD_REQUEST, place[:200], str(first["msg"])[:200], "Look at /openapi.json", {})


def _document(status: HTTPStatus, place: str, cause: str, remedy: str, headers: dict[str, str]) -> Response:
    document = ErrorDocument(error=ErrorResult(place=place, cause=cause, remedy=remedy))
    return JSONResponse(document.model_dump(), status, headers)


@asynccontextmanager
async def on_a_thread(manager: AbstractContextManager[R]) -> AsyncIterator[R]:
    """`manager`, entered and left on a thread."""
    value = await threaded(manager.__enter__)
    try:
        yield value
    except BaseException as error:
        if not await threaded(manager.__exit__, type(error), error, error.__traceback__):
            raise
    else:
        await threaded(manager.__exit__, None, None, None)


async def threaded(call: Callable[..., R], *args: Any) -> R:
    """`call(*args)` on a thread: whatever touches the disk."""
    return await asyncio.to_thread(partial(call, *args))
