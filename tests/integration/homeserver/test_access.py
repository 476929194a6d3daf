"""Who may do what at the home server, over real HTTPS."""

import hashlib
import os
import ssl
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

import home_server
from home_server import HomeServer
from tierkeeper.homeserver.tokens import ALLOWED, ROLES, Role, Verb
from tierkeeper.kernel.errors import Failed, NotNow, UsageError
from tierkeeper.kernel.limits import LOCK_YEARS_MAX
from tierkeeper.objectstore.home import HomeStore
from tierkeeper.objectstore.port import ObjectLocked, put_object

DATA = b"ciphertext, as far as the server knows"
HEX = hashlib.sha256(DATA).hexdigest()
OBJECT = f"/v1/objects/segment/{HEX}"
UPLOAD = f"/v1/uploads/segment/{HEX}"
LATER = (datetime.now(UTC) + timedelta(days=1)).isoformat()


@pytest.fixture
def server() -> HomeServer:
    return home_server.shared().emptied()


CALLS: list[tuple[str, str, Verb, dict[str, str]]] = [
    ("GET", "/v1/objects/segment", "read", {}),
    ("HEAD", OBJECT, "read", {}),
    ("GET", OBJECT, "read", {}),
    ("GET", "/v1/store", "read", {}),
    ("GET", "/v1/token", "read", {}),
    ("GET", "/metrics", "read", {}),
    ("POST", f"{OBJECT}/check", "check", {}),
    ("PUT", OBJECT, "write", {}),
    ("PATCH", UPLOAD, "write", {"Upload-Offset": "0", "Upload-Length": str(len(DATA))}),
    ("HEAD", UPLOAD, "write", {}),
    ("DELETE", UPLOAD, "write", {}),
    ("POST", f"{OBJECT}/lock?until=2020-01-01T00:00:00Z", "lock", {}),
    ("GET", "/v1/audit", "delete", {}),
    ("DELETE", OBJECT, "delete", {}),
]


@pytest.mark.parametrize("role", [*ROLES, None])
def test_every_role_may_do_what_it_is_for_and_nothing_else(server: HomeServer, role: Role | None) -> None:
    with server.client(role) as client:
        for method, path, verb, headers in CALLS:
            put_object(server.store("admin"), "segment", DATA)
            content = DATA if method in ("PUT", "PATCH") else None
            answer = client.request(method, path, headers=headers, content=content)
            if role is None:
                assert answer.status_code == 401, (method, path)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
            elif verb in ALLOWED[role]:
                assert answer.status_code < 300, (method, path, answer.text)
            else:
                assert answer.status_code == 403, (method, path)
                assert method == "HEAD" or answer.json()["error"]["remedy"]


def test_every_path_that_the_server_describes_is_in_the_matrix(server: HomeServer) -> None:
    with server.client(None) as client:
        described = client.get("/openapi.json").json()["paths"]
    paths = {(m.upper(), p) for p, methods in described.items() for m in methods}
    asked = {(m, p.partition("?")[0].replace(HEX, "{hex}").replace("/segment", "/{kind}")) for m, p, _, _ in CALLS}
    assert paths == {*asked, ("GET", "/health"), ("GET", "/ca.pem")}


@pytest.mark.parametrize("text", ["", "x", "tk_00000000_" + "A" * 43, "é" * 50, "A" * 10_000])
def test_what_is_no_token_opens_nothing(server: HomeServer, text: str) -> None:
    with server.client(None) as client:
        for value in (f"Bearer {text}", f"Basic {text}", text):
            assert client.get("/v1/store", headers={"Authorization": value.strip().encode()}).status_code == 401
    with pytest.raises(UsageError, match="HOME_SERVER_TOKEN"):
        HomeStore(server.url, text).report()


def test_the_id_of_one_token_and_the_secret_of_another_open_nothing(server: HomeServer) -> None:
    reader, admin = (server.token(role).split("_", 2) for role in ("reader", "admin"))  # type: ignore[arg-type]
    mixed = "_".join(("tk", admin[1], reader[2]))
    with server.client(None) as client:
        assert client.get("/v1/store", headers={"Authorization": f"Bearer {mixed}"}).status_code == 401


def test_a_token_ends_when_it_expires_or_is_revoked_and_at_once(server: HomeServer) -> None:
    text = server.token("reader", days=0.7 / 86_400)
    store = HomeStore(server.url, text)
    store.report()
    time.sleep(0.8)
    with pytest.raises(UsageError, match="expired"):
        store.report()
    store = HomeStore(server.url, server.token("reader", quota_bytes=1))
    store.report()
    with closing(server.state()) as state:
        assert state.revoke(server.token("reader", quota_bytes=1).split("_")[1])
    with pytest.raises(UsageError, match="revoked"):
        store.report()


def test_the_server_keeps_no_token_that_could_be_used(server: HomeServer) -> None:
    secret = server.token("admin").split("_", 2)[2].encode()
    for path in (server.root / "server").rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes(), path
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_quota_bounds_what_a_token_puts_and_a_deletion_gives_it_back(server: HomeServer) -> None:
    store, admin = server.store("writer", quota_bytes=10_000), server.store("admin")
    first = put_object(store, "segment", os.urandom(6_000))
    with pytest.raises(NotNow, match="quota of 10000 bytes"):
        put_object(store, "segment", os.urandom(4_001))
    assert "takes more" in store.probe()
    second = put_object(store, "segment", os.urandom(4_000))
    with pytest.raises(NotNow, match="nothing more can be put"):
        store.probe()
    admin.delete(first)
    put_object(store, "segment", os.urandom(6_000))
    assert store.head(second) is not None
    put_object(server.store("writer"), "segment", os.urandom(20_000))


def test_nobody_shortens_a_lock_and_nobody_deletes_before_its_end(server: HomeServer) -> None:
    writer, admin = server.store("writer"), server.store("admin")
    key = put_object(writer, "segment", DATA)
    end = datetime.now(UTC) + timedelta(days=30)
    writer.lock(key, end)
    for store in (writer, admin):
        store.lock(key, end - timedelta(days=29))
    head = writer.head(key)
    assert head is not None
    assert head.locked_until == end
    with pytest.raises(UsageError, match="may not delete"):
        writer.delete(key)
    with pytest.raises(ObjectLocked):
        admin.delete(key)
    with pytest.raises(Failed, match=f"within {LOCK_YEARS_MAX} years"):
        writer.lock(key, datetime(9999, 1, 1, tzinfo=UTC))
    with server.client("writer") as client:
        for until in ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "x", "", "1e400"):
            assert client.post(f"{OBJECT}/lock", params={"until": until}).status_code in (200, 400)
    assert admin.get(key) == DATA
    head = writer.head(key)
    assert head is not None
    assert head.locked_until == end


def test_what_was_done_stands_in_the_audit_with_who_did_it(server: HomeServer) -> None:
    admin = server.store("admin")
    key = put_object(admin, "segment", DATA)
    admin.delete(key)
    with server.client("admin") as client:
        notes = client.get("/v1/audit", params={"limit": 2}).json()
    assert [(n["kind"], n["verb"], n["subject"]) for n in notes] == [("outcome", "delete", key), ("intent", "delete", key)]
    assert notes[0]["actor"].startswith("admin")


def test_only_tls_1_3_and_only_the_pinned_authority(server: HomeServer, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=str(server.root / "server" / "ca.pem"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(httpx.ConnectError), httpx.Client(verify=context, trust_env=False) as client:
        client.get(f"https://127.0.0.1:{server.port}/health")
    with pytest.raises(UsageError, match="not trusted"):
        HomeStore(server.url.partition("#")[0], "x").report()
    with pytest.raises(Failed, match="another authority"):
        HomeStore(server.url[:-1] + ("0" if server.url[-1] != "0" else "1"), "x").report()
    for address in ("http://home.lan:8443", "ftp://home.lan", "https://", "home.lan", "https://home.lan/#sha256=12"):
        with pytest.raises(UsageError, match="HOME_SERVER_URL"):
            HomeStore(address, "x")
    with pytest.raises(UsageError, match="token is missing"):
        HomeStore(server.url, "")


def test_a_name_that_the_certificate_does_not_have_is_not_trusted(server: HomeServer) -> None:
    with pytest.raises(UsageError, match=r"not trusted.*names"):
        HomeStore(server.url.replace("127.0.0.1", "127.1"), server.token("reader")).report()
    HomeStore(server.url.replace("127.0.0.1", "localhost"), server.token("reader")).report()
