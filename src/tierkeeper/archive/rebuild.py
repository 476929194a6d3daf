"""The catalog, made again from what the store holds: the store is enough by itself (I8)."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, cast
from uuid import UUID

import psycopg

from tierkeeper.archive import replacing, thaw
from tierkeeper.archive.catalog import Catalog
from tierkeeper.archive.chain import line_up
from tierkeeper.archive.checkpoint import Watch
from tierkeeper.archive.model import (
    Commit,
    Document,
    Manifest,
    Removal,
    Replacement,
    SegmentState,
    Thawing,
    WrappedKey,
    Wrapping,
    parse_document,
)
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.ports import LedgerState
from tierkeeper.kernel.results import RebuildResult
from tierkeeper.objectstore.port import Kind, ObjectMissing, Store
from tierkeeper.tiers import memory

NO_KEY = Wrapping("key/" + "0" * 64, "")
"""In the place of a key where the store holds none for the segment."""


_WITHOUT_OBJECTS: Final = ("undone", "removed")


@dataclass
class _Held:
    """What the store holds, unsealed; what does not open was not written by this archive, or is damaged."""

    manifests: dict[str, Manifest] = field(default_factory=dict)
    commits: dict[str, tuple[str, Commit | Replacement]] = field(default_factory=dict)
    removals: dict[str, str] = field(default_factory=dict)
    thaws: dict[str, Thawing] = field(default_factory=dict)
    replacements: dict[str, Replacement] = field(default_factory=dict)
    keys: dict[UUID, Wrapping] = field(default_factory=dict)
    older_keys: dict[str, UUID] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    def bundle(self, manifest_sha256: str | None) -> UUID | None:
        """What ties the manifest's segment to others: its own commit says so, or that of the one in whose place it is."""
        while manifest_sha256 in self.commits:
            _, said = self.commits[manifest_sha256]
            if isinstance(said, Commit):
                return said.bundle
            manifest_sha256 = said.replaces
        return None


class Markers(Protocol):
    """What the tier above says of batches whose rows left it for the archive."""

    def kept(self) -> Mapping[UUID, str]:
        """The states of all settled markers that it keeps; after `settled` was asked."""
        ...

    def settled(self, batch_id: UUID) -> str | None:
        """The state of a batch's marker, aborted if it was open; None where there is none."""
        ...

    def newest(self) -> memory.Newest:
        """What it remembers of the ledger that was lost."""
        ...

    def bundles(self) -> Mapping[UUID, UUID]:
        """What ties batches together, of those that it remembers."""
        ...


class NoMarkers:
    """The tier above is gone for good."""

    def kept(self) -> Mapping[UUID, str]:
        return {}

    def settled(self, batch_id: UUID) -> str | None:  # noqa: ARG002 - nobody is there to ask
        return None

    def newest(self) -> memory.Newest:
        return memory.Newest(None, 0, None, 0)

    def bundles(self) -> Mapping[UUID, UUID]:
        return {}


class Rebuilder:
    """Enters every manifest that the store holds into an empty catalog, in one transaction.

    I1 and I8: a manifest with its commit object counts. One without is settled by its marker in the tier that the rows came from,
    which alone knows whether they left it; an open one is aborted first, so that nobody can delete those rows any more. Where no
    marker says anything, the segment is entered as `unsure`: it counts for nobody, and nothing of it is ever deleted. I2: a batch
    whose marker was dropped is entered as forgotten, which counts without one; the others as done, which counts where a
    reader's snapshot has the marker moved. The ledger goes on past all that its markers say of the one that was lost: else the
    tier above, put back from a backup, would seem to remember batches that it knows nothing of.
    """

    def __init__(self, store: Store, catalog: Catalog, ring: KeyRing, watch: Watch, markers: Markers) -> None:
        self._store = store
        self._catalog = catalog
        self._ring = ring
        self._watch = watch
        self._markers = markers

    def run(self) -> RebuildResult:
        """Does it. Raises UsageError where the catalog knows segments, Failed where the store is not what it was."""
        self._catalog.require_empty()
        held = self._held()
        counting = {sha256 for sha256 in (*held.commits, *held.removals) if sha256 in held.manifests}
        asked = {s: self._markers.settled(m.batch) for s, m in held.manifests.items() if s not in counting}
        reach(Point.REBUILD_SETTLED)
        counting |= {sha256 for sha256, marker in asked.items() if marker == "moved"}
        lined_up = line_up(held.manifests, counting)
        if lined_up.forks:
            cause = f"manifest {lined_up.forks[0]} counts, and so does another in its place: two archives were mixed in it"
            raise Failed(self._store.name, cause, "Give each archive a store of its own, then run again")
        self._watch.require(self._store.name, self._watch.wrong_with(lined_up.chain))
        unsure = {s for s in asked if s not in lined_up.beside and self._is_unsure(held.manifests[s], asked[s])}
        states: dict[str, SegmentState] = {
            s: "removed" if s in held.removals else "sealed" if s in counting else "unsure" if s in unsure else "undone"
            for s in lined_up.chain.values()
        }
        manifests = [(held.manifests[s], s) for s in lined_up.chain.values()]
        self._enter(manifests, states, held)
        self._watch.look()  # remembers how far the chain has come
        missing = [f"manifest number {position}: the store does not hold it" for position in lined_up.gaps]
        missing += [f"{c.segment}: its manifest {s} is gone" for s, (_, c) in held.commits.items() if s not in held.manifests]
        missing += [
            f"{m.segment}: its key is gone"
            for m, s in manifests
            if states[s] not in _WITHOUT_OBJECTS and m.segment not in held.keys
        ]
        return RebuildResult(
            segments=sum(state == "sealed" for state in states.values()),
            rows=sum(m.rows for m, s in manifests if states[s] == "sealed"),
            undone=sum(state == "undone" for state in states.values()),
            unsure=[f"{held.manifests[s].segment}: no marker says whether its rows left the tier above" for s in sorted(unsure)],
            damaged=held.damaged,
            missing=missing,
            ok=not (unsure or held.damaged or missing),
        )

    def _held(self) -> _Held:
        held = _Held()
        wrapped = []
        for key, manifest in self._documents("manifest", (Manifest,), held):
            held.manifests[key.partition("/")[2]] = cast("Manifest", manifest)
        for key, said in self._documents("commit", (Commit, Removal, Replacement, Thawing), held):
            if isinstance(said, Commit):
                held.commits[said.manifest] = (key, said)  # a killed run may have left two, which say the same
            elif isinstance(said, Removal):
                held.removals[said.manifest] = key
            elif isinstance(said, Replacement):
                held.commits[said.manifest] = (key, said)
                held.removals[said.replaces] = key
                held.replacements[said.replaces] = said
            elif isinstance(said, Thawing):
                held.removals[said.manifest] = key
                held.thaws[said.manifest] = said
        for key, found in self._documents("key", (WrappedKey,), held):
            wrapped.append((key, cast("WrappedKey", found)))
        for key, one in sorted(wrapped, key=lambda pair: pair[1].number):
            if one.segment in held.keys:
                held.older_keys[held.keys[one.segment].object] = one.segment
            held.keys[one.segment] = Wrapping(key, one.recipient)  # of several, the one that was wrapped last
        return held

    def _documents(self, kind: Kind, models: Sequence[type[Document]], held: _Held) -> Iterator[tuple[str, Document]]:
        """The store's objects of a kind, opened, each as one of `models`. What does not open, or is none of these, is damaged."""
        for info in self._store.list(kind):
            try:
                sealed = self._store.get(info.key)
                if f"{kind}/{hashlib.sha256(sealed).hexdigest()}" != info.key:
                    held.damaged.append(f"{info.key}: its bytes are not what was written")
                    continue
                body = self._ring.unseal(kind, sealed, info.key)
                model = next((m for m in models if m.model_fields["format"].default == body.get("format")), models[0])
                yield info.key, parse_document(model, body, info.key)
            except ObjectMissing:
                continue  # taken back meanwhile
            except Failed as error:
                held.damaged.append(f"{info.key}: {error.cause}")

    def _is_unsure(self, manifest: Manifest, marker: str | None) -> bool:
        """An undone batch's segment was deleted; where it still lies, and nobody says why, it may be the rows' only place.

        One that a killed run was to put in the place of another has no row that the other has not.
        """
        return marker is None and manifest.source != "archive" and self._store.head(f"segment/{manifest.sha256}") is not None

    def _enter(self, manifests: Sequence[tuple[Manifest, str]], states: Mapping[str, SegmentState], held: _Held) -> None:
        kept, newest, remembered_ties = self._markers.kept(), self._markers.newest(), self._markers.bundles()
        with self._catalog.transaction() as cur:
            if self._catalog.chain_head(cur) != (0, None):
                cause = "another run has written to it meanwhile"
                raise UsageError(self._catalog.place, cause, "Look at `tierkeeper archive list`, then verify")
            remembered = [one for one in manifests if one[0].batch == newest.batch]
            others = [one for one in manifests if one[0].batch != newest.batch]
            for part, seq in ((remembered, newest.seq), (others, newest.greatest + 1)):
                memory.go_on_at(cur, seq)
                for manifest, sha256 in part:
                    ledger: LedgerState = "undone"
                    if states[sha256] in ("sealed", "removed"):
                        ledger = "done" if manifest.batch in kept else "forgotten"
                    self._reenter(cur, manifest, sha256, (ledger, states[sha256]), held)
                    bundle = held.bundle(sha256) or remembered_ties.get(manifest.batch)
                    if bundle is not None:
                        self._catalog.tie(cur, manifest.batch, bundle)
            memory.came_from(cur, newest)
            entered = {manifest.segment for manifest, _ in manifests}
            # What a rotation had not deleted yet opens with the key of before it.
            self._catalog.outlive(cur, [key for key, segment in held.older_keys.items() if segment in entered])
            if manifests:
                last, sha256 = manifests[-1]
                self._catalog.set_chain(cur, last.position, sha256)
            reach(Point.REBUILD_BEFORE_COMMIT)

    def _reenter(
        self, cur: psycopg.Cursor, manifest: Manifest, sha256: str, states: tuple[LedgerState, SegmentState], held: _Held
    ) -> None:
        key = held.keys.get(manifest.segment, NO_KEY)
        commit_object, _ = held.commits.get(sha256, (None, None))
        self._catalog.reenter(cur, manifest, sha256, key, states, said=(commit_object, held.removals.get(sha256)))
        if sha256 in held.thaws:
            thaw.reenter(cur, held.thaws[sha256])
        if sha256 in held.replacements:
            by = held.replacements[sha256]
            replacing.enter(cur, manifest.segment, by.segment, by.erased)
