"""SIGKILL of the home server wherever it changes something: what it acknowledged is there, the rest is whole or absent."""

import hashlib
import io
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from home_server import HomeServer
from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.limits import STORE_PART_BYTES
from tierkeeper.objectstore import home
from tierkeeper.objectstore.port import ObjectMissing, put_object

LARGE = os.urandom(STORE_PART_BYTES + 12_345)
KEYS = {data: f"segment/{hashlib.sha256(data).hexdigest()}" for data in (LARGE, b"small")}
QUOTA = len(LARGE) + 100


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HomeServer]:
    monkeypatch.setattr(home, "STORE_TRIES", 1)
    server = HomeServer(tmp_path)
    yield server
    server.stop()


BOTH = (Point.UPLOAD_RESERVED, Point.OBJECT_BEFORE_RENAME, Point.UPLOAD_PUBLISHED)


@pytest.mark.parametrize(
    ("data", "point"),
    [*((d, p) for d in KEYS for p in BOTH), (LARGE, Point.UPLOAD_WRITTEN)],
    ids=lambda v: getattr(v, "value", ""),
)
def test_an_upload_that_a_kill_cut_is_sent_again_and_counted_once(server: HomeServer, point: Point, data: bytes) -> None:
    server.start(die_at=point)
    key = KEYS[data]
    with pytest.raises(NotNow):
        server.store(quota_bytes=QUOTA).put(key, io.BytesIO(data), length_bytes=len(data))
    assert server.was_killed()
    server.start()
    store = server.store(quota_bytes=QUOTA)
    found = store.head(key)
    assert (found is not None) == (point is Point.UPLOAD_PUBLISHED)
    with closing(server.state()) as state:
        assert state.knows(key) == (found is not None)
    for _ in range(2):
        store.put(key, io.BytesIO(data), length_bytes=len(data))
    assert store.get(key) == data
    assert list((server.root / "server" / "uploads").iterdir()) == []
    with closing(server.state()) as state:
        assert state.used_bytes(server.token("writer", QUOTA).split("_")[1]) == len(data)
        assert state.uploads() == []
    report = store.report()
    assert (report.objects, report.bytes) == (1, len(data))


@pytest.mark.parametrize("point", [Point.OBJECT_DELETING, Point.OBJECT_DELETED])
def test_a_deletion_that_a_kill_cut_is_there_or_gone_and_never_missed(server: HomeServer, point: Point) -> None:
    server.start(die_at=point)
    key = put_object(server.store(), "segment", b"small")
    admin = server.store("admin")
    with pytest.raises(NotNow):
        admin.delete(key)
    assert server.was_killed()
    server.start()
    admin = server.store("admin")
    assert (admin.head(key) is None) == (point is Point.OBJECT_DELETED)
    with closing(server.state()) as state:
        assert state.knows(key) == (point is Point.OBJECT_DELETING)
        assert [n["kind"] for n in state.trail(10) if n["verb"] == "delete"] == ["intent"], (
            "what has no outcome says so by itself"
        )
    admin.delete(key)
    assert admin.report().objects == 0
    assert admin.report().wrong == {}


@pytest.mark.parametrize(
    "seconds", [0.0, 0.05, pytest.param(0.1, marks=pytest.mark.long), pytest.param(0.3, marks=pytest.mark.long)]
)
def test_what_was_acknowledged_when_it_was_killed_at_any_moment_is_there(server: HomeServer, seconds: float) -> None:
    server.start()
    stores, acknowledged, stop = [server.store() for _ in range(3)], dict[str, bytes](), threading.Event()

    def put(number: int) -> None:
        while not stop.is_set():
            data = os.urandom(20_000 + number)
            try:
                acknowledged[put_object(stores[number], "segment", data)] = data
            except NotNow:
                return

    threads = [threading.Thread(target=put, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 20:
        time.sleep(0.01)
    time.sleep(seconds)
    server.kill()
    stop.set()
    for thread in threads:
        thread.join()
    server.start()
    store = server.store()
    for key, data in acknowledged.items():
        assert store.get(key) == data
    for info in store.list("segment"):
        assert f"segment/{hashlib.sha256(store.get(info.key)).hexdigest()}" == info.key


def test_it_ends_when_it_is_asked_to_and_lets_what_is_under_way_finish(server: HomeServer) -> None:
    server.start()
    key = put_object(server.store(), "segment", b"small")
    assert server.stop() == 0
    server.start()
    assert server.store().get(key) == b"small"


def test_what_somebody_took_out_of_the_folder_is_missed(server: HomeServer) -> None:
    server.start()
    key = put_object(server.store(), "segment", b"small")
    (server.root / key).unlink()
    with server.client("verifier") as client:
        assert client.post(f"/v1/objects/{key}/check").json()["cause"] == "it is gone"
        assert client.post(f"/v1/objects/segment/{'0' * 64}/check").status_code == 404
    with pytest.raises(ObjectMissing):
        server.store().get(key)
    assert server.store().report().wrong == {key: "it is gone"}
