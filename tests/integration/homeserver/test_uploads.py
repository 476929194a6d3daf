"""Objects on their way to the home server and back, over links that break and disks that fill."""

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

import home_server
from faultproxy import Direction, FaultProxy
from home_server import HomeServer
from support import eventually
from tierkeeper.homeserver.tokens import Role
from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError
from tierkeeper.kernel.limits import STORE_PART_BYTES
from tierkeeper.objectstore.home import HomeStore
from tierkeeper.objectstore.port import NotAsAnnounced, ObjectExists, put_object

LARGE = os.urandom(STORE_PART_BYTES * 2 + 12_345)
HEX = hashlib.sha256(LARGE).hexdigest()
KEY = f"segment/{HEX}"
UPLOAD = f"/v1/uploads/{KEY}"


@pytest.fixture
def server() -> HomeServer:
    return home_server.shared().emptied()


def begin(server: HomeServer, data: bytes, offset: int = 0, **headers: str) -> tuple[int, dict[str, str]]:
    with server.client("writer") as client:
        sent = {"Upload-Offset": str(offset), "Upload-Length": str(len(LARGE)), **headers}
        answer = client.patch(UPLOAD, headers=sent, content=data)
    return answer.status_code, dict(answer.headers)


def parts(server: HomeServer) -> list[str]:
    return [path.name for path in (server.root / "server" / "uploads").iterdir()]


def test_a_large_object_goes_in_parts_and_is_read_in_ranges(server: HomeServer) -> None:
    store = server.store()
    for _ in range(2):
        store.put(KEY, io.BytesIO(LARGE), length_bytes=len(LARGE))
    with store.open(KEY) as file:
        assert file.read() == LARGE
        file.seek(-5, io.SEEK_END)
        assert file.read() == LARGE[-5:]
    assert store.get(KEY, STORE_PART_BYTES - 3, 7) == LARGE[STORE_PART_BYTES - 3 : STORE_PART_BYTES + 4]
    assert parts(server) == []


@pytest.mark.parametrize("data", [LARGE[:-1], LARGE + b"x", LARGE[:-1] + bytes([LARGE[-1] ^ 1])])
def test_a_large_object_that_is_not_what_was_announced_is_not_kept(server: HomeServer, data: bytes) -> None:
    store = server.store()
    with pytest.raises(NotAsAnnounced):
        store.put(KEY, io.BytesIO(data), length_bytes=len(LARGE))
    assert store.head(KEY) is None
    assert parts(server) == []


def test_an_upload_goes_on_where_it_was_left(server: HomeServer) -> None:
    assert begin(server, LARGE[:1000])[0] == 204
    assert begin(server, LARGE[500:1500], 500)[0] == 409
    status, headers = begin(server, LARGE[1000:STORE_PART_BYTES], 1000)
    assert (status, headers["upload-offset"], headers["upload-complete"]) == (204, str(STORE_PART_BYTES), "?0")
    with FaultProxy(server.port) as proxy:
        server.store(port=proxy.port).put(KEY, io.BytesIO(LARGE), length_bytes=len(LARGE))
        assert proxy.passed_bytes["to_server"] < len(LARGE) - STORE_PART_BYTES + 100_000
    assert server.store().get(KEY) == LARGE
    assert begin(server, b"")[0] == 200


def test_the_server_itself_compares_every_digest(server: HomeServer) -> None:
    """A client of somebody else's, or one that is wrong."""
    wrong = "sha-256=:" + "A" * 43 + "=:"
    assert begin(server, LARGE[:100], **{"Content-Digest": wrong})[0] == 422
    assert begin(server, LARGE[:100])[0] == 204, "the bytes that were refused are not there"
    assert begin(server, LARGE[:100], 100, **{"Content-Digest": "md5=:x:"})[0] == 400
    assert begin(server, LARGE[:-101] + b"x", 100)[0] == 422, "as long as announced, and not what its name says"
    assert parts(server) == []
    with server.client("writer") as client:
        assert client.put(f"/v1/objects/{KEY}", content=b"short").status_code == 422
        assert client.put(f"/v1/objects/{KEY}", content=b"").status_code == 422
        assert client.put(f"/v1/objects/{KEY}", content=LARGE).status_code == 413
        other = hashlib.sha256(b"small").hexdigest()
        path, none = f"/v1/objects/key/{other}", {"If-None-Match": "*"}
        assert client.put(path, content=b"small", headers={"Content-Digest": wrong}).status_code == 422
        assert client.head(path).status_code == 404
        assert client.put(path, content=b"small", headers=none).status_code == 201
        assert client.put(path, content=b"small", headers=none).status_code == 412
        assert client.put(path, content=b"small").status_code == 200
    assert server.store().head(KEY) is None


def test_more_than_was_announced_and_another_length_are_refused(server: HomeServer) -> None:
    assert begin(server, LARGE[:1000])[0] == 204
    assert begin(server, LARGE[1000:] + b"x", 1000)[0] == 400
    with server.client("writer") as client:
        sent = {"Upload-Offset": "1000", "Upload-Length": "2000"}
        assert client.patch(UPLOAD, headers=sent, content=b"x").status_code == 400
        sent = {"Upload-Offset": "0", "Upload-Length": str(2**60)}
        assert client.patch(UPLOAD, headers=sent, content=b"x").status_code == 413
        assert client.delete(UPLOAD).status_code == 204
    assert parts(server) == []
    server.store().put(KEY, io.BytesIO(LARGE), length_bytes=len(LARGE))


def test_a_damaged_object_is_not_taken_for_the_one_that_is_put(server: HomeServer) -> None:
    store = server.store()
    key = put_object(store, "segment", b"small")
    (server.root / key).write_bytes(b"smell")
    with pytest.raises(ObjectExists):
        put_object(store, "segment", b"small")
    with server.client("verifier") as client:
        checked = client.post(f"/v1/objects/{key}/check").json()
    assert (checked["ok"], checked["cause"]) == (False, "its bytes are not what was put")
    assert store.report().wrong == {key: checked["cause"]}
    with server.client(None) as client:
        assert eventually(lambda: client.get("/health").status_code == 503)
        assert client.get("/health").json() == {"status": "damaged"}
    (server.root / key).write_bytes(b"small")
    with server.client("verifier") as client:
        assert client.post(f"/v1/objects/{key}/check").json()["ok"]
        assert eventually(lambda: client.get("/health").json() == {"status": "ok"})


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
@pytest.mark.parametrize("after_bytes", [0, 700, 3_000, 100_000, STORE_PART_BYTES + 5_000, 2 * STORE_PART_BYTES])
def test_a_link_that_is_cut_leaves_an_object_whole_or_absent(server: HomeServer, direction: Direction, after_bytes: int) -> None:
    with FaultProxy(server.port) as proxy:
        through = server.store(port=proxy.port)
        proxy.cut_after(after_bytes, direction)
        for _ in range(5):
            try:
                through.put(KEY, io.BytesIO(LARGE), length_bytes=len(LARGE))
            except NotNow:
                found = server.store().head(KEY)
                assert found is None or found.length_bytes == len(LARGE)
            else:
                break
        assert server.store().get(KEY) == LARGE
        proxy.cut_after(after_bytes, direction)
        for _ in range(5):
            try:
                assert through.get(KEY) == LARGE
            except NotNow:
                continue
            break
        else:
            pytest.fail("it never came back")
    assert parts(server) == []


def test_many_uploads_of_one_object_at_once_make_one_object(server: HomeServer) -> None:
    failed = list[Exception]()

    def put() -> None:
        try:
            server.store().put(KEY, io.BytesIO(LARGE), length_bytes=len(LARGE))
        except NotNow:
            pass  # it lost its turn to the others, and says so
        except Exception as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    server.store().put(KEY, io.BytesIO(LARGE), length_bytes=len(LARGE))
    assert server.store().get(KEY) == LARGE
    assert parts(server) == []


def test_of_many_that_make_one_object_only_if_it_is_not_there_one_has_made_it(server: HomeServer) -> None:
    data = os.urandom(100_000)
    path = f"/v1/objects/segment/{hashlib.sha256(data).hexdigest()}"
    ready, got = threading.Barrier(6), list[int]()

    def put(client: httpx.Client) -> None:
        with client:
            client.head(path)
            ready.wait(10)
            got.append(client.put(path, content=data, headers={"If-None-Match": "*"}).status_code)

    roles: tuple[Role, ...] = ("writer", "admin")
    threads = [threading.Thread(target=put, args=(server.client(role),)) for role in roles * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got.count(201) == 1
    assert set(got) <= {201, 412, 429}, "another was first, or is writing"


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_nothing_is_made_of_what_came_while_its_token_was_revoked(server: HomeServer, method: str) -> None:
    token = server.token("writer", quota_bytes=1_000_000 + len(method))

    def body() -> Iterator[bytes]:
        yield LARGE[:1000]
        with closing(server.state()) as state:
            state.revoke(token.split("_")[1])
        yield LARGE[1000:2000]

    key = f"segment/{hashlib.sha256(LARGE[:2000]).hexdigest()}"
    path = f"/v1/{'objects' if method == 'PUT' else 'uploads'}/{key}"
    headers = {"Authorization": f"Bearer {token}", "Upload-Offset": "0", "Upload-Length": "2000", "Content-Length": "2000"}
    with server.client(None) as client:
        assert client.request(method, path, headers=headers, content=body()).status_code == 401
    assert server.store().head(key) is None


def test_a_put_whose_answer_was_lost_is_no_matter_of_the_quota(server: HomeServer) -> None:
    store = server.store(quota_bytes=len(LARGE) + 1000)
    for data in (LARGE, LARGE[:600]):
        for _ in range(2):
            put_object(store, "segment", data)


@pytest.mark.parametrize("damage", [LARGE[:-1], LARGE + b"x", LARGE[:-1] + bytes([LARGE[-1] ^ 1])])
def test_a_large_object_that_was_damaged_is_not_taken_for_one_that_arrived(server: HomeServer, damage: bytes) -> None:
    put_object(server.store(), "segment", LARGE)
    (server.root / KEY).write_bytes(damage)
    with pytest.raises(ObjectExists, match="not what was put"):
        put_object(server.store(), "segment", LARGE)
    assert (server.root / KEY).read_bytes() == damage


def test_what_another_has_finished_leaves_nothing_of_ones_own(server: HomeServer) -> None:
    assert begin(server, LARGE[:1000])[0] == 204
    put_object(server.store("admin"), "segment", LARGE)
    assert begin(server, b"", 1000)[0] == 200
    assert parts(server) == []


class NeverFurther(BaseHTTPRequestHandler):
    """A server that always says that an upload stands at its beginning."""

    def do_PATCH(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_HEAD()

    def do_HEAD(self) -> None:
        self.send_response(409 if self.command == "PATCH" else 200)
        self.send_header("Upload-Offset", self.server.says)  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_DELETE(self) -> None:
        self.do_HEAD()

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(("says", "told"), [("0", "takes no more"), ("-1", "does not answer as"), ("x", "does not answer as")])
def test_a_server_that_never_gets_further_is_not_asked_for_ever(says: str, told: str) -> None:
    with HTTPServer(("127.0.0.1", 0), NeverFurther) as other:
        other.says = says  # type: ignore[attr-defined]
        threading.Thread(target=other.serve_forever, args=(0.02,)).start()
        store = HomeStore(f"http://127.0.0.1:{other.server_port}", "token")
        with pytest.raises(TierkeeperError, match=told):
            store.put(KEY, io.BytesIO(LARGE), length_bytes=len(LARGE))
        other.shutdown()


def test_pages_are_ordered_and_whole(server: HomeServer) -> None:
    keys = sorted(put_object(server.store(), "key", bytes([n])) for n in range(25))
    with server.client("reader") as client:
        seen, after, pages = list[str](), "", 0
        while True:
            page = client.get("/v1/objects/key", params={"after": after, "limit": 10}).json()
            seen += [o["key"] for o in page["objects"]]
            pages += 1
            if not page["more"]:
                break
            after = seen[-1].partition("/")[2]
    assert (seen, pages) == (keys, 3)
    assert [o.key for o in server.store("reader").list("key")] == keys


def test_a_server_that_is_away_is_not_now(server: HomeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tierkeeper.objectstore.home.STORE_TRIES", 2)
    with FaultProxy(server.port) as proxy:
        store = server.store(port=proxy.port)
        store.report()
        port = proxy.port
    for ask in (store.report, lambda: store.get(KEY), lambda: list(store.list("segment")), store.probe):
        with pytest.raises(NotNow, match=f"store https://127.0.0.1:{port}"):
            ask()
    with pytest.raises(NotNow, match="does not answer"):
        server.store(port=port).report()


class Elsewhere(BaseHTTPRequestHandler):
    """Some other web server, which has a page for everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>Welcome</html>")

    def log_message(self, *_: object) -> None: ...


def test_another_web_server_is_not_taken_for_a_home_server() -> None:
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as other:
        threading.Thread(target=other.serve_forever).start()
        store = HomeStore(f"http://127.0.0.1:{other.server_port}", "token")
        for ask in (store.report, lambda: list(store.list("segment")), lambda: store.get(KEY, 1, 5)):
            with pytest.raises(Failed, match="does not answer as a home server"):
                ask()
        other.shutdown()
