"""Profiles, identities and the size of a store, without a server."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from tierkeeper.kernel.errors import NotNow, UsageError
from tierkeeper.tiers import identity, profile
from tierkeeper.tiers.identity import Identity
from tierkeeper.tiers.usage import Usage, directory_bytes, refusal

STARTED = datetime(2024, 1, 1, tzinfo=UTC)


def who(oid: int, *roles: str) -> Identity:
    return Identity((STARTED, oid), {r: uuid4() for r in roles})


def test_tiers_that_are_what_they_say_are_fine() -> None:
    assert identity.faults({"core": who(1, "core"), "main": who(2), "archive": who(3, "archive")}) == []


def test_one_database_for_two_tiers_is_told_once() -> None:
    assert [e.place for e in identity.faults({"core": who(1, "core"), "main": who(1, "core"), "archive": who(2)})] == [
        "tiers.main"
    ]


def test_swapped_tiers_are_told_for_each() -> None:
    found = identity.faults({"core": who(1, "main"), "main": who(2, "core")})
    assert [(e.place, e.cause.split(",")[0]) for e in found] == [
        ("tiers.core", "this database was set up as main"),
        ("tiers.main", "this database was set up as core"),
    ]


def test_profiles_by_name() -> None:
    assert profile.named("supabase-free", "x").quota_bytes == 500_000_000
    with pytest.raises(UsageError, match="supabase-free, self-hosted") as error:
        profile.named("supabase", "tiers.core.profile")
    assert error.value.place == "tiers.core.profile"


def test_the_size_of_a_folder(tmp_path: Path) -> None:
    assert directory_bytes(tmp_path / "absent") == 0
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"12345")
    (tmp_path / "d").write_bytes(b"1")
    (tmp_path / "link").symlink_to("nowhere")
    assert directory_bytes(tmp_path) == 6


def test_only_a_tier_that_gives_rows_away_may_be_read_only() -> None:
    calm = Usage(used_bytes=1, read_only=False, in_recovery=False, version=170000, tls=True)
    switched, replica = replace(calm, read_only=True), replace(calm, in_recovery=True)
    assert refusal(calm, "p", gives_only=False) is None
    assert refusal(switched, "p", gives_only=True) is None
    assert isinstance(refusal(switched, "p", gives_only=False), NotNow)
    for gives_only in (True, False):
        assert isinstance(refusal(replica, "p", gives_only=gives_only), UsageError)
        assert isinstance(refusal(replace(calm, missed="gone"), "p", gives_only=gives_only), NotNow)
