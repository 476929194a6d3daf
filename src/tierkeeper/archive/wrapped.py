"""Whether the key at hand opens what the segments are wrapped to: one of before a rotation elsewhere is no damage of theirs."""

from collections.abc import Callable
from typing import Final
from uuid import UUID

from tierkeeper.archive.catalog import Catalog
from tierkeeper.crypto.keys import KEY_FILE, VARIABLE, KeyRing
from tierkeeper.kernel.errors import UsageError
from tierkeeper.postgres.statements import load

_SQL: Final = load("tierkeeper.archive", "catalog.sql")
NEWER: Final = (
    f"Copy {KEY_FILE} from the machine where `tierkeeper keys rotate` ran, or put its text into {VARIABLE}; if it is lost with "
    f"all copies, the text of the recovery kit in {VARIABLE} reads, verifies and restores everything, but archives nothing more"
)


def unopened(catalog: Catalog, keys: Callable[[], KeyRing], segment: UUID | None = None) -> int:
    """How many of the archive's segments, all or one, are wrapped to an operational key that `keys` lacks.

    The key is read after the catalog: a rotation replaces it before it wraps anything to it.
    """
    with catalog.transaction(read_only=True) as cur:
        found = cur.execute(_SQL["wrapped_to"], {"segment": segment}).fetchall()
    ring = keys()
    return sum(segments for key, recipient, segments in found if key == ring.key_id and not ring.opens(recipient))


def refuse_unopened(catalog: Catalog, keys: Callable[[], KeyRing], segment: UUID | None = None) -> None:
    """Raises UsageError where there is such a segment."""
    if number := unopened(catalog, keys, segment):
        cause = f"{number} segments were wrapped to a newer operational key than this one, which does not open them"
        raise UsageError("archive key", cause, NEWER)
