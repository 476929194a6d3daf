"""Named places where a crash would hurt most. In production reaching one does nothing; `tierkeeper.testing` arms it."""

from collections.abc import Callable
from enum import StrEnum


class Point(StrEnum):
    """Every durable step of a setup and a move, just before and after its commit."""

    LEASED = "leased"
    CONFLICTS_NOTED = "conflicts-noted"  # keys of Core that Main has are noted there, and no horizon says so
    HORIZON_RECORDED = "horizon-recorded"
    LEDGER_OPEN = "ledger-open"  # the ledger row is open at the destination
    MARKER_OPEN = "marker-open"  # the marker is open at the source
    SOURCE_READ = "source-read"  # half of the batch was read
    COPY_BEFORE_COMMIT = "copy-before-commit"  # the copy was compared, not committed
    COPIED = "copied"  # the copy is durable at the destination
    WAITED = "waited"
    DELETE_BEFORE_COMMIT = "delete-before-commit"  # rows are deleted, the marker is moved, nothing committed
    DELETED = "deleted"  # the source's commit has returned
    DONE = "done"  # the ledger says done
    FORGOTTEN = "forgotten"
    MARKER_DROPPED = "marker-dropped"
    UNDO_ABORTED = "undo-aborted"  # recovery won the marker
    REFOUND = "refound"  # a piece of the source's rows was looked for beside a copy that is known by its content alone
    UNDO_BEFORE_COMMIT = "undo-before-commit"
    UNDONE = "undone"
    COMPACT_BEFORE_COMMIT = "compact-before-commit"  # rows of the tail were written anew in front, not committed
    COMPACTED = "compacted"
    REINDEXED = "reindexed"
    DROP_RECORDED = "drop-recorded"  # the intent to drop a partition is recorded, nothing is locked
    DROP_BEFORE_COMMIT = "drop-before-commit"  # an empty partition is dropped, not committed
    DROPPED = "dropped"
    AUTHORITY_PINNED = "authority-pinned"  # an authority is confirmed and written, and nothing went over its link yet
    TABLE_ALTERED = "table-altered"  # Main follows a table of Core's, not committed
    TABLE_SET_UP = "table-set-up"  # a table's steps are durable
    MIRRORED = "mirrored"  # a block of a mirror table was upserted, not committed
    SEGMENT_WRITTEN = "segment-written"  # the encrypted file is complete on local disk
    SEGMENT_PUT = "segment-put"  # the store has acknowledged the segment
    MANIFEST_PUT = "manifest-put"
    COMMIT_PUT = "commit-put"  # the signed commit object is in the store
    OBJECT_BEFORE_RENAME = "object-before-rename"  # an object is written and synced under a temporary name
    SEGMENT_REMOVED = "segment-removed"  # the catalog counts it no more, and the store does not know
    REMOVAL_PUT = "removal-put"  # the signed removal of a segment is in the store, and its objects are there
    OUTLIVED_DELETED = "outlived-deleted"  # an object that nothing points to is gone, and the catalog does not know
    THAW_SAID = "thaw-said"  # the store has a word of where a segment's rows went, and the catalog does not know
    REPLACE_BEFORE_COMMIT = "replace-before-commit"  # a segment stands in another's place, not committed
    REPLACED = "replaced"  # it counts instead of the other, and the store does not know
    REPLACEMENT_SAID = "replacement-said"  # the store knows, and the catalog does not know that it does
    KEY_DESTROYED = "key-destroyed"  # the key of an erased segment is gone, and the catalog does not know
    KEY_REPLACING = "key-replacing"  # the key file may be replaced by another one, and is as it was
    KEY_WRITTEN = "key-written"  # the new one lies beside it
    KEY_ROTATED = "key-rotated"  # the key file is another one, no data key is wrapped to it
    KEY_REWRAPPED = "key-rewrapped"  # a data key is wrapped anew in the store, and the catalog does not say so
    KEY_REPLACED = "key-replaced"  # the catalog points to the new wrapping
    UPLOAD_RESERVED = "upload-reserved"  # the home server has room for an object, and nothing of it
    UPLOAD_WRITTEN = "upload-written"  # it has the next bytes of an object, and has not said so
    UPLOAD_PUBLISHED = "upload-published"  # the object is in its store, and its memory does not know
    OBJECT_DELETING = "object-deleting"  # it means to delete an object
    OBJECT_DELETED = "object-deleted"  # the object is gone, and its memory does not know
    RESTORE_STAGED = "restore-staged"  # restored rows lie beside their table, compared; nothing in it is touched
    RESTORE_BEFORE_COMMIT = "restore-before-commit"
    REBUILD_SETTLED = "rebuild-settled"  # markers have said what counts, nothing is entered
    SPOOL_SENT = "spool-sent"  # Main has committed samples that waited on this machine, where they still lie
    REBUILD_BEFORE_COMMIT = "rebuild-before-commit"  # the catalog is made again, not committed
    ALERT_CLAIMED = "alert-claimed"  # who sends is written down, and nothing is sent
    ALERT_SENT = "alert-sent"  # messages are delivered, and nothing remembers that


def _nothing(point: Point) -> None:
    del point


_hook: Callable[[Point], None] = _nothing


def reach(point: Point) -> None:
    """Marks that the program is at `point`."""
    _hook(point)


def arm(hook: Callable[[Point], None]) -> None:
    """Calls `hook` at every point from now on; for `tierkeeper.testing` alone."""
    global _hook  # noqa: PLW0603 - one process, one hook: threads that the test did not start must reach it too
    _hook = hook


def disarm() -> None:
    """Back to doing nothing."""
    arm(_nothing)
