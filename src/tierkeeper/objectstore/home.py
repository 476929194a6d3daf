"""A store at a home server: the same promises over HTTPS, whatever the link does in between.

It must never take an answer of another server for its own's, and never hold more of an object in memory than a part.
"""

import base64
import hashlib
import re
import ssl
import weakref
from collections.abc import Collection, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from http import HTTPStatus
from typing import Any, BinaryIO, Final, TypeVar

import httpx
from pydantic import BaseModel, ValidationError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from tierkeeper.kernel.clock import Clock, SystemClock
from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import CONNECT_SECONDS, STORE_PART_BYTES, STORE_READ_SECONDS, STORE_TRIES
from tierkeeper.kernel.ports import Gate
from tierkeeper.kernel.results import ErrorDocument, ErrorResult, ObjectPage, StoreReport, TokenLife
from tierkeeper.objectstore.enrolment import Enrolment, Lifetime
from tierkeeper.objectstore.port import (
    Kind,
    NotAsAnnounced,
    ObjectExists,
    ObjectInfo,
    ObjectLocked,
    ObjectMissing,
    split_key,
)
from tierkeeper.objectstore.ranges import in_ranges

_AGAIN: Final = frozenset((408, 429, 500, 502, 503, 504))
_ENROL: Final = "Make one with `tierkeeper token create` on the server, and set HOME_SERVER_TOKEN"
_EMPTY: Final = "segment/" + hashlib.sha256(b"").hexdigest()
_M = TypeVar("_M", bound=BaseModel)


class _Away(NotNow):
    """The link or the server failed: the same request may succeed a moment later."""


@dataclass(frozen=True)
class _Stands:
    """How far an upload has come; `complete`: the server has acknowledged its object."""

    at: int
    complete: bool = False


class HomeStore:
    """`https://home.lan:8443/#sha256=…`.

    Every request may be repeated without harm: objects are named by their bytes, and the server says where an upload stands.
    """

    def __init__(
        self,
        address: str,
        token: str | None,
        *,
        insecure: bool = False,
        clock: Clock | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._enrolment = Enrolment.parse(address, insecure=insecure)
        self._token = (token or "").strip()
        if not self._token:
            raise UsageError("HOME_SERVER_TOKEN", "the home server's token is missing", _ENROL)
        if not re.fullmatch(r"[!-~]+", self._token):
            raise UsageError("HOME_SERVER_TOKEN", "this is no token", _ENROL)
        self._clock = clock or SystemClock()
        self._gate = gate

    @property
    def name(self) -> str:
        return f"store {self._enrolment.url}"

    def probe(self) -> str:
        """See `Store.probe`. It writes nothing: the server says whether this token may, and (a newer one) whether it has room."""
        report = self.report()
        answer = self._ask("HEAD", f"/v1/uploads/{_EMPTY}", expected=(200, 404))
        if answer.headers.get("Room-Bytes") == "0":
            cause = "nothing more can be put: its disk is full, or this token's quota is"
            raise NotNow(self.name, cause, "Make room on its disk, or ask whoever runs the server for a larger quota")
        return f"{self._enrolment.url} keeps {report.objects} objects and takes more"

    def report(self) -> StoreReport:
        """What the server says of what it keeps."""
        return self._parsed(StoreReport, self._ask("GET", "/v1/store"))

    def lifetimes(self) -> list[Lifetime]:
        """Until when the server's certificate, its authority's (where one is pinned) and this client's token are valid.

        An older server says nothing of tokens.
        """
        found = []
        with self._client.stream("GET", "/health") as answer:
            secured = answer.extensions["network_stream"].get_extra_info("ssl_object")
            shown = secured.getpeercert() if secured is not None else None
        if shown:
            until = datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["notAfter"]), UTC)
            found.append(Lifetime("leaf", self.name, until))
        if (authority := self._enrolment.authority_until()) is not None:
            found.append(Lifetime("authority", self.name, authority))
        answer = self._ask("GET", "/v1/token", expected=(200, 404))
        if answer.status_code == HTTPStatus.OK:
            found.append(Lifetime("token", self.name, self._parsed(TokenLife, answer).expires_at))
        return found

    def put(self, key: str, source: BinaryIO, *, length_bytes: int) -> None:
        """See `Store.put`."""
        _, sha256 = split_key(key)
        part = source.read(STORE_PART_BYTES)
        if length_bytes > STORE_PART_BYTES:
            self._put_in_parts(key, part, source, length_bytes)
            return
        if (len(part), hashlib.sha256(part).hexdigest()) != (length_bytes, sha256) or source.read(1):
            raise self._not_as_announced(key)
        reach(Point.OBJECT_BEFORE_RENAME)
        self._ask("PUT", f"/v1/objects/{key}", key=key, expected=(200, 201), content=part, headers=_digested(part))

    def _put_in_parts(self, key: str, part: bytes, source: BinaryIO, length_bytes: int) -> None:
        digest, at, stands = hashlib.sha256(), 0, self._stands(key)
        while part:
            digest.update(part)
            end = at + len(part)
            if end > length_bytes or (end == length_bytes and digest.hexdigest() != split_key(key)[1]):
                break
            if end == length_bytes:
                reach(Point.OBJECT_BEFORE_RENAME)
            tries = 0
            while not stands.complete and (stands.at < end or end == length_bytes):
                tries += 1
                if stands.at < at or tries > STORE_TRIES:
                    raise NotNow(self.name, f"it has lost a part of {key}, or takes no more of it", "Run the same command again")
                stands = self._send(key, part[stands.at - at :], stands.at, length_bytes)
            if end == length_bytes and not source.read(1):
                return
            at, part = end, source.read(STORE_PART_BYTES)
        with suppress(TierkeeperError):
            self._ask("DELETE", f"/v1/uploads/{key}", expected=(204,))
        raise self._not_as_announced(key)

    def _send(self, key: str, data: bytes, offset: int, length_bytes: int) -> _Stands:
        """Sends bytes from `offset` on; where the upload stands afterwards.

        A try whose answer was lost is found out by where the upload stands.
        """
        stands = _Stands(offset)
        for attempt in self._tries():
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    stands = self._stands(key)
                if stands.complete or not offset <= stands.at <= offset + len(data):
                    return stands
                rest = data[stands.at - offset :]
                headers = {"Upload-Offset": str(stands.at), "Upload-Length": str(length_bytes), **_digested(rest)}
                answer = self._once("PATCH", f"/v1/uploads/{key}", content=rest, headers=headers)
                if answer.status_code not in (200, 201, 204, 409):
                    raise self._refused(answer, key)
                complete = answer.status_code in (200, 201) and answer.headers.get("Upload-Complete") == "?1"
                stands = _Stands(self._offset(answer, key), complete)
        return stands

    def _stands(self, key: str) -> _Stands:
        """Where an upload stands. Only an answer to what was sent acknowledges an object: what is there may be damaged."""
        answer = self._ask("HEAD", f"/v1/uploads/{key}", expected=(200, 404))
        return _Stands(0 if answer.status_code == HTTPStatus.NOT_FOUND else self._offset(answer, key))

    def _offset(self, answer: httpx.Response, key: str) -> int:
        text = answer.headers.get("Upload-Offset")
        if text is None:
            raise self._refused(answer, key)
        if not re.fullmatch(r"[0-9]{1,19}", text):
            raise self._strange()
        return int(text)

    def open(self, key: str) -> BinaryIO:
        """See `Store.open`."""
        info = self.head(key)
        if info is None:
            raise self._missing(key)
        return in_ranges(lambda start, end: self.get(key, start, end - start), info.length_bytes, STORE_PART_BYTES)

    def get(self, key: str, offset: int = 0, length_bytes: int | None = None) -> bytes:
        """See `Store.get`."""
        split_key(key)
        if length_bytes == 0:
            return b""
        last = "" if length_bytes is None else offset + length_bytes - 1
        headers = {"Range": f"bytes={offset}-{last}"} if offset or length_bytes is not None else {}
        answer = self._ask("GET", f"/v1/objects/{key}", key=key, expected=(200, 206, 416), headers=headers)
        if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return b""
        if headers and answer.status_code != HTTPStatus.PARTIAL_CONTENT:
            raise self._strange()
        return answer.content

    def head(self, key: str) -> ObjectInfo | None:
        """See `Store.head`."""
        split_key(key)
        answer = self._ask("HEAD", f"/v1/objects/{key}", expected=(200, 404))
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return None
        try:
            until = answer.headers.get("Locked-Until")
            length_bytes = int(answer.headers["Content-Length"])
            return ObjectInfo(key, length_bytes, None if until is None else datetime.fromisoformat(until))
        except (KeyError, ValueError):
            raise self._strange() from None

    def list(self, kind: Kind) -> Iterator[ObjectInfo]:
        """See `Store.list`."""
        after = ""
        while True:
            page = self._parsed(ObjectPage, self._ask("GET", f"/v1/objects/{kind}", params={"after": after}))
            for found in page.objects:
                yield ObjectInfo(found.key, found.bytes, found.locked_until)
            if not page.more or not page.objects:
                return
            _, after = split_key(page.objects[-1].key)

    def lock(self, key: str, until: datetime) -> None:
        """See `Store.lock`."""
        split_key(key)
        self._ask("POST", f"/v1/objects/{key}/lock", key=key, params={"until": until.isoformat()})

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        split_key(key)
        self._ask("DELETE", f"/v1/objects/{key}", key=key, expected=(204,))

    @cached_property
    def _client(self) -> httpx.Client:
        timeout = httpx.Timeout(STORE_READ_SECONDS, connect=CONNECT_SECONDS)
        headers = {"Authorization": f"Bearer {self._token}", "User-Agent": "tierkeeper"}
        verify = self._enrolment.context()
        client = httpx.Client(base_url=self._enrolment.url, headers=headers, verify=verify, timeout=timeout, trust_env=False)
        weakref.finalize(self, client.close)
        return client

    def _tries(self) -> Retrying:
        return Retrying(
            retry=retry_if_exception_type(_Away),
            stop=stop_after_attempt(STORE_TRIES),
            wait=wait_exponential_jitter(multiplier=0.2, max=5, jitter=0.2),
            sleep=self._clock.sleep,
            reraise=True,
        )

    def _ask(
        self, method: str, path: str, *, key: str | None = None, expected: Collection[int] = (200,), **rest: Any
    ) -> httpx.Response:
        """One request, a bounded number of times; each of them may be repeated without harm. Raises what the answer means."""
        answer: httpx.Response = self._tries()(self._once, method, path, **rest)
        if answer.status_code not in expected:
            raise self._refused(answer, key)
        return answer

    def _once(self, method: str, path: str, **rest: Any) -> httpx.Response:
        try:
            with nullcontext() if self._gate is None else self._gate(self.name):
                answer = self._client.request(method, path, **rest)
        except httpx.HTTPError as error:
            if (wrong := _untrusted(error)) is not None:
                remedy = "Look at [homeserver] names on the server, and at HOME_SERVER_URL here"
                raise UsageError(self.name, f"its certificate is not trusted ({wrong})", remedy) from error
            cause = f"it does not answer ({type(error).__name__}: {str(error)[:200]})"
            raise _Away(self.name, cause, "Look whether `tierkeeper homeserver` runs there, then run again") from error
        if answer.status_code in _AGAIN:
            raise _Away(self.name, f"it answers {answer.status_code} to {method}", "Look at the server's log, then run again")
        return answer

    def _refused(self, answer: httpx.Response, key: str | None) -> TierkeeperError:
        """What an answer that was not expected means."""
        told = self._told(answer)
        status = HTTPStatus(answer.status_code) if answer.status_code in _STATUSES else None
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            refused = "its role does not allow that" if status is HTTPStatus.FORBIDDEN else "it is unknown, expired or revoked"
            cause = told.cause if told is not None else f"{self.name} refuses the token: {refused}"
            return UsageError("HOME_SERVER_TOKEN", cause, _ENROL)
        if status is HTTPStatus.NOT_FOUND and key is not None and (told is not None or not answer.content):
            return self._missing(key)
        if told is None:
            return self._strange()
        if status is HTTPStatus.INSUFFICIENT_STORAGE:
            return NotNow(self.name, told.cause, told.remedy)
        kinds: dict[HTTPStatus | None, type[Failed]] = {
            HTTPStatus.CONFLICT: ObjectExists,
            HTTPStatus.UNPROCESSABLE_ENTITY: NotAsAnnounced,
            HTTPStatus.LOCKED: ObjectLocked,
        }
        return kinds.get(status, Failed)(self.name, told.cause, told.remedy)

    def _told(self, answer: httpx.Response) -> ErrorResult | None:
        try:
            error = ErrorDocument.model_validate_json(answer.content).error
        except ValidationError:
            return None
        return error if isinstance(error, ErrorResult) else None

    def _parsed(self, model: type[_M], answer: httpx.Response) -> _M:
        try:
            return model.model_validate_json(answer.content)
        except ValidationError:
            raise self._strange() from None

    def _strange(self) -> Failed:
        return Failed(self.name, "it does not answer as a home server does", "Look at HOME_SERVER_URL, and at what lies between")

    def _missing(self, key: str) -> ObjectMissing:
        return ObjectMissing(self.name, f"it does not hold {key}", "Run `tierkeeper archive verify`; restore it from a copy")

    def _not_as_announced(self, key: str) -> NotAsAnnounced:
        return NotAsAnnounced(self.name, f"what came for {key} is not what was announced", "Run the same command again")


_STATUSES: Final = frozenset(status.value for status in HTTPStatus)


def _digested(data: bytes) -> dict[str, str]:
    """RFC 9530."""
    return {"Content-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"}


def _untrusted(error: BaseException | None) -> str | None:
    """What is wrong with the server's certificate, if it is that."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return str(error.verify_message)
        error = error.__cause__ or error.__context__
    return None
