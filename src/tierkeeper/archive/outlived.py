"""Objects that nothing points to any more: they stay for the readers that may have seen them, and then go."""

from tierkeeper.archive.catalog import Catalog
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.objectstore.port import ObjectLocked, Store


def sweep(store: Store, catalog: Catalog, longest_reader_seconds: float) -> str | None:
    """Deletes those that outlived the longest reader, keys before what they open; why some had to stay, if they had to.

    A writer's token at a home server deletes nothing, and a lock holds what it holds.
    """
    refused = None
    for key, is_free in catalog.outlived(longest_reader_seconds):
        if is_free:
            try:
                store.delete(key)
            except (UsageError, ObjectLocked) as error:
                refused = error.cause
                continue
            reach(Point.OUTLIVED_DELETED)
            catalog.gone(key)
    return refused
