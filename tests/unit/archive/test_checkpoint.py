"""What a machine remembers of the archive only ever moves on, and is read as it was written or not at all."""

import json
import multiprocessing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tierkeeper.archive.checkpoint import Checkpoint, Checkpoints, gone_back
from tierkeeper.kernel.errors import Failed, UsageError

SEEN = Checkpoint("first", 3, "third", datetime(2026, 1, 2, 3, 4, tzinfo=UTC))


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "config" / "archive-checkpoint.json", "store /srv")


@pytest.mark.parametrize(
    ("length", "manifest", "wrong"),
    [
        (3, "third", None),
        (9, "third", None),
        (2, None, "ends at number 2"),
        (0, None, "ends at number 0"),
        (3, "x", "is another"),
    ],
)
def test_a_chain_goes_on_from_what_was_seen_or_it_is_said(length: int, manifest: str | None, wrong: str | None) -> None:
    said = gone_back(SEEN, length, manifest)
    assert said is None if wrong is None else wrong in str(said) and "third as number 3 on 2026-01-02 03:04 UTC" in str(said)


def test_it_moves_on_and_never_back(checkpoints: Checkpoints) -> None:
    assert checkpoints.remembered("first") is None
    for position in (3, 5, 4):
        checkpoints.advance(Checkpoint("first", position, f"m{position}", SEEN.seen_at))
    assert checkpoints.remembered(None) == Checkpoint("first", 5, "m5", SEEN.seen_at)
    assert checkpoints.path.stat().st_mode & 0o777 == 0o600


def test_an_archive_that_moved_is_known_by_its_first_manifest(checkpoints: Checkpoints) -> None:
    checkpoints.advance(SEEN)
    elsewhere = Checkpoints(checkpoints.path, "https://home")
    assert elsewhere.remembered("first") == SEEN
    assert elsewhere.remembered("another") is None
    assert checkpoints.remembered("another") == SEEN, "another archive at the same place is not what was seen there"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "tierkeeper checkpoints", "version": 1, "stores": {"x": {}}}'])
def test_a_damaged_file_is_an_error_and_stays(checkpoints: Checkpoints, text: str) -> None:
    checkpoints.path.parent.mkdir()
    checkpoints.path.write_text(text)
    for use in (lambda: checkpoints.remembered("first"), lambda: checkpoints.advance(SEEN)):
        with pytest.raises(Failed, match="not a file of checkpoints"):
            use()
    assert checkpoints.path.read_text() == text


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be remembered"):
        Checkpoints(tmp_path / "file" / "x.json", "s").advance(SEEN)


def remember(checkpoints: Checkpoints, start: int) -> None:
    for position in range(start, 200, 4):
        Checkpoints(checkpoints.path, f"store {start}").advance(Checkpoint("first", position, f"m{position}", SEEN.seen_at))


def test_several_processes_lose_nothing(checkpoints: Checkpoints) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=remember, args=(checkpoints, start)) for start in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    stores = json.loads(checkpoints.path.read_text())["stores"]
    assert {name: entry["position"] for name, entry in stores.items()} == {f"store {n}": 196 + n for n in range(4)}
