"""Proves that the archive is intact, by reading every byte of it from the store.

It trusts nothing but the key: not the store, and the catalog only where the signed manifests agree with it.
"""

import hashlib
from collections.abc import Callable, Sequence
from uuid import UUID

from tierkeeper.archive.catalog import Catalog
from tierkeeper.archive.model import Commit, Segment, parse_document
from tierkeeper.archive.reading import SegmentReader, check_content
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.results import VerifyResult
from tierkeeper.objectstore.port import ObjectMissing, Store

_REMEDY = "Restore the store from its copy"


def verify(store: Store, catalog: Catalog, keys: Callable[[], KeyRing], segment_id: UUID | None = None) -> VerifyResult:
    """Checks every segment, or one, and notes in the catalog which were found good.

    Raises NotNow where the store or the catalog is away, UsageError for an unknown segment or a missing key: neither is damage.
    """
    keys()
    committed = [] if segment_id else [info.key for info in store.list("commit")]  # before the catalog, which knows them sooner
    chain, end = catalog.chain()
    chosen = [s for s in chain if s.state != "undone" and segment_id in (None, s.id)]
    if segment_id is not None and not chosen:
        raise UsageError(f"segment {segment_id}", "the archive has no such segment", "See `tierkeeper archive list`")
    good: list[UUID] = []
    missing: list[str] = []
    damaged = [] if segment_id else [*_broken_chain(chain, end), *_unknown(committed, chain)]
    for segment in chosen:
        try:
            check(store, keys, segment)
        except (NotNow, UsageError):
            raise
        except ObjectMissing as error:
            if _undone(catalog, segment):
                continue  # a run took the copy back meanwhile: its rows are in the tier above
            missing.append(f"{segment.id}: {error.cause}")
        except TierkeeperError as error:
            damaged.append(f"{segment.id}: {error.place}: {error.cause}")
        else:
            good.append(segment.id)
    catalog.verified(good)
    return VerifyResult(checked=len(chosen), damaged=damaged, missing=missing, ok=not damaged and not missing)


def check(store: Store, keys: Callable[[], KeyRing], segment: Segment) -> None:
    """Raises ObjectMissing or Failed unless segment, key, manifest and commit object are all as they were written."""
    reader = SegmentReader(store, keys)
    for key, name in ((segment.manifest_key, "manifest"), (segment.key_object, "key")):
        if f"{name}/{hashlib.sha256(store.get(key)).hexdigest()}" != key:
            raise Failed(f"{name} of segment {segment.id}", "its bytes in the store are not what was written", _REMEDY)
    if segment.committed_at is not None:
        _check_commit(store, reader.ring(segment), segment)
    manifest = reader.manifest(segment)
    data_key = reader.data_key(segment)
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


def _check_commit(store: Store, ring: KeyRing, segment: Segment) -> None:
    place = f"commit object of segment {segment.id}"
    commit = parse_document(Commit, ring.unseal("commit", store.get(segment.commit_key), place), place)
    if (commit.segment, commit.batch, commit.manifest) != (segment.id, segment.batch, segment.manifest):
        raise Failed(place, "it commits another segment", _REMEDY)


def _undone(catalog: Catalog, segment: Segment) -> bool:
    return segment.state == "copied" and bool(catalog.segments(segment_id=segment.id, states=("undone",)))


def _unknown(committed: Sequence[str], chain: Sequence[Segment]) -> list[str]:
    """Commit objects of segments that do not count in the catalog: it was put back from a backup, or a row was changed."""
    known = {s.commit_key for s in chain if s.state != "undone"}
    return [f"{key}: the store holds a segment that the catalog does not count" for key in committed if key not in known]


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
