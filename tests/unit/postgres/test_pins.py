"""Where a confirmed authority lies, what it is for, and what beats it."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chains import Signed, sign
from tierkeeper.kernel.errors import UsageError
from tierkeeper.postgres import certificates, pins
from tierkeeper.postgres.link import Link

ROOT = sign("root", 3000)
BETWEEN = sign("between", 300, ROOT)
CORE = Link("core", "postgresql://u:p@db.example.com:5432/d")


def pinned(link: Link, folder: Path, authority: Signed = ROOT) -> Link:
    (one,) = certificates.read([authority.der])
    pins.write(pins.file_of(folder, link), link, one, datetime(2026, 1, 2, tzinfo=UTC), "somebody\n@host")
    return pins.applied(link, folder)


def test_nothing_is_pinned_where_there_is_no_file(tmp_path: Path) -> None:
    assert pins.applied(CORE, tmp_path) is CORE
    (tmp_path / pins.FOLDER).write_text("no folder")
    assert pins.applied(CORE, tmp_path) is CORE


@pytest.mark.parametrize("moved", ["the file", "authorities", "the folder"])
def test_a_pin_behind_a_link_that_leads_nowhere_is_not_taken_for_none(tmp_path: Path, moved: str) -> None:
    folder, away = tmp_path / "tierkeeper", tmp_path / "not mounted"
    pinned(CORE, folder)
    path = {"the file": pins.file_of(folder, CORE), "authorities": folder / pins.FOLDER, "the folder": folder}[moved]
    path.rename(away)
    path.symlink_to(away)
    assert pins.applied(CORE, folder).pin is not None
    away.rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="a symbolic link that leads nowhere"):
        pins.applied(CORE, folder)


def test_a_pin_is_the_only_authority_and_the_hosts_name_counts(tmp_path: Path) -> None:
    link = pinned(CORE, tmp_path)
    assert link.parameters["sslrootcert"] == str(pins.file_of(tmp_path, CORE))
    for url in ("", "?sslmode=require", "?sslmode=disable"):
        here = replace(link, url=CORE.url + url)
        assert here.parameters["sslmode"] == "verify-full"
    plain = pinned(replace(CORE, url="postgresql://u@127.0.0.1/d", insecure=True), tmp_path)
    assert (plain.parameters["sslmode"], plain.parameters["sslrootcert"]) == ("verify-full", plain.pin)


def test_what_the_user_names_beats_it(tmp_path: Path) -> None:
    link = pinned(CORE, tmp_path)
    for named in (replace(link, sslrootcert="ca.pem"), replace(link, url=f"{link.url}?sslrootcert=ca.pem")):
        assert named.parameters["sslrootcert"] == "ca.pem"
        assert pins.in_force(named) is None
    assert pins.in_force(link) == link.pin


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (replace(CORE, url="postgresql://x:y@DB.example.com:6543/e"), True),  # the pooler's port, another user
        (replace(CORE, url="postgresql://u:p@db2.example.com/d"), False),
        (replace(CORE, url="postgresql://u:p@db.example.com,db2.example.com/d"), False),
        (replace(CORE, url="postgresql://u:p@/d?host=db.example.com%2F..%2Fx"), False),
        (replace(CORE, tier="main"), False),
    ],
)
def test_it_is_for_one_tier_at_one_host(tmp_path: Path, other: Link, same: bool) -> None:
    pinned(CORE, tmp_path)
    assert (pins.applied(other, tmp_path).pin is not None) is same
    assert pins.file_of(tmp_path, other).parent == tmp_path / pins.FOLDER


def test_a_long_list_of_hosts_has_a_file_too(tmp_path: Path) -> None:
    hosts = ",".join(f"db{n}.a-rather-long-name.example.com" for n in range(20))
    assert pinned(replace(CORE, url=f"postgresql://u:p@{hosts}/d"), tmp_path).pin is not None


@pytest.mark.parametrize("authority", [ROOT, BETWEEN])
def test_the_file_is_its_users_alone_and_says_what_it_is(tmp_path: Path, authority: Signed) -> None:
    before = os.umask(0)
    try:
        path = Path(pinned(CORE, tmp_path / "new", authority).pin or "")
    finally:
        os.umask(before)
    assert [p.stat().st_mode & 0o777 for p in (path, path.parent)] == [0o600, 0o700]
    assert pins.pinned(str(path)).sha256 == authority.sha256
    text = path.read_text()
    assert f"# SHA-256 {authority.sha256}\n" in text
    assert "core at db.example.com" in text
    assert "somebody%0A@host" in text
    assert list(path.parent.iterdir()) == [path]


def test_one_that_cannot_be_trusted_ends_the_link(tmp_path: Path) -> None:
    path = Path(pinned(CORE, tmp_path).pin or "")
    path.chmod(0o660)
    with pytest.raises(UsageError, match="others can write"):
        pins.applied(CORE, tmp_path)
    for text in ("", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 2 * path.read_text()):
        path.write_text(text)
        with pytest.raises(UsageError, match="it holds no authority, or more than one"):
            pins.pinned(str(path))


def test_a_write_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = pinned(CORE, tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        pinned(CORE, tmp_path, BETWEEN)
    assert pins.pinned(link.pin or "").sha256 == ROOT.sha256
