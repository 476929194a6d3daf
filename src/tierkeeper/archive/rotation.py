"""Wraps every segment's data key to the operational key that is in use now, or gives each segment a data key of its own."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tierkeeper.archive.catalog import Catalog
from tierkeeper.archive.model import Segment, WrappedKey, Wrapping, parse_document
from tierkeeper.archive.outlived import sweep
from tierkeeper.archive.reading import SegmentReader
from tierkeeper.archive.replacing import Replacer, all_stay
from tierkeeper.archive.wrapped import refuse_unopened, unopened
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed, TierkeeperError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.ports import Stop
from tierkeeper.objectstore.port import Store, put_object

_LOOK_SECONDS: Final = 0.5


@dataclass(frozen=True)
class Rewrapped:
    """How a rotation went. `left`: old wrapped keys that lie in the store still; `refused`: why they cannot be deleted."""

    segments: int
    rewritten: int
    waiting: int
    left: int
    refused: str | None


class Rotation:
    """I1: a segment points to a new wrapping only after that was read back, opened with the new key alone, and found equal.

    The old one outlives the longest reader that may have seen it in the catalog. Killed at any step, the next run goes on.
    """

    def __init__(self, store: Store, catalog: Catalog, ring: KeyRing, clock: Clock, replacer: Replacer) -> None:
        self._replacer = replacer
        self._store = store
        self._catalog = catalog
        self._ring = ring
        self._clock = clock
        self._reader = SegmentReader(store, lambda: ring)

    def waiting(self) -> list[Segment]:
        """Segments that are not wrapped to the key in use."""
        return self._catalog.wrapped_for_others(self._ring.recipient_id)

    def require_newest(self) -> None:
        """Raises UsageError where another machine has rotated to a key that this one lacks: only that one can go on."""
        refuse_unopened(self._catalog, lambda: self._ring)

    def unopened(self) -> int:
        """How many segments are wrapped to an operational key that this ring lacks."""
        return unopened(self._catalog, lambda: self._ring)

    def is_complete(self) -> bool:
        """Whether nothing is left of an earlier run."""
        return not self.waiting() and not self._catalog.old_wrappings()

    def run(self, stop: Stop, longest_reader_seconds: float, *, reencrypt: bool) -> Rewrapped:
        """Wraps what waits; then, when no reader can need them any more, deletes the old wrappings.

        `reencrypt` writes what waits anew under a data key that was never wrapped to another: whoever has the old operational key
        and a copy of the store reads nothing of the new files.
        """
        done = rewritten = 0
        for segment in self.waiting():
            if stop() is not None:
                break
            if reencrypt and segment.state == "sealed":
                self._replacer.rest([segment.id], longest_reader_seconds)
                self._replacer.replace(segment, all_stay, 0)
                rewritten += 1
            else:
                done += self._rewrap(segment)
        refused = sweep(self._store, self._catalog, longest_reader_seconds)
        while refused is None and stop() is None and self._catalog.outlived(0):
            self._clock.sleep(_LOOK_SECONDS)
            refused = sweep(self._store, self._catalog, longest_reader_seconds)
        return Rewrapped(done, rewritten, len(self.waiting()), len(self._catalog.outlived(0)), refused)

    def _rewrap(self, segment: Segment) -> bool:
        place = f"key of segment {segment.id}"
        old = self._reader.wrapped(segment)
        wrapped = old.model_copy(update={"recipient": self._ring.recipient_id, "number": old.number + 1})
        key = put_object(self._store, "key", self._ring.seal("key", wrapped.body()))
        reach(Point.KEY_REWRAPPED)
        kept = parse_document(WrappedKey, self._ring.alone().unseal("key", self._store.get(key), place), place)
        if kept != wrapped:
            raise Failed(place, "the store gives back another key than was put", "Run `tierkeeper archive verify`")
        if self._catalog.rewrapped(segment, Wrapping(key, self._ring.recipient_id)):
            reach(Point.KEY_REPLACED)
            return True
        with suppress(TierkeeperError):  # another run was quicker, or the segment was undone
            self._store.delete(key)
        return False
