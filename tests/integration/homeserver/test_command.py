"""`tierkeeper homeserver` and `tierkeeper token` as they are typed."""

import json
import socket
from pathlib import Path

import pytest

import processes
from home_server import HomeServer
from tierkeeper.demo.server import free_port
from tierkeeper.objectstore.home import HomeStore
from tierkeeper.objectstore.port import put_object


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    (tmp_path / "tierkeeper.toml").write_text('[homeserver]\nlisten = "127.0.0.1:8443"\npath = "store"\n')
    return tmp_path


def run(folder: Path, *arguments: str, **environment: str) -> tuple[int, dict[str, object]]:
    ended = processes.command([*arguments, "--json"], {"HOME": str(folder), "PATH": "/usr/bin:/bin", **environment})
    return ended.returncode, json.loads(ended.stdout)


def refused(folder: Path, *arguments: str, **environment: str) -> str:
    """The error's place and cause; it is a usage error, and nothing was made."""
    before = sorted(folder.rglob("*"))
    code, document = run(folder, *arguments, **environment)
    assert code == 2
    assert sorted(folder.rglob("*")) == before
    error = document["error"]
    assert isinstance(error, dict)
    assert error["remedy"]
    return f"{error['place']}: {error['cause']}"


def test_a_token_is_made_shown_once_listed_and_revoked(folder: Path) -> None:
    code, made = run(folder, "token", "create", "laptop", "--role", "reader", "--expires", "2 weeks", "--quota", "5GB")
    assert (code, made["role"], made["state"], made["quota_bytes"], made["enrolment"]) == (0, "reader", "live", 5 * 10**9, None)
    _, listed = run(folder, "token", "list")
    assert isinstance(listed, list)
    assert str(made["token"]) not in json.dumps(listed)
    assert [t["name"] for t in listed] == ["laptop"]
    assert "is there already" in refused(folder, "token", "create", "laptop")
    code, ended = run(folder, "token", "revoke", "laptop")
    assert (code, ended["state"]) == (0, "revoked")
    assert "there is no token" in refused(folder, "token", "revoke", "nobody")


def test_what_a_token_cannot_be_is_refused(folder: Path) -> None:
    run(folder, "token", "list")
    for wrong, told in (
        (["x", "--role", "king"], "--role: 'king' is no role"),
        (["x", "--expires", "soon"], "--expires"),
        (["x", "--expires", "0 days"], "--expires"),
        (["x", "--quota", "much"], "--quota"),
        ([" "], "NAME"),
        (["x" * 101], "NAME"),
    ):
        assert told in refused(folder, "token", "create", *wrong)


def test_what_cannot_be_served_is_told_and_nothing_is_made(folder: Path) -> None:
    toml = folder / "tierkeeper.toml"
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f'listen = "127.0.0.1:{free.getsockname()[1]}"'  # another test may be at the usual port
    toml.write_text(f"[homeserver]\n{listen}\n")
    assert refused(folder, "homeserver").startswith("ARCHIVE_PATH: it is not set")
    assert "there is no such folder" in refused(folder, "homeserver", ARCHIVE_PATH=str(folder / "nowhere"))
    assert "there is no such folder" in refused(folder, "token", "list", ARCHIVE_PATH=str(folder / "nowhere"))
    for wrong, place in (
        ('listen = "here"', "homeserver.listen"),
        ('names = ["a b"]', "homeserver.names[0]"),
        ("scrub_days = 0", "homeserver.scrub_days"),
        ('lissten = "x"', "homeserver.lissten"),
        ('path = "env:NO_SUCH"', "homeserver.path"),
    ):
        toml.write_text(f"[homeserver]\n{wrong}\n")
        assert place in refused(folder, "homeserver", ARCHIVE_PATH=str(folder / "store"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        toml.write_text(f'[homeserver]\nlisten = "127.0.0.1:{taken.getsockname()[1]}"\npath = "store"\n')
        assert "cannot be listened on" in refused(folder, "homeserver")


def test_what_token_create_prints_is_all_that_a_client_needs(tmp_path: Path) -> None:
    with HomeServer(tmp_path) as server:
        made = processes.command(["token", "create", "phone"], server.environment)
        assert made.returncode == 0
        printed = dict(line.split("=", 1) for line in made.stdout.splitlines() if line.startswith("HOME_SERVER_"))
        store = HomeStore(printed["HOME_SERVER_URL"], printed["HOME_SERVER_TOKEN"])
        assert "keeps 0 objects" in store.probe()


def test_a_folder_that_is_served_is_not_served_again(folder: Path) -> None:
    with HomeServer(folder) as server:
        key = put_object(server.store(), "segment", b"small")
        (folder / "tierkeeper.toml").write_text(f'[homeserver]\nlisten = "127.0.0.1:{free_port()}"\npath = "store"\n')
        assert "another home server serves this folder" in refused(folder, "homeserver")
        assert server.store().get(key) == b"small"
