"""What the home server and its tokens answer, on the command line and over HTTP."""

from datetime import datetime

from pydantic import Field

from tierkeeper.kernel.results.base import Result


class ServingResult(Result):
    """`homeserver`: printed once it listens."""

    store: str
    listen: str
    enrolment: str = Field(description="HOME_SERVER_URL for every client: where the server is, and the authority to trust")
    notes: list[str] = Field(default=[])


class TokenResult(Result):
    """`token list`, `token revoke`: a token as the server keeps it."""

    id: str
    name: str
    role: str = Field(description="reader, verifier, writer, admin")
    state: str = Field(description="live, expired, revoked")
    created_at: datetime
    expires_at: datetime
    quota_bytes: int | None = Field(description="of what it may put; null where only the disk is the limit")
    used_bytes: int = Field(description="of what it put, or has under way")


class NewTokenResult(TokenResult):
    """`token create`: with the token itself, which is shown once and kept nowhere."""

    token: str = Field(description="HOME_SERVER_TOKEN; a secret")
    enrolment: str | None = Field(description="HOME_SERVER_URL; null where the server was never started")


class TokenLife(Result):
    """What the home server says of the token that it is asked with."""

    name: str
    role: str
    expires_at: datetime


class ObjectResult(Result):
    """An object at the home server."""

    key: str = Field(description="kind/hex, the SHA-256 of its bytes")
    bytes: int
    locked_until: datetime | None


class ObjectPage(Result):
    """Objects of one kind, ordered by key."""

    objects: list[ObjectResult]
    more: bool = Field(description="there are more: ask again with `after` the last key")


class CheckedResult(Result):
    """An object that the server has just read whole."""

    key: str
    ok: bool
    cause: str | None = Field(description="what is wrong with it")


class StoreReport(Result):
    """How the home server keeps its store, and how far it has read it through."""

    objects: int
    bytes: int
    unread: int = Field(description="objects that were never read whole since they were put")
    oldest_read_at: datetime | None = Field(
        description="the longest that any object has not been read, or was put; null for none"
    )
    overdue: bool = Field(description="an object was not read for longer than `scrub_days`, and a day")
    scrub_days: int
    wrong: dict[str, str] = Field(description="key -> cause of each object that was found wrong")


class AuditNote(Result):
    """One note of the home server's audit."""

    at: datetime
    actor: str
    verb: str
    subject: str
    kind: str = Field(description="intent, outcome")
    detail: dict[str, str | int | None]


class ServerHealth(Result):
    """`/health`: whether it serves, for those who ask without a token."""

    status: str = Field(description="ok, overdue, damaged")
