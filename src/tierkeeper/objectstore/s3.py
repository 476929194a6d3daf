"""A store in a bucket: S3, or any server that speaks its protocol and knows conditional writes (If-None-Match).

It must never write an object that may be there already with other bytes, and never hold more of one in memory than a part.
"""

import hashlib
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Final

import obstore
from obstore import exceptions
from obstore.store import S3Store as Bucket

from tierkeeper.kernel.clock import Clock, SystemClock
from tierkeeper.kernel.errors import NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import CONNECT_SECONDS, STORE_PART_BYTES, STORE_READ_SECONDS, STORE_TRIES
from tierkeeper.objectstore.port import (
    DAMAGED,
    Kind,
    NotAsAnnounced,
    ObjectExists,
    ObjectInfo,
    ObjectLocked,
    ObjectMissing,
    split_key,
)
from tierkeeper.objectstore.ranges import in_ranges

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

_LOCKS: Final = "lock"
_REFUSED: Final = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
_CREDENTIALS: Final = "Look at AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and what they are allowed on this bucket"


class S3Store:
    """`s3://bucket/prefix/kind/hex`.

    What fits into one part is written with If-None-Match. A larger object is written in parts, which are no object before the
    last; whoever else writes it meanwhile writes the same, for its key names its bytes. Locks are objects of their own, which are
    only ever added: the latest counts. This client keeps to them; against another one only the bucket's own Object Lock helps.
    """

    def __init__(self, address: str, environment: Mapping[str, str], clock: Clock | None = None) -> None:
        """`address`: s3://bucket/prefix. Credentials, region and endpoint come from the AWS_ variables of `environment`."""
        bucket, _, prefix = address.removeprefix("s3://").partition("/")
        self._address = address
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._clock = clock or SystemClock()
        self._bucket = _bucket(bucket, environment, f"store {address}")

    @property
    def name(self) -> str:
        return f"store {self._address}"

    def probe(self) -> str:
        """See `Store.probe`."""
        path = self._path(f"probe/{secrets.token_hex(16)}")
        with self._translated("write"):
            obstore.put(self._bucket, path, b"tierkeeper", mode="create", use_multipart=False)
            obstore.delete(self._bucket, path)
        return f"{self._address} can be written"

    def put(self, key: str, source: BinaryIO, *, length_bytes: int) -> None:
        """See `Store.put`."""
        _, sha256 = split_key(key)
        if length_bytes > STORE_PART_BYTES:
            self._put_in_parts(key, source, length_bytes, sha256)
            return
        data = source.read(length_bytes + 1)
        self._require(key, len(data), hashlib.sha256(data).hexdigest(), length_bytes, sha256)
        reach(Point.OBJECT_BEFORE_RENAME)
        with self._translated(f"put {key}"):
            try:
                obstore.put(self._bucket, self._path(key), data, mode="create", use_multipart=False)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                if self.get(key) != data:
                    raise ObjectExists(self.name, f"{key} holds other bytes already", DAMAGED) from None

    def _put_in_parts(self, key: str, source: BinaryIO, length_bytes: int, sha256: str) -> None:
        known = self.head(key)
        if known is not None and known.length_bytes != length_bytes:
            raise ObjectExists(self.name, f"{key} holds other bytes already", DAMAGED)
        digest, seen = hashlib.sha256(), 0

        def parts() -> Iterator[bytes]:
            nonlocal seen
            while block := source.read(STORE_PART_BYTES):
                digest.update(block)
                seen += len(block)
                yield block
            # Raised before the last answer is given, it ends the upload, and there is no object.
            self._require(key, seen, digest.hexdigest(), length_bytes, sha256)
            reach(Point.OBJECT_BEFORE_RENAME)

        if known is not None:
            for _ in parts():
                pass  # it is there: what came is only looked at
            return
        with self._translated(f"put {key}"):
            obstore.put(self._bucket, self._path(key), parts(), chunk_size=STORE_PART_BYTES, max_concurrency=2)

    def _require(self, key: str, seen: int, found: str, length_bytes: int, sha256: str) -> None:
        if (seen, found) != (length_bytes, sha256):
            cause = f"{key}: the bytes that came are not the {length_bytes} that were announced"
            raise NotAsAnnounced(self.name, cause, "Nothing was kept: run the same command again")

    def open(self, key: str) -> BinaryIO:
        """See `Store.open`."""
        info = self.head(key)
        if info is None:
            raise self._missing(key)
        return in_ranges(partial(self.range, key), info.length_bytes, STORE_PART_BYTES)

    def get(self, key: str, offset: int = 0, length_bytes: int | None = None) -> bytes:
        """See `Store.get`."""
        split_key(key)
        if offset == 0 and length_bytes is None:
            with self._translated(f"get {key}", key):
                return bytes(obstore.get(self._bucket, self._path(key)).bytes())
        info = self.head(key)
        if info is None:
            raise self._missing(key)
        end = info.length_bytes if length_bytes is None else min(offset + length_bytes, info.length_bytes)
        return self.range(key, offset, end) if offset < end else b""

    def range(self, key: str, start: int, end: int) -> bytes:
        """Bytes from `start` to before `end` of an object that is at least so long."""
        with self._translated(f"get {key}", key):
            return bytes(obstore.get_range(self._bucket, self._path(key), start=start, end=end))

    def head(self, key: str) -> ObjectInfo | None:
        """See `Store.head`."""
        split_key(key)
        with self._translated(f"head {key}"):
            try:
                found = obstore.head(self._bucket, self._path(key))
            except FileNotFoundError:
                return None
            return ObjectInfo(key, int(found["size"]), self._locks(f"{_LOCKS}/{key}").get(key))

    def list(self, kind: Kind) -> Iterator[ObjectInfo]:
        """See `Store.list`."""
        with self._translated(f"list {kind}"):
            locks = self._locks(f"{_LOCKS}/{kind}")
            found = {p.removeprefix(self._prefix): size for p, size in self._listed(kind)}
        for key in sorted(found):
            with suppress(UsageError):  # a stranger's object is none of ours
                split_key(key)
                yield ObjectInfo(key, found[key], locks.get(key))

    def lock(self, key: str, until: datetime) -> None:
        """See `Store.lock`."""
        if self.head(key) is None:
            raise self._missing(key)
        with self._translated(f"lock {key}"), suppress(exceptions.AlreadyExistsError, exceptions.PreconditionError):
            path = self._path(f"{_LOCKS}/{key}/{until.astimezone(UTC):%Y%m%dT%H%M%S.%f}")
            obstore.put(self._bucket, path, b"", mode="create", use_multipart=False)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        info = self.head(key)
        if info is None:
            return
        if info.locked_until is not None and info.locked_until > self._clock.now():
            cause = f"{key} is locked until {info.locked_until:%Y-%m-%d %H:%M:%S} UTC"
            raise ObjectLocked(self.name, cause, "Delete it after that")
        with self._translated(f"delete {key}"):
            locks = [path for path, _ in self._listed(f"{_LOCKS}/{key}")]
            obstore.delete(self._bucket, self._path(key))
            for path in locks:
                obstore.delete(self._bucket, path)

    def _locks(self, prefix: str) -> dict[str, datetime]:
        """The latest lock of each key that has one."""
        found: dict[str, datetime] = {}
        for path, _ in self._listed(prefix):
            key, _, until = path.removeprefix(f"{self._prefix}{_LOCKS}/").rpartition("/")
            with suppress(ValueError):
                at = datetime.strptime(until, "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
                found[key] = max(at, found.get(key, at))
        return found

    def _listed(self, prefix: str) -> Iterator[tuple[str, int]]:
        for page in obstore.list(self._bucket, self._path(prefix), chunk_size=1000):
            for meta in page:
                yield str(meta["path"]), int(meta["size"])

    def _path(self, key: str) -> str:
        return self._prefix + key

    def _missing(self, key: str) -> ObjectMissing:
        return ObjectMissing(self.name, f"{key} is not there", "Restore the store from its copy")

    @contextmanager
    def _translated(self, what: str, key: str | None = None) -> Iterator[None]:
        try:
            yield
        except TierkeeperError:
            raise
        except FileNotFoundError as error:
            if key is not None and "NoSuchBucket" not in str(error):
                raise self._missing(key) from error
            raise UsageError(self.name, "there is no such bucket", "Make it, or correct tiers.archive.store") from error
        except _REFUSED as error:
            raise UsageError(self.name, f"it refuses to {what}", _CREDENTIALS) from error
        except exceptions.BaseError as error:
            if "NoSuchBucket" in str(error):
                raise UsageError(self.name, "there is no such bucket", "Make it, or correct tiers.archive.store") from error
            cause = f"it does not {what} ({str(error).strip().splitlines()[0][:200]})"
            raise NotNow(self.name, cause, "Run the same command again") from error


def _bucket(bucket: str, environment: Mapping[str, str], place: str) -> Bucket:
    if not bucket:
        raise UsageError(place, "it names no bucket", "Write s3://bucket or s3://bucket/prefix")
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    config: S3Config = {"region": environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"}
    if key := environment.get("AWS_ACCESS_KEY_ID"):
        config["access_key_id"], config["secret_access_key"] = key, environment.get("AWS_SECRET_ACCESS_KEY", "")
    if token := environment.get("AWS_SESSION_TOKEN"):
        config["session_token"] = token
    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=STORE_READ_SECONDS),
    }
    if endpoint:
        config["endpoint"] = endpoint
        options["allow_http"] = _may_be_plain(endpoint, place)
    retry: RetryConfig = {"max_retries": STORE_TRIES - 1, "retry_timeout": timedelta(seconds=STORE_READ_SECONDS)}
    try:
        return Bucket(bucket, config=config, client_options=options, retry_config=retry)
    except exceptions.BaseError as error:
        raise UsageError(place, f"it cannot be used ({str(error).splitlines()[0][:200]})", _CREDENTIALS) from error


def _may_be_plain(endpoint: str, place: str) -> bool:
    """Whether `endpoint` is a plain address of this machine. Raises UsageError for a plain one elsewhere."""
    scheme, _, rest = endpoint.partition("://")
    if scheme == "https":
        return False
    host = rest.partition("/")[0].rpartition(":")[0] or rest.partition("/")[0]
    if scheme == "http" and (host in ("localhost", "[::1]") or host.startswith("127.")):
        return True
    raise UsageError(place, "its endpoint is not reached by https", "Write AWS_ENDPOINT_URL=https://…")
