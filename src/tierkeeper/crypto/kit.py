"""The recovery kit: what to keep offline, as a text that a person can follow and a program can read.

It is a recovery key's file with everything else in comments, so that whoever has it has the key as well.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from tierkeeper.crypto.keys import RECOVERY_FILE, VARIABLE, KeyRing
from tierkeeper.kernel.errors import UsageError

_TEXT: Final = """\
# Recovery kit of a tierkeeper archive, made on {made_at:%Y-%m-%d %H:%M} UTC
#
# Keep it where neither the archive nor archive.key lies: on paper, or on a disk in a drawer. Whoever has it and the archive's
# files can read them; nobody can write or change an archive with it. Without it and archive.key the archive is lost.
#
# The archive:  {store}
# Its key:      {key_id}
# Its newest:   {newest}
#
# On a new machine, with the archive's files at hand and an empty Postgres database for the catalog:
#
#   pip install tierkeeper
#   export TIERKEEPER_KEY="$(cat THIS_FILE)"
#   export ARCHIVE_SUPABASE_URL=postgresql://...   # the empty database
#   export ARCHIVE_PATH=/...                       # the archive's files
#   export CORE_SUPABASE_URL=postgresql://gone@127.0.0.1:1/gone MAIN_SUPABASE_URL=postgresql://gone@127.0.0.1:1/gone   # or yours
#   tierkeeper archive rebuild --without-main      # leave the option out if Main is still there
#   tierkeeper archive verify
#   tierkeeper archive list
#   tierkeeper archive restore TABLE --to ./TABLE.parquet
#
"""


@dataclass(frozen=True)
class Place:
    """What a kit says of its archive. `newest`: number and hash of the last manifest, or that there is none."""

    store: str
    newest: str
    made_at: datetime


def render(recovery_text: str, place: Place) -> str:
    """The kit with the recovery key of `recovery_text`, a key file or an older kit. Raises UsageError where that is none."""
    ring = recovery(recovery_text, RECOVERY_FILE)
    lines = [line for line in recovery_text.splitlines() if line.strip() and not line.startswith("#")]
    return _TEXT.format(made_at=place.made_at, store=place.store, newest=place.newest, key_id=ring.key_id) + "\n".join(
        [*lines, ""]
    )


def recovery(text: str, place: str) -> KeyRing:
    """The ring of a recovery key or kit. Raises UsageError for anything else."""
    ring = KeyRing.parse(text, place)
    if ring.signing_key is not None:
        raise UsageError(
            place, "this is the operational key, which belongs on the machine that archives", f"Give {RECOVERY_FILE}"
        )
    return ring


def read(path: Path | None, config_dir: Path) -> str:
    """The text of `path`, else of the recovery key in `config_dir`. Raises UsageError where it is not there."""
    found = path or config_dir / RECOVERY_FILE
    try:
        return found.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        remedy = f"Name the recovery key or a kit with --kit FILE ({VARIABLE} has the operational one)"
        raise UsageError(str(found), "the recovery key cannot be read here", remedy) from error
