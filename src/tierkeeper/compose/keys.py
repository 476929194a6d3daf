"""The archive's keys and the drill that tries them, as a part of a keeper."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from tierkeeper.archive.wrapped import NEWER
from tierkeeper.compose.archive import ArchiveKeeper
from tierkeeper.crypto import kit, passphrase
from tierkeeper.crypto.keys import KEY_FILE, RECOVERY_FILE, VARIABLE, Form, KeyRing
from tierkeeper.kernel.errors import NotNow, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.results import DrillResult, KeysResult, KitResult, RotateResult
from tierkeeper.postgres.link import Link
from tierkeeper.postgres.scratch import scratch_database
from tierkeeper.security.audit import LoggedAudit, NoTrailYet


class VaultKeeper(ArchiveKeeper):
    """Proves that the archive can be opened, and gives what it takes."""

    def archive_drill(self, *, recovery: Path | None = None, sample: str | None = None, on: str | None = None) -> DrillResult:
        """Restores the archive, or a share `n/t` of it, into a scratch database with its recovery key and its store alone.

        `recovery`: a kit or recovery key, else the one in the configuration folder. `on`: a server's URL, else the catalog's.
        """
        ring = kit.recovery(kit.read(recovery, self._config_dir), str(recovery or self._config_dir / RECOVERY_FILE))
        server = Link("archive", on) if on is not None else self.links["archive"]
        with scratch_database(server) as scratch:
            return self.archive.drill(ring, scratch, self._stop, sample)

    def keys_init(self) -> KeysResult:
        """Makes the archive's key and its recovery key. Raises UsageError where there is one, or an archive that has its own."""
        if self._environment.get(VARIABLE):
            raise UsageError(VARIABLE, "it gives the archive's key already", "Unset it to make another archive's key")
        if not self.archive.is_new():
            cause = "its archive has a key, which no new one can replace"
            raise UsageError(self._store.name, cause, "Put archive.key back, or the recovery key's text into TIERKEEPER_KEY")
        with self._noted("make key", {}) as note:
            ring, told = KeyRing.create(self._config_dir, self._environment)
            note(key_id=ring.key_id, recipient=ring.recipient_id)
        made = self.keys_status()
        return made.model_copy(update={"notes": [line for line in told.splitlines() if line]})

    def keys_kit(self, *, recovery: Path | None = None, to: Path | None = None) -> KitResult:
        """The recovery kit, as a text or into a new file (600)."""
        newest = None
        with suppress(NotNow, UsageError):  # a kit is wanted most where the catalog is gone
            newest = self.archive.newest()
        shown = f"manifest number {newest[0]}, {newest[1]}" if newest else "unknown, or none yet"
        place = kit.Place(str(self._settings.tiers.archive.store), shown, self._clock.now())
        text = kit.render(kit.read(recovery, self._config_dir), place)
        if to is not None:
            _write_new(to, text)
        key_id = kit.recovery(text, "kit").key_id
        return KitResult(key_id=key_id, file=None if to is None else str(to), kit=text if to is None else None)

    def keys_rotate(self, *, reencrypt: bool = False) -> RotateResult:
        """Replaces the operational key and wraps every segment's data key to it; an earlier rotation is gone on with first.

        `reencrypt`, where the old key has leaked, writes every segment anew under a data key of its own instead.
        Raises UsageError where the key does not come from `archive.key`.
        """
        ring = KeyRing.open(self._config_dir, self._environment)
        self.archive.rotation(ring).require_newest()
        with self._audit.action("rotate keys", "tiers.archive", {"recipient": ring.recipient_id, "reencrypt": reencrypt}) as note:
            goes_on = not self.archive.rotation(ring).is_complete()
            if not goes_on:
                ring = ring.rotated(self._config_dir, self._environment)
                reach(Point.KEY_ROTATED)
            found = self.archive.rotation(ring).run(self._stop, self._bounds.longest_reader_seconds, reencrypt=reencrypt)
            note(
                recipient=ring.recipient_id,
                segments=found.segments,
                rewritten=found.rewritten,
                waiting=found.waiting,
                left=found.left,
            )
        form = KeyRing.form(self._config_dir, self._environment)
        notes = ["an earlier rotation was gone on with; there is no other new key"] if goes_on else [_EVERYWHERE[form]]
        if found.refused is not None:
            notes.append(f"old keys or files stay in the store, and open with the old key: {found.refused}")
        elif found.left:
            notes.append("old keys or files are still in the store, for readers that are under way: run it again")
        return RotateResult(
            key_id=ring.key_id,
            recipient=ring.recipient_id,
            new_key=not goes_on,
            segments=found.segments,
            rewritten=found.rewritten,
            waiting=found.waiting,
            left=found.left,
            notes=notes,
            ok=not found.waiting and not found.left,
        )

    def keys_protect(self, form: Form = "passphrase") -> KeysResult:
        """Puts `archive.key` under a passphrase or into this user's keyring, or back as it was. Raises UsageError."""
        if self._environment.get(VARIABLE):
            raise UsageError(VARIABLE, "it gives the archive's key, and not the file", f"Unset it where {KEY_FILE} lies")
        now, path = KeyRing.form(self._config_dir, self._environment), self._config_dir / KEY_FILE
        if "plain" not in (now, form) or now == form:
            cause = f"the archive's key is {_FORMS[now]} already" if now != "plain" else "the archive's key lies there as it is"
            raise UsageError(str(path), cause, "For another form: `tierkeeper keys protect --off` first")
        secret = passphrase.new(self._environment) if form == "passphrase" else ""
        with self._noted("protect key", {"was": _FORMS[now], "is": _FORMS[form]}):
            KeyRing.protect(self._config_dir, self._environment, form, secret)
        return self.keys_status()

    @contextmanager
    def _noted(self, verb: str, detail: Mapping[str, str]) -> Iterator[Callable[..., None]]:
        """I7: in the audit, unless no setup has made one yet; then in the log."""
        with ExitStack() as stack:
            try:
                note = stack.enter_context(self._audit.action(verb, KEY_FILE, detail))
            except NoTrailYet:
                note = stack.enter_context(LoggedAudit("Main is not set up yet").action(verb, KEY_FILE, detail))
            yield note

    def keys_status(self) -> KeysResult:
        """Which key is in use, where from, and what was written with which. Raises UsageError where there is none."""
        ring = KeyRing.open(self._config_dir, self._environment)
        here = self._config_dir / RECOVERY_FILE
        segments: dict[str, int] | None = None
        notes = []
        try:
            segments = self.archive.keys_used()
        except (NotNow, UsageError) as error:
            notes.append(f"the catalog does not say what was written with it: {error.cause}")
        others = {key: n for key, n in (segments or {}).items() if key != ring.key_id}
        notes += [f"{n} segments were written with key {key}, which this one does not open" for key, n in others.items()]
        elsewhere = 0 if segments is None or others else len(self.archive.rotation(ring).waiting())
        unopened = self.archive.rotation(ring).unopened() if elsewhere else 0
        if unopened:
            notes.append(f"{unopened} segments are wrapped to a newer operational key, which this one does not open. {NEWER}")
        elif elsewhere:
            notes.append(f"{elsewhere} segments are wrapped to another operational key: run `tierkeeper keys rotate` to go on")
        if here.exists():
            notes.append(
                f"the recovery key still lies beside the other: run `tierkeeper keys kit`, put it away, then remove {here}"
            )
        form = KeyRing.form(self._config_dir, self._environment)
        source = VARIABLE if self._environment.get(VARIABLE) else str(self._config_dir / KEY_FILE)
        return KeysResult(
            source=source if form == "plain" else f"{source}, {_FORMS[form]}",
            key_id=ring.key_id,
            can_write=ring.signing_key is not None,
            recovery_file=str(here) if here.exists() else None,
            segments=segments,
            notes=notes,
            ok=not others and not unopened,
        )


_FORMS: Final[Mapping[Form, str]] = {"plain": "as it is", "passphrase": "under a passphrase", "keyring": "in the keyring"}
_COPY: Final = "archive.key is another file now: copy it to every machine that archives or reads"
_EVERYWHERE: Final[Mapping[Form, str]] = {
    "plain": f"{_COPY}; the recovery kit stays as it is",
    "passphrase": f"{_COPY}, which needs its passphrase, too; the recovery kit stays as it is",
    "keyring": "the archive's key is another one now, and no copy of archive.key has it: for other machines that archive or read "
    "run `tierkeeper keys protect --off` here, copy archive.key there, then `keys protect --keyring` on each; "
    "the recovery kit stays as it is",
}


def _write_new(path: Path, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(str(path), "it exists already", "Name a file that does not exist") from None
    except OSError as error:
        raise UsageError(str(path), f"it cannot be written ({error.strerror})", "Name a file in a folder of yours") from error
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
