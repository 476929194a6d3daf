"""Who may do what: tokens, their roles, and what each role allows. Pure but for the randomness of a new token."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final, Literal, get_args

Role = Literal["reader", "writer", "verifier", "admin"]
Verb = Literal["read", "check", "write", "lock", "delete"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

ALLOWED: Final[Mapping[Role, frozenset[Verb]]] = MappingProxyType(
    {
        "reader": frozenset(("read",)),
        "verifier": frozenset(("read", "check")),
        "writer": frozenset(("read", "write", "lock")),
        "admin": frozenset(get_args(Verb)),
    }
)
"""`read`: list, head and content; `check`: have an object read anew; `write`: create; `lock`: extend a retention lock; `delete`:
what no lock holds. A writer can neither delete nor shorten anything, so that who steals its token destroys nothing."""

_SECRET_BYTES: Final = 32  # 256 random bits: nothing to guess, so that a plain hash of them is enough
_TEXT: Final = re.compile(r"tk_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class Token:
    """A token as the server keeps it: `hash` is the SHA-256 of a secret that it does not know. `quota_bytes`: of what it put."""

    id: str
    name: str
    role: Role
    hash: bytes = field(repr=False)
    created_at: datetime
    expires_at: datetime
    quota_bytes: int | None = None
    revoked_at: datetime | None = None

    def may(self, verb: Verb) -> bool:
        return verb in ALLOWED[self.role]

    def is_live(self, now: datetime) -> bool:
        return self.revoked_at is None and now < self.expires_at

    def opens(self, text: str) -> bool:
        """Whether `text` is this token, in a time that tells nothing of how near it comes."""
        return hmac.compare_digest(self.hash, _hash(text))


def mint(name: str, role: Role, created_at: datetime, expires_at: datetime, quota_bytes: int | None = None) -> tuple[Token, str]:
    """A new token and its text, which nobody can make again."""
    token_id = secrets.token_hex(4)
    text = f"tk_{token_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    return Token(token_id, name, role, _hash(text), created_at, expires_at, quota_bytes), text


def token_id(text: str) -> str | None:
    """The id in the text of a token; None if it is no token."""
    match = _TEXT.fullmatch(text)
    return match[1] if match else None


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
