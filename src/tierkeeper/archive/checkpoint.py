"""How far the archive had come when this machine last looked, remembered where neither the store nor the catalog can change it.

A store and a catalog that were both put back from yesterday agree with each other; only somebody who remembers more can tell.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tierkeeper.archive.catalog import Catalog
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.kernel.log import Log

FILE: Final = "archive-checkpoint.json"
_FORMAT: Final = "tierkeeper checkpoints"
_VERSION: Final = 1
_log = Log()


@dataclass(frozen=True)
class Checkpoint:
    """The chain's end as it was seen at `seen_at`: how many manifests it had, and the SHA-256 of its first and of its last."""

    first: str
    position: int
    manifest: str
    seen_at: datetime


def gone_back(remembered: Checkpoint, length: int, manifest: str | None) -> str | None:
    """What is wrong where a chain of `length`, with `manifest` at that position, does not go on from there; else None."""
    when = f"{remembered.seen_at:%Y-%m-%d %H:%M} UTC"
    seen = f"this machine saw manifest {remembered.manifest} as number {remembered.position} on {when}"
    if length < remembered.position:
        return f"{seen}, and the chain ends at number {length}: an older state was put back"
    if manifest != remembered.manifest:
        return f"{seen}, and number {remembered.position} is another: an archive that is not the one of then"
    return None


@dataclass(frozen=True)
class Checkpoints:
    """The file in the user's configuration folder. It only ever moves on: a checkpoint gives way to a later one of its chain.

    `store` names the place; an archive that moved is known by its first manifest as well.
    """

    path: Path
    store: str

    def remembered(self, first: str | None) -> Checkpoint | None:
        """The furthest that this machine has seen of the archive at this store, or of the one that begins with `first`.

        Raises Failed where the file cannot be read.
        """
        entries = self._read()
        known = [_checkpoint(entry) for place, entry in entries.items() if place == self.store or entry["first"] == first]
        return max(known, key=lambda c: c.position, default=None)

    def advance(self, seen: Checkpoint) -> None:
        """Remembers `seen`, unless more is remembered already. Raises UsageError where the folder cannot be written."""
        try:
            with self._locked():
                entries = self._read()
                old = entries.get(self.store)
                if old is not None and old["position"] >= seen.position:
                    return
                entry = {"first": seen.first, "position": seen.position, "manifest": seen.manifest}
                entries[self.store] = {**entry, "seen_at": seen.seen_at.isoformat()}
                self._write(entries)
        except OSError as error:
            cause = f"what was seen of the archive cannot be remembered ({error.strerror or error})"
            raise UsageError(str(self.path), cause, "Make the folder writable for its owner") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise Failed(str(self.path), f"it cannot be read ({error.strerror})", "Let its owner read it") from error
        try:
            return _entries(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError):
            remedy = "Put it back from a copy; without one compare `tierkeeper archive list` with what you know, then remove it"
            raise Failed(str(self.path), "it is not a file of checkpoints", remedy) from None

    def _write(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        text = json.dumps({"format": _FORMAT, "version": _VERSION, "stores": entries}, indent=2, sort_keys=True) + "\n"
        temporary = self.path.with_suffix(".new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)


def _entries(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    if (document["format"], document["version"]) != (_FORMAT, _VERSION):
        raise ValueError(document["version"])
    entries = dict(document["stores"])
    for entry in entries.values():
        _checkpoint(entry)
    return entries


def _checkpoint(entry: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(
        str(entry["first"]), int(entry["position"]), str(entry["manifest"]), datetime.fromisoformat(entry["seen_at"])
    )


@dataclass(frozen=True)
class Watch:
    """Compares the catalog's chain with what this machine remembers of it, where it has a lasting place to remember in.

    I8: nothing is written after a chain that this machine knows to have gone on further.
    """

    catalog: Catalog
    clock: Clock
    checkpoints: Checkpoints | None

    def look(self) -> str | None:
        """What is wrong with the catalog's chain; None if it goes on from what was remembered, or nothing was.

        The end of a chain that nothing is wrong with is remembered from here on.
        """
        if self.checkpoints is None:
            return None
        likely = self.checkpoints.remembered(None)
        asked = likely.position if likely is not None else 1
        length, first, last, manifest = self.catalog.chain_at(asked)
        remembered = self.checkpoints.remembered(first)
        if remembered is not None:
            if remembered.position != asked:
                manifest = self.catalog.chain_at(remembered.position)[3]
            if (said := gone_back(remembered, length, manifest)) is not None:
                return said
        if first is not None and last is not None and (remembered is None or length > remembered.position):
            self._remember(Checkpoint(first, length, last, self.clock.now()))
        return None

    def _remember(self, seen: Checkpoint) -> None:
        if self.checkpoints is None:
            return
        try:
            self.checkpoints.advance(seen)
        except UsageError as error:  # a folder that cannot be written keeps nobody from archiving
            _log.warning("what was seen of the archive is not remembered", place=error.place, cause=error.cause)

    def wrong_with(self, chain: Mapping[int, str]) -> str | None:
        """The same of manifests by their positions."""
        remembered = self.checkpoints.remembered(chain.get(1)) if self.checkpoints is not None else None
        if remembered is None:
            return None
        return gone_back(remembered, max(chain, default=0), chain.get(remembered.position))

    def require(self, place: str, wrong: str | None) -> None:
        """Raises Failed at `place` where something is wrong."""
        if wrong is not None and self.checkpoints is not None:
            remedy = (
                "Run `tierkeeper archive verify` and bring the newer state of store and catalog back. Only if this is meant to be"
                f" another archive: remove {self.checkpoints.path}"
            )
            raise Failed(place, wrong, remedy)
