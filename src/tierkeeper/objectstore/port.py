"""The store port: what the archive asks of a place that keeps its objects.

It declares and validates; it reaches no disk and no network. Every implementation passes `tests/conformance/test_store.py`.
"""

import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Final, Literal, Protocol, cast, get_args

from tierkeeper.kernel.errors import Failed, UsageError

Kind = Literal["segment", "manifest", "key", "commit"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

DAMAGED: Final = "They were left as they are: run `tierkeeper archive verify`, which names what is damaged"
"""What to do where an object is not what its key says."""

_KEY = re.compile(rf"({'|'.join(KINDS)})/([0-9a-f]{{64}})")


class ObjectMissing(Failed):
    """The store does not hold the object."""


class ObjectExists(Failed):
    """The store holds damaged bytes under this key; they were left as they are."""


class NotAsAnnounced(Failed):
    """What arrived has another length or another SHA-256 than its key; nothing was kept."""


class ObjectLocked(Failed):
    """The object is under a lock that has not run out; it was left as it is."""


@dataclass(frozen=True)
class ObjectInfo:
    """What a store says of an object without reading it."""

    key: str
    length_bytes: int
    locked_until: datetime | None = None


def split_key(key: str) -> tuple[Kind, str]:
    """Kind and hex of a key `kind/hex`, 64 hex digits in lower case. Raises UsageError for anything else.

    Hex alone, so that no key can ever name a path outside the store.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        raise UsageError(
            "store", f"{key[:80]!r} is not an object's key", f"Write one of {', '.join(KINDS)}, a slash, 64 hex digits"
        )
    return cast("Kind", match[1]), match[2]


class Store(Protocol):
    """Immutable objects under keys `kind/hex`, the SHA-256 of their bytes (see `split_key`), all of them ciphertext (I6).

    The store never looks inside. Its errors are TierkeeperErrors whose place names the store: NotNow where the same call may
    succeed later (away, no room), Failed for the rest. Every method may be called from several threads and processes at once.
    """

    @property
    def name(self) -> str:
        """How errors and reports name it; never a secret."""
        ...

    def probe(self) -> str:
        """Proves that objects can be put, leaving nothing behind; what was found, in words. Raises as `put` does."""
        ...

    def put(self, key: str, source: BinaryIO, *, length_bytes: int) -> None:
        """Creates an object from `source`, read to its end; durable when this returns, and either whole or absent.

        Refuses with Failed what is not exactly `length_bytes` long with the SHA-256 of its key. Create only: a key that is there
        already is a success (an earlier put whose answer was lost), unless its bytes were damaged since: ObjectExists.
        """
        ...

    def open(self, key: str) -> BinaryIO:
        """The object as a seekable file, read from where it lies now and not from what was put. Raises ObjectMissing."""
        ...

    def get(self, key: str, offset: int = 0, length_bytes: int | None = None) -> bytes:
        """Bytes from `offset` on, at most `length_bytes`; less at the object's end. Raises ObjectMissing."""
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """What is known of the object; None if it is not there."""
        ...

    def list(self, kind: Kind) -> Iterator[ObjectInfo]:
        """Every object of a kind that was there when the call began, ordered by key; unfinished puts are not objects."""
        ...

    def lock(self, key: str, until: datetime) -> None:
        """Refuses deletion until then. A lock can be made longer, never shorter. Raises ObjectMissing."""
        ...

    def delete(self, key: str) -> None:
        """Takes the object away, durably; nothing to do if it is not there. Raises ObjectLocked."""
        ...


def put_object(store: Store, kind: Kind, data: bytes) -> str:
    """Puts a small object under its key, which it returns; see `Store.put`."""
    key = f"{kind}/{hashlib.sha256(data).hexdigest()}"
    store.put(key, io.BytesIO(data), length_bytes=len(data))
    return key
