"""Proves that the archive is intact, by reading every byte of it from the store.

It trusts nothing but the key: not the store, and the catalog only where the signed manifests agree with it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from math import ceil
from typing import TypedDict
from uuid import UUID

from tierkeeper.archive import summary
from tierkeeper.archive.catalog import Catalog
from tierkeeper.archive.checkpoint import Watch
from tierkeeper.archive.model import Commit, Removal, Replacement, Segment, Thawing, parse_document
from tierkeeper.archive.reading import SegmentReader, check_content
from tierkeeper.archive.wrapped import refuse_unopened
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.ports import Stop
from tierkeeper.kernel.results import Left, VerifyResult
from tierkeeper.objectstore.port import KINDS, Kind, ObjectMissing, Store, split_key

_REMEDY = "Restore the store from its copy"
_LEFT = tuple(model.model_fields["format"].default for model in (Thawing, Removal))
"""Words that are only put once the catalog does not count the segment any more."""


def _turn(segment: Segment) -> tuple[datetime, int]:
    return segment.verified_at or datetime.min.replace(tzinfo=UTC), segment.position


@dataclass(frozen=True)
class Sample:
    """`share` of all segments, those that were read longest ago first: so the next ones are others, until all had their turn."""

    share: Fraction

    @classmethod
    def parse(cls, text: str) -> "Sample":
        """A share as `n/t`, 0 < n <= t. Raises UsageError."""
        n, slash, t = text.partition("/")
        if not (slash and n.isdecimal() and t.isdecimal() and 0 < int(n) <= int(t)):
            remedy = "Write it as two whole numbers, such as 1/30: the thirtieth that was read longest ago"
            raise UsageError("--sample", f"{text[:80]!r} is no share of the segments", remedy)
        return cls(Fraction(int(n), int(t)))

    def of(self, segments: Sequence[Segment]) -> set[UUID]:
        """Ids of the segments whose turn it is; of any at least one."""
        turns = sorted(segments, key=_turn)
        return {s.id for s in turns[: ceil(len(turns) * self.share)]}


class Bounds(TypedDict, total=False):
    """What of a reading: segments that were not read since `read_before`, until `stop` says that it must end."""

    read_before: datetime | None
    stop: Stop


def verify(
    store: Store,
    catalog: Catalog,
    keys: Callable[[], KeyRing],
    watch: Watch,
    *,
    segment_id: UUID | None = None,
    sample: Sample | None = None,
    read_before: datetime | None = None,
    stop: Stop = lambda: None,
) -> VerifyResult:
    """Checks every segment, one, or a sample, and notes in the catalog which were found good.

    Those that were read longest ago come first, and `stop` is asked before each: a reading that had to end is gone on with by the
    next one. With `read_before` those that were read since then are only looked for.

    Unless one is named, it also looks for the others' objects, and at the chain, at what this machine remembers of it, and at
    what lies in the store besides. Raises NotNow where the store or the catalog is away, UsageError for an unknown segment or a
    missing key: neither is damage.
    """
    refuse_unopened(catalog, keys, segment_id)
    listed = {} if segment_id else {kind: _listed(store, kind) for kind in KINDS}  # before the catalog, which knows them sooner
    chain, end = catalog.chain()
    counted = [s for s in chain if s.state not in ("undone", "removed")]
    chosen = [s for s in counted if segment_id in (None, s.id)]
    if segment_id is not None and not chosen:
        raise UsageError(f"segment {segment_id}", "the archive has no such segment", "See `tierkeeper archive list`")
    whole = sample.of(chosen) if sample is not None else {s.id for s in chosen}
    if read_before is not None and segment_id is None:
        whole -= {s.id for s in chosen if s.verified_at is not None and s.verified_at >= read_before}
    found = _Found()
    if segment_id is None:
        found.damaged += _broken_chain(chain, end)
        found.damaged += [f"chain: {wrong}"] if (wrong := watch.look()) is not None else []
        outlived = {key for key, _ in catalog.outlived(0)}  # they wait for their readers, and go
        others = {kind: {k: n for k, n in listed[kind].items() if k not in outlived} for kind in KINDS}
        _strangers(store, keys(), others, chain, found)
        removed = [key for s in chain if s.state == "removed" for key in _remains(s) if key not in others[split_key(key)[0]]]
        found.missing += [f"{key}: it says what became of a segment that was removed" for key in removed]
    missed, ended = _look_at(store, catalog, keys, chosen, whole=whole, listed=listed, found=found, stop=stop)
    ok = not found.damaged and not found.missing
    unread = sum(s.verified_at is None and s.id not in found.good for s in counted)
    return VerifyResult(
        segments=len(counted),
        checked=len(whole - missed),
        damaged=found.damaged,
        missing=found.missing,
        strays=found.strays,
        unread=unread,
        left=[Left(segments=len(missed))] if missed else [],
        stopped_because=ended,
        ok=ok,
    )


@dataclass
class _Found:
    good: list[UUID] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)


def _look_at(
    store: Store,
    catalog: Catalog,
    keys: Callable[[], KeyRing],
    chosen: Sequence[Segment],
    *,
    whole: set[UUID],
    listed: Mapping[Kind, Mapping[str, int]],
    found: "_Found",
    stop: Stop,
) -> tuple[set[UUID], str | None]:
    """Reads those of `chosen` that are in `whole`, and looks for the others. Returns what `stop` left of them, and its reason."""
    turns = sorted(chosen, key=lambda s: (s.id in whole, _turn(s)))  # to look for one takes no time
    lengths = {key: length_bytes for of_kind in listed.values() for key, length_bytes in of_kind.items()}
    try:
        for number, segment in enumerate(turns):
            if (ended := stop()) is not None:
                return {s.id for s in turns[number:]} & whole, ended
            try:
                if segment.id in whole:
                    check(store, keys, segment)
                else:
                    _present(store, segment, lengths)
            except (NotNow, UsageError):
                raise
            except ObjectMissing as error:
                if not _undone(catalog, segment):  # else a run took the copy back meanwhile: its rows are in the tier above
                    found.missing.append(f"{segment.id}: {error.cause}")
            except TierkeeperError as error:
                found.damaged.append(f"{segment.id}: {error.place}: {error.cause}")
            else:
                found.good += [segment.id] if segment.id in whole else []
    finally:  # what was read stays read, however this ends
        catalog.verified(found.good)
    return set(), None


def _listed(store: Store, kind: Kind) -> dict[str, int]:
    return {info.key: info.length_bytes for info in store.list(kind)}


def _present(store: Store, segment: Segment, lengths: Mapping[str, int]) -> None:
    """Raises ObjectMissing or Failed where not all of the segment's objects are there, or its file has another length."""
    for key in _objects(segment):
        length_bytes = lengths.get(key)
        if length_bytes is None:  # it may have come after the list
            info = store.head(key)
            if info is None:
                raise ObjectMissing(store.name, f"the store does not hold {key}", _REMEDY)
            length_bytes = info.length_bytes
        if key == segment.object_key and length_bytes != segment.bytes:
            cause = f"it has {length_bytes} bytes in the store, and {segment.bytes} were written"
            raise Failed(f"segment {segment.id}", cause, _REMEDY)


def _objects(segment: Segment) -> list[str]:
    objects = [segment.object_key, segment.key_object, segment.manifest_key]
    return objects if segment.commit_object is None else [*objects, segment.commit_object]


def _remains(segment: Segment) -> list[str]:
    """What is kept of a segment that counts no more: of one that was undone the manifest alone, for it was never committed."""
    if segment.state == "undone":
        return [segment.manifest_key]
    return [key for key in (segment.manifest_key, segment.commit_object, segment.removal_object) if key is not None]


def _strangers(
    store: Store, ring: KeyRing, listed: Mapping[Kind, Mapping[str, int]], chain: Sequence[Segment], found: _Found
) -> None:
    """What lies in the store and belongs to no segment that counts.

    What this archive signed, an interrupted run left, or the catalog was put back; what it did not, somebody else has written.
    """
    known = {key for s in chain for key in (_objects(s) if s.state not in ("undone", "removed") else _remains(s))}
    counting = {s.manifest for s in chain if s.state != "undone"}
    sealed = {s.manifest for s in chain if s.state in ("copied", "sealed")}
    for kind in KINDS:
        for key in listed[kind]:
            if key in known:
                continue
            if kind == "segment":
                found.strays.append(f"{key}: no manifest that counts names it")
                continue
            try:
                body = ring.unseal(kind, store.get(key), key)
            except ObjectMissing:
                continue  # taken back meanwhile
            except Failed as error:
                found.damaged.append(f"{key}: this archive has not written it ({error.cause})")
            else:
                if kind == "commit" and body.get("manifest") not in counting:
                    found.damaged.append(f"{key}: the store holds a segment that the catalog does not count")
                elif kind == "commit" and body.get("format") in _LEFT and body.get("manifest") in sealed:
                    found.damaged.append(
                        f"{key}: it says that segment {body.get('segment')} left, and the catalog counts it still"
                    )
                else:
                    found.strays.append(f"{key}: an interrupted run left it")


def check(store: Store, keys: Callable[[], KeyRing], segment: Segment) -> None:
    """Raises ObjectMissing or Failed unless segment, key, manifest and commit object are all as they were written."""
    reader = SegmentReader(store, keys)
    for key in _objects(segment)[1:]:
        kind, hexname = split_key(key)
        if hashlib.sha256(store.get(key)).hexdigest() != hexname:
            place = f"{kind} of segment {segment.id}"
            raise Failed(place, "its bytes in the store are not what was written", _REMEDY)
    if segment.commit_object is not None:
        _check_commit(store, reader.ring(segment), segment, segment.commit_object)
    manifest = reader.manifest(segment)
    data_key = reader.data_key(segment)
    summary.unsealed(manifest.summary, data_key, segment.id, f"manifest of segment {segment.id}")
    place = f"segment {segment.id}"
    with store.open(segment.object_key) as file:
        content = check_content(
            file,
            segment.id,
            data_key,
            place,
            sha256=manifest.sha256,
            length_bytes=manifest.bytes,
            rows=manifest.rows,
            digest=manifest.digest,
        )
    if content.contents.schema_hash != manifest.schema_hash:
        raise Failed(place, "its columns are not those of its manifest", _REMEDY)


def _check_commit(store: Store, ring: KeyRing, segment: Segment, key: str) -> None:
    place = f"commit object of segment {segment.id}"
    body = ring.unseal("commit", store.get(key), place)
    replaces = body.get("format") == Replacement.model_fields["format"].default
    said = parse_document(Replacement, body, place) if replaces else parse_document(Commit, body, place)
    batch = said.batch if isinstance(said, Commit) else segment.batch
    if (said.segment, batch, said.manifest) != (segment.id, segment.batch, segment.manifest):
        raise Failed(place, "it commits another segment", _REMEDY)


def _undone(catalog: Catalog, segment: Segment) -> bool:
    return segment.state == "copied" and bool(catalog.segments(segment_id=segment.id, states=("undone",)))


def _broken_chain(chain: Sequence[Segment], end: str | None) -> list[str]:
    """Where a manifest does not name the one before it: a row was taken out, put in, or changed."""
    previous, position, broken = None, 0, []
    for segment in chain:
        position += 1
        if segment.previous != previous or segment.position != position:
            broken.append(f"{segment.id}: it does not follow the manifest before it")
        previous, position = segment.manifest, segment.position
    if previous != end:
        broken.append(f"manifest {end}: it is the newest, and the catalog's last segment has another")
    return broken
