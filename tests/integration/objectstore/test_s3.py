"""The store in a bucket, beside what is asked of every store: parts, faults, what is refused, and the whole way."""

import hashlib
import io
import os
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

import bucket_server
from faultproxy import Direction, FaultProxy
from support import Tiers, TiersFactory, tierkeeper_toml
from tierkeeper.compose import open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.errors import Failed, NotNow, UsageError
from tierkeeper.kernel.limits import STORE_PART_BYTES
from tierkeeper.kernel.tables import TableName
from tierkeeper.objectstore import s3
from tierkeeper.objectstore.port import ObjectExists
from tierkeeper.objectstore.s3 import S3Store

LARGE = os.urandom(STORE_PART_BYTES * 2 + 12_345)
SHA256 = hashlib.sha256(LARGE).hexdigest()
KEY = f"segment/{SHA256}"


@pytest.fixture
def store() -> S3Store:
    return S3Store(bucket_server.bucket(), bucket_server.server())


def test_a_large_object_goes_in_parts_and_is_read_in_ranges(store: S3Store) -> None:
    for _ in range(2):  # the second finds it there
        store.put(KEY, io.BytesIO(LARGE), length_bytes=len(LARGE))
    with store.open(KEY) as file:
        assert file.read() == LARGE
        file.seek(-5, io.SEEK_END)
        assert file.read() == LARGE[-5:]
    assert store.get(KEY, STORE_PART_BYTES - 3, 7) == LARGE[STORE_PART_BYTES - 3 : STORE_PART_BYTES + 4]
    with pytest.raises(ObjectExists, match="holds other bytes"):
        store.put(KEY, io.BytesIO(LARGE + b"x"), length_bytes=len(LARGE) + 1)


@pytest.mark.parametrize("data", [LARGE[:-1], LARGE + b"x", LARGE[:-1] + bytes([LARGE[-1] ^ 1])])
def test_a_large_object_that_is_not_what_was_announced_is_not_kept(store: S3Store, data: bytes) -> None:
    with pytest.raises(Failed, match="are not the"):
        store.put(KEY, io.BytesIO(data), length_bytes=len(LARGE))
    assert store.head(KEY) is None


def test_a_server_that_is_away_is_not_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "STORE_TRIES", 2)
    gone = S3Store("s3://vault", {**bucket_server.server(), "AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    for ask in (gone.probe, lambda: gone.get(KEY), lambda: list(gone.list("segment"))):
        with pytest.raises(NotNow, match="store s3://vault"):
            ask()


def test_what_cannot_be_right_is_refused() -> None:
    server = bucket_server.server()
    with pytest.raises(UsageError, match="no such bucket"):
        S3Store("s3://there-is-none", server).probe()
    with pytest.raises(UsageError, match="names no bucket"):
        S3Store("s3://", server)
    with pytest.raises(UsageError, match="not reached by https"):
        S3Store("s3://vault", {**server, "AWS_ENDPOINT_URL": "http://example.org"})


def test_the_whole_way_in_a_bucket(make_tiers: TiersFactory) -> None:
    tiers: Tiers = make_tiers(core="events", main="events")
    address = bucket_server.bucket()
    path = tierkeeper_toml(tiers, [{"name": "public.kinds", "mode": "mirror"}, {"name": "public.events", "age": "at"}])
    path.write_text(path.read_text().replace(str(tiers.store), address))
    with closing(tiers.core.connect("app")) as core:
        core.execute("TRUNCATE public.events")
    environment = {**tiers.environment, **bucket_server.server()}
    keeper = open_keeper(load(path, environment, tiers.home), environment=environment)
    keeper.setup(apply=True)
    assert any(address in item.finding for item in keeper.check().checks)
    events = TableName("public", "events")
    assert keeper.move(events, "main", "archive", before=datetime(2024, 1, 11, tzinfo=UTC)).rows == 239
    assert keeper.archive_verify().ok
    assert keeper.query("SELECT count(*) AS n FROM public.events").to_pylist() == [{"n": 2000}]
    out = Path(tiers.home) / "out.parquet"
    assert keeper.archive_restore(events, to=str(out)).rows == 239
    used = keeper.status().tiers["archive"].used_bytes
    assert used is not None
    assert used > sum(s.bytes for s in keeper.archive_list())


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
@pytest.mark.parametrize("after_bytes", [0, 700, 100_000, STORE_PART_BYTES + 5_000, 2 * STORE_PART_BYTES])
def test_a_link_that_is_cut_leaves_an_object_whole_or_absent(store: S3Store, direction: Direction, after_bytes: int) -> None:
    """It asks again by itself, a bounded number of times; in the end it is there, or said to be not now, and never in part."""
    server = bucket_server.server()
    with FaultProxy(int(server["AWS_ENDPOINT_URL"].rpartition(":")[2])) as proxy:
        through = S3Store(store.name.removeprefix("store "), {**server, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"})
        proxy.cut_after(after_bytes, direction)
        for _ in range(5):
            try:
                through.put(KEY, io.BytesIO(LARGE), length_bytes=len(LARGE))
            except NotNow:
                found = store.head(KEY)
                assert found is None or found.length_bytes == len(LARGE)
            else:
                break
        assert store.get(KEY) == LARGE
        proxy.cut_after(after_bytes, direction)
        with through.open(KEY) as file:
            for _ in range(5):
                try:
                    file.seek(0)
                    assert file.read() == LARGE
                except NotNow:
                    continue
                break
            else:
                raise AssertionError
        assert proxy.cuts >= 1 or (direction, after_bytes) == ("to_client", 2 * STORE_PART_BYTES)
